// What the readers of whole machines have in common: a tree of parts that get their names at the
// end, the links that follow from the tree, the fabric of NVSwitches.
//
// Threads: plain values and functions.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <pugixml.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "causeway/topology_graph.h"
#include "runtime/topology/import/xml_text.h"

namespace causeway {

constexpr auto kNoPart = std::numeric_limits<std::size_t>::max();
constexpr auto kUnordered = std::numeric_limits<std::int64_t>::max();

// A component before it has a name, and the link to the part above it.
struct Part {
  Component component = {};
  pugi::xml_node element;           // Where the text speaks of it.
  std::size_t parent = kNoPart;     // Towards the root; for host memory its CPU.
  std::int64_t order = kUnordered;  // The number that the source gives a GPU or NIC.
  PcieMode mode = {};               // Of the PCIe link to the parent,
  std::optional<double> line = {};  // and its rates where they are known without the mode.
  std::optional<double> effective = {};
};

class PartTree {
 public:
  explicit PartTree(const XmlText& xml) : xml_(&xml) {}

  [[nodiscard]] std::size_t size() const noexcept { return parts_.size(); }
  Part& operator[](std::size_t at) { return parts_[at]; }
  const Part& operator[](std::size_t at) const { return parts_[at]; }
  // Errors: Errc::parse past kMaxImportComponents, or kMaxNumaNodes of CPUs.
  std::size_t add(Part part);
  void pop_back() { parts_.pop_back(); }
  // The CPU at the root above `at`; `at` itself if there is none.
  [[nodiscard]] std::size_t root(std::size_t at) const;

  // Names every part within its node: GPUs and NICs by their `order`, CPUs and memory by their NUMA
  // node (the first free number if it is not known), the rest as it comes.
  void name_all();
  // Of every part, in the graph's order: CPUs with their memory, the tree as it was added, then
  // devices of no known place, then NVSwitches outside of the tree by address.
  [[nodiscard]] const std::vector<std::size_t>& order() const noexcept { return order_; }
  // The components, and links of PCIe, memory and sockets.
  void append_to(TopologyGraph& graph) const;

 private:
  void name_numa_parts();

  const XmlText* xml_;
  std::vector<Part> parts_;
  std::vector<std::size_t> order_;
  std::size_t cpus_ = 0;
};

// The NVSwitches of one machine are one fabric, though no NCCL dump and no hwloc matrix lists the
// links between them: where the known links leave a node's switched GPUs in several parts, joins
// these by links of no known rate, and says so in a note of `source`. O(components + links).
void join_nvswitches(TopologyGraph& graph, const std::string& source);

// No GPU has more NVLinks than its chip: where the text lists more, GPUs that it joins directly are
// taken to be behind an NVSwitch, and the links that still are too many are counted as the chip's.
// Notes of `source` say so. O(components + links).
void limit_nvlinks(TopologyGraph& graph, const std::string& source);

// The mode of a link as PCIe's virtual bridges claim it where there is no link.
[[nodiscard]] inline bool is_placeholder(const PcieMode& mode) {
  return mode.generation == 1U && mode.width == 1U;
}

}  // namespace causeway
