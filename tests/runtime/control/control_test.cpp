// Goal:   the control plane does no work for a client that is gone, and no call waits longer than
//         it was told to, whatever the name service does.
// Method: a server with a handler that waits, and raw sockets against it; a getaddrinfo() of this
//         program's own, which the linker takes before the system's, answers when it is told to.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <dlfcn.h>
#include <doctest/doctest.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/experimental/as_tuple.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>  // Boost 1.81 with g++ 12 and C++20 wants std::exchange before Asio.

#include "allocator/unique_fd.h"
#include "runtime/control/async_client.h"
#include "runtime/control/client.h"
#include "runtime/control/lookup.h"
#include "runtime/control/server.h"
#include "tests/error_of.h"
#include "transport/blocking.h"

using namespace causeway;
using namespace causeway::test;
using namespace std::chrono_literals;
namespace asio = boost::asio;

namespace {

// The name service: hosts that end in ".slow" have no answer until release().
class NameService {
 public:
  void hold() { set(true); }
  void release() { set(false); }
  void ask(const char* host) {
    if (!host || !std::string_view(host).ends_with(".slow")) return;
    std::unique_lock lock(mutex_);
    ++asked_;
    changed_.wait(lock, [&] { return !held_; });
  }
  int asked() {
    const std::lock_guard lock(mutex_);
    return asked_;
  }

 private:
  void set(bool held) {
    const std::lock_guard lock(mutex_);
    held_ = held;
    asked_ = 0;
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  bool held_ = false;
  int asked_ = 0;
};

NameService& name_service() {
  static auto* const kService = new NameService;  // Lookups may outlast main().
  return *kService;
}

bool eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + 5s;
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(2ms);  // Only the pace of asking; the deadline decides.
  }
  return true;
}

// "/wait" is answered once somebody asks for "/go"; anything else at once.
class Waiter : public ControlHandler {
 public:
  asio::awaitable<ControlResponse> handle(ControlRequest request) override {
    ControlResponse response;
    response.body = request.path;
    if (request.path == "/go") gone_ahead_ = true;
    if (request.path != "/wait") co_return response;
    struct Count {
      explicit Count(std::atomic<int>& count) : count_(count) { ++count_; }
      ~Count() { --count_; }
      std::atomic<int>& count_;
    };
    const Count count(waiting);
    asio::steady_timer tick(co_await asio::this_coro::executor);
    while (!gone_ahead_) {
      tick.expires_after(1ms);
      co_await tick.async_wait(asio::experimental::as_tuple(asio::use_awaitable));
    }
    co_return response;
  }
  void connection_closed(ConnectionId) noexcept override { ++closed; }

  std::atomic<int> waiting = 0;
  std::atomic<int> closed = 0;

 private:
  bool gone_ahead_ = false;
};

struct Server {
  Server() {
    io.run_on([&] {
      server.emplace(io.context(), handler, "token token token token");
      address = server->listen_tcp("127.0.0.1:0");
      socket_path =
          (std::filesystem::temp_directory_path() / ("control-test-" + std::to_string(::getpid())))
              .string();
      server->listen_unix(socket_path);
    });
  }
  ~Server() {
    io.run_on([&] { server.reset(); });
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  [[nodiscard]] ControlClient client(bool local) const {
    return {local ? "unix:" + socket_path : address, "token token token token", "the server"};
  }
  // A connection with these bytes sent.
  [[nodiscard]] UniqueFd send(const std::string& bytes) const {
    const auto where = Lookup(address, "the server").get().at(0);
    UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(::connect(socket.get(), where.data(), static_cast<socklen_t>(where.size())) == 0);
    REQUIRE(::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
            static_cast<ssize_t>(bytes.size()));
    return socket;
  }

  Waiter handler;
  IoThread io{"test-server"};
  std::optional<ControlServer> server;
  std::string address;
  std::string socket_path;
};

std::string get(const std::string& path) {
  return "GET " + path + " HTTP/1.1\r\nAuthorization: Bearer token token token token\r\n\r\n";
}

std::size_t threads() {
  return static_cast<std::size_t>(
      std::distance(std::filesystem::directory_iterator("/proc/self/task"), {}));
}

// What call_peer() answers. Errors: its own.
std::string ask(IoThread& io, const PeerAddress& whom, const std::string& path,
                std::chrono::milliseconds timeout) {
  std::string answer;
  io.wait_for([&](Completion done) {
    asio::co_spawn(io.context(), call_peer(whom, "GET", path, "", timeout),
                   [&answer, done](const std::exception_ptr& failed, std::string body) {
                     answer = std::move(body);
                     try {
                       if (failed) std::rethrow_exception(failed);
                       done(std::nullopt, 0);
                     } catch (const Error& error) {
                       done(error, 0);
                     }
                   });
  });
  return answer;
}

PeerAddress peer(const std::string& address) { return {"the peer", address, "token"}; }

}  // namespace

extern "C" int getaddrinfo(const char* host, const char* port, const addrinfo* hints,
                           addrinfo** result) {
  name_service().ask(host);
  using Function = int (*)(const char*, const char*, const addrinfo*, addrinfo**);
  static const auto kReal = reinterpret_cast<Function>(::dlsym(RTLD_NEXT, "getaddrinfo"));
  return kReal(host, port, hints, result);
}

TEST_CASE("a request whose client goes away is cancelled, and then its connection ends") {
  for (const bool local : {false, true}) {
    CAPTURE(local);
    Server server;
    auto client = server.client(local);
    CHECK(code_of([&] { client.call("GET", "/wait", "", 100ms); }) == Errc::timed_out);
    CHECK(eventually([&] { return server.handler.waiting == 0 && server.handler.closed == 1; }));
  }
}

TEST_CASE("what comes ahead of an answer is kept, and answered in order") {
  Server server;
  const auto early = server.send(get("/wait") + get("/first"));
  REQUIRE(eventually([&] { return server.handler.waiting == 1; }));
  const auto second = get("/second");
  REQUIRE(::send(early.get(), second.data(), second.size(), MSG_NOSIGNAL) > 0);
  server.client(true).call("GET", "/go", "", 5s);
  std::string answers;
  char buffer[4096];
  while (answers.find("/second") == std::string::npos) {
    const auto got = ::recv(early.get(), buffer, sizeof buffer, 0);
    REQUIRE(got > 0);
    answers.append(buffer, static_cast<std::size_t>(got));
  }
  CHECK(answers.find("/wait") < answers.find("/first"));
  CHECK(answers.find("/first") < answers.find("/second"));
}

TEST_CASE("a client that sent more and went away is noticed, as is one that never stops sending") {
  Server server;
  auto socket = server.send(get("/wait") + get("/first"));
  REQUIRE(eventually([&] { return server.handler.waiting == 1; }));
  socket.reset();
  CHECK(eventually([&] { return server.handler.waiting == 0 && server.handler.closed == 1; }));

  socket = server.send(get("/wait"));
  REQUIRE(eventually([&] { return server.handler.waiting == 1; }));
  const timeval patience{1, 0};  // For a server that takes none of it.
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  const std::string flood(1 << 20, 'x');
  for (int i = 0; i < 64; ++i)
    if (::send(socket.get(), flood.data(), flood.size(), MSG_NOSIGNAL) < 0) break;
  CHECK(eventually([&] { return server.handler.waiting == 0 && server.handler.closed == 2; }));
}

TEST_CASE("a name service that does not answer holds no call beyond its time") {
  const auto before = threads();
  name_service().hold();
  {
    const auto start = std::chrono::steady_clock::now();
    IoThread io("test-io");
    const auto late = error_of([&] { (void)ask(io, peer("a.slow:1"), "/", 200ms); });
    CHECK(late.code() == Errc::timed_out);
    CHECK(std::string(late.what()).find("the peer") != std::string::npos);
    ControlClient client("b.slow:1", "", "the other");
    CHECK(code_of([&] { client.call("GET", "/", "", 200ms); }) == Errc::timed_out);
    CHECK(std::chrono::steady_clock::now() - start < 2s);
    CHECK(name_service().asked() == 2);
  }
  name_service().release();
  CHECK(eventually([&] { return threads() == before; }));
}

TEST_CASE("calls that give up leave no thread each behind, and all threads end") {
  const auto before = threads();
  name_service().hold();
  for (int i = 0; i < 20; ++i) {
    ControlClient same("same.slow:1", "", "x");
    CHECK(code_of([&] { same.call("GET", "/", "", 5ms); }) == Errc::timed_out);
  }
  CHECK(threads() == before + 1);
  for (int i = 0; i < 20; ++i) {
    ControlClient other(std::to_string(i) + ".slow:1", "", "x");
    CHECK(code_of([&] { other.call("GET", "/", "", 5ms); }) == Errc::timed_out);
  }
  CHECK(threads() == before + kMaxLookups);
  // Digits need no name service.
  ControlClient digits("127.0.0.1:1", "", "x");
  CHECK(code_of([&] { digits.call("GET", "/", "", 1s); }) == Errc::peer_lost);
  name_service().release();
  CHECK(eventually([&] { return threads() == before; }));
}

TEST_CASE("a call in progress does not outlive its context, whenever the answer comes") {
  name_service().hold();
  {
    IoThread io("test-io");
    asio::co_spawn(io.context(), call_peer(peer("c.slow:1"), "GET", "/", "", 1h),
                   [](std::exception_ptr, const std::string&) {});
    CHECK(eventually([&] { return name_service().asked() == 1; }));
  }
  name_service().release();
}

TEST_CASE("a name is looked up, an unknown one is an error that says so") {
  Server server;
  const auto port = server.address.substr(server.address.rfind(':'));
  ControlClient client("localhost" + port, "token token token token", "the server");
  CHECK(client.call("GET", "/now", "", 5s).body == "/now");
  IoThread io("test-io");
  CHECK(ask(io, {"the peer", "localhost" + port, "token token token token"}, "/now", 5s) == "/now");
  const auto error = error_of([&] { (void)ask(io, peer("no.such.host.invalid:1"), "/", 5s); });
  CHECK(error.code() == Errc::peer_lost);
  CHECK(std::string(error.what()).find("no.such.host.invalid") != std::string::npos);
}
