// Sets one field of what a what-if names.
//
// Errors:  invalid_argument, beginning with the expression.
// Threads: free functions on one graph.
#pragma once

#include <string>
#include <string_view>

#include "runtime/topology/whatif/target.h"

namespace causeway::whatif {

void set_field(TopologyGraph& graph, const Target& target, std::string_view field,
               std::string_view value, const std::string& expression);

}  // namespace causeway::whatif
