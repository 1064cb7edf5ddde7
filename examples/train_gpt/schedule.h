// The order of work of a pipeline with one forward and one backward in turn (1F1B).
//
// Shape:   stage s of p first runs min(m, p - s) - 1 forwards, then alternates forward and
// backward,
//          then the backwards that are left. So it keeps at most min(m, p - s) micro-batches.
// Errors:  none; stage < stages and micro_batches > 0 are the caller's promise.
// Threads: pure functions.
// Source:  1F1B: Narayanan et al., "PipeDream: generalized pipeline parallelism for DNN training",
//          SOSP 2019.
#pragma once

#include <cstdint>
#include <vector>

namespace train_gpt {

enum class Phase : std::uint8_t { forward, backward };

struct Operation {
  std::uint32_t stage;
  Phase phase;
  std::uint32_t micro_batch;
  bool operator==(const Operation&) const = default;
};

// Micro-batches whose activations stage `stage` keeps at once, at most.
[[nodiscard]] std::uint32_t in_flight(std::uint32_t stage, std::uint32_t stages,
                                      std::uint32_t micro_batches) noexcept;

[[nodiscard]] std::vector<Operation> schedule(std::uint32_t stage, std::uint32_t stages,
                                              std::uint32_t micro_batches);

// The operations of the stages `own` of one process in an order that cannot wait for itself: every
// process follows the same global order in which all inputs of an operation come before it. Sends
// must not wait for their receiver.
[[nodiscard]] std::vector<Operation> process_schedule(const std::vector<std::uint32_t>& own,
                                                      std::uint32_t stages,
                                                      std::uint32_t micro_batches);

}  // namespace train_gpt
