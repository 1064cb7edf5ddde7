// Byte sizes and rates as people write them.
#include "runtime/topology/bytes.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <utility>

#include "causeway/cluster.h"

namespace causeway {

namespace {

__extension__ using Wide = unsigned __int128;
using Unit = std::pair<std::string_view, std::uint64_t>;

constexpr std::array<Unit, 13> kByteUnits{{{"", 1},
                                           {"B", 1},
                                           {"kB", 1'000},
                                           {"KB", 1'000},
                                           {"MB", 1'000'000},
                                           {"GB", 1'000'000'000},
                                           {"TB", 1'000'000'000'000},
                                           {"PB", 1'000'000'000'000'000},
                                           {"KiB", std::uint64_t{1} << 10},
                                           {"MiB", std::uint64_t{1} << 20},
                                           {"GiB", std::uint64_t{1} << 30},
                                           {"TiB", std::uint64_t{1} << 40},
                                           {"PiB", std::uint64_t{1} << 50}}};

constexpr std::array<std::pair<std::string_view, double>, 13> kRateUnits{{{"B/s", 1},
                                                                          {"kB/s", 1e3},
                                                                          {"KB/s", 1e3},
                                                                          {"MB/s", 1e6},
                                                                          {"GB/s", 1e9},
                                                                          {"TB/s", 1e12},
                                                                          {"KiB/s", 1024.0},
                                                                          {"MiB/s", 1048576.0},
                                                                          {"GiB/s", 1073741824.0},
                                                                          {"kbit/s", 1e3 / 8},
                                                                          {"Mbit/s", 1e6 / 8},
                                                                          {"Gbit/s", 1e9 / 8},
                                                                          {"Tbit/s", 1e12 / 8}}};

// By divisor: 200 / 1e6 is the double nearest to 0.0002, 200 * 1e-6 is not.
constexpr std::array<std::pair<std::string_view, double>, 4> kTimeUnits{
    {{"s", 1}, {"ms", 1e3}, {"us", 1e6}, {"ns", 1e9}}};

struct Quantity {
  std::string_view number;
  std::string_view unit;
};

// "1.5 GiB" to "1.5" and "GiB"; at most one space or many between them.
Quantity split(std::string_view text) {
  const auto end = text.find_first_not_of("0123456789.eE+-");
  if (end == std::string_view::npos) return {text, ""};
  const auto unit = text.find_first_not_of(' ', end);
  return {text.substr(0, end), unit == std::string_view::npos ? "" : text.substr(unit)};
}

std::optional<double> parse_double(std::string_view text) {
  double value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || status != std::errc{} || end != text.data() + text.size())
    return std::nullopt;
  if (!std::isfinite(value) || value < 0 || std::signbit(value)) return std::nullopt;
  return value;
}

Error refuse_bytes(std::string_view text, std::string_view why) {
  return {Errc::invalid_argument,
          fmt::format("'{}' is not a size: {}; write a number and B, KB, MB, GB, TB or KiB, MiB, "
                      "GiB, TiB (for example 32 GB or 1.5 GiB)",
                      text.substr(0, 40), why)};
}

}  // namespace

// In whole numbers throughout: 32.1 GB is 32100000000 bytes, not what a double makes of it.
std::uint64_t parse_bytes(std::string_view text) {
  const auto end = text.find_first_not_of("0123456789.");
  const auto number = text.substr(0, end);
  auto unit = end == std::string_view::npos ? std::string_view{} : text.substr(end);
  if (const auto skip = unit.find_first_not_of(' '); skip != std::string_view::npos)
    unit.remove_prefix(skip);
  Wide digits = 0;
  Wide divisor = 1;
  int points = 0;
  int count = 0;
  for (const char c : number) {
    if (c == '.') {
      ++points;
      continue;
    }
    digits = digits * 10 + static_cast<unsigned>(c - '0');
    if (points > 0) divisor *= 10;
    if (++count > 20) throw refuse_bytes(text, "too many digits");
  }
  if (count == 0 || points > 1 || number.front() == '.' || number.back() == '.')
    throw refuse_bytes(text, "the number is missing or malformed");
  for (const auto& [name, factor] : kByteUnits) {
    if (unit != name) continue;
    const Wide bytes = digits * factor / divisor;  // Below 10^20 times 2^50.
    if (bytes > std::numeric_limits<std::uint64_t>::max())
      throw refuse_bytes(text, "it does not fit 64 bits");
    if (bytes * divisor != digits * factor) throw refuse_bytes(text, "it is not whole bytes");
    return static_cast<std::uint64_t>(bytes);
  }
  throw refuse_bytes(text, fmt::format("unknown unit '{}'", unit.substr(0, 16)));
}

std::string format_bytes(std::uint64_t bytes) {
  if (bytes < 1000) return fmt::format("{} B", bytes);
  constexpr std::array<std::string_view, 6> kNames{"kB", "MB", "GB", "TB", "PB", "EB"};
  auto value = static_cast<double>(bytes) / 1000;
  std::size_t unit = 0;
  while (value >= 999.5 && unit + 1 < kNames.size()) {  // 999.5 would print as 1000.
    value /= 1000;
    ++unit;
  }
  const int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  auto digits = fmt::format("{:.{}f}", value, decimals);
  if (digits.find('.') != std::string::npos) {
    digits.erase(digits.find_last_not_of('0') + 1);
    if (digits.back() == '.') digits.pop_back();
  }
  return digits + ' ' + std::string(kNames[unit]);
}

std::optional<double> parse_bandwidth(std::string_view text) {
  const auto [number, unit] = split(text);
  const auto value = parse_double(number);
  for (const auto& [name, factor] : kRateUnits)
    if (value && unit == name) return *value * factor;
  return std::nullopt;
}

std::optional<double> parse_seconds(std::string_view text) {
  const auto [number, unit] = split(text);
  const auto value = parse_double(number);
  for (const auto& [name, divisor] : kTimeUnits)
    if (value && unit == name) return *value / divisor;
  return std::nullopt;
}

}  // namespace causeway
