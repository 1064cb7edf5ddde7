// Starting values and the figures of AdamW, tensor by tensor, so that no value depends on where a
// tensor lives.
//
// Errors:  none.
// Threads: pure functions.
// Source:  Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019. Residual
//          projections start smaller by sqrt(2 blocks): Radford et al., 2019.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "causeway/model.h"
#include "compute.h"

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

// Of the update of that step, for gradients that are multiplied by `gradient_scale` first.
[[nodiscard]] AdamFactors adam_factors(const OptimizerOptions& options, std::uint64_t step,
                                       double gradient_scale, bool decays) noexcept;

}  // namespace train_gpt
