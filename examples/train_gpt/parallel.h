// How the processes of a stage share it: replicas of it, each cut into shards.
//
// Shape:   of D x T processes, number i holds shard i % T of replica i / T. Replica r takes the
//          micro-batches r, r + D, r + 2 D, ... of a step; a shard has some of the heads and of the
//          MLP's inner columns of every block, and all of the rest. Gradients are summed over
//          replicas, a block's two halves over shards.
// Errors:  validate() throws invalid_argument naming the options and what they accept.
// Threads: plain values.
// Source:  Shoeybi et al., "Megatron-LM: training multi-billion parameter language models using
//          model parallelism", 2019.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "config.h"

namespace train_gpt {

struct Parallel {
  std::uint32_t data = 1;    // Replicas: D.
  std::uint32_t tensor = 1;  // Shards of a replica: T.
  // Replicas sum after each of their micro-batches, in the order of one process, and get its bits.
  // Otherwise once a step; that is the same where each has one micro-batch.
  bool exact = false;

  [[nodiscard]] std::uint32_t ranks_per_stage() const noexcept { return data * tensor; }
  void validate(const GptConfig& config) const;
  bool operator==(const Parallel&) const = default;
};

// A process's part.
struct Part {
  Parallel of;
  std::uint32_t replica = 0;
  std::uint32_t shard = 0;

  [[nodiscard]] static Part of_member(const Parallel& parallel, int member) noexcept;
};

// Where a shard's values are in the whole tensor: `runs` runs of `length`, one every `stride`, the
// first at `first`.
struct Cut {
  std::size_t runs;
  std::size_t stride;
  std::size_t length;
  std::size_t first;

  [[nodiscard]] bool is_whole() const noexcept { return length == stride; }
  [[nodiscard]] std::size_t whole_size() const noexcept { return runs * stride; }
  void take(std::span<const float> whole, std::span<float> part) const;
  void put(std::span<const float> part, std::span<float> whole) const;
};

[[nodiscard]] Cut cut_of(const causeway::TensorSpec& tensor, std::uint32_t shards,
                         std::uint32_t shard);

// The model as one shard has it: what a plan for `shards` > 1 is made of.
[[nodiscard]] causeway::ModelSpec describe_shard(const GptConfig& config, std::uint32_t shards);

}  // namespace train_gpt
