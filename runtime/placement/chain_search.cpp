#include "runtime/placement/chain_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <tuple>
#include <unordered_map>

namespace causeway {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::size_t kNoLabel = std::numeric_limits<std::size_t>::max();
constexpr std::size_t kEveryLabel = std::numeric_limits<std::size_t>::max();
constexpr std::size_t kMaxLabels = 400'000;

// How many devices of each type are taken, as a number: 0 is none.
class UsedSets {
 public:
  struct Set {
    std::vector<std::uint16_t> counts;
    std::uint32_t total = 0;
    double flops_per_s = 0;            // Of all devices that are still free.
    double best_seconds_per_flop = 0;  // Of the fastest free device; infinite if there is none.
    double free_bytes = 0;
  };

  explicit UsedSets(const DeviceTypes& devices) : devices_(devices) {
    intern(std::vector<std::uint16_t>(devices.types.size(), 0));
  }

  [[nodiscard]] const Set& operator[](std::size_t id) const { return sets_[id]; }

  [[nodiscard]] bool has_free(std::size_t id, std::size_t type) const {
    return sets_[id].counts[type] < devices_.types[type].devices.size();
  }

  [[nodiscard]] std::size_t take(std::size_t id, std::size_t type) {
    const auto slot = id * devices_.types.size() + type;
    if (next_[slot] == 0) {
      auto counts = sets_[id].counts;
      ++counts[type];
      const auto next = intern(std::move(counts));  // Grows next_: no reference into it is held.
      next_[slot] = next;
    }
    return next_[slot];
  }

 private:
  std::size_t intern(std::vector<std::uint16_t> counts) {
    const auto [at, fresh] = ids_.emplace(counts, sets_.size());
    if (!fresh) return at->second;
    Set set{std::move(counts), 0, 0, kInfinity, 0};
    for (std::size_t t = 0; t < set.counts.size(); ++t) {
      const auto& type = devices_.types[t];
      const auto left = type.devices.size() - set.counts[t];
      set.total += set.counts[t];
      set.flops_per_s += static_cast<double>(left) / type.seconds_per_flop;
      set.free_bytes += static_cast<double>(left) * static_cast<double>(type.available_bytes);
      if (left > 0)
        set.best_seconds_per_flop = std::min(set.best_seconds_per_flop, type.seconds_per_flop);
    }
    sets_.push_back(std::move(set));
    next_.resize(sets_.size() * devices_.types.size(), 0);  // 0 is the empty set: nobody's next.
    return sets_.size() - 1;
  }

  const DeviceTypes& devices_;
  std::map<std::vector<std::uint16_t>, std::size_t> ids_;
  std::vector<Set> sets_;
  std::vector<std::size_t> next_;
};

// The stages from one on to the last.
struct Label {
  double max_s = 0;
  double sum_s = 0;
  double seconds = 0;  // Of the front stage.
  std::size_t behind = kNoLabel;
  std::size_t used = 0;
  std::size_t type = 0;
  std::uint32_t first_layer = 0;
  std::uint32_t end_layer = 0;
};

// Which labels at a layer a narrow search prefers.
enum class Prefer { fastest, roomiest };

struct Pass {
  Prefer prefer;
  std::size_t width;  // Labels kept per layer.
};

class Search {
 public:
  Search(const ChainProblem& problem, Pass pass, double incumbent_s, std::uint64_t max_steps)
      : problem_(problem),
        devices_(*problem.devices),
        pass_(pass),
        best_s_(incumbent_s),
        steps_left_(max_steps),
        used_(*problem.devices),
        frontier_(problem.layers() + std::size_t{1}) {
    for (const auto& type : devices_.types) fastest_ = std::min(fastest_, type.seconds_per_flop);
  }

  // False if it ran out of steps or labels.
  bool run() {
    Label root;
    root.first_layer = problem_.layers();
    labels_.push_back(root);
    extend(0);
    for (std::uint32_t layer = problem_.layers(); layer-- > 1;) {
      for (const auto label : select(layer))
        if (!extend(label)) return false;
    }
    return true;
  }

  [[nodiscard]] std::uint64_t states() const noexcept { return labels_.size(); }
  [[nodiscard]] double root_bound() const { return bound(labels_.front()); }
  [[nodiscard]] bool found() const noexcept { return best_ != kNoLabel; }

  [[nodiscard]] ChainResult result() const {
    ChainResult result;
    result.step_seconds = best_s_;
    for (auto at = best_; labels_[at].behind != kNoLabel; at = labels_[at].behind) {
      const Label& label = labels_[at];
      result.stages.push_back({label.type, label.first_layer, label.end_layer, label.seconds});
    }
    return result;
  }

 private:
  [[nodiscard]] double step(const Label& label) const {
    return label.sum_s + (problem_.micro_batches - 1.0) * label.max_s;
  }

  // No completion of `label` takes less: the layers left run on free devices, at best all of them
  // on the fastest (sum), at best spread over all of them (max). Infinite if they cannot fit.
  [[nodiscard]] double bound(const Label& label) const {
    if (label.first_layer == 0) return step(label);
    const auto& used = used_[label.used];
    const double work = problem_.work[label.first_layer];
    const auto in_flight = std::min(problem_.micro_batches, used.total + 1);
    if (!std::isfinite(used.best_seconds_per_flop)) return kInfinity;
    // total_bytes() rounds four regions up once, as every real stage does at least.
    const auto bytes = problem_.sizes->total_bytes(0, label.first_layer, in_flight);
    if (static_cast<double>(bytes) > used.free_bytes) return kInfinity;
    return label.sum_s + work * used.best_seconds_per_flop +
           (problem_.micro_batches - 1.0) * std::max(label.max_s, work / used.flops_per_s);
  }

  // Puts every possible stage in front of `label`. False if the search ran out of steps.
  bool extend(std::size_t label) {
    for (std::size_t type = 0; type < devices_.types.size(); ++type)
      if (!extend_with(label, type)) return false;
    return true;
  }

  bool extend_with(std::size_t behind, std::size_t type) {
    const Label back = labels_[behind];
    const bool last = back.behind == kNoLabel;
    if (!used_.has_free(back.used, type)) return true;
    double send_s = 0;
    if (!last) {
      const auto& link = devices_.link(type, back.type);
      if (!link) return true;
      const auto bytes = static_cast<double>(problem_.send_bytes[back.first_layer - 1]);
      send_s = 2 * (link->latency_s + bytes / link->bandwidth_bytes_per_s);
    }
    const auto in_flight = std::min(problem_.micro_batches, used_[back.used].total + 1);
    const auto stages = used_[back.used].total + 1;
    if (problem_.stages != 0 && stages > problem_.stages) return true;
    Label front = back;
    front.behind = behind;
    front.type = type;
    front.end_layer = back.first_layer;
    front.used = used_.take(back.used, type);
    for (std::uint32_t first = back.first_layer; first-- > 0;) {
      if (steps_left_ == 0 || labels_.size() + live_ >= kMaxLabels) return false;
      --steps_left_;
      if (problem_.sizes->total_bytes(first, front.end_layer, in_flight) >
          devices_.types[type].available_bytes)
        break;  // More layers need more.
      front.first_layer = first;
      front.seconds = (problem_.work[front.end_layer] - problem_.work[first]) *
                          devices_.types[type].seconds_per_flop +
                      send_s;
      front.max_s = std::max(back.max_s, front.seconds);
      front.sum_s = back.sum_s + front.seconds;
      // Rises with every further layer, so no longer stage can win either.
      if (step(front) + problem_.work[first] * fastest_ >= best_s_) break;
      if (problem_.stages != 0 && first < problem_.stages - stages) break;
      if (problem_.stages == stages && first > 0) continue;
      offer(front);
    }
    return true;
  }

  void offer(const Label& label) {
    if (label.first_layer == 0) {
      const auto stages = used_[label.used].total;
      if ((problem_.stages != 0 && stages != problem_.stages) || !(step(label) < best_s_)) return;
      best_s_ = step(label);
      best_ = labels_.size();
      labels_.push_back(label);
      return;
    }
    if (!(bound(label) < best_s_)) return;
    const auto state = label.used * devices_.types.size() + label.type;
    auto& pareto = frontier_[label.first_layer][state];  // max_s rises, sum_s falls.
    auto at = std::ranges::lower_bound(pareto, label.max_s, {}, &Label::max_s);
    if (at != pareto.begin() && std::prev(at)->sum_s <= label.sum_s) return;
    if (at != pareto.end() && at->max_s == label.max_s && at->sum_s <= label.sum_s) return;
    const auto end = std::find_if(at, pareto.end(),
                                  [&](const Label& other) { return other.sum_s < label.sum_s; });
    live_ -= static_cast<std::size_t>(end - at);
    at = pareto.erase(at, end);
    pareto.insert(at, label);
    ++live_;
  }

  // Moves the labels at `layer` that are gone on with to labels_, best first.
  std::vector<std::size_t> select(std::uint32_t layer) {
    std::vector<std::pair<double, const Label*>> scored;
    for (const auto& [state, pareto] : frontier_[layer]) {
      live_ -= pareto.size();
      for (const auto& label : pareto)
        if (bound(label) < best_s_) scored.emplace_back(score(label), &label);
    }
    // By content, not by the hash table's order: equal input gives an equal plan.
    std::ranges::sort(scored, {}, [](const auto& entry) {
      const Label& label = *entry.second;
      return std::tuple(entry.first, label.max_s, label.sum_s, label.used, label.type,
                        label.end_layer, label.behind);
    });
    if (scored.size() > pass_.width) scored.resize(pass_.width);
    std::vector<std::size_t> chosen;
    for (const auto& entry : scored) {
      chosen.push_back(labels_.size());
      labels_.push_back(*entry.second);
    }
    frontier_[layer].clear();
    return chosen;
  }

  [[nodiscard]] double score(const Label& label) const {
    return pass_.prefer == Prefer::roomiest ? -used_[label.used].free_bytes : bound(label);
  }

  const ChainProblem& problem_;
  const DeviceTypes& devices_;
  Pass pass_;
  double best_s_;
  std::uint64_t steps_left_;
  double fastest_ = kInfinity;  // Seconds per operation of the fastest device there is.
  UsedSets used_;
  std::vector<Label> labels_;
  std::vector<std::unordered_map<std::size_t, std::vector<Label>>> frontier_;  // By state.
  std::size_t live_ = 0;  // Labels in frontier_.
  std::size_t best_ = kNoLabel;
};

}  // namespace

// Narrow searches find good plans quickly; each later one drops whatever cannot beat the best so
// far, which loses nothing.
ChainResult search_chain(const ChainProblem& problem, std::uint64_t max_steps) {
  constexpr Pass kPasses[] = {{Prefer::fastest, 8},
                              {Prefer::roomiest, 64},
                              {Prefer::fastest, 256},
                              {Prefer::fastest, kEveryLabel}};
  ChainResult best;
  double incumbent_s = kInfinity;
  for (const auto& pass : kPasses) {
    Search search(problem, pass, incumbent_s, max_steps);
    const bool complete = search.run();
    if (search.found()) {
      best = search.result();
      incumbent_s = best.step_seconds;
    }
    best.lower_bound_seconds = search.root_bound();
    best.states = search.states();
    best.exact = complete && pass.width == kEveryLabel;
  }
  return best;
}

}  // namespace causeway
