// Cores as the kernel lists them: "0-23,48-71".
//
// Cost:    O(ranges); never O(cores), so that a hostile list cannot fill memory.
// Errors:  parse() gives nullopt for anything else, and for an empty text.
// Threads: a plain value.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace causeway::doctor {

class CoreList {
 public:
  [[nodiscard]] static std::optional<CoreList> parse(std::string_view text);

  [[nodiscard]] std::uint64_t count() const noexcept;
  [[nodiscard]] std::uint64_t count_common(const CoreList& other) const noexcept;
  [[nodiscard]] bool holds(const CoreList& other) const noexcept;
  bool operator==(const CoreList&) const = default;

 private:
  struct Range {
    std::uint32_t first;
    std::uint32_t last;  // Inclusive.
    bool operator==(const Range&) const = default;
  };
  std::vector<Range> ranges_;  // Sorted, disjoint, not adjacent.
};

}  // namespace causeway::doctor
