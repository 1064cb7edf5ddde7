#include "transport/ucx/lifeline.h"

#include <netinet/tcp.h>
#include <unistd.h>

#include <utility>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>

namespace causeway::ucx {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

tcp protocol_of(const SocketAddress& address) { return address.is_ipv6() ? tcp::v6() : tcp::v4(); }

std::string reason(const error_code& error) {
  if (error == asio::error::eof || error == asio::error::connection_reset) return "it hung up";
  if (error == asio::error::connection_refused)
    return error.message() + "; is a transport listening there?";
  return error.message();
}

}  // namespace

struct Lifeline::Socket {
  explicit Socket(asio::io_context& context) : tcp(context) {}
  asio::ip::tcp::socket tcp;
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
        line->keep_alive();
        done(std::nullopt);
      });
  return line;
}

std::shared_ptr<Lifeline> Lifeline::adopt(asio::io_context& context, int socket_fd,
                                          SocketAddress peer) {
  std::shared_ptr<Lifeline> line(new Lifeline(context, peer));
  line->take(socket_fd);
  line->keep_alive();
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

void Lifeline::keep_alive() {
  const auto set = [fd = socket_->tcp.native_handle()](int level, int option, int value) {
    setsockopt(fd, level, option, &value, sizeof(value));  // Without: noticed later.
  };
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 1);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 1);
  // The first probe after a silence of a second, and the end a second later if there was no answer.
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, 1500);
  set(IPPROTO_TCP, TCP_NODELAY, 1);
}

void Lifeline::send(std::vector<std::byte> frame, Done done) {
  out_ = std::move(frame);
  asio::async_write(
      socket_->tcp, asio::buffer(out_),
      [self = shared_from_this(), done = std::move(done)](const error_code& error, std::size_t) {
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

void Lifeline::watch(std::function<void(End)> ended) {
  in_.resize(1);
  socket_->tcp.async_read_some(
      asio::buffer(in_),
      [self = shared_from_this(), ended = std::move(ended)](const error_code& error, std::size_t) {
        if (self->is_closed_) return;
        // A byte is against the rules, and the end as well.
        const bool spoke =
            !error || error == asio::error::eof || error == asio::error::connection_reset;
        ended(spoke ? End::hung_up : End::silence);
      });
}

void Lifeline::close() noexcept {
  is_closed_ = true;
  error_code ignored;
  // A child that was forked and did not exec may hold a copy of the descriptor.
  socket_->tcp.shutdown(tcp::socket::shutdown_both, ignored);
  socket_->tcp.close(ignored);
}

}  // namespace causeway::ucx
