#include "transport/ucx/lifeline.h"

#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <utility>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>

namespace causeway::ucx {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

constexpr std::byte kSign{'.'};
constexpr auto kBeat = std::chrono::milliseconds(200);
// A vanished machine is noticed after at most (1 + kMaxSilent) beats. In that time the kernel sends
// a byte about six times, so it takes as many losses to lose a peer that is there. Beats are
// counted, not seconds: this machine may have stood still.
constexpr int kMaxSilent = 8;
// A process that is stopped reads nothing, and its window must not fill.
constexpr std::size_t kMaxUnanswered = 64;
constexpr std::size_t kSlowBeats = 150;

tcp protocol_of(const SocketAddress& address) { return address.is_ipv6() ? tcp::v6() : tcp::v4(); }

std::string reason(const error_code& error) {
  if (error == asio::error::eof || error == asio::error::connection_reset) return "it hung up";
  if (error == asio::error::connection_refused)
    return error.message() + "; is a transport listening there?";
  return error.message();
}

}  // namespace

struct Lifeline::Socket {
  explicit Socket(asio::io_context& context) : tcp(context), timer(context) {}
  asio::ip::tcp::socket tcp;
  asio::steady_timer timer;
};

Lifeline::Lifeline(asio::io_context& context, SocketAddress peer)
    : socket_(std::make_unique<Socket>(context)), peer_(peer) {}

Lifeline::~Lifeline() = default;

std::shared_ptr<Lifeline> Lifeline::connect(asio::io_context& context, const SocketAddress& to,
                                            Done done) {
  std::shared_ptr<Lifeline> line(new Lifeline(context, to));
  // Asio's own open() would let children of this process hold the line.
  const int fd = ::socket(to.get()->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  try {
    if (fd < 0) throw system_error("cannot open a socket", errno);
    line->take(fd);
  } catch (const Error& error) {
    asio::post(context, [line, error, done = std::move(done)] {
      if (!line->is_closed_) done(error);
    });
    return line;
  }
  tcp::endpoint endpoint;
  endpoint.resize(to.size_bytes);
  std::memcpy(endpoint.data(), to.get(), to.size_bytes);
  line->socket_->tcp.async_connect(
      endpoint, [line, done = std::move(done)](const error_code& error) {
        if (line->is_closed_) return;
        if (error)
          return done(Error(Errc::peer_lost,
                            "cannot connect to " + line->peer_.to_string() + ": " + reason(error)));
        done(std::nullopt);
      });
  return line;
}

std::shared_ptr<Lifeline> Lifeline::adopt(asio::io_context& context, int socket_fd,
                                          SocketAddress peer) {
  std::shared_ptr<Lifeline> line(new Lifeline(context, peer));
  line->take(socket_fd);
  return line;
}

void Lifeline::take(int socket_fd) {
  error_code error;
  socket_->tcp.assign(protocol_of(peer_), socket_fd, error);
  if (!error) return;
  ::close(socket_fd);
  throw Error(Errc::exhausted, "cannot wait for " + peer_.to_string() + ": " + error.message());
}

bool Lifeline::is_within_one_host() const noexcept {
  SocketAddress own;
  own.size_bytes = sizeof(own.storage);
  return ::getsockname(socket_->tcp.native_handle(), reinterpret_cast<sockaddr*>(&own.storage),
                       &own.size_bytes) == 0 &&
         own.host() == peer_.host();
}

void Lifeline::send(std::vector<std::byte> frame, Done done) {
  out_ = std::move(frame);
  is_sending_ = true;
  asio::async_write(
      socket_->tcp, asio::buffer(out_),
      [self = shared_from_this(), done = std::move(done)](const error_code& error, std::size_t) {
        self->is_sending_ = false;
        if (self->is_closed_) return;
        if (!error) return done(std::nullopt);
        done(Error(Errc::peer_lost, self->peer_.to_string() + " was lost: " + reason(error)));
      });
}

void Lifeline::receive(Received received) {
  in_.resize(kFrameHeadBytes);
  asio::async_read(
      socket_->tcp, asio::buffer(in_),
      [self = shared_from_this(), received = std::move(received)](const error_code& error,
                                                                  std::size_t) mutable {
        if (self->is_closed_) return;
        const auto from = self->peer_.to_string();
        if (error)
          return received(Error(Errc::peer_lost, from + " was lost: " + reason(error)), {});
        const auto head = decode_frame_head(self->in_);
        if (!head)
          return received(Error(Errc::protocol, from + " does not speak a transport's protocol"),
                          {});
        self->receive_body(*head, std::move(received));
      });
}

void Lifeline::receive_body(const FrameHead& head, Received received) {
  in_.resize(head.body_bytes);
  asio::async_read(
      socket_->tcp, asio::buffer(in_),
      [self = shared_from_this(), version = head.version, kind = head.kind,
       received = std::move(received)](const error_code& error, std::size_t) {
        if (self->is_closed_) return;
        const auto from = self->peer_.to_string();
        if (error)
          return received(Error(Errc::peer_lost, from + " was lost: " + reason(error)), {});
        if (version != kProtocolVersion)
          return received(
              Error(Errc::unsupported, from + " speaks version " + std::to_string(version) +
                                           " of the transport's protocol, this side version " +
                                           std::to_string(kProtocolVersion) +
                                           "; run the same release on both"),
              {});
        received(std::nullopt, {kind, self->in_});
      });
}

void Lifeline::await_word(std::function<void()> ended) {
  socket_->tcp.async_wait(
      tcp::socket::wait_read,
      [self = shared_from_this(), ended = std::move(ended)](const error_code& error) {
        if (self->is_closed_) return;
        std::byte word{};
        const auto heard = ::recv(self->socket_->tcp.native_handle(), &word, sizeof(word),
                                  MSG_PEEK | MSG_DONTWAIT);
        if (error || heard == 0 || (heard < 0 && errno != EAGAIN)) ended();
      });
}

void Lifeline::watch(std::function<void(End)> ended) {
  ended_ = std::move(ended);
  in_.resize(64);
  // Lost bytes are sent again every 0.2 s, instead of after 0.2, 0.4, 0.8, ... s; BBR would not.
  const auto set = [fd = socket_->tcp.native_handle()](int option, const void* value,
                                                       socklen_t size_bytes) {
    setsockopt(fd, IPPROTO_TCP, option, value, size_bytes);  // Without: fewer losses are borne.
  };
  const int is_on = 1;
  set(TCP_CONGESTION, "reno", 4);
  set(TCP_THIN_LINEAR_TIMEOUTS, &is_on, sizeof(is_on));
  hear();
  beat();
}

void Lifeline::hear() {
  socket_->tcp.async_read_some(
      asio::buffer(in_),
      [self = shared_from_this()](const error_code& error, std::size_t size_bytes) {
        if (self->is_closed_) return;
        const std::span heard(self->in_.data(), size_bytes);
        if (error || std::ranges::any_of(heard, [](std::byte byte) { return byte != kSign; }))
          return self->end(error);
        self->unanswered_ = 0;
        self->silent_ = 0;
        self->hear();
      });
}

std::optional<double> Lifeline::round_trip() const noexcept {
  return shortest_round_trip(socket_->tcp.native_handle());
}

bool Lifeline::is_silent() const noexcept {
  tcp_info info{};
  socklen_t size_bytes = sizeof(info);
  if (getsockopt(socket_->tcp.native_handle(), IPPROTO_TCP, TCP_INFO, &info, &size_bytes) != 0)
    return false;
  // Not tcpi_unacked: what this host itself could not send, because its address is gone, is not
  // counted there.
  int unanswered_bytes = 0;
  return ioctl(socket_->tcp.native_handle(), SIOCOUTQ, &unanswered_bytes) == 0 &&
         unanswered_bytes > 0 &&
         info.tcpi_last_ack_recv >= std::chrono::milliseconds(kBeat).count();
}

void Lifeline::beat() {
  if (!ended_) return;  // A send would take an error that hear() has not yet seen.
  silent_ = is_silent() ? silent_ + 1 : 0;
  if (silent_ >= kMaxSilent) return end(asio::error::timed_out);
  // What was sent the kernel sends again.
  if (!is_sending_ && silent_ == 0 &&
      (unanswered_ < kMaxUnanswered || unanswered_ % kSlowBeats == 0))
    // What became of the socket, hear() is told.
    static_cast<void>(::send(socket_->tcp.native_handle(), &kSign, 1, MSG_DONTWAIT | MSG_NOSIGNAL));
  ++unanswered_;
  socket_->timer.expires_after(kBeat);
  socket_->timer.async_wait([weak = weak_from_this()](const error_code&) {
    const auto self = weak.lock();
    if (self && !self->is_closed_) self->beat();
  });
}

void Lifeline::end(const error_code& error) {
  if (!ended_) return;
  // A byte that is no sign is against the rules, and the end as well.
  const bool spoke = !error || error == asio::error::eof || error == asio::error::connection_reset;
  std::exchange(ended_, {})(spoke ? End::hung_up : End::silence);
}

int Lifeline::release() {
  is_closed_ = true;
  ended_ = {};
  error_code error;
  const int fd = socket_->tcp.release(error);
  if (error) throw Error(Errc::io, "cannot take over a connection: " + error.message());
  return fd;
}

void Lifeline::close() noexcept {
  is_closed_ = true;
  ended_ = {};
  error_code ignored;
  // A child that was forked and did not exec may hold a copy of the descriptor.
  socket_->timer.cancel();
  socket_->tcp.shutdown(tcp::socket::shutdown_both, ignored);
  socket_->tcp.close(ignored);
}

}  // namespace causeway::ucx
