// The files of a model and what their headers and JSON say, before any of it is put in order.
//
// Errors:  Errc::parse naming the file; not_found where a path holds no model; io.
// Cost:    headers and JSON are read, never a weight.
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "causeway/model_description.h"
#include "runtime/sharding/models/config_json.h"

namespace causeway {

struct ModelFiles {
  std::string name;
  std::string origin;
  bool is_gguf = false;
  std::optional<ModelArchitecture> architecture;
  ModelConfig config;                        // Of a Hugging Face folder; else as it is made.
  std::vector<TensorSpec> tensors;           // In the order of the files.
  std::vector<std::string> only_named;       // In the index; their files are not there.
  std::optional<std::uint64_t> total_bytes;  // By the index.
  std::vector<std::string> notes;
};

[[nodiscard]] ModelFiles read_model_files(const std::string& path);

// Whether a name can be shown and stored: 1 to 1024 bytes, no control characters.
[[nodiscard]] bool is_plain_name(std::string_view name) noexcept;

// Names of tensors, and of the file in the same folder that holds each.
struct SafetensorsIndex {
  std::vector<std::pair<std::string, std::string>>
      files_of;  // Tensor, file; in the order of the text.
  std::optional<std::uint64_t> total_bytes;
};
// Errors: parse also for a name that is there twice, or a file that is not plainly in the folder.
[[nodiscard]] SafetensorsIndex read_safetensors_index(std::string_view text,
                                                      const std::string& origin);

}  // namespace causeway
