// Where each component of a graph hangs: below which CPU and bridge, over which link.
//
// Shape:   a forest by component index. What is as near to several CPUs hangs below none of them.
// Cost:    O(components + links).
// Threads: a plain value; borrows the graph.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "causeway/topology_graph.h"

namespace causeway::tools {

class Layout {
 public:
  explicit Layout(const TopologyGraph& graph);

  struct Entry {
    std::optional<std::size_t> parent = {};
    std::optional<std::size_t> link = {};  // To the parent, or to one of several CPUs.
    std::vector<std::size_t> children = {};
    bool is_shared = false;  // Linked to several CPUs.
  };

  [[nodiscard]] const TopologyGraph& graph() const noexcept { return *graph_; }
  [[nodiscard]] const Entry& operator[](std::size_t component) const { return entries_[component]; }
  [[nodiscard]] std::optional<std::size_t> find(std::string_view component) const;
  [[nodiscard]] std::optional<std::size_t> find_node(std::string_view node) const;
  // Of a node, in the graph's order.
  [[nodiscard]] const std::vector<std::size_t>& components_of(std::size_t node) const {
    return of_node_[node];
  }
  // The links whose first end is on the node.
  [[nodiscard]] const std::vector<std::size_t>& links_of(std::size_t node) const {
    return links_of_[node];
  }
  // The narrowest of the PCIe links between two devices of one node, and of that between their
  // CPUs; nullopt if nothing joins them or no rate is known.
  [[nodiscard]] std::optional<Figure> narrowest_between(std::size_t a, std::size_t b) const;

 private:
  void cut_cycles();
  [[nodiscard]] std::optional<Figure> between_cpus(std::size_t a, std::size_t b) const;

  const TopologyGraph* graph_;
  std::unordered_map<std::string_view, std::size_t> index_;
  std::unordered_map<std::string_view, std::size_t> nodes_;
  std::vector<Entry> entries_;
  std::vector<std::vector<std::size_t>> of_node_;
  std::vector<std::vector<std::size_t>> links_of_;
};

// Nodes of one shape: the same components, links and pairs but for names, addresses and UUIDs.
// By first appearance. O(graph log graph).
[[nodiscard]] std::vector<std::vector<std::size_t>> alike_nodes(const Layout& layout);

}  // namespace causeway::tools
