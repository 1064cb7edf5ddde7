// What a drawing of a topology shows, before it is written for graphviz: boxes and lines, with what
// would only be noise taken out.
//
// Shape:   PCIe ports that pass one device on are drawn as its line; NVSwitches of one node that
//          join the same GPUs are one box; a full mesh of one kind, count and rate is a hub, and so
//          are the GPU pairs of a node that go through host memory.
// Cost:    O(graph log graph), and GPUs squared on nodes of at most 64 GPUs; on larger ones pairs
//          that go through host memory are left out.
// Threads: plain values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "causeway/topology_graph.h"

namespace causeway {

struct DrawnBox {
  enum class Kind : std::uint8_t {
    gpu,
    host,
    cpu,
    nic,
    bridge,
    nvswitch,
    network_switch,
    other,
    mesh,    // The hub of a full mesh.
    staged,  // The hub of GPU pairs that go through host memory.
    port,    // Where links that name only the node come in.
    node,    // A whole node.
  };
  Kind kind;
  std::string node;  // Empty outside of nodes.
  std::string name;
  std::vector<std::string> details = {};  // A line each.
  bool is_alarming = false;
};

// From the upper box to the lower one.
struct DrawnLine {
  std::size_t upper;  // Into boxes.
  std::size_t lower;
  LinkKind kind;
  std::optional<double> bytes_per_s = {};
  std::string label = {};
  LinkState state = LinkState::unknown;
  bool is_dashed = false;
  bool is_level = false;  // Both boxes stand on one level.
};

struct Drawing {
  std::string title;
  std::vector<std::string> nodes;  // That are drawn in detail, in order.
  std::vector<DrawnBox> boxes;
  std::vector<DrawnLine> lines;
};

[[nodiscard]] Drawing draw(const TopologyGraph& graph);

// "48 GB/s"; of a network "100 Gbit/s".
[[nodiscard]] std::string rate_text(LinkKind kind, double bytes_per_s);

}  // namespace causeway
