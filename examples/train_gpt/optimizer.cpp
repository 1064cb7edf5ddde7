#include "optimizer.h"

#include <algorithm>
#include <cmath>

#include "random.h"

namespace train_gpt {

void initialize(const causeway::TensorSpec& tensor, std::uint32_t blocks, std::uint64_t seed,
                std::span<float> values) {
  const std::string_view name = tensor.name;
  if (tensor.shape.size() < 2) {  // Norms start as the identity, biases at 0.
    std::ranges::fill(values, name.ends_with("bias") ? 0.0F : 1.0F);
    return;
  }
  auto deviation = 0.7 / std::sqrt(static_cast<double>(tensor.shape.back()));
  if (name.ends_with("out.weight") || name.ends_with("down.weight"))
    deviation /= std::sqrt(2.0 * blocks);
  if (name.starts_with("embed.")) deviation = 0.05;
  Random random(mix_all({seed, hash_of(name)}));
  for (auto& value : values) value = static_cast<float>(deviation * random.normal());
}

double learning_rate(const OptimizerOptions& options, std::uint64_t step) noexcept {
  if (step >= options.warmup_steps) return options.learning_rate;
  return options.learning_rate * static_cast<double>(step + 1) /
         static_cast<double>(options.warmup_steps + 1);
}

AdamFactors adam_factors(const OptimizerOptions& options, std::uint64_t step, double gradient_scale,
                         bool decays) noexcept {
  const auto count = static_cast<double>(step + 1);
  const auto rate = learning_rate(options, step);
  return {.gradient_scale = static_cast<float>(gradient_scale),
          .beta1 = static_cast<float>(options.beta1),
          .beta2 = static_cast<float>(options.beta2),
          .m_rate = static_cast<float>(rate / (1 - std::pow(options.beta1, count))),
          .v_scale = static_cast<float>(1 / (1 - std::pow(options.beta2, count))),
          .epsilon = static_cast<float>(options.epsilon),
          .keep = static_cast<float>(decays ? 1 - rate * options.weight_decay : 1)};
}

}  // namespace train_gpt
