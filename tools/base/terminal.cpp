#include "tools/base/terminal.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>

namespace causeway::tools {

namespace {

std::string_view environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string_view{} : std::string_view{value};
}

std::string_view escape(Colour colour) {
  switch (colour) {
    case Colour::none:
      break;
    case Colour::bold:
      return "\033[1m";
    case Colour::dim:
      return "\033[2m";
    case Colour::green:
      return "\033[32m";
    case Colour::yellow:
      return "\033[33m";
    case Colour::red:
      return "\033[31m";
    case Colour::cyan:
      return "\033[36m";
  }
  return "";
}

bool starts_code_point(char c) { return (static_cast<unsigned char>(c) & 0xc0U) != 0x80U; }

}  // namespace

bool is_terminal(int fd) { return ::isatty(fd) == 1; }

bool has_colours(int fd) {
  return is_terminal(fd) && environment("NO_COLOR").empty() && environment("TERM") != "dumb";
}

std::optional<std::size_t> terminal_width() {
  if (!is_terminal(STDOUT_FILENO)) return std::nullopt;
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  const auto columns = std::strtoul(std::string(environment("COLUMNS")).c_str(), nullptr, 10);
  return columns > 0 ? columns : 80;
}

bool has_unicode() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const auto value = environment(name);
    if (value.empty()) continue;  // The first one that is set decides.
    return value.find("UTF-8") != value.npos || value.find("utf8") != value.npos;
  }
  return false;
}

std::string coloured(Colour colour, std::string_view text) {
  if (colour == Colour::none || !has_colours(STDOUT_FILENO)) return std::string(text);
  return fmt::format("{}{}\033[0m", escape(colour), text);
}

std::size_t display_width(std::string_view text) {
  return static_cast<std::size_t>(std::ranges::count_if(text, starts_code_point));
}

std::string fitted(std::string_view text, std::size_t columns) {
  if (display_width(text) <= columns) return std::string(text);
  const auto keep = columns > 3 ? columns - 3 : 0;
  std::size_t width = 0;
  std::size_t end = 0;
  for (; end < text.size(); ++end)
    if (starts_code_point(text[end]) && width++ == keep) break;
  return std::string(text.substr(0, end)) + std::string(std::min<std::size_t>(columns, 3), '.');
}

std::string bar(double fraction, std::size_t columns) {
  const auto share = std::clamp(fraction, 0.0, 1.0);
  auto full = static_cast<std::size_t>(std::lround(share * static_cast<double>(columns)));
  if (share > 0 && full == 0) full = 1;
  if (share < 1 && full == columns && columns > 0) full = columns - 1;
  const bool unicode = has_unicode();
  std::string text;
  for (std::size_t i = 0; i < columns; ++i)
    text += i < full ? (unicode ? "█" : "#") : (unicode ? "░" : ".");
  return text;
}

Colour fill_colour(double fraction) {
  if (fraction >= 0.9) return Colour::red;
  return fraction >= 0.7 ? Colour::yellow : Colour::green;
}

std::string format_share(std::uint64_t part_bytes, std::uint64_t whole_bytes) {
  static constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB", "PB"};
  double divisor = 1;
  std::size_t unit = 0;
  while (static_cast<double>(whole_bytes) / divisor >= 1000 && unit + 1 < std::size(kUnits)) {
    divisor *= 1000;
    ++unit;
  }
  return fmt::format("{0:.{3}f} / {1:.{3}f} {2}", static_cast<double>(part_bytes) / divisor,
                     static_cast<double>(whole_bytes) / divisor, kUnits[unit], unit == 0 ? 0 : 1);
}

void Table::add(std::vector<Cell> cells) {
  cells.resize(columns_.size());
  rows_.push_back(std::move(cells));
}

std::string Table::to_string() const {
  std::vector<std::size_t> widths;
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    widths.push_back(display_width(columns_[i].title));
    for (const auto& row : rows_)
      widths[i] = std::max(widths[i], display_width(row[i].lead) + display_width(row[i].text));
  }
  constexpr std::size_t kGap = 2;
  if (const auto limit = terminal_width()) {
    auto total = std::accumulate(widths.begin(), widths.end(), kGap * (widths.size() - 1));
    for (std::size_t i = 0; i < columns_.size() && total > *limit; ++i) {
      if (!columns_[i].shrink) continue;
      const auto floor = std::max<std::size_t>(display_width(columns_[i].title), 8);
      const auto cut = std::min(total - *limit, widths[i] - std::min(widths[i], floor));
      widths[i] -= cut;
      total -= cut;
    }
  }
  std::string text;
  const auto add_line = [&](const auto& cell_at) {
    std::string line;
    std::size_t pending = 0;  // Spaces are only written once something follows them.
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      const Cell cell = cell_at(i);
      const auto lead = fitted(cell.lead, widths[i]);
      const auto shown = fitted(cell.text, widths[i] - display_width(lead));
      const auto space = widths[i] - display_width(lead) - display_width(shown);
      if (columns_[i].right) pending += space;
      if (!shown.empty() || !lead.empty()) {
        line += std::string(pending, ' ');
        if (!lead.empty()) line += coloured(Colour::dim, lead);
        line += coloured(cell.colour, shown);
        pending = 0;
      }
      pending += (columns_[i].right ? 0 : space) + kGap;
    }
    text += line + "\n";
  };
  add_line([&](std::size_t i) { return Cell{columns_[i].title, Colour::dim}; });
  for (const auto& row : rows_) add_line([&](std::size_t i) { return row[i]; });
  return text;
}

}  // namespace causeway::tools
