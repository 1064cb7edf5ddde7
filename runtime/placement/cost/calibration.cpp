#include "runtime/placement/cost/calibration.h"

#include <cmath>

namespace causeway {

namespace {

constexpr int kRounds = 60;    // Of all coordinates.
constexpr int kSections = 60;  // The interval shrinks by 0.618 each: to 1e-12 of it.
constexpr double kGolden = 0.6180339887498949;

double mean_square(const std::vector<double>& residuals) {
  double sum = 0;
  for (const double residual : residuals) sum += residual * residual;
  return residuals.empty() ? 0 : sum / static_cast<double>(residuals.size());
}

}  // namespace

Fit fit_coefficients(
    const std::function<std::vector<double>(const std::vector<double>&)>& residuals,
    const std::vector<double>& low, const std::vector<double>& high) {
  if (low.size() != high.size())
    throw Error(Errc::invalid_argument, "fit: as many upper bounds as lower ones, please");
  Fit fit;
  for (std::size_t i = 0; i < low.size(); ++i) {
    if (!(low[i] < high[i])) throw Error(Errc::invalid_argument, "fit: bounds out of order");
    fit.coefficients.push_back((low[i] + high[i]) / 2);
  }
  const auto cost = [&](std::size_t i, double value) {
    auto at = fit.coefficients;
    at[i] = value;
    return mean_square(residuals(at));
  };
  for (int round = 0; round < kRounds; ++round)
    for (std::size_t i = 0; i < low.size(); ++i) {
      double a = low[i];
      double b = high[i];
      for (int section = 0; section < kSections; ++section) {
        const double left = b - kGolden * (b - a);
        const double right = a + kGolden * (b - a);
        if (cost(i, left) <= cost(i, right))
          b = right;
        else
          a = left;
      }
      fit.coefficients[i] = (a + b) / 2;
    }
  fit.error = std::sqrt(mean_square(residuals(fit.coefficients)));
  return fit;
}

}  // namespace causeway
