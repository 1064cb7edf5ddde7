#include "runtime/topology/import/smi_matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <unordered_set>
#include <utility>

#include "runtime/topology/import/text.h"

namespace causeway {

namespace {

constexpr std::size_t kMaxMatrices = 64;
constexpr std::size_t kMaxMatrixNotes = 64;
constexpr std::size_t kMaxLabelTokens = 16;

using Kind = TopologyNote::Kind;

bool is_digit(char c) noexcept { return c >= '0' && c <= '9'; }

bool is_status(std::string_view token) noexcept {
  return parse_name<PeerStatus>(token).has_value();
}

bool is_cell(std::string_view token) noexcept {
  return token == "X" || token == "-" || parse_path_class(token) || is_status(token);
}

// A network device by its own name, as older drivers print it: "mlx5_0", "hsn1", "mlx5_bond_0".
bool is_nic_name(std::string_view token) noexcept {
  if (token.size() > 32 || std::islower(static_cast<unsigned char>(token.front())) == 0)
    return false;
  return is_digit(token.back()) && std::ranges::all_of(token, [](char c) {
           return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
         });
}

bool is_numbered_device(std::string_view token) noexcept {
  return numbered(token, "GPU") || numbered(token, "NIC");
}

// "GPU512": past what any machine has.
bool is_past_limit(std::string_view token) noexcept {
  for (const std::string_view prefix : {"GPU", "NIC"}) {
    const auto digits = token.substr(std::min(prefix.size(), token.size()));
    if (token.starts_with(prefix) && !digits.empty() && digits.front() != '0' &&
        std::ranges::all_of(digits, is_digit) && !numbered(token, prefix))
      return true;
  }
  return false;
}

bool is_device(std::string_view token) noexcept {
  return is_numbered_device(token) || (!is_cell(token) && is_nic_name(token));
}

bool is_heading_word(std::string_view token) noexcept {
  return token == "CPU" || token == "Affinity" || token == "NUMA" || token == "GPU" ||
         token == "ID" || token == "CPUAffinity";
}

// "NIC28NIC29" to its two names; anything else to itself.
std::vector<std::string_view> split_fused(std::string_view token) {
  std::vector<std::string_view> parts;
  for (auto rest = token; !rest.empty();) {
    std::size_t length = 0;
    for (const std::string_view prefix : {"GPU", "NIC", "mlx5_"}) {
      if (!rest.starts_with(prefix)) continue;
      auto end = prefix.size();
      while (end < rest.size() && is_digit(rest[end])) ++end;
      if (end > prefix.size()) length = end;
    }
    if (length == 0 && rest.starts_with("CPU")) length = 3;
    if (length == 0) return {token};
    parts.push_back(rest.substr(0, length));
    rest.remove_prefix(length);
    if (parts.size() > kMaxMachineDevices) return parts;
  }
  return parts;
}

// "NODENODE" to its two cells; anything else to itself.
std::vector<std::string_view> split_cells(std::string_view token) {
  std::vector<std::string_view> parts;
  for (auto rest = token; !rest.empty() && parts.size() <= kMaxMachineDevices;) {
    std::size_t length = rest.starts_with("NODE") ? 4 : 3;
    if (rest.starts_with('X')) length = 1;
    if (rest.starts_with("NV"))
      length = std::min(rest.find_first_not_of("0123456789", 2), rest.size());
    const auto part = rest.substr(0, length);
    if (part != "X" && !parse_path_class(part)) return {token};
    parts.push_back(part);
    rest.remove_prefix(part.size());
  }
  return parts;
}

// What is near to a device: CPUs, NUMA nodes, or nothing.
bool is_near(std::string_view token) noexcept {
  return token == "N/A" || token.find_first_not_of("0123456789,-") == std::string_view::npos;
}

struct Heading {
  std::vector<std::string_view> devices;
  std::vector<std::pair<int, std::size_t>> after;  // Which of SmiRow::after, and where it starts.
  bool fused = false;
  bool is_past_limit = false;  // Names more devices than any machine has; what follows is not read.
};

// The header that `line` is, or part of one where the terminal wrapped it.
std::optional<Heading> parse_heading(std::string_view line) {
  Heading heading;
  std::string_view previous;
  for (const auto token : split_tokens(line)) {
    const auto parts = split_fused(token);
    heading.fused = heading.fused || parts.size() > 1;
    for (const auto part : parts) {
      const auto at = static_cast<std::size_t>(part.data() - line.data());
      if (is_device(part) && heading.after.empty()) {
        heading.devices.push_back(part);
      } else if (heading.after.empty() && is_past_limit(part)) {
        heading.is_past_limit = true;
        return heading;
      } else if (!is_heading_word(part)) {
        return std::nullopt;
      } else if (part == "CPU" || part == "CPUAffinity") {
        heading.after.emplace_back(0, at);
      } else if (part == "NUMA") {
        if (previous == "GPU") heading.after.back() = {2, heading.after.back().second};
        if (previous != "GPU") heading.after.emplace_back(1, at);
      } else if (part == "GPU") {
        heading.after.emplace_back(2, at);
      }
      previous = part;
    }
    heading.is_past_limit = heading.devices.size() > kMaxMachineDevices;
    if (heading.is_past_limit) return heading;
  }
  if (heading.devices.empty() && heading.after.empty()) return std::nullopt;
  return heading;
}

// What stands before the header in its line: a command, as in pasted terminals, the title of the
// first column, or what a log puts before each line.
std::string_view label_of(std::string_view line) {
  const auto at = line.find("GPU0");
  if (at == std::string_view::npos || parse_heading(line)) return {};
  const auto heading = parse_heading(line.substr(at));
  if (!heading || (heading->devices.size() + heading->after.size() < 2 && !heading->is_past_limit))
    return {};
  auto label = line.substr(0, at);
  while (label.ends_with(' ') || label.ends_with('\t')) label.remove_suffix(1);
  return label;
}

// `line` without `label`, where it starts with that and not with a longer word.
std::string_view without_label(std::string_view line, std::string_view label) {
  if (label.empty() || !line.starts_with(label)) return line;
  const auto rest = line.substr(label.size());
  const bool is_word = std::isalnum(static_cast<unsigned char>(label.back())) != 0;
  return is_word && !rest.starts_with(' ') && !rest.starts_with('\t') ? line : rest;
}

class MatrixReader {
 public:
  explicit MatrixReader(const std::string& origin) : origin_(origin) {}

  void read_line(std::string_view line, std::size_t number) {
    note_command(line);
    if (const auto label = label_of(line); !label.empty()) label_ = label;
    line = without_label(line, label_);
    if (auto heading = parse_heading(line)) {
      read_heading(*heading, line, number);
      return;
    }
    if (done_.empty() && is_smi_row(line)) start(number);
    if (done_.empty()) return;
    read_legend(line);
    read_row(label_.empty() ? line : from_column(line), number);
  }

  std::vector<SmiMatrix> take() {
    for (auto& matrix : done_) finish(matrix);
    std::erase_if(done_, [](const SmiMatrix& matrix) { return matrix.rows.empty(); });
    return std::move(done_);
  }

 private:
  void note_command(std::string_view line) {
    if (line.find("topo") == std::string_view::npos) return;
    const auto at = line.find("-p2p");
    if (at == std::string_view::npos) {
      if (line.find("nvidia-smi") == std::string_view::npos) return;
      command_.clear();
      is_pci_only_ = line.find(" -mp") != std::string_view::npos;
      return;
    }
    is_pci_only_ = false;
    command_.clear();
    for (const char c : trim(line.substr(at + 4)).substr(0, 8)) {
      if (std::string_view("rwnap").find(c) == std::string_view::npos) break;
      command_ += c;
    }
  }

  // "NV#  = ...": only the legend of "topo -mp" is without that line.
  void read_legend(std::string_view line) {
    const auto tokens = split_tokens(line, 2);
    if (tokens.size() < 2 || tokens[1] != "=") return;
    if (tokens[0] == "PIX") legend_ = Legend::pci;
    if (tokens[0] == "NV#") legend_ = Legend::nvlink;
    if (legend_ != Legend::none) done_.back().is_pci_only = legend_ == Legend::pci;
  }

  void add_note(SmiMatrix& matrix, Kind kind, std::size_t line, const std::string& text) {
    if (matrix.notes.size() < kMaxMatrixNotes)
      matrix.notes.push_back({kind, fmt::format("{}:{}", origin_, line), text});
  }

  void start(std::size_t line) {
    auto& matrix = done_.emplace_back();
    matrix.line = line;
    matrix.command = std::exchange(command_, {});
    matrix.is_pci_only = std::exchange(is_pci_only_, false);
    legend_ = Legend::none;
    after_.clear();
  }

  // `line` from the first device of the table on: what a log puts before it may change.
  [[nodiscard]] std::string_view from_column(std::string_view line) const {
    for (const auto token : split_tokens(line, kMaxLabelTokens))
      if (std::ranges::find(done_.back().columns, token) != done_.back().columns.end())
        return line.substr(static_cast<std::size_t>(token.data() - line.data()));
    return line;
  }

  void read_heading(const Heading& heading, std::string_view line, std::size_t number) {
    const bool has_gpu = std::ranges::any_of(
        heading.devices, [](auto name) { return numbered(name, "GPU").has_value(); });
    const bool continues =
        wrapped_ && number == last_heading_ + 1 && done_.back().rows.empty() &&
        std::ranges::none_of(heading.devices, [&](auto name) {
          return std::ranges::find(done_.back().columns, name) != done_.back().columns.end();
        });
    if (!continues) {
      if (!has_gpu) return;
      if (!done_.empty() && done_.back().rows.empty()) done_.pop_back();  // Was no header.
      if (done_.size() >= kMaxMatrices)
        throw text_error(
            origin_, number,
            fmt::format("table: more than {}; keep one machine's in a file", kMaxMatrices));
      start(number);
    } else {
      add_note(done_.back(), Kind::repaired, number, "joined the header that goes on in this line");
    }
    auto& matrix = done_.back();
    for (const auto name : heading.devices) matrix.columns.emplace_back(name);
    if (heading.is_past_limit || matrix.columns.size() > kMaxMachineDevices)
      throw text_error(
          origin_, number,
          fmt::format("header: more than {} devices, the most of one machine", kMaxMachineDevices));
    if (heading.fused)
      add_note(matrix, Kind::repaired, number,
               "took column names apart that stand without a blank");
    for (const auto& after : heading.after) after_.push_back(after);
    aligned_ = !continues && line.find('\t') == std::string_view::npos;
    is_joined_ = continues;
    wrapped_ = heading.after.empty();
    last_heading_ = number;
  }

  void read_row(std::string_view line, std::size_t number) {
    auto& matrix = done_.back();
    std::vector<std::string_view> tokens;
    bool fused = false;
    for (const auto token : split_tokens(line)) {
      const auto parts = split_cells(token);
      fused = fused || parts.size() > 1;
      tokens.insert(tokens.end(), parts.begin(), parts.end());
      if (tokens.size() > kMaxTokens) break;
    }
    if (tokens.empty()) return;
    const bool is_named = is_device(tokens[0]) && tokens.size() > 1;
    const auto last_cell = is_named ? cells_end(tokens) : 0;
    const auto is_column = [&] {
      return std::ranges::find(matrix.columns, tokens[0]) != matrix.columns.end();
    };
    const bool named =
        is_named && (is_cell(tokens[1]) || tokens[1] == "N/A" || (last_cell > 1 && is_column()));
    if (!named && !goes_on(tokens, number)) {
      give_up_rest(tokens, number);
      return;
    }
    if (named) {
      if (matrix.rows.size() >= 2 * kMaxMachineDevices)
        throw text_error(origin_, number,
                         fmt::format("table: more than {} rows", 2 * kMaxMachineDevices));
      matrix.rows.emplace_back().device = tokens[0];
    } else {
      add_note(
          matrix, Kind::repaired, number,
          fmt::format("joined the row of {} that goes on in this line", matrix.rows.back().device));
    }
    auto& row = matrix.rows.back();
    row.line = number;
    if (fused)
      add_note(matrix, Kind::repaired, number,
               fmt::format("took the cells of {} apart that stand without a blank", row.device));
    auto at = static_cast<std::size_t>(named ? 1 : 0);
    std::size_t bad = 0;
    for (; at < tokens.size() && row.cells.size() < kMaxMachineDevices; ++at) {
      const bool within = row.cells.size() < matrix.columns.size();
      if (is_cell(tokens[at]) || (tokens[at] == "N/A" && within)) {
        row.cells.emplace_back(tokens[at]);
        continue;
      }
      // Before another cell, or no list of CPUs: a cell that says nothing.
      const bool is_list = tokens[at].find_first_not_of("0123456789,-") == std::string_view::npos;
      if (at >= last_cell && (is_list || !within)) break;
      if (++bad == 1)
        add_note(matrix, Kind::repaired, number,
                 fmt::format("the row of {} says '{}' of {}, which is no path; what it says so is "
                             "taken as unknown",
                             row.device, tokens[at].substr(0, 40),
                             within ? matrix.columns[row.cells.size()]
                                    : fmt::format("column {}", row.cells.size())));
      row.cells.emplace_back("N/A");
    }
    const auto last = at == 0 ? line.substr(0, 0) : tokens[at - 1];
    const auto end = static_cast<std::size_t>(last.data() + last.size() - line.data());
    read_after(row, line, end);
  }

  // True for the rest of the row in the line before, where the terminal wrapped it: the cells that
  // are missing, and what is near.
  [[nodiscard]] bool goes_on(const std::vector<std::string_view>& tokens,
                             std::size_t number) const {
    const auto& matrix = done_.back();
    if (matrix.rows.empty() || matrix.rows.back().line + 1 != number) return false;
    const auto& row = matrix.rows.back();
    const auto missing = matrix.columns.size() - std::min(row.cells.size(), matrix.columns.size());
    const auto tail = std::ranges::find_if_not(tokens, is_cell);
    if (tail == tokens.end()) return missing > 0;
    const bool is_last = static_cast<std::size_t>(tail - tokens.begin()) == missing;
    const bool is_new = std::ranges::all_of(row.after, &std::string::empty);
    return is_joined_ && is_last && is_new && std::all_of(tail, tokens.end(), is_near);
  }

  // What looks like the rest of a row but does not fit: the terminal cut a word in two, so the end
  // of the row is not to be trusted either.
  void give_up_rest(const std::vector<std::string_view>& tokens, std::size_t number) {
    auto& matrix = done_.back();
    if (matrix.rows.empty() || matrix.rows.back().line + 1 != number ||
        !std::ranges::all_of(tokens, [](auto token) { return is_cell(token) || is_near(token); }))
      return;
    for (auto& near : matrix.rows.back().after) near.clear();
    add_note(matrix, Kind::repaired, number,
             fmt::format("left out the rest of the row of {}, and what is near to it: the line was "
                         "wrapped within a word; paste it from a wider terminal",
                         matrix.rows.back().device));
  }

  // Past the last token that can be nothing but a cell; 0 if there is none.
  static std::size_t cells_end(const std::vector<std::string_view>& tokens) {
    for (auto end = tokens.size(); end > 1; --end)
      if (tokens[end - 1] != "-" && is_cell(tokens[end - 1])) return end;
    return 0;
  }

  // The columns after the cells. With tabs an empty CPU affinity is an empty field, and there may
  // be two tabs between the others; with blanks a value belongs to the heading it stands under.
  void read_after(SmiRow& row, std::string_view line, std::size_t end) {
    auto rest = line.substr(end);
    const auto values = split_tokens(rest, 8);
    if (values.empty()) return;
    const auto tab = rest.find('\t');
    std::size_t next = 0;
    if (tab != std::string_view::npos) {
      const auto first = rest.substr(tab + 1, rest.find('\t', tab + 1) - (tab + 1));
      if (trim(first).empty()) next = 1;
    } else if (aligned_ && values.size() < after_.size()) {
      for (const auto value : values) {
        const auto at = static_cast<std::size_t>(value.data() - line.data());
        const auto nearest = std::ranges::min_element(after_, {}, [at](const auto& column) {
          return column.second > at ? column.second - at : at - column.second;
        });
        row.after[static_cast<std::size_t>(nearest->first)] = value;
      }
      return;
    }
    for (std::size_t i = 0; i < values.size() && next < row.after.size(); ++i, ++next)
      row.after[next] = values[i];
  }

  // Without a header: nvidia-smi counts up from the left, the GPUs before the NICs.
  static void name_by_order(std::vector<std::string>& columns, const std::vector<SmiRow>& rows) {
    for (const auto& row : rows) {
      const auto own = std::ranges::find(columns, row.device);
      for (const std::string_view prefix : {"NIC", "GPU"}) {
        const auto number = numbered(row.device, prefix);
        if (!number || own - columns.begin() < static_cast<std::ptrdiff_t>(*number)) continue;
        const auto first = own - static_cast<std::ptrdiff_t>(*number);
        for (auto column = columns.begin(); column < own; ++column)
          if (column->empty())
            *column = column < first ? fmt::format("GPU{}", column - columns.begin())
                                     : fmt::format("{}{}", prefix, column - first);
      }
    }
  }

  // The X of a row says which column is its own, whatever the header says.
  void align_columns(SmiMatrix& matrix) {
    std::vector<std::string> columns = matrix.columns;
    std::vector<bool> owned(kMaxMachineDevices);
    bool moved = false;
    for (auto& row : matrix.rows) {
      const auto self = std::ranges::find(row.cells, "X");
      if (self == row.cells.end()) continue;
      const auto at = static_cast<std::size_t>(self - row.cells.begin());
      if (columns.size() <= at) columns.resize(at + 1);
      if (owned[at]) {
        add_note(matrix, Kind::conflict, row.line,
                 fmt::format("left out the row of {}: its X stands in the column of {}", row.device,
                             columns[at]));
        row.cells.clear();
        continue;
      }
      owned[at] = true;
      moved = moved || columns[at] != row.device;
      columns[at] = row.device;
    }
    if (!moved) return;
    if (matrix.columns.empty()) name_by_order(columns, matrix.rows);
    std::unordered_set<std::string> rows;
    for (const auto& row : matrix.rows) rows.insert(row.device);
    for (std::size_t at = 0; at < columns.size(); ++at)
      if (!owned[at] && rows.contains(columns[at])) columns[at].clear();
    add_note(matrix, Kind::repaired, matrix.line,
             "the header does not fit the rows; took each column for the row that has its X there");
    matrix.columns = std::move(columns);
  }

  void note_missing_rows(SmiMatrix& matrix) {
    std::unordered_set<std::string_view> rows;
    for (const auto& row : matrix.rows) rows.insert(row.device);
    std::string missing;
    for (const auto& column : matrix.columns)
      if (!column.empty() && !rows.contains(column) && missing.size() < 200)
        missing += (missing.empty() ? "" : ", ") + column;
    if (!missing.empty() && !matrix.rows.empty())
      add_note(matrix, Kind::repaired, matrix.line,
               fmt::format("no row of {}: known is what the other rows say", missing));
  }

  void finish(SmiMatrix& matrix) {
    std::unordered_set<std::string> seen;
    for (auto& row : matrix.rows) {
      if (seen.insert(row.device).second) continue;
      add_note(matrix, Kind::conflict, row.line,
               fmt::format("left out a second row of {}", row.device));
      row.cells.clear();
    }
    std::erase_if(matrix.rows, [](const SmiRow& row) { return row.cells.empty(); });
    align_columns(matrix);
    std::erase_if(matrix.rows, [](const SmiRow& row) { return row.cells.empty(); });
    note_missing_rows(matrix);
    bool paths = false;
    for (auto& row : matrix.rows) {
      if (row.cells.size() < matrix.columns.size())
        add_note(matrix, Kind::repaired, row.line,
                 fmt::format("the row of {} has {} of {} cells", row.device, row.cells.size(),
                             matrix.columns.size()));
      row.cells.resize(std::min(row.cells.size(), matrix.columns.size()));
      for (const auto& cell : row.cells) {
        matrix.is_p2p = matrix.is_p2p || is_status(cell);
        paths = paths || parse_path_class(cell);
        if (parse_nvlink_count(cell)) matrix.is_pci_only = false;
      }
    }
    if (!paths && !matrix.command.empty()) matrix.is_p2p = true;
    if (paths && matrix.is_p2p)
      throw text_error(origin_, matrix.line,
                       "table: holds both paths (PIX, SYS, ...) and peer states (OK, GNS, ...); "
                       "put every output of nvidia-smi after its own header");
  }

  const std::string& origin_;
  std::vector<SmiMatrix> done_;
  std::string command_;
  std::string label_;
  enum class Legend : std::uint8_t { none, pci, nvlink } legend_ = Legend::none;
  bool is_pci_only_ = false;
  bool is_joined_ = false;  // The header stood in several lines.
  std::vector<std::pair<int, std::size_t>> after_;
  bool aligned_ = false;
  bool wrapped_ = false;
  std::size_t last_heading_ = 0;
};

}  // namespace

std::vector<SmiMatrix> read_smi_matrices(std::string_view text, const std::string& origin) {
  MatrixReader reader(origin);
  for (LineReader lines(text); lines.next();) reader.read_line(lines.line(), lines.number());
  return reader.take();
}

bool is_smi_row(std::string_view line) {
  const auto tokens = split_tokens(line);
  if (tokens.size() < 3 || !numbered(tokens[0], "GPU")) return false;
  const auto end = std::find_if_not(tokens.begin() + 1, tokens.end(), is_cell);
  return end - tokens.begin() > 2 && std::count(tokens.begin() + 1, end, "X") == 1;
}

bool is_smi_header(std::string_view line) {
  const auto heading = parse_heading(without_label(line, label_of(line)));
  return heading && (heading->is_past_limit || std::ranges::any_of(heading->devices, [](auto name) {
                       return numbered(name, "GPU").has_value();
                     }));
}

std::optional<PathClass> parse_path_class(std::string_view cell) noexcept {
  if (parse_nvlink_count(cell)) return PathClass::nvlink;
  if (cell == "SOC") return PathClass::sys;  // As drivers before 2017 call it.
  if (cell == "NVL") return std::nullopt;    // Our own word, not nvidia-smi's.
  return parse_name<PathClass>(cell);
}

std::optional<std::uint32_t> parse_nvlink_count(std::string_view cell) noexcept {
  const auto count = numbered(cell, "NV");
  return count && *count > 0 ? count : std::nullopt;
}

}  // namespace causeway
