#include "runtime/sharding/models/config_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <initializer_list>
#include <utility>

#include "runtime/sharding/models/expected_tensors.h"
#include "runtime/sharding/models/strict_json.h"
#include "runtime/topology/utf8.h"

namespace causeway {

namespace json = boost::json;

namespace {

// Fields under any of several names; null is as good as absent.
class Fields {
 public:
  Fields(const json::object& object, std::string origin)
      : object_(object), origin_(std::move(origin)) {}

  using Names = std::initializer_list<std::string_view>;

  [[nodiscard]] Error refuse(std::string_view name, std::string_view what) const {
    return {Errc::parse, fmt::format("{}: {}: {}", origin_, name, what)};
  }
  [[nodiscard]] const json::value* find(Names names, std::string_view* found = nullptr) const {
    for (const auto name : names)
      if (const auto* value = object_.if_contains({name.data(), name.size()});
          value != nullptr && !value->is_null()) {
        if (found != nullptr) *found = name;
        return value;
      }
    return nullptr;
  }
  [[nodiscard]] std::optional<std::uint64_t> number(Names names) const {
    std::string_view name;
    const auto* value = find(names, &name);
    return value == nullptr ? std::nullopt : std::optional(whole(*value, name));
  }
  [[nodiscard]] std::uint64_t number(Names names, std::uint64_t otherwise) const {
    return number(names).value_or(otherwise);
  }
  [[nodiscard]] std::uint64_t require(Names names) const {
    if (const auto value = number(names)) return *value;
    throw refuse(*names.begin(), "is missing; this family needs it");
  }
  [[nodiscard]] bool flag(std::string_view name, bool otherwise) const {
    const auto* value = find({name});
    if (value == nullptr) return otherwise;
    if (!value->is_bool()) throw refuse(name, "write true or false");
    return value->get_bool();
  }
  [[nodiscard]] std::string text(Names names) const {
    std::string_view name;
    const auto* value = find(names, &name);
    if (value == nullptr) return {};
    if (!value->is_string()) throw refuse(name, "write a text");
    return std::string(std::string_view(value->get_string()));
  }
  [[nodiscard]] bool is_positive(Names names, double otherwise) const {
    std::string_view name;
    const auto* value = find(names, &name);
    if (value == nullptr) return otherwise > 0;
    if (!value->is_number()) throw refuse(name, "write a number");
    return value->to_number<double>() > 0;
  }
  [[nodiscard]] const json::object* object(std::string_view name) const {
    const auto* value = find({name});
    if (value == nullptr) return nullptr;
    if (!value->is_object()) throw refuse(name, "write an object");
    return &value->get_object();
  }
  [[nodiscard]] const json::array* list(std::string_view name) const {
    const auto* value = find({name});
    if (value == nullptr) return nullptr;
    if (!value->is_array()) throw refuse(name, "write a list");
    return &value->get_array();
  }
  [[nodiscard]] std::uint64_t whole(const json::value& value, std::string_view name) const {
    if (value.is_uint64() && value.get_uint64() <= kMaxModelExtent) return value.get_uint64();
    if (value.is_int64() && value.get_int64() >= 0 &&
        static_cast<std::uint64_t>(value.get_int64()) <= kMaxModelExtent)
      return static_cast<std::uint64_t>(value.get_int64());
    throw refuse(name, fmt::format("write a whole number from 0 to {}", kMaxModelExtent));
  }

 private:
  const json::object& object_;
  std::string origin_;
};

bool is_one_of(std::string_view word, std::initializer_list<std::string_view> words) {
  return std::ranges::find(words, word) != words.end();
}

// Which layers see a window only.
std::vector<bool> windowed_layers(const Fields& fields, const std::string& family,
                                  std::uint64_t layers) {
  std::vector<bool> windowed(layers, false);
  if (const auto* types = fields.list("layer_types")) {
    if (types->size() != layers)
      throw fields.refuse("layer_types",
                          fmt::format("has {} entries for {} layers", types->size(), layers));
    for (std::size_t i = 0; i < layers; ++i)
      windowed[i] = (*types)[i].is_string() &&
                    std::string_view((*types)[i].get_string()) == "sliding_attention";
    return windowed;
  }
  const auto fill = [&](auto rule) {
    for (std::size_t i = 0; i < layers; ++i) windowed[i] = rule(i);
    return windowed;
  };
  if (family == "gemma2" || family == "gpt_oss")
    return fill([](std::size_t i) { return i % 2 == 0; });
  if (family == "gemma3_text") {
    const auto every = fields.number({"sliding_window_pattern", "_sliding_window_pattern"}, 6);
    return fill([every](std::size_t i) { return every == 0 || (i + 1) % every != 0; });
  }
  if (family.starts_with("qwen")) {
    if (!fields.flag("use_sliding_window", false)) return windowed;
    const auto first = fields.number({"max_window_layers"}, 28);
    return fill([first](std::size_t i) { return i >= first; });
  }
  if (!fields.flag("use_sliding_window", true)) return windowed;
  return fill([](std::size_t) { return true; });
}

// Which layers have experts.
std::vector<bool> sparse_layers(const Fields& fields, std::uint64_t layers) {
  std::vector<bool> sparse(layers, true);
  const auto dense_before = fields.number({"first_k_dense_replace"}, 0);
  const auto every = std::max<std::uint64_t>(fields.number({"moe_layer_freq"}, 1), 1);
  const auto step = std::max<std::uint64_t>(fields.number({"decoder_sparse_step"}, 1), 1);
  for (std::size_t i = 0; i < layers; ++i)
    sparse[i] = i >= dense_before && i % every == 0 && (i + 1) % step == 0;
  if (const auto* dense = fields.list("mlp_only_layers"))
    for (const auto& entry : *dense)
      if (const auto i = fields.whole(entry, "mlp_only_layers"); i < layers) sparse[i] = false;
  return sparse;
}

AttentionShape read_attention(const Fields& fields, const std::string& family,
                              std::uint64_t hidden) {
  AttentionShape a;
  const bool is_gemma3 = family == "gemma3_text";  // It leaves its defaults out.
  a.heads = is_gemma3 ? fields.number({"num_attention_heads"}, 8)
                      : fields.require({"num_attention_heads", "n_head"});
  if (a.heads == 0) throw fields.refuse("num_attention_heads", "is 0");
  a.kv_heads = fields.number({"num_key_value_heads"}, is_gemma3 ? 4 : a.heads);
  const bool is_wide = is_gemma3 || family == "gemma" || family == "gemma2";
  const auto qwen3 = is_one_of(family, {"qwen3", "qwen3_moe"});
  a.key_dim = fields.number({"head_dim"}, is_wide ? 256 : qwen3 ? 128 : hidden / a.heads);
  a.value_dim = a.key_dim;
  if (const auto latent = fields.number({"kv_lora_rank"}); latent && *latent > 0) {
    a.kv_latent = *latent;
    a.q_latent = fields.number({"q_lora_rank"}, 0);
    a.rope_dim = fields.require({"qk_rope_head_dim"});
    a.key_dim = fields.require({"qk_nope_head_dim"}) + a.rope_dim;
    a.value_dim = fields.require({"v_head_dim"});
    a.kv_heads = a.heads;
  }
  const bool all = is_one_of(family, {"gpt2", "phi"});
  const auto bias =
      fields.flag("attention_bias", all || family == "gpt_neox" || family == "gpt_oss");
  const auto opt = family == "opt" && fields.flag("enable_bias", true);
  a.qkv_bias = bias || all || opt || is_one_of(family, {"qwen2", "qwen2_moe"});
  a.out_bias = bias || all || opt;
  a.qk_norm = is_one_of(family, {"qwen3", "qwen3_moe", "gemma3_text"});
  return a;
}

FeedForwardShape read_feed_forward(const Fields& fields, const std::string& family,
                                   std::uint64_t hidden) {
  FeedForwardShape f;
  const auto width = fields.number({"intermediate_size", "n_inner", "ffn_dim"});
  if (width)
    f.width = *width;
  else if (family == "gpt2")
    f.width = 4 * hidden;
  else if (family == "gemma3_text")
    f.width = 9216;
  else
    f.width = fields.require({"intermediate_size"});
  f.gated = !is_one_of(family, {"gpt2", "gpt_neox", "opt", "phi"});
  f.bias = f.gated ? family == "gpt_oss" || fields.flag("mlp_bias", false)
                   : family != "opt" || fields.flag("enable_bias", true);
  f.experts = fields.number({"num_local_experts", "num_experts", "n_routed_experts"}, 0);
  if (f.experts == 0) return f;
  f.experts_per_token =
      fields.require({"num_experts_per_tok", "num_experts_per_token", "experts_per_token"});
  f.expert_width = fields.number({"moe_intermediate_size"}, f.width);
  f.shared_width = fields.number({"shared_expert_intermediate_size"}, 0) +
                   fields.number({"n_shared_experts"}, 0) * f.expert_width;
  return f;
}

ModelArchitecture read_architecture(const Fields& fields, const std::string& family) {
  const bool is_gemma3 = family == "gemma3_text";
  ModelArchitecture model;
  model.family = family;
  model.hidden =
      is_gemma3 ? fields.number({"hidden_size"}, 2304) : fields.require({"hidden_size", "n_embd"});
  model.vocabulary =
      is_gemma3 ? fields.number({"vocab_size"}, 262'208) : fields.require({"vocab_size"});
  const auto layers = is_gemma3 ? fields.number({"num_hidden_layers"}, 26)
                                : fields.require({"num_hidden_layers", "n_layer"});
  if (layers < 1 || layers > kMaxModelLayers)
    throw fields.refuse("num_hidden_layers",
                        fmt::format("is {}; 1 to {} are read", layers, kMaxModelLayers));
  model.context = fields.number({"max_position_embeddings", "n_positions", "n_ctx"}, 0);
  if (family == "gpt2") model.learned_positions = fields.number({"n_positions", "n_ctx"}, 1024);
  if (family == "opt") {
    model.learned_positions = fields.require({"max_position_embeddings"}) + 2;  // Its padding.
    const auto extent = fields.number({"word_embed_proj_dim"}, model.hidden);
    model.embedding_dim = extent == model.hidden ? 0 : extent;
    model.final_norm = fields.flag("do_layer_norm_before", true);
  }
  model.norm_bias = is_one_of(family, {"gpt2", "gpt_neox", "opt", "phi", "phimoe"});
  model.norms_per_layer = is_one_of(family, {"gemma2", "gemma3_text"}) ? 4
                          : family == "phi"                            ? 1
                                                                       : 2;
  model.head_bias = family == "phi" || fields.flag("lm_head_bias", false);
  model.tied_embeddings = fields.flag(
      "tie_word_embeddings", is_one_of(family, {"gpt2", "opt", "gemma", "gemma2", "gemma3_text"}));
  model.dropout = fields.is_positive({"resid_pdrop", "hidden_dropout", "dropout"},
                                     family == "gpt2" || family == "opt" ? 0.1 : 0);

  LayerShape layer{read_attention(fields, family, model.hidden),
                   read_feed_forward(fields, family, model.hidden)};
  model.repeat(layers, layer);
  const auto window = fields.number({"sliding_window"}, is_gemma3 ? 4096 : 0);
  const auto windowed = windowed_layers(fields, family, layers);
  const auto sparse = sparse_layers(fields, layers);
  for (std::size_t i = 0; i < layers; ++i) {
    auto& [attention, feed] = model.layers[i];
    if (windowed[i]) attention.window = window;
    if (feed.experts == 0) continue;
    if (sparse[i])
      feed.width = 0;
    else
      feed.experts = feed.experts_per_token = feed.expert_width = feed.shared_width = 0;
  }
  return model;
}

DType weight_type(const Fields& fields) {
  const auto name = fields.text({"torch_dtype", "dtype"});
  if (name.ends_with("bfloat16")) return DType::bf16;
  if (name.ends_with("float16")) return DType::f16;
  return DType::f32;
}

void read_quantisation(const json::object& quantisation, const std::string& origin,
                       ModelConfig& config) {
  const Fields fields(quantisation, origin + ": quantization_config");
  const auto method = fields.text({"quant_method"});
  config.has_mxfp4_experts = method == "mxfp4";
  if (config.has_mxfp4_experts) return;
  if (method != "fp8") {
    config.notes.push_back(
        fmt::format("The weights are quantised ({}); sizes are known where their files are there.",
                    method.empty() ? "by a method that is not named" : printable(method, 40)));
    return;
  }
  config.fp8_block = {128, 128};
  if (const auto* block = fields.list("weight_block_size")) {
    if (block->size() != 2) throw fields.refuse("weight_block_size", "write two numbers");
    for (std::size_t i = 0; i < 2; ++i)
      (*config.fp8_block)[i] =
          std::max<std::uint64_t>(fields.whole((*block)[i], "weight_block_size"), 1);
  }
}

}  // namespace

ModelConfig read_config(std::string_view text, const std::string& origin) {
  auto tree = parse_strict_json(text, origin);
  ModelConfig config;
  const Fields whole(tree, origin);
  if (const auto* quantisation = whole.object("quantization_config"))
    read_quantisation(*quantisation, origin, config);
  // A model that also sees or hears keeps the language model's numbers apart.
  json::object inner;
  if (const auto* language = whole.object("text_config")) {
    inner = *language;
    for (const auto* shared : {"model_type", "tie_word_embeddings", "torch_dtype", "dtype"})
      if (const auto* value = tree.if_contains(shared)) inner.emplace(shared, *value);
    config.notes.emplace_back(
        "The model has more than a language model; other parts are placed by their tensors alone.");
  }
  const Fields fields(inner.empty() ? tree : inner, origin);
  config.type = weight_type(fields);
  config.says_tied = fields.find({"tie_word_embeddings"}) != nullptr;
  auto family = printable(fields.text({"model_type"}), 60);
  if (family == "gemma3") family = "gemma3_text";
  if (family.empty()) {
    config.notes.push_back(origin +
                           " does not say model_type; costs follow from the tensors alone.");
    return config;
  }
  const bool known = is_known_family(family);
  try {
    auto architecture = read_architecture(fields, family);
    architecture.validate();
    config.architecture = std::move(architecture);
  } catch (const Error& error) {
    if (known && error.code() == Errc::invalid_argument)
      throw Error(Errc::parse, fmt::format("{}: {}", origin, error.what()));
    if (known) throw;
    config.notes.push_back(fmt::format("Costs follow from the tensors alone: {}.", error.what()));
  }
  if (!known)
    config.notes.push_back(
        fmt::format("Family '{}' is not known here: its numbers are read as Llama's, its tensors "
                    "placed by name.",
                    printable(family, 60)));
  return config;
}

}  // namespace causeway
