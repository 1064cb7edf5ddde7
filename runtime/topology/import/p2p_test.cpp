// p2pBandwidthLatencyTest of the CUDA samples. A row copies to a column; "P2P Reads" turn that
// round.
#include <fmt/format.h>

#include <utility>

#include "runtime/topology/gpu_titles.h"
#include "runtime/topology/import/gpu_lines.h"
#include "runtime/topology/import/measured_matrix.h"
#include "runtime/topology/import/readers.h"
#include "runtime/topology/import/text.h"

namespace causeway {

namespace {

enum class Table : std::uint8_t { none, connectivity, staged, peer, latency, other };

bool contains(std::string_view text, std::string_view part) noexcept {
  return text.find(part) != std::string_view::npos;
}

// What the numbers below this line are.
Table table_of(std::string_view line) noexcept {
  if (contains(line, "P2P Connectivity Matrix")) return Table::connectivity;
  if (!contains(line, "P2P=") || !contains(line, "Matrix")) return Table::none;
  const bool enabled = contains(line, "P2P=Enabled");
  // A bidirectional figure is the sum of both ways; half of it is neither.
  if (contains(line, "Bidirectional")) return Table::other;
  if (contains(line, "Latency")) return enabled ? Table::latency : Table::other;
  return enabled ? Table::peer : Table::staged;
}

// "Device=0 CAN Access Peer Device=1"
struct AccessLine {
  std::uint32_t from;
  std::uint32_t to;
  bool can;
};

std::optional<AccessLine> parse_access_line(std::string_view line) {
  const auto tokens = split_tokens(line, 6);
  if (tokens.size() != 5 || tokens[2] != "Access" || tokens[3] != "Peer") return std::nullopt;
  const auto from = numbered(tokens[0], "Device=");
  const auto to = numbered(tokens[4], "Device=");
  if (!from || !to || (tokens[1] != "CAN" && tokens[1] != "CANNOT")) return std::nullopt;
  return AccessLine{*from, *to, tokens[1] == "CAN"};
}

class P2pTestReader {
 public:
  P2pTestReader(const std::string& origin, const std::string& node) : builder_(origin, node) {}

  void read_line(std::string_view line, std::size_t number) {
    if (const auto gpu = parse_p2p_test_gpu_line(line)) {
      auto& device = builder_.gpu(gpu->number);
      set_gpu_title(device, gpu->title);
      device.pci = gpu->pci;
    } else if (const auto access = parse_access_line(line)) {
      if (access->from != access->to) agree(access->from, access->to, access->can, number);
    } else if (const auto table = table_of(line); table != Table::none) {
      flush();
      table_ = table;
      reads_ = contains(line, "P2P Reads");
      matrix_ = {};
      matrix_.line = number;
    } else if (table_ != Table::none && !trim(line).empty()) {
      // Of latencies "GPU", up to CUDA 8 as of the others.
      const bool is_old = table_ != Table::latency || trim(line).starts_with("D\\D");
      if (!matrix_.take(line, is_old ? "D\\D" : "GPU", builder_.origin(), number)) flush();
    }
  }

  TopologyGraph take() {
    flush();
    if (builder_.empty())
      throw text_error(builder_.origin(), 1,
                       "no matrix of p2pBandwidthLatencyTest; give its whole output");
    builder_.note(TopologyNote::Kind::remark, 1, "measured by p2pBandwidthLatencyTest");
    return builder_.take();
  }

 private:
  void agree(std::uint32_t from, std::uint32_t to, bool can, std::size_t line) {
    const auto a = builder_.gpu(from).name;
    const auto b = builder_.gpu(to).name;
    auto& agrees = builder_.pair(a, b).cuda_agrees;
    if (agrees && *agrees != can)
      builder_.note(TopologyNote::Kind::conflict, line,
                    fmt::format("{} to {}: CUDA {} here, but {} before; kept the first", a, b,
                                can ? "agrees" : "refuses", can ? "refused" : "agreed"));
    if (!agrees) agrees = can;
  }

  // Uses the table that is open, and closes it.
  void flush() {
    const auto table = std::exchange(table_, Table::none);
    if (table == Table::none) return;
    for (const auto& row : matrix_.rows) {
      (void)builder_.gpu(row.number);
      for (std::size_t i = 0; i < row.values.size(); ++i) {
        const auto column = matrix_.columns[i];
        (void)builder_.gpu(column);
        if (column == row.number || !row.values[i]) continue;
        use(table, reads_ ? column : row.number, reads_ ? row.number : column, *row.values[i]);
      }
    }
    matrix_ = {};
  }

  void use(Table table, std::uint32_t from, std::uint32_t to, double value) {
    if (table == Table::other) return;
    if (table == Table::connectivity) return agree(from, to, value != 0, matrix_.line);
    auto& pair = builder_.pair(builder_.name(ComponentKind::gpu, from),
                               builder_.name(ComponentKind::gpu, to));
    const bool is_latency = table == Table::latency;
    auto& rate = table == Table::peer ? pair.bandwidth_bytes_per_s : pair.staged_bytes_per_s;
    if (is_latency ? MachineBuilder::keep_lower(pair.latency_s, value / 1e6)
                   : MachineBuilder::keep_better(rate, value * 1e9))
      return;
    builder_.note(TopologyNote::Kind::repaired, matrix_.line,
                  fmt::format("{} to {}: left out {:g} {}, which no machine has", pair.from,
                              pair.to, value, is_latency ? "us" : "GB/s"));
  }

  MachineBuilder builder_;
  MeasuredMatrix matrix_;
  Table table_ = Table::none;
  bool reads_ = false;
};

}  // namespace

TopologyGraph read_p2p_test(std::string_view text, const std::string& origin,
                            const std::string& node) {
  P2pTestReader reader(origin, node);
  for (LineReader lines(text); lines.next();) reader.read_line(lines.line(), lines.number());
  return reader.take();
}

}  // namespace causeway
