// Goal:   1F1B runs everything once, keeps few activations, and no process waits for itself.
// Method: all pipelines of 1 to 8 stages and 1 to 8 micro-batches, and all ways to give a stage to
//         one of three processes, executed with messages that wait for their receiver's turn.
#include <doctest/doctest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "schedule.h"

using namespace train_gpt;

namespace {

// Runs the processes' orders by turns, each until it must wait. True if all operations ran.
bool completes(const std::vector<std::vector<Operation>>& processes, std::uint32_t stages) {
  std::set<std::pair<std::uint32_t, std::uint32_t>> forward_done;   // (stage, micro-batch)
  std::set<std::pair<std::uint32_t, std::uint32_t>> backward_done;  // (stage, micro-batch)
  std::vector<std::size_t> next(processes.size(), 0);
  bool moved = true;
  while (moved) {
    moved = false;
    for (std::size_t p = 0; p < processes.size(); ++p) {
      for (; next[p] < processes[p].size(); ++next[p], moved = true) {
        const auto [stage, phase, micro_batch] = processes[p][next[p]];
        if (phase == Phase::forward) {
          if (stage > 0 && !forward_done.contains({stage - 1, micro_batch})) break;
          forward_done.insert({stage, micro_batch});
        } else {
          if (!forward_done.contains({stage, micro_batch})) break;
          if (stage + 1 < stages && !backward_done.contains({stage + 1, micro_batch})) break;
          backward_done.insert({stage, micro_batch});
        }
      }
    }
  }
  for (std::size_t p = 0; p < processes.size(); ++p)
    if (next[p] != processes[p].size()) return false;
  return true;
}

template <typename Function>
void for_all_sizes(Function&& function) {
  for (std::uint32_t stages = 1; stages <= 8; ++stages)
    for (std::uint32_t micro_batches = 1; micro_batches <= 8; ++micro_batches) {
      INFO("stages=", stages, " micro_batches=", micro_batches);
      function(stages, micro_batches);
    }
}

}  // namespace

TEST_CASE("the order of three stages and four micro-batches, by hand") {
  const auto text = [](std::uint32_t stage) {
    std::string result;
    for (const auto& operation : schedule(stage, 3, 4)) {
      result += operation.phase == Phase::forward ? 'F' : 'B';
      result += std::to_string(operation.micro_batch);
    }
    return result;
  };
  CHECK(text(0) == "F0F1F2B0F3B1B2B3");
  CHECK(text(1) == "F0F1B0F2B1F3B2B3");
  CHECK(text(2) == "F0B0F1B1F2B2F3B3");
}

TEST_CASE("each stage runs every micro-batch once each way, in order, and keeps few") {
  for_all_sizes([](std::uint32_t stages, std::uint32_t micro_batches) {
    for (std::uint32_t stage = 0; stage < stages; ++stage) {
      std::uint32_t forwards = 0;
      std::uint32_t backwards = 0;
      std::uint32_t most = 0;
      for (const auto& operation : schedule(stage, stages, micro_batches)) {
        CHECK(operation.stage == stage);
        auto& count = operation.phase == Phase::forward ? forwards : backwards;
        CHECK(operation.micro_batch == count);
        ++count;
        REQUIRE(backwards <= forwards);
        most = std::max(most, forwards - backwards);
      }
      CHECK(forwards == micro_batches);
      CHECK(backwards == micro_batches);
      CHECK(most == in_flight(stage, stages, micro_batches));
      CHECK(most <= std::min(micro_batches, stages - stage));
    }
  });
}

TEST_CASE("one process per stage completes") {
  for_all_sizes([](std::uint32_t stages, std::uint32_t micro_batches) {
    std::vector<std::vector<Operation>> processes;
    for (std::uint32_t stage = 0; stage < stages; ++stage) {
      processes.push_back(process_schedule({stage}, stages, micro_batches));
      CHECK(processes.back() == schedule(stage, stages, micro_batches));
    }
    CHECK(completes(processes, stages));
  });
}

TEST_CASE("any deal of stages to three processes completes and keeps each stage's order") {
  for (std::uint32_t stages = 1; stages <= 6; ++stages) {
    for (std::uint32_t micro_batches = 1; micro_batches <= 5; ++micro_batches) {
      std::uint32_t deals = 1;
      for (std::uint32_t i = 0; i < stages; ++i) deals *= 3;
      for (std::uint32_t deal = 0; deal < deals; ++deal) {
        INFO("stages=", stages, " micro_batches=", micro_batches, " deal=", deal);
        std::vector<std::vector<std::uint32_t>> own(3);
        for (std::uint32_t stage = 0, rest = deal; stage < stages; ++stage, rest /= 3)
          own[rest % 3].push_back(stage);
        std::vector<std::vector<Operation>> processes;
        for (const auto& mine : own) {
          processes.push_back(process_schedule(mine, stages, micro_batches));
          for (const auto stage : mine) {
            std::vector<Operation> of_stage;
            std::ranges::copy_if(processes.back(), std::back_inserter(of_stage),
                                 [stage](const auto& entry) { return entry.stage == stage; });
            REQUIRE(of_stage == schedule(stage, stages, micro_batches));
          }
        }
        REQUIRE(completes(processes, stages));
      }
    }
  }
}

TEST_CASE("the check above notices an order that waits for itself") {
  const std::vector<std::vector<Operation>> stuck{
      {{0, Phase::forward, 0}, {0, Phase::backward, 0}, {1, Phase::forward, 0}},
      {{1, Phase::backward, 0}}};
  CHECK_FALSE(completes(stuck, 2));
}
