// Placements that are blind to the network: chains of groups by dynamic programming over counts of
// types, and pipelines of classes for nodes too many for it.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "runtime/placement/flow_bound.h"

namespace causeway {

namespace {

constexpr std::size_t kMostStates = 600'000;
constexpr std::size_t kMostSteps = 60'000'000;  // Of one target: states times groups.

// Nodes that share a stage: so many of each type.
struct Group {
  std::vector<std::uint32_t> takes;
  std::size_t offset = 0;  // In states.
  std::uint32_t layers = 0;
  double throughput = 0;
};

class GroupChains {
 public:
  GroupChains(const FlowInstance& instance, std::vector<FlowType> types)
      : instance_(instance), types_(std::move(types)) {
    std::size_t states = 1;
    for (const auto& type : types_) {
      radix_.push_back(states);
      if (states > kMostStates) return;
      states *= type.nodes.size() + 1;
    }
    if (states > kMostStates) return;
    states_ = states;
    for (std::uint32_t size = 1; size <= 4; ++size) {
      const auto before = shapes_.size();
      std::vector<std::uint32_t> takes(types_.size(), 0);
      add_shapes(takes, 0, size);
      if (shapes_.size() * states_ > kMostSteps) {
        shapes_.resize(before);
        break;
      }
    }
  }

  [[nodiscard]] bool possible() const noexcept { return states_ > 0 && !shapes_.empty(); }

  // A chain whose every group carries `flow` or more; empty if there is none.
  [[nodiscard]] std::vector<Group> chain(double flow) const {
    const auto groups = groups_at(flow);
    std::vector<std::uint16_t> covered(states_, 0);
    std::vector<std::int16_t> last(states_, -1);
    std::vector<std::uint32_t> counts(types_.size(), 0);
    for (std::size_t state = 0; state < states_; ++state) {
      if (state > 0) count_up(counts);
      for (std::size_t g = 0; g < groups.size(); ++g) {
        bool room = true;
        for (std::size_t t = 0; t < counts.size() && room; ++t)
          room = groups[g].takes[t] <= counts[t];
        if (!room) continue;
        const auto layers =
            static_cast<std::uint16_t>(covered[state - groups[g].offset] + groups[g].layers);
        if (layers <= covered[state]) continue;
        covered[state] = layers;
        last[state] = static_cast<std::int16_t>(g);
      }
      if (covered[state] >= instance_.layers) return trace(groups, last, state);
    }
    return {};
  }

  // Groups behind each other; whoever is left joins the weakest group that it can help.
  [[nodiscard]] std::vector<NodeLayers> lay_out(const std::vector<Group>& chain) const {
    std::vector<NodeLayers> nodes(instance_.throughput.size());
    std::vector<std::size_t> next(types_.size(), 0);
    std::vector<NodeLayers> stages;
    std::vector<double> carries;
    std::uint32_t at = 0;
    for (const auto& group : chain) {
      const auto first = std::min(at, instance_.layers - group.layers);
      stages.push_back({first, first + group.layers});
      carries.push_back(group.throughput);
      at = first + group.layers;
      for (std::size_t t = 0; t < types_.size(); ++t)
        for (std::uint32_t i = 0; i < group.takes[t]; ++i)
          nodes[types_[t].nodes[next[t]++]] = stages.back();
    }
    for (std::size_t t = 0; t < types_.size(); ++t)
      for (; next[t] < types_[t].nodes.size(); ++next[t]) {
        std::size_t weakest = stages.size();
        for (std::size_t s = 0; s < stages.size(); ++s) {
          const auto k = stages[s].end - stages[s].first;
          if (k >= types_[t].throughput->size() || (*types_[t].throughput)[k] <= 0) continue;
          if (weakest == stages.size() || carries[s] < carries[weakest]) weakest = s;
        }
        if (weakest == stages.size()) break;
        nodes[types_[t].nodes[next[t]]] = stages[weakest];
        carries[weakest] += (*types_[t].throughput)[stages[weakest].end - stages[weakest].first];
      }
    return nodes;
  }

 private:
  void add_shapes(std::vector<std::uint32_t>& takes, std::size_t type, std::uint32_t left) {
    if (type + 1 == types_.size()) {
      if (left > types_[type].nodes.size()) return;
      takes[type] = left;
      shapes_.push_back(takes);
      takes[type] = 0;
      return;
    }
    for (std::uint32_t n = 0; n <= left && n <= types_[type].nodes.size(); ++n) {
      takes[type] = n;
      add_shapes(takes, type + 1, left - n);
    }
    takes[type] = 0;
  }

  void count_up(std::vector<std::uint32_t>& counts) const {
    for (std::size_t t = 0; t < counts.size(); ++t) {
      if (++counts[t] <= types_[t].nodes.size()) return;
      counts[t] = 0;
    }
  }

  [[nodiscard]] double carries(const std::vector<std::uint32_t>& takes, std::uint32_t k) const {
    double sum = 0;
    for (std::size_t t = 0; t < takes.size(); ++t)
      if (takes[t] > 0) {
        // All of a group hold the same layers.
        if (k >= types_[t].throughput->size() || (*types_[t].throughput)[k] <= 0) return 0;
        sum += takes[t] * (*types_[t].throughput)[k];
      }
    return sum;
  }

  [[nodiscard]] std::vector<Group> groups_at(double flow) const {
    std::vector<Group> groups;
    for (const auto& takes : shapes_) {
      Group group{takes};
      for (auto k = instance_.layers; k >= 1 && group.layers == 0; --k)
        if (const double sum = carries(takes, k); sum > 0 && sum >= flow) {
          group.layers = k;
          group.throughput = sum;
        }
      if (group.layers == 0) continue;
      for (std::size_t t = 0; t < takes.size(); ++t) group.offset += takes[t] * radix_[t];
      // A group that is part of it and covers as much is the better one.
      const bool wasteful = std::ranges::any_of(groups, [&](const Group& other) {
        return other.layers >= group.layers &&
               std::ranges::equal(other.takes, takes, std::ranges::less_equal());
      });
      if (!wasteful) groups.push_back(std::move(group));
    }
    return groups;
  }

  [[nodiscard]] static std::vector<Group> trace(const std::vector<Group>& groups,
                                                const std::vector<std::int16_t>& last,
                                                std::size_t state) {
    std::vector<Group> chain;
    while (last[state] >= 0) {
      chain.push_back(groups[static_cast<std::size_t>(last[state])]);
      state -= chain.back().offset;
    }
    return chain;
  }

  const FlowInstance& instance_;
  std::vector<FlowType> types_;
  std::vector<std::size_t> radix_;
  std::vector<std::vector<std::uint32_t>> shapes_;  // By size, smaller ones first.
  std::size_t states_ = 0;
};

double weakest(const std::vector<Group>& chain) {
  return std::ranges::min_element(chain, {}, &Group::throughput)->throughput;
}

// Of one class: every node holds `k` layers, stages in turn get the strongest node that is left.
struct ClassFill {
  std::vector<NodeLayers> nodes;  // Of the whole instance; others hold none.
  double carries = 0;
};

ClassFill fill_class(const FlowInstance& instance, std::vector<std::uint32_t> nodes,
                     std::uint32_t k) {
  ClassFill fill;
  fill.nodes.resize(instance.throughput.size());
  const auto stages = (instance.layers + k - 1) / k;
  const auto of = [&](std::uint32_t node) {
    const auto& table = instance.throughput[node];
    return k < table.size() ? table[k] : 0;
  };
  std::ranges::stable_sort(nodes, std::greater(), of);
  std::vector<double> carries(stages, 0);
  for (const auto node : nodes) {
    if (of(node) <= 0) break;
    const auto at = static_cast<std::uint32_t>(std::ranges::min_element(carries) - carries.begin());
    const auto first = std::min(at * k, instance.layers - k);
    fill.nodes[node] = {first, first + k};
    carries[at] += of(node);
  }
  fill.carries = *std::ranges::min_element(carries);
  return fill;
}

}  // namespace

std::vector<NodeLayers> place_groups(const FlowInstance& instance, double upper_bound) {
  const GroupChains chains(instance, flow_types(instance));
  if (!chains.possible()) return {};
  std::vector<Group> best;
  double low = 0;
  double high = upper_bound;
  // First as much as the bound allows; then halving what is left between found and impossible.
  for (int i = 0; i < 28 && high - low > 1e-9 * high; ++i) {
    const double target = i == 0 ? high * (1 - 1e-9) : (low + high) / 2;
    auto chain = chains.chain(target);
    if (chain.empty()) {
      high = target;
      continue;
    }
    low = std::max(low, weakest(chain));
    best = std::move(chain);
  }
  return best.empty() ? std::vector<NodeLayers>{} : chains.lay_out(best);
}

std::vector<NodeLayers> place_classes(const FlowInstance& instance) {
  const auto types = flow_types(instance);
  std::size_t longest = 1;
  for (const auto& type : types) longest = std::max(longest, type.throughput->size());
  // A type's share of a pipeline of stages of k layers.
  const auto share = [&](const FlowType& type, std::uint32_t k) {
    const auto stages = (instance.layers + k - 1) / k;
    return k < type.throughput->size() ? (*type.throughput)[k] / stages : 0;
  };
  std::vector<std::uint32_t> lengths;  // That classes may have, fewer each round.
  for (std::uint32_t k = 1; k < longest; ++k) lengths.push_back(k);
  std::vector<NodeLayers> best(instance.throughput.size());
  double best_carries = 0;
  while (!lengths.empty()) {
    std::vector<std::vector<std::uint32_t>> members(longest);
    for (const auto& type : types) {
      const auto k = *std::ranges::max_element(
          lengths, {}, [&](std::uint32_t each) { return share(type, each); });
      if (share(type, k) > 0)
        members[k].insert(members[k].end(), type.nodes.begin(), type.nodes.end());
    }
    std::vector<NodeLayers> nodes(instance.throughput.size());
    double carries = 0;
    // Without the class that carries least for its nodes, the others may do better.
    std::uint32_t worst = lengths.front();
    double worst_rate = std::numeric_limits<double>::infinity();
    for (const auto k : lengths) {
      double rate = 0;
      if (!members[k].empty()) {
        const auto fill = fill_class(instance, members[k], k);
        carries += fill.carries;
        rate = fill.carries / static_cast<double>(members[k].size());
        for (const auto node : members[k]) nodes[node] = fill.nodes[node];
      }
      if (rate < worst_rate) worst_rate = rate, worst = k;
    }
    if (carries > best_carries) best_carries = carries, best = nodes;
    std::erase(lengths, worst);
  }
  return best;
}

}  // namespace causeway
