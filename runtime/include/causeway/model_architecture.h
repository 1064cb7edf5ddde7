// The numbers that describe a transformer's architecture, layer by layer, and what follows from
// them alone: attention FLOPs, KV cache, activations.
//
// Shape:   layers run in order and may differ (sliding windows, dense and sparse feed-forwards). A
//          zero stands for "has none": no window, no experts, no latent.
// Units:   values (not bytes), FLOPs (a multiply-add is two), per token unless said.
// Errors:  validate() throws invalid_argument naming the layer and field.
// Threads: plain values.
// Source:  attention 4 s h per token and layer forward: Narayanan et al., SC 2021; activations
// kept:
//          Korthikanti et al., 2022; latent attention: DeepSeek-V2, 2024.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "causeway/error.h"

namespace causeway {

struct AttentionShape {
  std::uint64_t heads = 0;
  std::uint64_t kv_heads = 0;   // heads / kv_heads queries share a key (grouped-query attention).
  std::uint64_t key_dim = 0;    // Of one head's query and key.
  std::uint64_t value_dim = 0;  // Of one head's value; mostly the same.
  std::uint64_t window = 0;     // Tokens that one token sees; 0: the whole context.
  // Latent attention (DeepSeek): a token's cache is kv_latent + rope_dim values for all heads.
  std::uint64_t q_latent = 0;
  std::uint64_t kv_latent = 0;
  std::uint64_t rope_dim = 0;  // The part of key_dim that turns with the position.
  bool qkv_bias = false;
  bool out_bias = false;
  bool qk_norm = false;  // A norm over each head's query and key.
  bool operator==(const AttentionShape&) const = default;
};

struct FeedForwardShape {
  std::uint64_t width = 0;  // Of the dense one; 0 where the layer has experts only.
  bool gated = true;        // Three matrices (gate, up, down); else two.
  bool bias = false;
  std::uint64_t experts = 0;            // Routed ones.
  std::uint64_t experts_per_token = 0;  // Of them, used by one token.
  std::uint64_t expert_width = 0;
  std::uint64_t shared_width = 0;  // Of all shared experts together: each token goes through them.
  bool operator==(const FeedForwardShape&) const = default;
};

struct LayerShape {
  AttentionShape attention;
  FeedForwardShape feed_forward;
  bool operator==(const LayerShape&) const = default;
};

struct ModelArchitecture {
  std::string
      family;  // As config.json's model_type: "llama", "qwen3_moe"; decides the tensors' names.
  std::uint64_t hidden = 0;
  std::uint64_t vocabulary = 0;
  std::uint64_t embedding_dim = 0;      // 0: hidden. OPT-350M projects from a smaller one.
  std::uint64_t context = 0;            // The longest it was made for; 0: unknown.
  std::uint64_t learned_positions = 0;  // Rows of a table of positions; 0: it has none.
  std::vector<LayerShape> layers;
  bool tied_embeddings = false;  // The head multiplies by the embedding's matrix.
  bool head_bias = false;
  bool norm_bias = false;             // LayerNorm; RMSNorm has none.
  std::uint32_t norms_per_layer = 2;  // 1 where attention and feed-forward share it, 4 in Gemma 2.
  bool final_norm = true;
  bool dropout = false;  // Masks are kept for the backward pass.

  // The same layer `count` times.
  void repeat(std::uint64_t count, const LayerShape& layer) { layers.assign(count, layer); }
  void validate() const;
  bool operator==(const ModelArchitecture&) const = default;
};

// Limits that validate() keeps, so that no product of two extents leaves 64 bits.
constexpr std::uint64_t kMaxModelLayers = 4096;
constexpr std::uint64_t kMaxModelExtent = std::uint64_t{1} << 31;

// Tokens of a context that attention looks at, and that the KV cache holds.
[[nodiscard]] std::uint64_t attended_tokens(const AttentionShape& attention,
                                            std::uint64_t context) noexcept;
// Of `experts` that tokens are routed to `per_token` at a time, independently and evenly, so many
// are met by `tokens` of them: experts (1 - (1 - per_token / experts)^tokens).
[[nodiscard]] double expected_experts(std::uint64_t experts, std::uint64_t per_token,
                                      std::uint64_t tokens) noexcept;
// Values in the KV cache per token: 2 kv_heads key_dim, or the latent.
[[nodiscard]] std::uint64_t kv_values_per_token(const AttentionShape& attention) noexcept;
// Forward, scores and their product with the values, of one token that attends to `context` tokens.
[[nodiscard]] double attention_flops_per_token(const AttentionShape& attention,
                                               std::uint64_t context) noexcept;
// Bytes kept from forward to backward per token of one layer in 16 bits, without the attention
// scores (flash attention recomputes them): 34 hidden for GPT's own shape with dropout.
[[nodiscard]] double activation_bytes_per_token(const ModelArchitecture& model,
                                                const LayerShape& layer) noexcept;

}  // namespace causeway
