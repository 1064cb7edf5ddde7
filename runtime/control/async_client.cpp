#include "runtime/control/async_client.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <boost/asio/experimental/as_tuple.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <cerrno>
#include <tuple>
#include <utility>  // Boost 1.81 with g++ 12 and C++20 wants std::exchange before Asio.

#include "allocator/unique_fd.h"
#include "runtime/control/lookup.h"
#include "runtime/control/message.h"
#include "runtime/control/server.h"
#include "runtime/control/socket.h"

namespace causeway {

namespace {
namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
constexpr auto kTuple = asio::experimental::as_tuple(asio::use_awaitable);

void check(const PeerAddress& peer, boost::system::error_code failed) {
  if (!failed) return;
  if (failed == beast::error::timeout)
    throw Error(Errc::timed_out,
                fmt::format("{} at {} did not answer in time", peer.name, peer.address));
  throw Error(Errc::peer_lost, fmt::format("cannot reach {} at {}: {}; is its daemon running?",
                                           peer.name, peer.address, failed.message()));
}

asio::awaitable<std::vector<asio::ip::tcp::endpoint>> look_up(
    const PeerAddress& peer, std::chrono::steady_clock::time_point deadline) {
  const Lookup lookup(peer.address, peer.name);
  auto endpoints = lookup.get();
  if (!endpoints.empty()) co_return endpoints;
  const auto executor = co_await asio::this_coro::executor;
  UniqueFd fd(::fcntl(lookup.fd(), F_DUPFD_CLOEXEC, 0));
  if (!fd)
    throw system_error(fmt::format("cannot look up {} at {}", peer.name, peer.address), errno);
  // Shared with the timer, whose handler may already be on its way when this returns.
  const auto ready = std::make_shared<asio::posix::stream_descriptor>(executor, fd.get());
  static_cast<void>(fd.release());
  asio::steady_timer limit(executor, deadline);
  limit.async_wait([ready](boost::system::error_code cancelled) {
    if (!cancelled) ready->cancel();
  });
  const auto [failed] =
      co_await ready->async_wait(asio::posix::stream_descriptor::wait_read, kTuple);
  if (failed == asio::error::operation_aborted) check(peer, beast::error::timeout);
  check(peer, failed);
  co_return lookup.get();
}

asio::awaitable<void> connect(beast::tcp_stream& stream,
                              const std::vector<asio::ip::tcp::endpoint>& endpoints,
                              const PeerAddress& peer) {
  boost::system::error_code failed;
  for (const auto& endpoint : endpoints) {
    stream.socket().close(failed);
    open_socket(stream.socket(), endpoint.protocol(), failed);
    if (failed) break;
    std::tie(failed) = co_await stream.async_connect(endpoint, kTuple);
    if (!failed || failed == beast::error::timeout) break;
  }
  check(peer, failed);
}
}  // namespace

asio::awaitable<std::string> call_peer(PeerAddress peer, std::string method, std::string path,
                                       std::string body, std::chrono::milliseconds timeout,
                                       asio::ip::tcp::socket* keep) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  const auto endpoints = co_await look_up(peer, deadline);
  beast::tcp_stream stream(co_await asio::this_coro::executor);
  stream.expires_at(deadline);
  co_await connect(stream, endpoints, peer);

  http::request<http::string_body> request;
  request.version(11);
  request.method_string(method);
  request.target(path);
  request.set(http::field::host, "causeway");
  request.set(http::field::authorization, "Bearer " + peer.token);
  request.body() = std::move(body);
  request.prepare_payload();
  const auto [unsent, sent] = co_await http::async_write(stream, request, kTuple);
  check(peer, unsent);

  beast::flat_buffer buffer;
  http::response_parser<http::string_body> parser;
  parser.body_limit(64 * 1024 * 1024);
  const auto [unread, got] = co_await http::async_read(stream, buffer, parser, kTuple);
  check(peer, unread);
  throw_if_error(parser.get().result_int(), parser.get().body(), peer.name);
  if (keep) {
    stream.expires_never();
    watch_for_dead_host(stream.socket().native_handle());
    *keep = stream.release_socket();
  }
  co_return std::move(parser.get().body());
}

}  // namespace causeway
