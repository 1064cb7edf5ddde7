// Splits a chain of layers into stages over counted device types, so that an objective is least.
//
// Shape:   a stage is consecutive layers on one option: a device, or several that share every layer
//          (tensor parallelism, in even or uneven parts), given by how many of each type it takes.
//          Built from the last stage to the first, so that the number of stages behind a new one,
//          and with it the micro-batches it holds under 1F1B, is known. State: layers left, devices
//          used per type, stages, option of the front stage; each keeps its Pareto set of (longest
//          stage, sum of stages, energy).
// Units:   seconds; watts and prices per second as the caller has them. No table needs to be
//          monotone: more layers may take less time.
// Errors:  none; no stages in the result means that no split was found.
// Cost:    bounded by a count of steps, never by the clock: equal input gives an equal plan.
// Threads: no state; the problem's functions are called from the calling thread.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "causeway/plan.h"

namespace causeway {

// What can hold a stage.
struct ChainOption {
  std::vector<std::uint16_t> uses;  // Devices by type.
  double busy_watts = 0;            // Above idle, of all of them, while they compute: not in sends.
};

struct ChainProblem {
  static constexpr double kImpossible = std::numeric_limits<double>::infinity();

  std::uint32_t layers = 0;
  std::vector<std::uint16_t> counts;  // Devices by type.
  std::vector<ChainOption> options;
  // Of layers [first, end) on an option with so many stages behind it; kImpossible: does not fit or
  // is not wanted there. Must not fall with `behind`. Called for what the bounds need once, and
  // then for each state.
  std::function<double(std::size_t option, std::uint32_t first, std::uint32_t end,
                       std::uint32_t behind)>
      seconds;
  // From a stage that ends before layer `boundary` to the next; it counts to the sending stage.
  std::function<double(std::size_t from, std::size_t to, std::uint32_t boundary)> send_seconds;

  Objective objective = Objective::time;
  std::uint32_t micro_batches = 1;
  std::uint32_t stages = 0;        // Exactly so many; 0: any number.
  std::uint32_t most_stages = 0;   // At most so many; 0: any number.
  std::vector<double> idle_watts;  // By type; empty: none.
  std::vector<double> price_per_s;
  // Per layer, anything that grows with its time: sharpens bounds. Empty: found from `seconds`.
  std::vector<double> work;
};

struct ChainStage {
  std::size_t option;
  std::uint32_t first_layer;
  std::uint32_t end_layer;
  double seconds;     // With its send.
  double busy_s = 0;  // Without it.
};

struct ChainResult {
  std::vector<ChainStage> stages;  // First to last.
  double value = 0;                // Of the objective.
  double lower_bound = 0;          // No split has less.
  double step_seconds = 0;
  std::uint64_t states = 0;  // Looked at by the last search.
  bool exact = false;        // The search was complete: the result is proven, also if empty.
};

[[nodiscard]] ChainResult search_chain(const ChainProblem& problem,
                                       std::uint64_t max_steps = 100'000'000);

// The objective of given stages, from both of their seconds: what a search reports.
[[nodiscard]] double chain_value(const ChainProblem& problem,
                                 const std::vector<ChainStage>& stages);

}  // namespace causeway
