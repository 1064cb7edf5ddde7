// Finds things in a graph by name and by neighbourhood. Borrows the graph.
//
// Cost:    building O(components + links + pairs); look-ups O(1).
// Errors:  building throws invalid_argument for a component or node given twice, and for a link or
//          pair whose end is neither a component nor a node.
// Threads: read-only once built.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "causeway/topology_graph.h"

namespace causeway {

// Components come first, in the graph's order, then the nodes: a network link may end at a node.
using Vertex = std::uint32_t;

struct Edge {
  Vertex to;
  std::uint32_t link;
};

class GraphIndex {
 public:
  explicit GraphIndex(const TopologyGraph& graph);

  [[nodiscard]] const TopologyGraph& graph() const noexcept { return *graph_; }
  [[nodiscard]] std::size_t size() const noexcept { return edges_.size(); }
  [[nodiscard]] std::optional<Vertex> find(std::string_view name) const noexcept;
  [[nodiscard]] const std::vector<Edge>& edges(Vertex vertex) const { return edges_[vertex]; }
  [[nodiscard]] const TopologyLink& link(const Edge& edge) const {
    return graph_->links[edge.link];
  }
  // nullptr for a vertex that stands for a node.
  [[nodiscard]] const Component* component(Vertex vertex) const noexcept;
  [[nodiscard]] std::string_view name(Vertex vertex) const noexcept;
  // The node that a vertex is in or stands for, as an index into graph().nodes; nullopt for a
  // network switch.
  [[nodiscard]] std::optional<std::uint32_t> node_of(Vertex vertex) const noexcept;
  [[nodiscard]] Vertex node_vertex(std::uint32_t node) const noexcept;
  [[nodiscard]] const std::vector<Vertex>& components_of(std::uint32_t node) const {
    return components_of_[node];
  }
  [[nodiscard]] const Pair* pair(Vertex from, Vertex to) const noexcept;

 private:
  const TopologyGraph* graph_;
  std::unordered_map<std::string_view, Vertex> vertices_;
  std::unordered_map<std::uint64_t, std::uint32_t> pairs_;
  std::vector<std::vector<Edge>> edges_;
  std::vector<std::optional<std::uint32_t>> node_of_;
  std::vector<std::vector<Vertex>> components_of_;
};

}  // namespace causeway
