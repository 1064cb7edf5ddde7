// make_plan and check_plan: from a model and a topology to stages on named devices.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "causeway/plan.h"
#include "runtime/placement/chain_search.h"

namespace causeway {

namespace {

constexpr double kTrainingFlopsPerForward = 3;  // Backward counts twice.
constexpr std::uint32_t kMaxMicroBatches = 1u << 20;
constexpr std::size_t kMaxDevices = 1024;  // Every pair of them is looked at.

std::vector<DeviceName> usable_devices(const Topology& topology, const PlanOptions& options) {
  std::vector<DeviceName> devices;
  if (options.only.empty()) {
    for (const auto& device : topology.devices())
      if (device.name.kind == DeviceKind::gpu || options.use_host_devices)
        devices.push_back(device.name);
    if (devices.empty())
      throw Error(Errc::invalid_argument,
                  fmt::format("'{}' has no GPU to plan for; allow host devices", topology.name()));
    return devices;
  }
  std::set<DeviceName> seen;
  for (const auto& name : options.only) {
    if (topology.find(name) == nullptr)
      throw Error(Errc::not_found,
                  fmt::format("device {} is not in '{}'; its nodes: {}", name.to_string(),
                              topology.name(), fmt::join(topology.nodes(), ", ")));
    if (seen.insert(name).second) devices.push_back(name);
  }
  return devices;
}

std::uint64_t available(const Topology& topology, const DeviceName& name) {
  return topology.find(name)->available_bytes / kDeviceGranuleBytes * kDeviceGranuleBytes;
}

// "desktop/gpu0 has 32 MB available" or "3 devices have 96 MB available (a 32 MB, ...)".
std::string describe_available(const Topology& topology, const std::vector<DeviceName>& devices) {
  constexpr std::size_t kShown = 8;
  if (devices.size() == 1)
    return fmt::format("{} has {} available", devices[0].to_string(),
                       format_bytes(available(topology, devices[0])));
  std::uint64_t sum = 0;
  std::string list;
  for (std::size_t i = 0; i < devices.size(); ++i) {
    sum += available(topology, devices[i]);
    if (i < kShown)
      list += fmt::format("{}{} {}", i > 0 ? ", " : "", devices[i].to_string(),
                          format_bytes(available(topology, devices[i])));
  }
  if (devices.size() > kShown) list += ", ...";
  return fmt::format("{} devices have {} available ({})", devices.size(), format_bytes(sum), list);
}

// Two of `devices` that no known path joins.
std::optional<std::pair<DeviceName, DeviceName>> find_gap(const Topology& topology,
                                                          const std::vector<DeviceName>& devices) {
  for (const auto& device : devices)
    if (!topology.access(devices.front(), device)) return std::pair(devices.front(), device);
  return std::nullopt;
}

// Why there is no plan: the first of these that is true is what the user can act on.
Error explain_infeasible(const ModelSpec& model, const Topology& topology,
                         const std::vector<DeviceName>& devices, const StageSizer& sizes,
                         const PlanOptions& options, const ChainResult& result) {
  const auto largest = *std::ranges::max_element(
      devices, {}, [&](const DeviceName& name) { return available(topology, name); });
  const auto count = static_cast<std::uint32_t>(model.layers.size());
  for (std::uint32_t i = 0; i < count; ++i)
    if (const auto need = sizes.total_bytes(i, i + 1, 1); need > available(topology, largest))
      return {Errc::out_of_memory,
              fmt::format("model '{}': layer '{}' alone needs {} of state and activations; the "
                          "largest device, {}, has {} available; use a larger device or smaller "
                          "layers",
                          model.name, model.layers[i].name, format_bytes(need), largest.to_string(),
                          format_bytes(available(topology, largest)))};
  const auto need = sizes.total_bytes(0, count, 1);
  std::uint64_t sum = 0;
  for (const auto& name : devices) sum += available(topology, name);
  const auto needs = fmt::format("model '{}' needs {} of state and activations; {}", model.name,
                                 format_bytes(need), describe_available(topology, devices));
  if (need > sum) return {Errc::out_of_memory, needs + "; use more devices"};
  if (const auto gap = find_gap(topology, devices))
    return {Errc::out_of_memory,
            fmt::format("{}, but no known path joins {} and {}; add the link between their nodes",
                        needs, gap->first.to_string(), gap->second.to_string())};
  if (!result.exact)
    return {Errc::exhausted, fmt::format("{}; no plan was found in {} states and none is ruled "
                                         "out; use fewer devices or set the number of stages",
                                         needs, result.states)};
  const auto stages =
      options.stages != 0 ? fmt::format("{} stages", options.stages) : std::string("stages");
  return {Errc::out_of_memory,
          fmt::format("{}, but no split into {} of whole layers fits with {} micro-batches in "
                      "flight; use more devices, another number of stages or fewer micro-batches",
                      needs, stages, options.micro_batches)};
}

void check_options(const ModelSpec& model, const PlanOptions& options, std::size_t devices) {
  if (options.micro_batches < 1 || options.micro_batches > kMaxMicroBatches)
    throw Error(Errc::invalid_argument, fmt::format("micro_batches is {}; write 1 to {}",
                                                    options.micro_batches, kMaxMicroBatches));
  if (devices > kMaxDevices)
    throw Error(Errc::invalid_argument,
                fmt::format("{} devices; at most {} are planned for, so name the ones to use",
                            devices, kMaxDevices));
  if (options.stages > model.layers.size())
    throw Error(Errc::invalid_argument,
                fmt::format("{} stages for the {} layers of model '{}'; a stage holds at least one",
                            options.stages, model.layers.size(), model.name));
  if (options.stages > devices)
    throw Error(Errc::invalid_argument,
                fmt::format("{} stages on {} devices; a device holds at most one stage",
                            options.stages, devices));
}

std::string certificate_of(const ChainResult& result) {
  if (result.exact)
    return fmt::format("optimal: exact dynamic programming over {} states", result.states);
  if (result.lower_bound_seconds <= 0)
    return fmt::format("best of {} states; nothing is known of the gap", result.states);
  return fmt::format("within {:.1f}% of optimal: stopped after {} states, lower bound {:.6g} s",
                     100 * (result.step_seconds / result.lower_bound_seconds - 1), result.states,
                     result.lower_bound_seconds);
}

}  // namespace

Plan make_plan(const ModelSpec& model, const Topology& topology, const PlanOptions& options) {
  model.validate();
  const auto devices = usable_devices(topology, options);
  check_options(model, options, devices.size());
  const auto types = collapse_devices(topology, devices);
  const StageSizer sizes(model);
  ChainProblem problem{&types, &sizes, {0.0}, {}, options.micro_batches, options.stages};
  for (const auto& layer : model.layers) {
    problem.work.push_back(problem.work.back() + kTrainingFlopsPerForward * layer.forward_flops);
    problem.send_bytes.push_back(layer.output_bytes);
  }
  const auto result = search_chain(problem);
  if (result.stages.empty())
    throw explain_infeasible(model, topology, devices, sizes, options, result);

  Plan plan;
  plan.model = model.name;
  plan.micro_batches = options.micro_batches;
  plan.step_seconds = result.step_seconds;
  plan.certificate = certificate_of(result);
  std::vector<std::size_t> next(types.types.size());
  for (const auto& stage : result.stages) {
    const auto stages_left = static_cast<std::uint32_t>(result.stages.size() - plan.stages.size());
    const auto memory = sizes.stage(stage.first_layer, stage.end_layer,
                                    std::min(options.micro_batches, stages_left));
    plan.stages.push_back({types.types[stage.type].devices[next[stage.type]++], stage.first_layer,
                           stage.end_layer, memory.state_bytes(), memory.activation_bytes,
                           stage.seconds});
  }
  return plan;
}

void check_plan(const Plan& plan, const ModelSpec& model, const Topology& topology) {
  model.validate();
  const auto refuse = [&](std::size_t stage, const std::string& what) -> Error {
    return {Errc::invalid_argument,
            fmt::format("plan for '{}': stage {}: {}", plan.model, stage, what)};
  };
  if (plan.model != model.name)
    throw Error(Errc::invalid_argument,
                fmt::format("the plan is for model '{}', not '{}'; make one for this model",
                            plan.model, model.name));
  if (plan.micro_batches < 1 || plan.micro_batches > kMaxMicroBatches || plan.stages.empty() ||
      plan.stages.size() > kMaxInFlight)
    throw Error(Errc::invalid_argument,
                fmt::format("plan for '{}': {} stages and {} micro-batches; both must be 1 or more",
                            plan.model, plan.stages.size(), plan.micro_batches));
  const StageSizer sizes(model);
  std::set<DeviceName> seen;
  std::uint32_t next = 0;
  for (std::size_t i = 0; i < plan.stages.size(); ++i) {
    const auto& stage = plan.stages[i];
    const auto name = stage.device.to_string();
    if (stage.first_layer != next || stage.end_layer <= stage.first_layer ||
        stage.end_layer > model.layers.size())
      throw refuse(i, fmt::format("holds layers [{}, {}); it must start at {} and end by {}",
                                  stage.first_layer, stage.end_layer, next, model.layers.size()));
    next = stage.end_layer;
    if (topology.find(stage.device) == nullptr)
      throw refuse(i, fmt::format("device {} is not in '{}'", name, topology.name()));
    if (!seen.insert(stage.device).second)
      throw refuse(i, fmt::format("device {} has a stage already; it holds at most one", name));
    const auto stages_left = static_cast<std::uint32_t>(plan.stages.size() - i);
    const auto memory =
        sizes.stage(stage.first_layer, stage.end_layer, std::min(plan.micro_batches, stages_left));
    // 0: a plan written by hand leaves the sizes to the planner.
    if (stage.state_bytes != 0 && stage.state_bytes != memory.state_bytes())
      throw refuse(i, fmt::format("says {} bytes of state, the model has {}; plan again",
                                  stage.state_bytes, memory.state_bytes()));
    const auto need = memory.state_bytes() + memory.activation_bytes;
    if (need > available(topology, stage.device))
      throw refuse(i, fmt::format("needs {} of state and activations; {} has {} available",
                                  format_bytes(need), name,
                                  format_bytes(available(topology, stage.device))));
  }
  if (next != model.layers.size())
    throw refuse(plan.stages.size() - 1, fmt::format("ends at layer {} of {}; the rest is nowhere",
                                                     next, model.layers.size()));
}

}  // namespace causeway
