// Placements along a network that binds: chains of single nodes or pairs over edges that carry a
// target flow, one lane after the other from the nodes that are left. A pair on one stage takes in
// over more edges than a node could: it is how a lane crosses a slow network.
#include <algorithm>
#include <numeric>
#include <set>

#include "runtime/placement/flow_bound.h"

namespace causeway {

namespace {

constexpr std::size_t kMostNodes = 256;
constexpr std::size_t kMostPairs = 64;  // Nodes, so that pairs are looked at.
constexpr std::size_t kWidth = 64;      // Paths that a step of the search keeps.
constexpr std::size_t kTargets = 24;    // Flows of a first lane that are tried.
constexpr std::size_t kMostLanes = 4;
constexpr double kNoLimit = 1e300;

// Nodes that hold the same layers.
struct Stage {
  std::vector<std::uint32_t> nodes;
  std::uint32_t layers = 0;
  double worth = 0;  // What its nodes could cover elsewhere.
};

struct Path {
  std::vector<std::uint32_t> stages;  // Indices of stages.
  std::vector<bool> taken;            // Nodes.
  std::uint32_t covered = 0;
  double spent = 0;
};

class Lanes {
 public:
  explicit Lanes(const FlowInstance& instance)
      : instance_(instance),
        n_(instance.throughput.size()),
        between_(n_ * n_, instance.unlimited_network ? kNoLimit : 0),
        in_(n_, instance.unlimited_network ? kNoLimit : 0),
        out_(in_) {
    for (const auto& edge : instance.edges) {
      if (edge.from == FlowEdge::kOutside)
        in_[edge.to] = edge.capacity;
      else if (edge.to == FlowEdge::kOutside)
        out_[edge.from] = edge.capacity;
      else
        between_[edge.from * n_ + edge.to] = edge.capacity;
    }
  }

  // Of nodes that are free: single ones, and pairs that hold more layers than each of both alone.
  void set_target(double flow, const std::vector<bool>& busy) {
    flow_ = flow;
    stages_.clear();
    for (std::uint32_t i = 0; i < n_; ++i)
      if (!busy[i]) add_stage({i});
    if (n_ <= kMostPairs && !instance_.unlimited_network)
      for (std::uint32_t i = 0; i < n_; ++i)
        for (std::uint32_t j = i + 1; j < n_; ++j)
          if (!busy[i] && !busy[j]) add_stage({i, j});
    joined_.assign(stages_.size() * stages_.size(), false);
    for (std::size_t a = 0; a < stages_.size(); ++a)
      for (std::size_t b = 0; b < stages_.size(); ++b)
        joined_[a * stages_.size() + b] = carries(stages_[a], stages_[b]) >= flow;
  }

  // A chain over the stages, cheap ones first; nullopt: none found.
  [[nodiscard]] std::optional<Path> find(const std::vector<bool>& busy) const {
    std::vector<Path> beam(1);
    beam[0].taken = busy;
    std::optional<Path> best;
    for (std::size_t step = 0; step < n_ && !beam.empty(); ++step) {
      const auto next = extend(beam, best);
      std::vector<Path> longer;
      std::set<std::pair<std::uint32_t, std::vector<bool>>> seen;
      for (const auto& candidate : next) {
        if (longer.size() == kWidth) break;
        auto path = follow(beam[candidate.parent], candidate.stage);
        if (seen.emplace(candidate.stage, path.taken).second) longer.push_back(std::move(path));
      }
      beam = std::move(longer);
    }
    return best;
  }

  // Ends rise by at least a layer from stage to stage, so where the path holds more than there is,
  // stages overlap.
  void lay_out(const Path& path, std::vector<NodeLayers>& nodes) const {
    std::uint32_t end = 0;
    for (std::size_t i = 0; i < path.stages.size(); ++i) {
      const auto& stage = stages_[path.stages[i]];
      const auto behind = static_cast<std::uint32_t>(path.stages.size() - i - 1);
      end = std::min(end + stage.layers, instance_.layers - behind);
      const auto first = end > stage.layers ? end - stage.layers : 0;
      for (const auto node : stage.nodes) nodes[node] = {first, first + stage.layers};
      end = first + stage.layers;
    }
  }

 private:
  struct Candidate {
    std::size_t parent;
    std::uint32_t stage;
    double score;
  };

  void add_stage(std::vector<std::uint32_t> nodes) {
    Stage stage{std::move(nodes)};
    for (auto k = instance_.layers; k >= 1 && stage.layers == 0; --k) {
      double sum = 0;
      bool all = true;
      for (const auto node : stage.nodes) {
        const auto& table = instance_.throughput[node];
        all = all && k < table.size() && table[k] > 0;
        sum += all ? table[k] : 0;
      }
      if (all && sum >= flow_) stage.layers = k;
    }
    if (stage.layers == 0) return;
    for (const auto node : stage.nodes)
      stage.worth += most_cover(instance_.throughput[node], flow_);
    stages_.push_back(std::move(stage));
  }

  [[nodiscard]] double throughput(const Stage& stage, std::uint32_t node) const {
    return instance_.throughput[node][stage.layers];
  }

  [[nodiscard]] double carries(const Stage& from, const Stage& to) const {
    double sum = 0;
    for (const auto i : from.nodes)
      for (const auto j : to.nodes)
        sum += std::min({between_[i * n_ + j], throughput(from, i), throughput(to, j)});
    return sum;
  }

  [[nodiscard]] double at_end(const std::vector<double>& edges, const Stage& stage) const {
    double sum = 0;
    for (const auto node : stage.nodes) sum += std::min(edges[node], throughput(stage, node));
    return sum;
  }

  [[nodiscard]] Path follow(const Path& path, std::uint32_t stage) const {
    Path next = path;
    next.stages.push_back(stage);
    for (const auto node : stages_[stage].nodes) next.taken[node] = true;
    next.covered += stages_[stage].layers;
    next.spent += stages_[stage].worth;
    return next;
  }

  [[nodiscard]] std::vector<Candidate> extend(const std::vector<Path>& beam,
                                              std::optional<Path>& best) const {
    std::vector<Candidate> next;
    for (std::size_t p = 0; p < beam.size(); ++p)
      for (std::uint32_t s = 0; s < stages_.size(); ++s) {
        const auto& path = beam[p];
        if (std::ranges::any_of(stages_[s].nodes, [&](auto node) { return path.taken[node]; }))
          continue;
        if (path.stages.empty() ? at_end(in_, stages_[s]) < flow_
                                : !joined_[path.stages.back() * stages_.size() + s])
          continue;
        const auto covered = std::min(instance_.layers, path.covered + stages_[s].layers);
        const double spent = path.spent + stages_[s].worth;
        if (best && spent >= best->spent) continue;
        if (covered == instance_.layers && at_end(out_, stages_[s]) >= flow_)
          best = follow(path, s);
        else
          next.push_back({p, s, spent / covered});
      }
    std::ranges::stable_sort(next, {}, &Candidate::score);
    return next;
  }

  const FlowInstance& instance_;
  std::size_t n_;
  double flow_ = 0;
  std::vector<double> between_;
  std::vector<double> in_;
  std::vector<double> out_;
  std::vector<Stage> stages_;
  std::vector<bool> joined_;
};

// Flows at which some node holds a layer more or less, largest first, thinned out.
std::vector<double> targets_of(const FlowInstance& instance, double upper_bound) {
  std::set<double, std::greater<>> values;
  for (const auto& table : instance.throughput)
    for (const double value : table)
      if (value > 0 && value <= upper_bound) values.insert(value);
  for (std::size_t i = 1; i < kTargets; ++i)  // Pairs carry sums.
    values.insert(upper_bound * static_cast<double>(i) / kTargets);
  std::vector<double> all(values.begin(), values.end());
  std::vector<double> some;
  const auto count = std::min(kTargets, all.size());
  for (std::size_t i = 0; i < count; ++i) some.push_back(all[i * all.size() / count]);
  return some;
}

}  // namespace

std::vector<std::vector<NodeLayers>> place_lanes(const FlowInstance& instance, double upper_bound) {
  std::vector<std::vector<NodeLayers>> placements;
  if (instance.throughput.size() > kMostNodes) return placements;
  Lanes lanes(instance);
  const auto targets = targets_of(instance, upper_bound);
  for (std::size_t first = 0; first < targets.size(); ++first) {
    std::vector<NodeLayers> nodes(instance.throughput.size());
    std::vector<bool> busy(instance.throughput.size(), false);
    std::size_t found = 0;
    for (std::size_t i = first; i < targets.size() && found < kMostLanes; ++i) {
      lanes.set_target(targets[i], busy);
      const auto path = lanes.find(busy);
      if (!path) {
        if (found == 0) break;
        continue;
      }
      lanes.lay_out(*path, nodes);
      busy = path->taken;
      ++found;
    }
    if (found > 0) placements.push_back(std::move(nodes));
  }
  return placements;
}

}  // namespace causeway
