// Splits a chain of layers into stages over counted device types so that a training step is
// shortest: step = sum(t_i) + (m - 1) max(t_i).
//
// Shape:   built from the last stage to the first, so that the number of stages behind a new one,
//          and with it the micro-batches it holds under 1F1B, is known. State: layers left, devices
//          used per type, type of the front stage; each keeps its Pareto set of (max, sum).
// Units:   seconds, bytes.
// Errors:  none; no stages in the result means that no split was found.
// Cost:    bounded by a count of steps, never by the clock: equal input gives an equal plan.
// Threads: no state.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/placement/device_types.h"
#include "runtime/placement/stage_memory.h"

namespace causeway {

struct ChainProblem {
  const DeviceTypes* devices;
  const StageSizer* sizes;
  std::vector<double> work;               // Per layer boundary: training FLOPs of layers [0, i).
  std::vector<std::uint64_t> send_bytes;  // Per layer: what it hands on, one way.
  std::uint32_t micro_batches = 1;
  std::uint32_t stages = 0;  // Exactly so many; 0: any number.

  [[nodiscard]] std::uint32_t layers() const noexcept {
    return static_cast<std::uint32_t>(send_bytes.size());
  }
};

struct ChainStage {
  std::size_t type;
  std::uint32_t first_layer;
  std::uint32_t end_layer;
  double seconds;
};

struct ChainResult {
  std::vector<ChainStage> stages;  // First to last.
  double step_seconds = 0;
  double lower_bound_seconds = 0;  // No split takes less.
  std::uint64_t states = 0;        // Looked at by the last search.
  bool exact = false;              // The search was complete: the result is proven, also if empty.
};

[[nodiscard]] ChainResult search_chain(const ChainProblem& problem,
                                       std::uint64_t max_steps = 20'000'000);

}  // namespace causeway
