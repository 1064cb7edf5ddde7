// What `causeway plan` shows beside the plan: alternatives, comparisons, limits.
//
// Units:   as causeway/plan_compare.h.
// Threads: one thread.
#pragma once

#include <string>
#include <vector>

#include "causeway/plan_compare.h"

namespace causeway::tools {

// Rows of plans with their figures; `first` is what the others are held against.
[[nodiscard]] std::string alternatives_text(const std::vector<PlanAlternative>& alternatives);
[[nodiscard]] std::string alternatives_json(const std::vector<PlanAlternative>& alternatives);
[[nodiscard]] std::string limits_text(const PlanLimits& limits);
[[nodiscard]] std::string limits_json(const PlanLimits& limits);

}  // namespace causeway::tools
