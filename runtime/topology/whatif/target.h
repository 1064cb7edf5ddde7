// Finds what a what-if names, and says what is near where it is not there.
//
// Errors:  not_found and invalid_argument, beginning with the expression.
// Threads: pure functions.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "causeway/error.h"
#include "causeway/topology_graph.h"

namespace causeway::whatif {

// Indices into the graph.
struct NodeTarget {
  std::size_t index;
};
struct ComponentTarget {
  std::size_t index;
};
struct LinkTarget {
  std::size_t index;
};
struct PairTarget {  // May not be there yet.
  std::string from;
  std::string to;
};
using Target = std::variant<NodeTarget, ComponentTarget, LinkTarget, PairTarget>;

// `text` is a node, a component, "A-B", "KIND:A-B" or "A>B". `expression` is for errors.
[[nodiscard]] Target find_target(const TopologyGraph& graph, std::string_view text,
                                 const std::string& expression);

[[nodiscard]] Error refuse(const std::string& expression, const std::string& what);
[[nodiscard]] Error unknown(const std::string& expression, std::string_view kind,
                            std::string_view name, const std::vector<std::string_view>& known);

}  // namespace causeway::whatif
