// Which device holds which experts of a mixture, so that the slowest device is done soonest.
//
// Shape:   every expert lies on one device; a device holds as many as fit, and takes the sum of
// their
//          loads over its speed.
// Units:   load in any unit per step (tokens, say), speed in that unit per second; bytes; seconds.
// Errors:  invalid_argument for no experts, no devices or figures that make no sense; out_of_memory
//          with needed and available bytes, and how many more devices would do.
// Cost:    bounded by a count of branches: equal input gives an equal placement.
// Threads: no state.
// Source:  scheduling on uniform machines with slots: longest first, then moves and swaps, then
// branch
//          and bound; Graham, "Bounds on multiprocessing timing anomalies", 1969.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "causeway/error.h"

namespace causeway {

struct ExpertDevice {
  double load_per_s;
  std::uint64_t available_bytes;
};

struct ExpertInstance {
  std::vector<double> loads;  // By expert.
  std::uint64_t expert_bytes = 0;
  std::vector<ExpertDevice> devices;
};

struct ExpertPlacement {
  std::vector<std::uint32_t> device_of;  // By expert.
  double seconds = 0;
  double lower_bound = 0;
  bool optimal = false;
  [[nodiscard]] std::string certificate() const;
};

[[nodiscard]] ExpertPlacement place_experts(const ExpertInstance& instance,
                                            std::uint64_t most_branches = 500'000);

}  // namespace causeway
