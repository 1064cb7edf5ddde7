#include "transport/ucx/guard.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

#include "allocator/error.h"

namespace causeway::ucx {

namespace {

constexpr std::size_t kMaxHostsIn = 64;  // At once. The kernel may grant a filter of fewer.
constexpr int kMaxEpollDepth = 4;

constexpr std::uint32_t kDrop = 0;
constexpr std::uint32_t kWhole = 0xffffffff;
constexpr std::uint32_t kNetwork = static_cast<std::uint32_t>(SKF_NET_OFF);

sock_filter load_word(std::uint32_t at) { return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, at); }
sock_filter load_byte(std::uint32_t at) { return BPF_STMT(BPF_LD | BPF_B | BPF_ABS, at); }
sock_filter give(std::uint32_t bytes) { return BPF_STMT(BPF_RET | BPF_K, bytes); }
sock_filter unless_equal(std::uint32_t value, std::uint8_t skip) {
  return BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, skip);
}

std::uint32_t word(const HostBytes& host, std::size_t at) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < 4; ++i)
    value = value << 8 | std::to_integer<std::uint32_t>(host[at + i]);
  return value;
}

bool is_ipv4(const HostBytes& host) {
  return word(host, 0) == 0 && word(host, 4) == 0 && word(host, 8) == 0xffff;
}

// Takes packets from `hosts` and drops all others.
std::vector<sock_filter> from_hosts(const std::vector<HostBytes>& hosts) {
  std::vector<sock_filter> v4{load_word(kNetwork + 12)}, v6;
  for (const auto& host : hosts) {
    if (is_ipv4(host)) {
      v4.insert(v4.end(), {unless_equal(word(host, 12), 1), give(kWhole)});
      continue;
    }
    for (std::uint8_t i = 0; i < 4; ++i)
      v6.insert(v6.end(), {load_word(kNetwork + 8 + 4U * i),
                           unless_equal(word(host, 4U * i), static_cast<std::uint8_t>(7 - 2 * i))});
    v6.push_back(give(kWhole));
  }
  v4.push_back(give(kDrop));
  // The version of the packet, not of the socket: an IPv6 one may take both.
  std::vector<sock_filter> program{
      load_byte(kNetwork), BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xf0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x40, 1, 0),
      BPF_STMT(BPF_JMP | BPF_JA, static_cast<std::uint32_t>(v4.size()))};
  program.insert(program.end(), v4.begin(), v4.end());
  program.insert(program.end(), v6.begin(), v6.end());
  program.push_back(give(kDrop));
  return program;
}

// A filter of a TCP socket sees the packet from its TCP header on; byte 13 holds the flags.
std::vector<sock_filter> without_resets() {
  return {load_byte(13), BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, TH_RST, 0, 1), give(kDrop),
          give(kWhole)};
}

// 0 or the error number.
int try_attach(int fd, std::vector<sock_filter> program) {
  const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)) == 0 ? 0 : errno;
}

void attach(int fd, std::vector<sock_filter> program) {
  if (const int error = try_attach(fd, std::move(program)); error != 0)
    throw system_error("cannot guard a socket of UCX", error);
}

// The kernel charges the old filter and the new one together (net.core.optmem_max). Where the two
// do not fit, the shortest one comes between: for a moment it drops everybody's packets.
void admit(int fd, const std::vector<HostBytes>& hosts) {
  int error = try_attach(fd, from_hosts(hosts));
  if (error == ENOMEM) {
    attach(fd, from_hosts({}));
    error = try_attach(fd, from_hosts(hosts));
  }
  if (error == ENOMEM)
    throw Error(Errc::exhausted, std::to_string(hosts.size()) +
                                     " hosts cannot be let in at once, the kernel's limit for a "
                                     "filter is less (net.core.optmem_max); try again");
  if (error != 0) throw system_error("cannot guard a socket of UCX", error);
}

// By its name in /proc ("socket:[123]"): the descriptor may be another thread's, which closes it
// meanwhile.
std::optional<std::uint64_t> socket_inode(int fd) {
  constexpr std::string_view kStart = "socket:[";
  char name[64];
  const auto path = "/proc/self/fd/" + std::to_string(fd);
  const auto size = readlink(path.c_str(), name, sizeof(name));
  if (size < 0 || !std::string_view(name, static_cast<std::size_t>(size)).starts_with(kStart))
    return std::nullopt;
  std::uint64_t inode = 0;
  const auto [end, error] = std::from_chars(name + kStart.size(), name + size, inode);
  if (error != std::errc() || end == name + size || *end != ']') return std::nullopt;
  return inode;
}

bool is_listening(int fd) {
  int value = 0;
  socklen_t size = sizeof(value);
  return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &size) == 0 && value != 0;
}

struct Closer {
  void operator()(DIR* folder) const noexcept { closedir(folder); }
  void operator()(FILE* file) const noexcept { std::fclose(file); }
};

std::vector<int> listening_sockets() {
  std::vector<int> found;
  const std::unique_ptr<DIR, Closer> folder(opendir("/proc/self/fd"));
  if (!folder) throw system_error("cannot list the descriptors of this process", errno);
  while (const auto* entry = readdir(folder.get())) {
    int fd = -1;
    const char* end = entry->d_name + std::strlen(entry->d_name);
    if (std::from_chars(entry->d_name, end, fd).ec == std::errc() && is_listening(fd))
      found.push_back(fd);
  }
  return found;
}

// What an epoll descriptor watches.
std::vector<int> watched_by(int epoll_fd) {
  std::vector<int> found;
  const auto path = "/proc/self/fdinfo/" + std::to_string(epoll_fd);
  const std::unique_ptr<FILE, Closer> file(std::fopen(path.c_str(), "re"));
  if (!file) throw system_error("cannot read " + path, errno);
  char line[256];
  for (int fd = -1; std::fgets(line, sizeof(line), file.get()) != nullptr;)
    if (std::sscanf(line, "tfd: %d", &fd) == 1) found.push_back(fd);
  return found;
}

// A number that no other socket of this machine ever has. None: it is no socket.
std::optional<std::uint64_t> socket_cookie(int fd) {
  std::uint64_t cookie = 0;
  socklen_t size = sizeof(cookie);
  if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) == 0) return cookie;
  if (errno == ENOPROTOOPT) throw system_error("this kernel has no SO_COOKIE (Linux 4.12)", errno);
  return std::nullopt;
}

// Those that an epoll descriptor watches, itself or by others, with their cookies.
using Sockets = std::vector<std::pair<int, std::uint64_t>>;
Sockets sockets_behind(int epoll_fd, int depth) {
  Sockets found;
  for (const int fd : watched_by(epoll_fd)) {
    if (const auto cookie = socket_cookie(fd)) {
      found.emplace_back(fd, *cookie);
    } else if (depth > 1) {
      const auto deeper = sockets_behind(fd, depth - 1);
      found.insert(found.end(), deeper.begin(), deeper.end());
    }
  }
  return found;
}

// UCX lets programs that this process starts inherit its sockets. A best effort: one that is
// started before this comes in between, and holds a port or a connection, but no lifeline.
void keep_from_children(int fd) { fcntl(fd, F_SETFD, FD_CLOEXEC); }

// From now on the socket hears of no reset. Its own end is one: with nobody to tell it that the
// peer is gone, the kernel would offer a dead peer the unsent bytes for a minute.
void shield(int fd) {
  attach(fd, without_resets());
  keep_from_children(fd);
  const linger at_once{.l_onoff = 1, .l_linger = 0};
  if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)) != 0)
    throw system_error("cannot guard a socket of UCX", errno);
}

}  // namespace

struct SocketGuard::Doors {
  struct Port {
    int fd;  // UCX's, which closes it when it can accept no more: then it may be another socket.
    std::uint64_t inode;
    std::uint16_t number;
  };
  std::vector<Port> ports;
  std::vector<HostBytes> bound_to;
  std::map<HostBytes, std::size_t> guests;
  bool is_loss_told = false;

  void check_ports();  // Errors: io.

  void apply() const {
    std::vector<HostBytes> hosts;
    for (const auto& [host, passes] : guests) hosts.push_back(host);
    for (const auto& port : ports)
      if (socket_inode(port.fd) == port.inode) admit(port.fd, hosts);
  }
};

// A lost port stays lost: whoever is to use it hears so, and once the operator of this process.
void SocketGuard::Doors::check_ports() {
  for (const auto& port : ports) {
    if (socket_inode(port.fd) == port.inode) continue;
    const Error lost(Errc::io, "UCX has closed its port " + std::to_string(port.number) +
                                   " for good, as it does when it finds no file descriptor to "
                                   "accept with; raise ulimit -n and restart this process");
    if (!std::exchange(is_loss_told, true)) std::fprintf(stderr, "causeway: %s\n", lost.what());
    throw lost;
  }
}

// What a Pass owns: its hosts are counted in while it lives.
struct SocketGuard::Party {
  explicit Party(std::shared_ptr<Doors> at) : doors(std::move(at)) {}
  ~Party() {
    for (const auto& host : hosts)
      if (--doors->guests[host] == 0) doors->guests.erase(host);
    try {
      doors->apply();
    } catch (const Error&) {
      // A guest stays in, or all stay out, until the next Pass comes or goes.
    }
  }
  Party(const Party&) = delete;
  Party& operator=(const Party&) = delete;

  void join(const HostBytes& host) {
    if (doors->guests.size() >= kMaxHostsIn && !doors->guests.contains(host))
      throw Error(Errc::exhausted, "peers of " + std::to_string(kMaxHostsIn) +
                                       " hosts are connecting, as many as fit; try again");
    hosts.reserve(hosts.size() + 1);
    ++doors->guests[host];
    hosts.push_back(host);
  }

  std::shared_ptr<Doors> doors;
  std::vector<HostBytes> hosts;
};

SocketGuard::SocketGuard() : doors_(std::make_shared<Doors>()) {
  for (const int fd : listening_sockets())
    if (const auto inode = socket_inode(fd)) before_.insert(*inode);
}

SocketGuard::~SocketGuard() { forget_ports(); }

void SocketGuard::forget_ports() noexcept { doors_->ports.clear(); }

void SocketGuard::close_ports(std::span<const std::byte> names) {
  for (const int fd : listening_sockets()) {
    const auto inode = socket_inode(fd);
    SocketAddress bound;
    bound.size_bytes = sizeof(bound.storage);
    if (!inode || before_.contains(*inode) ||
        getsockname(fd, reinterpret_cast<sockaddr*>(&bound.storage), &bound.size_bytes) != 0 ||
        (bound.storage.ss_family != AF_INET && bound.storage.ss_family != AF_INET6))
      continue;
    const std::byte port[] = {static_cast<std::byte>(bound.port() >> 8),
                              static_cast<std::byte>(bound.port() & 0xff)};
    if (std::search(names.begin(), names.end(), std::begin(port), std::end(port)) == names.end())
      continue;
    before_.insert(*inode);
    attach(fd, from_hosts({}));
    keep_from_children(fd);
    doors_->ports.push_back({fd, *inode, bound.port()});
    if (std::ranges::find(doors_->bound_to, bound.host()) == doors_->bound_to.end())
      doors_->bound_to.push_back(bound.host());
  }
  doors_->apply();
}

void SocketGuard::close_port(std::uint16_t port) {
  const std::byte name[] = {static_cast<std::byte>(port >> 8), static_cast<std::byte>(port & 0xff)};
  close_ports(name);
}

std::vector<HostBytes> SocketGuard::hosts() const { return doors_->bound_to; }

SocketGuard::Pass SocketGuard::let_in(std::span<const HostBytes> hosts) {
  doors_->check_ports();
  auto party = std::make_shared<Party>(doors_);  // Should this fail, it takes itself out again.
  for (const auto& host : hosts) party->join(host);
  doors_->apply();
  return party;
}

void SocketGuard::shield_data(int event_fd) {
  // By cookie: a descriptor or an inode seen before may be another socket by now.
  std::unordered_set<std::uint64_t> shielded;
  for (const auto& [fd, cookie] : sockets_behind(event_fd, kMaxEpollDepth)) {
    if (!shielded_.contains(cookie)) shield(fd);
    shielded.insert(cookie);
  }
  shielded_ = std::move(shielded);
}

}  // namespace causeway::ucx
