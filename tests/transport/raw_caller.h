// A TCP client without manners: sends any bytes to an address and reads what comes back.
//
// Errors:  throws causeway::Error where the system refuses. Reads end after 10 s.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "transport/ucx/protocol.h"

namespace causeway::test {

class RawCaller {
 public:
  RawCaller() : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    if (fd_ < 0) throw system_error("cannot open a socket", errno);
  }
  // "127.0.0.1:7000", from another loopback address if `from` is given. is_connected() tells.
  explicit RawCaller(const std::string& address, const char* from = nullptr)
      : fd_(::socket(address.front() == '[' ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    if (fd_ < 0) throw system_error("cannot open a socket", errno);
    if (from != nullptr) {
      const auto own = ucx::parse_address(std::string(from) + ":0");
      if (::bind(fd_, own.get(), own.size_bytes) != 0) throw system_error("cannot bind", errno);
    }
    connect(address);
  }
  RawCaller(RawCaller&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)), is_connected_(other.is_connected_) {}
  RawCaller& operator=(RawCaller&&) = delete;
  ~RawCaller() {
    if (fd_ >= 0) ::close(fd_);
  }

  void connect(const std::string& address) {
    const auto to = ucx::parse_address(address);
    // A filtered port never answers: half a second is enough to know.
    const timeval short_patience{.tv_sec = 0, .tv_usec = 500'000};
    ::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &short_patience, sizeof(short_patience));
    be_patient(std::chrono::seconds(10));
    is_connected_ = ::connect(fd_, to.get(), to.size_bytes) == 0;
  }
  void be_patient(std::chrono::milliseconds time) const {
    const timeval patience{.tv_sec = time.count() / 1000, .tv_usec = time.count() % 1000 * 1000};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  }

  [[nodiscard]] bool is_connected() const { return is_connected_; }
  bool send(std::span<const std::byte> bytes) const {
    return ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(bytes.size());
  }
  void reset() {  // Instead of a farewell.
    const linger at_once{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    ::close(std::exchange(fd_, -1));
  }

  void say_no_more() const { ::shutdown(fd_, SHUT_WR); }

  // Its own address, as /proc/net/tcp writes it: "0100007F:1F90".
  [[nodiscard]] std::string kernel_name() const {
    sockaddr_in own{};
    socklen_t size = sizeof(own);
    ::getsockname(fd_, reinterpret_cast<sockaddr*>(&own), &size);
    char text[32];
    std::snprintf(text, sizeof(text), "%08X:%04X", own.sin_addr.s_addr, ntohs(own.sin_port));
    return text;
  }
  // True if something came that read() would not wait for: bytes, or the end.
  [[nodiscard]] bool is_answered() const {
    std::byte byte{};
    return ::recv(fd_, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || errno != EAGAIN;
  }

  // Up to `most` bytes; fewer if the other end hangs up first.
  [[nodiscard]] std::vector<std::byte> read(std::size_t most) const {
    std::vector<std::byte> bytes(most);
    std::size_t got = 0;
    for (ssize_t n = 0; got < most && (n = ::recv(fd_, &bytes[got], most - got, 0)) > 0;)
      got += static_cast<std::size_t>(n);
    bytes.resize(got);
    return bytes;
  }
  // One frame's body, of whatever kind.
  [[nodiscard]] std::optional<std::pair<ucx::FrameKind, std::vector<std::byte>>> read_frame()
      const {
    const auto head = ucx::decode_frame_head(read(ucx::kFrameHeadBytes));
    if (!head) return std::nullopt;
    auto body = read(head->body_bytes);
    if (body.size() != head->body_bytes) return std::nullopt;
    return std::pair{head->kind, std::move(body)};
  }
  // True if the other end hung up, however.
  [[nodiscard]] bool is_hung_up() const {
    std::byte byte{};
    const auto got = ::recv(fd_, &byte, 1, 0);
    return got == 0 || (got < 0 && errno != EAGAIN);
  }

 private:
  int fd_ = -1;
  bool is_connected_ = false;
};

}  // namespace causeway::test
