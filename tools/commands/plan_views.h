// What `causeway plan` shows beside the plan: alternatives, comparisons, limits, and the plan in
// the words of other tools.
//
// Units:   as causeway/plan_compare.h.
// Errors:  invalid_argument where another tool has no words for a plan.
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

// accelerate's device_map: modules to GPU numbers of the one node that the plan is on, or "cpu".
[[nodiscard]] std::string device_map_json(const Plan& plan, const ModelSpec& model);
// llama.cpp's arguments: layers per GPU.
[[nodiscard]] std::string tensor_split_arguments(const Plan& plan, const ModelSpec& model);
// vLLM's environment.
[[nodiscard]] std::string vllm_variables(const Plan& plan, const ModelSpec& model);

}  // namespace causeway::tools
