// Looks up the addresses of a host, off the caller's thread, for as long as the caller cares.
//
// Shape:   an address in digits is there at once. A name is looked up by getaddrinfo(), which
//          nothing can interrupt: a thread of its own asks, and a caller that gives up leaves it
//          behind. Who asks for the same name meanwhile shares it, and a process has at most
//          kMaxLookups of them, however slow the name service is.
// Errors:  the constructor: invalid_argument (not HOST:PORT), timed_out if kMaxLookups other names
//          are still waited for; get(): peer_lost if there is no such host. All name the peer.
// Cost:    digits: nothing. A name: one thread and the name service's time.
// Threads: any. A lookup's thread ends by itself and uses nothing that the process takes down.
// Source:  getaddrinfo(3).
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <memory>
#include <string>
#include <vector>

namespace causeway {

inline constexpr std::size_t kMaxLookups = 8;

class Lookup {
 public:
  struct State;

  // `address` is HOST:PORT.
  Lookup(const std::string& address, std::string peer_name);

  // The addresses, at least one; empty while it is not done.
  [[nodiscard]] std::vector<boost::asio::ip::tcp::endpoint> get() const;
  // Readable once it is done: for poll(). -1 if there was nothing to wait for.
  [[nodiscard]] int fd() const noexcept;

 private:
  std::string address_;
  std::string peer_name_;
  std::shared_ptr<State> state_;
};

}  // namespace causeway
