#include "runtime/placement/chain_bounds.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

namespace causeway {

namespace {

constexpr double kImpossible = ChainProblem::kImpossible;

double devices_of(const ChainOption& option) {
  return std::accumulate(option.uses.begin(), option.uses.end(), 0.0);
}

// Time without its send, where fewest micro-batches are in flight: no stage takes less.
double least_seconds(const ChainProblem& problem, std::size_t option, std::uint32_t first,
                     std::uint32_t end) {
  return problem.seconds(option, first, end, 0);
}

}  // namespace

ChainBounds::ChainBounds(const ChainProblem& problem) : problem_(problem) {
  const auto layers = problem.layers;
  std::vector<double> work = problem.work;
  const bool given = work.size() == layers;
  if (!given) work.assign(layers, kImpossible);
  table_.resize(problem.options.size());
  const auto at = [&](std::uint32_t first, std::uint32_t end) {
    return std::size_t{first} * (layers + 1) + end;
  };
  for (std::size_t o = 0; o < problem.options.size(); ++o) {
    auto& times = times_.emplace_back();
    times.devices = devices_of(problem.options[o]);
    times.least.assign(layers + 1, kImpossible);
    table_[o].assign(std::size_t{layers + 1} * (layers + 1), kImpossible);
    for (std::uint32_t first = 0; first < layers; ++first)
      for (std::uint32_t end = first + 1; end <= layers; ++end) {
        const double seconds = least_seconds(problem, o, first, end);
        table_[o][at(first, end)] = seconds;
        times.least[end - first] = std::min(times.least[end - first], seconds);
        if (given || !std::isfinite(seconds)) continue;
        for (auto layer = first; layer < end; ++layer)
          work[layer] = std::min(work[layer], seconds / (end - first));
      }
  }
  before_.assign(layers + 1, 0);
  for (std::uint32_t i = 0; i < layers; ++i)
    before_[i + 1] = before_[i] + (std::isfinite(work[i]) ? work[i] : 0);

  speed_.assign(problem.counts.size(), 0);
  stage_speed_ = most_work_ = speed_;
  sum_.assign(layers + 1, kImpossible);
  sum_[0] = 0;
  energy_per_work_ = kImpossible;
  for (std::size_t o = 0; o < problem.options.size(); ++o) {
    double speed = 0;
    double most = 0;
    for (std::uint32_t first = 0; first < layers; ++first)
      for (std::uint32_t end = first + 1; end <= layers; ++end)
        if (const double s = table_[o][at(first, end)]; std::isfinite(s))
          if (const double done = before_[end] - before_[first]; done > 0) {
            speed = std::max(speed, s > 0 ? done / s : kImpossible);
            most = std::max(most, done);
          }
    for (std::size_t type = 0; type < speed_.size(); ++type)
      if (problem.options[o].uses[type] > 0) {
        speed_[type] = std::max(speed_[type], speed / times_[o].devices);
        stage_speed_[type] = std::max(stage_speed_[type], speed);
        most_work_[type] = std::max(most_work_[type], most / times_[o].devices);
      }
    if (speed > 0)
      energy_per_work_ = std::min(energy_per_work_, problem.options[o].busy_watts / speed);
  }
  if (!std::isfinite(energy_per_work_)) energy_per_work_ = 0;
  fastest_first_.resize(problem.counts.size());
  std::iota(fastest_first_.begin(), fastest_first_.end(), std::size_t{0});
  std::ranges::stable_sort(fastest_first_, std::greater(),
                           [this](std::size_t type) { return stage_speed_[type]; });
  for (std::uint32_t end = 1; end <= layers; ++end)
    for (std::uint32_t first = 0; first < end; ++first)
      for (std::size_t o = 0; o < problem.options.size(); ++o)
        sum_[end] = std::min(sum_[end], sum_[first] + table_[o][at(first, end)]);
}

double ChainBounds::sum_on(const std::vector<std::uint16_t>& used, double work) const {
  double seconds = 0;
  double left = work * (1 - 1e-12);
  for (const auto type : fastest_first_) {
    if (!(left > 0)) break;
    const double held = std::min(left, most_work_[type] * (problem_.counts[type] - used[type]));
    if (held > 0) seconds += held / stage_speed_[type];
    left -= held;
  }
  return left > 0 ? kImpossible : seconds;
}

std::vector<double> ChainBounds::cover(double longest_s) const {
  std::vector<double> cover(problem_.counts.size(), 0);
  for (std::size_t o = 0; o < times_.size(); ++o) {
    std::uint32_t most = 0;
    for (std::uint32_t k = 1; k <= problem_.layers; ++k)
      if (times_[o].least[k] <= longest_s && std::isfinite(times_[o].least[k])) most = k;
    for (std::size_t type = 0; type < cover.size(); ++type)
      if (problem_.options[o].uses[type] > 0)
        cover[type] = std::max(cover[type], most / times_[o].devices);
  }
  return cover;
}

// The work of all layers on all devices, in stages of at most `longest_s`.
double ChainBounds::sum_within(double longest_s) const {
  std::vector<double> most(problem_.counts.size(), 0);
  for (std::size_t o = 0; o < problem_.options.size(); ++o) {
    double held = 0;
    for (std::uint32_t first = 0; first < problem_.layers; ++first)
      for (std::uint32_t end = first + 1; end <= problem_.layers; ++end)
        if (table_[o][std::size_t{first} * (problem_.layers + 1) + end] <= longest_s)
          held = std::max(held, before_[end] - before_[first]);
    for (std::size_t type = 0; type < most.size(); ++type)
      if (problem_.options[o].uses[type] > 0)
        most[type] = std::max(most[type], held / times_[o].devices);
  }
  double seconds = 0;
  double left = before_.back() * (1 - 1e-12);
  for (const auto type : fastest_first_) {
    if (!(left > 0)) break;
    const double held = std::min(left, most[type] * problem_.counts[type]);
    if (held > 0) seconds += held / stage_speed_[type];
    left -= held;
  }
  return left > 0 ? kImpossible : seconds;
}

double ChainBounds::least_step() const {
  constexpr int kBands = 128;  // Of the longest stage: within one the bound takes its best ends.
  const double low = least_longest();
  double high = low;
  for (const auto& times : times_)
    for (const double seconds : times.least)
      if (std::isfinite(seconds)) high = std::max(high, seconds);
  for (const auto& seconds : table_)
    for (const double each : seconds)
      if (std::isfinite(each)) high = std::max(high, each);
  if (!(low > 0) || !std::isfinite(low)) return 0;
  const double ratio = std::pow(high / low, 1.0 / kBands);
  double least = kImpossible;
  for (int band = 0; band <= kBands; ++band) {
    const double from = low * std::pow(ratio, band);
    const double to = band == kBands ? kImpossible : from * ratio;
    least = std::min(least, std::max(sum_within(std::min(to, high)), from) +
                                (problem_.micro_batches - 1.0) * from);
  }
  return least * (1 - 1e-12);
}

double ChainBounds::least_longest() const {
  std::vector<double> candidates;
  for (const auto& times : times_)
    for (const double seconds : times.least)
      if (std::isfinite(seconds)) candidates.push_back(seconds);
  std::ranges::sort(candidates);
  const auto covers = [&](double longest_s) {
    const auto per_device = cover(longest_s);
    double sum = 0;
    for (std::size_t type = 0; type < per_device.size(); ++type)
      sum += per_device[type] * problem_.counts[type];
    return sum >= problem_.layers * (1 - 1e-12);
  };
  const auto at =
      std::ranges::partition_point(candidates, [&](double seconds) { return !covers(seconds); });
  return at == candidates.end() ? kImpossible : *at;
}

}  // namespace causeway
