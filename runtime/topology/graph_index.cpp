#include "runtime/topology/graph_index.h"

#include <fmt/format.h>

#include "allocator/error.h"

namespace causeway {

namespace {

std::uint64_t key(Vertex from, Vertex to) { return (std::uint64_t{from} << 32) | to; }

}  // namespace

GraphIndex::GraphIndex(const TopologyGraph& graph)
    : graph_(&graph),
      edges_(graph.components.size() + graph.nodes.size()),
      node_of_(edges_.size()),
      components_of_(graph.nodes.size()) {
  vertices_.reserve(edges_.size());
  const auto add = [this](std::string_view name, Vertex vertex) {
    if (!vertices_.emplace(name, vertex).second)
      throw Error(Errc::invalid_argument,
                  fmt::format("topology '{}': '{}' is there twice", graph_->name, name));
  };
  const auto first_node = static_cast<Vertex>(graph.components.size());
  for (Vertex i = 0; i < graph.nodes.size(); ++i) {
    add(graph.nodes[i].name, first_node + i);
    node_of_[first_node + i] = i;
  }
  for (Vertex i = 0; i < graph.components.size(); ++i) {
    const auto& component = graph.components[i];
    add(component.name, i);
    if (component.node.empty()) continue;
    const auto node = find(component.node);
    if (!node || *node < first_node)
      throw Error(Errc::invalid_argument, fmt::format("topology '{}': {} is on node '{}', which is "
                                                      "not there",
                                                      graph.name, component.name, component.node));
    node_of_[i] = *node - first_node;
    components_of_[*node - first_node].push_back(i);
  }
  const auto end_of = [this](std::string_view what, const std::string& name) {
    if (const auto vertex = find(name)) return *vertex;
    throw Error(Errc::invalid_argument, fmt::format("topology '{}': {} ends at '{}', which is not "
                                                    "there",
                                                    graph_->name, what, name));
  };
  for (std::uint32_t i = 0; i < graph.links.size(); ++i) {
    const auto a = end_of("a link", graph.links[i].a);
    const auto b = end_of("a link", graph.links[i].b);
    edges_[a].push_back({b, i});
    if (a != b) edges_[b].push_back({a, i});
  }
  pairs_.reserve(graph.pairs.size());
  for (std::uint32_t i = 0; i < graph.pairs.size(); ++i)
    pairs_.emplace(key(end_of("a pair", graph.pairs[i].from), end_of("a pair", graph.pairs[i].to)),
                   i);
}

std::optional<Vertex> GraphIndex::find(std::string_view name) const noexcept {
  const auto at = vertices_.find(name);
  return at == vertices_.end() ? std::nullopt : std::optional(at->second);
}

const Component* GraphIndex::component(Vertex vertex) const noexcept {
  return vertex < graph_->components.size() ? &graph_->components[vertex] : nullptr;
}

std::string_view GraphIndex::name(Vertex vertex) const noexcept {
  const auto* found = component(vertex);
  return found != nullptr ? found->name : graph_->nodes[vertex - graph_->components.size()].name;
}

std::optional<std::uint32_t> GraphIndex::node_of(Vertex vertex) const noexcept {
  return node_of_[vertex];
}

Vertex GraphIndex::node_vertex(std::uint32_t node) const noexcept {
  return static_cast<Vertex>(graph_->components.size()) + node;
}

const Pair* GraphIndex::pair(Vertex from, Vertex to) const noexcept {
  const auto at = pairs_.find(key(from, to));
  return at == pairs_.end() ? nullptr : &graph_->pairs[at->second];
}

}  // namespace causeway
