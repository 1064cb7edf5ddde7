#include "runtime/control/client.h"

#include <fmt/format.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cstring>
#include <utility>  // Boost 1.81 with g++ 12 and C++20 wants std::exchange before Asio.

#include "runtime/control/lookup.h"
#include "runtime/control/message.h"
#include "runtime/control/server.h"

namespace causeway {

namespace {
namespace beast = boost::beast;
namespace http = beast::http;

constexpr std::uint64_t kMaxAnswerBytes = 64 * 1024 * 1024;
}  // namespace

ControlClient::ControlClient(std::string target, std::string token, std::string peer_name)
    : target_(std::move(target)), token_(std::move(token)), peer_name_(std::move(peer_name)) {}
ControlClient::ControlClient(ControlClient&&) noexcept = default;
ControlClient& ControlClient::operator=(ControlClient&&) noexcept = default;
ControlClient::~ControlClient() = default;

UniqueFd ControlClient::release_connection() noexcept { return std::move(socket_); }

void ControlClient::wait(int fd, short events, Deadline deadline) const {
  for (;;) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0)
      throw Error(Errc::timed_out, fmt::format("{} did not answer in time", peer_name_));
    pollfd entry{fd, events, 0};
    const auto bounded = std::min<std::int64_t>(left.count(), 60'000);
    const int ready = ::poll(&entry, 1, static_cast<int>(bounded));
    if (ready > 0) return;
    if (ready < 0 && errno != EINTR) throw system_error("poll", errno);
  }
}

int ControlClient::connect_to(const sockaddr* address, unsigned size, Deadline deadline) {
  socket_ = UniqueFd(::socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket_) throw system_error("socket", errno);
  int failed = ::connect(socket_.get(), address, size) == 0 ? 0 : errno;
  if (failed == EINPROGRESS) {
    wait(socket_.get(), POLLOUT, deadline);
    socklen_t length = sizeof failed;
    ::getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &failed, &length);
  }
  return failed;
}

void ControlClient::connect(Deadline deadline) {
  int failed = 0;
  if (target_.starts_with("unix:")) {
    const auto path = target_.substr(5);
    sockaddr_un local{};
    if (path.size() >= sizeof local.sun_path)
      throw Error(Errc::invalid_argument, fmt::format("socket path '{}' is too long", path));
    local.sun_family = AF_UNIX;
    std::memcpy(local.sun_path, path.c_str(), path.size() + 1);
    failed = connect_to(reinterpret_cast<const sockaddr*>(&local), sizeof local, deadline);
  } else {
    const Lookup lookup(target_, peer_name_);
    auto endpoints = lookup.get();
    if (endpoints.empty()) {
      wait(lookup.fd(), POLLIN, deadline);
      endpoints = lookup.get();
    }
    for (const auto& endpoint : endpoints) {
      failed = connect_to(endpoint.data(), static_cast<unsigned>(endpoint.size()), deadline);
      if (failed == 0) break;
    }
  }
  if (failed != 0) {
    socket_ = UniqueFd();
    throw Error(Errc::peer_lost,
                fmt::format("cannot reach {} at {}: {}; is its daemon running?", peer_name_,
                            target_, std::generic_category().message(failed)));
  }
  watch_for_dead_host(socket_.get());
}

void ControlClient::send_all(const std::string& text, Deadline deadline) {
  std::string_view rest = text;
  while (!rest.empty()) {
    const auto sent = ::send(socket_.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
    if (sent > 0) {
      rest.remove_prefix(static_cast<std::size_t>(sent));
    } else if (errno == EAGAIN) {
      wait(socket_.get(), POLLOUT, deadline);
    } else if (errno != EINTR) {
      throw Error(Errc::peer_lost, fmt::format("lost {} at {}: {}", peer_name_, target_,
                                               std::generic_category().message(errno)));
    }
  }
}

std::size_t ControlClient::receive_some(char* into, std::size_t size, std::vector<UniqueFd>& fds,
                                        Deadline deadline) {
  for (;;) {
    alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxFdsPerResponse * sizeof(int))> control;
    iovec bytes{into, size};
    msghdr message{};
    message.msg_iov = &bytes;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const auto got = ::recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC);
    if (got < 0 && errno == EAGAIN) {
      wait(socket_.get(), POLLIN, deadline);
      continue;
    }
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0)
      throw Error(Errc::peer_lost, fmt::format("lost {} at {}: {}", peer_name_, target_,
                                               got == 0 ? "it closed the connection"
                                                        : std::generic_category().message(errno)));
    for (auto* header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
      if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
      const auto count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (std::size_t i = 0; i < count; ++i) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
        fds.emplace_back(fd);
      }
    }
    if (message.msg_flags & MSG_CTRUNC)
      throw Error(Errc::exhausted, fmt::format("file descriptors from {} were dropped; raise this "
                                               "process's limit (ulimit -n)",
                                               peer_name_));
    return static_cast<std::size_t>(got);
  }
}

unsigned ControlClient::receive(ControlReply& reply, Deadline deadline) {
  http::response_parser<http::string_body> parser;
  parser.body_limit(kMaxAnswerBytes);
  beast::flat_buffer buffer;
  while (!parser.is_done()) {
    const auto space = buffer.prepare(64 * 1024);
    buffer.commit(
        receive_some(static_cast<char*>(space.data()), space.size(), reply.fds, deadline));
    beast::error_code failed;
    while (buffer.size() > 0 && !parser.is_done()) {
      const auto used = parser.put(buffer.data(), failed);
      buffer.consume(used);
      if (failed == http::error::need_more || (!failed && used == 0)) break;
      if (failed)
        throw Error(Errc::protocol,
                    fmt::format("{} at {} answered with something that is not HTTP: {}", peer_name_,
                                target_, failed.message()));
    }
  }
  const bool keep_alive = parser.keep_alive();
  auto message = parser.release();
  reply.body = std::move(message.body());
  if (!keep_alive) socket_ = UniqueFd();
  return message.result_int();
}

ControlReply ControlClient::call(const std::string& method, const std::string& path,
                                 const std::string& body, std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  auto text = fmt::format("{} {} HTTP/1.1\r\nHost: causeway\r\nContent-Length: {}\r\n", method,
                          path, body.size());
  if (!token_.empty()) text += "Authorization: Bearer " + token_ + "\r\n";
  text += "Content-Type: application/json\r\n\r\n" + body;
  if (socket_) {  // A peer that restarted has closed the old connection: notice before sending.
    char byte = 0;
    if (::recv(socket_.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || errno != EAGAIN)
      socket_ = UniqueFd();
  }
  ControlReply reply;
  unsigned status = 0;
  try {
    if (!socket_) connect(deadline);
    send_all(text, deadline);
    status = receive(reply, deadline);
  } catch (...) {
    socket_ = UniqueFd();  // It is half-way through something.
    throw;
  }
  throw_if_error(status, reply.body, peer_name_);
  return reply;
}

}  // namespace causeway
