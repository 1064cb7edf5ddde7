// The calling side of the control plane, for callers that may wait: tools and the pool client.
//
// Shape:   one connection to one daemon, one request at a time; reconnects by itself between
//          requests. File descriptors that came with an answer (unix socket only) are in `fds`.
// Errors:  the error document of the peer as its Error; peer_lost if the connection cannot be made
// or
//          breaks; timed_out at the deadline; protocol for an answer that is not HTTP or JSON.
//          Every error text names the peer.
// Cost:    one round trip; 50 to 200 us on one machine.
// Threads: one thread at a time.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "allocator/unique_fd.h"

struct sockaddr;

namespace causeway {

struct ControlReply {
  std::string body;
  std::vector<UniqueFd> fds;
};

class ControlClient {
 public:
  // `target` is "unix:/run/x.sock" or "HOST:PORT"; `token` goes with TCP requests only.
  ControlClient(std::string target, std::string token, std::string peer_name);
  ControlClient(ControlClient&&) noexcept;
  ControlClient& operator=(ControlClient&&) noexcept;
  ~ControlClient();

  ControlReply call(const std::string& method, const std::string& path, const std::string& body,
                    std::chrono::milliseconds timeout);

  // Gives the connection away, for one whose end is to be watched. Empty if there is none.
  [[nodiscard]] UniqueFd release_connection() noexcept;
  [[nodiscard]] const std::string& peer_name() const noexcept { return peer_name_; }
  [[nodiscard]] const std::string& target() const noexcept { return target_; }
  void set_peer_name(std::string name) { peer_name_ = std::move(name); }

 private:
  using Deadline = std::chrono::steady_clock::time_point;
  void connect(Deadline deadline);
  // Errors: the system's number; timed_out.
  [[nodiscard]] int connect_to(const sockaddr* address, unsigned size, Deadline deadline);
  void send_all(const std::string& text, Deadline deadline);
  [[nodiscard]] unsigned receive(ControlReply& reply, Deadline deadline);  // HTTP's status.
  void wait(int fd, short events, Deadline deadline) const;
  [[nodiscard]] std::size_t receive_some(char* into, std::size_t size, std::vector<UniqueFd>& fds,
                                         Deadline deadline);

  std::string target_;
  std::string token_;
  std::string peer_name_;
  UniqueFd socket_;
};

}  // namespace causeway
