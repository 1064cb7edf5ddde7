// Parts of place_flow(): figures of an instance that its searches share.
#pragma once

#include <vector>

#include "runtime/placement/flow_placement.h"

namespace causeway {

// Nodes that nothing but the network tells apart.
struct FlowType {
  std::vector<std::uint32_t> nodes;
  const std::vector<double>* throughput;
};

[[nodiscard]] std::vector<FlowType> flow_types(const FlowInstance& instance);

// The most layers that `throughput` holds at `flow` or more; 0: none.
[[nodiscard]] std::uint32_t most_layers(const std::vector<double>& throughput,
                                        double flow) noexcept;

// Layers times flow that a node covers at best when no more than `flow` is asked of it.
[[nodiscard]] double most_cover(const std::vector<double>& throughput, double flow) noexcept;

// Chains of groups of nodes, by how many of each type they take, blind to the network: exact for
// its group sizes. Empty where there are too many states.
[[nodiscard]] std::vector<NodeLayers> place_groups(const FlowInstance& instance,
                                                   double upper_bound);
// Types in classes of equal stages, each a pipeline of its own filled evenly: for very many nodes.
[[nodiscard]] std::vector<NodeLayers> place_classes(const FlowInstance& instance);
// Chains of single nodes along edges that carry them, one after the other from what is left.
[[nodiscard]] std::vector<std::vector<NodeLayers>> place_lanes(const FlowInstance& instance,
                                                               double upper_bound);

}  // namespace causeway
