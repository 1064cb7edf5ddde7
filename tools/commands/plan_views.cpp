#include "tools/commands/plan_views.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cctype>

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

// A numbered block ("model.layers.3"), as opposed to the layers at the ends of a model.
std::string block_of(const std::string& tensor) {
  for (std::size_t at = 0; at < tensor.size();) {
    const auto dot = tensor.find('.', at);
    const auto end = dot == std::string::npos ? tensor.size() : dot;
    const auto part = tensor.substr(at, end - at);
    if (!part.empty() && std::ranges::all_of(part, [](unsigned char c) { return std::isdigit(c); }))
      return tensor.substr(0, end);
    at = end + 1;
  }
  return {};
}

bool is_block(const LayerSpec& layer) {
  return std::ranges::any_of(
      layer.tensors, [](const TensorSpec& tensor) { return !block_of(tensor.name).empty(); });
}

void need_one_node(const Plan& plan, const char* tool) {
  for (const auto& stage : plan.stages)
    if (stage.device.node != plan.stages.front().device.node)
      throw Error(Errc::invalid_argument,
                  fmt::format("{} knows one machine, but the plan uses {} and {}; plan with "
                              "--max-nodes 1",
                              tool, plan.stages.front().device.node, stage.device.node));
}

// Blocks per stage: what tools count as layers. A model without numbered tensors counts its layers.
std::vector<std::uint32_t> blocks_per_stage(const Plan& plan, const ModelSpec& model) {
  const bool numbered = std::ranges::any_of(model.layers, is_block);
  std::vector<std::uint32_t> counts;
  for (const auto& stage : plan.stages) {
    std::uint32_t count = 0;
    for (auto i = stage.first_layer; i < stage.end_layer; ++i)
      if (!numbered || is_block(model.layers.at(i))) ++count;
    counts.push_back(count);
  }
  return counts;
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
    const double ratio = base == nullptr ? 1 : figures.step_seconds / base->step_seconds;
    table.add({{each.what},
               {std::to_string(each.plan->stages.size())},
               {format_seconds(figures.step_seconds)},
               {base == &figures ? "" : fmt::format("x {:.2f}", ratio),
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

std::string device_map_json(const Plan& plan, const ModelSpec& model) {
  need_one_node(plan, "accelerate");
  boost::json::object map;
  for (const auto& stage : plan.stages)
    for (auto i = stage.first_layer; i < stage.end_layer; ++i)
      for (const auto& tensor : model.layers.at(i).tensors) {
        auto module = block_of(tensor.name);
        if (module.empty()) module = tensor.name.substr(0, tensor.name.rfind('.'));
        if (stage.device.kind == DeviceKind::gpu)
          map[module] = stage.device.index;
        else
          map[module] = "cpu";
      }
  return boost::json::serialize(map);
}

std::string tensor_split_arguments(const Plan& plan, const ModelSpec& model) {
  need_one_node(plan, "llama.cpp");
  const auto counts = blocks_per_stage(plan, model);
  std::vector<std::uint32_t> per_gpu;
  std::uint32_t on_gpus = 0;
  for (std::size_t i = 0; i < plan.stages.size(); ++i) {
    const auto& device = plan.stages[i].device;
    if (device.kind != DeviceKind::gpu) continue;
    if (per_gpu.size() <= device.index) per_gpu.resize(device.index + 1, 0);
    per_gpu[device.index] = counts[i];
    on_gpus += counts[i];
  }
  const bool ascending = std::ranges::is_sorted(plan.stages, {}, [](const PlanStage& stage) {
    return stage.device.kind == DeviceKind::gpu ? stage.device.index + std::size_t{1} : 0;
  });
  if (!ascending)
    throw Error(Errc::invalid_argument,
                "llama.cpp gives its first layers to the host and the others to the GPUs in order; "
                "this plan has another order");
  return fmt::format("--n-gpu-layers {} --tensor-split {}", on_gpus, fmt::join(per_gpu, ","));
}

std::string vllm_variables(const Plan& plan, const ModelSpec& model) {
  return fmt::format("VLLM_PP_LAYER_PARTITION={}", fmt::join(blocks_per_stage(plan, model), ","));
}

}  // namespace causeway::tools
