// Goal:   no byte is lent twice and none is lost, whatever the caller does and whenever host memory
//         runs out; and a hole that fits is always found.
// Method: edges by hand; then seeded random runs against a model too plain to be wrong (a bool per
//         granule). A failure prints seed and step; replay it with CAUSEWAY_TEST_SEED=<seed>.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "allocator/extent_allocator.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <new>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/allocator/host_memory_faults.h"

using causeway::Extent;
using causeway::ExtentAllocator;
using causeway::test::allocations;
using causeway::test::fail_countdown;

namespace {

constexpr std::uint64_t kGranule = 4096;

ExtentAllocator make(std::uint64_t granules) {
  return ExtentAllocator::create({granules * kGranule, kGranule}).value();
}

class Model {
 public:
  explicit Model(std::uint64_t granules) : live_(granules) {}

  void set(Extent extent, bool live) {
    const auto first = extent.offset_bytes / kGranule;
    for (auto i = first; i < first + extent.size_bytes / kGranule; ++i) {
      REQUIRE(live_.at(i) != live);
      live_[i] = live;
    }
  }
  [[nodiscard]] std::uint64_t largest_hole() const {
    std::uint64_t largest = 0;
    std::uint64_t run = 0;
    for (const bool live : live_) {
      run = live ? 0 : run + 1;
      largest = std::max(largest, run);
    }
    return largest * kGranule;
  }
  [[nodiscard]] std::uint64_t used() const {
    return static_cast<std::uint64_t>(std::count(live_.begin(), live_.end(), true)) * kGranule;
  }

 private:
  std::vector<bool> live_;
};

std::uint64_t rounded_up(std::uint64_t size_bytes) {
  return (size_bytes + kGranule - 1) / kGranule * kGranule;
}

// Sizes of every scale: a uniform draw would hardly ever fill one size class with many holes.
std::uint64_t draw_size(std::mt19937_64& random, std::uint64_t capacity_bytes) {
  if (random() % 50 == 0) return 0;
  return random() % ((capacity_bytes >> (random() % 8)) + 2);
}

void run_against_model(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto granules = 1 + random() % (random() % 4 == 0 ? 3000 : 100);
  const auto allocate_percent = 20 + random() % 70;
  auto allocator = make(granules);
  Model model(granules);
  std::vector<Extent> held;
  for (int step = 0; step < 500; ++step) {
    INFO("seed=", seed, " step=", step);
    if (held.empty() || random() % 100 < allocate_percent) {
      const auto size_bytes = draw_size(random, granules * kGranule);
      const auto extent = allocator.allocate(size_bytes);
      REQUIRE(extent.has_value() ==
              (size_bytes > 0 && rounded_up(size_bytes) <= model.largest_hole()));
      if (extent) {
        REQUIRE(extent->size_bytes == rounded_up(size_bytes));
        model.set(*extent, true);
        held.push_back(*extent);
      }
    } else {
      std::swap(held[random() % held.size()], held.back());
      const auto extent = held.back();
      REQUIRE_FALSE(allocator.release({extent.offset_bytes, extent.size_bytes + kGranule}));
      REQUIRE(allocator.release(extent));
      REQUIRE_FALSE(allocator.release(extent));
      model.set(extent, false);
      held.pop_back();
    }
    REQUIRE(allocator.check_invariants());
    REQUIRE(allocator.largest_hole_bytes() == model.largest_hole());
    REQUIRE(allocator.used_bytes() == model.used());
    REQUIRE(allocator.free_bytes() == granules * kGranule - model.used());
  }
}

}  // namespace

TEST_CASE("random runs match the model") {
  if (const char* seed = std::getenv("CAUSEWAY_TEST_SEED")) {
    run_against_model(std::stoull(seed));
    return;
  }
  for (std::uint64_t seed = 1; seed <= 100; ++seed) run_against_model(seed);
}

TEST_CASE("create refuses options that break the rules") {
  using Options = ExtentAllocator::Options;
  for (const auto bad : {Options{8192, 0}, {9000, 3000}, {0, 4096}, {8191, 4096}})
    CHECK_FALSE(ExtentAllocator::create(bad));
}

TEST_CASE("an impossible size is refused, also where rounding up would overflow") {
  const auto capacity_bytes = ~std::uint64_t{0} - kGranule + 1;
  auto allocator = ExtentAllocator::create({capacity_bytes, kGranule}).value();
  for (const auto bad : {std::uint64_t{0}, capacity_bytes + 1, ~std::uint64_t{0}})
    CHECK_FALSE(allocator.allocate(bad));
  CHECK((allocator.allocate(capacity_bytes - 1) == Extent{0, capacity_bytes}));
}

TEST_CASE("the largest books that 64 bits can count work") {
  auto allocator = ExtentAllocator::create({~std::uint64_t{0}, 1}).value();
  CHECK(allocator.largest_hole_bytes() == ~std::uint64_t{0});
  const auto small = allocator.allocate(1).value();
  const auto rest = allocator.allocate(~std::uint64_t{0} - 1).value();
  CHECK_FALSE(allocator.allocate(1));
  CHECK(allocator.release(small));
  CHECK(allocator.release(rest));
  CHECK(allocator.largest_hole_bytes() == ~std::uint64_t{0});
  CHECK(allocator.check_invariants());
}

TEST_CASE("a wrong release changes nothing") {
  auto allocator = make(4);
  const auto extent = allocator.allocate(2 * kGranule).value();
  for (const auto bad : {Extent{0, kGranule},
                         {kGranule, kGranule},
                         {2 * kGranule, 2 * kGranule},
                         {1, 2 * kGranule},
                         {0, 2 * kGranule + 1},
                         {0, 0},
                         {~std::uint64_t{0}, kGranule}})
    CHECK_FALSE(allocator.release(bad));  // A part, the middle, a hole, off the granule, nonsense.
  CHECK(allocator.release(extent));
  CHECK_FALSE(allocator.release(extent));
  CHECK(allocator.allocate(4 * kGranule));
}

// Plain TLSF looks only in classes whose every hole is large enough, and would refuse these.
TEST_CASE("the only hole that fits is found among many smaller ones of its size class") {
  auto allocator = make(50000);
  std::vector<Extent> holes;
  for (std::uint64_t i = 0; i < 40; ++i) {  // One class: 1024 to 1039 granules.
    holes.push_back(allocator.allocate((i == 3 ? 1039 : 1024 + i % 10) * kGranule).value());
    REQUIRE(allocator.allocate(kGranule));  // Keeps the holes apart.
  }
  REQUIRE(allocator.allocate(allocator.largest_hole_bytes()));
  for (const auto& hole : holes) REQUIRE(allocator.release(hole));
  CHECK(allocator.largest_hole_bytes() == 1039 * kGranule);
  CHECK_FALSE(allocator.allocate(1040 * kGranule));
  CHECK((allocator.allocate(1034 * kGranule) == Extent{holes[3].offset_bytes, 1034 * kGranule}));
  CHECK_FALSE(allocator.allocate(1034 * kGranule));
  CHECK(allocator.allocate(1033 * kGranule));
}

TEST_CASE("out of host memory at any point changes nothing") {
  // 40 extents make the books grow several times: each growth is a point that can fail.
  for (long n = 1;; ++n) {
    INFO("n=", n);
    auto allocator = make(1000);
    std::vector<Extent> held;
    held.reserve(100);
    bool failed = false;
    fail_countdown = n;
    for (std::uint64_t i = 0; i < 40; ++i) {
      const auto used_bytes = allocator.used_bytes();
      std::optional<Extent> extent;
      try {
        extent = allocator.allocate((1 + i) * kGranule / 2);
      } catch (const std::bad_alloc&) {
        failed = true;
        REQUIRE(allocator.used_bytes() == used_bytes);
        REQUIRE(allocator.check_invariants());
        extent = allocator.allocate((1 + i) * kGranule / 2);
      }
      REQUIRE(extent);
      held.push_back(*extent);
    }
    const bool out_of_points = fail_countdown > 0;
    fail_countdown = 0;
    REQUIRE(allocator.check_invariants());
    for (const auto& extent : held) REQUIRE(allocator.release(extent));
    REQUIRE(allocator.largest_hole_bytes() == 1000 * kGranule);
    REQUIRE(failed != out_of_points);
    if (out_of_points) {
      CHECK(n > 5);
      break;
    }
  }
}

TEST_CASE("release needs no host memory") {
  auto allocator = make(5000);
  std::vector<Extent> held;
  while (const auto extent = allocator.allocate(kGranule)) held.push_back(*extent);
  CHECK(held.size() == 5000);
  const auto before = allocations;
  bool all = true;
  for (std::size_t i = 0; i < held.size(); i += 2) all = all && allocator.release(held[i]);
  for (std::size_t i = 1; i < held.size(); i += 2) all = all && allocator.release(held[i]);
  CHECK(allocations == before);
  CHECK(all);
  CHECK(allocator.used_bytes() == 0);
  CHECK(allocator.check_invariants());
}

TEST_CASE("books move with their extents") {
  auto first = make(8);
  const auto extent = first.allocate(3 * kGranule).value();
  auto second = std::move(first);
  CHECK(second.used_bytes() == 3 * kGranule);
  CHECK(second.release(extent));
  CHECK(second.check_invariants());
}
