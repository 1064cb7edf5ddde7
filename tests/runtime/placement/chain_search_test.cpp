// The chain search against a brute force over every order of options and every split: random tables
// that need not be monotone, unequal links, memory limits, options of several devices, and all
// objectives.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "runtime/placement/chain_search.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <optional>
#include <random>
#include <string>
#include <vector>

using causeway::ChainProblem;
using causeway::ChainStage;
using causeway::Objective;

namespace {

// Instrumented code may take longer.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr double kSlowdown = 20;
#else
constexpr double kSlowdown = 1;
#endif

// A problem with the tables behind its functions.
struct Instance {
  ChainProblem problem;
  std::vector<double> seconds;             // [option][first][end]
  std::vector<std::uint32_t> most_behind;  // The same: memory for so many micro-batches in flight.
  std::vector<double> send;                // [from][to][boundary]

  [[nodiscard]] std::size_t at(std::size_t option, std::uint32_t first, std::uint32_t end) const {
    const std::size_t n = problem.layers + 1;
    return (option * n + first) * n + end;
  }
  [[nodiscard]] std::size_t link(std::size_t from, std::size_t to, std::uint32_t boundary) const {
    return (from * problem.options.size() + to) * (problem.layers + 1) + boundary;
  }
  void connect() {
    problem.seconds = [this](std::size_t option, std::uint32_t first, std::uint32_t end,
                             std::uint32_t behind) {
      const auto i = at(option, first, end);
      const auto in_flight = std::min(problem.micro_batches, behind + 1);
      return in_flight <= most_behind[i] ? seconds[i] : ChainProblem::kImpossible;
    };
    problem.send_seconds = [this](std::size_t from, std::size_t to, std::uint32_t boundary) {
      return send[link(from, to, boundary)];
    };
  }
};

void fill(Instance& instance, std::mt19937_64& random) {
  auto& problem = instance.problem;
  const auto n = problem.layers + 1;
  const auto unit = [&] { return static_cast<double>(random() % 1000) / 1000; };
  instance.seconds.assign(problem.options.size() * n * n, ChainProblem::kImpossible);
  instance.most_behind.assign(instance.seconds.size(), 0);
  const bool linear = random() % 3 == 0;
  std::vector<double> weight;
  for (std::uint32_t i = 0; i < n; ++i) weight.push_back(0.1 + unit());
  for (std::size_t o = 0; o < problem.options.size(); ++o) {
    const double pace = 0.2 + 2 * unit();
    const auto room = 1 + random() % (2 * n);
    for (std::uint32_t first = 0; first < n; ++first)
      for (std::uint32_t end = first + 1; end < n; ++end) {
        double work = 0;
        for (auto i = first; i < end; ++i) work += weight[i];
        // Not monotone: a longer stage may be the faster one.
        instance.seconds[instance.at(o, first, end)] =
            random() % 16 == 0 ? 0 : work * pace * (linear ? 1 : 0.3 + unit());
        instance.most_behind[instance.at(o, first, end)] =
            static_cast<std::uint32_t>(2 * room / (end - first));
      }
  }
  instance.send.clear();
  for (std::size_t i = 0; i < problem.options.size() * problem.options.size() * n; ++i)
    instance.send.push_back(random() % 7 == 0 ? ChainProblem::kImpossible : unit());
}

Instance random_instance(std::mt19937_64& random) {
  Instance instance;
  auto& problem = instance.problem;
  problem.layers = 1 + static_cast<std::uint32_t>(random() % 12);
  const auto devices = 1 + random() % 6;
  const auto types = 1 + random() % devices;
  problem.counts.assign(types, 1);
  for (auto left = devices - types; left > 0; --left) ++problem.counts[random() % types];
  for (std::size_t type = 0; type < types; ++type) {
    problem.options.push_back({std::vector<std::uint16_t>(types, 0), 0});
    problem.options.back().uses[type] = 1;
  }
  // Islands: two or more of a type, or two types in uneven parts.
  for (std::uint64_t extra = random() % 3; extra > 0; --extra) {
    causeway::ChainOption option{std::vector<std::uint16_t>(types, 0), 0};
    option.uses[random() % types] = static_cast<std::uint16_t>(1 + random() % 3);
    option.uses[random() % types] += 1;
    problem.options.push_back(option);
  }
  for (auto& option : problem.options) option.busy_watts = static_cast<double>(random() % 50);
  for (std::size_t type = 0; type < types; ++type) {
    problem.idle_watts.push_back(static_cast<double>(random() % 20));
    problem.price_per_s.push_back(static_cast<double>(random() % 10));
  }
  problem.objective = static_cast<Objective>(random() % 5);
  problem.micro_batches = 1 + static_cast<std::uint32_t>(random() % 6);
  if (random() % 4 == 0)
    problem.stages =
        1 + static_cast<std::uint32_t>(random() % std::min<std::uint64_t>(devices, problem.layers));
  else if (random() % 4 == 0)
    problem.most_stages = 1 + static_cast<std::uint32_t>(random() % 4);
  fill(instance, random);
  return instance;
}

class BruteForce {
 public:
  explicit BruteForce(const ChainProblem& problem) : problem_(problem), left_(problem.counts) {}

  std::optional<double> best() {
    extend(problem_.layers);
    return best_;
  }

 private:
  // The definitions of <causeway/plan.h>, from the stages alone.
  [[nodiscard]] double value() const {
    double longest = 0;
    double sum = 0;
    double busy = 0;
    double idle = 0;
    double price = 0;
    for (const auto& stage : stages_) {
      longest = std::max(longest, stage.seconds);
      sum += stage.seconds;
      // Watts above idle are drawn while a stage computes; a send leaves it idle.
      busy += problem_.seconds(stage.option, stage.first_layer, stage.end_layer,
                               static_cast<std::uint32_t>(&stage - stages_.data())) *
              problem_.options[stage.option].busy_watts;
      for (std::size_t type = 0; type < left_.size(); ++type) {
        idle += problem_.options[stage.option].uses[type] * problem_.idle_watts[type];
        price += problem_.options[stage.option].uses[type] * problem_.price_per_s[type];
      }
    }
    const double step = sum + (problem_.micro_batches - 1) * longest;
    if (problem_.objective == Objective::throughput) return longest;
    if (problem_.objective == Objective::latency) return sum;
    if (problem_.objective == Objective::cost) return price * step;
    if (problem_.objective == Objective::energy) return problem_.micro_batches * busy + idle * step;
    return step;
  }

  void extend(std::uint32_t end) {
    const auto count = static_cast<std::uint32_t>(stages_.size());
    if (end == 0) {
      if (problem_.stages != 0 && count != problem_.stages) return;
      if (problem_.most_stages != 0 && count > problem_.most_stages) return;
      if (const double v = value(); !best_ || v < *best_) best_ = v;
      return;
    }
    for (std::size_t o = 0; o < problem_.options.size(); ++o) {
      const auto& uses = problem_.options[o].uses;
      bool room = true;
      for (std::size_t type = 0; type < left_.size(); ++type)
        room = room && uses[type] <= left_[type];
      if (!room) continue;
      const double send =
          stages_.empty() ? 0 : problem_.send_seconds(o, stages_.back().option, end);
      if (!std::isfinite(send)) continue;
      for (std::size_t type = 0; type < left_.size(); ++type)
        left_[type] = static_cast<std::uint16_t>(left_[type] - uses[type]);
      for (std::uint32_t first = 0; first < end; ++first) {
        const double seconds = problem_.seconds(o, first, end, count) + send;
        if (!std::isfinite(seconds)) continue;
        stages_.push_back({o, first, end, seconds});
        extend(first);
        stages_.pop_back();
      }
      for (std::size_t type = 0; type < left_.size(); ++type)
        left_[type] = static_cast<std::uint16_t>(left_[type] + uses[type]);
    }
  }

  const ChainProblem& problem_;
  std::vector<std::uint16_t> left_;
  std::vector<ChainStage> stages_;  // Last to first.
  std::optional<double> best_;
};

// The stages tile the layers, use no more devices than there are, and have the value they claim.
void check_result(const ChainProblem& problem, const causeway::ChainResult& result) {
  auto left = problem.counts;
  std::uint32_t next = 0;
  for (std::size_t i = 0; i < result.stages.size(); ++i) {
    const auto& stage = result.stages[i];
    REQUIRE(stage.first_layer == next);
    next = stage.end_layer;
    for (std::size_t type = 0; type < left.size(); ++type) {
      REQUIRE(problem.options[stage.option].uses[type] <= left[type]);
      left[type] =
          static_cast<std::uint16_t>(left[type] - problem.options[stage.option].uses[type]);
    }
    const auto behind = static_cast<std::uint32_t>(result.stages.size() - i - 1);
    double seconds = problem.seconds(stage.option, stage.first_layer, stage.end_layer, behind);
    if (behind > 0)
      seconds += problem.send_seconds(stage.option, result.stages[i + 1].option, stage.end_layer);
    REQUIRE(stage.seconds == doctest::Approx(seconds).epsilon(1e-9));
  }
  REQUIRE(next == problem.layers);
  REQUIRE(result.value == doctest::Approx(causeway::chain_value(problem, result.stages)));
}

struct Coverage {
  int feasible = 0;
  int infeasible = 0;
  int several_stages = 0;
  int shared_stages = 0;
};

void run_seed(std::uint64_t seed, Coverage& coverage) {
  std::mt19937_64 random(seed);
  auto instance = random_instance(random);
  instance.connect();
  INFO("CAUSEWAY_TEST_SEED=", seed);
  const auto best = BruteForce(instance.problem).best();
  const auto result = causeway::search_chain(instance.problem);
  REQUIRE(result.exact);
  REQUIRE(result.stages.empty() == !best.has_value());
  ++(best ? coverage.feasible : coverage.infeasible);
  if (!best) return;
  REQUIRE(result.value == doctest::Approx(*best).epsilon(1e-9));
  REQUIRE(result.lower_bound <= result.value * (1 + 1e-9));
  check_result(instance.problem, result);
  if (result.stages.size() > 1) ++coverage.several_stages;
  for (const auto& stage : result.stages) {
    int devices = 0;
    for (const auto uses : instance.problem.options[stage.option].uses) devices += uses;
    if (devices > 1) {
      ++coverage.shared_stages;
      break;
    }
  }
}

}  // namespace

TEST_CASE("2000 random instances: equal to a brute force in every objective") {
  Coverage coverage;
  if (const char* seed = std::getenv("CAUSEWAY_TEST_SEED"))
    return run_seed(std::stoull(seed), coverage);
  for (std::uint64_t seed = 1; seed <= 2000; ++seed) run_seed(seed, coverage);
  MESSAGE(coverage.feasible, " feasible, ", coverage.several_stages, " in several stages, ",
          coverage.shared_stages, " with stages on several devices; ", coverage.infeasible,
          " infeasible");
  CHECK(coverage.feasible > 1200);
  CHECK(coverage.several_stages > 600);
  CHECK(coverage.shared_stages > 100);
  CHECK(coverage.infeasible > 50);
}

TEST_CASE("bounds hold where a search is cut short") {
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    std::mt19937_64 random(seed);
    auto instance = random_instance(random);
    instance.connect();
    INFO("seed=", seed);
    const auto cut = causeway::search_chain(instance.problem, 40);
    const auto whole = causeway::search_chain(instance.problem);
    if (whole.stages.empty()) continue;
    REQUIRE(cut.lower_bound <= whole.value * (1 + 1e-9));
    if (!cut.stages.empty()) {
      REQUIRE(cut.value >= whole.value * (1 - 1e-9));
      check_result(instance.problem, cut);
    }
    if (cut.exact && !cut.stages.empty())
      REQUIRE(cut.value == doctest::Approx(whole.value).epsilon(1e-9));
  }
}

// Many devices of a few types, non-monotone by a hump that every fifth length has.
static Instance wide(std::size_t types, std::uint16_t of_each, std::uint32_t layers) {
  Instance instance;
  auto& problem = instance.problem;
  problem.layers = layers;
  problem.counts.assign(types, of_each);
  problem.micro_batches = 16;
  std::mt19937_64 random(7);
  const auto n = layers + 1;
  instance.seconds.assign(types * n * n, ChainProblem::kImpossible);
  instance.most_behind.assign(instance.seconds.size(), 0);
  for (std::size_t o = 0; o < types; ++o) {
    problem.options.push_back({std::vector<std::uint16_t>(types, 0), 0});
    problem.options[o].uses[o] = 1;
    const double pace = 1 + 0.3 * static_cast<double>(o);
    const auto room = 3 + o % 4;
    for (std::uint32_t first = 0; first < layers; ++first)
      for (std::uint32_t end = first + 1; end <= layers && end - first <= room; ++end) {
        instance.seconds[instance.at(o, first, end)] =
            pace * (end - first) * ((end - first) % 5 == 4 ? 1.3 : 1);
        instance.most_behind[instance.at(o, first, end)] = 64;
      }
  }
  for (std::size_t i = 0; i < types * types * n; ++i)
    instance.send.push_back(0.01 * static_cast<double>(1 + random() % 5));
  return instance;
}

TEST_CASE("64 devices of 5 types in seconds, with a stated gap") {
  for (const auto objective : {Objective::time, Objective::throughput, Objective::latency}) {
    auto instance = wide(5, 13, 80);
    instance.connect();
    instance.problem.objective = objective;
    const auto start = std::clock();
    const auto result = causeway::search_chain(instance.problem);
    const double took_s = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    REQUIRE_FALSE(result.stages.empty());
    check_result(instance.problem, result);
    MESSAGE(took_s, " s, value ", result.value, ", bound ", result.lower_bound, ", exact ",
            result.exact);
    CHECK(took_s < kSlowdown * 10);
    CHECK(result.lower_bound > 0);
    CHECK(result.value / result.lower_bound < 1.1);
  }
}

TEST_CASE("1000 devices of 20 types within a minute") {
  auto instance = wide(20, 50, 80);
  instance.connect();
  const auto start = std::clock();
  const auto result = causeway::search_chain(instance.problem);
  const double took_s = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  REQUIRE_FALSE(result.stages.empty());
  check_result(instance.problem, result);
  MESSAGE(took_s, " s, value ", result.value, ", bound ", result.lower_bound, ", exact ",
          result.exact);
  CHECK(took_s < kSlowdown * 60);
  CHECK(result.exact);
}
