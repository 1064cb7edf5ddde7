#include "runtime/topology/cpu_set.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace causeway {

namespace {

void append(CpuSet& set, CpuRange range) {
  if (!set.empty() && set.back().last + 1 == range.first)
    set.back().last = range.last;
  else
    set.push_back(range);
}

std::optional<std::uint32_t> parse_cpu(std::string_view text) {
  std::uint32_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc() || result.ptr != text.data() + text.size()) return std::nullopt;
  return value < kMaxCpus ? std::optional(value) : std::nullopt;
}

// Calls `take` with each part between commas, the first first, until it returns false.
template <typename Take>
bool for_each_part(std::string_view text, Take take) {
  for (;;) {
    const auto comma = text.find(',');
    if (!take(text.substr(0, comma))) return false;
    if (comma == std::string_view::npos) return true;
    text.remove_prefix(comma + 1);
  }
}

}  // namespace

std::optional<CpuSet> parse_cpu_mask(std::string_view text) {
  // All digits in a row, most significant first: each word but the first is 8 digits, and hwloc
  // leaves out leading zeros, even all of them.
  std::string digits;
  const bool ok = for_each_part(text, [&](std::string_view word) {
    if (word.starts_with("0x")) word.remove_prefix(2);
    const bool first = digits.empty();
    if (!first && word.size() > 8) return false;
    if (!first) digits.append(8 - word.size(), '0');
    digits += word;
    if (first && digits.empty()) digits.push_back('0');
    return digits.size() <= kMaxCpus / 4;
  });
  if (!ok || text.empty()) return std::nullopt;
  CpuSet set;
  std::uint32_t cpu = 0;
  for (auto at = digits.rbegin(); at != digits.rend(); ++at, cpu += 4) {
    std::uint32_t bits = 0;
    if (std::from_chars(&*at, &*at + 1, bits, 16).ptr != &*at + 1) return std::nullopt;
    for (std::uint32_t bit = 0; bit < 4; ++bit)
      if ((bits >> bit & 1) != 0) append(set, {cpu + bit, cpu + bit});
  }
  return set;
}

std::optional<CpuSet> parse_cpu_list(std::string_view text) {
  CpuSet set;
  if (text.empty()) return set;
  const bool ok = for_each_part(text, [&](std::string_view part) {
    const auto dash = part.find('-');
    const auto first = parse_cpu(part.substr(0, dash));
    const auto last = dash == std::string_view::npos ? first : parse_cpu(part.substr(dash + 1));
    if (!first || !last || *last < *first) return false;
    if (!set.empty() && *first <= set.back().last) return false;
    append(set, {*first, *last});
    return true;
  });
  return ok ? std::optional(set) : std::nullopt;
}

std::string to_cpu_list(const CpuSet& set) {
  std::string text;
  for (const auto& range : set) {
    if (!text.empty()) text += ',';
    text += range.first == range.last ? fmt::format("{}", range.first)
                                      : fmt::format("{}-{}", range.first, range.last);
  }
  return text;
}

std::string to_cpu_mask(const CpuSet& set) {
  std::vector<std::uint32_t> words(set.empty() ? 1 : set.back().last / 32 + 1, 0);
  for (const auto& range : set)
    for (auto cpu = range.first; cpu <= range.last; ++cpu) words[cpu / 32] |= 1U << cpu % 32;
  std::string text;
  for (auto at = words.rbegin(); at != words.rend(); ++at)
    text += fmt::format("{}{:08x}", text.empty() ? "" : ",", *at);
  return text;
}

bool overlap(const CpuSet& a, const CpuSet& b) noexcept {
  auto left = a.begin();
  auto right = b.begin();
  while (left != a.end() && right != b.end()) {
    if (left->first <= right->last && right->first <= left->last) return true;
    left->last < right->last ? ++left : ++right;
  }
  return false;
}

}  // namespace causeway
