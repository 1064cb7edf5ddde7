// What a model is, as its files tell: architecture, every tensor by layer with its bytes, and what
// one token costs. A ModelSpec, which the planner places, follows from it for a given workload.
//
// Shape:   layers in the order in which they run: "embed", the blocks by number, "head". A tensor
// whose
//          name says nothing is placed all the same (by number, else by its place) and is reported.
// Units:   bytes as stored; parameters count once, also where the head shares the embedding's
// matrix,
//          and a quantised matrix counts its values, not its words. FLOPs are forward.
// Errors:  Errc::parse naming file, key or tensor; not_found; io; invalid_argument from C++ values.
// Cost:    read() takes headers and JSON only, never a weight; memory in proportion to what it
// read. Threads: plain values. Docs:    docs/models.md says which key is read for which family.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "causeway/model.h"
#include "causeway/model_architecture.h"
#include "causeway/transformer_shape.h"

namespace causeway {

enum class TensorRole : std::uint8_t {
  embedding,      // Looked up, not multiplied; with tied embeddings the head multiplies by it too.
  weight,         // Multiplied with each token.
  expert,         // Of a routed expert: multiplied with the tokens that go there.
  shared_expert,  // Multiplied with each token.
  router,
  vector,  // Norms and biases.
  scale,   // Of a quantised matrix: no parameter of its own.
  buffer,  // Tables and masks that an engine makes itself (rotary frequencies, causal masks).
};
[[nodiscard]] std::string_view to_string(TensorRole value) noexcept;

struct ModelTensor {
  TensorSpec spec;
  TensorRole role = TensorRole::weight;
  std::uint64_t parameters = 0;
  bool is_known = true;  // The family has a tensor of this name (true where the family is unknown).
  bool operator==(const ModelTensor&) const = default;
};

struct ModelLayer {
  std::string name;
  std::optional<std::uint32_t> block;  // Its place in ModelArchitecture::layers.
  std::vector<ModelTensor> tensors;
  [[nodiscard]] std::uint64_t weight_bytes() const;  // Buffers left out.
  [[nodiscard]] std::uint64_t parameters() const;
  bool operator==(const ModelLayer&) const = default;
};

// One pass over a model, for what it costs.
struct Workload {
  bool is_training = true;
  std::uint64_t sequences = 1;  // Per micro-batch.
  std::uint64_t tokens = 2048;  // Of each sequence that go through in one pass; 1 for decoding.
  std::uint64_t context = 0;    // Tokens that the KV cache has room for; 0: `tokens`.
  DType kv_type = DType::f16;
  // Gives the head a copy of a tied matrix, with `tied_to`: it takes room unless the head lies with
  // the embedding. Off: the head has no tensor of its own.
  bool copy_tied_head = true;
};

struct ModelDescription {
  std::string name;
  std::string origin;  // "config.json + 3 safetensors files"
  std::optional<ModelArchitecture> architecture;
  std::vector<ModelLayer> layers;
  std::vector<std::string> notes;  // What was not as expected, one sentence each.

  // A Hugging Face folder, its config.json or index; a .safetensors file (with the config.json
  // beside it, if there is one); a .gguf file (with the other parts of a split one).
  [[nodiscard]] static ModelDescription read(const std::string& path);
  // From C++: the tensors that a model of this shape has, all of `type` (norms too).
  [[nodiscard]] static ModelDescription from_architecture(const std::string& name,
                                                          const ModelArchitecture& architecture,
                                                          DType type);

  [[nodiscard]] std::uint64_t parameters() const;
  [[nodiscard]] double active_parameters() const;  // That one token meets.
  [[nodiscard]] std::uint64_t weight_bytes() const;
  // With the costs at `context` tokens; see docs/models.md.
  [[nodiscard]] std::string to_json(std::uint64_t context) const;
  bool operator==(const ModelDescription&) const = default;
};

// The figures of one layer. nullopt: nothing tells.
struct LayerCosts {
  double matrix_flops_per_token = 0;
  std::optional<double> attention_flops_per_token;   // At the context's end.
  std::optional<std::uint64_t> kv_values_per_token;  // 0 for a layer without attention.
  std::uint64_t cached_tokens = 0;                   // Of the context: fewer with a window.
  double activation_bytes_per_token = 0;             // Kept for the backward pass.
};
// Without an architecture the extent that most tensors of the blocks have. Cost then: all tensors.
[[nodiscard]] std::uint64_t hidden_size(const ModelDescription& model);
// `hidden` is hidden_size(model): who asks for many layers finds it once.
[[nodiscard]] LayerCosts layer_costs(const ModelDescription& model, const ModelLayer& layer,
                                     std::uint64_t context, std::uint64_t hidden);
[[nodiscard]] LayerCosts layer_costs(const ModelDescription& model, const ModelLayer& layer,
                                     std::uint64_t context);

// The chain that the planner takes. Training: activations are what a micro-batch keeps. Serving:
// they are its KV cache, and there is neither gradient nor optimizer. Errors: invalid_argument, for
// serving also where nothing tells the KV cache's size.
[[nodiscard]] ModelSpec model_spec(const ModelDescription& model, const Workload& workload);

// The architecture as the cost model takes it, where all blocks are alike but for leading dense
// ones. What it has no word for is put on the safe side: a window that only some layers have is
// left out, and latent attention has as many kv_heads of head_size as hold its cache. nullopt:
// nothing tells it.
[[nodiscard]] std::optional<TransformerShape> transformer_shape(const ModelDescription& model);

}  // namespace causeway
