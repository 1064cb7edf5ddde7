// The table of docs/planner.md: predictions held against measurements, with the error of the rows
// that nothing was fitted to.
#pragma once

#include <string>
#include <vector>

namespace causeway::predictions {

struct Compared {
  std::string family;
  std::string id;
  std::string what;  // For the reader: "Llama-3-70B on 4 RTX4090".
  bool fitted = false;
  double measured = 0;
  double predicted = 0;
  [[nodiscard]] double error() const noexcept { return predicted / measured - 1; }
};

// Mean of |error| over the rows of a family that are fitted, or are not; NaN where there is none.
[[nodiscard]] double mean_error(const std::vector<Compared>& rows, const std::string& family,
                                bool fitted);

// `data` holds published.csv and sailor/. Rows that cannot be predicted are listed by
// unpredicted().
[[nodiscard]] std::vector<Compared> compare_published(const std::string& data);
[[nodiscard]] std::vector<Compared> compare_plans(const std::string& data);
[[nodiscard]] std::vector<Compared> compare_memory(const std::string& data);
[[nodiscard]] std::vector<std::string> unpredicted(const std::string& data);

struct Ranking {
  std::string what;
  std::vector<std::string> measured;   // Best first.
  std::vector<std::string> predicted;  // The same names, best first.
  [[nodiscard]] bool is_right() const noexcept { return measured == predicted; }
};
[[nodiscard]] std::vector<Ranking> compare_rankings(const std::string& data);

[[nodiscard]] std::string report(const std::string& data);

}  // namespace causeway::predictions
