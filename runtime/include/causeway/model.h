// What is to be placed: a model as a chain of layers with their tensors and costs.
//
// Shape:   layers run in order; layer i's output is layer i + 1's input. A tensor belongs to one
//          layer; names are unique.
// Units:   bytes and floating point operations, per micro-batch where said.
// Errors:  Errc::parse naming file and field; invalid_argument from validate().
// Threads: plain values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "causeway/error.h"

namespace causeway {

enum class DType : std::uint8_t { f64, f32, f16, bf16, i64, i32, i16, i8, u8, boolean };
[[nodiscard]] std::string_view to_string(DType value) noexcept;  // safetensors spelling: "F32".
[[nodiscard]] std::optional<DType> dtype_from_string(std::string_view name) noexcept;
[[nodiscard]] std::uint64_t size_of(DType value) noexcept;

struct TensorSpec {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::uint64_t> shape;
  // Product of shape times size_of(dtype). Errors: invalid_argument if it does not fit 64 bits.
  [[nodiscard]] std::uint64_t size_bytes() const;
  bool operator==(const TensorSpec&) const = default;
};

// Limits that validate() keeps, so that no sum of sizes leaves 64 bits.
constexpr std::uint64_t kMaxTensorBytes = std::uint64_t{1} << 50;  // Also of all weights together.
constexpr double kMaxStateRatio = 256;  // Bytes of state per weight byte.

struct LayerSpec {
  std::string name;
  std::vector<TensorSpec> tensors;
  double forward_flops = 0;            // Per micro-batch; backward counts as twice that.
  std::uint64_t activation_bytes = 0;  // Kept from forward to backward, per micro-batch.
  std::uint64_t output_bytes = 0;      // Sent to the next layer, per micro-batch.
  [[nodiscard]] std::uint64_t weight_bytes() const;
  bool operator==(const LayerSpec&) const = default;
};

struct ModelSpec {
  std::string name;
  std::vector<LayerSpec> layers;
  // Training state beside the weights. 0 and 0 describe serving.
  double gradient_bytes_per_weight_byte = 1.0;
  double optimizer_bytes_per_weight_byte = 2.0;

  // Errors: invalid_argument naming the layer or tensor: no layers, a repeated name, sizes that
  // overflow, negative or non-finite figures.
  void validate() const;
  [[nodiscard]] std::uint64_t weight_bytes() const;
  // Weights, gradients and optimizer state of one layer, without padding: what a plan counts is
  // stage_memory() of plan.h.
  [[nodiscard]] std::uint64_t state_bytes(const LayerSpec& layer) const;
  [[nodiscard]] std::uint64_t state_bytes() const;

  [[nodiscard]] static ModelSpec from_yaml(std::string_view text, const std::string& origin);
  [[nodiscard]] std::string to_yaml() const;
  // A .safetensors file, or a folder of them; only headers are read. Layers follow from the names:
  // "...layers.7.attn..." and "h.7..." belong to layer 7. Embeddings go in front ("embed"), final
  // norms and heads behind ("head"), what is neither by its place in the file. The format knows no
  // costs, so they are estimates: FLOPs 2 per weight and token (none for the embedding's lookup),
  // activations 34 bytes per token and hidden unit, hidden being the most frequent extent.
  [[nodiscard]] static ModelSpec from_safetensors(const std::string& path,
                                                  std::uint64_t tokens_per_micro_batch = 2048);
  // By what `path` is: YAML, safetensors file or folder.
  [[nodiscard]] static ModelSpec from_path(const std::string& path);
  bool operator==(const ModelSpec&) const = default;
};

}  // namespace causeway
