#include "transport/ucx/door.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <map>

namespace causeway::ucx {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

constexpr auto kBackOff = std::chrono::milliseconds(20);  // When the kernel has no descriptor left.

constexpr auto kMoment = std::chrono::milliseconds(200);  // In which a greeting arrives.

SocketAddress to_address(const tcp::endpoint& endpoint) {
  SocketAddress address;
  std::memcpy(&address.storage, endpoint.data(), endpoint.size());
  address.size_bytes = static_cast<socklen_t>(endpoint.size());
  return address;
}

// One who has an IPv6 address has the 2^64 of its network.
HostBytes neighbourhood_of(HostBytes host) {
  const bool is_ipv4 = host[10] == std::byte{0xff} && host[11] == std::byte{0xff} &&
                       std::all_of(host.begin(), host.begin() + 10,
                                   [](std::byte byte) { return byte == std::byte{0}; });
  if (!is_ipv4) std::fill(host.begin() + 8, host.end(), std::byte{0});
  return host;
}

bool is_shortage(int error) {
  return error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOBUFS;
}

}  // namespace

struct Door::Acceptor {
  explicit Acceptor(asio::io_context& context) : tcp(context), pause(context) {}
  asio::ip::tcp::acceptor tcp;
  asio::steady_timer pause;
};

struct Door::Visitor {
  Visitor(std::shared_ptr<Lifeline> from, asio::steady_timer timer)
      : line(std::move(from)),
        patience(std::move(timer)),
        neighbourhood(neighbourhood_of(line->peer().host())) {}
  std::shared_ptr<Lifeline> line;
  asio::steady_timer patience;
  HostBytes neighbourhood;
  Deadline since = std::chrono::steady_clock::now();
};

Door::Door(asio::io_context& context, HasRoom has_room, OnGreeting on_greeting, OnJoin on_join)
    : context_(context),
      has_room_(std::move(has_room)),
      on_greeting_(std::move(on_greeting)),
      on_join_(std::move(on_join)),
      acceptor_(std::make_unique<Acceptor>(context)) {}

Door::~Door() = default;

std::shared_ptr<Door> Door::open(asio::io_context& context, const SocketAddress& address,
                                 HasRoom has_room, OnGreeting on_greeting, OnJoin on_join) {
  std::shared_ptr<Door> door(
      new Door(context, std::move(has_room), std::move(on_greeting), std::move(on_join)));
  door->bind(address);
  door->accept();
  return door;
}

void Door::bind(const SocketAddress& address) {
  tcp::endpoint endpoint;
  endpoint.resize(address.size_bytes);
  std::memcpy(endpoint.data(), address.get(), address.size_bytes);
  auto& acceptor = acceptor_->tcp;
  error_code error;
  // Asio's own open() would let children of this process hold the port.
  const int fd = ::socket(endpoint.protocol().family(), SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) throw system_error("cannot open a socket", errno);
  acceptor.assign(endpoint.protocol(), fd, error);
  if (error) ::close(fd);
  if (!error) acceptor.non_blocking(true, error);
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (!error) endpoint = acceptor.local_endpoint(error);
  if (error)
    throw Error(Errc::io, "cannot listen at " + address.to_string() + ": " + error.message());
  address_ = to_address(endpoint);
}

void Door::close() noexcept {
  error_code ignored;
  acceptor_->tcp.close(ignored);
  acceptor_->pause.cancel();
  for (const auto& visitor : visitors_) visitor.line->close();
  visitors_.clear();
}

void Door::accept() {
  acceptor_->tcp.async_wait(
      tcp::acceptor::wait_read, [self = shared_from_this()](const error_code& error) {
        if (error || !self->acceptor_->tcp.is_open()) return;
        SocketAddress peer;
        peer.size_bytes = sizeof(peer.storage);
        const int fd =
            ::accept4(self->acceptor_->tcp.native_handle(),
                      reinterpret_cast<sockaddr*>(&peer.storage), &peer.size_bytes, SOCK_CLOEXEC);
        if (fd < 0 && is_shortage(errno)) return self->back_off();
        if (fd >= 0) self->receive(fd, peer);
        self->accept();  // Any other error is of the one connection that was to be accepted.
      });
}

void Door::back_off() {
  send_away_one();
  acceptor_->pause.expires_after(kBackOff);
  acceptor_->pause.async_wait([self = shared_from_this()](const error_code& error) {
    if (!error && self->acceptor_->tcp.is_open()) self->accept();
  });
}

void Door::receive(int socket_fd, const SocketAddress& peer) {
  if (visitors_.size() >= kMaxVisitors) send_away_one();
  std::shared_ptr<Lifeline> line;
  try {
    line = Lifeline::adopt(context_, socket_fd, peer);
  } catch (const Error&) {
    return;  // It is hung up on.
  }
  auto& visitor = visitors_.emplace_back(line, asio::steady_timer(context_));
  visitor.patience.expires_after(kPatience);
  // A timer may have gone off when it is cancelled: its visitor is looked up.
  visitor.patience.async_wait([self = shared_from_this(), line](const error_code& error) {
    if (!error && self->see_off(line)) line->close();
  });
  line->receive([self = shared_from_this(), line](const std::optional<Error>& error,
                                                  const Lifeline::Frame& frame) {
    if (self->see_off(line)) self->take(line, error, frame);
  });
}

bool Door::see_off(const std::shared_ptr<Lifeline>& line) {
  return visitors_.remove_if([&](const Visitor& visitor) { return visitor.line == line; }) > 0;
}

void Door::take(const std::shared_ptr<Lifeline>& line, const std::optional<Error>& error,
                const Lifeline::Frame& frame) {
  if (error && error->code() == Errc::unsupported) return turn_away(line, *error);
  if (!error && frame.kind == FrameKind::join) {
    if (const auto join = decode_join(frame.body)) return on_join_(line, *join);
    return line->close();
  }
  auto greeting =
      error || frame.kind != FrameKind::greeting ? std::nullopt : decode_greeting(frame.body);
  if (!greeting) return line->close();
  while (!has_room_())
    if (!send_away_one())
      return turn_away(line, Error(Errc::exhausted, "no file descriptors are left; see ulimit -n"));
  on_greeting_(line, std::move(*greeting));
}

bool Door::send_away_one() {
  if (visitors_.empty()) return false;
  std::map<HostBytes, std::size_t> crowd;
  for (const auto& visitor : visitors_) ++crowd[visitor.neighbourhood];
  // Whoever has just come is about to speak: those who had the time and did not, go first.
  const auto recent = std::chrono::steady_clock::now() - kMoment;
  auto chosen = visitors_.begin();
  for (auto visitor = chosen; visitor != visitors_.end(); ++visitor) {
    if (visitor->since > recent && chosen->since <= recent) break;
    if (crowd[visitor->neighbourhood] > crowd[chosen->neighbourhood]) chosen = visitor;
  }
  chosen->line->close();
  visitors_.erase(chosen);
  return true;
}

void turn_away(const std::shared_ptr<Lifeline>& line, const Error& why) {
  line->send(frame(why), [line](const std::optional<Error>&) { line->close(); });
}

}  // namespace causeway::ucx
