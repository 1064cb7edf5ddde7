// Reads the header of a GGUF file: its metadata, and each tensor's type, shape and place.
//
// Shape:   "GGUF", version 2 or 3 (little-endian), counts, key-value pairs, tensor infos, then the
//          data at the next multiple of the alignment. Ranges of tensors do not overlap and end
//          within the file.
// Units:   bytes; extents of a tensor as in a row-major language: the last one is contiguous (the
//          file has them the other way round).
// Errors:  Errc::parse with file, key or tensor and figures; io and not_found from the system.
// Cost:    reads the header once, in pieces; keeps names, numbers and texts up to kMaxGgufText, and
// of
//          a longer list (a vocabulary) only its length. No memory is taken on a count's word
//          alone; lists of small numbers, which grow eightfold, take 512 KiB at most in all.
// Threads: plain values.
// Source:  GGUF specification, ggml project.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "causeway/model.h"

namespace causeway {

constexpr std::size_t kMaxGgufText = std::size_t{1} << 16;  // Bytes; a longer text is left out.
constexpr std::size_t kMaxGgufNumbers = 4096;               // Of a list; a longer one only counts.
constexpr std::size_t kMaxGgufNumbersInAll = 65536;         // Past them every list only counts.
constexpr std::size_t kMaxGgufKeys = 65536;
constexpr std::size_t kMaxGgufTensors = std::size_t{1} << 18;

struct GgufList {
  std::uint64_t count = 0;
  std::vector<std::int64_t> numbers;  // All of them, or none: texts, fractions, or too many.
};

struct GgufHeader {
  using Value = std::variant<std::uint64_t, std::int64_t, double, bool, std::string, GgufList>;
  struct Entry {
    TensorSpec tensor;
    std::uint64_t offset_bytes;  // From the start of the data.
  };

  std::string origin;  // The file, for errors.
  std::uint32_t version = 3;
  std::uint64_t alignment_bytes = 32;
  std::uint64_t data_offset_bytes = 0;  // Where the data starts in the file.
  std::map<std::string, Value, std::less<>> metadata;
  std::vector<Entry> entries;  // By offset.

  [[nodiscard]] static GgufHeader read(const std::string& path);
  // Of a whole file image; `origin` stands for its name in errors. For tests and fuzzing.
  [[nodiscard]] static GgufHeader parse(std::span<const std::byte> image,
                                        const std::string& origin);

  // nullopt if there is no such key. Errors: parse, naming the key, if it is of another kind.
  [[nodiscard]] std::optional<std::uint64_t> number(std::string_view key) const;
  [[nodiscard]] std::optional<std::string> text(std::string_view key) const;
  // A number stands for a list of `count` equal ones. Errors: also another count.
  [[nodiscard]] std::optional<std::vector<std::uint64_t>> numbers(std::string_view key,
                                                                  std::size_t count) const;
};

// The files of a model that was split, in order, whichever of them is named; else just `path`.
// Errors: not_found naming the file that is missing.
[[nodiscard]] std::vector<std::string> gguf_files(const std::string& path);

}  // namespace causeway
