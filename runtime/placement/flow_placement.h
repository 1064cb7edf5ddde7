// Serving as flow: each node holds some consecutive layers, tokens find their way through nodes
// that together hold all of them, and the placement with the largest flow wins. Replicas, shared
// stages and unequal chains are all flows.
//
// Shape:   node i holds [first, end) and carries at most throughput[end - first]; a token that has
//          passed layers up to i's end may go on to node j if first_j <= end_i < end_j, and then
//          passes what is left of j. The source feeds nodes that start at 0, the sink takes from
//          those that end at the last layer. A table need
//          not be monotone.
// Units:   tokens per second, whatever the tables and capacities have.
// Errors:  invalid_argument for tables or edges that do not fit the nodes.
// Cost:    bounded by counts of evaluations: equal input gives an equal placement. 24 nodes in less
//          than a second; a thousand of 20 types in seconds where the network does not bind.
// Threads: no state.
// Source:  the model of Mei et al., "Helix: serving large language models over heterogeneous GPUs
// and
//          network via max-flow", ASPLOS 2025; bound and search are our own (docs/planner.md).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "causeway/error.h"

namespace causeway {

struct FlowEdge {
  static constexpr std::uint32_t kOutside = 0xffffffff;  // As `from` the source, as `to` the sink.
  std::uint32_t from;
  std::uint32_t to;
  double capacity;
};

struct FlowInstance {
  std::uint32_t layers = 0;
  std::vector<std::vector<double>> throughput;  // By node; [k] of k layers, [0] is not used. 0: no.
  std::vector<FlowEdge> edges;
  // Instead of edges: every two nodes, source and sink are joined, and nothing of that ever binds.
  bool unlimited_network = false;

  void validate() const;
};

struct NodeLayers {
  std::uint32_t first = 0;
  std::uint32_t end = 0;  // first: holds none.
  bool operator==(const NodeLayers&) const = default;
};

struct FlowPlacement {
  std::vector<NodeLayers> nodes;
  double throughput = 0;
  double upper_bound = 0;  // No placement carries more.
  bool optimal = false;
  std::uint64_t evaluations = 0;

  [[nodiscard]] std::string certificate() const;  // "optimal: ...", "within X% of optimal: ..."
};

// What a placement carries: a maximum flow.
[[nodiscard]] double placement_flow(const FlowInstance& instance,
                                    const std::vector<NodeLayers>& nodes);

// L layers at flow F take L F of the sum over nodes of max_k k min(T(k), F): the largest F for
// which that is enough, capped by what source, sink and each node's edges let through, and by the
// price of sets of nodes that carry F together.
[[nodiscard]] double flow_upper_bound(const FlowInstance& instance);

struct FlowSearchOptions {
  std::uint64_t most_evaluations = 24'000;  // Of maximum flows, by the local search,
  std::uint64_t most_leaves = 200'000;      // and by branch and bound.
  std::uint64_t seed = 1;
};

[[nodiscard]] FlowPlacement place_flow(const FlowInstance& instance,
                                       const FlowSearchOptions& options = {});

}  // namespace causeway
