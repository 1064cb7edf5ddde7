// The most that flows from a source to a sink through a network of capacities.
//
// Shape:   vertices 0 to n - 1; directed edges with real capacities.
// Cost:    O(vertices^2 edges) at worst, far less on the networks of a placement.
// Threads: one at a time.
// Source:  Dinitz, "Algorithm for solution of a problem of maximum flow in networks with power
//          estimation", 1970. An edge counts as full at a 1e-12 of its capacity.
#pragma once

#include <cstddef>
#include <vector>

namespace causeway {

class MaxFlow {
 public:
  explicit MaxFlow(std::size_t vertices) : first_(vertices) {}

  void add_edge(std::size_t from, std::size_t to, double capacity);
  // May be called once.
  [[nodiscard]] double run(std::size_t source, std::size_t sink);

 private:
  struct Edge {
    std::size_t to;
    double left;
    double full;  // Left counts as nothing below it.
  };

  bool find_levels(std::size_t source, std::size_t sink);
  double push(std::size_t at, std::size_t sink, double most);

  std::vector<Edge> edges_;  // Each followed by its reverse.
  std::vector<std::vector<std::size_t>> first_;
  std::vector<int> level_;
  std::vector<std::size_t> next_;
};

}  // namespace causeway
