// The rows of published.csv and what the cost model says to each.
//
// Shape:   read() keeps the file's order; predict() looks at everything but `measured`.
// Units:   as the row's `metric` says.
// Errors:  std::runtime_error for a file that is not such a table.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/placement/cost/calibration.h"

namespace causeway::predictions {

struct Row {
  std::map<std::string, std::string> fields;
  [[nodiscard]] const std::string& operator[](const std::string& name) const;
  [[nodiscard]] double number(const std::string& name, double absent) const;
};

[[nodiscard]] std::vector<Row> read_rows(const std::string& path);

// What is fitted per family; the defaults are what is committed.
struct Coefficients {
  AchievedRates ampere = kAmpere;
  AchievedRates hopper = kHopper;
  AchievedRates workstation = kWorkstation;
  double fsdp_factor = kFsdpFactor;
  double prefill_gemm;
  double dequantise_bytes;
  double unpack_per_cycle;
  double serving_gemm;
  double notebook_bandwidth = kNotebookBandwidth;
  Coefficients();
};

struct Prediction {
  double value;
  std::optional<double> peak_bytes = {};  // Where the row states a peak of memory.
};

// nullopt: the row names a model, card or layout that is not known here.
[[nodiscard]] std::optional<Prediction> predict(const Row& row, const Coefficients& with);
// Of the row's notes: "peak 77.0 GiB".
[[nodiscard]] std::optional<double> stated_peak_bytes(const Row& row);

// Rows of each family take turns: the first is fitted, the second is not, and so on. False for
// families of which nothing is fitted.
[[nodiscard]] std::map<std::string, bool> fitted_rows(const std::vector<Row>& rows);
// Fits each family on its fitted rows alone.
[[nodiscard]] Coefficients fit_families(const std::vector<Row>& rows);

}  // namespace causeway::predictions
