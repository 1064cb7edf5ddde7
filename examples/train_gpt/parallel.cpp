#include "parallel.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

namespace train_gpt {

namespace {

using causeway::Errc;
using causeway::Error;

enum class Way : std::uint8_t { whole, rows, rows_of_three, columns };

// Megatron's cut: what leads into heads and inner columns by rows, what leads out of them by
// columns. Queries, keys and values lie below each other, and each has rows of every head.
Way way_of(std::string_view name) {
  if (name.find(".attention.qkv.") != std::string_view::npos) return Way::rows_of_three;
  if (name.find(".mlp.up.") != std::string_view::npos) return Way::rows;
  if (name.ends_with(".attention.out.weight") || name.ends_with(".mlp.down.weight"))
    return Way::columns;
  return Way::whole;
}

}  // namespace

void Parallel::validate(const GptConfig& config) const {
  if (data < 1 || tensor < 1 || data > 4096 || tensor > 4096)
    throw Error(Errc::invalid_argument,
                fmt::format("--data-parallel {} --tensor-parallel {}: give 1 to 4096 of each", data,
                            tensor));
  if (config.micro_batches % data != 0)
    throw Error(Errc::invalid_argument,
                fmt::format("--micro-batches {} is not a multiple of --data-parallel {}; each "
                            "replica takes the same number of them",
                            config.micro_batches, data));
  if (config.heads % tensor != 0)
    throw Error(Errc::invalid_argument,
                fmt::format("--heads {} is not a multiple of --tensor-parallel {}; each shard has "
                            "the same number of them",
                            config.heads, tensor));
}

Part Part::of_member(const Parallel& parallel, int member) noexcept {
  const auto number = static_cast<std::uint32_t>(std::max(member, 0));
  return {parallel, number / parallel.tensor, number % parallel.tensor};
}

void Cut::take(std::span<const float> whole, std::span<float> part) const {
  for (std::size_t run = 0; run < runs; ++run)
    std::ranges::copy(whole.subspan(first + run * stride, length),
                      part.subspan(run * length, length).begin());
}

void Cut::put(std::span<const float> part, std::span<float> whole) const {
  for (std::size_t run = 0; run < runs; ++run)
    std::ranges::copy(part.subspan(run * length, length),
                      whole.subspan(first + run * stride, length).begin());
}

Cut cut_of(const causeway::TensorSpec& tensor, std::uint32_t shards, std::uint32_t shard) {
  std::size_t size = 1;
  for (const auto extent : tensor.shape) size *= extent;
  std::size_t runs = 1;
  switch (way_of(tensor.name)) {
    case Way::whole:
      return {1, size, size, 0};
    case Way::rows:
      break;
    case Way::rows_of_three:
      runs = 3;
      break;
    case Way::columns:
      runs = tensor.shape.front();
      break;
  }
  const auto length = size / runs / shards;
  return {runs, size / runs, length, shard * length};
}

causeway::ModelSpec describe_shard(const GptConfig& config, std::uint32_t shards) {
  auto model = describe(config);
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    auto& layer = model.layers[i];
    if (config.kind(i) == LayerKind::block) layer.forward_flops /= shards;
    for (auto& tensor : layer.tensors) {
      const auto way = way_of(tensor.name);
      if (way == Way::whole) continue;
      (way == Way::columns ? tensor.shape.back() : tensor.shape.front()) /= shards;
    }
  }
  return model;
}

}  // namespace train_gpt
