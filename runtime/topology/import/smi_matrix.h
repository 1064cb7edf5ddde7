// The tables that nvidia-smi prints: "topo -m" and "topo -p2p".
//
// Shape:   columns and rows are devices; a cell is what the table says of row and column. After the
//          cells of "topo -m" stand the CPUs and the NUMA node that are near to the device.
// Errors:  Errc::parse for a table of more than kMaxMachineDevices.
// Cost:    O(text).
// Threads: pure functions.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "causeway/topology_graph.h"

namespace causeway {

struct SmiRow {
  std::string device;
  std::vector<std::string> cells;    // By column; shorter if the row was cut.
  std::array<std::string, 3> after;  // CPU affinity, NUMA affinity, GPU NUMA id; empty: not said.
  std::size_t line = 0;
};

struct SmiMatrix {
  std::size_t line = 0;
  std::vector<std::string> columns;
  std::vector<SmiRow> rows;
  std::string command;  // What stands after "-p2p" in the last command line before it.
  bool is_p2p = false;
  bool is_pci_only = false;  // "topo -mp": says nothing of NVLinks.
  std::vector<TopologyNote> notes;
};

// All tables of the text, in order.
[[nodiscard]] std::vector<SmiMatrix> read_smi_matrices(std::string_view text,
                                                       const std::string& origin);

// True for a line that can be the (first) header line of such a table.
[[nodiscard]] bool is_smi_header(std::string_view line);

// True for the row of a GPU, which may stand without a header where a table was cut.
[[nodiscard]] bool is_smi_row(std::string_view line);

[[nodiscard]] std::optional<PathClass> parse_path_class(std::string_view cell) noexcept;
// 4 of "NV4".
[[nodiscard]] std::optional<std::uint32_t> parse_nvlink_count(std::string_view cell) noexcept;

}  // namespace causeway
