#include "runtime/placement/stage_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string_view>

namespace causeway {

// What every device that shares a layer keeps of it, in outputs of the layer.
constexpr std::uint64_t kWholeOutputs = 5;

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
                       tensor_state_bytes(tensor, model.optimizer_bytes_per_weight_byte), 0, 0};
      sums.weights += state.weights;
      sums.gradients += state.gradients;
      sums.optimizer += state.optimizer;
      if (const auto at = wanted.find(tensor.name); at != wanted.end()) at->second = index;
      if (!tensor.tied_to.empty()) ties_.push_back({wanted.at(tensor.tied_to), index, state});
    }
    const auto kept = round_up(layer.activation_bytes, kTensorAlignmentBytes);
    sums.activations += kept;
    sums.whole +=
        layer.output_bytes < kept / kWholeOutputs ? kWholeOutputs * layer.output_bytes : kept;
    before_.push_back(sums);
  }
}

StageSizer::Sums StageSizer::sum(std::uint32_t first, std::uint32_t end) const {
  const Sums& low = before_[first];
  Sums sums = before_[end];
  for (const auto& tie : ties_)
    if (tie.source_layer >= first && tie.layer < end) {
      sums.weights -= tie.state.weights;
      sums.gradients -= tie.state.gradients;
      sums.optimizer -= tie.state.optimizer;
    }
  sums.weights -= low.weights;
  sums.gradients -= low.gradients;
  sums.optimizer -= low.optimizer;
  sums.activations -= low.activations;
  sums.whole -= low.whole;
  return sums;
}

StageMemory StageSizer::stage(std::uint32_t first, std::uint32_t end, std::uint32_t in_flight,
                              double share) const {
  const auto sums = sum(first, end);
  // The 64 bits of a long double's mantissa keep all bytes of a share of 1.
  const auto part = [share](std::uint64_t bytes) {
    return static_cast<std::uint64_t>(std::ceil(static_cast<long double>(bytes) * share));
  };
  const auto activations = (sums.whole + part(sums.activations - sums.whole)) * in_flight;
  return {round_up(part(sums.weights), kDeviceGranuleBytes),
          round_up(part(sums.gradients), kDeviceGranuleBytes),
          round_up(part(sums.optimizer), kDeviceGranuleBytes),
          round_up(activations, kDeviceGranuleBytes)};
}

StageMemory stage_memory(const ModelSpec& model, std::uint32_t first_layer, std::uint32_t end_layer,
                         std::uint32_t in_flight, double share) {
  model.validate();
  if (first_layer >= end_layer || end_layer > model.layers.size())
    throw Error(
        Errc::invalid_argument,
        fmt::format("model '{}': layers [{}, {}) of {}; name at least one, none past the end",
                    model.name, first_layer, end_layer, model.layers.size()));
  if (in_flight < 1 || in_flight > kMaxInFlight)
    throw Error(Errc::invalid_argument,
                fmt::format("{} micro-batches in flight; write 1 to {}", in_flight, kMaxInFlight));
  if (!(share > 0 && share <= 1))
    throw Error(Errc::invalid_argument,
                fmt::format("a share of {} of a stage; write above 0, to 1", share));
  return StageSizer(model).stage(first_layer, end_layer, in_flight, share);
}

}  // namespace causeway
