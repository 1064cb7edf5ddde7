#include "causeway/plan_compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "runtime/placement/cost/device_rates.h"
#include "runtime/placement/plan_problem.h"

namespace causeway {

namespace {

constexpr std::uint32_t kMostMicroBatches = 4096;
constexpr double kMostScale = 1024;

std::vector<DeviceName> candidates(const Topology& topology, const PlanOptions& options) {
  std::vector<DeviceName> devices = options.only;
  if (devices.empty())
    for (const auto& device : topology.devices())
      if (device.name.kind == DeviceKind::gpu || options.use_host_devices)
        devices.push_back(device.name);
  std::erase_if(devices, [&](const DeviceName& device) {
    return std::ranges::find(options.avoid, device.node) != options.avoid.end();
  });
  return devices;
}

// Consecutive layers over `devices` by share; each device gets at least one layer while they last.
Plan cut_by_share(const ModelSpec& model, const std::vector<DeviceName>& devices,
                  const std::vector<double>& share, std::uint32_t micro_batches) {
  const auto layers = static_cast<std::uint32_t>(model.layers.size());
  const auto count = std::min<std::size_t>(devices.size(), layers);
  double all = 0;
  for (std::size_t i = 0; i < count; ++i) all += share[i];
  Plan plan;
  plan.model = model.name;
  plan.micro_batches = micro_batches;
  std::uint32_t first = 0;
  double sum = 0;
  for (std::size_t i = 0; i < count; ++i) {
    sum += share[i];
    const auto behind = static_cast<std::uint32_t>(count - i - 1);
    const auto end = i + 1 == count
                         ? layers
                         : std::clamp(static_cast<std::uint32_t>(std::lround(sum / all * layers)),
                                      first + 1, layers - behind);
    plan.stages.push_back({devices[i], first, end});
    first = end;
  }
  return plan;
}

// What of the user's wishes a plan that was not searched for breaks; empty: nothing.
std::string broken_wish(const Plan& plan, const ModelSpec& model, const Topology& topology,
                        const PlanOptions& options) {
  for (const auto& pin : options.pins)
    for (const auto& stage : plan.stages)
      if (stage.first_layer <= pin.layer && pin.layer < stage.end_layer &&
          (stage.device != pin.device || !stage.beside.empty()))
        return fmt::format("puts layer '{}' on {}, but it is pinned to {}",
                           model.layers[pin.layer].name, stage.device.to_string(),
                           pin.device.to_string());
  std::set<std::string> nodes;
  for (const auto& stage : plan.stages) nodes.insert(stage.device.node);
  if (options.most_nodes != 0 && nodes.size() > options.most_nodes)
    return fmt::format("takes {} nodes, and at most {} may be used", nodes.size(),
                       options.most_nodes);
  try {
    check_plan(plan, model, with_margins(topology, options));
  } catch (const Error& error) {
    return fmt::format("does not leave the margin free: {}", error.what());
  }
  return {};
}

// The cut's own seconds and bytes put in. Errors: as check_plan(), and not_found without a path.
PlanAlternative complete(std::string what, Plan plan, const ModelSpec& model,
                         const Topology& topology, const PlanOptions& options) {
  PlanAlternative result{std::move(what)};
  try {
    auto figures = plan_figures(plan, model, topology, options);
    if (result.why_not = broken_wish(plan, model, topology, options); !result.why_not.empty())
      return result;
    for (std::size_t i = 0; i < plan.stages.size(); ++i) {  // Of single devices.
      const auto in_flight =
          std::min(plan.micro_batches, static_cast<std::uint32_t>(plan.stages.size() - i));
      const auto memory =
          stage_memory(model, plan.stages[i].first_layer, plan.stages[i].end_layer, in_flight);
      plan.stages[i].state_bytes = memory.state_bytes();
      plan.stages[i].activation_bytes = memory.activation_bytes;
      plan.stages[i].seconds = figures.stage_seconds[i];
    }
    plan.step_seconds = figures.step_seconds;
    plan.certificate = "not searched for: cut as it says";
    result.plan = std::move(plan);
    result.figures = std::move(figures);
  } catch (const Error& error) {
    result.why_not = error.what();
  }
  return result;
}

PlanAlternative search(std::string what, const ModelSpec& model, const Topology& topology,
                       const PlanOptions& options) {
  PlanAlternative result{std::move(what)};
  try {
    result.plan = make_plan(model, topology, options);
    result.figures = plan_figures(*result.plan, model, topology, options);
  } catch (const Error& error) {
    result.why_not = error.what();
  }
  return result;
}

bool fits(const ModelSpec& model, const Topology& topology, const PlanOptions& options) {
  try {
    (void)make_plan(model, topology, options);
    return true;
  } catch (const Error& error) {
    if (error.code() == Errc::out_of_memory || error.code() == Errc::exhausted) return false;
    throw;
  }
}

ModelSpec scaled(const ModelSpec& model, double scale) {
  auto result = model;
  for (auto& layer : result.layers) {
    layer.forward_flops *= scale;
    layer.activation_bytes =
        static_cast<std::uint64_t>(static_cast<double>(layer.activation_bytes) * scale);
    layer.output_bytes =
        static_cast<std::uint64_t>(static_cast<double>(layer.output_bytes) * scale);
  }
  return result;
}

}  // namespace

PlanFigures plan_figures(const Plan& plan, const ModelSpec& model, const Topology& topology,
                         const PlanOptions& options) {
  check_plan(plan, model, topology);
  std::vector<DeviceName> devices;
  for (const auto& stage : plan.stages)
    for (const auto& share : stage.shares()) devices.push_back(share.device);
  const PlanProblem chain(model, topology, devices,
                          {.micro_batches = plan.micro_batches,
                           .serving = options.serving,
                           .calibrated = options.calibrated});
  const auto type_of = [&](const DeviceName& device) {
    const auto& types = chain.types().types;
    return static_cast<std::size_t>(
        std::ranges::find_if(types,
                             [&](const DeviceType& type) {
                               return std::ranges::find(type.devices, device) != type.devices.end();
                             }) -
        types.begin());
  };
  std::vector<PlanProblem::Group> groups;
  for (const auto& stage : plan.stages) {
    auto& group = groups.emplace_back();
    for (const auto& each : stage.shares()) group.push_back({type_of(each.device), 1, each.share});
  }
  PlanFigures figures;
  double longest = 0;
  std::vector<double> busy;
  for (std::size_t i = 0; i < plan.stages.size(); ++i) {
    const auto& stage = plan.stages[i];
    busy.push_back(chain.compute_seconds(groups[i], stage.first_layer, stage.end_layer));
    double seconds = busy.back();
    if (i + 1 < plan.stages.size())
      seconds += chain.send_seconds(groups[i], groups[i + 1], stage.end_layer);
    if (!std::isfinite(seconds))
      throw Error(Errc::not_found,
                  fmt::format("no known path joins {} and {}; add the link between their nodes",
                              stage.device.to_string(), plan.stages[i + 1].device.to_string()));
    figures.stage_seconds.push_back(seconds);
    figures.latency_seconds += seconds;
    longest = std::max(longest, seconds);
  }
  figures.step_seconds = figures.latency_seconds + (plan.micro_batches - 1.0) * longest;
  if (longest > 0) figures.micro_batches_per_second = 1 / longest;
  figures.joules = 0;
  figures.money = 0;
  const auto add_bill = [&](const DeviceName& name, double busy_s) {
    DeviceRates device;
    device.name = topology.find(name)->model;
    const auto watts = options.watts.find(device.name);
    device.watts =
        watts != options.watts.end() ? std::optional(watts->second) : board_watts(device.name);
    if (const auto price = options.price_per_hour.find(device.name);
        price != options.price_per_hour.end())
      device.price_per_hour = price->second;
    const auto part = bill(device, busy_s, figures.step_seconds);
    const auto add = [](std::optional<double>& sum, const std::optional<double>& more) {
      sum = sum && more ? std::optional(*sum + *more) : std::nullopt;
    };
    add(figures.joules, part.joules);
    add(figures.money, part.money);
  };
  for (std::size_t i = 0; i < plan.stages.size(); ++i)
    for (const auto& share : plan.stages[i].shares())
      add_bill(share.device, plan.micro_batches * busy[i]);
  return figures;
}

std::vector<PlanAlternative> plan_alternatives(const Plan& plan, const ModelSpec& model,
                                               const Topology& topology,
                                               const PlanOptions& options) {
  const auto devices = candidates(topology, options);
  std::vector<PlanAlternative> result;
  auto single = options;
  single.stages = 1;
  if (plan.stages.size() > 1) result.push_back(search("one device", model, topology, single));
  auto one_node = options;
  one_node.stages = 0;
  one_node.most_nodes = 1;
  const auto& home = plan.stages.front().device.node;
  if (std::ranges::any_of(plan.stages,
                          [&](const auto& stage) { return stage.device.node != home; }))
    result.push_back(search("one node", model, topology, one_node));
  result.push_back(complete(
      "even cut over all devices",
      cut_by_share(model, devices, std::vector<double>(devices.size(), 1), options.micro_batches),
      model, topology, options));
  std::vector<double> memory;
  for (const auto& device : devices)
    memory.push_back(static_cast<double>(topology.find(device)->available_bytes));
  result.push_back(complete("in proportion to memory",
                            cut_by_share(model, devices, memory, options.micro_batches), model,
                            topology, options));
  auto without = options;
  without.avoid.push_back(home);
  if (std::ranges::any_of(devices, [&](const auto& device) { return device.node != home; }))
    result.push_back(search(fmt::format("without {}", home), model, topology, without));
  return result;
}

PlanLimits plan_limits(const ModelSpec& model, const Topology& topology,
                       const PlanOptions& options) {
  PlanLimits limits;
  const auto with = [&](std::uint32_t micro_batches) {
    auto changed = options;
    changed.micro_batches = micro_batches;
    return fits(model, topology, changed);
  };
  if (with(1)) {
    std::uint32_t low = 1;
    std::uint32_t high = kMostMicroBatches + 1;
    if (with(kMostMicroBatches)) low = kMostMicroBatches;
    while (high - low > 1) {
      const auto middle = low + (high - low) / 2;
      (with(middle) ? low : high) = middle;
    }
    limits.micro_batches = low;
  }
  const auto at = [&](double scale) { return fits(scaled(model, scale), topology, options); };
  constexpr double kLeast = 1.0 / 64;
  if (!at(kLeast)) return limits;
  double low = kLeast;
  double high = kMostScale;
  if (at(high)) low = high;
  while (high / low > 1.02) {
    const double middle = std::sqrt(low * high);
    (at(middle) ? low : high) = middle;
  }
  limits.micro_batch_scale = low;
  return limits;
}

}  // namespace causeway
