// The TCP connection that a link begins with, and whose end is the end of the peer's process.
//
// Shape:   connect() or adopt(), then frames in turn (protocol.h), then watch(): both sides send a
//          byte from time to time, and only the end is awaited. A machine that vanished ends it
//          too: within two seconds, whatever the data connection does, when its kernel answers
//          nothing, although the byte was sent again and again. For a process that is stopped the
//          kernel answers. Programs that this process starts do not inherit the connection.
// Cost:    five packets a second each way, or one in half a minute while the peer says nothing.
// Errors:  peer_lost; unsupported from receive() for another version, protocol for what is no
//          frame; exhausted from adopt(), which owns the descriptor in any case.
//          After close() no callback comes.
// Threads: the io_context's.
#pragma once

#include <boost/system/error_code.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "transport/ucx/protocol.h"

namespace causeway::ucx {

class Lifeline : public std::enable_shared_from_this<Lifeline> {
 public:
  struct Frame {
    FrameKind kind{};
    std::vector<std::byte> body;
  };
  using Done = std::function<void(const std::optional<Error>&)>;
  using Received = std::function<void(const std::optional<Error>&, const Frame&)>;

  // `done` comes later, from the io_context.
  static std::shared_ptr<Lifeline> connect(boost::asio::io_context& context,
                                           const SocketAddress& to, Done done);
  static std::shared_ptr<Lifeline> adopt(boost::asio::io_context& context, int socket_fd,
                                         SocketAddress peer);
  ~Lifeline();

  [[nodiscard]] const SocketAddress& peer() const noexcept { return peer_; }
  [[nodiscard]] bool is_within_one_host() const noexcept;  // Both ends have the same address.
  void send(std::vector<std::byte> frame, Done done);
  void receive(Received received);
  // `ended` if the peer hangs up instead of saying a word; what it says stays to be read.
  void await_word(std::function<void()> ended);
  enum class End : std::uint8_t { hung_up, silence };
  void watch(std::function<void(End)> ended);
  void close() noexcept;
  [[nodiscard]] bool is_closed() const noexcept { return is_closed_; }
  // Gives the connection away; nothing but the destructor may follow. Errors: io.
  [[nodiscard]] int release();
  [[nodiscard]] std::optional<double> round_trip() const noexcept;  // net.h

 private:
  struct Socket;
  Lifeline(boost::asio::io_context& context, SocketAddress peer);
  void take(int socket_fd);
  void receive_body(const FrameHead& head, Received received);
  void hear();
  void beat();
  bool is_silent() const noexcept;
  void end(const boost::system::error_code& error);

  std::unique_ptr<Socket> socket_;
  SocketAddress peer_;
  std::function<void(End)> ended_;
  std::vector<std::byte> out_;
  std::vector<std::byte> in_;
  std::size_t unanswered_ = 0;  // Beats since the peer's last one.
  int silent_ = 0;              // Beats in a row since it or its kernel said something.
  bool is_sending_ = false;
  bool is_closed_ = false;
};

}  // namespace causeway::ucx
