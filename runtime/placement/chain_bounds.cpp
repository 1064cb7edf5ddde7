#include "runtime/placement/chain_bounds.h"

#include <algorithm>
#include <cmath>
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
  std::vector<std::vector<double>> table(problem.options.size());  // By first * (L + 1) + end.
  const auto at = [&](std::uint32_t first, std::uint32_t end) {
    return std::size_t{first} * (layers + 1) + end;
  };
  for (std::size_t o = 0; o < problem.options.size(); ++o) {
    auto& times = times_.emplace_back();
    times.devices = devices_of(problem.options[o]);
    times.least.assign(layers + 1, kImpossible);
    table[o].assign(std::size_t{layers + 1} * (layers + 1), kImpossible);
    for (std::uint32_t first = 0; first < layers; ++first)
      for (std::uint32_t end = first + 1; end <= layers; ++end) {
        const double seconds = least_seconds(problem, o, first, end);
        table[o][at(first, end)] = seconds;
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
  sum_.assign(layers + 1, kImpossible);
  sum_[0] = 0;
  energy_per_work_ = kImpossible;
  for (std::size_t o = 0; o < problem.options.size(); ++o) {
    double speed = 0;
    for (std::uint32_t first = 0; first < layers; ++first)
      for (std::uint32_t end = first + 1; end <= layers; ++end)
        if (const double s = table[o][at(first, end)]; std::isfinite(s))
          if (const double done = before_[end] - before_[first]; done > 0)
            speed = std::max(speed, s > 0 ? done / s : kImpossible);
    for (std::size_t type = 0; type < speed_.size(); ++type)
      if (problem.options[o].uses[type] > 0)
        speed_[type] = std::max(speed_[type], speed / times_[o].devices);
    if (speed > 0)
      energy_per_work_ = std::min(energy_per_work_, problem.options[o].busy_watts / speed);
  }
  if (!std::isfinite(energy_per_work_)) energy_per_work_ = 0;
  for (std::uint32_t end = 1; end <= layers; ++end)
    for (std::uint32_t first = 0; first < end; ++first)
      for (std::size_t o = 0; o < problem.options.size(); ++o)
        sum_[end] = std::min(sum_[end], sum_[first] + table[o][at(first, end)]);
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
