#include "runtime/sharding/models/expected_tensors.h"

#include <algorithm>
#include <array>
#include <utility>

namespace causeway {

namespace {

using Shape = std::vector<std::uint64_t>;

enum class Naming : std::uint8_t { llama, gpt2, neox, opt, phi, phi3, mixtral, deepseek, gpt_oss };

struct Family {
  std::string_view name;
  Naming naming;
};
constexpr std::array kFamilies{Family{"llama", Naming::llama},
                               Family{"mistral", Naming::llama},
                               Family{"qwen2", Naming::llama},
                               Family{"qwen3", Naming::llama},
                               Family{"qwen2_moe", Naming::llama},
                               Family{"qwen3_moe", Naming::llama},
                               Family{"gemma", Naming::llama},
                               Family{"gemma2", Naming::llama},
                               Family{"gemma3_text", Naming::llama},
                               Family{"gpt2", Naming::gpt2},
                               Family{"gpt_neox", Naming::neox},
                               Family{"opt", Naming::opt},
                               Family{"phi", Naming::phi},
                               Family{"phi3", Naming::phi3},
                               Family{"mixtral", Naming::mixtral},
                               Family{"phimoe", Naming::mixtral},
                               Family{"deepseek", Naming::deepseek},
                               Family{"deepseek_v2", Naming::deepseek},
                               Family{"deepseek_v3", Naming::deepseek},
                               Family{"gpt_oss", Naming::gpt_oss}};

Naming naming_of(const ModelArchitecture& model) {
  const auto* const at = std::ranges::find(kFamilies, model.family, &Family::name);
  return at == kFamilies.end() ? Naming::llama : at->naming;
}

class List {
 public:
  explicit List(const ModelArchitecture& model) : model_(model) {}

  void add(std::string name, Shape extents, TensorRole role) {
    tensors_.push_back({std::move(name), std::move(extents), role});
  }
  // NAME.weight with `out` rows, and NAME.bias.
  void linear(const std::string& name, std::uint64_t out, std::uint64_t in, bool bias,
              TensorRole role = TensorRole::weight) {
    add(name + ".weight", {out, in}, role);
    if (bias) add(name + ".bias", {out}, TensorRole::vector);
  }
  // GPT-2 keeps its matrices the other way round.
  void transposed(const std::string& name, std::uint64_t out, std::uint64_t in) {
    add(name + ".weight", {in, out}, TensorRole::weight);
    add(name + ".bias", {out}, TensorRole::vector);
  }
  void norm(const std::string& name) { norm(name, model_.hidden); }
  void norm(const std::string& name, std::uint64_t extent) {
    add(name + ".weight", {extent}, TensorRole::vector);
    if (model_.norm_bias) add(name + ".bias", {extent}, TensorRole::vector);
  }
  void experts(const std::string& name, std::uint64_t count, std::uint64_t out, std::uint64_t in) {
    add(name + ".weight", {count, out, in}, TensorRole::expert);
  }
  std::vector<ExpectedTensor> take() { return std::move(tensors_); }

 private:
  const ModelArchitecture& model_;
  std::vector<ExpectedTensor> tensors_;
};

std::uint64_t query_extent(const AttentionShape& a) { return a.heads * a.key_dim; }
std::uint64_t key_extent(const AttentionShape& a) { return a.kv_heads * a.key_dim; }
std::uint64_t value_extent(const AttentionShape& a) { return a.kv_heads * a.value_dim; }
std::uint64_t out_extent(const AttentionShape& a) { return a.heads * a.value_dim; }

void add_attention(List& list, std::uint64_t hidden, const AttentionShape& a,
                   const std::string& prefix, const std::string& out) {
  list.linear(prefix + "q_proj", query_extent(a), hidden, a.qkv_bias);
  list.linear(prefix + "k_proj", key_extent(a), hidden, a.qkv_bias);
  list.linear(prefix + "v_proj", value_extent(a), hidden, a.qkv_bias);
  list.linear(prefix + out, hidden, out_extent(a), a.out_bias);
  if (!a.qk_norm) return;
  list.add(prefix + "q_norm.weight", {a.key_dim}, TensorRole::vector);
  list.add(prefix + "k_norm.weight", {a.key_dim}, TensorRole::vector);
}

void add_latent_attention(List& list, std::uint64_t hidden, const AttentionShape& a) {
  const std::string prefix = "self_attn.";
  if (a.q_latent > 0) {
    list.linear(prefix + "q_a_proj", a.q_latent, hidden, a.qkv_bias);
    list.norm(prefix + "q_a_layernorm", a.q_latent);
    list.linear(prefix + "q_b_proj", query_extent(a), a.q_latent, false);
  } else {
    list.linear(prefix + "q_proj", query_extent(a), hidden, false);
  }
  list.linear(prefix + "kv_a_proj_with_mqa", a.kv_latent + a.rope_dim, hidden, a.qkv_bias);
  list.norm(prefix + "kv_a_layernorm", a.kv_latent);
  list.linear(prefix + "kv_b_proj", a.heads * (a.key_dim - a.rope_dim + a.value_dim), a.kv_latent,
              false);
  list.linear(prefix + "o_proj", hidden, out_extent(a), a.out_bias);
}

void add_gated(List& list, std::uint64_t hidden, std::uint64_t width, bool bias,
               const std::string& prefix, TensorRole role) {
  list.linear(prefix + "gate_proj", width, hidden, bias, role);
  list.linear(prefix + "up_proj", width, hidden, bias, role);
  list.linear(prefix + "down_proj", hidden, width, bias, role);
}

void add_experts(List& list, const ModelArchitecture& model, const FeedForwardShape& f) {
  const auto hidden = model.hidden;
  if (naming_of(model) == Naming::mixtral) {
    list.linear("block_sparse_moe.gate", f.experts, hidden, false, TensorRole::router);
    list.experts("block_sparse_moe.experts.*.w1", f.experts, f.expert_width, hidden);
    list.experts("block_sparse_moe.experts.*.w2", f.experts, hidden, f.expert_width);
    list.experts("block_sparse_moe.experts.*.w3", f.experts, f.expert_width, hidden);
    return;
  }
  if (naming_of(model) == Naming::gpt_oss) {
    // All experts in one tensor, and the other way round.
    list.linear("mlp.router", f.experts, hidden, true, TensorRole::router);
    list.add("mlp.experts.gate_up_proj", {f.experts, hidden, 2 * f.expert_width},
             TensorRole::expert);
    list.add("mlp.experts.gate_up_proj_bias", {f.experts, 2 * f.expert_width}, TensorRole::expert);
    list.add("mlp.experts.down_proj", {f.experts, f.expert_width, hidden}, TensorRole::expert);
    list.add("mlp.experts.down_proj_bias", {f.experts, hidden}, TensorRole::expert);
    return;
  }
  list.linear("mlp.gate", f.experts, hidden, false, TensorRole::router);
  if (model.family == "deepseek_v3")
    list.add("mlp.gate.e_score_correction_bias", {f.experts}, TensorRole::vector);
  list.experts("mlp.experts.*.gate_proj", f.experts, f.expert_width, hidden);
  list.experts("mlp.experts.*.up_proj", f.experts, f.expert_width, hidden);
  list.experts("mlp.experts.*.down_proj", f.experts, hidden, f.expert_width);
  if (f.shared_width == 0) return;
  const bool deepseek = naming_of(model) == Naming::deepseek;
  add_gated(list, hidden, f.shared_width, false,
            deepseek ? "mlp.shared_experts." : "mlp.shared_expert.", TensorRole::shared_expert);
  if (!deepseek) list.linear("mlp.shared_expert_gate", 1, hidden, false, TensorRole::router);
}

// Llama and what is named like it: Mistral, Qwen, Gemma, Mixtral, DeepSeek, Phi-3.
std::vector<ExpectedTensor> llama_block(const ModelArchitecture& model, const LayerShape& layer) {
  List list(model);
  const auto& [a, f] = layer;
  const auto hidden = model.hidden;
  const bool fused = naming_of(model) == Naming::phi3;
  list.norm("input_layernorm");
  if (a.kv_latent > 0) {
    add_latent_attention(list, hidden, a);
  } else if (fused) {
    list.linear("self_attn.qkv_proj", query_extent(a) + key_extent(a) + value_extent(a), hidden,
                a.qkv_bias);
    list.linear("self_attn.o_proj", hidden, out_extent(a), a.out_bias);
  } else {
    add_attention(list, hidden, a, "self_attn.", "o_proj");
    if (naming_of(model) == Naming::gpt_oss)
      list.add("self_attn.sinks", {a.heads}, TensorRole::vector);
  }
  if (model.norms_per_layer > 1) list.norm("post_attention_layernorm");
  if (model.norms_per_layer > 2) list.norm("pre_feedforward_layernorm");
  if (f.width > 0 && fused) {
    list.linear("mlp.gate_up_proj", 2 * f.width, hidden, f.bias);
    list.linear("mlp.down_proj", hidden, f.width, f.bias);
  } else if (f.width > 0) {
    add_gated(list, hidden, f.width, f.bias, "mlp.", TensorRole::weight);
  }
  if (f.experts > 0) add_experts(list, model, f);
  if (model.norms_per_layer > 3) list.norm("post_feedforward_layernorm");
  return list.take();
}

std::vector<ExpectedTensor> gpt2_block(const ModelArchitecture& model, const LayerShape& layer) {
  List list(model);
  const auto& [a, f] = layer;
  list.norm("ln_1");
  list.transposed("attn.c_attn", query_extent(a) + key_extent(a) + value_extent(a), model.hidden);
  list.transposed("attn.c_proj", model.hidden, out_extent(a));
  list.norm("ln_2");
  list.transposed("mlp.c_fc", f.width, model.hidden);
  list.transposed("mlp.c_proj", model.hidden, f.width);
  return list.take();
}

std::vector<ExpectedTensor> neox_block(const ModelArchitecture& model, const LayerShape& layer) {
  List list(model);
  const auto& [a, f] = layer;
  list.norm("input_layernorm");
  list.norm("post_attention_layernorm");
  list.linear("attention.query_key_value", query_extent(a) + key_extent(a) + value_extent(a),
              model.hidden, a.qkv_bias);
  list.linear("attention.dense", model.hidden, out_extent(a), a.out_bias);
  list.linear("mlp.dense_h_to_4h", f.width, model.hidden, f.bias);
  list.linear("mlp.dense_4h_to_h", model.hidden, f.width, f.bias);
  return list.take();
}

std::vector<ExpectedTensor> opt_block(const ModelArchitecture& model, const LayerShape& layer) {
  List list(model);
  const auto& [a, f] = layer;
  add_attention(list, model.hidden, a, "self_attn.", "out_proj");
  list.norm("self_attn_layer_norm");
  list.linear("fc1", f.width, model.hidden, f.bias);
  list.linear("fc2", model.hidden, f.width, f.bias);
  list.norm("final_layer_norm");
  return list.take();
}

std::vector<ExpectedTensor> phi_block(const ModelArchitecture& model, const LayerShape& layer) {
  List list(model);
  const auto& [a, f] = layer;
  list.norm("input_layernorm");
  add_attention(list, model.hidden, a, "self_attn.", "dense");
  list.linear("mlp.fc1", f.width, model.hidden, f.bias);
  list.linear("mlp.fc2", model.hidden, f.width, f.bias);
  return list.take();
}

std::uint64_t embedding_extent(const ModelArchitecture& model) {
  return model.embedding_dim == 0 ? model.hidden : model.embedding_dim;
}

}  // namespace

bool is_known_family(std::string_view family) {
  return std::ranges::find(kFamilies, family, &Family::name) != kFamilies.end();
}

std::string block_stack(const ModelArchitecture& model) {
  switch (naming_of(model)) {
    case Naming::gpt2:
      return "h";
    case Naming::neox:
      return "gpt_neox.layers";
    case Naming::opt:
      return "model.decoder.layers";
    default:
      return "model.layers";
  }
}

std::vector<ExpectedTensor> expected_front(const ModelArchitecture& model) {
  List list(model);
  const Shape table{model.vocabulary, embedding_extent(model)};
  const Shape positions{model.learned_positions, model.hidden};
  std::string token_name = "model.embed_tokens.weight";
  std::string position_name = "model.embed_positions.weight";
  switch (naming_of(model)) {
    case Naming::gpt2:
      token_name = "wte.weight";
      position_name = "wpe.weight";
      break;
    case Naming::neox:
      token_name = "gpt_neox.embed_in.weight";
      break;
    case Naming::opt:
      token_name = "model.decoder.embed_tokens.weight";
      position_name = "model.decoder.embed_positions.weight";
      break;
    default:
      break;
  }
  list.add(token_name, table, TensorRole::embedding);
  if (model.learned_positions > 0) list.add(position_name, positions, TensorRole::embedding);
  if (embedding_extent(model) != model.hidden)
    list.linear("model.decoder.project_in", model.hidden, embedding_extent(model), false);
  return list.take();
}

std::vector<ExpectedTensor> expected_block(const ModelArchitecture& model,
                                           const LayerShape& layer) {
  switch (naming_of(model)) {
    case Naming::gpt2:
      return gpt2_block(model, layer);
    case Naming::neox:
      return neox_block(model, layer);
    case Naming::opt:
      return opt_block(model, layer);
    case Naming::phi:
      return phi_block(model, layer);
    default:
      return llama_block(model, layer);
  }
}

std::vector<ExpectedTensor> expected_back(const ModelArchitecture& model) {
  List list(model);
  std::string norm = "model.norm";
  std::string head = "lm_head";
  switch (naming_of(model)) {
    case Naming::gpt2:
      norm = "ln_f";
      break;
    case Naming::neox:
      norm = "gpt_neox.final_layer_norm";
      head = "embed_out";
      break;
    case Naming::opt:
      norm = "model.decoder.final_layer_norm";
      break;
    case Naming::phi:
      norm = "model.final_layernorm";
      break;
    default:
      break;
  }
  if (model.final_norm) list.norm(norm);
  if (embedding_extent(model) != model.hidden)
    list.linear("model.decoder.project_out", embedding_extent(model), model.hidden, false);
  if (!model.tied_embeddings)
    list.linear(head, model.vocabulary, embedding_extent(model), model.head_bias);
  return list.take();
}

}  // namespace causeway
