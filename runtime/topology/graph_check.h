// Whether a graph is whole: names are unique, links and pairs end at something that is there,
// figures are finite.
//
// Cost:    O(graph).
// Threads: pure functions.
#pragma once

#include <optional>
#include <string>

#include "causeway/topology_graph.h"

namespace causeway {

// The first fault, such as "links[3].b: no component is named 'x'"; nullopt if there is none.
[[nodiscard]] std::optional<std::string> fault_of(const TopologyGraph& graph);

}  // namespace causeway
