#include "causeway/model_architecture.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace causeway {

namespace {

struct Bound {
  const char* field;
  std::uint64_t value;
  std::uint64_t least;
  std::uint64_t most;
};

void check(const std::string& owner, std::initializer_list<Bound> bounds) {
  for (const auto& [field, value, least, most] : bounds)
    if (value < least || value > most)
      throw Error(Errc::invalid_argument, fmt::format("{}: {} is {}; it must be {} to {}", owner,
                                                      field, value, least, most));
}

// So that heads times a head's extent stays below 2^32.
constexpr std::uint64_t kMaxHeads = 1 << 16;
constexpr std::uint64_t kMaxHeadExtent = 1 << 16;
constexpr std::uint64_t kMaxExperts = 1 << 16;

// Far above any model, and far below 2^64 also in eight bytes each.
constexpr double kMaxParameters = 1e16;

double parameters_of(const ModelArchitecture& model, const LayerShape& layer) {
  const auto& a = layer.attention;
  const auto& f = layer.feed_forward;
  const auto real = [](std::uint64_t value) { return static_cast<double>(value); };
  const auto heads = real(a.heads + a.kv_heads) * real(a.key_dim + a.value_dim);
  const auto latent = real(a.q_latent) + real(a.kv_latent);
  return real(model.hidden) * (heads + latent + 3 * (real(f.width) + real(f.shared_width)) +
                               real(f.experts) * (1 + 3 * real(f.expert_width))) +
         latent * heads;
}

void check_layer(const LayerShape& layer, const std::string& owner) {
  const auto& a = layer.attention;
  const auto& f = layer.feed_forward;
  check(owner, {{"heads", a.heads, 1, kMaxHeads},
                {"kv_heads", a.kv_heads, 1, a.heads},
                {"key_dim", a.key_dim, 1, kMaxHeadExtent},
                {"value_dim", a.value_dim, 1, kMaxHeadExtent},
                {"q_latent", a.q_latent, 0, kMaxModelExtent},
                {"kv_latent", a.kv_latent, 0, kMaxModelExtent},
                {"rope_dim", a.rope_dim, 0, a.key_dim},
                {"width", f.width, 0, kMaxModelExtent},
                {"experts", f.experts, 0, kMaxExperts},
                {"experts_per_token", f.experts_per_token, f.experts > 0 ? 1U : 0U, f.experts},
                {"expert_width", f.expert_width, f.experts > 0 ? 1U : 0U, kMaxModelExtent},
                {"shared_width", f.shared_width, 0, kMaxModelExtent}});
}

}  // namespace

void ModelArchitecture::validate() const {
  const auto owner = fmt::format("architecture '{}'", family.substr(0, 100));
  check(owner, {{"hidden", hidden, 1, kMaxModelExtent},
                {"vocabulary", vocabulary, 1, kMaxModelExtent},
                {"embedding_dim", embedding_dim, 0, kMaxModelExtent},
                {"learned_positions", learned_positions, 0, kMaxModelExtent},
                {"norms_per_layer", norms_per_layer, 0, 4},
                {"layers", layers.size(), 1, kMaxModelLayers}});
  double parameters = 2 * static_cast<double>(vocabulary) * static_cast<double>(hidden);
  for (const auto& layer : layers) parameters += parameters_of(*this, layer);
  if (parameters > kMaxParameters)
    throw Error(Errc::invalid_argument, fmt::format("{}: it has {:.3g} parameters; at most {:.0g}",
                                                    owner, parameters, kMaxParameters));
  for (std::size_t i = 0; i < layers.size(); ++i)
    if (i == 0 || layers[i] != layers[i - 1])
      check_layer(layers[i], fmt::format("{}: layer {}", owner, i));
}

std::uint64_t attended_tokens(const AttentionShape& attention, std::uint64_t context) noexcept {
  return attention.window == 0 ? context : std::min(attention.window, context);
}

std::uint64_t kv_values_per_token(const AttentionShape& attention) noexcept {
  if (attention.kv_latent > 0) return attention.kv_latent + attention.rope_dim;
  return attention.kv_heads * (attention.key_dim + attention.value_dim);
}

double attention_flops_per_token(const AttentionShape& attention, std::uint64_t context) noexcept {
  const auto values = attention.heads * (attention.key_dim + attention.value_dim);
  return 2.0 * static_cast<double>(attended_tokens(attention, context)) *
         static_cast<double>(values);
}

double expected_experts(std::uint64_t experts, std::uint64_t per_token,
                        std::uint64_t tokens) noexcept {
  if (experts == 0 || per_token >= experts) return static_cast<double>(experts);
  const double missed = 1 - static_cast<double>(per_token) / static_cast<double>(experts);
  return static_cast<double>(experts) * (1 - std::pow(missed, static_cast<double>(tokens)));
}

double activation_bytes_per_token(const ModelArchitecture& model,
                                  const LayerShape& layer) noexcept {
  constexpr double kBytes = 2;
  const auto& a = layer.attention;
  const auto& f = layer.feed_forward;
  const auto hidden = static_cast<double>(model.hidden);
  // Inputs of both norms and of what follows them; queries, keys, values and what attention gives.
  const auto heads = a.heads * (a.key_dim + a.value_dim) + a.kv_heads * (a.key_dim + a.value_dim) +
                     a.q_latent + a.kv_latent;
  // The inputs of the activation and of the last matrix; where gated, both factors and the
  // activation's result too.
  const auto width = f.width + f.experts_per_token * f.expert_width + f.shared_width;
  const double masks = model.dropout ? 2 * hidden : 0;  // One byte, after attention and at the end.
  return kBytes * (4 * hidden + static_cast<double>(heads) +
                   (f.gated ? 4.0 : 2.0) * static_cast<double>(width)) +
         masks;
}

}  // namespace causeway
