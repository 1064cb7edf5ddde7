// A model's architecture from the config.json of Hugging Face's transformers.
//
// Errors:  Errc::parse naming the file and key: of a wrong type, out of range, or missing where the
//          family needs it.
// Threads: pure functions.
// Docs:    docs/models.md says which key is read for which family.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "causeway/model_description.h"

namespace causeway {

struct ModelConfig {
  std::optional<ModelArchitecture>
      architecture;         // nullopt: an unknown family, and keys are missing.
  DType type = DType::f32;  // Of the weights, unless their files say otherwise.
  bool says_tied = false;   // Whether the file has tie_word_embeddings.
  // Matrices in 8 bits with a scale per so many rows and columns.
  std::optional<std::array<std::uint64_t, 2>> fp8_block;
  bool has_mxfp4_experts = false;  // Blocks of 32 values in 17 bytes.
  std::vector<std::string> notes;
};

[[nodiscard]] ModelConfig read_config(std::string_view text, const std::string& origin);

}  // namespace causeway
