#include "tools/commands/plan_views.h"

#include <fmt/format.h>

#include <boost/json.hpp>

#include "tools/base/terminal.h"
#include "tools/commands/command.h"

namespace causeway::tools {

namespace {

std::string or_unknown(const std::optional<double>& value, const char* format) {
  return value ? fmt::format(fmt::runtime(format), *value) : std::string("-");
}

boost::json::value or_null(const std::optional<double>& value) {
  return value ? boost::json::value(*value) : boost::json::value(nullptr);
}

}  // namespace

std::string alternatives_text(const std::vector<PlanAlternative>& alternatives) {
  Table table({{"PLAN"},
               {"STAGES", true},
               {"STEP", true},
               {"AGAINST IT", true},
               {"LATENCY", true},
               {"MICRO-BATCHES/S", true},
               {"JOULES", true},
               {"MONEY", true},
               {"", false, true}});
  const auto* base = alternatives.empty() || !alternatives.front().figures
                         ? nullptr
                         : &*alternatives.front().figures;
  for (const auto& each : alternatives) {
    if (!each.figures) {
      table.add({{each.what}, {"-"}, {"-"}, {"-"}, {"-"}, {"-"}, {"-"}, {"-"}, {each.why_not}});
      continue;
    }
    const auto& figures = *each.figures;
    // A model without work takes no time, of which nothing is a multiple.
    const bool is_ratio = base != nullptr && base != &figures && base->step_seconds > 0;
    const double ratio = is_ratio ? figures.step_seconds / base->step_seconds : 1;
    table.add({{each.what},
               {std::to_string(each.plan->stages.size())},
               {format_seconds(figures.step_seconds)},
               {is_ratio           ? fmt::format("x {:.2f}", ratio)
                : base == &figures ? ""
                                   : "-",
                ratio > 1 ? Colour::yellow : Colour::none},
               {format_seconds(figures.latency_seconds)},
               {fmt::format("{:.3g}", figures.micro_batches_per_second)},
               {or_unknown(figures.joules, "{:.3g}")},
               {or_unknown(figures.money, "{:.3g}")},
               {each.plan->certificate}});
  }
  return table.to_string();
}

std::string alternatives_json(const std::vector<PlanAlternative>& alternatives) {
  boost::json::array list;
  for (const auto& each : alternatives) {
    boost::json::object row{{"what", each.what}};
    if (each.figures) {
      row["step_seconds"] = each.figures->step_seconds;
      row["latency_seconds"] = each.figures->latency_seconds;
      row["micro_batches_per_second"] = each.figures->micro_batches_per_second;
      row["joules"] = or_null(each.figures->joules);
      row["money"] = or_null(each.figures->money);
      row["plan"] = boost::json::parse(each.plan->to_json());
    } else {
      row["why_not"] = each.why_not;
    }
    list.push_back(std::move(row));
  }
  return boost::json::serialize(list);
}

std::string limits_text(const PlanLimits& limits) {
  if (limits.micro_batches == 0 && limits.micro_batch_scale == 0) return "nothing fits\n";
  std::string text;
  if (limits.micro_batches > 0)
    text += fmt::format("micro-batches in a step  up to {}{}\n", limits.micro_batches,
                        limits.micro_batches == 4096 ? " (the most that is looked at)" : "");
  if (limits.micro_batch_scale > 0)
    text += fmt::format("a micro-batch            up to {:.3g} times its sequences or context\n",
                        limits.micro_batch_scale);
  return text;
}

std::string limits_json(const PlanLimits& limits) {
  return boost::json::serialize(boost::json::object{
      {"micro_batches", limits.micro_batches}, {"micro_batch_scale", limits.micro_batch_scale}});
}

}  // namespace causeway::tools
