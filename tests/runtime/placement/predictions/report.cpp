#include "tests/runtime/placement/predictions/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "runtime/placement/cost/serving_cost.h"
#include "tests/runtime/placement/predictions/models.h"
#include "tests/runtime/placement/predictions/published.h"
#include "tests/runtime/placement/predictions/sailor.h"

namespace causeway::predictions {

namespace {

std::string describe(const Row& row) {
  const auto hidden = row["model"] == "GPT" ? " h=" + row["hidden"] : std::string();
  return fmt::format("{}{} on {} {}, {}", row["model"], hidden, row["gpus"], row["hardware"],
                     row["parallel"]);
}

std::string percent(double value) {
  return std::isnan(value) ? std::string("-") : fmt::format("{:.1f}%", 100 * value);
}

template <typename Value>
std::vector<std::string> order(std::vector<std::pair<Value, std::string>> named) {
  std::ranges::sort(named);
  std::vector<std::string> names;
  for (auto& [value, name] : named) names.push_back(std::move(name));
  return names;
}

// A cut of a model over equal cards, by the requests whose keys and values fit: c1 and c1b.
double cut_seconds(const Row& row) {
  const auto shape = known_model(row["model"]);
  const auto device = known_device(row["hardware"]);
  if (!shape || !device) return 0;
  const auto stages = static_cast<std::uint32_t>(row.number("gpus", 1));
  ServingLoad load;
  load.weight_bytes_per_parameter = 1;
  const auto requests = [&](std::uint32_t ends) {
    std::vector<std::uint32_t> layers(stages, ends);
    const auto inner = shape->layers - 2 * ends;
    for (std::uint32_t i = 0; i + 2 < stages; ++i)
      layers[i + 1] = inner * (i + 1) / (stages - 2) - inner * i / (stages - 2);
    return requests_that_fit(*shape, layers, device->memory_bytes, load, 1024);
  };
  // Even: as many layers everywhere. Balanced: fewer where embedding and head lie.
  double most = requests(shape->layers / stages);
  if (row["parallel"].find("balanced") != std::string::npos)
    for (std::uint32_t ends = 1; ends < shape->layers / stages; ++ends)
      most = std::max(most, requests(ends));
  return 1 / std::max(1e-9, most);
}

}  // namespace

double mean_error(const std::vector<Compared>& rows, const std::string& family, bool fitted) {
  double sum = 0;
  int count = 0;
  for (const auto& row : rows)
    if (row.family == family && row.fitted == fitted) sum += std::abs(row.error()), ++count;
  return count == 0 ? std::numeric_limits<double>::quiet_NaN() : sum / count;
}

std::vector<Compared> compare_published(const std::string& data) {
  const auto rows = read_rows(data + "/published.csv");
  const auto fitted = fitted_rows(rows);
  std::vector<Compared> result;
  for (const auto& row : rows)
    if (const auto prediction = predict(row, Coefficients()))
      result.push_back({row["family"], row["id"], describe(row), fitted.at(row["id"]),
                        row.number("measured", 0), prediction->value});
  return result;
}

std::vector<std::string> unpredicted(const std::string& data) {
  std::vector<std::string> ids;
  for (const auto& row : read_rows(data + "/published.csv"))
    if (row["family"] != "ranking" && !predict(row, Coefficients())) ids.push_back(row["id"]);
  return ids;
}

std::vector<Compared> compare_plans(const std::string& data) {
  const auto sailor = read_sailor(data + "/sailor");
  std::vector<Compared> result;
  for (const auto& plan : sailor.plans)
    result.push_back(
        {"sailor", plan.id, plan.group, false, plan.measured_s, predict_seconds(sailor, plan)});
  return result;
}

std::vector<Compared> compare_memory(const std::string& data) {
  std::vector<Compared> result;
  bool fitted = true;
  for (const auto& plan : read_sailor(data + "/sailor").plans) {
    fitted = !fitted;
    if (plan.measured_bytes > 0)
      result.push_back({"memory, sailor " + plan.id.substr(0, plan.id.find('/')), plan.id,
                        plan.group, fitted, plan.measured_bytes, predict_bytes(plan)});
  }
  for (const auto& row : read_rows(data + "/published.csv"))
    if (const auto peak = stated_peak_bytes(row))
      if (const auto prediction = predict(row, Coefficients());
          prediction && prediction->peak_bytes)
        result.push_back(
            {"memory, published", row["id"], describe(row), false, *peak, *prediction->peak_bytes});
  return result;
}

std::vector<Ranking> compare_rankings(const std::string& data) {
  using Named = std::vector<std::pair<double, std::string>>;
  std::map<std::string, std::pair<Named, Named>> groups;
  const auto sailor = read_sailor(data + "/sailor");
  for (const auto& plan : sailor.plans) {
    auto& [measured, predicted] = groups[plan.group];
    measured.emplace_back(plan.measured_s, plan.id);
    predicted.emplace_back(predict_seconds(sailor, plan), plan.id);
  }
  for (const auto& row : read_rows(data + "/published.csv"))
    if (row["family"] == "ranking" && row["parallel"].starts_with("PP ")) {
      auto& [measured, predicted] =
          groups[row["model"] + " on " + row["gpus"] + " " + row["hardware"]];
      measured.emplace_back(row.number("measured", 0), row["id"]);
      predicted.emplace_back(cut_seconds(row), row["id"]);
    }
  std::vector<Ranking> rankings;
  for (const auto& [what, named] : groups)
    if (named.first.size() > 1) rankings.push_back({what, order(named.first), order(named.second)});
  return rankings;
}

static std::string table(const std::vector<Compared>& rows) {
  std::string text = "| row | what | measured | predicted | error | |\n|---|---|--:|--:|--:|---|\n";
  for (const auto& row : rows)
    text += fmt::format("| {} | {} | {:.4g} | {:.4g} | {:+.1f}% | {} |\n", row.id, row.what,
                        row.measured, row.predicted, 100 * row.error(), row.fitted ? "fitted" : "");
  return text;
}

static std::string families(const std::vector<Compared>& rows) {
  std::string text =
      "| family | rows | error, fitted | error, not fitted | lowest | highest |\n"
      "|---|--:|--:|--:|--:|--:|\n";
  std::vector<std::string> names;
  for (const auto& row : rows)
    if (std::ranges::find(names, row.family) == names.end()) names.push_back(row.family);
  for (const auto& name : names) {
    double low = 0;
    double high = 0;
    int count = 0;
    for (const auto& row : rows)
      if (row.family == name)
        low = std::min(low, row.error()), high = std::max(high, row.error()), ++count;
    text += fmt::format("| {} | {} | {} | {} | {:+.1f}% | {:+.1f}% |\n", name, count,
                        percent(mean_error(rows, name, true)),
                        percent(mean_error(rows, name, false)), 100 * low, 100 * high);
  }
  return text;
}

std::string report(const std::string& data) {
  auto rows = compare_published(data);
  const auto plans = compare_plans(data);
  rows.insert(rows.end(), plans.begin(), plans.end());
  const auto memory = compare_memory(data);
  auto all = rows;
  all.insert(all.end(), memory.begin(), memory.end());
  std::string text = families(all) + "\n### Time\n\n" + table(rows) + "\n### Memory (bytes)\n\n" +
                     table(memory) +
                     "\n### Which plan wins\n\n| question | measured | predicted | |\n"
                     "|---|---|---|---|\n";
  for (const auto& ranking : compare_rankings(data))
    text +=
        fmt::format("| {} | {} | {} | {} |\n", ranking.what, fmt::join(ranking.measured, " < "),
                    fmt::join(ranking.predicted, " < "), ranking.is_right() ? "right" : "wrong");
  return text;
}

}  // namespace causeway::predictions
