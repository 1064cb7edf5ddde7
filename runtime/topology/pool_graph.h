// The topology of a pool: what its nodes say of themselves, joined.
//
// Threads: pure functions.
#pragma once

#include <string>
#include <vector>

#include "causeway/cluster.h"
#include "causeway/topology_graph.h"

namespace causeway {

// A network switch that stands for whatever joins the data planes of a pool's nodes.
inline constexpr const char* kDataPlane = "data-plane";

// What a node publishes of the machine it found itself on: `machine`, with the NIC that owns
// `data_host` joined to kDataPlane at the rate of its port. Without such a NIC or rate, unjoined.
[[nodiscard]] TopologyGraph published_graph(TopologyGraph machine, const std::string& data_host);

// Errors: parse unless `text` is the graph of this one node and nothing of others.
[[nodiscard]] TopologyGraph parse_published_graph(std::string_view text, const std::string& node);

// The nodes, lent devices and declared links of `cluster`; of nodes in `machines` also all that
// they found. A device's capacity is what is lent of it. O(all of it).
[[nodiscard]] TopologyGraph pool_graph(const ClusterSpec& cluster,
                                       std::vector<TopologyGraph> machines);

}  // namespace causeway
