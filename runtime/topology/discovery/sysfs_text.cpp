#include "runtime/topology/discovery/sysfs_text.h"

#include <algorithm>
#include <charconv>

#include "runtime/topology/link_rates.h"

namespace causeway {

namespace {

constexpr std::string_view kBlanks = " \t\r\n";

template <typename Value>
std::optional<Value> number(std::string_view text, int base) {
  Value value = 0;
  const auto* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value, base);
  if (result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return value;
}

std::optional<double> leading_double(std::string_view text) {
  double value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc()) return std::nullopt;
  return value;
}

}  // namespace

std::string_view trimmed(std::string_view text) noexcept {
  const auto first = text.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

std::string_view take_word(std::string_view& text) noexcept {
  text.remove_prefix(std::min(text.find_first_not_of(kBlanks), text.size()));
  const auto word = text.substr(0, text.find_first_of(kBlanks));
  text.remove_prefix(word.size());
  return word;
}

std::string_view take_line(std::string_view& text) noexcept {
  const auto line = text.substr(0, text.find('\n'));
  text.remove_prefix(std::min(line.size() + 1, text.size()));
  return line;
}

std::optional<std::uint64_t> parse_decimal(std::string_view text) noexcept {
  return number<std::uint64_t>(trimmed(text), 10);
}

std::optional<std::uint64_t> parse_hex(std::string_view text) noexcept {
  text = trimmed(text);
  if (!text.starts_with("0x")) return std::nullopt;
  return number<std::uint64_t>(text.substr(2), 16);
}

std::optional<std::uint32_t> parse_link_speed(std::string_view text) noexcept {
  const auto rate =
      text.find("GT/s") == std::string_view::npos ? std::nullopt : leading_double(trimmed(text));
  return rate ? pcie_generation(*rate) : std::nullopt;
}

std::optional<std::uint32_t> parse_link_width(std::string_view text) noexcept {
  const auto width = parse_decimal(text);
  // 63 and 255 are what a device that does not answer seems to have.
  if (!width || *width == 0 || *width > 32) return std::nullopt;
  return static_cast<std::uint32_t>(*width);
}

std::optional<std::uint64_t> count_cpus(std::string_view list) noexcept {
  list = trimmed(list);
  std::uint64_t count = 0;
  while (!list.empty()) {
    const auto range = list.substr(0, list.find(','));
    list.remove_prefix(std::min(range.size() + 1, list.size()));
    const auto dash = range.find('-');
    const auto first = number<std::uint32_t>(range.substr(0, dash), 10);
    const auto last =
        dash == std::string_view::npos ? first : number<std::uint32_t>(range.substr(dash + 1), 10);
    if (!first || !last || *last < *first) return std::nullopt;
    count += std::uint64_t{*last} - *first + 1;
  }
  return count;
}

std::optional<double> parse_infiniband_rate(std::string_view text) noexcept {
  const auto gigabits =
      text.find("Gb/sec") == std::string_view::npos ? std::nullopt : leading_double(trimmed(text));
  // A port without a cable may say 0.
  if (!gigabits || !(*gigabits > 0) || *gigabits > 1e6) return std::nullopt;
  return *gigabits * 1e9 / 8;
}

std::string parse_guid(std::string_view text) {
  text = trimmed(text);
  constexpr std::size_t kLength = 19;  // Four groups of four digits.
  if (text.size() < kLength) return {};
  std::string guid = "0x";
  for (const char c : text.substr(text.size() - kLength)) {
    if (c == ':') continue;
    const bool is_digit = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
    if (!is_digit) return {};
    guid += c;
  }
  const bool is_zero = guid.find_first_not_of('0', 2) == std::string::npos;
  return guid.size() != 18 || is_zero ? std::string() : guid;
}

std::optional<std::uint64_t> parse_prefetchable_bytes(std::string_view resource) {
  constexpr int kBars = 6;
  constexpr std::uint64_t kMemory = 0x200;
  constexpr std::uint64_t kPrefetchable = 0x2000;
  std::optional<std::uint64_t> largest;
  for (int bar = 0; bar < kBars && !resource.empty(); ++bar) {
    auto line = take_line(resource);
    const auto first = parse_hex(take_word(line));
    const auto last = parse_hex(take_word(line));
    const auto flags = parse_hex(take_word(line));
    if (!first || !last || !flags || *last <= *first) continue;
    if ((*flags & kMemory) == 0 || (*flags & kPrefetchable) == 0) continue;
    // Never the whole of 2^64: the size would not fit.
    if (*last - *first == ~std::uint64_t{0}) continue;
    largest = std::max(largest.value_or(0), *last - *first + 1);
  }
  return largest;
}

std::optional<std::uint64_t> parse_memory_total(std::string_view text) noexcept {
  const auto at = text.find("MemTotal:");
  if (at == std::string_view::npos) return std::nullopt;
  text.remove_prefix(at);
  auto line = take_line(text);
  (void)take_word(line);
  const auto kib = parse_decimal(take_word(line));
  if (!kib || *kib > (~std::uint64_t{0} >> 10) || take_word(line) != "kB") return std::nullopt;
  return *kib * 1024;
}

std::string_view field(std::string_view text, std::string_view key) noexcept {
  while (!text.empty()) {
    const auto line = take_line(text);
    const auto colon = line.find(':');
    if (colon != std::string_view::npos && trimmed(line.substr(0, colon)) == key)
      return trimmed(line.substr(colon + 1));
  }
  return {};
}

std::optional<std::uint32_t> PciConfig::word(std::size_t offset) const noexcept {
  if (offset + 2 > bytes.size()) return std::nullopt;
  const auto byte = [this](std::size_t at) { return static_cast<std::uint8_t>(bytes[at]); };
  return static_cast<std::uint32_t>(byte(offset) | byte(offset + 1) << 8);
}

std::optional<PciPort> PciConfig::port() const noexcept {
  constexpr std::uint32_t kHasCapabilities = 0x10;
  constexpr std::uint32_t kPciExpress = 0x10;
  const auto status = word(0x06);
  if (!status || (*status & kHasCapabilities) == 0) return std::nullopt;
  auto at = word(0x34);
  // Each capability has four bytes at least, so a longer chain is a circle.
  for (int steps = 0; steps < 48 && at; ++steps) {
    const auto offset = *at & 0xfc;
    const auto header = word(offset);
    if (offset < 0x40 || !header) return std::nullopt;
    if ((*header & 0xff) == kPciExpress) {
      const auto flags = word(offset + 2);
      if (!flags) return std::nullopt;
      const auto type = *flags >> 4 & 0xf;
      return type == 4   ? PciPort::root
             : type == 5 ? PciPort::upstream
             : type == 6 ? PciPort::downstream
                         : PciPort::other;
    }
    at = *header >> 8;
  }
  return std::nullopt;
}

std::optional<bool> PciConfig::acs_redirect() const noexcept {
  constexpr std::uint32_t kAccessControl = 0x000d;
  constexpr std::uint32_t kRequestRedirect = 1U << 2;
  constexpr std::uint32_t kCompletionRedirect = 1U << 3;
  if (bytes.size() <= 256) return std::nullopt;
  std::uint32_t offset = 0x100;
  for (std::size_t steps = 0; steps < bytes.size() / 4; ++steps) {
    const auto id = word(offset);
    const auto next = word(offset + 2);
    if (!id || !next || *id == 0xffff) return std::nullopt;
    if (*id == kAccessControl) {
      // Upstream Forwarding alone is not counted: it passes on what a port below has redirected,
      // and that port is counted itself.
      const auto control = word(offset + 6);
      if (!control) return std::nullopt;
      return (*control & (kRequestRedirect | kCompletionRedirect)) != 0;
    }
    offset = *next >> 4 & 0xffc;
    if (offset < 0x100) return false;  // The end of the chain.
  }
  return std::nullopt;
}

}  // namespace causeway
