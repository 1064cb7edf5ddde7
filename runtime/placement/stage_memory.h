// The memory of any run of layers in O(1): prefix sums over what each layer takes in its regions,
// less what is there twice where layers with tied tensors lie together.
//
// Shape:   one entry per layer boundary; see StageMemory in <causeway/plan.h> for the regions.
// Units:   bytes.
// Errors:  none after construction; the model must be valid.
// Threads: const after construction.
#pragma once

#include <cstdint>
#include <vector>

#include "causeway/plan.h"

namespace causeway {

// More micro-batches in flight than this are refused: it keeps every product below 2^64.
constexpr std::uint32_t kMaxInFlight = 4096;

class StageSizer {
 public:
  explicit StageSizer(const ModelSpec& model);

  // Layers [first, end), in_flight from 1 to kMaxInFlight, on a device with a `share` of them,
  // above 0, at most 1.
  [[nodiscard]] StageMemory stage(std::uint32_t first, std::uint32_t end, std::uint32_t in_flight,
                                  double share = 1) const;
  [[nodiscard]] std::uint64_t total_bytes(std::uint32_t first, std::uint32_t end,
                                          std::uint32_t in_flight, double share = 1) const {
    const auto memory = stage(first, end, in_flight, share);
    return memory.state_bytes() + memory.activation_bytes;
  }

 private:
  struct Sums {
    std::uint64_t weights = 0;
    std::uint64_t gradients = 0;
    std::uint64_t optimizer = 0;
    std::uint64_t activations = 0;
    std::uint64_t whole = 0;  // Of these, what every device that shares a layer has.
  };
  [[nodiscard]] Sums sum(std::uint32_t first, std::uint32_t end) const;
  struct Tie {
    std::uint32_t source_layer;
    std::uint32_t layer;
    Sums state;  // Counted in both layers, kept once where they lie together.
  };
  std::vector<Sums> before_;  // before_[i]: layers [0, i).
  std::vector<Tie> ties_;     // At most kMaxTiedTensors in a valid model.
};

}  // namespace causeway
