// The coefficients that measurements gave, and the fit that gives them.
//
// Shape:   each family of GPUs or programs has one to three numbers, with the rows they were fitted
//          to; `predictions --fit` (tests/runtime/placement/predictions) prints them afresh, and a
//          test holds these constants against it where the data is at hand.
// Units:   shares of a specification, or as said.
// Threads: constants and a plain function.
// Source:  docs/planner.md lists rows, fits and the errors on the rows that were not fitted.
#pragma once

#include <functional>
#include <vector>

#include "runtime/placement/cost/device_rates.h"

namespace causeway {

// Rows k1 and k3 (Megatron-LM on A100, arXiv:2205.05198).
inline constexpr AchievedRates kAmpere{0.748, 0.8, 1.0, "published.csv k1, k3"};
// Rows m1 and m5 (Megatron-LM on H100). Power limits keep large products under the peak.
inline constexpr AchievedRates kHopper{0.675, 0.8, 3.569, "published.csv m1, m5"};
// Rows q1, q5 and q9 (LLMQ on cards of workstations): kernels written for it, fused throughout.
// Such cards clock above what their specification counts with, so the share is near 1.
inline constexpr AchievedRates kWorkstation{0.937, 0.8, 1.0, "published.csv q1, q5, q9"};

// FSDP's own time (gathers that nothing hides, the host), as a factor: rows f1 and f5.
inline constexpr double kFsdpFactor = 1.047;

// Share of the peak that an engine's products reach under load: row t1 (TensorRT-LLM).
inline constexpr double kServingGemm = 0.408;

// Share of the memory's specification that decoding reaches on a notebook's card: row g1.
inline constexpr double kNotebookBandwidth = 0.761;

struct Fit {
  std::vector<double> coefficients;
  double error = 0;  // Root of the mean square of log(predicted / measured).
};

// The coefficients within [low, high] that make the squares of `residuals` least: coordinate
// descent with golden sections, no derivatives. Deterministic. A residual is
// log(predicted / measured), so that twice and half count alike.
// Errors: invalid_argument if the bounds differ in length or are not in order.
[[nodiscard]] Fit fit_coefficients(
    const std::function<std::vector<double>(const std::vector<double>&)>& residuals,
    const std::vector<double>& low, const std::vector<double>& high);

}  // namespace causeway
