#include "runtime/placement/stage_memory.h"

#include <fmt/format.h>

#include <cmath>

namespace causeway {

static std::uint64_t round_up(std::uint64_t bytes, std::uint64_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

std::uint64_t tensor_state_bytes(const TensorSpec& tensor, double bytes_per_weight_byte) {
  const auto weights = tensor.size_bytes();
  if (!(bytes_per_weight_byte >= 0 && bytes_per_weight_byte <= kMaxStateRatio))
    throw Error(Errc::invalid_argument,
                fmt::format("tensor '{}': {} bytes of state per weight byte; at most {}",
                            tensor.name, bytes_per_weight_byte, kMaxStateRatio));
  if (weights > kMaxTensorBytes)
    throw Error(Errc::invalid_argument, fmt::format("tensor '{}': {} bytes; at most {}",
                                                    tensor.name, weights, kMaxTensorBytes));
  // The 64 bits of a long double's mantissa hold both factors' product to the byte for any ratio
  // of a few bits.
  const auto bytes = std::ceil(static_cast<long double>(weights) *
                               static_cast<long double>(bytes_per_weight_byte));
  return round_up(static_cast<std::uint64_t>(bytes), kTensorAlignmentBytes);
}

StageSizer::StageSizer(const ModelSpec& model) {
  Sums sums;
  before_.push_back(sums);
  for (const auto& layer : model.layers) {
    for (const auto& tensor : layer.tensors) {
      sums.weights += tensor_state_bytes(tensor, 1.0);
      sums.gradients += tensor_state_bytes(tensor, model.gradient_bytes_per_weight_byte);
      sums.optimizer += tensor_state_bytes(tensor, model.optimizer_bytes_per_weight_byte);
    }
    sums.activations += round_up(layer.activation_bytes, kTensorAlignmentBytes);
    before_.push_back(sums);
  }
}

StageMemory StageSizer::stage(std::uint32_t first, std::uint32_t end,
                              std::uint32_t in_flight) const {
  const Sums& low = before_[first];
  const Sums& high = before_[end];
  return {round_up(high.weights - low.weights, kDeviceGranuleBytes),
          round_up(high.gradients - low.gradients, kDeviceGranuleBytes),
          round_up(high.optimizer - low.optimizer, kDeviceGranuleBytes),
          round_up((high.activations - low.activations) * in_flight, kDeviceGranuleBytes)};
}

StageMemory stage_memory(const ModelSpec& model, std::uint32_t first_layer, std::uint32_t end_layer,
                         std::uint32_t in_flight) {
  model.validate();
  if (first_layer >= end_layer || end_layer > model.layers.size())
    throw Error(
        Errc::invalid_argument,
        fmt::format("model '{}': layers [{}, {}) of {}; name at least one, none past the end",
                    model.name, first_layer, end_layer, model.layers.size()));
  if (in_flight < 1 || in_flight > kMaxInFlight)
    throw Error(Errc::invalid_argument,
                fmt::format("{} micro-batches in flight; write 1 to {}", in_flight, kMaxInFlight));
  return StageSizer(model).stage(first_layer, end_layer, in_flight);
}

}  // namespace causeway
