// The processes of a job for tests: this program, started again once per rank, over a LivePool.
//
// Shape:   a test's main() hands "--rank WHAT" to what the rank is to do; a rank's exit code is 0
// if
//          all was as expected, 1 if not, 3 for an Error that it did not expect.
// Threads: one.
#pragma once

#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "causeway/worker.h"
#include "live_pool.h"

namespace causeway::test {

inline constexpr auto kTwoNodes = R"(
name: test
nodes:
  - {name: a, devices: [{gpu: rtx-5090, count: 2, capacity: 4 MiB}]}
  - {name: b, devices: [{gpu: rtx-5090, count: 2, capacity: 4 MiB}]}
links:
  - {between: [a, b], bandwidth: 1 GB/s, latency: 100 us}
)";

inline Plan plan_on(const std::vector<const char*>& devices) {
  Plan plan;
  plan.model = "test";
  for (const char* name : devices) {
    const auto first = static_cast<std::uint32_t>(plan.stages.size());
    plan.stages.push_back({DeviceName::parse(name), first, first + 1, 0, 0, 0});
  }
  return plan;
}

// In a function of a rank.
#define EXPECT(condition)                                                     \
  if (!(condition)) {                                                         \
    std::cerr << "rank " << worker.rank() << ": " << #condition << std::endl; \
    return 1;                                                                 \
  }

// Joins as the environment says and does `what`.
template <typename What>
int run_rank(const Plan& plan, WorkerOptions options, What what) {
  try {
    auto pool = Pool::connect();
    auto worker = Worker::join(pool, plan, std::move(options));
    return what(worker);
  } catch (const Error& error) {
    std::cout << to_string(error.code()) << ": " << error.what() << std::endl;
    return 3;
  }
}

struct Job {
  Job(const LivePool& live, const std::string& what, const std::vector<std::string>& nodes) {
    for (std::size_t rank = 0; rank < nodes.size(); ++rank) {
      outputs.push_back(live.folder() + "/rank" + std::to_string(rank) + ".out");
      ranks.emplace_back(
          std::vector<std::string>{"/proc/self/exe", "--rank", what},
          std::map<std::string, std::string>{{"CAUSEWAY_SOCKET", live.socket(nodes[rank])},
                                             {"CAUSEWAY_RANK", std::to_string(rank)},
                                             {"CAUSEWAY_WORLD_SIZE", std::to_string(nodes.size())},
                                             {"CAUSEWAY_GROUP", "job-" + what}},
          outputs.back());
    }
  }
  [[nodiscard]] std::string output(std::size_t rank) const {
    std::ifstream file(outputs[rank]);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  [[nodiscard]] bool all_said(const std::string& word) const {
    for (std::size_t rank = 0; rank < ranks.size(); ++rank)
      if (output(rank).find(word) == std::string::npos) return false;
    return true;
  }
  std::vector<Process> ranks;
  std::vector<std::string> outputs;
};

}  // namespace causeway::test
