#include "runtime/topology/doctor/core_list.h"

#include <algorithm>
#include <charconv>

namespace causeway::doctor {

namespace {

std::optional<std::uint32_t> parse_core(std::string_view text) {
  std::uint32_t value = 0;
  const auto* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value);
  if (result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return value;
}

}  // namespace

std::optional<CoreList> CoreList::parse(std::string_view text) {
  std::vector<Range> ranges;
  for (bool more = true; more;) {
    const auto comma = text.find(',');
    const auto item = text.substr(0, comma);
    const auto dash = item.find('-');
    const auto first = parse_core(item.substr(0, dash));
    const auto last = dash == std::string_view::npos ? first : parse_core(item.substr(dash + 1));
    if (!first || !last || *last < *first) return std::nullopt;
    ranges.push_back({*first, *last});
    more = comma != std::string_view::npos;
    if (more) text.remove_prefix(comma + 1);
  }
  std::ranges::sort(ranges, {}, &Range::first);
  CoreList list;
  for (const auto& range : ranges) {
    auto& merged = list.ranges_;
    if (!merged.empty() && range.first <= std::uint64_t{merged.back().last} + 1)
      merged.back().last = std::max(merged.back().last, range.last);
    else
      merged.push_back(range);
  }
  return list;
}

std::uint64_t CoreList::count() const noexcept { return count_common(*this); }

std::uint64_t CoreList::count_common(const CoreList& other) const noexcept {
  std::uint64_t common = 0;
  auto a = ranges_.begin();
  auto b = other.ranges_.begin();
  while (a != ranges_.end() && b != other.ranges_.end()) {
    const auto first = std::max(a->first, b->first);
    const auto last = std::min(a->last, b->last);
    if (first <= last) common += std::uint64_t{last} - first + 1;
    if (a->last < b->last)
      ++a;
    else
      ++b;
  }
  return common;
}

bool CoreList::holds(const CoreList& other) const noexcept {
  return count_common(other) == other.count();
}

}  // namespace causeway::doctor
