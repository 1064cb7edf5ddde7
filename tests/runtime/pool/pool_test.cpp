// Goal:   a region is the same bytes wherever they are, and nothing is lost or left behind.
// Method: real daemons on loopback; every test writes a pattern and reads it back another way; then
//         seeded runs against plain byte vectors. Deaths are real: SIGKILL.
#define DOCTEST_CONFIG_IMPLEMENT
#include "causeway/pool.h"

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <list>
#include <memory>
#include <optional>
#include <random>
#include <thread>

#include "live_pool.h"
#include "region_checks.h"
#include "runtime/pool/connections.h"
#include "runtime/pool/session.h"
#include "tests/error_of.h"

using namespace causeway;
using namespace causeway::test;
using namespace std::chrono_literals;

namespace {

constexpr auto kCluster = R"(
name: test
nodes:
  - name: a
    devices:
      - {gpu: rtx-5090, count: 2, capacity: 4 MiB}
  - name: b
    devices:
      - {gpu: h100-sxm, count: 2, capacity: 8 MiB}
links:
  - {between: [a, b], bandwidth: 1 GB/s, latency: 100 us}
)";

constexpr std::uint64_t kMiB = 1024 * 1024;

// Whether any process of this host has a connection to 127.0.0.1:PORT.
bool is_connected_to(const std::string& address) {
  const auto port = std::stoi(address.substr(address.rfind(':') + 1));
  char there[32];
  std::snprintf(there, sizeof there, " 0100007F:%04X 01 ", port);
  std::ifstream file("/proc/net/tcp");
  const std::string all{std::istreambuf_iterator<char>(file), {}};
  return all.find(there) != std::string::npos;
}

// A client for tests to kill: holds a region on both nodes and says so, with the id of the program
// that it has started.
int hold(const std::string& socket) {
  auto pool = Pool::connect({.socket_path = socket, .client_name = "victim"});
  const auto near = pool.allocate(3 * kMiB, {.near = device("a/gpu0")});
  auto far = pool.allocate(3 * kMiB, {.only = {device("b/gpu0")}});
  const std::vector<std::byte> bytes(kMiB);
  far.write(0, bytes);  // The data channel is open, too.
  const auto child = ::fork();
  if (child == 0) ::execlp("sleep", "sleep", "60", nullptr);
  std::cout << child << std::endl;
  ::pause();
  return 0;
}

// A test program that crashes while its daemon runs.
int crash() {
  LivePool live(kCluster, {"a"});
  std::cout << live.folder() << "\n" << live.daemon("a").id().to_string() << std::endl;
  ::raise(SIGKILL);
  return 0;
}

std::uint64_t crossed(Pool& pool, const std::string& from, const std::string& to) {
  std::uint64_t bytes = 0;
  for (const auto& route : pool.status().routes)
    if (route.from == from && route.to == to) bytes += route.bytes;
  return bytes;
}

}  // namespace

TEST_CASE("a region near a device of this node is mapped there") {
  LivePool live(kCluster, {"a", "b"});
  auto pool = live.connect("a");
  {
    auto region = pool.allocate(3 * kMiB + 5, {.near = device("a/gpu1"), .name = "weights"});
    CHECK(region.size_bytes() == 3 * kMiB + 5);
    REQUIRE(region.is_mapped());
    CHECK(region.extents().front().device == device("a/gpu1"));
    const auto bytes = pattern(region.size_bytes(), 1);
    std::memcpy(region.data(), bytes.data(), bytes.size());
    CHECK(read_all(region) == bytes);
    const auto status = pool.status();
    REQUIRE(status.regions.size() == 1);
    CHECK(status.regions[0].name == "weights");
    CHECK(status.regions[0].client == "test@a");
    CHECK(live.used_bytes() == 3 * kMiB + 64 * 1024);
  }
  CHECK(live.used_bytes() == 0);
  CHECK(pool.status().regions.empty());
}

TEST_CASE("a region that no device can hold spills to the next by cost, and reads the same") {
  LivePool live(kCluster, {"a", "b"});
  auto pool = live.connect("a");
  auto region = pool.allocate(18 * kMiB, {.near = device("a/gpu0")});
  std::vector<std::string> order;
  for (const auto& extent : region.extents()) order.push_back(extent.device.to_string());
  CHECK(order == std::vector<std::string>{"a/gpu0", "a/gpu1", "b/gpu0", "b/gpu1"});
  CHECK_FALSE(region.is_mapped());
  const auto refused = error_of([&] { (void)region.data(); });
  CHECK(refused.code() == Errc::unsupported);
  CHECK_CONTAINS(refused.what(), "b/gpu0");
  const auto bytes = pattern(region.size_bytes(), 2);
  region.write(0, bytes);
  CHECK(read_all(region) == bytes);
  std::vector<std::byte> part(9 * kMiB);  // Across three devices and two nodes.
  region.read(3 * kMiB + 7, part);
  CHECK(std::equal(part.begin(), part.end(), bytes.begin() + 3 * kMiB + 7));
}

TEST_CASE("what does not fit is refused with the figures, and nothing is kept") {
  LivePool live(kCluster, {"a", "b"});
  auto pool = live.connect("a");
  const auto whole = error_of([&] { (void)pool.allocate(25 * kMiB, {.name = "model"}); });
  CHECK(whole.code() == Errc::out_of_memory);
  CHECK_CONTAINS(whole.what(), std::to_string(25 * kMiB));
  CHECK_CONTAINS(whole.what(), std::to_string(24 * kMiB));
  const auto one = error_of([&] { (void)pool.allocate(5 * kMiB, {.only = {device("a/gpu0")}}); });
  CHECK(one.code() == Errc::out_of_memory);
  CHECK(error_of([&] { (void)pool.allocate(0); }).code() == Errc::invalid_argument);
  CHECK(error_of([&] { (void)pool.allocate(kMiB, {.near = device("c/gpu0")}); }).code() ==
        Errc::not_found);
  CHECK(live.used_bytes() == 0);
  CHECK(pool.allocate(24 * kMiB).size_bytes() == 24 * kMiB);
}

TEST_CASE("an offset outside of the region is refused") {
  LivePool live(kCluster, {"a", "b"});
  auto pool = live.connect("a");
  auto region = pool.allocate(kMiB, {.only = {device("b/gpu0")}});
  std::vector<std::byte> bytes(2);
  for (const auto offset : {kMiB - 1, kMiB, ~std::uint64_t{0}}) {
    CHECK(error_of([&] { region.read(offset, bytes); }).code() == Errc::out_of_bounds);
    CHECK(error_of([&] { region.write(offset, bytes); }).code() == Errc::out_of_bounds);
  }
  region.read(kMiB - 2, bytes);
}

TEST_CASE("copies go device to device, pushed, pulled, within a node and mapped") {
  LivePool live(kCluster, {"a", "b"});
  auto pool = live.connect("a");
  const auto bytes = pattern(3 * kMiB, 3);
  auto source = pool.allocate(bytes.size(), {.only = {device("a/gpu0")}});
  source.write(0, bytes);
  for (const char* name : {"a/gpu1", "b/gpu0", "b/gpu1"}) {
    INFO("to ", name);
    auto target = pool.allocate(bytes.size(), {.only = {device(name)}});
    const auto report = pool.copy(target, 0, source, 0, bytes.size());
    CHECK(report.bytes == bytes.size());
    CHECK(read_all(target) == bytes);
  }
  auto far = pool.allocate(bytes.size(), {.only = {device("b/gpu0")}});
  auto other = pool.allocate(bytes.size(), {.only = {device("b/gpu1")}});
  auto back = pool.allocate(bytes.size(), {.only = {device("a/gpu1")}});
  CHECK(pool.copy(far, 0, source, 0, bytes.size()).route == "a -> b (ucx)");
  CHECK(pool.copy(other, 0, far, 0, bytes.size()).route == "b (local)");
  std::vector<Pool::CopyPiece> pieces;
  for (std::uint64_t at = 0; at < bytes.size(); at += 4096) pieces.push_back({at, at, 4096});
  CHECK(pool.copy_batch(back, other, pieces, true).bytes == bytes.size());
  CHECK(read_all(back) == bytes);
  const auto refused = error_of([&] { pool.copy(back, 1, other, 0, bytes.size()); });
  CHECK(refused.code() == Errc::out_of_bounds);
  const auto overlap = error_of([&] { pool.copy(far, kMiB, far, 0, kMiB + 1); });
  CHECK(overlap.code() == Errc::invalid_argument);
  pool.copy(far, kMiB, far, 0, kMiB);
  auto expected = bytes;
  std::copy_n(bytes.begin(), kMiB, expected.begin() + kMiB);
  CHECK(read_all(far) == expected);
}

TEST_CASE("every byte that crosses is counted once") {
  LivePool live(kCluster, {"a", "b"});
  auto pool = live.connect("a");
  auto near = pool.allocate(4 * kMiB, {.only = {device("a/gpu0")}});
  auto far = pool.allocate(4 * kMiB, {.only = {device("b/gpu0")}});
  pool.copy(far, 0, near, 0, 4 * kMiB);
  CHECK(crossed(pool, "a", "b") == 4 * kMiB);
  CHECK(crossed(pool, "b", "a") == 0);
  const Pool::CopyPiece piece{0, 0, 3 * kMiB};
  pool.copy_batch(near, far, {&piece, 1}, true);
  CHECK(crossed(pool, "b", "a") == 3 * kMiB);
  std::vector<std::byte> bytes(1000);
  far.write(5, bytes);
  CHECK(crossed(pool, "a", "b") == 4 * kMiB + 1000);
}

TEST_CASE("threads that share a pool meet a node for the first time together") {
  LivePool live(kCluster, {"a", "b"});
  auto pool = live.connect("a");
  std::vector<std::thread> threads;
  std::atomic<int> right = 0;
  for (int i = 0; i < 6; ++i)
    threads.emplace_back([&, i] {
      const auto bytes = pattern(300'000, 100 + i);
      auto region = pool.allocate(bytes.size(), {.only = {device("b/gpu0")}});
      region.write(0, bytes);
      if (read_all(region) == bytes) ++right;
    });
  for (auto& thread : threads) thread.join();
  CHECK(right == 6);
  CHECK(live.used_bytes() == 0);
}

TEST_CASE("a node that does not answer holds up nobody who meets another one") {
  LivePool live(R"(
name: test
nodes:
  - {name: a, devices: [{gpu: rtx-5090, capacity: 4 MiB}]}
  - {name: b, devices: [{gpu: rtx-5090, capacity: 4 MiB}]}
  - {name: c, devices: [{gpu: rtx-5090, capacity: 4 MiB}]}
)",
                {"a", "b", "c"});
  auto pool =
      Pool::connect({.socket_path = live.socket("a"), .client_name = "test", .timeout = 4s});
  live.daemon("b").signal(SIGSTOP);
  std::thread waits(
      [&] { CHECK(code_of([&] { (void)pool.state()->link("b"); }) == Errc::timed_out); });
  CHECK(eventually([&] { return is_connected_to(live.control("b")); }));
  const auto start = std::chrono::steady_clock::now();
  (void)pool.state()->link("c");
  CHECK(std::chrono::steady_clock::now() - start < 900ms);
  {  // Its own time, and not the other's before it.
    const CallTime time(4s);
    CHECK(code_of([&] { (void)pool.state()->link("b"); }) == Errc::timed_out);
  }
  CHECK(std::chrono::steady_clock::now() - start < 5500ms);
  waits.join();
  live.daemon("b").signal(SIGCONT);
  (void)pool.state()->link("b");
}

TEST_CASE("one node that stands still does not cost everyone who allocates a second") {
  LivePool live(kCluster, {"a", "b"});
  auto pool = live.connect("a");
  const auto lists_b = [&] {
    const auto status = pool.status();
    return std::ranges::any_of(status.nodes,
                               [](const auto& n) { return n.name == "b" && n.alive; });
  };
  REQUIRE(lists_b());
  live.daemon("b").signal(SIGSTOP);
  CHECK_FALSE(lists_b());
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 3; ++i) (void)pool.allocate(kMiB, {.only = {device("a/gpu0")}});
  CHECK(std::chrono::steady_clock::now() - start < 2s);
  live.daemon("b").signal(SIGCONT);
  CHECK(eventually(lists_b));
}

TEST_CASE("what a copy that failed had sent does not land on what is written after it") {
  LivePool live(kCluster, {"a", "b"});
  auto pool =
      Pool::connect({.socket_path = live.socket("a"), .client_name = "test", .timeout = 1s});
  constexpr std::uint64_t kBytes = 16 << 10;  // Goes unasked: it lies in a's socket.
  auto near = pool.allocate(kBytes, {.only = {device("a/gpu0")}});
  auto far = pool.allocate(kBytes, {.only = {device("b/gpu0")}});
  const std::vector<std::byte> old(kBytes, std::byte{1}), fresh(kBytes, std::byte{2});
  far.write(0, old);
  (void)pool.copy(near, 0, far, 0, kBytes);
  live.daemon("a").signal(SIGSTOP);
  CHECK(code_of([&] { (void)pool.copy(near, 0, far, 0, kBytes); }) == Errc::timed_out);
  SUBCASE("its sender lives") {}
  SUBCASE("its sender dies") { live.daemon("b").signal(SIGKILL); }
  // A store would be hit as well.
  CHECK(code_of([&] { (void)near.data(); }) == Errc::timed_out);
  CHECK(code_of([&] { near.write(0, fresh); }) == Errc::timed_out);
  CHECK(read_all(near) == old);  // Needs nobody.
  live.daemon("a").signal(SIGCONT);
  near.write(0, fresh);
  for (int i = 0; i < 20; ++i) {
    (void)pool.status();
    REQUIRE(read_all(near) == fresh);
  }
  CHECK(near.data()[0] == std::byte{2});
}

TEST_CASE("a pool with all the time in the world writes again after a copy that failed") {
  LivePool live(kCluster, {"a", "b"});
  auto pool = Pool::connect(
      {.socket_path = live.socket("a"), .client_name = "test", .timeout = std::chrono::hours(2)});
  auto near = pool.allocate(kMiB, {.only = {device("a/gpu0")}});
  auto far = pool.allocate(kMiB, {.only = {device("b/gpu0")}});
  (void)pool.copy(near, 0, far, 0, kMiB);
  live.daemon("b").signal(SIGKILL);
  CHECK(code_of([&] { (void)pool.copy(near, 0, far, 0, kMiB); }) == Errc::peer_lost);
  const std::vector<std::byte> fresh(kMiB, std::byte{2});
  near.write(0, fresh);
  CHECK(read_all(near) == fresh);
}

TEST_CASE("a sender that stands still in the middle of a copy does not keep the place") {
  LivePool live(kCluster, {"a", "b"});
  auto pool =
      Pool::connect({.socket_path = live.socket("a"), .client_name = "test", .timeout = 1s});
  auto near = pool.allocate(2 * kMiB, {.only = {device("a/gpu0")}});
  auto far = pool.allocate(2 * kMiB, {.only = {device("b/gpu0")}});
  const std::vector<std::byte> old(2 * kMiB, std::byte{1}), fresh(2 * kMiB, std::byte{2});
  far.write(0, old);
  for (int round = 0; round < 2; ++round) {
    CAPTURE(round);
    std::thread copies([&] {
      const std::vector<Pool::CopyPiece> pieces(12, {0, 0, 2 * kMiB});
      // Until one meets the stop.
      CHECK(error_of([&] {
              for (;;) pool.copy_batch(near, far, pieces);
            }).code() != Errc::internal);
    });
    CHECK(eventually([&] { return read_all(near) == old; }));
    live.daemon("b").signal(SIGSTOP);
    copies.join();
    near.write(0, fresh);
    CHECK(read_all(near) == fresh);
    live.daemon("b").signal(SIGCONT);
    for (int i = 0; i < 20; ++i) {
      (void)pool.status();
      REQUIRE(read_all(near) == fresh);
    }
    CHECK(eventually([&] {
      try {
        pool.copy(near, 0, far, 0, 2 * kMiB);
        return true;
      } catch (const Error&) {
        return false;
      }
    }));
    near.write(0, fresh);
  }
}

TEST_CASE("two threads copy side by side, and a short call does not wait for them") {
  LivePool live(kCluster, {"a", "b"});
  auto pool = live.connect("a");
  auto near = pool.allocate(2 * kMiB, {.only = {device("a/gpu0")}});
  auto far = pool.allocate(2 * kMiB, {.only = {device("b/gpu0")}});
  const std::vector<Pool::CopyPiece> pieces(16'000, {0, kMiB, kMiB});  // 16 GiB.
  std::atomic<int> ended = 0;
  const auto copy = [&](Region& to, const Region& from, bool is_pull) {
    const auto error = error_of([&] { pool.copy_batch(to, from, pieces, is_pull); });
    ++ended;
    CHECK(error.code() == Errc::peer_lost);
  };
  // Node a executes both.
  std::thread push(copy, std::ref(far), std::cref(near), false);
  std::thread pull(copy, std::ref(near), std::cref(far), true);
  CHECK(
      eventually([&] { return crossed(pool, "a", "b") > 0 && crossed(pool, "b", "a") > 0; }, 60s));
  CHECK(pool.allocate(kMiB, {.only = {device("a/gpu1")}}).size_bytes() == kMiB);
  CHECK(ended == 0);
  live.kill("b");  // They have shown enough.
  push.join();
  pull.join();
}

TEST_CASE("more threads than connections all get their turn") {
  LivePool live(kCluster, {"a", "b"});
  auto pool = live.connect("a");
  auto near = pool.allocate(kMiB, {.only = {device("a/gpu0")}});
  auto far = pool.allocate(kMiB, {.only = {device("b/gpu0")}});
  const std::vector<Pool::CopyPiece> pieces(20, {0, 0, kMiB});
  std::atomic<std::uint64_t> copied = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 20; ++i)
    threads.emplace_back([&] { copied += pool.copy_batch(far, near, pieces).bytes; });
  for (auto& thread : threads) thread.join();
  CHECK(copied == 20 * 20 * kMiB);
}

TEST_CASE("a call's time holds with the wait for a connection, however many threads ask") {
  LivePool live(kCluster, {"a"});
  auto pool =
      Pool::connect({.socket_path = live.socket("a"), .client_name = "test", .timeout = 1s});
  live.daemon("a").signal(SIGSTOP);
  std::atomic<int> timed_out = 0;
  std::vector<std::thread> threads;
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 40; ++i)
    threads.emplace_back([&] {
      try {
        (void)pool.status();
      } catch (const Error& error) {
        timed_out += error.code() == Errc::timed_out ? 1 : 0;
      }
    });
  for (auto& thread : threads) thread.join();
  const auto took = std::chrono::steady_clock::now() - start;
  live.daemon("a").signal(SIGCONT);
  CHECK(timed_out == 40);
  CHECK(took >= 1s);
  CHECK(took < 1900ms);
  CHECK(pool.status().nodes.size() == 1);
}

TEST_CASE("a request that waits behind as many as may wait has its own time, a short one none") {
  Connections connections("127.0.0.1:1", "", "the daemon");
  using Use = Connections::Use;
  const auto soon = [] { return std::chrono::steady_clock::now() + 50ms; };
  std::list<std::unique_ptr<Connections::Taken>> taken;
  const auto take = [&](Use use) {
    taken.emplace_back(new Connections::Taken(connections.take(use, soon())));
  };
  for (std::size_t i = 1; i < Connections::kMaxConnections; ++i) take(Use::waits);
  const auto late = error_of([&] { take(Use::waits); });
  CHECK(late.code() == Errc::timed_out);
  CHECK_CONTAINS(late.what(), "the daemon");
  take(Use::brief);
  CHECK(code_of([&] { take(Use::brief); }) == Errc::timed_out);
  taken.pop_front();  // Each wait that failed has left no trace.
  take(Use::waits);
  CHECK(code_of([&] { take(Use::brief); }) == Errc::timed_out);
}

TEST_CASE("closing a pool ends what other threads have under way") {
  LivePool live(kCluster, {"a", "b"});
  auto pool = std::make_unique<Pool>(live.connect("a"));
  auto near = pool->allocate(2 * kMiB, {.only = {device("a/gpu0")}});
  auto far = pool->allocate(3 * kMiB, {.only = {device("b/gpu1")}});
  std::atomic<int> writes = 0;
  std::optional<Error> copy_end, write_end;
  // A request that waits. The Pool itself may not be used while it ends; what it shares may.
  std::thread copier([&, state = pool->state()] {
    const std::vector<Pool::CopyPiece> pieces(16'000, {0, kMiB, kMiB});  // 16 GiB.
    copy_end = error_of([&] { state->transfer(true, {"b", far.id()}, {"a", near.id()}, pieces); });
  });
  std::thread writer([&] {
    const std::vector<std::byte> bytes(far.size_bytes());
    write_end = error_of([&] {
      for (;; ++writes) far.write(0, bytes);
    });
  });
  CHECK(eventually([&] { return writes > 2 && crossed(*pool, "b", "a") > 0; }, 60s));
  pool.reset();
  copier.join();
  writer.join();
  CHECK(copy_end->code() == Errc::closed);
  CHECK(write_end->code() == Errc::closed);
  CHECK(eventually([&] { return live.used_bytes() == 0; }, 2s));
}

TEST_CASE("the daemons of a test program that crashes die with it") {
  const auto output =
      std::filesystem::temp_directory_path() / ("pool-test-" + std::to_string(::getpid()));
  Process program({"/proc/self/exe", "--crash"}, {}, output);
  CHECK(program.wait(30s) == -SIGKILL);
  std::ifstream said(output);
  std::string folder, daemon;
  std::getline(said, folder);
  std::getline(said, daemon);
  const auto id = tools::ProcessId::parse(daemon);
  REQUIRE(id);
  CHECK(eventually([&] { return !tools::Process::open(*id); }, 2s));
  std::filesystem::remove_all(folder);
  std::filesystem::remove(output);
}

TEST_CASE("an allocation that fails half way keeps nothing") {
  LivePool live(kCluster, {"a", "b"});
  auto pool = live.connect("a");
  (void)pool.status();  // The connection for requests stands.
  rlimit old{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &old) == 0);
  const auto next = ::dup(0);
  ::close(next);
  const rlimit tight{static_cast<rlim_t>(next), old.rlim_max};  // No descriptor can arrive.
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &tight) == 0);
  const auto failed = error_of([&] { (void)pool.allocate(4 * kMiB); });
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &old) == 0);
  CHECK(failed.code() == Errc::exhausted);
  CHECK(live.used_bytes() == 0);
}

TEST_CASE("a region moves to another device, another node and back, bytes and address intact") {
  LivePool live(kCluster, {"a", "b"});
  auto pool = live.connect("a");
  auto region = pool.allocate(3 * kMiB, {.only = {device("a/gpu0")}});
  const auto bytes = pattern(region.size_bytes(), 4);
  region.write(0, bytes);
  const auto* address = region.data();
  for (const char* name : {"a/gpu1", "b/gpu0", "b/gpu1", "a/gpu0"}) {
    INFO("to ", name);
    region.move(0, region.size_bytes(), device(name));
    for (const auto& extent : region.extents()) CHECK(extent.device == device(name));
    CHECK(read_all(region) == bytes);
    CHECK(live.used_bytes() == 3 * kMiB);
    CHECK(pool.status().regions.at(0).extents.at(0).device == device(name));
  }
  CHECK(region.data() == address);
  auto blocker = pool.allocate(3 * kMiB, {.only = {device("a/gpu1")}});
  const auto full = error_of([&] { region.move(0, 1, device("a/gpu1")); });
  CHECK(full.code() == Errc::out_of_memory);
  CHECK(read_all(region) == bytes);
  CHECK(region.data() == address);
}

TEST_CASE("a client that is killed gives everything back, though a program it started lives") {
  LivePool live(kCluster, {"a", "b"});
  const auto output = live.folder() + "/victim.out";
  Process victim({"/proc/self/exe", "--hold", live.socket("a")}, {}, output);
  pid_t child = 0;
  REQUIRE(eventually([&] { return static_cast<bool>(std::ifstream(output) >> child); }, 20s));
  REQUIRE(child > 0);
  CHECK(live.used_bytes() == 6 * kMiB);
  victim.signal(SIGKILL);
  CHECK(victim.wait(2s) == -SIGKILL);
  CHECK(eventually([&] { return live.used_bytes() == 0; }, 2s));
  CHECK(::kill(child, SIGKILL) == 0);  // It was there all the time.
  auto pool = live.connect("a");
  CHECK(pool.status().regions.empty());
  CHECK(pool.status().clients == std::vector<std::string>{"test@a"});
}

TEST_CASE("a daemon that is killed is an error that names it, within 2 s") {
  LivePool live(kCluster, {"a", "b"});
  auto pool = live.connect("a");
  auto far = pool.allocate(3 * kMiB, {.only = {device("b/gpu0")}});
  auto near = pool.allocate(3 * kMiB, {.only = {device("a/gpu0")}});
  std::vector<std::byte> bytes(kMiB);
  far.write(0, bytes);
  live.kill("b");
  const auto start = std::chrono::steady_clock::now();
  const auto lost = error_of([&] { far.read(0, bytes); });
  CHECK(lost.code() == Errc::peer_lost);
  CHECK_CONTAINS(lost.what(), "b");
  const auto copy = error_of([&] { pool.copy(far, 0, near, 0, kMiB); });
  CHECK(copy.code() == Errc::peer_lost);
  CHECK_CONTAINS(copy.what(), "b");
  CHECK(std::chrono::steady_clock::now() - start < 2s);
  near.write(0, bytes);  // The rest goes on.
  CHECK(eventually([&] { return !pool.status().nodes.at(1).alive; }, 2s));
  const auto spill = error_of([&] { (void)pool.allocate(8 * kMiB); });
  CHECK(spill.code() == Errc::out_of_memory);

  live.start("b");  // It joins again under its name, with nothing lent.
  auto again = live.connect("a");
  CHECK(eventually([&] { return again.status().nodes.at(1).alive; }, 5s));
  CHECK(again.allocate(8 * kMiB, {.only = {device("b/gpu0")}}).size_bytes() == 8 * kMiB);
}

TEST_CASE("the home daemon's death is an error of every later call, within 2 s") {
  LivePool live(kCluster, {"a"});
  auto pool = live.connect("a");
  auto region = pool.allocate(kMiB);
  live.kill("a");
  const auto lost = error_of([&] { (void)pool.allocate(kMiB); });
  CHECK(lost.code() == Errc::peer_lost);
  CHECK_CONTAINS(lost.what(), "node a");
  CHECK(region.data()[kMiB - 1] == std::byte{0});  // Mapped bytes stay while the region lives.
}

TEST_CASE("a node whose directory died joins the one that takes its place") {
  LivePool live(kCluster, {"a", "b"});
  const auto address = live.control("a");
  live.kill("a");
  live.start("a", address);
  auto pool = live.connect("a");
  CHECK(eventually([&] { return pool.status().nodes.size() == 2; }));
  CHECK(pool.allocate(8 * kMiB, {.only = {device("b/gpu0")}}).size_bytes() == 8 * kMiB);
}

TEST_CASE("a node that runs out of descriptors while the directory is away joins again") {
  LivePool live(kCluster, {"a", "b"});
  live.kill("b");
  live.kill("a");
  live.start("a", "localhost:0");  // A name: to look it up takes descriptors.
  const auto address = live.control("a");
  live.start("b");
  live.kill("a");
  // One descriptor is left: the lookup has it, and none is there to wait with.
  const auto pid = live.daemon("b").id().pid;
  rlimit old{};
  REQUIRE(::prlimit(pid, RLIMIT_NOFILE, nullptr, &old) == 0);
  CHECK(eventually([&] {
    rlim_t lowest = 0;
    while (std::filesystem::is_symlink("/proc/" + std::to_string(pid) + "/fd/" +
                                       std::to_string(lowest)))
      ++lowest;
    const rlimit tight{lowest + 1, old.rlim_max};
    if (::prlimit(pid, RLIMIT_NOFILE, &tight, nullptr) != 0) return false;
    std::ifstream log(live.folder() + "/b.log");
    const std::string text(std::istreambuf_iterator<char>(log), {});
    return text.find("Too many open files") != std::string::npos;
  }));
  REQUIRE(::prlimit(pid, RLIMIT_NOFILE, &old, nullptr) == 0);
  live.start("a", address);
  auto pool = live.connect("a");
  CHECK(eventually([&] { return pool.status().nodes.size() == 2; }));
}

TEST_CASE("a pool over TCP maps nothing and reads everything") {
  LivePool live(kCluster, {"a", "b"});
  auto pool = Pool::connect({.address = live.control("b"), .token = live.token()});
  auto region = pool.allocate(20 * kMiB);
  const auto bytes = pattern(region.size_bytes(), 5);
  region.write(0, bytes);
  CHECK_FALSE(region.is_mapped());
  CHECK(read_all(region) == bytes);
  const auto refused = error_of([&] {
    (void)Pool::connect({.address = live.control("b"), .token = "wrong wrong wrong wrong"});
  });
  CHECK(refused.code() == Errc::unauthenticated);
}

static void run_against_model(std::uint64_t seed) {
  INFO("seed=", seed);
  LivePool live(kCluster, {"a", "b"});
  std::mt19937_64 random(seed);
  const std::vector<DeviceName> devices{device("a/gpu0"), device("a/gpu1"), device("b/gpu0"),
                                        device("b/gpu1")};
  struct Held {
    Region region;
    std::vector<std::byte> bytes;
  };
  {
    auto pool = live.connect(random() % 2 ? "a" : "b");
    std::vector<Held> held;
    for (int step = 0; step < 120; ++step) {
      INFO("step=", step);
      const auto choice = random() % 10;
      if (held.empty() || choice < 3) {
        const auto size = 1 + random() % (3 * kMiB);
        try {
          auto region = pool.allocate(size, {.near = devices[random() % 4]});
          held.push_back({std::move(region), std::vector<std::byte>(size)});
        } catch (const Error& error) {
          REQUIRE(error.code() == Errc::out_of_memory);
        }
        continue;
      }
      auto& one = held[random() % held.size()];
      const auto at = random() % one.bytes.size();
      const auto size = 1 + random() % (one.bytes.size() - at);
      if (choice < 5) {
        const auto fresh = pattern(size, random());
        one.region.write(at, fresh);
        std::ranges::copy(fresh, one.bytes.begin() + static_cast<std::ptrdiff_t>(at));
      } else if (choice < 7) {
        try {
          one.region.move(at, size, devices[random() % 4]);
        } catch (const Error& error) {
          REQUIRE(error.code() == Errc::out_of_memory);
        }
      } else if (choice < 9) {
        auto& other = held[random() % held.size()];
        const auto to = random() % other.bytes.size();
        const auto both = std::min(size, other.bytes.size() - to);
        if (&other == &one) continue;
        pool.copy_batch(other.region, one.region, std::vector<Pool::CopyPiece>{{to, at, both}},
                        random() % 2 == 0);
        std::copy_n(one.bytes.begin() + static_cast<std::ptrdiff_t>(at), both,
                    other.bytes.begin() + static_cast<std::ptrdiff_t>(to));
      } else {
        std::swap(one, held.back());
        held.pop_back();
      }
      // Not by ==, which compares byte after byte, and each costs ThreadSanitizer as much as a
      // call.
      for (const auto& each : held) {
        const auto got = read_all(each.region);
        REQUIRE(got.size() == each.bytes.size());
        REQUIRE(std::memcmp(got.data(), each.bytes.data(), got.size()) == 0);
      }
    }
  }
  CHECK(live.used_bytes() == 0);
}

TEST_CASE("random runs match the model") {
  if (const char* seed = std::getenv("CAUSEWAY_TEST_SEED"))
    return run_against_model(std::stoull(seed));
  for (std::uint64_t seed = 1; seed <= 4; ++seed) run_against_model(seed);
}

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--hold") return hold(argv[2]);
  if (argc == 2 && std::string(argv[1]) == "--crash") return crash();
  return doctest::Context(argc, argv).run();
}
