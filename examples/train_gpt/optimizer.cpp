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

double sum_of_squares(std::span<const float> values) noexcept {
  double sum = 0;
  for (const auto value : values) sum += static_cast<double>(value) * static_cast<double>(value);
  return sum;
}

void adamw(const OptimizerOptions& options, std::uint64_t step, double scale, bool decays,
           std::span<float> weights, std::span<float> gradients, std::span<float> m,
           std::span<float> v) noexcept {
  const auto count = static_cast<double>(step + 1);
  const auto rate = learning_rate(options, step);
  const auto b1 = static_cast<float>(options.beta1);
  const auto b2 = static_cast<float>(options.beta2);
  const auto factor = static_cast<float>(scale);
  const auto epsilon = static_cast<float>(options.epsilon);
  const auto m_rate = static_cast<float>(rate / (1 - std::pow(options.beta1, count)));
  const auto v_scale = static_cast<float>(1 / (1 - std::pow(options.beta2, count)));
  const auto keep = static_cast<float>(decays ? 1 - rate * options.weight_decay : 1);
  float* __restrict w = weights.data();
  float* __restrict g = gradients.data();
  float* __restrict first = m.data();
  float* __restrict second = v.data();
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const auto gradient = g[i] * factor;
    first[i] = b1 * first[i] + (1 - b1) * gradient;
    second[i] = b2 * second[i] + (1 - b2) * gradient * gradient;
    w[i] = keep * w[i] - m_rate * first[i] / (std::sqrt(second[i] * v_scale) + epsilon);
    g[i] = 0;
  }
}

}  // namespace train_gpt
