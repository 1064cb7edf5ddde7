// Socket addresses and the network interfaces that own them.
//
// Errors:  each function throws as written beside it.
// Threads: plain functions. None asks the name service.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace causeway::ucx {

using HostBytes = std::array<std::byte, 16>;  // An IPv6 address, or an IPv4 one as ::ffff:a.b.c.d.

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size_bytes = 0;

  [[nodiscard]] const sockaddr* get() const noexcept {
    return reinterpret_cast<const sockaddr*>(&storage);
  }
  [[nodiscard]] bool is_ipv6() const noexcept { return storage.ss_family == AF_INET6; }
  [[nodiscard]] bool is_any() const noexcept;  // 0.0.0.0 or [::]
  [[nodiscard]] std::uint16_t port() const noexcept;
  void set_port(std::uint16_t port) noexcept;
  [[nodiscard]] HostBytes host() const noexcept;
  [[nodiscard]] std::string to_string() const;  // "127.0.0.1:40211", "[::1]:40211"
};

// "127.0.0.1:0", "[::1]:7000": the host in digits.
// Errors: invalid_argument.
[[nodiscard]] SocketAddress parse_address(const std::string& text);

// The interface that owns `address`: "lo", "eth0"; empty for the any-address.
// Errors: not_found if this machine does not have that address.
[[nodiscard]] std::string interface_of(const SocketAddress& address);

// The interface through which the kernel would reach `peer`. Errors: peer_lost if there is no
// route.
[[nodiscard]] std::string interface_towards(const SocketAddress& peer);

// Seconds of the shortest way to the peer of a TCP socket and back, as the kernels measured it: no
// process had to be awake. Nothing if it has not been measured. Source: round_trip.cpp.
[[nodiscard]] std::optional<double> shortest_round_trip(int socket_fd) noexcept;

}  // namespace causeway::ucx
