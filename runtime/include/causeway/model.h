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

#include "causeway/dtype.h"
#include "causeway/error.h"

namespace causeway {

struct TensorSpec {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::uint64_t> shape;
  // The tensor of an earlier layer whose values this one has (a tied head: the embedding's table).
  // A stage that holds both layers keeps and updates them once; another has a copy. Empty: its own.
  std::string tied_to = {};
  // The product of the shape. Errors: invalid_argument if it does not fit 64 bits.
  [[nodiscard]] std::uint64_t elements() const;
  // Of all elements in whole blocks of `dtype`. Errors: invalid_argument if the elements do not
  // fill whole blocks, or the size does not fit 64 bits.
  [[nodiscard]] std::uint64_t size_bytes() const;
  bool operator==(const TensorSpec&) const = default;
};

constexpr std::size_t kMaxTiedTensors = 16;  // Every stage is checked against each.
// Limits that validate() keeps, so that no sum of sizes leaves 64 bits.
constexpr std::uint64_t kMaxTensorBytes = std::uint64_t{1} << 50;  // Also of all weights together.
constexpr double kMaxStateRatio = 256;  // Bytes of state per weight byte.

struct LayerSpec {
  std::string name;
  std::vector<TensorSpec> tensors;
  double forward_flops = 0;            // Per micro-batch; backward counts as twice that.
  std::uint64_t activation_bytes = 0;  // Kept from forward to backward, per micro-batch.
  std::uint64_t output_bytes = 0;      // Sent to the next layer, per micro-batch.
  // Of the weights, what a forward pass reads where that is not all of them: the experts that its
  // tokens are expected to meet, rows of an embedding. Decides decoding's time.
  std::optional<std::uint64_t> read_bytes = {};
  [[nodiscard]] std::uint64_t weight_bytes() const;
  [[nodiscard]] std::uint64_t bytes_read() const {
    return read_bytes ? *read_bytes : weight_bytes();
  }
  bool operator==(const LayerSpec&) const = default;
};

struct ModelSpec {
  std::string name;
  std::vector<LayerSpec> layers;
  // Training state beside the weights. 0 and 0 describe serving.
  double gradient_bytes_per_weight_byte = 1.0;
  double optimizer_bytes_per_weight_byte = 2.0;

  // Errors: invalid_argument naming the layer or tensor: no layers, a repeated name, sizes that
  // overflow, negative or non-finite figures, a tensor that is tied to none of an earlier layer.
  void validate() const;
  [[nodiscard]] std::uint64_t weight_bytes() const;
  // Weights, gradients and optimizer state of one layer, without padding: what a plan counts is
  // stage_memory() of plan.h.
  [[nodiscard]] std::uint64_t state_bytes(const LayerSpec& layer) const;
  [[nodiscard]] std::uint64_t state_bytes() const;

  [[nodiscard]] static ModelSpec from_yaml(std::string_view text, const std::string& origin);
  [[nodiscard]] std::string to_yaml() const;
  // As ModelDescription::read(), for training on sequences of so many tokens; a head that is tied
  // to the embedding has no tensor.
  [[nodiscard]] static ModelSpec from_safetensors(const std::string& path,
                                                  std::uint64_t tokens_per_micro_batch = 2048);
  // By what `path` is: YAML, or what ModelDescription::read() takes, for training on 2048 tokens.
  [[nodiscard]] static ModelSpec from_path(const std::string& path);
  bool operator==(const ModelSpec&) const = default;
};

}  // namespace causeway
