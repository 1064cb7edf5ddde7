// Starting values and AdamW, tensor by tensor, so that no value depends on where a tensor lives.
//
// Errors:  none.
// Threads: pure functions on the caller's arrays.
// Source:  Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019. Residual
//          projections start smaller by sqrt(2 blocks): Radford et al., 2019.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "causeway/model.h"

namespace train_gpt {

struct OptimizerOptions {
  double learning_rate = 2e-3;
  std::uint64_t warmup_steps = 10;  // The rate rises linearly to learning_rate, then stays.
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;  // Of matrices only.
  double clip_norm = 1.0;     // Of the gradients of all tensors together.
};

// Depends on the seed, the name and the shape alone.
void initialize(const causeway::TensorSpec& tensor, std::uint32_t blocks, std::uint64_t seed,
                std::span<float> values);

// The rate of step `step`, counted from 0.
[[nodiscard]] double learning_rate(const OptimizerOptions& options, std::uint64_t step) noexcept;

[[nodiscard]] double sum_of_squares(std::span<const float> values) noexcept;

// One update; gradients are multiplied by `scale` first and are 0 afterwards.
void adamw(const OptimizerOptions& options, std::uint64_t step, double scale, bool decays,
           std::span<float> weights, std::span<float> gradients, std::span<float> m,
           std::span<float> v) noexcept;

}  // namespace train_gpt
