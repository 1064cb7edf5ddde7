#include "runtime/sharding/models/gguf_architecture.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "runtime/sharding/models/tensor_names.h"
#include "runtime/topology/utf8.h"

namespace causeway {

namespace {

class Keys {
 public:
  Keys(const GgufHeader& header, std::string architecture)
      : header_(header), architecture_(std::move(architecture)) {}

  [[nodiscard]] std::string name(std::string_view key) const {
    return architecture_ + "." + std::string(key);
  }
  [[nodiscard]] std::optional<std::uint64_t> find(std::string_view key) const {
    const auto value = header_.number(name(key));
    if (value && *value > kMaxModelExtent)
      throw Error(Errc::parse, fmt::format("{}: key '{}' is {}; at most {}", header_.origin,
                                           name(key), *value, kMaxModelExtent));
    return value;
  }
  [[nodiscard]] std::uint64_t find(std::string_view key, std::uint64_t otherwise) const {
    return find(key).value_or(otherwise);
  }
  // One number for each layer.
  [[nodiscard]] std::optional<std::vector<std::uint64_t>> per_layer(std::string_view key,
                                                                    std::size_t layers) const {
    return header_.numbers(name(key), layers);
  }
  [[nodiscard]] bool is_list(std::string_view key) const {
    const auto at = header_.metadata.find(name(key));
    return at != header_.metadata.end() && std::holds_alternative<GgufList>(at->second);
  }
  [[nodiscard]] const std::string& architecture() const { return architecture_; }

 private:
  const GgufHeader& header_;
  std::string architecture_;
};

// Every so many layers one sees the whole context, the others a window; llama.cpp has the number in
// its source, not in the file. 1: all see the whole context, as llama.cpp has it for what is not
// here (Phi-3 among them), whatever window the file tells. 0: none does.
std::uint64_t full_every(std::string_view architecture) {
  if (architecture == "gemma2" || architecture == "gpt-oss") return 2;
  if (architecture == "gemma3") return 6;
  if (architecture == "cohere2") return 4;
  return 1;
}

std::vector<bool> windowed_layers(const Keys& keys, std::size_t layers) {
  std::vector<bool> windowed(layers);
  constexpr auto kPattern = "attention.sliding_window_pattern";
  if (keys.is_list(kPattern)) {
    const auto flags = *keys.per_layer(kPattern, layers);
    for (std::size_t i = 0; i < layers; ++i) windowed[i] = flags[i] != 0;
    return windowed;
  }
  const auto every = keys.find(kPattern, full_every(keys.architecture()));
  for (std::size_t i = 0; i < layers; ++i) windowed[i] = every == 0 || (i + 1) % every != 0;
  return windowed;
}

AttentionShape read_attention(const Keys& keys, std::uint64_t hidden, std::uint64_t heads) {
  AttentionShape a;
  a.heads = heads;
  a.key_dim = keys.find("attention.key_length", heads == 0 ? 0 : hidden / heads);
  a.value_dim = keys.find("attention.value_length", a.key_dim);
  a.kv_latent = keys.find("attention.kv_lora_rank", 0);
  if (a.kv_latent > 0) {
    a.q_latent = keys.find("attention.q_lora_rank", 0);
    a.key_dim = keys.find("attention.key_length_mla", a.key_dim);
    a.value_dim = keys.find("attention.value_length_mla", a.value_dim);
    a.rope_dim = keys.find("rope.dimension_count", 0);
  }
  return a;
}

bool has_tensor(const GgufHeader& header, std::string_view name) {
  return std::ranges::any_of(header.entries,
                             [name](const auto& e) { return e.tensor.name == name; });
}

std::uint64_t vocabulary_of(const GgufHeader& header, const Keys& keys) {
  if (const auto size = keys.find("vocab_size")) return *size;
  const auto tokens = header.metadata.find("tokenizer.ggml.tokens");
  if (tokens != header.metadata.end())
    if (const auto* list = std::get_if<GgufList>(&tokens->second)) return list->count;
  for (const auto& [tensor, offset] : header.entries)
    if (tensor.name == "token_embd.weight" && !tensor.shape.empty()) return tensor.shape.front();
  return 0;
}

}  // namespace

std::optional<ModelArchitecture> gguf_architecture(const GgufHeader& header,
                                                   std::vector<std::string>& notes) {
  const auto family = printable(header.text("general.architecture").value_or(""), 60);
  const Keys keys(header, family);
  const auto layers = keys.find("block_count", 0);
  const auto hidden = keys.find("embedding_length", 0);
  if (layers == 0 || hidden == 0) {
    notes.push_back(
        fmt::format("The metadata of '{}' do not describe a transformer; costs follow from the "
                    "tensors alone.",
                    printable(family, 60)));
    return std::nullopt;
  }
  if (layers > kMaxModelLayers)
    throw Error(Errc::parse, fmt::format("{}: key '{}' is {}; at most {}", header.origin,
                                         keys.name("block_count"), layers, kMaxModelLayers));
  ModelArchitecture model;
  model.family = family;
  model.hidden = hidden;
  model.vocabulary = vocabulary_of(header, keys);
  model.context = keys.find("context_length", 0);
  model.tied_embeddings = !has_tensor(header, "output.weight");
  const auto heads = keys.per_layer("attention.head_count", layers);
  const auto kv_heads = keys.per_layer("attention.head_count_kv", layers);
  const auto widths = keys.per_layer("feed_forward_length", layers);
  const auto window = keys.find("attention.sliding_window", 0);
  const auto windowed = windowed_layers(keys, layers);
  const auto experts = keys.find("expert_count", 0);
  const auto dense_before = keys.find("leading_dense_block_count", 0);
  model.layers.resize(layers);
  for (std::size_t i = 0; i < layers; ++i) {
    auto& [a, f] = model.layers[i];
    a = read_attention(keys, hidden, heads ? (*heads)[i] : 0);
    a.kv_heads = kv_heads ? (*kv_heads)[i] : a.heads;
    if (a.kv_latent > 0) a.kv_heads = a.heads;  // The file counts the one latent.
    if (windowed[i]) a.window = window;
    f.width = widths ? (*widths)[i] : 0;
    if (experts == 0 || i < dense_before) continue;
    f.experts = experts;
    f.experts_per_token = keys.find("expert_used_count", 0);
    f.expert_width = keys.find("expert_feed_forward_length", f.width);
    f.shared_width = keys.find("expert_shared_feed_forward_length", 0);
    if (f.shared_width == 0) f.shared_width = keys.find("expert_shared_count", 0) * f.expert_width;
    f.width = 0;
  }
  try {
    model.validate();
  } catch (const Error& error) {
    notes.push_back(fmt::format("Costs follow from the tensors alone: {}.", error.what()));
    return std::nullopt;
  }
  return model;
}

bool is_gguf_tensor_name(std::string_view name) {
  static constexpr std::array<std::string_view, 11> kOuter{
      "token_embd",  "position_embd", "token_embd_norm",   "token_types",        "output",
      "output_norm", "rope_freqs",    "rope_factors_long", "rope_factors_short", "output_extra",
      "cls"};
  static constexpr std::array<std::string_view, 42> kBlock{
      "attn_norm",     "attn_norm_2",      "attn_q",
      "attn_k",        "attn_v",           "attn_qkv",
      "attn_output",   "attn_q_norm",      "attn_k_norm",
      "attn_out_norm", "attn_post_norm",   "post_attention_norm",
      "post_ffw_norm", "attn_sinks",       "attn_rot_embd",
      "attn_q_a",      "attn_q_b",         "attn_q_a_norm",
      "attn_kv_a_mqa", "attn_kv_b",        "attn_k_b",
      "attn_v_b",      "attn_kv_a_norm",   "attn_sub_norm",
      "ffn_norm",      "ffn_gate",         "ffn_up",
      "ffn_down",      "ffn_act",          "ffn_sub_norm",
      "ffn_gate_inp",  "ffn_gate_exps",    "ffn_up_exps",
      "ffn_down_exps", "ffn_gate_up_exps", "ffn_gate_shexp",
      "ffn_up_shexp",  "ffn_down_shexp",   "ffn_gate_inp_shexp",
      "ffn_norm_exps", "exp_probs_b",      "layer_output_norm"};
  const auto block = block_name(name);
  auto base = block ? std::string_view(block->rest) : name;
  for (const std::string_view suffix : {".weight", ".bias"})
    if (base.ends_with(suffix)) base.remove_suffix(suffix.size());
  if (block) return block->stack == "blk" && std::ranges::find(kBlock, base) != kBlock.end();
  return std::ranges::find(kOuter, base) != kOuter.end();
}

}  // namespace causeway
