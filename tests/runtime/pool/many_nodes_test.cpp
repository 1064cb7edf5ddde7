// Goal:   one daemon serves sixty-four others at once, both ways, on the one thread that it has,
// and
//         takes memory and descriptors for each in bounds.
// Method: real daemons on loopback; a client lets each push to the one, while that one pushes to
// each.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>
#include <thread>

#include "live_pool.h"
#include "region_checks.h"

using namespace causeway;
using namespace causeway::test;

namespace {

constexpr std::size_t kOthers = 64;
constexpr std::size_t kBytes = 1 << 20;

std::string name_of(std::size_t i) { return fmt::format("n{}", i); }

std::string cluster() {
  auto text = fmt::format(
      "name: many\nnodes:\n  - {{name: hub, devices: [{{gpu: h100-sxm, capacity: {} MiB}}]}}\n",
      4 * kOthers);
  for (std::size_t i = 0; i < kOthers; ++i)
    text += fmt::format("  - {{name: {}, devices: [{{gpu: rtx-5090, capacity: 4 MiB}}]}}\n",
                        name_of(i));
  text += "links:\n";
  for (std::size_t i = 0; i < kOthers; ++i)
    text +=
        fmt::format("  - {{between: [hub, {}], bandwidth: 1 GB/s, latency: 100 us}}\n", name_of(i));
  return text;
}

struct Usage {
  std::size_t threads = 0;
  std::size_t descriptors = 0;
  std::size_t own_kib = 0;  // Not what it has lent.
};

Usage usage_of(pid_t process) {
  const auto folder = fmt::format("/proc/{}/", process);
  const auto count = [&](const char* what) {
    const std::filesystem::directory_iterator list(folder + what);
    return static_cast<std::size_t>(std::distance(begin(list), end(list)));
  };
  std::ifstream file(folder + "status");
  std::size_t kib = 0;
  for (std::string word; file >> word && word != "RssAnon:";) {
  }
  file >> kib;
  return {count("task"), count("fd"), kib};
}

// What one of the others exchanges with the hub.
struct Exchange {
  Region there, here;  // What each sends.
  Region arrived_here, arrived_there;
};

}  // namespace

TEST_CASE("a node exchanges bytes with sixty-four others at once") {
  std::vector<std::string> nodes{"hub"};
  for (std::size_t i = 0; i < kOthers; ++i) nodes.push_back(name_of(i));
  LivePool live(cluster(), nodes);
  auto pool = live.connect("hub");
  const auto hub = live.daemon("hub").id().pid;
  const auto allocate = [&](const std::string& node) {
    return pool.allocate(kBytes, {.only = {device((node + "/gpu0").c_str())}});
  };
  std::vector<Exchange> exchanges;
  for (std::size_t i = 0; i < kOthers; ++i) {
    const auto node = name_of(i);
    exchanges.push_back({allocate(node), allocate("hub"), allocate("hub"), allocate(node)});
    exchanges[i].there.write(0, pattern(kBytes, i));
    exchanges[i].here.write(0, pattern(kBytes, kOthers + i));
  }
  const auto before = usage_of(hub);

  std::mutex mutex;
  std::vector<std::string> errors;
  const auto copy = [&](Region& to, const Region& from) {
    try {
      pool.copy(to, 0, from, 0, kBytes);
    } catch (const std::exception& error) {
      const std::lock_guard lock(mutex);
      errors.emplace_back(error.what());
    }
  };
  {
    std::vector<std::jthread> threads;
    for (auto& each : exchanges) {
      threads.emplace_back([&] { copy(each.arrived_here, each.there); });
      threads.emplace_back([&] { copy(each.arrived_there, each.here); });
    }
  }
  INFO(errors.size(), " failed, the first: ", errors.empty() ? "" : errors.front());
  CHECK(errors.empty());
  for (std::size_t i = 0; i < kOthers; ++i) {
    CHECK((read_all(exchanges[i].arrived_here) == pattern(kBytes, i)));
    CHECK((read_all(exchanges[i].arrived_there) == pattern(kBytes, kOthers + i)));
  }

  const auto after = usage_of(hub);
  const auto per_node = [](std::size_t was, std::size_t is) {
    return is < was ? 0 : (is - was) / kOthers;
  };
  MESSAGE("the hub: ", before.threads, " threads before and ", after.threads, " after; per node ",
          per_node(before.descriptors, after.descriptors), " descriptors and ",
          per_node(before.own_kib, after.own_kib), " KiB more");
  CHECK(after.threads == before.threads);
  CHECK(per_node(before.descriptors, after.descriptors) <= 16);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  CHECK(per_node(before.own_kib, after.own_kib) <= 512);  // Sanitizers have books of their own.
#endif
}
