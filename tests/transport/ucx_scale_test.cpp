// Goal:   one thread serves a thousand channels; tenants share it fairly; what is in service is
//         bounded, and a channel that goes in mid-service costs the others nothing.
// Method: a server and a client transport in this process, a thread each.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>

#include "transport/ucx/ucx_transport.h"

#define CHANNEL_SUITE_HELPERS_ONLY
#include "tests/conformance/channel_suite.h"

using namespace channel_suite;

namespace {

constexpr RegionId kRegion = 1;

struct Scale {
  IoThread server_thread{"server"}, client_thread{"client"};
  Memory memory;
  std::vector<std::shared_ptr<Channel>> accepted;
  std::unique_ptr<Transport> server, client;
  std::vector<Side> sides;

  Scale() {
    server_thread.run_on([&] {
      server = make_ucx_transport(
          server_thread.context(),
          {"127.0.0.1:0", "server", &memory,
           [&](std::shared_ptr<Channel> channel) { accepted.push_back(std::move(channel)); }});
    });
    client_thread.run_on([&] {
      client = make_ucx_transport(client_thread.context(), {"", "client", nullptr, {}});
    });
  }
  ~Scale() {
    client_thread.run_on([&] {
      sides.clear();
      client.reset();
    });
    server_thread.run_on([&] {
      accepted.clear();
      server.reset();
    });
  }
  // `count` channels of `tenant`, some at a time.
  void connect(std::size_t count, SessionId tenant) {
    constexpr std::size_t kAtOnce = 32;
    for (std::size_t begin = 0; begin < count; begin += kAtOnce) {
      const auto some = std::min(kAtOnce, count - begin);
      std::vector<std::future<Result>> results;
      std::vector<std::shared_ptr<Channel>> channels(some);
      for (std::size_t i = 0; i < some; ++i) {
        auto promise = std::make_shared<std::promise<Result>>();
        results.push_back(promise->get_future());
        client_thread.run_on([&, i, promise] {
          client->connect(
              server->address(), {Hello::Role::client, "alice", tenant, "secret"}, in(30s),
              [&, i, promise](std::optional<Error> error, std::shared_ptr<Channel> channel) {
                channels[i] = std::move(channel);
                promise->set_value(error ? Result{error->code(), error->what()} : Result{});
              });
        });
      }
      for (auto& result : results) {
        const auto got = result.get();
        INFO(got.text);
        REQUIRE_FALSE(got.code);
      }
      for (auto& channel : channels) sides.push_back({&client_thread, std::move(channel)});
    }
  }
};

std::size_t threads() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return static_cast<std::size_t>(std::distance(begin(tasks), end(tasks)));
}

std::size_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::size_t all = 0, resident = 0;
  file >> all >> resident;
  return resident * 4096;
}

}  // namespace

TEST_CASE("a thousand channels need no thread each, and little memory") {
  constexpr std::size_t kChannels = 1000;
  rlimit files{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &files) == 0);
  if (files.rlim_max < 12 * kChannels) {
    MESSAGE("skipped: needs ", 12 * kChannels, " descriptors; `ulimit -Hn` says ", files.rlim_max);
    return;
  }
  files.rlim_cur = files.rlim_max;
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &files) == 0);
  Scale scale;
  scale.memory.regions[{7, kRegion}].bytes.resize(kChannels * 8);
  scale.connect(1, 7);
  const auto threads_before = threads();
  const auto bytes_before = resident_bytes();
  const auto begin = std::chrono::steady_clock::now();
  scale.connect(kChannels - 1, 7);
  const auto seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const auto each = (resident_bytes() - bytes_before) / kChannels;
  MESSAGE(kChannels, " channels opened in ", seconds, " s; both ends take ", each,
          " bytes per channel");
  CHECK(threads() == threads_before);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  CHECK(each < 256 * 1024);  // Sanitizers have books of their own.
#endif

  // All of them work, all at once.
  std::vector<Bytes> sent;
  std::vector<std::future<Result>> results;
  for (std::size_t i = 0; i < kChannels; ++i) sent.push_back(pattern(8, i));
  for (std::size_t i = 0; i < kChannels; ++i)
    results.push_back(scale.sides[i].write({7, kRegion, i * 8}, sent[i]));
  for (auto& result : results) REQUIRE_FALSE(result.get().code);
  for (std::size_t i = 0; i < kChannels; ++i)
    REQUIRE(std::equal(
        sent[i].begin(), sent[i].end(),
        scale.memory.regions[{7, kRegion}].bytes.begin() + static_cast<std::ptrdiff_t>(i * 8)));
}

TEST_CASE("a tenant with many channels leaves half to one with a single channel") {
  Scale scale;
  constexpr std::size_t kBytes = 16 << 20;
  scale.memory.regions[{1, kRegion}].bytes.resize(kBytes);
  scale.memory.regions[{2, kRegion}].bytes.resize(kBytes);
  scale.connect(1, 2);
  scale.connect(24, 1);
  const Bytes source(kBytes);
  // The greedy one keeps all its channels busy until the other has moved what it wants.
  std::atomic<bool> is_over{false};
  std::atomic<std::uint64_t> greedy_bytes{0};
  std::atomic<std::size_t> running{0};
  const std::function<void(Channel&)> more = [&](Channel& channel) {
    ++running;
    channel.write({1, kRegion, 0}, source, in(kAmple),
                  [&](std::optional<Error> error, std::uint64_t bytes) {
                    --running;
                    if (error) std::abort();
                    greedy_bytes += bytes;
                    if (!is_over) more(channel);
                  });
  };
  scale.client_thread.run_on([&] {
    for (std::size_t i = 1; i < scale.sides.size(); ++i) more(*scale.sides[i].channel);
  });
  while (greedy_bytes < 24 * kBytes) std::this_thread::yield();  // Until it has the server busy.
  const auto before = greedy_bytes.load();
  constexpr int kWrites = 12;
  for (int i = 0; i < kWrites; ++i)
    REQUIRE_FALSE(scale.sides[0].write({2, kRegion, 0}, source).get().code);
  const auto greedy = static_cast<double>(greedy_bytes - before);
  is_over = true;
  while (running > 0) std::this_thread::yield();
  const double ratio = greedy / (kWrites * static_cast<double>(kBytes));
  MESSAGE("the greedy tenant moved ", ratio, " times what the other one did");
  // 24 and more without turns. Within what is in service, UCX serves connections alike: 4 to 10; by
  // streams 2.6.
  const char* const wish = std::getenv("CAUSEWAY_LINK_STREAM");
  CHECK(ratio < (wish != nullptr && std::string(wish) == "yes" ? 5 : 15));
}

TEST_CASE("a channel that goes while its requests wait costs the others nothing") {
  Scale scale;
  constexpr std::size_t kChannels = 16, kBytes = 16 << 20;
  for (SessionId tenant = 1; tenant <= kChannels; ++tenant) {
    scale.memory.regions[{tenant, kRegion}].bytes.resize(kBytes);
    scale.connect(1, tenant);
  }
  for (int round = 0; round < 3; ++round) {
    INFO("round ", round);
    std::vector<Bytes> bytes;
    std::vector<std::future<Result>> results;
    for (std::size_t i = 0; i < kChannels; ++i)
      bytes.push_back(pattern(kBytes, i + static_cast<std::size_t>(round)));
    for (std::size_t i = 0; i < kChannels; ++i) {
      const auto tenant = static_cast<SessionId>(i + 1);
      if (i % 2 == 0)
        results.push_back(scale.sides[i].write({tenant, kRegion, 0}, bytes[i]));
      else
        results.push_back(scale.sides[i].read(bytes[i], {tenant, kRegion, 0}));
    }
    const auto gone = static_cast<std::size_t>(2 * round);
    scale.sides[gone].close(Error(Errc::cancelled, "enough"));
    for (std::size_t i = 0; i < kChannels; ++i) {
      const auto result = results[i].get();
      INFO(i, ": ", result.text);
      if (i != gone && scale.sides[i].is_open()) CHECK_FALSE(result.code);
    }
    for (std::size_t i = 0; i < kChannels; ++i)
      if (scale.sides[i].is_open())
        CHECK((bytes[i] == scale.memory.regions[{i + 1, kRegion}].bytes));
  }
}
