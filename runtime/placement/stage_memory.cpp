#include "runtime/placement/stage_memory.h"

#include <fmt/format.h>

#include <cmath>
#include <map>
#include <string_view>

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
  std::map<std::string_view, std::uint32_t> wanted;  // Sources of ties: the layer, once met.
  for (const auto& layer : model.layers)
    for (const auto& tensor : layer.tensors)
      if (!tensor.tied_to.empty()) wanted.emplace(tensor.tied_to, 0);
  Sums sums;
  before_.push_back(sums);
  for (const auto& layer : model.layers) {
    const auto index = static_cast<std::uint32_t>(before_.size() - 1);
    for (const auto& tensor : layer.tensors) {
      const Sums state{tensor_state_bytes(tensor, 1.0),
                       tensor_state_bytes(tensor, model.gradient_bytes_per_weight_byte),
                       tensor_state_bytes(tensor, model.optimizer_bytes_per_weight_byte), 0};
      sums.weights += state.weights;
      sums.gradients += state.gradients;
      sums.optimizer += state.optimizer;
      if (const auto at = wanted.find(tensor.name); at != wanted.end()) at->second = index;
      if (!tensor.tied_to.empty()) ties_.push_back({wanted.at(tensor.tied_to), index, state});
    }
    sums.activations += round_up(layer.activation_bytes, kTensorAlignmentBytes);
    before_.push_back(sums);
  }
}

StageMemory StageSizer::stage(std::uint32_t first, std::uint32_t end,
                              std::uint32_t in_flight) const {
  const Sums& low = before_[first];
  Sums high = before_[end];
  for (const auto& tie : ties_)
    if (tie.source_layer >= first && tie.layer < end) {
      high.weights -= tie.state.weights;
      high.gradients -= tie.state.gradients;
      high.optimizer -= tie.state.optimizer;
    }
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
