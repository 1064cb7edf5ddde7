#include "schedule.h"

#include <algorithm>

namespace train_gpt {

std::uint32_t in_flight(std::uint32_t stage, std::uint32_t stages,
                        std::uint32_t micro_batches) noexcept {
  return std::min(micro_batches, stages - stage);
}

std::vector<Operation> schedule(std::uint32_t stage, std::uint32_t stages,
                                std::uint32_t micro_batches) {
  const auto ahead = in_flight(stage, stages, micro_batches) - 1;
  std::vector<Operation> order;
  order.reserve(std::size_t{2} * micro_batches);
  for (std::uint32_t i = 0; i < ahead; ++i) order.push_back({stage, Phase::forward, i});
  for (std::uint32_t i = 0; i < micro_batches; ++i) {
    if (i + ahead < micro_batches) order.push_back({stage, Phase::forward, i + ahead});
    order.push_back({stage, Phase::backward, i});
  }
  return order;
}

std::vector<Operation> process_schedule(const std::vector<std::uint32_t>& own, std::uint32_t stages,
                                        std::uint32_t micro_batches) {
  std::vector<std::vector<Operation>> orders;
  for (std::uint32_t stage = 0; stage < stages; ++stage)
    orders.push_back(schedule(stage, stages, micro_batches));
  // Finished operations by stage; a stage runs its micro-batches of one phase in order.
  std::vector<std::uint32_t> forwards(stages, 0);
  std::vector<std::uint32_t> backwards(stages, 0);
  std::vector<std::size_t> next(stages, 0);
  std::vector<Operation> merged;
  // One round lets every stage run its next operation if its input was there before the round.
  for (std::size_t left = std::size_t{2} * micro_batches * stages; left > 0;) {
    const auto forwards_before = forwards;
    const auto backwards_before = backwards;
    for (std::uint32_t stage = 0; stage < stages; ++stage) {
      if (next[stage] == orders[stage].size()) continue;
      const auto operation = orders[stage][next[stage]];
      const bool forward = operation.phase == Phase::forward;
      const bool first = forward ? stage == 0 : stage + 1 == stages;
      if (!first) {
        const auto done = forward ? forwards_before[stage - 1] : backwards_before[stage + 1];
        if (done <= operation.micro_batch) continue;
      }
      ++(forward ? forwards : backwards)[stage];
      ++next[stage];
      --left;
      if (std::ranges::find(own, stage) != own.end()) merged.push_back(operation);
    }
  }
  return merged;
}

}  // namespace train_gpt
