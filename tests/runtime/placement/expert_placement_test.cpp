// Experts on devices: equal to a brute force on small instances, and never past a device's memory.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "runtime/placement/expert_placement.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <optional>
#include <random>
#include <string_view>

using causeway::ExpertInstance;
using causeway::ExpertPlacement;

// Checks the slots and returns what the slowest device takes.
static double seconds_of(const ExpertInstance& instance,
                         const std::vector<std::uint32_t>& device_of) {
  std::vector<double> load(instance.devices.size(), 0);
  std::vector<std::uint64_t> bytes(instance.devices.size(), 0);
  for (std::size_t e = 0; e < device_of.size(); ++e) {
    load.at(device_of[e]) += instance.loads[e];
    bytes.at(device_of[e]) += instance.expert_bytes;
  }
  double seconds = 0;
  for (std::size_t d = 0; d < load.size(); ++d) {
    if (bytes[d] > instance.devices[d].available_bytes) return 1e300;
    seconds = std::max(seconds, load[d] / instance.devices[d].load_per_s);
  }
  return seconds;
}

static double brute_force(const ExpertInstance& instance, std::vector<std::uint32_t>& at,
                          std::size_t next) {
  if (next == at.size()) return seconds_of(instance, at);
  double best = 1e300;
  for (std::uint32_t d = 0; d < instance.devices.size(); ++d) {
    at[next] = d;
    best = std::min(best, brute_force(instance, at, next + 1));
  }
  return best;
}

TEST_CASE("1000 random instances: equal to a brute force, or refused with it") {
  int placed = 0;
  int refused = 0;
  for (std::uint64_t seed = 1; seed <= 1000; ++seed) {
    std::mt19937_64 random(seed);
    ExpertInstance instance;
    instance.expert_bytes = 1 + random() % 10;
    for (auto n = 1 + random() % 7; n > 0; --n)
      instance.loads.push_back(static_cast<double>(random() % 50));
    for (auto n = 1 + random() % 3; n > 0; --n)
      instance.devices.push_back(
          {static_cast<double>(1 + random() % 4), random() % (6 * instance.expert_bytes)});
    INFO("seed=", seed);
    std::vector<std::uint32_t> at(instance.loads.size(), 0);
    const double best = brute_force(instance, at, 0);
    std::optional<ExpertPlacement> placement;
    try {
      placement = causeway::place_experts(instance);
    } catch (const causeway::Error& error) {
      REQUIRE((error.code() == causeway::Errc::out_of_memory));
    }
    REQUIRE(placement.has_value() == (best < 1e300));
    ++(placement ? placed : refused);
    if (!placement) continue;
    REQUIRE(placement->optimal);
    REQUIRE(placement->seconds == doctest::Approx(best));
    REQUIRE(seconds_of(instance, placement->device_of) == doctest::Approx(best));
  }
  CHECK(placed > 300);
  CHECK(refused > 100);
}

TEST_CASE("256 experts of unequal load on a desktop and an H100 domain") {
  ExpertInstance instance;
  instance.expert_bytes = 44'000'000;
  std::mt19937_64 random(3);
  for (int i = 0; i < 256; ++i)
    instance.loads.push_back(1 + static_cast<double>(random() % 1000) / 100);
  for (int i = 0; i < 2; ++i) instance.devices.push_back({1.8, 4'000'000'000});
  for (int i = 0; i < 8; ++i) instance.devices.push_back({3.35, 10'000'000'000});
  const auto placement = causeway::place_experts(instance, 10'000);
  CHECK(seconds_of(instance, placement.device_of) == doctest::Approx(placement.seconds));
  CHECK(placement.seconds <= 1.01 * placement.lower_bound);
  const std::string certificate = placement.certificate();
  const bool honest = certificate.starts_with(placement.optimal ? "optimal" : "within ");
  CHECK(honest);
}

TEST_CASE("a refusal says how many more devices would do") {
  ExpertInstance instance;
  instance.expert_bytes = 10;
  instance.loads.assign(8, 1.0);
  instance.devices = {{1, 25}, {1, 35}};
  try {
    (void)causeway::place_experts(instance);
    CHECK(false);
  } catch (const causeway::Error& error) {
    CHECK(std::string_view(error.what()).find("the devices hold 5; 1 more") !=
          std::string_view::npos);
  }
  instance.devices.push_back({1, 35});
  CHECK(causeway::place_experts(instance).seconds == doctest::Approx(3));
  instance.devices[0].load_per_s = 0;
  CHECK_THROWS_AS((void)causeway::place_experts(instance), causeway::Error);
  CHECK_THROWS_AS((void)causeway::place_experts({}), causeway::Error);
}
