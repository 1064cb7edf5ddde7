#include "runtime/placement/chain_search.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>
#include <unordered_map>

#include "runtime/placement/chain_bounds.h"

namespace causeway {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::size_t kNoLabel = std::numeric_limits<std::size_t>::max();
constexpr std::size_t kEveryLabel = std::numeric_limits<std::size_t>::max();
constexpr std::size_t kMaxLabels = 1'500'000;
// Bounds and values are sums in different orders: what differs by less is equal.
constexpr double kRounding = 1e-12;

// The three figures that an objective is made of, and what the devices used cost.
struct Figures {
  double longest_s = 0;
  double sum_s = 0;
  double energy = 0;  // Above idle, of one micro-batch.
  double idle_watts = 0;
  double price_per_s = 0;
};

double objective_of(const ChainProblem& problem, const Figures& at) {
  const double m = problem.micro_batches;
  const double step_s = at.sum_s + (m - 1) * at.longest_s;
  switch (problem.objective) {
    case Objective::throughput:
      return at.longest_s;
    case Objective::latency:
      return at.sum_s;
    case Objective::cost:
      return at.price_per_s * step_s;
    case Objective::energy:
      return m * at.energy + at.idle_watts * step_s;
    case Objective::time:
      break;
  }
  return step_s;
}

double rate_of(const std::vector<double>& per_type, std::size_t type) {
  return per_type.empty() ? 0 : per_type[type];
}

// How many devices of each type are taken, as a number: 0 is none.
class UsedSets {
 public:
  struct Set {
    std::vector<std::uint16_t> counts;
    double idle_watts = 0;                // Of all that are taken,
    double price_per_s = 0;               // too.
    double speed = 0;                     // Work per second of all devices that are still free.
    double least_idle_watts = kInfinity;  // Of one more device.
    double least_price_per_s = kInfinity;
  };

  UsedSets(const ChainProblem& problem, const ChainBounds& bounds)
      : problem_(problem), bounds_(bounds) {
    intern(std::vector<std::uint16_t>(problem.counts.size(), 0));
  }

  [[nodiscard]] const Set& operator[](std::size_t id) const { return sets_[id]; }

  [[nodiscard]] bool has_room(std::size_t id, const ChainOption& option) const {
    for (std::size_t type = 0; type < option.uses.size(); ++type)
      if (sets_[id].counts[type] + option.uses[type] > problem_.counts[type]) return false;
    return true;
  }

  [[nodiscard]] std::size_t take(std::size_t id, std::size_t option) {
    const auto slot = id * problem_.options.size() + option;
    if (next_[slot] == 0) {
      auto counts = sets_[id].counts;
      for (std::size_t type = 0; type < counts.size(); ++type)
        counts[type] =
            static_cast<std::uint16_t>(counts[type] + problem_.options[option].uses[type]);
      const auto next = intern(std::move(counts));  // Grows next_: no reference into it is held.
      next_[slot] = next;
    }
    return next_[slot];
  }

  // Layers that the free devices can cover, each of a type at most cover[type].
  [[nodiscard]] double covered(std::size_t id, const std::vector<double>& cover) const {
    double sum = 0;
    for (std::size_t type = 0; type < cover.size(); ++type)
      sum += cover[type] * (problem_.counts[type] - sets_[id].counts[type]);
    return sum;
  }

 private:
  std::size_t intern(std::vector<std::uint16_t> counts) {
    const auto [at, fresh] = ids_.emplace(counts, sets_.size());
    if (!fresh) return at->second;
    Set set;
    set.counts = std::move(counts);
    for (std::size_t type = 0; type < set.counts.size(); ++type) {
      const auto left = problem_.counts[type] - set.counts[type];
      set.idle_watts += set.counts[type] * rate_of(problem_.idle_watts, type);
      set.price_per_s += set.counts[type] * rate_of(problem_.price_per_s, type);
      if (left == 0) continue;
      set.speed += left * bounds_.speed(type);
      set.least_idle_watts = std::min(set.least_idle_watts, rate_of(problem_.idle_watts, type));
      set.least_price_per_s = std::min(set.least_price_per_s, rate_of(problem_.price_per_s, type));
    }
    sets_.push_back(std::move(set));
    next_.resize(sets_.size() * problem_.options.size(), 0);  // 0 is the empty set: nobody's next.
    return sets_.size() - 1;
  }

  const ChainProblem& problem_;
  const ChainBounds& bounds_;
  std::map<std::vector<std::uint16_t>, std::size_t> ids_;
  std::vector<Set> sets_;
  std::vector<std::size_t> next_;
};

// The stages from one on to the last.
struct Label {
  double longest_s = 0;
  double sum_s = 0;
  double energy = 0;
  double seconds = 0;  // Of the front stage, with its send;
  double busy_s = 0;   // without it.
  std::size_t behind = kNoLabel;
  std::size_t used = 0;
  std::size_t option = 0;
  std::uint32_t stages = 0;
  std::uint32_t first_layer = 0;
  std::uint32_t end_layer = 0;
};

// Which labels at a layer a narrow search prefers.
enum class Prefer { best, roomiest };

struct Pass {
  Prefer prefer;
  std::size_t width;  // Labels kept per layer.
};

class Search {
 public:
  Search(const ChainProblem& problem, const ChainBounds& bounds, double least_longest_s, Pass pass,
         double incumbent, std::uint64_t max_steps)
      : problem_(problem),
        bounds_(bounds),
        least_longest_s_(least_longest_s),
        pass_(pass),
        best_value_(incumbent),
        steps_left_(max_steps),
        used_(problem, bounds),
        frontier_(problem.layers + std::size_t{1}) {
    narrow();
  }

  // False if it ran out of steps or labels.
  bool run() {
    labels_.push_back(root());
    if (!extend(0)) return false;
    for (std::uint32_t layer = problem_.layers; layer-- > 1;) {
      for (const auto label : select(layer))
        if (!extend(label)) return false;
    }
    return true;
  }

  [[nodiscard]] std::uint64_t states() const noexcept { return labels_.size(); }
  // Unconditional only before run(): what is found then rules out all that is no better.
  [[nodiscard]] double root_bound() const { return bound(root()); }
  [[nodiscard]] bool found() const noexcept { return best_ != kNoLabel; }

  [[nodiscard]] ChainResult result() const {
    ChainResult result;
    result.value = best_value_;
    for (auto at = best_; labels_[at].behind != kNoLabel; at = labels_[at].behind) {
      const Label& label = labels_[at];
      result.stages.push_back(
          {label.option, label.first_layer, label.end_layer, label.seconds, label.busy_s});
    }
    result.step_seconds =
        labels_[best_].sum_s + (problem_.micro_batches - 1.0) * labels_[best_].longest_s;
    return result;
  }

 private:
  [[nodiscard]] Label root() const {
    Label root;
    root.first_layer = problem_.layers;
    return root;
  }

  // True if whatever completes b completes a to no worse a value.
  [[nodiscard]] bool dominates(const Label& a, const Label& b) const {
    return (problem_.objective == Objective::latency || a.longest_s <= b.longest_s) &&
           (problem_.objective == Objective::throughput || a.sum_s <= b.sum_s) &&
           (problem_.objective != Objective::energy || a.energy <= b.energy);
  }

  [[nodiscard]] double value(const Label& label) const {
    const auto& used = used_[label.used];
    return objective_of(
        problem_, {label.longest_s, label.sum_s, label.energy, used.idle_watts, used.price_per_s});
  }

  // No completion of `label` has less: the layers left run on free devices, at best all of them on
  // the fastest (sum), at best spread over all of them (longest). Infinite if they cannot fit.
  [[nodiscard]] double bound(const Label& label) const {
    if (label.first_layer == 0) return value(label);
    const auto& used = used_[label.used];
    if (used_.covered(label.used, cover_) < label.first_layer * (1 - kRounding)) return kInfinity;
    const double work = bounds_.work_before(label.first_layer);
    const auto at_speed = [work](double speed) { return work > 0 ? work / speed : 0; };
    const double rest_s =
        std::max(bounds_.sum_before(label.first_layer), bounds_.sum_on(used.counts, work));
    if (!std::isfinite(rest_s)) return kInfinity;
    const double longest_s = std::max(
        {label.longest_s, at_speed(used.speed), label.behind == kNoLabel ? least_longest_s_ : 0});
    return objective_of(
        problem_,
        {longest_s, label.sum_s + rest_s, label.energy + work * bounds_.energy_per_work(),
         used.idle_watts + used.least_idle_watts, used.price_per_s + used.least_price_per_s});
  }

  [[nodiscard]] bool beaten(double least) const { return !(least < best_value_ * (1 - kRounding)); }

  // What a device can still cover, now that a stage longer than this would lose.
  void narrow() {
    double longest_s = kInfinity;
    const double rest_s = bounds_.sum_before(problem_.layers);
    if (problem_.objective == Objective::throughput) longest_s = best_value_;
    if (problem_.objective == Objective::latency) longest_s = best_value_;
    if (problem_.objective == Objective::time)
      longest_s = problem_.micro_batches > 1
                      ? (best_value_ - rest_s) / (problem_.micro_batches - 1.0)
                      : best_value_;
    cover_ = bounds_.cover(longest_s);
  }

  // Puts every possible stage in front of `label`. False if the search ran out of steps.
  bool extend(std::size_t label) {
    for (std::size_t option = 0; option < problem_.options.size(); ++option)
      if (!extend_with(label, option)) return false;
    return true;
  }

  bool extend_with(std::size_t behind, std::size_t option) {
    const Label back = labels_[behind];
    const bool last = back.behind == kNoLabel;
    const auto most = problem_.stages != 0 ? problem_.stages : problem_.most_stages;
    if (most != 0 && back.stages >= most) return true;
    if (!used_.has_room(back.used, problem_.options[option])) return true;
    const double send_s = last ? 0 : problem_.send_seconds(option, back.option, back.first_layer);
    if (!std::isfinite(send_s)) return true;
    Label front = back;
    front.behind = behind;
    front.option = option;
    front.stages = back.stages + 1;
    front.end_layer = back.first_layer;
    front.used = used_.take(back.used, option);
    for (std::uint32_t first = back.first_layer; first-- > 0;) {
      if (problem_.stages != 0 && first < problem_.stages - front.stages) break;
      if (problem_.stages == front.stages && first > 0) continue;
      if (steps_left_ == 0 || labels_.size() + live_ >= kMaxLabels) return false;
      --steps_left_;
      front.busy_s = problem_.seconds(option, first, front.end_layer, back.stages);
      if (!std::isfinite(front.busy_s)) continue;
      front.seconds = front.busy_s + send_s;
      front.first_layer = first;
      front.longest_s = std::max(back.longest_s, front.seconds);
      front.sum_s = back.sum_s + front.seconds;
      front.energy = back.energy + front.busy_s * problem_.options[option].busy_watts;
      offer(front);
    }
    return true;
  }

  void offer(const Label& label) {
    if (label.first_layer == 0) {
      if ((problem_.stages != 0 && label.stages != problem_.stages) || beaten(value(label))) return;
      best_value_ = value(label);
      best_ = labels_.size();
      labels_.push_back(label);
      narrow();
      return;
    }
    if (beaten(bound(label))) return;
    const auto state =
        (label.used * problem_.options.size() + label.option) * (problem_.layers + 1) +
        label.stages;
    auto& pareto = frontier_[label.first_layer][state];
    for (const auto& other : pareto)
      if (dominates(other, label)) return;
    live_ -= std::erase_if(pareto, [&](const Label& other) { return dominates(label, other); });
    pareto.push_back(label);
    ++live_;
  }

  // Moves the labels at `layer` that are gone on with to labels_, best first.
  std::vector<std::size_t> select(std::uint32_t layer) {
    std::vector<std::pair<double, const Label*>> scored;
    for (const auto& [state, pareto] : frontier_[layer]) {
      live_ -= pareto.size();
      for (const auto& label : pareto)
        if (const double least = bound(label); !beaten(least))
          scored.emplace_back(
              pass_.prefer == Prefer::roomiest ? -used_.covered(label.used, cover_) : least,
              &label);
    }
    // By content, not by the hash table's order: equal input gives an equal plan.
    std::ranges::sort(scored, {}, [](const auto& entry) {
      const Label& label = *entry.second;
      return std::tuple(entry.first, label.longest_s, label.sum_s, label.used, label.option,
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

  const ChainProblem& problem_;
  const ChainBounds& bounds_;
  double least_longest_s_;
  Pass pass_;
  double best_value_;
  std::uint64_t steps_left_;
  std::vector<double> cover_;
  UsedSets used_;
  std::vector<Label> labels_;
  std::vector<std::unordered_map<std::size_t, std::vector<Label>>> frontier_;  // By state.
  std::size_t live_ = 0;  // Labels in frontier_.
  std::size_t best_ = kNoLabel;
};

}  // namespace

double chain_value(const ChainProblem& problem, const std::vector<ChainStage>& stages) {
  Figures figures;
  for (const auto& stage : stages) {
    const auto& option = problem.options[stage.option];
    figures.longest_s = std::max(figures.longest_s, stage.seconds);
    figures.sum_s += stage.seconds;
    figures.energy += stage.busy_s * option.busy_watts;
    for (std::size_t type = 0; type < option.uses.size(); ++type) {
      figures.idle_watts += option.uses[type] * rate_of(problem.idle_watts, type);
      figures.price_per_s += option.uses[type] * rate_of(problem.price_per_s, type);
    }
  }
  return objective_of(problem, figures);
}

// Narrow searches find good plans quickly; each later one drops whatever cannot beat the best so
// far, which loses nothing.
ChainResult search_chain(const ChainProblem& problem, std::uint64_t max_steps) {
  constexpr Pass kPasses[] = {{Prefer::best, 8},
                              {Prefer::roomiest, 64},
                              {Prefer::best, 256},
                              {Prefer::best, 4096},
                              {Prefer::best, kEveryLabel}};
  ChainResult best;
  double incumbent = kInfinity;
  const ChainBounds bounds(problem);
  const double least_longest_s = bounds.least_longest();
  double lower_bound =
      Search(problem, bounds, least_longest_s, kPasses[0], kInfinity, 0).root_bound();
  if (problem.objective == Objective::time && std::isfinite(lower_bound))
    lower_bound = std::max(lower_bound, bounds.least_step());
  for (const auto& pass : kPasses) {
    Search search(problem, bounds, least_longest_s, pass, incumbent, max_steps);
    const bool complete = search.run();
    if (search.found()) {
      best = search.result();
      incumbent = best.value;
    }
    best.states = search.states();
    best.exact = complete && pass.width == kEveryLabel;
    // A bound that the plan meets proves it.
    if (!best.stages.empty() && best.value <= lower_bound * (1 + kRounding)) best.exact = true;
    if (best.exact) break;
  }
  best.lower_bound = best.exact && !best.stages.empty() ? best.value : lower_bound;
  return best;
}

}  // namespace causeway
