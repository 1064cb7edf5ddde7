// The views of `causeway topo show`, each as text that fits the terminal.
//
// Shape:   nodes, islands and links that are alike share a line: "hgx[0-1023]".
// Cost:    O(graph log graph), of the matrix O(devices of a node squared) and their routes.
// Threads: pure functions, but for what terminal.h asks of the environment.
#pragma once

#include <string>

#include "causeway/topology.h"
#include "tools/commands/topo/layout.h"

namespace causeway::tools {

// Node, CPU, bridges, devices; NVLinks as a branch of their own; what could not be seen.
[[nodiscard]] std::string tree_view(const Topology& topology, const Layout& layout);

// Each pair of a node's GPUs and NICs: how far, how fast, and whether they see each other.
[[nodiscard]] std::string matrix_view(const Topology& topology, const Layout& layout);

[[nodiscard]] std::string islands_view(const Topology& topology);

// What joins the nodes: switches by level, nodes by shape, links by rate.
[[nodiscard]] std::string network_view(const Topology& topology, const Layout& layout);

// Every device by the cost of access from `near`.
[[nodiscard]] std::string rank_view(const Topology& topology, const DeviceName& near);

// What readers repaired, left out or found in conflict.
[[nodiscard]] std::string notes_view(const TopologyGraph& graph);

}  // namespace causeway::tools
