// The JSON header of a safetensors file, read strictly and written.
//
// Shape:   entries in order of their offsets; they tile [0, data_bytes) exactly.
// Errors:  Errc::parse with file, tensor and figures.
// Cost:    O(header log tensors).
// Threads: no state.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "causeway/safetensors.h"

namespace causeway {

constexpr std::uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;
constexpr std::uint64_t kSafetensorsLengthBytes = 8;

// The header's length, from the file's first 8 bytes.
[[nodiscard]] std::uint64_t read_safetensors_length(std::span<const std::byte> start,
                                                    std::uint64_t file_bytes,
                                                    const std::string& origin);

[[nodiscard]] std::vector<SafetensorsFile::Entry> read_safetensors_header(
    std::string_view header, std::uint64_t data_bytes, const std::string& origin,
    std::map<std::string, std::string>* metadata);

// Length and header, padded so that the data starts at a multiple of 8.
[[nodiscard]] std::string write_safetensors_header(
    std::span<const TensorData> tensors, const std::map<std::string, std::string>& metadata);

}  // namespace causeway
