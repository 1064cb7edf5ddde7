// The parts of a model that one process holds, placed in pool regions by a plan.
//
// Shape:   for each own stage one region per kind of state (weights, gradients, optimizer), near
//          the stage's device; every tensor is a view at an aligned offset in it.
// Units:   bytes; tensors start at multiples of 256.
// Errors:  out_of_memory with needed and available bytes and the stage; not_found for a tensor that
//          is not on this process; unsupported from tensor views if a region is not on this node.
// Threads: as Region.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "causeway/model.h"
#include "causeway/plan.h"
#include "causeway/pool.h"

namespace causeway {

enum class StateKind : std::uint8_t { weights, gradients, optimizer };

class ShardedModel {
 public:
  // Allocates the regions of `stages` (indices into plan.stages). Zero-filled.
  [[nodiscard]] static ShardedModel place(Pool& pool, const ModelSpec& model, const Plan& plan,
                                          const std::vector<int>& stages);
  ShardedModel(ShardedModel&&) noexcept;
  ShardedModel& operator=(ShardedModel&&) noexcept;
  ~ShardedModel();

  // The bytes of tensor `name` of the model, where Region::data() of memory near its stage's device
  // has them: on a GPU with memory of its own, addresses of that GPU. Optimizer state is
  // optimizer_bytes_per_weight_byte times as long as the weights. O(1).
  [[nodiscard]] std::span<std::byte> tensor(std::string_view name, StateKind kind) const;
  [[nodiscard]] bool holds(std::string_view name) const noexcept;

  struct Placement {
    int stage;
    StateKind kind;
    std::uint64_t size_bytes;
    MemoryKind memory_kind;  // These two as of the Region.
    int cuda_ordinal;
    std::vector<Region::Extent> extents;
  };
  [[nodiscard]] std::vector<Placement> placements() const;

 private:
  struct State;
  explicit ShardedModel(std::unique_ptr<State> state) noexcept;
  std::unique_ptr<State> state_;
};

}  // namespace causeway
