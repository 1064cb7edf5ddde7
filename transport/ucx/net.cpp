#include "transport/ucx/net.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>

#include "allocator/error.h"

namespace causeway::ucx {

namespace {

const sockaddr_in& v4(const sockaddr* address) {
  return *reinterpret_cast<const sockaddr_in*>(address);
}
const sockaddr_in6& v6(const sockaddr* address) {
  return *reinterpret_cast<const sockaddr_in6*>(address);
}

bool same_host(const sockaddr* a, const sockaddr* b) {
  if (a->sa_family != b->sa_family) return false;
  if (a->sa_family == AF_INET) return v4(a).sin_addr.s_addr == v4(b).sin_addr.s_addr;
  return a->sa_family == AF_INET6 &&
         std::memcmp(&v6(a).sin6_addr, &v6(b).sin6_addr, sizeof(in6_addr)) == 0;
}

bool is_ipv4_loopback(const sockaddr* address) {
  return address->sa_family == AF_INET && (ntohl(v4(address).sin_addr.s_addr) >> 24) == 127;
}

}  // namespace

bool SocketAddress::is_any() const noexcept {
  if (!is_ipv6()) return v4(get()).sin_addr.s_addr == INADDR_ANY;
  return IN6_IS_ADDR_UNSPECIFIED(&v6(get()).sin6_addr);
}

std::uint16_t SocketAddress::port() const noexcept {
  return ntohs(is_ipv6() ? v6(get()).sin6_port : v4(get()).sin_port);
}

void SocketAddress::set_port(std::uint16_t port) noexcept {
  if (is_ipv6())
    reinterpret_cast<sockaddr_in6*>(&storage)->sin6_port = htons(port);
  else
    reinterpret_cast<sockaddr_in*>(&storage)->sin_port = htons(port);
}

HostBytes SocketAddress::host() const noexcept {
  HostBytes bytes{};
  if (is_ipv6()) {
    std::memcpy(bytes.data(), &v6(get()).sin6_addr, bytes.size());
  } else {
    bytes[10] = bytes[11] = std::byte{0xff};
    std::memcpy(&bytes[12], &v4(get()).sin_addr, 4);
  }
  return bytes;
}

std::string SocketAddress::to_string() const {
  char host[INET6_ADDRSTRLEN] = "";
  if (is_ipv6()) {
    inet_ntop(AF_INET6, &v6(get()).sin6_addr, host, sizeof(host));
    return "[" + std::string(host) + "]:" + std::to_string(ntohs(v6(get()).sin6_port));
  }
  inet_ntop(AF_INET, &v4(get()).sin_addr, host, sizeof(host));
  return std::string(host) + ":" + std::to_string(ntohs(v4(get()).sin_port));
}

SocketAddress parse_address(const std::string& text) {
  const auto malformed = [&text](const char* why) {
    return Error(Errc::invalid_argument, "address '" + text + "': " + why +
                                             "; expected HOST:PORT or [IPV6]:PORT, such as "
                                             "127.0.0.1:7000");
  };
  const auto colon = text.rfind(':');
  if (colon == std::string::npos) throw malformed("no port");
  auto host = text.substr(0, colon);
  const auto port = text.substr(colon + 1);
  unsigned number = 0;
  const auto [end, status] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (status != std::errc() || end != port.data() + port.size() || number > 65535)
    throw malformed("the port is not a number from 0 to 65535");
  if (host.size() > 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  else if (host.find(':') != std::string::npos)
    throw malformed("an IPv6 host goes in brackets");
  if (host.empty()) throw malformed("no host");

  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;  // The name service would block the loop.
  addrinfo* list = nullptr;
  const int failed = getaddrinfo(host.c_str(), port.c_str(), &hints, &list);
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(failed == 0 ? list : nullptr,
                                                                 freeaddrinfo);
  if (failed == EAI_NONAME)
    throw malformed("the host is not in digits, and names are not looked up here");
  if (failed != 0) throw malformed(gai_strerror(failed));
  SocketAddress result;
  std::memcpy(&result.storage, list->ai_addr, list->ai_addrlen);
  result.size_bytes = list->ai_addrlen;
  return result;
}

std::string interface_of(const SocketAddress& address) {
  if (address.is_any()) return {};
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) throw system_error("cannot list the network interfaces", errno);
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owner(list, freeifaddrs);
  for (const auto* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr != nullptr && same_host(entry->ifa_addr, address.get()))
      return entry->ifa_name;
  }
  // The kernel would listen at all of 127.0.0.0/8, but UCX finds interfaces by their own addresses.
  if (is_ipv4_loopback(address.get()))
    throw Error(Errc::not_found, address.to_string() +
                                     " cannot be listened at: the loopback interface has another "
                                     "address; use 127.0.0.1, or give it this one by `ip address "
                                     "add ADDRESS/8 dev lo`");
  throw Error(Errc::not_found, "no network interface of this machine has the address " +
                                   address.to_string() + "; see `ip address`");
}

std::string interface_towards(const SocketAddress& peer) {
  // Connecting a datagram socket sends nothing; it only makes the kernel choose a source address.
  const int fd = socket(peer.storage.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) throw system_error("cannot open a socket", errno);
  SocketAddress own;
  own.size_bytes = sizeof(own.storage);
  const bool found =
      connect(fd, peer.get(), peer.size_bytes) == 0 &&
      getsockname(fd, reinterpret_cast<sockaddr*>(&own.storage), &own.size_bytes) == 0;
  const int error = errno;
  close(fd);
  if (!found)
    throw Error(Errc::peer_lost, "no route to " + peer.to_string() + ": " + std::strerror(error));
  return interface_of(own);
}

}  // namespace causeway::ucx
