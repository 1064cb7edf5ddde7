#include "causeway/transformer_shape.h"

#include <fmt/format.h>

#include <algorithm>

namespace causeway {

namespace {

constexpr std::uint32_t kMaxExtent = 1u << 24;  // Products of two of them and a count fit 64 bits.
constexpr std::uint32_t kMaxLayers = 1u << 14;

void check(const TransformerShape& shape, const char* field, std::uint32_t value,
           std::uint32_t least, std::uint32_t most) {
  if (value < least || value > most)
    throw Error(Errc::invalid_argument, fmt::format("model '{}': {} is {}; it must be {} to {}",
                                                    shape.name, field, value, least, most));
}

}  // namespace

void TransformerShape::validate() const {
  check(*this, "layers", layers, 1, kMaxLayers);
  check(*this, "hidden", hidden, 1, kMaxExtent);
  check(*this, "heads", heads, 1, kMaxLayers);
  check(*this, "kv_heads", kv_heads, 0, heads);
  check(*this, "head_size", head_size, 0, kMaxExtent / kMaxLayers);
  check(*this, "feed_width", feed_width, experts != 0 && first_expert_layer == 0 ? 0 : 1,
        kMaxExtent);
  check(*this, "vocabulary", vocabulary, 0, kMaxExtent);
  check(*this, "learned_positions", learned_positions, 0, kMaxExtent);
  check(*this, "experts", experts, 0, kMaxLayers);
  check(*this, "experts_per_token", experts_per_token, experts != 0 ? 1 : 0, experts);
  check(*this, "expert_feed_width", expert_feed_width, experts != 0 && feed_width == 0 ? 1 : 0,
        kMaxExtent);
  check(*this, "shared_feed_width", shared_feed_width, 0, kMaxExtent);
  if (heads % kv_heads_or_all() != 0)
    throw Error(
        Errc::invalid_argument,
        fmt::format("model '{}': {} heads do not share {} kv_heads evenly", name, heads, kv_heads));
  if (head_size == 0 && hidden % heads != 0)
    throw Error(Errc::invalid_argument,
                fmt::format("model '{}': hidden {} is no multiple of {} heads; write head_size",
                            name, hidden, heads));
}

std::uint64_t TransformerShape::attention_parameters() const noexcept {
  return hidden * (2 * query_width() + 2 * kv_width());
}

static std::uint64_t feed_parameters(const TransformerShape& shape, std::uint64_t width) {
  return (shape.gated_feed ? 3 : 2) * std::uint64_t{shape.hidden} * width;
}

std::uint64_t TransformerShape::layer_parameters(std::uint32_t layer) const noexcept {
  if (!has_experts(layer)) return attention_parameters() + feed_parameters(*this, feed_width);
  const std::uint64_t router = std::uint64_t{hidden} * experts;
  return attention_parameters() + router + experts * feed_parameters(*this, expert_width()) +
         feed_parameters(*this, shared_feed_width);
}

std::uint64_t TransformerShape::active_parameters(std::uint32_t layer) const noexcept {
  if (!has_experts(layer)) return layer_parameters(layer);
  const std::uint64_t idle = experts - experts_per_token;
  return layer_parameters(layer) - idle * feed_parameters(*this, expert_width());
}

std::uint64_t TransformerShape::embedding_parameters() const noexcept {
  return std::uint64_t{hidden} * (std::uint64_t{vocabulary} + learned_positions);
}

std::uint64_t TransformerShape::head_parameters() const noexcept {
  return std::uint64_t{hidden} * vocabulary;
}

std::uint64_t TransformerShape::parameters() const noexcept {
  std::uint64_t sum = embedding_parameters() + (tied_embeddings ? 0 : head_parameters());
  for (std::uint32_t layer = 0; layer < layers; ++layer) sum += layer_parameters(layer);
  return sum;
}

double TransformerShape::layer_flops(std::uint32_t layer, std::uint64_t sequence) const noexcept {
  return 2.0 * static_cast<double>(active_parameters(layer)) +
         4.0 * static_cast<double>(query_width()) * static_cast<double>(kept_tokens(sequence));
}

double TransformerShape::head_flops() const noexcept {
  return 2.0 * static_cast<double>(head_parameters());
}

double TransformerShape::forward_flops(std::uint64_t sequence) const noexcept {
  double sum = head_flops();
  for (std::uint32_t layer = 0; layer < layers; ++layer) sum += layer_flops(layer, sequence);
  return sum;
}

}  // namespace causeway
