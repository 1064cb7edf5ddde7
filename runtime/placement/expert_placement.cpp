#include "runtime/placement/expert_placement.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "causeway/cluster.h"

namespace causeway {

namespace {

constexpr double kRounding = 1e-12;

void check(const ExpertInstance& instance) {
  const auto sound = [](double value) { return value >= 0 && std::isfinite(value); };
  if (instance.loads.empty() || instance.devices.empty() || instance.expert_bytes == 0)
    throw Error(Errc::invalid_argument, "expert placement: no experts, no bytes or no devices");
  for (const double load : instance.loads)
    if (!sound(load))
      throw Error(Errc::invalid_argument, fmt::format("expert placement: a load of {}", load));
  std::uint64_t most = 0;
  std::uint64_t slots = 0;
  for (const auto& device : instance.devices) {
    if (!(device.load_per_s > 0) || !sound(device.load_per_s))
      throw Error(Errc::invalid_argument,
                  fmt::format("expert placement: a speed of {}", device.load_per_s));
    const auto holds = std::min<std::uint64_t>(device.available_bytes / instance.expert_bytes,
                                               instance.loads.size());
    most = std::max(most, holds);
    slots += holds;
  }
  if (slots >= instance.loads.size()) return;
  const auto missing = instance.loads.size() - slots;
  throw Error(Errc::out_of_memory,
              fmt::format("{} experts of {} each, but the devices hold {}{}", instance.loads.size(),
                          format_bytes(instance.expert_bytes), slots,
                          most == 0 ? std::string("; use devices that hold one")
                                    : fmt::format("; {} more like the largest would do",
                                                  (missing + most - 1) / most)));
}

class ExpertSearch {
 public:
  ExpertSearch(const ExpertInstance& instance, std::uint64_t most_branches)
      : instance_(instance), branches_left_(most_branches), order_(instance.loads.size()) {
    std::iota(order_.begin(), order_.end(), 0u);
    std::ranges::stable_sort(order_, std::greater(),
                             [&](std::uint32_t e) { return instance.loads[e]; });
    for (const auto& device : instance.devices)
      slots_.push_back(device.available_bytes / instance.expert_bytes);
    best_.lower_bound = lower_bound();
  }

  ExpertPlacement run() {
    longest_first();
    improve();
    if (!done()) {
      std::vector<std::uint32_t> at(instance_.loads.size(), 0);
      auto left = slots_;
      std::vector<double> load(slots_.size(), 0);
      best_.optimal = branch(0, at, left, load);
    }
    best_.optimal = best_.optimal || done();
    if (best_.optimal) best_.lower_bound = best_.seconds;
    return best_;
  }

 private:
  [[nodiscard]] bool done() const { return best_.seconds <= best_.lower_bound * (1 + kRounding); }

  [[nodiscard]] double speed(std::size_t device) const {
    return instance_.devices[device].load_per_s;
  }

  // All loads over all speeds; and the k heaviest experts on the k fastest slots.
  [[nodiscard]] double lower_bound() const {
    double sum = 0;
    double speeds = 0;
    double fastest = 0;
    for (const double load : instance_.loads) sum += load;
    for (std::size_t d = 0; d < slots_.size(); ++d)
      if (slots_[d] > 0) speeds += speed(d), fastest = std::max(fastest, speed(d));
    return std::max(sum / speeds, instance_.loads[order_.front()] / fastest);
  }

  void keep(const std::vector<std::uint32_t>& at, double seconds) {
    if (!best_.device_of.empty() && seconds >= best_.seconds) return;
    best_.device_of = at;
    best_.seconds = seconds;
  }

  [[nodiscard]] double longest(const std::vector<double>& load) const {
    double seconds = 0;
    for (std::size_t d = 0; d < load.size(); ++d) seconds = std::max(seconds, load[d] / speed(d));
    return seconds;
  }

  void longest_first() {
    std::vector<std::uint32_t> at(instance_.loads.size(), 0);
    auto left = slots_;
    std::vector<double> load(slots_.size(), 0);
    for (const auto e : order_) {
      std::size_t to = left.size();
      for (std::size_t d = 0; d < left.size(); ++d)
        if (left[d] > 0 && (to == left.size() || (load[d] + instance_.loads[e]) / speed(d) <
                                                     (load[to] + instance_.loads[e]) / speed(to)))
          to = d;
      at[e] = static_cast<std::uint32_t>(to);
      load[to] += instance_.loads[e];
      --left[to];
    }
    keep(at, longest(load));
  }

  // Moves and swaps between the slowest device and the others, while they help.
  void improve() {
    auto at = best_.device_of;
    std::vector<double> load(slots_.size(), 0);
    auto left = slots_;
    for (std::size_t e = 0; e < at.size(); ++e) load[at[e]] += instance_.loads[e], --left[at[e]];
    for (bool better = true; better && !done();) {
      better = false;
      std::size_t slow = 0;
      for (std::size_t d = 0; d < load.size(); ++d)
        if (load[d] / speed(d) > load[slow] / speed(slow)) slow = d;
      const double now = load[slow] / speed(slow);
      for (std::size_t e = 0; e < at.size() && !better; ++e) {
        if (at[e] != slow) continue;
        for (std::size_t d = 0; d < load.size() && !better; ++d) {
          if (d == slow || left[d] == 0) continue;
          if ((load[d] + instance_.loads[e]) / speed(d) >= now * (1 - kRounding)) continue;
          if (!(instance_.loads[e] > 0)) continue;
          load[slow] -= instance_.loads[e], load[d] += instance_.loads[e];
          ++left[slow], --left[d];
          at[e] = static_cast<std::uint32_t>(d);
          better = true;
        }
        for (std::size_t f = 0; f < at.size() && !better; ++f) {
          const auto d = at[f];
          const double change = instance_.loads[e] - instance_.loads[f];
          if (d == slow || !(change > 0)) continue;
          if ((load[d] + change) / speed(d) >= now * (1 - kRounding)) continue;
          load[slow] -= change, load[d] += change;
          std::swap(at[e], at[f]);
          better = true;
        }
      }
    }
    keep(at, longest(load));
  }

  // False if it ran out of branches.
  bool branch(std::size_t next, std::vector<std::uint32_t>& at, std::vector<std::uint64_t>& left,
              std::vector<double>& load) {
    if (next == order_.size()) {
      keep(at, longest(load));
      return true;
    }
    if (branches_left_ == 0) return false;
    --branches_left_;
    const auto e = order_[next];
    for (std::size_t d = 0; d < left.size(); ++d) {
      if (left[d] == 0) continue;
      if ((load[d] + instance_.loads[e]) / speed(d) >= best_.seconds * (1 - kRounding)) continue;
      bool twin = false;  // The same as a device that was tried.
      for (std::size_t other = 0; other < d && !twin; ++other)
        twin = left[other] == left[d] && load[other] == load[d] && speed(other) == speed(d);
      if (twin) continue;
      at[e] = static_cast<std::uint32_t>(d);
      load[d] += instance_.loads[e];
      --left[d];
      const bool whole = branch(next + 1, at, left, load);
      load[d] -= instance_.loads[e];
      ++left[d];
      if (!whole) return false;
    }
    return true;
  }

  const ExpertInstance& instance_;
  std::uint64_t branches_left_;
  std::vector<std::uint32_t> order_;  // Heaviest first.
  std::vector<std::uint64_t> slots_;
  ExpertPlacement best_;
};

}  // namespace

std::string ExpertPlacement::certificate() const {
  if (optimal) return "optimal: meets the bound or outlasted all others";
  return fmt::format("within {:.1f}% of optimal: lower bound {:.6g} s",
                     100 * (seconds / lower_bound - 1), lower_bound);
}

ExpertPlacement place_experts(const ExpertInstance& instance, std::uint64_t most_branches) {
  check(instance);
  return ExpertSearch(instance, most_branches).run();
}

}  // namespace causeway
