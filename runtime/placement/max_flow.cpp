#include "runtime/placement/max_flow.h"

#include <algorithm>
#include <limits>

namespace causeway {

void MaxFlow::add_edge(std::size_t from, std::size_t to, double capacity) {
  constexpr double kRounding = 1e-12;
  first_[from].push_back(edges_.size());
  edges_.push_back({to, capacity, capacity * kRounding});
  first_[to].push_back(edges_.size());
  edges_.push_back({from, 0, capacity * kRounding});
}

double MaxFlow::run(std::size_t source, std::size_t sink) {
  double flow = 0;
  while (find_levels(source, sink)) {
    next_.assign(first_.size(), 0);
    for (;;) {
      const double pushed = push(source, sink, std::numeric_limits<double>::infinity());
      if (!(pushed > 0)) break;
      flow += pushed;
    }
  }
  return flow;
}

bool MaxFlow::find_levels(std::size_t source, std::size_t sink) {
  level_.assign(first_.size(), -1);
  level_[source] = 0;
  std::vector<std::size_t> queue = {source};
  for (std::size_t i = 0; i < queue.size(); ++i)
    for (const auto index : first_[queue[i]]) {
      const Edge& edge = edges_[index];
      if (edge.left <= edge.full || level_[edge.to] >= 0) continue;
      level_[edge.to] = level_[queue[i]] + 1;
      queue.push_back(edge.to);
    }
  return level_[sink] >= 0;
}

// Depth is at most the number of vertices: a placement's paths visit each device once.
double MaxFlow::push(std::size_t at, std::size_t sink, double most) {
  if (at == sink) return most;
  for (auto& i = next_[at]; i < first_[at].size(); ++i) {
    const auto index = first_[at][i];
    Edge& edge = edges_[index];
    if (edge.left <= edge.full || level_[edge.to] != level_[at] + 1) continue;
    const double pushed = push(edge.to, sink, std::min(most, edge.left));
    if (!(pushed > 0)) continue;
    edge.left -= pushed;
    edges_[index ^ 1].left += pushed;
    return pushed;
  }
  return 0;
}

}  // namespace causeway
