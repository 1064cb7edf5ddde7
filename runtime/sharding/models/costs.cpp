// What a described model costs: parameters, FLOPs, KV cache, activations; and the chain that
// follows.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "causeway/model_description.h"
#include "runtime/sharding/models/tensor_names.h"

namespace causeway {

namespace {

constexpr double kFlopsPerValue = 2;
// GPT's figure, for a model of which only the tensors are known.
constexpr double kActivationBytesPerHidden = 34;
constexpr std::uint64_t kLogitBytes = 4;
constexpr std::uint64_t kMaxTokens = std::uint64_t{1} << 32;
constexpr std::uint64_t kMaxSequences = std::uint64_t{1} << 20;

// Saturating: what a hostile shape or workload asks for must not wrap; validate() then refuses it.
std::uint64_t product(std::initializer_list<std::uint64_t> factors) {
  std::uint64_t result = 1;
  for (const auto factor : factors)
    if (__builtin_mul_overflow(result, factor, &result)) return ~std::uint64_t{0};
  return result;
}

std::uint64_t whole_bytes(double bytes) {
  return bytes < 0x1p63 ? static_cast<std::uint64_t>(bytes) : ~std::uint64_t{0};
}

const LayerShape* shape_of(const ModelDescription& model, const ModelLayer& layer) {
  if (!model.architecture || !layer.block) return nullptr;
  return &model.architecture->layers.at(*layer.block);
}

// Of its experts' parameters, the share that one token meets.
double expert_share(const LayerShape* shape) {
  if (shape == nullptr || shape->feed_forward.experts == 0) return 1;
  return static_cast<double>(shape->feed_forward.experts_per_token) /
         static_cast<double>(shape->feed_forward.experts);
}

double share_of(const ModelTensor& tensor, const LayerShape* shape) {
  return tensor.role == TensorRole::expert ? expert_share(shape) : 1;
}

bool is_multiplied(const ModelTensor& tensor) {
  return tensor.role == TensorRole::weight || tensor.role == TensorRole::expert ||
         tensor.role == TensorRole::shared_expert || tensor.role == TensorRole::router;
}

bool is_head(const ModelDescription& model, const ModelLayer& layer) {
  return &layer == &model.layers.back() && layer.name == "head";
}

// The matrix that a tied head multiplies by: the embedding with a row for each word.
const ModelTensor* tied_matrix(const ModelDescription& model) {
  if (!model.architecture || !model.architecture->tied_embeddings || model.layers.empty())
    return nullptr;
  const ModelTensor* largest = nullptr;
  for (const auto& tensor : model.layers.front().tensors)
    if (tensor.role == TensorRole::embedding &&
        (largest == nullptr || tensor.parameters > largest->parameters))
      largest = &tensor;
  return largest;
}

// Of the activations: as wide as the first block's weights, 16 bits for quantised ones.
std::uint64_t element_bytes(const ModelDescription& model) {
  for (const auto& layer : model.layers) {
    if (layer.name == "embed" && model.layers.size() > 1) continue;
    if (layer.tensors.empty()) continue;
    const auto type = layer.tensors.front().spec.dtype;
    // Norms stay wide in a quantised file.
    const bool wide = type == DType::f32 || type == DType::f64;
    const bool quantised = std::ranges::any_of(
        layer.tensors, [](const ModelTensor& tensor) { return size_of(tensor.spec.dtype) < 4; });
    return wide && !quantised ? 4 : 2;
  }
  return 2;
}

std::uint64_t logits_of(const ModelDescription& model, const ModelLayer& head) {
  if (model.architecture) return model.architecture->vocabulary;
  std::uint64_t largest = 1;
  for (const auto& tensor : head.tensors)
    for (const auto extent : tensor.spec.shape) largest = std::max(largest, extent);
  return largest;
}

// Keys and values as the projections' rows tell, where no architecture does.
std::optional<std::uint64_t> kv_values_by_tensors(const ModelLayer& layer) {
  std::optional<std::uint64_t> values;
  for (const auto& tensor : layer.tensors) {
    const auto& name = tensor.spec.name;
    const bool is_kv = name.ends_with("k_proj.weight") || name.ends_with("v_proj.weight") ||
                       name.ends_with("attn_k.weight") || name.ends_with("attn_v.weight");
    if (is_kv && tensor.spec.shape.size() == 2 && tensor.spec.shape[0] <= kMaxModelExtent)
      values = values.value_or(0) + tensor.spec.shape[0];
  }
  return values;
}

// What a pass of `tokens` reads of a tensor: a row of a table for each, of the experts those that
// the tokens are expected to meet, all of anything else.
double read_bytes_of(const ModelTensor& tensor, const LayerShape* shape, std::uint64_t tokens) {
  const auto bytes = static_cast<double>(tensor.spec.size_bytes());
  if (tensor.role == TensorRole::buffer) return 0;
  if (tensor.role == TensorRole::embedding && tensor.spec.shape.size() == 2) {
    const auto rows = tensor.spec.shape.front();
    return rows == 0
               ? 0
               : bytes * static_cast<double>(std::min(rows, tokens)) / static_cast<double>(rows);
  }
  if (tensor.role != TensorRole::expert || shape == nullptr || shape->feed_forward.experts == 0)
    return bytes;
  const auto& feed = shape->feed_forward;
  return bytes * expected_experts(feed.experts, feed.experts_per_token, tokens) /
         static_cast<double>(feed.experts);
}

void check(const char* field, std::uint64_t value, std::uint64_t least, std::uint64_t most) {
  if (value < least || value > most)
    throw Error(Errc::invalid_argument,
                fmt::format("workload: {} is {}; write {} to {}", field, value, least, most));
}

}  // namespace

std::string_view to_string(TensorRole value) noexcept {
  switch (value) {
    case TensorRole::embedding:
      return "embedding";
    case TensorRole::weight:
      return "weight";
    case TensorRole::expert:
      return "expert";
    case TensorRole::shared_expert:
      return "shared_expert";
    case TensorRole::router:
      return "router";
    case TensorRole::vector:
      return "vector";
    case TensorRole::scale:
      return "scale";
    case TensorRole::buffer:
      break;
  }
  return "buffer";
}

std::uint64_t ModelLayer::weight_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& tensor : tensors)
    if (tensor.role != TensorRole::buffer &&
        __builtin_add_overflow(bytes, tensor.spec.size_bytes(), &bytes))
      throw Error(Errc::invalid_argument,
                  fmt::format("layer '{}': its size does not fit 64 bits", name));
  return bytes;
}

std::uint64_t ModelLayer::parameters() const {
  std::uint64_t count = 0;
  for (const auto& tensor : tensors)
    if (__builtin_add_overflow(count, tensor.parameters, &count))
      throw Error(Errc::invalid_argument,
                  fmt::format("layer '{}': its parameters do not fit 64 bits", name));
  return count;
}

std::uint64_t ModelDescription::parameters() const {
  std::uint64_t count = 0;
  for (const auto& layer : layers)
    if (__builtin_add_overflow(count, layer.parameters(), &count))
      throw Error(Errc::invalid_argument,
                  fmt::format("model '{}': its parameters do not fit 64 bits", name));
  return count;
}

double ModelDescription::active_parameters() const {
  double count = 0;
  for (const auto& layer : layers)
    for (const auto& tensor : layer.tensors)
      count += static_cast<double>(tensor.parameters) * share_of(tensor, shape_of(*this, layer));
  return count;
}

std::uint64_t ModelDescription::weight_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& layer : layers)
    if (__builtin_add_overflow(bytes, layer.weight_bytes(), &bytes))
      throw Error(Errc::invalid_argument,
                  fmt::format("model '{}': its size does not fit 64 bits", name));
  return bytes;
}

// Every matrix of a transformer block has the hidden size on one side.
std::uint64_t hidden_size(const ModelDescription& model) {
  if (model.architecture) return model.architecture->hidden;
  std::map<std::uint64_t, std::size_t> seen;
  const auto count = [&](bool blocks) {
    for (const auto& layer : model.layers)
      if (blocks == (layer.name != "embed" && layer.name != "head"))
        for (const auto& tensor : layer.tensors)
          for (const auto extent : std::set(tensor.spec.shape.begin(), tensor.spec.shape.end()))
            if (extent > 1) ++seen[extent];
  };
  count(true);
  if (seen.empty()) count(false);
  const auto most = std::ranges::max_element(seen, {}, [](const auto& e) { return e.second; });
  return most == seen.end() ? 1 : most->first;
}

LayerCosts layer_costs(const ModelDescription& model, const ModelLayer& layer,
                       std::uint64_t context) {
  return layer_costs(model, layer, context, hidden_size(model));
}

LayerCosts layer_costs(const ModelDescription& model, const ModelLayer& layer,
                       std::uint64_t context, std::uint64_t hidden) {
  const auto* shape = shape_of(model, layer);
  LayerCosts costs;
  for (const auto& tensor : layer.tensors)
    if (is_multiplied(tensor))
      costs.matrix_flops_per_token +=
          kFlopsPerValue * static_cast<double>(tensor.parameters) * share_of(tensor, shape);
  if (layer.name == "embed" || is_head(model, layer)) {
    costs.attention_flops_per_token = 0;
    costs.kv_values_per_token = 0;
    if (layer.name == "embed") return costs;
    if (const auto* tied = tied_matrix(model))
      costs.matrix_flops_per_token += kFlopsPerValue * static_cast<double>(tied->parameters);
    costs.activation_bytes_per_token =
        static_cast<double>(product({logits_of(model, layer), kLogitBytes}));
    return costs;
  }
  costs.cached_tokens = context;
  costs.activation_bytes_per_token = kActivationBytesPerHidden * static_cast<double>(hidden);
  costs.kv_values_per_token = kv_values_by_tensors(layer);
  if (shape == nullptr) return costs;
  costs.attention_flops_per_token = attention_flops_per_token(shape->attention, context);
  costs.kv_values_per_token = kv_values_per_token(shape->attention);
  costs.cached_tokens = attended_tokens(shape->attention, context);
  costs.activation_bytes_per_token = activation_bytes_per_token(*model.architecture, *shape);
  return costs;
}

ModelSpec model_spec(const ModelDescription& model, const Workload& workload) {
  check("sequences", workload.sequences, 1, kMaxSequences);
  check("tokens", workload.tokens, 1, kMaxTokens);
  check("context", workload.context, 0, kMaxTokens);
  const auto context = std::max(workload.context, workload.tokens);
  const auto tokens = product({workload.sequences, workload.tokens});
  const auto hidden = hidden_size(model);
  const auto sent = product({tokens, hidden, element_bytes(model)});
  const auto* tied = tied_matrix(model);
  const auto kv_block = block_of(workload.kv_type);
  ModelSpec spec;
  spec.name = model.name;
  if (!workload.is_training)
    spec.gradient_bytes_per_weight_byte = spec.optimizer_bytes_per_weight_byte = 0;
  for (const auto& layer : model.layers) {
    const auto costs = layer_costs(model, layer, context, hidden);
    LayerSpec out;
    out.name = layer.name;
    for (const auto& tensor : layer.tensors)
      if (tensor.role != TensorRole::buffer) out.tensors.push_back(tensor.spec);
    out.forward_flops = static_cast<double>(tokens) * (costs.matrix_flops_per_token +
                                                       costs.attention_flops_per_token.value_or(0));
    if (workload.is_training) {
      out.activation_bytes =
          whole_bytes(costs.activation_bytes_per_token * static_cast<double>(tokens));
    } else {
      if (!costs.kv_values_per_token)
        throw Error(
            Errc::invalid_argument,
            fmt::format("model '{}': layer '{}': nothing tells the size of its KV cache; put the "
                        "config.json beside the weights",
                        model.name, layer.name));
      const auto values =
          product({workload.sequences, costs.cached_tokens, *costs.kv_values_per_token});
      out.activation_bytes =
          product({values / kv_block.elements + (values % kv_block.elements != 0), kv_block.bytes});
    }
    const bool is_last = &layer == &model.layers.back();
    out.output_bytes = is_last && is_head(model, layer) ? 0 : sent;
    double read = 0;
    for (const auto& tensor : layer.tensors)
      read += read_bytes_of(tensor, shape_of(model, layer), tokens);
    if (tied != nullptr && is_head(model, layer)) {
      // It lies once where the embedding does too, but the head multiplies by all of it.
      read += static_cast<double>(tied->spec.size_bytes());
      if (workload.copy_tied_head) {
        out.tensors.push_back(tied->spec);
        out.tensors.back().name += " (tied)";
        out.tensors.back().tied_to = tied->spec.name;
      }
    }
    if (!workload.is_training) out.read_bytes = whole_bytes(read);
    spec.layers.push_back(std::move(out));
  }
  spec.validate();
  return spec;
}

std::optional<TransformerShape> transformer_shape(const ModelDescription& model) {
  if (!model.architecture) return std::nullopt;
  const auto& from = *model.architecture;
  const auto& last = from.layers.back();
  const auto& a = last.attention;
  const auto narrow = [](std::uint64_t value) { return static_cast<std::uint32_t>(value); };
  TransformerShape shape;
  shape.name = model.name;
  shape.layers = narrow(from.layers.size());
  shape.hidden = narrow(from.hidden);
  shape.heads = narrow(a.heads);
  shape.kv_heads = narrow(a.kv_heads);
  shape.head_size = narrow(a.key_dim);
  if (a.kv_latent > 0)
    shape.kv_heads = narrow(
        std::max<std::uint64_t>((kv_values_per_token(a) + 2 * a.key_dim - 1) / (2 * a.key_dim), 1));
  shape.vocabulary = narrow(from.vocabulary);
  shape.learned_positions = narrow(from.learned_positions);
  shape.gated_feed = last.feed_forward.gated;
  shape.tied_embeddings = from.tied_embeddings;
  shape.sliding_window = narrow(a.window);
  shape.feed_width = narrow(last.feed_forward.width);
  shape.experts = narrow(last.feed_forward.experts);
  shape.experts_per_token = narrow(last.feed_forward.experts_per_token);
  shape.expert_feed_width = narrow(last.feed_forward.expert_width);
  shape.shared_feed_width = narrow(last.feed_forward.shared_width);
  for (std::uint32_t i = 0; i < shape.layers; ++i) {
    const auto& layer = from.layers[i];
    if (layer.attention.window == 0) shape.sliding_window = 0;
    if (layer.attention.window > a.window && shape.sliding_window != 0)
      shape.sliding_window = narrow(layer.attention.window);
    shape.feed_width = std::max(shape.feed_width, narrow(layer.feed_forward.width));
    if (layer.feed_forward.experts == 0 && shape.experts > 0 && i == shape.first_expert_layer)
      shape.first_expert_layer = i + 1;
  }
  if (shape.feed_width == 0) shape.feed_width = shape.expert_feed_width;
  return shape;
}

}  // namespace causeway
