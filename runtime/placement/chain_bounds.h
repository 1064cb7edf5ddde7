// What no split of a chain can beat, from tables that need not be monotone.
//
// Shape:   work is shared out over layers so that time >= work / speed holds for every stage, and a
//          device covers at most so many layers within a given longest stage. Both turn into
//          figures per device of a type, so that they add up over whatever is still free.
// Source:  the covering bound is the aggregate capacity of placement as flow: each of L layers must
//          be passed, and a device that passes k of them takes at least its time for k.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/placement/chain_search.h"

namespace causeway {

class ChainBounds {
 public:
  explicit ChainBounds(const ChainProblem& problem);

  [[nodiscard]] double work_before(std::uint32_t layer) const noexcept { return before_[layer]; }
  // Work per second of one device of a type, at most.
  [[nodiscard]] double speed(std::size_t type) const noexcept { return speed_[type]; }
  // `work` takes at least so long in sum on the devices that `used` leaves: the fastest first, each
  // as much as it holds at most. Infinite if they do not hold it.
  [[nodiscard]] double sum_on(const std::vector<std::uint16_t>& used, double work) const;
  // Least energy above idle per unit of work.
  [[nodiscard]] double energy_per_work() const noexcept { return energy_per_work_; }
  // Layers [0, layer) take at least this long in sum, whatever devices there are.
  [[nodiscard]] double sum_before(std::uint32_t layer) const noexcept { return sum_[layer]; }

  // Layers that one device of a type can cover when no stage may take longer than `longest_s`.
  [[nodiscard]] std::vector<double> cover(double longest_s) const;
  // The shortest longest stage with which all devices together can cover all layers.
  [[nodiscard]] double least_longest() const;
  // No step, sum + (m - 1) longest, is shorter: a short longest stage leaves little work to the
  // fast devices, a long one costs itself. O(options * layers^2).
  [[nodiscard]] double least_step() const;

 private:
  [[nodiscard]] double sum_within(double longest_s) const;

  // Of an option, for each length the least time of a stage so long, wherever it is.
  struct OptionTimes {
    std::vector<double> least;
    double devices = 0;
  };

  const ChainProblem& problem_;
  std::vector<OptionTimes> times_;
  std::vector<std::vector<double>> table_;  // Seconds by option, then first * (layers + 1) + end.
  std::vector<double> before_;
  std::vector<double> sum_;
  std::vector<double> speed_;
  std::vector<double> stage_speed_;         // Of any option that a device of the type is part of.
  std::vector<double> most_work_;           // That a device of the type holds a share of.
  std::vector<std::size_t> fastest_first_;  // Types.
  double energy_per_work_ = 0;
};

}  // namespace causeway
