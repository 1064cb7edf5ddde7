// hwloc's matrices of NVLink and xGMI bandwidth, and the links that they mean.
//
// Units:   the matrices are in MB/s of one direction, all links of a pair together.
// Errors:  Errc::parse for a matrix that is not square or over kMaxMatrixObjects.
// Cost:    O(text).
// Source:  hwloc's topology-nvml.c: what is counted for a link of each generation.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/topology/import/graph_parts.h"
#include "runtime/topology/import/xml_text.h"

namespace causeway {

constexpr std::size_t kMaxMatrixObjects = 256;  // GPUs, NVSwitches and CPUs of one machine.

struct HwlocMatrix {
  pugi::xml_node element;
  std::vector<std::string> objects;   // The gp_index of each.
  std::vector<std::uint64_t> values;  // Row by row.
  std::vector<std::size_t> ends;      // The part that each object became, or kNoPart.
  [[nodiscard]] std::string_view name() const { return attribute(element, "name"); }
  [[nodiscard]] std::uint64_t at(std::size_t row, std::size_t column) const {
    return values[row * objects.size() + column];
  }
};

// At most one of each name.
[[nodiscard]] std::vector<HwlocMatrix> read_hwloc_matrices(XmlText& xml);

// `matrix.ends` is set and the parts have their names. `version` is hwloc's, which decides what
// some of its figures mean.
void append_matrix_links(XmlText& xml, HwlocMatrix& matrix, const PartTree& parts,
                         std::string_view version, TopologyGraph& graph);

}  // namespace causeway
