// Writes a topology for other tools and for people.
//
// Errors:  invalid_argument where the format cannot say what the graph is: the message names it.
// Cost:    O(graph), of the drawings O(graph log graph).
// Threads: pure functions.
#pragma once

#include <string>
#include <string_view>

#include "causeway/cluster.h"
#include "causeway/topology_graph.h"

namespace causeway {

// Documented in docs/topology.md; graph_from_json() reads it back to an equal graph.
[[nodiscard]] std::string graph_to_json(const TopologyGraph& graph);
// Errors: Errc::parse, naming the field; a version that is not known; over 64 MiB.
[[nodiscard]] TopologyGraph graph_from_json(std::string_view text, const std::string& origin);

// Nodes with their catalogue GPUs and host memory, and one link per pair of nodes that the graph
// joins. Errors: invalid_argument for a GPU of no catalogue model.
[[nodiscard]] ClusterSpec graph_to_cluster(const TopologyGraph& graph);

// For graphviz. Pen by bandwidth, red for degraded or down, dashed for pairs that go through host
// memory; a full mesh of one kind and rate is drawn as a hub.
[[nodiscard]] std::string graph_to_dot(const TopologyGraph& graph);

// One node as NCCL reads it from NCCL_TOPO_FILE.
[[nodiscard]] std::string graph_to_nccl_xml(const TopologyGraph& graph, std::string_view node);

// Slurm's topology.conf (tree): one SwitchName line per network switch. Nodes that no switch joins
// are put under one switch each.
[[nodiscard]] std::string graph_to_slurm(const TopologyGraph& graph);

}  // namespace causeway
