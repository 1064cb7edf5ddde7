// Goal:   the control plane does no work for a client that is gone, strangers do not keep those
// with
//         the token out, and no call waits longer than it was told to, whatever the name service
//         does.
// Method: a server with a handler that waits, and raw sockets against it; a getaddrinfo() of this
//         program's own, which the linker takes before the system's, answers when it is told to.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <dlfcn.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/experimental/as_tuple.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/use_future.hpp>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>  // Boost 1.81 with g++ 12 and C++20 wants std::exchange before Asio.

#include "allocator/unique_fd.h"
#include "runtime/control/async_client.h"
#include "runtime/control/client.h"
#include "runtime/control/lookup.h"
#include "runtime/control/server.h"
#include "runtime/control/strangers.h"
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

// A stranger at this address of 127.0.0.0/8: connects and stays silent. Empty if it could not.
UniqueFd stranger(const std::string& address, std::uint32_t host) {
  const auto where = Lookup(address, "the server").get().at(0);
  sockaddr_in from{};
  from.sin_family = AF_INET;
  from.sin_addr.s_addr = htonl(host);
  UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&from), sizeof from) != 0 ||
      ::connect(socket.get(), where.data(), static_cast<socklen_t>(where.size())) != 0)
    socket.reset();
  return socket;
}

bool is_open(const UniqueFd& socket) {
  char byte = 0;
  return ::recv(socket.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
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

TEST_CASE("silent strangers, from one host or from many, keep nobody with the token out") {
  for (const bool many_hosts : {false, true}) {
    CAPTURE(many_hosts);
    Server server;
    std::vector<UniqueFd> strangers;
    for (std::uint32_t i = 0; i < 400; ++i) {
      strangers.push_back(stranger(server.address, 0x7f000101 + (many_hosts ? i : 0)));
      REQUIRE(strangers.back());
    }
    const auto start = std::chrono::steady_clock::now();
    auto client = server.client(false);
    CHECK(client.call("GET", "/now", "", 5s).body == "/now");
    CHECK(std::chrono::steady_clock::now() - start < 1s);
    // No more are kept than may be, and they are the youngest.
    CHECK(eventually([&] {
      return std::ranges::count_if(strangers, is_open) ==
             static_cast<std::ptrdiff_t>(kMaxStrangers) - 1;
    }));
    CHECK_FALSE(is_open(strangers.front()));
    CHECK(is_open(strangers.back()));
    // Who has shown the token is no stranger any more, whoever comes later.
    for (std::uint32_t i = 0; i < 200; ++i)
      strangers.at(i) = stranger(server.address, 0x7f000101 + (many_hosts ? 1000 + i : 0));
    CHECK(eventually([&] { return is_open(strangers.at(199)); }));
    CHECK(client.call("GET", "/later", "", 5s).body == "/later");
    CHECK(server.handler.closed > 0);
  }
}

TEST_CASE("strangers that come back as fast as they are sent away keep nobody out") {
  Server server;
  std::atomic<bool> done = false;
  std::thread crowd([&] {
    std::vector<UniqueFd> strangers(300);
    for (std::size_t i = 0; !done; i = (i + 1) % strangers.size())
      strangers.at(i) = stranger(server.address, 0x7f000101 + static_cast<std::uint32_t>(i % 150));
  });
  CHECK(eventually([&] { return server.handler.closed > 0; }));
  for (int i = 0; i < 100; ++i) CHECK_NOTHROW(server.client(false).call("GET", "/now", "", 5s));
  done = true;
  crowd.join();
}

TEST_CASE("the stranger that goes is the oldest of the host with the most, and had its time") {
  using Clock = Strangers::Clock;
  const auto address = [](const char* text) { return asio::ip::make_address(text); };
  const auto start = Clock::now();
  std::vector<int> gone;
  Strangers strangers;
  int number = 0;
  const auto arrive = [&](const char* from, std::chrono::milliseconds at) {
    const int id = ++number;
    strangers.arrive(
        static_cast<ConnectionId>(id), address(from), [&, id] { gone.push_back(id); }, start + at);
  };
  CHECK_FALSE(strangers.send_away_one(start));
  arrive("10.0.0.1", 0ms);           // 1
  arrive("10.0.0.2", 1ms);           // 2
  arrive("::ffff:10.0.0.2", 2ms);    // 3: the same host.
  arrive("2001:db8:0:1::1", 3ms);    // 4
  arrive("2001:db8:0:1::2", 4ms);    // 5: the same network.
  arrive("2001:db8:0:1:9::3", 5ms);  // 6
  arrive("2001:db8:0:2::1", 6ms);    // 7: another.
  const auto send_away = [&](std::chrono::milliseconds at) {
    REQUIRE(strangers.send_away_one(start + at));
    return gone.back();
  };
  CHECK(send_away(10ms) == 4);   // Nobody had its time: the largest crowd's oldest.
  CHECK(send_away(201ms) == 2);  // 1 and 2 had; of equal crowds, the oldest that is in one.
  CHECK(send_away(201ms) == 1);  // Alone in having had its time.
  CHECK(send_away(500ms) == 5);
  strangers.leave(3);
  strangers.leave(3);
  CHECK(send_away(500ms) == 6);
  CHECK(send_away(500ms) == 7);
  CHECK(strangers.size() == 0);
  for (std::size_t i = 0; i <= kMaxStrangers; ++i) arrive("10.0.0.1", 1s);
  CHECK(strangers.size() == kMaxStrangers);
  CHECK(gone.back() == 8);
}

TEST_CASE("no socket of the control plane is passed on to a program that the process starts") {
  Server server;
  auto over_tcp = server.client(false);
  auto over_unix = server.client(true);
  over_tcp.call("GET", "/now", "", 5s);
  over_unix.call("GET", "/now", "", 5s);
  IoThread io("test-io");
  const PeerAddress to{"the peer", server.address, "token token token token"};
  asio::ip::tcp::socket kept(io.context());
  asio::co_spawn(io.context(), call_peer(to, "GET", "/now", "", 5s, &kept), asio::use_future).get();
  int sockets = 0;
  server.io.run_on([&] {  // On the thread that may be closing one.
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      const int fd = std::stoi(entry.path().filename());
      struct stat status {};
      if (::fstat(fd, &status) != 0 || !S_ISSOCK(status.st_mode)) continue;
      sockaddr_storage bound{};
      socklen_t size = sizeof bound;
      REQUIRE(::getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size) == 0);
      CAPTURE(bound.ss_family);
      ++sockets;
      CHECK((::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    }
  });
  CHECK(sockets >= 8);  // Two that listen, both ends of three connections.
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

TEST_CASE("a call that finds no descriptor to wait with is an error that names the peer") {
  name_service().hold();
  {
    IoThread io("test-io");
    // As code and text: an exception that two threads hold is freed by whichever is last.
    using Failure = std::pair<Errc, std::string>;
    const auto call = [&](std::chrono::milliseconds timeout) {
      auto promise = std::make_shared<std::promise<Failure>>();
      auto failure = promise->get_future();
      asio::co_spawn(io.context(), call_peer(peer("d.slow:1"), "GET", "/", "", timeout),
                     [promise](const std::exception_ptr& thrown, const std::string&) {
                       const auto error = error_of([&] {
                         if (thrown) std::rethrow_exception(thrown);
                       });
                       promise->set_value({error.code(), error.what()});
                     });
      return failure;
    };
    auto first = call(5s);  // Its lookup serves the second as well.
    CHECK(eventually([&] { return name_service().asked() == 1; }));
    rlimit old{};
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &old) == 0);
    const auto next = ::dup(0);
    ::close(next);
    const rlimit tight{static_cast<rlim_t>(next), old.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &tight) == 0);
    auto second = call(5s);
    second.wait();
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &old) == 0);
    CHECK(second.get().second.find("the peer") != std::string::npos);
    name_service().release();
    CHECK(first.get().first == Errc::peer_lost);
  }
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
