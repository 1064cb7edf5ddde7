// What the terminal can show: colours, width, block characters; and text fitted to it.
//
// Shape:   asks the environment on every call (NO_COLOR, TERM, COLUMNS, LC_ALL, LC_CTYPE, LANG), so
//          output into a file or pipe is plain and never cut.
// Units:   columns; one code point counts as one.
// Threads: free functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace causeway::tools {

enum class Colour : std::uint8_t { none, bold, dim, green, yellow, red, cyan };

[[nodiscard]] bool is_terminal(int fd);
// True on a terminal, unless NO_COLOR is set or TERM is dumb.
[[nodiscard]] bool has_colours(int fd);
// Columns of the terminal on standard output; nullopt if it is none.
[[nodiscard]] std::optional<std::size_t> terminal_width();
// True if the locale is UTF-8: block and line characters may be used.
[[nodiscard]] bool has_unicode();

// `text` in `colour` if standard output has colours.
[[nodiscard]] std::string coloured(Colour colour, std::string_view text);
[[nodiscard]] std::size_t display_width(std::string_view text);
// At most `columns` wide, ending in "..." where something was cut.
[[nodiscard]] std::string fitted(std::string_view text, std::size_t columns);

// "██████░░░░" (or "######....") for a fraction of 0 to 1; a non-zero fraction shows a block, and
// only a whole one fills the bar.
[[nodiscard]] std::string bar(double fraction, std::size_t columns);
// Green, yellow from 70%, red from 90%.
[[nodiscard]] Colour fill_colour(double fraction);

// "12.1 / 32.0 MB": both in the unit of the second.
[[nodiscard]] std::string format_share(std::uint64_t part_bytes, std::uint64_t whole_bytes);

struct Column {
  std::string title;
  bool right = false;   // Numbers stand to the right.
  bool shrink = false;  // Cut first where the terminal is too narrow.
};

struct Cell {
  std::string text;
  Colour colour = Colour::none;
  std::string lead = {};  // Before the text, dim: the branches of a tree.
};

// Rows under aligned titles.
class Table {
 public:
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  void add(std::vector<Cell> cells);
  [[nodiscard]] bool empty() const noexcept { return rows_.empty(); }
  // Each line ends in a newline and has no spaces before it.
  [[nodiscard]] std::string to_string() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<Cell>> rows_;
};

}  // namespace causeway::tools
