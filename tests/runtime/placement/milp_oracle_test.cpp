// The chain search against a mixed-integer solver, on instances that no brute force finishes. Needs
// the program `cbc` (package coinor-cbc); skips visibly without it.
//
// Interval-count form: x[o, f, e] is 1 if a stage of option o holds layers [f, e); what ends at a
// boundary begins there again; each option is used at most as often as it is there; no stage is
// longer than z. Least: sum of t x + (m - 1) z.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>

#include "runtime/placement/chain_search.h"

using causeway::ChainProblem;
using causeway::Objective;

namespace {

struct Instance {
  ChainProblem problem;
  std::vector<double> seconds;  // [option][first][end]; infinite where it does not fit.

  [[nodiscard]] std::size_t at(std::size_t option, std::uint32_t first, std::uint32_t end) const {
    const std::size_t n = problem.layers + 1;
    return (option * n + first) * n + end;
  }
};

void fill(Instance& instance, std::mt19937_64& random) {
  auto& problem = instance.problem;
  problem.layers = 16 + static_cast<std::uint32_t>(random() % 17);
  const auto types = 2 + random() % 4;
  const auto n = problem.layers + 1;
  instance.seconds.assign(types * n * n, ChainProblem::kImpossible);
  for (std::size_t o = 0; o < types; ++o) {
    problem.counts.push_back(static_cast<std::uint16_t>(2 + random() % 4));
    problem.options.push_back({std::vector<std::uint16_t>(types, 0), 0});
    problem.options[o].uses[o] = 1;
    const auto room = 3 + random() % 8;
    const double pace = 0.5 + static_cast<double>(random() % 100) / 50;
    for (std::uint32_t first = 0; first < problem.layers; ++first)
      for (std::uint32_t end = first + 1; end <= problem.layers && end - first <= room; ++end)
        instance.seconds[instance.at(o, first, end)] =
            pace * (end - first) * (0.6 + static_cast<double>(random() % 100) / 125);
  }
  problem.micro_batches = 1 + static_cast<std::uint32_t>(random() % 8);
  problem.objective = Objective::time;
  problem.seconds = [&instance](std::size_t option, std::uint32_t first, std::uint32_t end,
                                std::uint32_t) {
    return instance.seconds[instance.at(option, first, end)];
  };
  problem.send_seconds = [](std::size_t, std::size_t, std::uint32_t) { return 0.0; };
}

// In the LP format.
std::string program(const Instance& instance) {
  const auto& problem = instance.problem;
  std::string cost = fmt::format("min\n obj: {} z", problem.micro_batches - 1);
  std::string rules = "\nst\n";
  std::string binaries = "\nbinary\n";
  std::vector<std::string> boundary(problem.layers + 1);
  std::vector<std::string> used(problem.options.size());
  for (std::size_t o = 0; o < problem.options.size(); ++o)
    for (std::uint32_t first = 0; first < problem.layers; ++first)
      for (std::uint32_t end = first + 1; end <= problem.layers; ++end) {
        const double seconds = instance.seconds[instance.at(o, first, end)];
        if (!(seconds < ChainProblem::kImpossible)) continue;
        const auto x = fmt::format("x_{}_{}_{}", o, first, end);
        cost += fmt::format("\n + {:.12g} {}", seconds, x);
        rules += fmt::format(" {:.12g} {} - z <= 0\n", seconds, x);
        boundary[first] += fmt::format(" + {}", x);
        boundary[end] += fmt::format(" - {}", x);
        used[o] += fmt::format(" + {}", x);
        binaries += " " + x + "\n";
      }
  for (std::uint32_t i = 0; i <= problem.layers; ++i) {
    if (boundary[i].empty()) return {};
    rules += fmt::format("{} = {}\n", boundary[i], i == 0 ? 1 : i == problem.layers ? -1 : 0);
  }
  for (std::size_t o = 0; o < used.size(); ++o)
    if (!used[o].empty()) rules += fmt::format("{} <= {}\n", used[o], problem.counts[o]);
  return cost + rules + "bounds\n z >= 0" + binaries + "end\n";
}

enum class Closed { yes, infeasible, no };

// The optimum, where the solver proves it within its time.
Closed solve(const Instance& instance, const std::filesystem::path& folder, double& optimum) {
  const auto model = folder / "chain.lp";
  const auto answer = folder / "chain.sol";
  std::ofstream(model) << program(instance);
  std::filesystem::remove(answer);
  const auto command = fmt::format("cbc '{}' sec 10 ratio 0 solve solution '{}' > /dev/null 2>&1",
                                   model.string(), answer.string());
  REQUIRE(std::system(command.c_str()) == 0);
  std::ifstream file(answer);
  std::string line;
  std::getline(file, line);  // "Optimal - objective value 12.5"
  if (line.starts_with("Infeasible") || line.starts_with("Integer infeasible"))
    return Closed::infeasible;
  if (!line.starts_with("Optimal")) return Closed::no;
  optimum = std::stod(line.substr(line.rfind(' ') + 1));
  return Closed::yes;
}

}  // namespace

TEST_CASE("chains of up to 32 layers over up to 25 devices: equal to the solver where it closes") {
  if (std::system("cbc quit > /dev/null 2>&1") != 0) {
    MESSAGE("SKIPPED: no program cbc; install coinor-cbc");
    return;
  }
  const auto folder =
      std::filesystem::temp_directory_path() / fmt::format("causeway-milp-{}", ::getpid());
  std::filesystem::create_directory(folder);
  int closed = 0;
  for (std::uint64_t seed = 1; seed <= 25; ++seed) {
    std::mt19937_64 random(seed);
    Instance instance;
    fill(instance, random);
    INFO("seed=", seed);
    double optimum = 0;
    const auto state = solve(instance, folder, optimum);
    if (state == Closed::no) continue;
    ++closed;
    const auto result = causeway::search_chain(instance.problem);
    REQUIRE(result.stages.empty() == (state == Closed::infeasible));
    if (state == Closed::infeasible) continue;
    // The solver takes whole numbers to 1e-6.
    CHECK(result.value >= optimum * (1 - 1e-5));
    CHECK(result.lower_bound <= optimum * (1 + 1e-5));
    if (result.exact) CHECK(result.value == doctest::Approx(optimum).epsilon(1e-5));
    CHECK(result.exact);
  }
  std::filesystem::remove_all(folder);
  MESSAGE(closed, " of 25 closed");
  CHECK(closed > 5);
}
