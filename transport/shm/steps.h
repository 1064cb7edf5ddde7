// What each operation does with the slots of shared memory, step by step.
//
// Shape:   values are cut into `count` chunks. Each goes through up to three stages with a meeting
//          of all ranks in between: `put` copies what others need into this rank's slot, `combine`
//          (reductions) makes this rank's share of all slots, `take` copies what others have into
//          the values. Chunks follow each other, one stage behind.
// Cost:    bytes copied per rank, n ranks, b bytes: all_reduce put and take b (n-1)/n each, and
//          b read to combine; reduce_scatter and all_gather half of that; broadcast b.
// Threads: one at a time; slots of others are read between the meetings only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "transport/collective/reduction.h"
#include "transport/collective/shares.h"

namespace causeway::shm {

// Each rank has one slot per buffer; buffers are used in turn.
class Slots {
 public:
  static constexpr std::size_t kBuffers = 3;  // As many as stages: nobody waits for a free one.
  // A slot holds small values as a whole, and a value of each of kMaxRanks.
  static constexpr std::size_t kLeastBytes = std::size_t{4} * 1024;
  static constexpr std::size_t kMostBytes = std::size_t{1} << 30;
  Slots(std::span<std::byte> memory, std::size_t slot_bytes, int ranks) noexcept
      : memory_(memory), slot_bytes_(slot_bytes), ranks_(static_cast<std::size_t>(ranks)) {}
  static std::size_t total_bytes(std::size_t slot_bytes, int ranks) noexcept {
    return kBuffers * slot_bytes * static_cast<std::size_t>(ranks);
  }
  [[nodiscard]] std::size_t slot_bytes() const noexcept { return slot_bytes_; }
  [[nodiscard]] int ranks() const noexcept { return static_cast<int>(ranks_); }
  [[nodiscard]] std::span<std::byte> slot(std::uint64_t buffer, int rank) const noexcept {
    const auto index = buffer % kBuffers * ranks_ + static_cast<std::size_t>(rank);
    return memory_.subspan(index * slot_bytes_, slot_bytes_);
  }

 private:
  std::span<std::byte> memory_;
  std::size_t slot_bytes_;
  std::size_t ranks_;
};

struct Steps {
  // Of chunk `chunk`, whose slots are those of `buffer`.
  using Stage = std::function<void(std::size_t chunk, std::uint64_t buffer)>;
  std::size_t count = 1;
  Stage put{};
  Stage combine{};  // None: values are only moved.
  Stage take{};     // None: what was combined stays where it is.
};

using Values = std::span<std::byte>;
[[nodiscard]] Steps barrier_steps();
[[nodiscard]] Steps broadcast_steps(const Slots& slots, int rank, Values bytes, int root);
[[nodiscard]] Steps all_reduce_steps(const Slots& slots, int rank, Values values,
                                     const Reduction& how);
[[nodiscard]] Steps reduce_scatter_steps(const Slots& slots, int rank, Values values,
                                         const Shares& shares, const Reduction& how);
[[nodiscard]] Steps all_gather_steps(const Slots& slots, int rank, Values values,
                                     const Shares& shares);
[[nodiscard]] Steps all_to_all_steps(const Slots& slots, int rank, Values values);

}  // namespace causeway::shm
