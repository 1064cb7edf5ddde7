// What a plan takes in time, energy and money, and what the obvious others would.
//
// Shape:   figures follow from the plan's cut alone; an alternative is a plan with its figures, or
// the
//          reason why there is none.
// Units:   seconds, joules, money as PlanOptions::price_per_hour has it. Unknown is nullopt, never
// 0. Errors:  as check_plan() and make_plan(); plan_alternatives() turns what does not fit into
// words. Cost:    a few searches each. Threads: plain values.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "causeway/plan.h"

namespace causeway {

struct PlanFigures {
  std::vector<double> stage_seconds;  // As PlanStage::seconds.
  double step_seconds = 0;
  double latency_seconds = 0;           // Of one micro-batch, alone.
  double micro_batches_per_second = 0;  // With a full pipeline.
  std::optional<double> joules = {};    // Of a step.
  std::optional<double> money = {};
};

[[nodiscard]] PlanFigures plan_figures(const Plan& plan, const ModelSpec& model,
                                       const Topology& topology, const PlanOptions& options = {});

struct PlanAlternative {
  std::string what;  // "one device", "in proportion to memory", ...
  std::optional<Plan> plan = {};
  std::optional<PlanFigures> figures = {};
  std::string why_not = {};  // Where there is no plan.
};

// What else one would think of: a single device, one node, an even cut over all devices, a cut in
// proportion to memory (as tools that fill by bytes do), and one without the first node of `plan`.
[[nodiscard]] std::vector<PlanAlternative> plan_alternatives(const Plan& plan,
                                                             const ModelSpec& model,
                                                             const Topology& topology,
                                                             const PlanOptions& options);

// The most that still fits with everything else as it is; 0: nothing does.
struct PlanLimits {
  std::uint32_t micro_batches = 0;  // In a step, up to 4096.
  double micro_batch_scale = 0;     // Activations and work of a micro-batch times this, up to 1024.
};

[[nodiscard]] PlanLimits plan_limits(const ModelSpec& model, const Topology& topology,
                                     const PlanOptions& options);

}  // namespace causeway
