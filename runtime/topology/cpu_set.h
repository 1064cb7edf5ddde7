// Sets of CPU numbers in the two ways that tools write them: masks ("00ff00ff,00000000", also
// hwloc's "0x000000ff,,0x0") and lists ("0-7,16-23").
//
// Shape:   disjoint ranges in order, not touching.
// Errors:  nullopt for text that is neither, for infinite sets, and for numbers from kMaxCpus on.
// Cost:    O(text).
// Threads: plain values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace causeway {

constexpr std::uint32_t kMaxCpus = 65536;

struct CpuRange {
  std::uint32_t first;
  std::uint32_t last;
  bool operator==(const CpuRange&) const = default;
};
using CpuSet = std::vector<CpuRange>;

[[nodiscard]] std::optional<CpuSet> parse_cpu_mask(std::string_view text);
[[nodiscard]] std::optional<CpuSet> parse_cpu_list(std::string_view text);
[[nodiscard]] std::string to_cpu_list(const CpuSet& set);  // Empty for an empty set.
[[nodiscard]] std::string to_cpu_mask(const CpuSet& set);  // Words of 8 digits, as Linux has them.
[[nodiscard]] bool overlap(const CpuSet& a, const CpuSet& b) noexcept;

}  // namespace causeway
