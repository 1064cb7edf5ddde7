// Guards the TCP sockets that UCX opens for itself, from outside: UCX 1.13 believes every byte that
// arrives there, and a reset at the wrong moment aborts it (docs/transport.md). The kernel's socket
// filters keep both away.
//
// Shape:   UCX's listening sockets take packets from nobody, except from the hosts of the peers
// that
//          are being connected just now (a Pass each, at most 64 hosts). A data socket, once its
//          link is open, never hears of a reset: the link's lifeline tells that the peer is gone.
// Finds:   listening sockets among the descriptors that are new since the constructor, by a port
//          that UCX named; data sockets in UCX's own epoll set, as /proc/self/fdinfo lists it.
// Errors:  io if a socket cannot be guarded; see let_in().
// Cost:    a few instructions of the kernel per packet; per link one look into /proc.
// Threads: the worker's.
#pragma once

#include <memory>
#include <set>
#include <span>
#include <unordered_set>
#include <vector>

#include "transport/ucx/net.h"

namespace causeway::ucx {

class SocketGuard {
 public:
  using Pass = std::shared_ptr<const void>;  // Lets its hosts in while it lives.

  SocketGuard();  // Before UCX opens anything.
  ~SocketGuard();
  SocketGuard(const SocketGuard&) = delete;
  SocketGuard& operator=(const SocketGuard&) = delete;

  // Closes the sockets of this process that have begun to listen and whose port `names` holds.
  void close_ports(std::span<const std::byte> names);
  void close_port(std::uint16_t port);

  // The addresses that the closed ports are bound to: where connections of UCX come from.
  [[nodiscard]] std::vector<HostBytes> hosts() const;

  // Errors: exhausted when no more hosts fit; nobody who is in gives way. io if UCX has lost a
  // port.
  [[nodiscard]] Pass let_in(std::span<const HostBytes> hosts);

  // Before UCX closes them: from here on a Pass changes nothing.
  void forget_ports() noexcept;

  // Shields the data sockets behind UCX's event descriptor.
  void shield_data(int event_fd);

 private:
  struct Doors;
  struct Party;
  std::set<std::uint64_t> before_;              // Inodes of the sockets that listened already.
  std::unordered_set<std::uint64_t> shielded_;  // Cookies of data sockets.
  std::shared_ptr<Doors> doors_;
};

}  // namespace causeway::ucx
