// The serving side of the control plane: HTTP/1.1 with JSON bodies on TCP and on a unix socket.
//
// Shape:   one io_context, one coroutine per connection, requests of a connection in order. A
//          handler answers every request and is told when a connection ends, which is how a session
//          that is attached to one dies with its client. A connection is watched while its request
//          is answered: if the client goes, the handler's coroutine is cancelled.
// Units:   header at most 8 KiB, body at most 4 MiB; 1024 connections on TCP, 128 of them without a
//          valid token yet, and 1024 on the unix socket. One more request may come ahead of an
//          answer. Sockets are closed on exec.
// Errors:  listen_* throw Errc::io if the address is taken. A request that is malformed, too large,
//          slow to arrive (10 s) or without the token gets an error document; the first three also
//          lose their connection. Nothing a client sends ends the server.
// Cost:    one allocation per connection and a few per request.
// Threads: the io_context's one thread.
// Source:  RFC 9112; SCM_RIGHTS: unix(7). TCP requests carry "Authorization: Bearer TOKEN"; the
// unix
//          socket checks the peer's user instead.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <memory>
#include <string>

#include "runtime/control/message.h"

namespace causeway {

class ControlHandler {
 public:
  virtual ~ControlHandler() = default;
  // Errors: an Error thrown becomes the error document. If the client goes, what this waits for is
  // cancelled (terminal), and its answer or error is dropped.
  virtual boost::asio::awaitable<ControlResponse> handle(ControlRequest request) = 0;
  // Once per connection, after its last request.
  virtual void connection_closed(ConnectionId connection) noexcept = 0;
};

class ControlServer {
 public:
  // `handler` and `context` outlive the server's last coroutine: stop the context first.
  ControlServer(boost::asio::io_context& context, ControlHandler& handler, std::string token);
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  // Returns the address in use, with the port chosen if `address` says port 0.
  std::string listen_tcp(const std::string& address);
  // Creates the socket with mode 0600. A leftover that nobody serves is replaced.
  void listen_unix(const std::string& path);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

// Lets the kernel end a TCP connection whose other host is gone, after about 5 s. Nothing is asked
// of the peer's process: a client stopped in a debugger keeps its memory. No effect on unix
// sockets.
void watch_for_dead_host(int socket) noexcept;

// Splits "127.0.0.1:7070" or "[::1]:7070"; errors: invalid_argument with the expected form.
struct HostPort {
  std::string host;
  std::uint16_t port;
};
[[nodiscard]] HostPort parse_host_port(const std::string& address);

}  // namespace causeway
