// The tensors that a model of a known family has, by the names of Hugging Face's implementation.
//
// Shape:   those of a block are named relative to it; "*" stands for the number of an expert, and
//          their first extent is the number of experts.
// Errors:  none: the shape is valid.
// Cost:    a dozen entries each.
// Threads: pure functions.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "causeway/model_description.h"

namespace causeway {

struct ExpectedTensor {
  std::string name;
  std::vector<std::uint64_t> shape;
  TensorRole role;
};

[[nodiscard]] bool is_known_family(std::string_view family);
// What stands before the number of a block: "model.layers". Also for an unknown family: as Llama.
[[nodiscard]] std::string block_stack(const ModelArchitecture& model);
[[nodiscard]] std::vector<ExpectedTensor> expected_front(const ModelArchitecture& model);
[[nodiscard]] std::vector<ExpectedTensor> expected_block(const ModelArchitecture& model,
                                                         const LayerShape& layer);
[[nodiscard]] std::vector<ExpectedTensor> expected_back(const ModelArchitecture& model);

}  // namespace causeway
