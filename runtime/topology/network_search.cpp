#include "runtime/topology/network_search.h"

#include <algorithm>
#include <queue>

namespace causeway {

namespace {

double width_of(const TopologyLink& link) {
  return link.effective_bytes_per_s ? link.effective_bytes_per_s->value
                                    : std::numeric_limits<double>::infinity();
}

}  // namespace

// Best-first over the links at least `floor` wide. `before(a, b)`: path a is better than path b; a
// longer path is never better than its beginning.
template <typename Before>
Router::NetworkSearch::Reached Router::NetworkSearch::search(double floor, Before before) const {
  struct Open {
    Reach reach;
    Vertex vertex;
  };
  const auto later = [&](const Open& a, const Open& b) { return before(b.reach, a.reach); };
  std::priority_queue<Open, std::vector<Open>, decltype(later)> open(later);
  for (const auto source : sources_) open.push({{}, source});
  Reached reached;
  while (!open.empty()) {
    const auto [reach, vertex] = open.top();
    open.pop();
    if (!reached.emplace(vertex, reach).second) continue;
    for (const auto& edge : index_->edges(vertex)) {
      const auto& link = index_->link(edge);
      if (link.kind != LinkKind::network || link.state == LinkState::down) continue;
      if (width_of(link) < floor || reached.contains(edge.to)) continue;
      const double latency_s = link.latency_s ? link.latency_s->value : 0;
      open.push({{std::min(reach.width, width_of(link)), reach.latency_s + latency_s,
                  reach.hops + 1, Step{vertex, edge.to, edge.link, link.effective_bytes_per_s}},
                 edge.to});
    }
  }
  return reached;
}

Router::NetworkSearch::NetworkSearch(const GraphIndex& index, const std::vector<Vertex>& sources)
    : index_(&index), sources_(sources) {
  widest_ = search(0, [](const Reach& a, const Reach& b) {
    return a.width != b.width ? a.width > b.width : a.hops < b.hops;
  });
}

std::optional<Router::NetworkSearch::Found> Router::NetworkSearch::to(Vertex target) const {
  const auto at = widest_.find(target);
  if (at == widest_.end()) return std::nullopt;
  const auto width = at->second.width;
  auto known = quickest_.find(width);
  if (known == quickest_.end())
    known = quickest_
                .emplace(width, search(width,
                                       [](const Reach& a, const Reach& b) {
                                         return a.latency_s != b.latency_s
                                                    ? a.latency_s < b.latency_s
                                                    : a.hops < b.hops;
                                       }))
                .first;
  const auto& paths = known->second;
  Found found;
  found.latency_s = paths.at(target).latency_s;
  for (const auto* reach = &paths.at(target); reach->last; reach = &paths.at(reach->last->from)) {
    found.steps.push_back(*reach->last);
    const auto& figure = reach->last->bandwidth;
    if (figure && (!found.bandwidth || figure->value < found.bandwidth->value))
      found.bandwidth = figure;
  }
  std::ranges::reverse(found.steps);
  return found;
}

}  // namespace causeway
