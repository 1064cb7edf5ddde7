#include "runtime/control/server.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/as_tuple.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <charconv>
#include <chrono>
#include <cstring>
#include <tuple>
#include <utility>  // Boost 1.81 with g++ 12 and C++20 wants std::exchange before Asio.

#include "runtime/control/socket.h"
#include "runtime/control/strangers.h"

namespace causeway {

namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::use_awaitable;
using asio::ip::tcp;
using Local = asio::local::stream_protocol;
using namespace std::chrono_literals;

constexpr std::size_t kMaxConnections = 1024;  // The unix socket has as many again.
constexpr std::uint32_t kMaxHeaderBytes = 8 * 1024;
constexpr std::uint64_t kMaxBodyBytes = 4 * 1024 * 1024;
constexpr auto kArrivalTime = 10s;  // For the rest of a request, once its first byte is here.
constexpr auto kWriteTime = 10s;
constexpr auto kBackOff = 20ms;  // When the kernel has no descriptor left.
const Error kNoToken{Errc::unauthenticated,
                     "the request carries no valid token; send 'Authorization: Bearer TOKEN' with "
                     "the token of the pool"};

bool is_shortage(int error) {
  return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

bool same_user(Local::socket& socket) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(socket.native_handle(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
    return false;
  return peer.uid == ::geteuid() || peer.uid == 0;
}

bool is_token(std::string_view authorization, const std::string& token) {
  constexpr std::string_view kScheme = "Bearer ";
  if (!authorization.starts_with(kScheme)) return false;
  authorization.remove_prefix(kScheme.size());
  return authorization.size() == token.size() &&
         CRYPTO_memcmp(authorization.data(), token.data(), token.size()) == 0;
}

std::string to_text(const ControlResponse& response, bool keep_alive) {
  return fmt::format(
      "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: {}\r\n\r\n{}",
      response.status,
      std::string_view(http::obsolete_reason(http::int_to_status(response.status))),
      response.content_type, response.body.size(), keep_alive ? "keep-alive" : "close",
      response.body);
}

template <typename Protocol>
std::shared_ptr<asio::basic_socket_acceptor<Protocol>> listen_at(
    asio::io_context& context, const typename Protocol::endpoint& endpoint) {
  auto acceptor = std::make_shared<asio::basic_socket_acceptor<Protocol>>(context);
  boost::system::error_code failed;
  open_socket(*acceptor, endpoint.protocol(), failed);
  if (failed) throw boost::system::system_error(failed);
  acceptor->native_non_blocking(true);  // Who was announced may be gone when it is accepted.
  acceptor->set_option(asio::socket_base::reuse_address(true));
  acceptor->bind(endpoint);
  acceptor->listen();
  return acceptor;
}

// Sends `first` with the descriptors attached; returns how many bytes went.
std::size_t send_with_fds(int socket, std::string_view first, const std::vector<UniqueFd>& fds) {
  std::vector<int> numbers;
  for (const auto& fd : fds) numbers.push_back(fd.get());
  std::vector<char> control(CMSG_SPACE(numbers.size() * sizeof(int)));
  iovec bytes{const_cast<char*>(first.data()), first.size()};
  msghdr message{};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  auto* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(numbers.size() * sizeof(int));
  std::memcpy(CMSG_DATA(header), numbers.data(), numbers.size() * sizeof(int));
  const auto sent = ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent >= 0) return static_cast<std::size_t>(sent);
  if (errno == EAGAIN || errno == EINTR) return 0;
  throw system_error("send file descriptors", errno);
}

// Watches a connection while its request is answered: keeps what comes for the next request, and
// cancels the work when the client is gone. A client that closes only its sending side counts as
// gone: TCP does not tell the two apart.
template <typename Stream>
class ClientWatch : public std::enable_shared_from_this<ClientWatch<Stream>> {
 public:
  ClientWatch(Stream& stream, beast::flat_buffer& ahead, asio::cancellation_signal& work)
      : stream_(stream), ahead_(ahead), work_(work) {}

  void start() {
    stream_.socket().async_wait(
        asio::socket_base::wait_read,
        [self = this->shared_from_this()](boost::system::error_code failed) {
          if (self->stopped_) return;  // What this borrows may be gone.
          if (!failed && self->take()) return self->start();
          self->gone_ = true;
          self->work_.emit(asio::cancellation_type::terminal);
        });
  }

  // True if the client has gone.
  bool stop() {
    stopped_ = true;
    boost::system::error_code ignored;
    stream_.socket().cancel(ignored);
    return gone_;
  }

 private:
  // False at the end of the stream, or if the client sends more than can be kept.
  bool take() {
    const auto room = std::min<std::size_t>(ahead_.max_size() - ahead_.size(), 16 * 1024);
    if (room == 0) return false;
    const auto space = ahead_.prepare(room);
    const auto got =
        ::recv(stream_.socket().native_handle(), space.data(), space.size(), MSG_DONTWAIT);
    if (got > 0) ahead_.commit(static_cast<std::size_t>(got));
    return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
  }

  Stream& stream_;
  beast::flat_buffer& ahead_;
  asio::cancellation_signal& work_;
  bool stopped_ = false;
  bool gone_ = false;
};

}  // namespace

void watch_for_dead_host(int socket) noexcept {
  // As many probes must be lost to lose a host. No TCP_USER_TIMEOUT: it also ends a connection
  // whose peer answers, but has no room, as a client does that is stopped while it reads.
  const int on = 1, idle_s = 1, interval_s = 1, count = 4;
  const auto set = [&](int level, int name, int value) {
    ::setsockopt(socket, level, name, &value, sizeof value);
  };
  set(SOL_SOCKET, SO_KEEPALIVE, on);
  set(IPPROTO_TCP, TCP_KEEPIDLE, idle_s);
  set(IPPROTO_TCP, TCP_KEEPINTVL, interval_s);
  set(IPPROTO_TCP, TCP_KEEPCNT, count);
  set(IPPROTO_TCP, TCP_NODELAY, on);
}

HostPort parse_host_port(const std::string& address) {
  const auto colon = address.rfind(':');
  HostPort result{};
  unsigned port = 0;
  if (colon != std::string::npos) {
    result.host = address.substr(0, colon);
    const auto* end = address.data() + address.size();
    const auto [stop, status] = std::from_chars(address.data() + colon + 1, end, port);
    if (status == std::errc{} && stop == end && port <= 65535 && colon + 1 < address.size()) {
      if (result.host.size() > 2 && result.host.front() == '[' && result.host.back() == ']')
        result.host = result.host.substr(1, result.host.size() - 2);
      result.port = static_cast<std::uint16_t>(port);
      if (!result.host.empty()) return result;
    }
  }
  throw Error(Errc::invalid_argument,
              fmt::format("address '{}' is not HOST:PORT (for example 127.0.0.1:7070)", address));
}

struct ControlServer::State : std::enable_shared_from_this<ControlServer::State> {
  State(asio::io_context& io, ControlHandler& h, std::string t)
      : context(io), handler(h), token(std::move(t)) {}

  template <typename Protocol>
  asio::awaitable<void> accept(std::shared_ptr<asio::basic_socket_acceptor<Protocol>> acceptor);
  template <typename Stream>
  asio::awaitable<void> serve(Stream stream, typename Stream::endpoint_type from,
                              asio::cancellation_signal& work);
  template <typename Stream>
  asio::awaitable<bool> serve_one(Stream& stream, beast::flat_buffer& buffer, ConnectionId id,
                                  bool local, bool& trusted, asio::cancellation_signal& work);
  template <typename Stream>
  asio::awaitable<void> reply(Stream& stream, ControlResponse response, bool keep_alive);

  asio::io_context& context;
  ControlHandler& handler;
  std::string token;
  ConnectionId next_connection = 1;
  std::size_t connections[2] = {0, 0};  // On TCP, on the unix socket.
  Strangers strangers;                  // Of those on TCP: no valid token yet.
  bool stopping = false;
  std::vector<std::function<void()>> close_acceptors;
  std::string unix_path;
};

template <typename Protocol>
asio::awaitable<void> ControlServer::State::accept(
    std::shared_ptr<asio::basic_socket_acceptor<Protocol>> acceptor) {
  constexpr bool kLocal = std::is_same_v<Protocol, Local>;
  constexpr auto kTuple = asio::experimental::as_tuple(use_awaitable);
  const auto self = this->shared_from_this();
  asio::steady_timer pause(context);
  while (!stopping) {
    co_await acceptor->async_wait(asio::socket_base::wait_read, kTuple);
    if (stopping) co_return;
    typename Protocol::endpoint from;
    auto size = static_cast<socklen_t>(from.capacity());
    UniqueFd fd(::accept4(acceptor->native_handle(), from.data(), &size, SOCK_CLOEXEC));
    if (!fd && is_shortage(errno)) {
      strangers.send_away_one();
      pause.expires_after(kBackOff);
      co_await pause.async_wait(kTuple);
    }
    if (!fd) continue;  // Any other error is of the one connection that was to be accepted.
    // Continuing closes it: the client sees an end of file.
    if (connections[kLocal] >= kMaxConnections && (kLocal || !strangers.send_away_one())) continue;
    from.resize(size);
    typename Protocol::socket socket(context);
    boost::system::error_code failed;
    socket.assign(acceptor->local_endpoint().protocol(), fd.get(), failed);
    if (failed) continue;
    static_cast<void>(fd.release());
    if constexpr (kLocal) {
      if (!same_user(socket)) continue;
    } else {
      watch_for_dead_host(socket.native_handle());
    }
    using Stream = beast::basic_stream<Protocol>;
    // Of what the connection's request waits for; lives as long as the coroutine.
    const auto work = std::make_shared<asio::cancellation_signal>();
    asio::co_spawn(context, serve<Stream>(Stream(std::move(socket)), from, *work),
                   asio::bind_cancellation_slot(work->slot(), [work](std::exception_ptr) {}));
  }
}

template <typename Stream>
asio::awaitable<void> ControlServer::State::serve(Stream stream,
                                                  typename Stream::endpoint_type from,
                                                  asio::cancellation_signal& work) {
  constexpr bool kLocal = std::is_same_v<typename Stream::protocol_type, Local>;
  const auto self = this->shared_from_this();
  const ConnectionId id = next_connection++;
  ++connections[kLocal];
  bool trusted = kLocal;
  try {
    if constexpr (!kLocal) strangers.arrive(id, from.address(), [&stream] { stream.close(); });
    beast::flat_buffer buffer(kMaxHeaderBytes + kMaxBodyBytes + 1024);
    while (!stopping && co_await serve_one(stream, buffer, id, kLocal, trusted, work)) {
    }
  } catch (const std::exception&) {
    // The connection broke while it was being answered; its end is all that matters.
  }
  --connections[kLocal];
  strangers.leave(id);
  if (!stopping) handler.connection_closed(id);
}

// Reads and answers one request. False when the connection is done.
template <typename Stream>
asio::awaitable<bool> ControlServer::State::serve_one(Stream& stream, beast::flat_buffer& buffer,
                                                      ConnectionId id, bool local, bool& trusted,
                                                      asio::cancellation_signal& work) {
  constexpr auto kTuple = asio::experimental::as_tuple(use_awaitable);
  // An idle connection may hold a session, so only its end counts; a stranger gets no such time.
  if (trusted)
    stream.expires_never();
  else
    stream.expires_after(kArrivalTime);
  if (buffer.size() == 0) {
    const auto [failed, size] = co_await stream.async_read_some(buffer.prepare(16 * 1024), kTuple);
    if (failed) co_return false;
    buffer.commit(size);
  }
  http::request_parser<http::string_body> parser;
  parser.header_limit(kMaxHeaderBytes);
  parser.body_limit(kMaxBodyBytes);
  stream.expires_after(kArrivalTime);
  auto [failed, size] = co_await http::async_read_header(stream, buffer, parser, kTuple);
  const auto& message = parser.get();
  const auto authorization = message[http::field::authorization];
  const bool is_page = message.method() == http::verb::get && message.target() == "/";  // Static.
  const bool known = local || is_token({authorization.data(), authorization.size()}, token);
  if (!failed && !known && !is_page) {  // Before its body: a stranger's bytes are not kept.
    co_await reply(stream, error_response(kNoToken), false);
    co_return false;
  }
  if (!failed && known) {
    trusted = true;
    strangers.leave(id);
  }
  if (!failed) std::tie(failed, size) = co_await http::async_read(stream, buffer, parser, kTuple);
  if (failed) {
    if (failed == http::error::end_of_stream || failed == beast::error::timeout ||
        failed.category() == asio::error::get_system_category())
      co_return false;
    co_await reply(stream, error_response({Errc::parse, "request: " + failed.message()}), false);
    co_return false;
  }
  ControlRequest request;
  request.method = std::string(message.method_string());
  request.path = std::string(message.target()).substr(0, message.target().find('?'));
  request.body = message.body();
  request.connection = id;
  request.local = local;
  const bool keep_alive = message.keep_alive();
  stream.expires_never();
  ControlResponse response;
  const auto watch = std::make_shared<ClientWatch<Stream>>(stream, buffer, work);
  watch->start();
  try {
    response = co_await handler.handle(std::move(request));
  } catch (const Error& error) {
    response = error_response(error);
  } catch (const std::exception& error) {
    response = error_response({Errc::internal, error.what()});
  }
  if (watch->stop()) co_return false;
  co_await reply(stream, std::move(response), keep_alive);
  co_return keep_alive;
}

template <typename Stream>
asio::awaitable<void> ControlServer::State::reply(Stream& stream, ControlResponse response,
                                                  bool keep_alive) {
  const auto text = to_text(response, keep_alive);
  std::string_view rest = text;
  stream.expires_after(kWriteTime);
  while (!response.fds.empty()) {
    if (const auto sent = send_with_fds(stream.socket().native_handle(), rest, response.fds)) {
      rest.remove_prefix(sent);
      response.fds.clear();
    } else {
      co_await stream.socket().async_wait(asio::socket_base::wait_write, use_awaitable);
    }
  }
  co_await asio::async_write(stream, asio::buffer(rest.data(), rest.size()), use_awaitable);
}

ControlServer::ControlServer(asio::io_context& context, ControlHandler& handler, std::string token)
    : state_(std::make_shared<State>(context, handler, std::move(token))) {}

ControlServer::~ControlServer() {
  state_->stopping = true;
  for (const auto& close : state_->close_acceptors) close();
  if (!state_->unix_path.empty()) ::unlink(state_->unix_path.c_str());
}

std::string ControlServer::listen_tcp(const std::string& address) {
  const auto [host, port] = parse_host_port(address);
  try {
    tcp::resolver resolver(state_->context);
    const auto endpoint = resolver.resolve(host, std::to_string(port))->endpoint();
    auto acceptor = listen_at<tcp>(state_->context, endpoint);
    state_->close_acceptors.emplace_back([acceptor] {
      boost::system::error_code ignored;
      acceptor->close(ignored);
    });
    const auto bound = acceptor->local_endpoint().port();
    asio::co_spawn(state_->context, state_->accept<tcp>(acceptor), asio::detached);
    return address.substr(0, address.rfind(':') + 1) + std::to_string(bound);
  } catch (const boost::system::system_error& error) {
    throw Error(Errc::io, fmt::format("cannot listen on {}: {}", address, error.code().message()));
  }
}

void ControlServer::listen_unix(const std::string& path) {
  if (path.size() >= sizeof(sockaddr_un::sun_path))
    throw Error(Errc::invalid_argument,
                fmt::format("socket path '{}' is longer than {} bytes; choose a shorter one", path,
                            sizeof(sockaddr_un::sun_path) - 1));
  try {
    Local::socket probe(state_->context);
    boost::system::error_code failed;
    open_socket(probe, Local(), failed);
    if (failed) throw boost::system::system_error(failed);
    probe.connect(Local::endpoint(path), failed);
    if (!failed)
      throw Error(Errc::already_exists,
                  fmt::format("a daemon already serves {}; end it with `causeway down`", path));
    struct stat status {};
    if (::lstat(path.c_str(), &status) == 0 && S_ISSOCK(status.st_mode)) ::unlink(path.c_str());
    const auto mask = ::umask(0177);  // The socket must never be open to others, not even briefly.
    std::shared_ptr<Local::acceptor> acceptor;
    try {
      acceptor = listen_at<Local>(state_->context, Local::endpoint(path));
    } catch (...) {
      ::umask(mask);
      throw;
    }
    ::umask(mask);
    state_->close_acceptors.emplace_back([acceptor] {
      boost::system::error_code ignored;
      acceptor->close(ignored);
    });
    state_->unix_path = path;
    asio::co_spawn(state_->context, state_->accept<Local>(acceptor), asio::detached);
  } catch (const boost::system::system_error& error) {
    throw Error(Errc::io, fmt::format("cannot listen on {}: {}", path, error.code().message()));
  }
}

}  // namespace causeway
