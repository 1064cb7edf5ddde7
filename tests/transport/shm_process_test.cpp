// Goal:   a peer with which this process shares memory may die, stop or come back at any moment:
//         whoever waits for it learns so in time, and no buffer is touched after its completion.
// Method: a second program, ucx_peer, killed and stopped by signals while messages are under way.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <sys/resource.h>
#include <sys/wait.h>

#include <filesystem>
#include <fstream>

#include "tests/transport/spawned_process.h"
#include "transport/shm/sharing_transport.h"
#include "transport/ucx/ucx_transport.h"

#define CHANNEL_SUITE_HELPERS_ONLY
#include "tests/conformance/channel_suite.h"

using namespace channel_suite;
using causeway::test::SpawnedProcess;

namespace {

constexpr auto kNoticed = 1s;  // Milliseconds, on a machine that has a core for it.

struct Client {
  IoThread thread{"client"};
  std::unique_ptr<Transport> transport;

  Client() {
    thread.run_on([&] {
      transport = make_sharing_transport(thread.context(), {}, [&](Transport::Accepted accepted) {
        return make_ucx_transport(thread.context(), {"", "client", nullptr, std::move(accepted)});
      });
    });
  }
  ~Client() {
    thread.run_on([&] { transport.reset(); });
  }
};

struct Pair {
  SpawnedProcess peer;
  Client& client;
  Side side;

  explicit Pair(Client& own, const std::vector<std::string>& more = {})
      : peer(start(more)), client(own) {
    const auto result = connect(own.thread, *own.transport, peer.read_line(),
                                {Hello::Role::client, "alice", 7, "secret"}, side, in(20s));
    INFO(result.text);
    REQUIRE_FALSE(result.code);
    REQUIRE(shares_memory(*side.channel));
  }
  ~Pair() { side.drop(); }

  static SpawnedProcess start(const std::vector<std::string>& more) {
    std::vector<std::string> command{UCX_PEER, "share"};
    command.insert(command.end(), more.begin(), more.end());
    return SpawnedProcess::start(command);
  }
  void stop() const {
    peer.signal(SIGSTOP);
    int status = 0;
    REQUIRE(::waitpid(peer.pid(), &status, WUNTRACED) == peer.pid());
    REQUIRE(WIFSTOPPED(status));
  }
  void echo(std::size_t size, std::uint64_t seed) const {
    const auto source = pattern(size, seed);
    Bytes echoed(size);
    auto received = side.receive(2, echoed);
    REQUIRE_FALSE(side.send(1, source).get().code);
    const auto got = received.get();
    INFO(got.text);
    REQUIRE_FALSE(got.code);
    REQUIRE(got.bytes == size);
    REQUIRE((echoed == source));
  }
};

// Of this process and of `other`.
double cpu_seconds(pid_t other) {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  };
  std::ifstream file("/proc/" + std::to_string(other) + "/stat");
  std::string word;
  double ticks = 0;
  for (int i = 1; file >> word && i <= 15; ++i)
    if (i >= 14) ticks += std::stod(word);  // utime, stime
  return seconds(usage.ru_utime) + seconds(usage.ru_stime) +
         ticks / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

std::size_t descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

}  // namespace

TEST_CASE("messages of every size cross between processes") {
  Client client;
  const Pair pair(client);
  for (const std::size_t size :
       {0, 1, 31, 32, 33, 4096, 16384, 16385, 32736, 65536, 1 << 20, (4 << 20) + 1, 8 << 20})
    for (std::uint64_t i = 0; i < 3; ++i) pair.echo(size, i);
  Bytes target(8);  // The channel below carries the rest.
  CHECK_FALSE(pair.side.read(target, {7, 1, 0}).get().code);
}

TEST_CASE("a killed peer is an error at once, whatever is under way") {
  Client client;
  for (int round = 0; round < 12; ++round) {
    INFO("round=", round);
    Pair pair(client);
    auto closing = pair.side.closing();
    Bytes message(4 << 20), target(4 << 20), never(8);
    std::vector<std::future<Result>> results;
    for (int i = 0; i < 3 && round > 0; ++i) {
      results.push_back(pair.side.receive(2, target));
      results.push_back(pair.side.send(1, message));
      results.push_back(pair.side.send(3, message));  // Nobody receives these.
    }
    results.push_back(pair.side.receive(9, never));
    if (round > 0) results[0].wait_for(std::chrono::microseconds(200 * round));
    const auto killed = std::chrono::steady_clock::now();
    pair.peer.signal(SIGKILL);
    for (auto& result : results) {
      REQUIRE((result.wait_until(killed + kNoticed) == std::future_status::ready));
      const auto got = result.get();
      INFO(got.text);
      CHECK((!got.code || got.code == Errc::peer_lost));
      if (got.code) CHECK(got.text.find("peer") != std::string::npos);
    }
    REQUIRE((closing.wait_until(killed + kNoticed) == std::future_status::ready));
    CHECK((closing.get().code == Errc::peer_lost));
    CHECK((pair.side.send(1, message).get().code == Errc::closed));
  }
}

TEST_CASE("a killed peer whose child holds its sockets is an error as soon") {
  Client client;
  Pair pair(client, {"6"});
  pair.echo(8, 1);  // So the peer has its channel, and the program runs.
  auto closing = pair.side.closing();
  const auto killed = std::chrono::steady_clock::now();
  pair.peer.signal(SIGKILL);
  REQUIRE((closing.wait_until(killed + kNoticed) == std::future_status::ready));
  CHECK((closing.get().code == Errc::peer_lost));
}

TEST_CASE("a stopped peer costs what waits its deadline, no buffer and no channel") {
  Client client;
  const Pair pair(client);
  pair.echo(8, 1);
  for (int round = 0; round < 4; ++round) {
    INFO("round=", round);
    Bytes large(8 << 20, std::byte{0x11}), target(8 << 20);
    // From the second round on some of it is under way.
    std::future<Result> started;
    if (round > 0) started = pair.side.send(1, large, in(400ms));
    if (round > 0) started.wait_for(std::chrono::microseconds(300 * round));
    pair.stop();
    auto sent = pair.side.send(3, large, in(400ms));
    auto received = pair.side.receive(4, target, in(400ms));
    CHECK((sent.get().code == Errc::timed_out));
    CHECK((received.get().code == Errc::timed_out));
    const auto first = round > 0 ? started.get().code : Errc::timed_out;
    CHECK((!first || first == Errc::timed_out));
    std::ranges::fill(large, std::byte{0x22});
    CHECK(pair.side.is_open());
    pair.peer.signal(SIGCONT);
    if (!first) {  // It had gone: then it comes back as it was.
      const auto got = pair.side.receive(2, target).get();
      REQUIRE_FALSE(got.code);
      REQUIRE(got.bytes == large.size());
      CHECK((target == Bytes(large.size(), std::byte{0x11})));
    }
    pair.echo(100, 2);  // What was taken back never comes.
  }
}

TEST_CASE("an idle channel burns no core on either side") {
  Client client;
  const Pair pair(client);
  pair.echo(1 << 20, 1);
  const auto before = cpu_seconds(pair.peer.pid());
  std::this_thread::sleep_for(1s);  // What is measured is this second.
  CHECK(cpu_seconds(pair.peer.pid()) - before < 0.05);
  pair.echo(1 << 20, 2);
}

TEST_CASE("channels that are gone leave no descriptor") {
  Client client;
  std::size_t before = 0;
  for (int round = 0; round < 6; ++round) {
    {
      Pair pair(client);
      pair.echo(100, 1);
      auto closing = pair.side.closing();
      if (round % 2 == 0) {
        pair.peer.signal(SIGKILL);
        closing.get();
      }
    }
    // Sockets linger for a moment below.
    const auto limit = std::chrono::steady_clock::now() + 5s;
    if (round < 2) before = std::max(before, descriptors());
    while (descriptors() > before && std::chrono::steady_clock::now() < limit)
      std::this_thread::sleep_for(10ms);
    CHECK(descriptors() <= before);
  }
}

TEST_CASE("a peer that dies or stops while it makes the acquaintance costs the deadline at most") {
  Client client;
  std::size_t before = 0;
  for (int round = 0; round < 60; ++round) {
    INFO("round=", round);
    {
      auto peer = Pair::start({});
      const auto address = peer.read_line();
      const bool stops = round % 3 == 2;
      Side side{&client.thread, nullptr};
      std::promise<Result> promise;
      auto connected = promise.get_future();
      const auto deadline = in(stops ? 700ms : 5000ms);
      client.thread.run_on([&] {
        client.transport->connect(
            address, {Hello::Role::client, "alice", 7, "secret"}, deadline,
            [&](std::optional<Error> error, std::shared_ptr<Channel> channel) {
              side.channel = std::move(channel);
              promise.set_value(error ? Result{error->code(), error->what(), 0} : Result{});
            });
      });
      // From the greeting below to the first message.
      connected.wait_for(std::chrono::microseconds(150 * round));
      peer.signal(stops ? SIGSTOP : SIGKILL);
      REQUIRE((connected.wait_until(deadline + 1s) == std::future_status::ready));
      const auto got = connected.get();
      INFO(got.text);
      if (got.code) {
        CHECK((got.code == Errc::peer_lost || got.code == Errc::timed_out));
      } else {
        auto closing = side.closing();
        peer.signal(SIGKILL);
        REQUIRE((closing.wait_for(kNoticed) == std::future_status::ready));
        CHECK((closing.get().code == Errc::peer_lost));
      }
      side.drop();
    }
    if (round == 2) before = descriptors();
  }
  const auto limit = std::chrono::steady_clock::now() + 5s;
  constexpr std::size_t kMadeOnce = 2;  // UCX makes some when it first needs them.
  while (descriptors() > before + kMadeOnce && std::chrono::steady_clock::now() < limit)
    std::this_thread::sleep_for(10ms);
  CHECK(descriptors() <= before + kMadeOnce);
}
