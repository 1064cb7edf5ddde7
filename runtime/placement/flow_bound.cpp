#include "runtime/placement/flow_bound.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "runtime/placement/max_flow.h"

namespace causeway {

void FlowInstance::validate() const {
  const auto refuse = [](const std::string& what) {
    return Error(Errc::invalid_argument, "placement as flow: " + what);
  };
  if (layers == 0 || throughput.empty()) throw refuse("no layers or no nodes");
  for (std::size_t i = 0; i < throughput.size(); ++i) {
    if (throughput[i].empty() || throughput[i].size() > layers + std::size_t{1})
      throw refuse(fmt::format("node {} has a table of {} entries for {} layers", i,
                               throughput[i].size(), layers));
    for (const double value : throughput[i])
      if (!(value >= 0) || !std::isfinite(value))
        throw refuse(fmt::format("node {} has a throughput of {}", i, value));
  }
  for (const auto& edge : edges) {
    const auto known = [&](std::uint32_t end) {
      return end == FlowEdge::kOutside || end < throughput.size();
    };
    if (!known(edge.from) || !known(edge.to) || edge.from == edge.to || !(edge.capacity >= 0))
      throw refuse(fmt::format("an edge from {} to {} of {}", edge.from, edge.to, edge.capacity));
  }
}

std::vector<FlowType> flow_types(const FlowInstance& instance) {
  std::map<std::vector<double>, std::size_t> known;
  std::vector<FlowType> types;
  for (std::uint32_t node = 0; node < instance.throughput.size(); ++node) {
    const auto [at, fresh] = known.emplace(instance.throughput[node], types.size());
    if (fresh) types.push_back({{}, &instance.throughput[node]});
    types[at->second].nodes.push_back(node);
  }
  return types;
}

std::uint32_t most_layers(const std::vector<double>& throughput, double flow) noexcept {
  for (auto k = throughput.size(); k-- > 1;)
    if (throughput[k] >= flow && throughput[k] > 0) return static_cast<std::uint32_t>(k);
  return 0;
}

double most_cover(const std::vector<double>& throughput, double flow) noexcept {
  double most = 0;
  for (std::size_t k = 1; k < throughput.size(); ++k)
    most = std::max(most, static_cast<double>(k) * std::min(throughput[k], flow));
  return most;
}

static double edge_bound(const FlowInstance& instance, std::vector<double>& per_node) {
  const auto n = instance.throughput.size();
  std::vector<double> in(n, 0);
  std::vector<double> out(n, 0);
  double source = 0;
  double sink = 0;
  for (const auto& edge : instance.edges) {
    if (edge.from != FlowEdge::kOutside) out[edge.from] += edge.capacity;
    if (edge.to != FlowEdge::kOutside) in[edge.to] += edge.capacity;
    if (edge.from == FlowEdge::kOutside) source += edge.capacity;
    if (edge.to == FlowEdge::kOutside) sink += edge.capacity;
  }
  for (std::size_t i = 0; i < n; ++i) per_node[i] = std::min(in[i], out[i]);
  return std::min(source, sink);
}

namespace {

// Each layer needs a set of nodes that carry the flow together, and a node that holds k layers
// gives a k-th of itself to each: with any price per node, what the layers' cheapest sets cost must
// not exceed what all nodes are worth. Prices are improved step by step; whichever excludes a flow
// proves it. Capacities are rounded up to a grid, which only weakens the bound.
class CoverBound {
 public:
  CoverBound(const FlowInstance& instance, const std::vector<FlowType>& types)
      : instance_(instance), types_(types) {}

  [[nodiscard]] bool excludes(double flow) const {
    if (types_.size() > kMostTypes) return false;
    std::vector<double> price;
    for (const auto& type : types_) price.push_back(most_cover(*type.throughput, flow));
    for (int round = 0; round < kRounds; ++round) {
      double worth = 0;
      for (std::size_t t = 0; t < types_.size(); ++t)
        worth += price[t] * static_cast<double>(types_[t].nodes.size());
      std::vector<double> used(types_.size(), 0);  // Nodes of each type, by a layer's cheapest set.
      const double cost = cheapest(flow, price, used);
      if (cost * instance_.layers > worth * (1 + 1e-9)) return true;
      // What the layers want more of than there is gets dearer.
      const double step = 0.5 / (1 + round);
      for (std::size_t t = 0; t < types_.size(); ++t) {
        const double asked =
            used[t] * instance_.layers / static_cast<double>(types_[t].nodes.size());
        price[t] *= std::exp(step * (std::min(asked, 2.0) - 1));
      }
    }
    return false;
  }

 private:
  static constexpr std::size_t kMostTypes = 8;
  static constexpr int kRounds = 60;
  static constexpr std::size_t kGrid = 1200;

  // A knapsack that must be filled: the cost, and the shares of nodes that the cheapest set takes.
  double cheapest(double flow, const std::vector<double>& price, std::vector<double>& used) const {
    struct Item {
      std::size_t type;
      std::size_t units;
      double share;
    };
    std::vector<Item> items;
    for (std::size_t t = 0; t < types_.size(); ++t) {
      const auto& table = *types_[t].throughput;
      for (std::size_t k = 1; k < table.size(); ++k)
        if (table[k] > 0)
          items.push_back({t,
                           static_cast<std::size_t>(std::min<double>(
                               kGrid, std::ceil(table[k] / flow * kGrid * (1 - 1e-12)))),
                           1.0 / static_cast<double>(k)});
    }
    std::vector<double> cost(kGrid + 1, std::numeric_limits<double>::infinity());
    std::vector<std::size_t> by(kGrid + 1, 0);
    cost[0] = 0;
    for (std::size_t need = 1; need <= kGrid; ++need)
      for (std::size_t i = 0; i < items.size(); ++i) {
        const auto rest = need > items[i].units ? need - items[i].units : 0;
        const double value = cost[rest] + price[items[i].type] * items[i].share;
        if (value < cost[need]) cost[need] = value, by[need] = i;
      }
    if (!std::isfinite(cost[kGrid])) return cost[kGrid];
    for (std::size_t need = kGrid; need > 0;) {
      const auto& item = items[by[need]];
      used[item.type] += item.share;
      need = need > item.units ? need - item.units : 0;
    }
    return cost[kGrid];
  }

  const FlowInstance& instance_;
  const std::vector<FlowType>& types_;
};

}  // namespace

double flow_upper_bound(const FlowInstance& instance) {
  instance.validate();
  const auto types = flow_types(instance);
  constexpr double kNoLimit = 1e300;
  std::vector<double> per_node(instance.throughput.size(), kNoLimit);
  double high = instance.unlimited_network ? kNoLimit : edge_bound(instance, per_node);
  double sum = 0;
  for (const auto& table : instance.throughput) sum += *std::ranges::max_element(table);
  high = std::min(high, sum);
  const auto enough = [&](double flow) {
    double covered = 0;
    for (const auto& type : types)
      for (const auto node : type.nodes)
        covered += most_cover(*type.throughput, std::min(flow, per_node[node]));
    return covered >= flow * instance.layers * (1 - 1e-12);
  };
  const CoverBound cover(instance, types);
  const auto possible = [&](double flow) { return enough(flow) && !cover.excludes(flow); };
  double low = 0;
  for (int i = 0; i < 200 && high - low > 1e-10 * high; ++i)
    (possible((low + high) / 2) ? low : high) = (low + high) / 2;
  return high;
}

double placement_flow(const FlowInstance& instance, const std::vector<NodeLayers>& nodes) {
  // Nodes that hold the same layers of a network that never binds act as one.
  std::vector<NodeLayers> held;
  std::vector<double> capacity;
  std::vector<std::size_t> vertex(nodes.size());
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::size_t> known;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    vertex[i] = held.size();
    if (instance.unlimited_network) {
      if (nodes[i].end <= nodes[i].first) continue;
      const auto [at, fresh] = known.emplace(std::pair(nodes[i].first, nodes[i].end), held.size());
      vertex[i] = at->second;
      if (!fresh) {
        capacity[vertex[i]] += instance.throughput[i][nodes[i].end - nodes[i].first];
        continue;
      }
    }
    held.push_back(nodes[i]);
    capacity.push_back(
        nodes[i].end > nodes[i].first ? instance.throughput[i][nodes[i].end - nodes[i].first] : 0);
  }
  const auto n = held.size();
  MaxFlow flow(2 * n + 2);
  const auto source = 2 * n;
  const auto sink = source + 1;
  double all = 0;
  for (std::size_t i = 0; i < n; ++i) {
    if (capacity[i] > 0) flow.add_edge(2 * i, 2 * i + 1, capacity[i]);
    all += capacity[i];
  }
  const auto join = [&](std::size_t from, std::size_t to, double limit) {
    const bool enters = from == source ? held[to].first == 0
                        : to == sink
                            ? held[from].end == instance.layers
                            : held[to].first <= held[from].end && held[from].end < held[to].end;
    if (!enters) return;
    if ((from != source && capacity[from] <= 0) || (to != sink && capacity[to] <= 0)) return;
    flow.add_edge(from == source ? source : 2 * from + 1, to == sink ? sink : 2 * to, limit);
  };
  if (instance.unlimited_network) {
    for (std::size_t i = 0; i < n; ++i) {
      join(source, i, all);
      join(i, sink, all);
      for (std::size_t j = 0; j < n; ++j)
        if (i != j) join(i, j, all);
    }
  } else {
    for (const auto& edge : instance.edges)
      join(edge.from == FlowEdge::kOutside ? source : edge.from,
           edge.to == FlowEdge::kOutside ? sink : edge.to, edge.capacity);
  }
  return flow.run(source, sink);
}

std::string FlowPlacement::certificate() const {
  if (optimal)
    return fmt::format("optimal: meets the bound or outlasted all others, {} evaluations",
                       evaluations);
  if (!(throughput > 0))
    return fmt::format("no placement found in {} evaluations; none carries more than {:.6g}",
                       evaluations, upper_bound);
  return fmt::format("within {:.1f}% of optimal: {} evaluations, upper bound {:.6g}",
                     100 * (upper_bound / throughput - 1), evaluations, upper_bound);
}

}  // namespace causeway
