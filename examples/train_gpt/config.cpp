#include "config.h"

#include <fmt/format.h>

namespace train_gpt {

namespace {

using causeway::DType;
using causeway::Errc;
using causeway::Error;
using causeway::LayerSpec;
using causeway::TensorSpec;

TensorSpec tensor(const std::string& name, std::vector<std::uint64_t> shape) {
  return TensorSpec{name, DType::f32, std::move(shape)};
}

// In the order of BlockTensor.
std::vector<TensorSpec> block_tensors(const std::string& prefix, std::uint64_t width) {
  const auto inner = kMlpFactor * width;
  return {tensor(prefix + "norm1.weight", {width}),
          tensor(prefix + "norm1.bias", {width}),
          tensor(prefix + "attention.qkv.weight", {3 * width, width}),
          tensor(prefix + "attention.qkv.bias", {3 * width}),
          tensor(prefix + "attention.out.weight", {width, width}),
          tensor(prefix + "attention.out.bias", {width}),
          tensor(prefix + "norm2.weight", {width}),
          tensor(prefix + "norm2.bias", {width}),
          tensor(prefix + "mlp.up.weight", {inner, width}),
          tensor(prefix + "mlp.up.bias", {inner}),
          tensor(prefix + "mlp.down.weight", {width, inner}),
          tensor(prefix + "mlp.down.bias", {width})};
}

void require_range(const char* option, std::uint32_t value, std::uint32_t low, std::uint32_t high) {
  if (value >= low && value <= high) return;
  throw Error(Errc::invalid_argument,
              fmt::format("--{} is {}; give {} to {}", option, value, low, high));
}

}  // namespace

void GptConfig::validate() const {
  require_range("layers", blocks, 1, 10'000);
  require_range("width", width, 2, 65'536);
  require_range("heads", heads, 1, width);
  require_range("context", context, 2, 65'536);
  require_range("micro-batch", micro_batch, 1, 65'536);
  require_range("micro-batches", micro_batches, 1, 4096);  // One message tag each.
  if (width % heads != 0)
    throw Error(Errc::invalid_argument, fmt::format("--width {} is not a multiple of --heads {}; "
                                                    "give heads that divide the width",
                                                    width, heads));
}

LayerKind GptConfig::kind(std::size_t layer) const noexcept {
  if (layer == 0) return LayerKind::embed;
  return layer + 1 == layers() ? LayerKind::head : LayerKind::block;
}

std::size_t kept_bytes(const GptConfig& config, std::size_t layer) noexcept {
  if (config.kind(layer) == LayerKind::embed) return 0;
  return config.tokens_per_micro_batch() * config.width * sizeof(float);
}

causeway::ModelSpec describe(const GptConfig& config) {
  config.validate();
  const std::uint64_t width = config.width;
  const auto tokens = static_cast<double>(config.tokens_per_micro_batch());
  const auto wide = static_cast<double>(width);
  const auto state_bytes = config.tokens_per_micro_batch() * width * sizeof(float);
  causeway::ModelSpec model;
  model.name = fmt::format("gpt-{}x{}", config.blocks, config.width);

  LayerSpec embed{"embed", {}, 0, 0, state_bytes};
  embed.tensors = {tensor("embed.token.weight", {kVocabulary, width}),
                   tensor("embed.position.weight", {config.context, width})};
  embed.forward_flops = tokens * wide;
  model.layers.push_back(std::move(embed));

  for (std::uint32_t i = 0; i < config.blocks; ++i) {
    LayerSpec block{fmt::format("layers.{}", i), {}, 0, 0, state_bytes};
    block.tensors = block_tensors(fmt::format("layers.{}.", i), width);
    // Four projections of 12 width^2 weights in sum; scores and their product with the values.
    block.forward_flops = tokens * wide * (24 * wide + 4 * config.context);
    model.layers.push_back(std::move(block));
  }

  LayerSpec head{"head", {}, 0, 0, 0};
  head.tensors = {tensor("head.norm.weight", {width}), tensor("head.norm.bias", {width}),
                  tensor("head.weight", {kVocabulary, width})};
  head.forward_flops = 2 * tokens * wide * static_cast<double>(kVocabulary);
  model.layers.push_back(std::move(head));

  for (std::size_t layer = 0; layer < model.layers.size(); ++layer)
    model.layers[layer].activation_bytes = kept_bytes(config, layer);
  return model;
}

}  // namespace train_gpt
