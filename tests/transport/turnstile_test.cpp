// Goal:   what is in service is bounded, tenants share it by bytes, and nobody's end leaves a
// trace. Method: by hand, then a seeded model run against a plain account of all jobs.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "transport/ucx/turnstile.h"

#include <doctest/doctest.h>

#include <map>
#include <random>
#include <vector>

using causeway::ucx::Turnstile;

namespace {

constexpr std::uint64_t kMiB = 1 << 20;

struct World {
  explicit World(std::uint64_t most_bytes) : turnstile(most_bytes) {}
  void enter(int owner, std::uint64_t tenant, std::uint64_t size) {
    turnstile.enter({&owners[owner], tenant, size,
                     [this, owner, tenant, size] {
                       in_service.push_back({owner, tenant, size});
                       served[tenant] += size;
                     },
                     [this] { ++dropped; }});
  }
  void leave_first() {
    const auto [owner, tenant, size] = in_service.front();
    in_service.erase(in_service.begin());
    turnstile.leave(&owners[owner], tenant, size);
  }

  Turnstile turnstile;
  std::map<int, int> owners;
  struct Served {
    int owner;
    std::uint64_t tenant, size_bytes;
  };
  std::vector<Served> in_service;
  std::map<std::uint64_t, std::uint64_t> served;
  std::size_t dropped = 0;
};

}  // namespace

TEST_CASE("a job runs at once while there is room, and else when another leaves") {
  World world(8 * kMiB);
  for (int i = 0; i < 6; ++i) world.enter(1, 7, kMiB);
  CHECK(world.in_service.size() == 4);
  CHECK(world.turnstile.waiting() == 2);
  world.leave_first();
  CHECK(world.in_service.size() == 4);
  CHECK(world.turnstile.in_service_bytes() == 4 * kMiB);
  while (!world.in_service.empty()) world.leave_first();
  CHECK(world.served[7] == 6 * kMiB);
  CHECK(world.turnstile.in_service_bytes() == 0);
  world.enter(1, 7, 100 * kMiB);  // Larger than all the room, and alone.
  CHECK(world.in_service.size() == 1);
}

TEST_CASE("a tenant with many channels and large jobs gets no more than one with few small ones") {
  World world(8 * kMiB);
  for (int owner = 0; owner < 50; ++owner)
    for (int i = 0; i < 8; ++i) world.enter(owner, 1, kMiB);
  for (int i = 0; i < 400; ++i) world.enter(99, 2, kMiB / 4);
  world.served.clear();
  while (world.served[2] < 90 * kMiB) world.leave_first();
  CHECK(world.served[1] <= world.served[2] + 2 * kMiB);
  CHECK(world.served[2] <= world.served[1] + 2 * kMiB);
}

TEST_CASE("a tenant whose jobs never end holds nobody up but itself") {
  World world(64 * kMiB);
  for (int i = 0; i < 100; ++i) world.enter(1, 1, kMiB);
  const auto stuck = std::exchange(world.in_service, {});
  CHECK(stuck.size() == 32);
  for (int i = 0; i < 100; ++i) {
    world.enter(2, 2, kMiB);
    REQUIRE(world.in_service.size() == 1);
    world.leave_first();
  }
  const auto now = std::chrono::steady_clock::now();
  CHECK(world.turnstile.stalled(now - std::chrono::hours(1)).empty());
  const auto stalled = world.turnstile.stalled(now + std::chrono::hours(1));
  REQUIRE(stalled.size() == 1);
  CHECK(stalled.front() == &world.owners[1]);
}

TEST_CASE("who goes is forgotten: its jobs are dropped, its bytes are free") {
  World world(4 * kMiB);
  for (int i = 0; i < 4; ++i) world.enter(1, 1, kMiB);
  world.enter(2, 2, kMiB);
  world.turnstile.forget(&world.owners[1]);
  CHECK(world.dropped == 2);
  CHECK(world.turnstile.waiting() == 0);
  CHECK(world.turnstile.in_service_bytes() == kMiB);
  // What it had in service ends later, and counts no more.
  world.leave_first();
  CHECK(world.turnstile.in_service_bytes() == kMiB);
}

TEST_CASE("what waits can be withdrawn once, and only by its owner") {
  Turnstile turnstile(kMiB);
  int owner = 0, other = 0, dropped = 0, ran = 0;
  const auto enter = [&](std::uint64_t id) {
    turnstile.enter({&owner, 1, kMiB, [&] { ++ran; }, [&] { ++dropped; }, id});
  };
  enter(1);
  enter(2);
  enter(3);
  CHECK_FALSE(turnstile.withdraw(&owner, 1, 1));  // In service.
  CHECK_FALSE(turnstile.withdraw(&other, 1, 2));
  CHECK_FALSE(turnstile.withdraw(&owner, 2, 2));
  CHECK(turnstile.withdraw(&owner, 1, 2));
  CHECK_FALSE(turnstile.withdraw(&owner, 1, 2));
  CHECK(turnstile.withdraw(&owner, 1, 3));  // The last of its line.
  CHECK(dropped == 2);
  CHECK(turnstile.waiting() == 0);
  turnstile.leave(&owner, 1, kMiB);
  enter(4);
  CHECK(ran == 2);
  CHECK(turnstile.in_service_bytes() == kMiB);
}

TEST_CASE("jobs that end inside their own run do not nest") {
  Turnstile turnstile(kMiB);
  int owner = 0;
  int ran = 0;
  turnstile.enter({&owner, 1, kMiB, [] {}, [] {}});
  for (int i = 0; i < 100'000; ++i)
    turnstile.enter({&owner, 1, kMiB,
                     [&] {
                       ++ran;
                       turnstile.leave(&owner, 1, kMiB);
                     },
                     [] {}});
  turnstile.leave(&owner, 1, kMiB);
  CHECK(ran == 100'000);
  CHECK(turnstile.in_service_bytes() == 0);
}

TEST_CASE("model run: the bound holds, every job runs or is dropped once, nothing is left") {
  for (std::uint32_t seed = 0; seed < 200; ++seed) {
    INFO("seed ", seed);
    std::mt19937 random(seed);
    const std::uint64_t most = 1 + random() % (16 * kMiB);
    World world(most);
    std::size_t entered = 0, ran = 0;
    for (int step = 0; step < 2000; ++step) {
      const auto what = random() % 100;
      if (what < 55) {
        ++entered;
        world.enter(static_cast<int>(random() % 8), random() % 4, random() % (2 * kMiB));
      } else if (what < 97) {
        if (!world.in_service.empty()) world.leave_first(), ++ran;
      } else {
        const int gone = static_cast<int>(random() % 8);
        ran += std::erase_if(world.in_service, [&](auto& each) { return each.owner == gone; });
        world.turnstile.forget(&world.owners[gone]);
      }
      std::uint64_t bytes = 0;
      for (const auto& each : world.in_service) bytes += each.size_bytes;
      REQUIRE(world.turnstile.in_service_bytes() == bytes);
      const bool is_bounded = bytes <= most || world.in_service.size() == 1 ||
                              bytes - world.in_service.back().size_bytes == 0;
      REQUIRE(is_bounded);
      REQUIRE(entered == ran + world.in_service.size() + world.turnstile.waiting() + world.dropped);
    }
    while (!world.in_service.empty()) world.leave_first();
    CHECK(world.turnstile.waiting() == 0);
    CHECK(world.turnstile.in_service_bytes() == 0);
  }
}
