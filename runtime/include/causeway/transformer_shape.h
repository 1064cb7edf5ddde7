// The numbers of a transformer's architecture, and what follows from them: the seam between readers
// of model files, which fill a TransformerShape in, and the cost model, which needs nothing else.
//
// Shape:   `layers` alike blocks behind an embedding, then a final norm and a head. In a mixture of
//          experts each block from `first_expert_layer` on routes a token to some of its experts.
// Units:   counts; parameters, not bytes: a file's tensors have real sizes of their own.
// Errors:  validate() throws invalid_argument naming the field.
// Threads: plain values.
// Source:  FLOPs 2 per weight and token, attention 4 s h per token and layer, causal masks not
//          counted off: Korthikanti et al., "Reducing activation recomputation in large transformer
//          models", 2022.
#pragma once

#include <cstdint>
#include <string>

#include "causeway/error.h"

namespace causeway {

struct TransformerShape {
  std::string name;
  std::uint32_t layers = 0;
  std::uint32_t hidden = 0;
  std::uint32_t heads = 0;
  std::uint32_t kv_heads = 0;    // 0: as many as heads (no grouping of queries).
  std::uint32_t head_size = 0;   // 0: hidden / heads.
  std::uint32_t feed_width = 0;  // Of the feed-forward part (d_ff).
  std::uint32_t vocabulary = 0;
  std::uint32_t learned_positions = 0;  // Rows of a table of positions; 0: rotary or none.
  std::uint32_t sliding_window = 0;     // Tokens that a token sees; 0: all before it.
  bool gated_feed = false;              // Three matrices (SwiGLU, GeGLU) in place of two.
  bool tied_embeddings = false;         // The head is the embedding's table.

  // A mixture of experts; 0 experts: none.
  std::uint32_t experts = 0;
  std::uint32_t experts_per_token = 0;
  std::uint32_t expert_feed_width = 0;   // 0: feed_width.
  std::uint32_t shared_feed_width = 0;   // Of experts that every token passes, together.
  std::uint32_t first_expert_layer = 0;  // Blocks before it have one plain feed-forward part.

  // Errors: invalid_argument where a field that must be set is 0, heads do not divide evenly, or a
  // size is past what 64 bits hold.
  void validate() const;

  [[nodiscard]] std::uint32_t kv_heads_or_all() const noexcept {
    return kv_heads != 0 ? kv_heads : heads;
  }
  [[nodiscard]] std::uint32_t head_width() const noexcept {
    return head_size != 0 ? head_size : hidden / heads;
  }
  // Columns of all query heads, and of keys or values.
  [[nodiscard]] std::uint64_t query_width() const noexcept {
    return std::uint64_t{heads} * head_width();
  }
  [[nodiscard]] std::uint64_t kv_width() const noexcept {
    return std::uint64_t{kv_heads_or_all()} * head_width();
  }
  [[nodiscard]] bool has_experts(std::uint32_t layer) const noexcept {
    return experts != 0 && layer >= first_expert_layer;
  }
  [[nodiscard]] std::uint32_t expert_width() const noexcept {
    return expert_feed_width != 0 ? expert_feed_width : feed_width;
  }
  // Columns of the feed-forward part that one token passes: its experts' and the shared ones', or
  // the plain one's.
  [[nodiscard]] double feed_per_token(bool with_experts) const noexcept {
    return with_experts
               ? static_cast<double>(experts_per_token) * expert_width() + shared_feed_width
               : feed_width;
  }

  // Matrix parameters; norms and biases are left out (under a thousandth).
  [[nodiscard]] std::uint64_t attention_parameters() const noexcept;
  [[nodiscard]] std::uint64_t layer_parameters(std::uint32_t layer) const noexcept;
  // Those that one token meets: all but the experts it is not routed to.
  [[nodiscard]] std::uint64_t active_parameters(std::uint32_t layer) const noexcept;
  [[nodiscard]] std::uint64_t embedding_parameters() const noexcept;  // Positions included.
  [[nodiscard]] std::uint64_t head_parameters() const noexcept;       // Also where it is tied.
  [[nodiscard]] std::uint64_t parameters() const noexcept;            // A tied head counts once.

  // Forward, per token of a sequence of `sequence` tokens; backward counts twice.
  [[nodiscard]] double layer_flops(std::uint32_t layer, std::uint64_t sequence) const noexcept;
  [[nodiscard]] double head_flops() const noexcept;
  [[nodiscard]] double forward_flops(std::uint64_t sequence) const noexcept;

  // Keys and values of one layer, elements per token.
  [[nodiscard]] std::uint64_t kv_elements() const noexcept { return 2 * kv_width(); }
  // Tokens that a layer keeps of a context so long.
  [[nodiscard]] std::uint64_t kept_tokens(std::uint64_t context) const noexcept {
    return sliding_window != 0 && sliding_window < context ? sliding_window : context;
  }

  bool operator==(const TransformerShape&) const = default;
};

}  // namespace causeway
