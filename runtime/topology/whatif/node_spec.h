// A node in one line: "hgx2=8xh100-sxm,host:1TB,link:desktop:100Gbit/s:5us".
//
// Errors:  invalid_argument for a text of no such form; not_found for a peer that is not there.
// Threads: pure functions.
#pragma once

#include <string>

#include "causeway/topology_graph.h"

namespace causeway::whatif {

// The node as a graph of its own, but for its links to nodes and switches of `graph`.
[[nodiscard]] TopologyGraph read_node_spec(const TopologyGraph& graph, const std::string& text);

}  // namespace causeway::whatif
