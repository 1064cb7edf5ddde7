// A training step of a pipeline, operation by operation: what its formula,
// sum + (m - 1) longest, rounds off.
//
// Shape:   stage s of p runs min(m, p - s) - 1 forwards, then one forward and one backward in turn,
//          then the backwards that are left (1F1B). Sends do not hold up who sends; a link carries
//          one message at a time each way, and delivers `latency_s` after the last byte.
// Units:   seconds.
// Errors:  invalid_argument for no stages, no micro-batches, or times below 0.
// Cost:    O(stages * micro_batches).
// Threads: plain functions.
// Source:  1F1B: Narayanan et al., "PipeDream", SOSP 2019.
#pragma once

#include <cstdint>
#include <vector>

namespace causeway {

struct PipelineStageTimes {
  double forward_s = 0;  // Of one micro-batch.
  double backward_s = 0;
  double send_s = 0;     // To the next stage, and of the gradient back: what its bytes take,
  double latency_s = 0;  // and the link's latency. Of the last stage: not looked at.
};

struct PipelineOperation {
  std::uint32_t stage = 0;
  bool is_backward = false;
  std::uint32_t micro_batch = 0;
  double start_s = 0;
  double end_s = 0;
};

// What stage `stage` of `stages` does, in order, without times.
[[nodiscard]] std::vector<PipelineOperation> pipeline_order(std::uint32_t stage,
                                                            std::uint32_t stages,
                                                            std::uint32_t micro_batches);

struct PipelineTimeline {
  double seconds = 0;                         // Until the last operation ends.
  std::vector<PipelineOperation> operations;  // By stage, in their order.
};

[[nodiscard]] PipelineTimeline simulate_pipeline(const std::vector<PipelineStageTimes>& stages,
                                                 std::uint32_t micro_batches);

}  // namespace causeway
