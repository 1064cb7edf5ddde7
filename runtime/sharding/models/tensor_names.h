// What a tensor's name tells where nothing else does: its layer, its place and its role.
//
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "causeway/model_description.h"

namespace causeway {

// "model.layers", 7 and "attn.q" for "model.layers.7.attn.q".
struct BlockName {
  std::string stack;
  std::uint32_t number;
  std::string rest;
};
// nullopt for a tensor of no numbered layer. The number stands behind a component "layers",
// "layer", "h", "blocks", "block" or "blk".
[[nodiscard]] std::optional<BlockName> block_name(std::string_view name);

enum class Place : std::uint8_t { front, back, unknown };
[[nodiscard]] Place place_of(std::string_view name);

// Stacks run in this order: an encoder before what it feeds.
[[nodiscard]] int stack_order(std::string_view stack);

[[nodiscard]] TensorRole role_of(const TensorSpec& tensor);

// "mlp.experts.*.up_proj.weight" for the up projection of each expert.
[[nodiscard]] std::string with_any_expert(std::string_view name);

// Words of a quantised matrix ("qweight") under the name of what they stand for ("weight").
[[nodiscard]] std::string unquantised_name(std::string_view name);

}  // namespace causeway
