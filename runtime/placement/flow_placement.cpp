// place_flow: constructions first, then local search, then branch and bound where it can finish; a
// maximum flow judges every placement.
#include "runtime/placement/flow_placement.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <utility>

#include "runtime/placement/flow_bound.h"

namespace causeway {

namespace {

constexpr double kRounding = 1e-9;
constexpr std::size_t kMostStarts = 4;  // Of the local search.
constexpr std::size_t kMostKept = 64;
constexpr std::size_t kMostSearched = 128;  // Nodes: beyond, a flow takes too long to try many.

class Placer {
 public:
  Placer(const FlowInstance& instance, const FlowSearchOptions& options)
      : instance_(instance), options_(options), random_(options.seed) {
    best_.nodes.resize(instance.throughput.size());
    best_.upper_bound = flow_upper_bound(instance);
  }

  FlowPlacement run() {
    if (!(best_.upper_bound > 0)) {
      best_.optimal = true;
      return best_;
    }
    consider(place_groups(instance_, best_.upper_bound));
    if (!done()) consider(place_classes(instance_));
    if (!done() && !instance_.unlimited_network)
      for (const auto& nodes : place_lanes(instance_, best_.upper_bound)) consider(nodes);
    if (!done()) improve();
    if (!done()) branch();
    best_.optimal = best_.optimal || done();
    if (best_.optimal) best_.upper_bound = best_.throughput;
    return best_;
  }

 private:
  [[nodiscard]] bool done() const {
    return best_.throughput >= best_.upper_bound * (1 - kRounding);
  }

  double evaluate(const std::vector<NodeLayers>& nodes) {
    ++best_.evaluations;
    return placement_flow(instance_, nodes);
  }

  void consider(const std::vector<NodeLayers>& nodes) {
    if (nodes.empty()) return;
    const double carries = evaluate(nodes);
    if (carries > 0 && starts_.size() < kMostKept) starts_.emplace_back(carries, nodes);
    if (carries > best_.throughput) {
      best_.throughput = carries;
      best_.nodes = nodes;
    }
  }

  // A change of one or two nodes that leaves ends meeting: to where others start or end, in another
  // node's place, a layer more or less.
  void change(std::vector<NodeLayers>& nodes) {
    const auto pick = [&](std::size_t count) {
      return static_cast<std::size_t>(random_() % count);
    };
    const auto i = pick(nodes.size());
    const auto j = pick(nodes.size());
    switch (pick(4)) {
      case 0:
        std::swap(nodes[i], nodes[j]);
        break;
      case 1:
        nodes[i] = nodes[j];
        break;
      case 2: {  // From another's end on.
        const auto k = static_cast<std::uint32_t>(pick(instance_.throughput[i].size()));
        const auto first = pick(8) == 0 ? 0 : nodes[j].end;
        nodes[i] = {std::min(first, instance_.layers - k),
                    std::min(first, instance_.layers - k) + k};
        break;
      }
      default: {
        auto& at = nodes[i];
        const auto way = pick(4);
        if (way == 0 && at.first > 0) --at.first;
        if (way == 1 && at.first < at.end) ++at.first;
        if (way == 2 && at.end < instance_.layers) ++at.end;
        if (way == 3 && at.end > at.first) --at.end;
      }
    }
    for (const auto n : {i, j})
      if (nodes[n].end - nodes[n].first >= instance_.throughput[n].size()) nodes[n] = {0, 0};
  }

  // Simulated annealing from each of the best starts in turn.
  void improve() {
    if (instance_.throughput.size() > kMostSearched || !(best_.throughput > 0)) return;
    std::ranges::stable_sort(starts_, std::greater(), &Start::first);
    if (starts_.size() > kMostStarts) starts_.resize(kMostStarts);
    const auto each = options_.most_evaluations / starts_.size();
    for (const auto& [carries, nodes] : starts_)
      if (!done()) anneal(nodes, carries, each);
  }

  void anneal(std::vector<NodeLayers> now, double carries, std::uint64_t steps) {
    constexpr double kHeat = 0.05;  // Of the flow, at first.
    for (std::uint64_t i = 0; i < steps && !done(); ++i) {
      auto tried = now;
      change(tried);
      if (random_() % 3 == 0) change(tried);
      if (tried == now) continue;
      const double value = evaluate(tried);
      const double left = 1 - static_cast<double>(i) / static_cast<double>(steps);
      const double heat = kHeat * best_.throughput * left * left;
      const double chance = static_cast<double>(random_() >> 11) * 0x1p-53;
      // Sideways too: plateaus are wide.
      if (value >= carries || std::exp((value - carries) / heat) > chance) {
        carries = value;
        now = std::move(tried);
        if (carries > best_.throughput) {
          best_.throughput = carries;
          best_.nodes = now;
        }
      }
    }
  }

  // Every placement, node by node, that could still beat the best.
  void branch() {
    double leaves = 1;
    for (const auto& table : instance_.throughput) {
      double choices = 1;
      for (std::size_t k = 1; k < table.size(); ++k)
        if (table[k] > 0) choices += static_cast<double>(instance_.layers - k + 1);
      leaves *= choices;
    }
    constexpr double kMostConsidered = 1e9;  // Before anything is cut off.
    if (leaves > kMostConsidered) return;
    std::vector<NodeLayers> nodes(instance_.throughput.size());
    std::vector<double> covered(instance_.layers, 0);
    leaves_left_ = options_.most_leaves;
    if (branch_from(0, nodes, covered)) best_.optimal = true;
  }

  // False if it ran out of leaves.
  bool branch_from(std::size_t node, std::vector<NodeLayers>& nodes, std::vector<double>& covered) {
    if (!can_win(node, nodes, covered)) return true;
    if (node == nodes.size()) {
      if (leaves_left_ == 0) return false;
      --leaves_left_;
      consider(nodes);
      return true;
    }
    const auto& table = instance_.throughput[node];
    for (std::size_t k = table.size(); k-- > 0;) {
      if (k > 0 && table[k] <= 0) continue;
      for (std::uint32_t first = 0; first + k <= instance_.layers; ++first) {
        nodes[node] = {first, first + static_cast<std::uint32_t>(k)};
        for (auto layer = first; layer < nodes[node].end; ++layer) covered[layer] += table[k];
        const bool whole = branch_from(node + 1, nodes, covered);
        for (auto layer = first; layer < nodes[node].end; ++layer) covered[layer] -= table[k];
        if (!whole) return false;
        if (k == 0) break;
      }
    }
    nodes[node] = {};
    return true;
  }

  // More than the best may still flow: through every layer, and over all of them together.
  [[nodiscard]] bool can_win(std::size_t node, const std::vector<NodeLayers>& nodes,
                             const std::vector<double>& covered) const {
    const double flow = best_.throughput * (1 + kRounding);
    double single = 0;
    double sum = 0;
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      const auto& table = instance_.throughput[i];
      if (i < node) {
        const auto k = nodes[i].end - nodes[i].first;
        if (k > 0) sum += k * std::min(table[k], flow);
      } else {
        sum += most_cover(table, flow);
        double most = 0;
        for (std::size_t k = 1; k < table.size(); ++k) most = std::max(most, table[k]);
        single += most;
      }
    }
    if (sum < flow * instance_.layers * (1 - kRounding)) return false;
    return std::ranges::all_of(
        covered, [&](double here) { return here + single >= flow * (1 - kRounding); });
  }

  using Start = std::pair<double, std::vector<NodeLayers>>;

  const FlowInstance& instance_;
  FlowSearchOptions options_;
  std::mt19937_64 random_;
  FlowPlacement best_;
  std::vector<Start> starts_;
  std::uint64_t leaves_left_ = 0;
};

}  // namespace

FlowPlacement place_flow(const FlowInstance& instance, const FlowSearchOptions& options) {
  instance.validate();
  return Placer(instance, options).run();
}

}  // namespace causeway
