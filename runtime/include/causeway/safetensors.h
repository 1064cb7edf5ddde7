// Reads and writes the safetensors format: named tensors in one file, mapped, never executed.
//
// Shape:   8 bytes little-endian header length, a JSON header, then the data. Offsets in the header
//          tile the data exactly: no hole, no overlap, no byte left.
// Errors:  Errc::parse with file, tensor and figures for anything else; io from the system.
// Cost:    open reads the header only (at most 100 MB); data pages are read when touched.
// Threads: const calls from any thread.
// Source:  safetensors format description, Hugging Face.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "causeway/model.h"

namespace causeway {

class SafetensorsFile {
 public:
  struct Entry {
    TensorSpec tensor;
    std::uint64_t offset_bytes;  // From the start of the data.
  };

  [[nodiscard]] static SafetensorsFile open(const std::string& path);
  // Parses a whole file image; `origin` stands for its name in errors. For tests and fuzzing.
  [[nodiscard]] static std::vector<Entry> parse_header(
      std::span<const std::byte> image, const std::string& origin,
      std::map<std::string, std::string>* metadata);
  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;
  ~SafetensorsFile();

  [[nodiscard]] const std::vector<Entry>& entries() const noexcept;  // By offset.
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const noexcept;
  [[nodiscard]] bool contains(std::string_view name) const noexcept;
  // Errors: not_found.
  [[nodiscard]] std::span<const std::byte> data(std::string_view name) const;
  [[nodiscard]] const TensorSpec& tensor(std::string_view name) const;

 private:
  struct State;
  explicit SafetensorsFile(std::unique_ptr<State> state) noexcept;
  std::unique_ptr<State> state_;
};

struct TensorData {
  TensorSpec tensor;
  std::span<const std::byte> bytes;
};

// Writes to PATH.tmp, syncs, then renames: a reader sees the old file or the whole new one.
void write_safetensors(const std::string& path, std::span<const TensorData> tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace causeway
