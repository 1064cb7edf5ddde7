// nvbandwidth, as text and as JSON (-j).
//
// Shape:   every test is a table. The arrow of its title says which way the bytes go; where a text
//          holds both the read and the write test of a pair, the better one counts, since the
//          driver may copy either way. Tests of both ways at once, of several pairs at once and of
//          kernels that copy are not what one copy gets: passed over, with a note.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "runtime/topology/gpu_titles.h"
#include "runtime/topology/import/gpu_lines.h"
#include "runtime/topology/import/json_text.h"
#include "runtime/topology/import/measured_matrix.h"
#include "runtime/topology/import/readers.h"
#include "runtime/topology/import/text.h"

namespace causeway {

namespace {

namespace json = boost::json;

bool contains(std::string_view text, std::string_view part) noexcept {
  return text.find(part) != std::string_view::npos;
}

bool is_table_title(std::string_view line) noexcept {
  return contains(line, "(row)") && contains(line, "(column)") &&
         (contains(line, "(GB/s)") || contains(line, "(ns)"));
}

enum class Test : std::uint8_t { copy, latency, other };

// The JSON in `text`, whatever a terminal says around it, with its place kept; empty if there is
// none.
std::string find_json(std::string_view text) {
  const auto key = text.find("\"nvbandwidth\"");
  const auto start = key == std::string_view::npos ? key : text.rfind('{', key);
  if (start == std::string_view::npos ||
      text.substr(start + 1, key - start - 1).find_first_not_of(" \t\r\n") !=
          std::string_view::npos)
    return {};
  auto end = start;
  std::size_t depth = 0;
  for (bool quoted = false; end < text.size(); ++end) {
    if (text[end] == '"') quoted = !quoted;
    if (quoted && text[end] == '\\') ++end;
    if (quoted || end >= text.size()) continue;
    if (text[end] == '{') ++depth;
    if (text[end] == '}' && --depth == 0) break;
  }
  const auto lines = std::ranges::count(text.substr(0, start), '\n');
  return std::string(static_cast<std::size_t>(lines), '\n')
      .append(text.substr(start, end + 1 - start));
}

// What a test's numbers are, by its name; without one, by the table's title and shape.
Test test_of(std::string_view name, const MeasuredMatrix& matrix) {
  if (contains(matrix.title, "<->") && !contains(matrix.title, "(ns)")) return Test::other;
  if (name.empty()) {
    const bool square = matrix.rows.size() == matrix.columns.size() && matrix.rows.size() > 1;
    return square && contains(matrix.title, "memcpy CE GPU(row)") ? Test::copy : Test::other;
  }
  if (name == "host_to_device_memcpy_ce" || name == "device_to_host_memcpy_ce" ||
      name == "device_to_device_memcpy_read_ce" || name == "device_to_device_memcpy_write_ce")
    return Test::copy;
  if (name == "host_device_latency_sm" || name == "device_to_device_latency_sm")
    return Test::latency;
  return Test::other;
}

class NvbandwidthReader {
 public:
  NvbandwidthReader(const std::string& origin, const std::string& node) : builder_(origin, node) {}

  void read_text(std::string_view text) {
    for (LineReader lines(text); lines.next();) read_line(lines.line(), lines.number());
    use_open("");
  }

  void read_json(std::string_view text) {
    const auto document = parse_json_text(text, builder_.origin());
    const auto* root =
        document.is_object() ? document.get_object().if_contains("nvbandwidth") : nullptr;
    if (root == nullptr || !root->is_object())
      throw text_error(builder_.origin(), 1, "nvbandwidth: not the object that the tool writes");
    const auto& object = root->get_object();
    version_ = plain_text(json_string(object.if_contains("version")), 32);
    builder_.node().driver_version =
        plain_text(json_string(object.if_contains("Driver Version")), 64);
    for (const auto* key : {"GPU Device list", "Devices"})
      if (const auto* list = object.if_contains(key); list != nullptr && list->is_array())
        for (const auto& entry : list->get_array()) read_gpu(plain_text(json_string(&entry), 256));
    const auto* tests = object.if_contains("testcases");
    if (tests == nullptr || !tests->is_array())
      throw text_error(builder_.origin(), 1,
                       "nvbandwidth.testcases: missing; nothing was measured");
    for (const auto& test : tests->get_array())
      if (test.is_object()) read_test(test.get_object());
  }

  TopologyGraph take() {
    if (builder_.empty())
      throw text_error(builder_.origin(), 1,
                       "no table of nvbandwidth ('memcpy CE GPU(row) -> GPU(column) bandwidth "
                       "(GB/s)') that has its numbers");
    builder_.note(TopologyNote::Kind::remark, 1,
                  fmt::format("measured by nvbandwidth{}{}", version_.empty() ? "" : " ",
                              version_.substr(0, 32)));
    std::string names;
    for (const auto& name : skipped_) names += (names.empty() ? "" : ", ") + name;
    if (!names.empty())
      builder_.note(TopologyNote::Kind::remark, 1,
                    "left out, since they are no single one-way copies: " + names);
    return builder_.take();
  }

 private:
  void read_line(std::string_view raw, std::size_t number) {
    const auto line = trim(raw);
    const auto value_of = [&](std::string_view key) { return trim(line.substr(key.size())); };
    if (line.starts_with("nvbandwidth Version:")) {
      version_ = plain_text(value_of("nvbandwidth Version:"), 32);
    } else if (line.starts_with("Driver Version:")) {
      builder_.node().driver_version = plain_text(value_of("Driver Version:"), 64);
    } else if (line.starts_with("Running ")) {
      use_open("");
      name_ = plain_text(value_of("Running "), 128);
      while (name_.ends_with('.')) name_.pop_back();
    } else if (is_table_title(line)) {
      use_open("");
      open_ = true;
      matrix_.line = number;
      matrix_.title = line.substr(0, 128);
    } else if (line.starts_with("Device ")) {
      read_gpu(line);
    } else if (open_ && line.starts_with("SUM ")) {
      const auto tokens = split_tokens(line, 3);
      use_open(tokens.size() > 1 ? tokens[1] : "");
    } else if (open_ && !line.empty()) {
      // Without "Running NAME." before it, only the line SUM after it says what a table is.
      if (!matrix_.take(line, "", builder_.origin(), number)) use_open("");
    }
  }

  void read_gpu(std::string_view line) {
    const auto gpu = parse_nvbandwidth_gpu_line(line);
    if (!gpu) return;
    auto& device = builder_.gpu(gpu->number);
    set_gpu_title(device, gpu->title);
    if (gpu->pci) device.pci = gpu->pci;
  }

  void read_test(const json::object& test) {
    const auto name = plain_text(json_string(test.if_contains("name")), 128);
    const auto* rows = test.if_contains("bandwidth_matrix");
    if (rows == nullptr || !rows->is_array()) return;  // Waived, or an error.
    MeasuredMatrix matrix;
    matrix.line = 1;
    matrix.title = plain_text(json_string(test.if_contains("bandwidth_description")), 128);
    for (const auto& row : rows->get_array()) {
      if (!row.is_array()) continue;
      if (rows->get_array().size() > kMaxMachineDevices ||
          row.get_array().size() > kMaxMachineDevices)
        throw text_error(builder_.origin(), 1,
                         fmt::format("{}.bandwidth_matrix: more than {} devices, the most of one "
                                     "machine",
                                     name.substr(0, 64), kMaxMachineDevices));
      auto& made = matrix.rows.emplace_back();
      made.number = static_cast<std::uint32_t>(matrix.rows.size() - 1);
      for (const auto& value : row.get_array()) {
        if (matrix.columns.size() == made.values.size())
          matrix.columns.push_back(static_cast<std::uint32_t>(made.values.size()));
        made.values.push_back(json_number(&value));
      }
    }
    use(matrix, name);
  }

  void use_open(std::string_view name_after) {
    if (!std::exchange(open_, false)) return;
    const auto matrix = std::exchange(matrix_, {});
    use(matrix, name_.empty() ? plain_text(name_after, 128) : name_);
  }

  void use(const MeasuredMatrix& matrix, const std::string& name) {
    if (matrix.rows.empty()) return;
    const auto test = test_of(name, matrix);
    if (test == Test::other) {
      if (skipped_.size() < 64) skipped_.insert(name.empty() ? "a table without a name" : name);
      if (contains(name, "multinode")) return;  // Its columns are processes, not devices.
    }
    const bool row_is_host = contains(matrix.title, "CPU(row)");
    const bool backward = contains(matrix.title, "<-") && !contains(matrix.title, "<->");
    for (const auto column : matrix.columns) (void)builder_.gpu(column);
    if (test == Test::other) return;
    for (const auto& row : matrix.rows) {
      const auto kind = row_is_host ? ComponentKind::host : ComponentKind::gpu;
      const auto row_name = builder_.device(kind, row.number).name;
      for (std::size_t i = 0; i < row.values.size(); ++i) {
        const auto column_name = builder_.gpu(matrix.columns[i]).name;
        if (!row.values[i] || row_name == column_name || *row.values[i] == 0) continue;
        auto& pair =
            backward ? builder_.pair(column_name, row_name) : builder_.pair(row_name, column_name);
        const bool is_copy = test == Test::copy;
        const double value = *row.values[i];
        if (is_copy ? MachineBuilder::keep_better(pair.bandwidth_bytes_per_s, value * 1e9)
                    : MachineBuilder::keep_lower(pair.latency_s, value / 1e9))
          continue;
        builder_.note(TopologyNote::Kind::repaired, matrix.line,
                      fmt::format("{} to {}: left out {:g} {}, which no machine has", pair.from,
                                  pair.to, value, is_copy ? "GB/s" : "ns"));
      }
    }
  }

  MachineBuilder builder_;
  std::string version_;
  std::string name_;  // Of the test that runs.
  bool open_ = false;
  MeasuredMatrix matrix_;
  std::set<std::string> skipped_;
};

}  // namespace

TopologyGraph read_nvbandwidth(std::string_view text, const std::string& origin,
                               const std::string& node) {
  NvbandwidthReader reader(origin, node);
  const auto start = text.find_first_not_of("\xef\xbb\xbf \t\r\n");
  if (const auto found = find_json(text); !found.empty()) {
    reader.read_json(found);
  } else if (start != std::string_view::npos && text[start] == '{') {
    reader.read_json(text);
  } else {
    reader.read_text(text);
  }
  return reader.take();
}

}  // namespace causeway
