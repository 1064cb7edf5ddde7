// A model's architecture from the metadata of a GGUF file.
//
// Errors:  Errc::parse naming the file and key.
// Threads: pure functions.
// Docs:    docs/models.md says which key is read.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "causeway/gguf.h"
#include "causeway/model_description.h"

namespace causeway {

// nullopt, with the reason in `notes`, for what is no transformer or lacks its numbers.
[[nodiscard]] std::optional<ModelArchitecture> gguf_architecture(const GgufHeader& header,
                                                                 std::vector<std::string>& notes);
// Whether llama.cpp has a tensor of that name in any family.
[[nodiscard]] bool is_gguf_tensor_name(std::string_view name);

}  // namespace causeway
