// make_plan and check_plan: from a model and a topology to stages on named devices.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <set>

#include "causeway/plan.h"
#include "runtime/placement/chain_search.h"
#include "runtime/placement/plan_problem.h"

namespace causeway {

namespace {

constexpr std::uint32_t kMaxMicroBatches = 1u << 20;
constexpr std::size_t kMaxDevices = 1024;       // Every pair of them is looked at.
constexpr std::size_t kMaxLayers = 4096;        // So is every pair of these, per type of device.
constexpr std::size_t kMaxNodeChoices = 256;    // Each is a search of its own.
constexpr std::uint16_t kMostMoreDevices = 16;  // That a refusal considers.

std::vector<DeviceName> candidates(const Topology& topology, const PlanOptions& options) {
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

std::vector<DeviceName> usable_devices(const Topology& topology, const PlanOptions& options) {
  auto devices = candidates(topology, options);
  for (const auto& node : options.avoid)
    if (std::ranges::find(topology.nodes(), node) == topology.nodes().end())
      throw Error(Errc::not_found, fmt::format("node {} is not in '{}'; its nodes: {}", node,
                                               topology.name(), fmt::join(topology.nodes(), ", ")));
  std::erase_if(devices, [&](const DeviceName& device) {
    return std::ranges::find(options.avoid, device.node) != options.avoid.end();
  });
  if (devices.empty())
    throw Error(Errc::invalid_argument, fmt::format("'{}' has no device left to plan for: every "
                                                    "node is to be avoided",
                                                    topology.name()));
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

// "; one more device like desktop/gpu0 would do": the least of that kind with which a plan exists,
// and the most micro-batches with which one does. Empty if neither helps.
std::string what_would_fit(const ModelSpec& model, const Topology& topology,
                           const std::vector<DeviceName>& devices, const PlanProblem& chain,
                           const PlanOptions& options, const DeviceName& largest) {
  const auto feasible = [](const ChainProblem& problem) {
    return !search_chain(problem, 1'000'000).stages.empty();
  };
  std::string advice;
  const auto& types = chain.types().types;
  const auto type = static_cast<std::size_t>(
      std::ranges::find_if(types,
                           [&](const DeviceType& each) {
                             return std::ranges::find(each.devices, largest) != each.devices.end();
                           }) -
      types.begin());
  auto more = chain.problem();
  // Another of its kind would be as near to it as the nearest device is.
  more.send_seconds = [&](std::size_t from, std::size_t to, std::uint32_t boundary) {
    const double seconds = chain.problem().send_seconds(from, to, boundary);
    return from == type && to == type && seconds == ChainProblem::kImpossible ? 0 : seconds;
  };
  for (std::uint16_t n = 1; n <= kMostMoreDevices; ++n) {
    ++more.counts[type];
    if (!feasible(more)) continue;
    advice = n == 1 ? fmt::format("; one more device like {} would do", largest.to_string())
                    : fmt::format("; {} more devices like {} would do", n, largest.to_string());
    break;
  }
  for (auto fewer = options.micro_batches; fewer > 1;) {
    fewer /= 2;
    auto changed = options;
    changed.micro_batches = fewer;
    const PlanProblem other(model, topology, devices, changed);
    if (!feasible(other.problem())) continue;
    advice += fmt::format("; {} micro-batch{} in place of {} would do", fewer,
                          fewer == 1 ? "" : "es", options.micro_batches);
    break;
  }
  return advice;
}

// Why there is no plan: the first of these that is true is what the user can act on.
Error explain_infeasible(const ModelSpec& model, const Topology& topology,
                         const std::vector<DeviceName>& devices, const PlanProblem& chain,
                         const PlanOptions& options, const ChainResult& result) {
  const auto& sizes = chain.sizes();
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
  const auto advice = what_would_fit(model, topology, devices, chain, options, largest);
  if (need > sum) return {Errc::out_of_memory, needs + "; use more devices" + advice};
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
  return {
      Errc::out_of_memory,
      fmt::format("{}, but no split into {} of whole layers fits with {} micro-batches in "
                  "flight{}; use more devices, another number of stages or fewer micro-batches{}",
                  needs, stages, options.micro_batches,
                  options.pins.empty() ? "" : " and the layers that are pinned", advice)};
}

void check_options(const ModelSpec& model, const PlanOptions& options, std::size_t devices) {
  if (options.micro_batches < 1 || options.micro_batches > kMaxMicroBatches)
    throw Error(Errc::invalid_argument, fmt::format("micro_batches is {}; write 1 to {}",
                                                    options.micro_batches, kMaxMicroBatches));
  if (devices > kMaxDevices)
    throw Error(Errc::invalid_argument,
                fmt::format("{} devices; at most {} are planned for, so name the ones to use",
                            devices, kMaxDevices));
  if (model.layers.size() > kMaxLayers)
    throw Error(Errc::invalid_argument,
                fmt::format("model '{}' has {} layers; at most {} are planned for, so describe "
                            "several as one",
                            model.name, model.layers.size(), kMaxLayers));
  if (options.stages > model.layers.size())
    throw Error(Errc::invalid_argument,
                fmt::format("{} stages for the {} layers of model '{}'; a stage holds at least one",
                            options.stages, model.layers.size(), model.name));
  if (options.most_sharing < 1 || options.most_sharing > kMostSharing)
    throw Error(Errc::invalid_argument, fmt::format("{} devices may share a stage; write 1 to {}",
                                                    options.most_sharing, kMostSharing));
  if (options.stages > devices)
    throw Error(Errc::invalid_argument,
                fmt::format("{} stages on {} devices; a device holds at most one stage",
                            options.stages, devices));
}

std::string_view unit_of(Objective objective) {
  return objective == Objective::cost ? "" : objective == Objective::energy ? " J" : " s";
}

std::string certificate_of(const ChainResult& result, const PlanOptions& options) {
  const auto objective = options.objective;
  // Of what is searched: more devices could do more with a stage together.
  const auto what = fmt::format(
      "{} among pipelines of {}",
      objective == Objective::time ? "" : fmt::format(" in {}", to_string(objective)),
      options.most_sharing > 1
          ? fmt::format("single devices and groups of up to {} (powers of two of one or two kinds "
                        "on a node, in parts by speed or memory)",
                        options.most_sharing)
          : "single devices");
  if (result.exact)
    return fmt::format("optimal{}: exact dynamic programming over {} states", what, result.states);
  if (result.lower_bound <= 0)
    return fmt::format("best of {} states; nothing is known of the gap", result.states);
  return fmt::format("within {:.1f}% of optimal{}: stopped after {} states, lower bound {:.6g}{}",
                     100 * (result.value / result.lower_bound - 1), what, result.states,
                     result.lower_bound, unit_of(objective));
}

// The sets of nodes that may be used together: all, or each of so many.
std::vector<std::vector<DeviceName>> node_choices(const std::vector<DeviceName>& devices,
                                                  std::uint32_t most_nodes) {
  std::vector<std::string> nodes;
  for (const auto& device : devices)
    if (std::ranges::find(nodes, device.node) == nodes.end()) nodes.push_back(device.node);
  if (most_nodes == 0 || nodes.size() <= most_nodes) return {devices};
  std::vector<std::vector<DeviceName>> choices;
  std::vector<char> chosen(nodes.size(), 0);
  std::fill_n(chosen.begin(), most_nodes, 1);
  do {
    if (choices.size() == kMaxNodeChoices)
      throw Error(Errc::invalid_argument,
                  fmt::format("more than {} ways to choose {} of {} nodes; name the devices to use",
                              kMaxNodeChoices, most_nodes, nodes.size()));
    auto& choice = choices.emplace_back();
    for (const auto& device : devices)
      if (chosen[static_cast<std::size_t>(std::ranges::find(nodes, device.node) - nodes.begin())] !=
          0)
        choice.push_back(device);
  } while (std::prev_permutation(chosen.begin(), chosen.end()));
  return choices;
}

Plan plan_of(const ModelSpec& model, const PlanProblem& chain, const ChainResult& result,
             const PlanOptions& options) {
  const auto& types = chain.types().types;
  Plan plan;
  plan.model = model.name;
  plan.micro_batches = options.micro_batches;
  plan.step_seconds = result.step_seconds;
  plan.certificate = certificate_of(result, options);
  std::vector<std::size_t> next(types.size());
  for (const auto& stage : result.stages) {
    const auto stages_left = static_cast<std::uint32_t>(result.stages.size() - plan.stages.size());
    std::vector<PlanShare> shares;
    for (const auto& members : chain.group(stage.option)) {
      const auto memory =
          chain.sizes().stage(stage.first_layer, stage.end_layer,
                              std::min(options.micro_batches, stages_left), members.share);
      for (int i = 0; i < members.count; ++i)
        shares.push_back({types[members.type].devices[next[members.type]++], members.share,
                          memory.state_bytes(), memory.activation_bytes});
    }
    const auto& own = shares.front();
    plan.stages.push_back({own.device,
                           stage.first_layer,
                           stage.end_layer,
                           own.state_bytes,
                           own.activation_bytes,
                           stage.seconds,
                           {shares.begin() + 1, shares.end()}});
  }
  return plan;
}

}  // namespace

static constexpr std::array<std::string_view, 5> kObjectives{"time", "throughput", "latency",
                                                             "cost", "energy"};

std::string_view to_string(Objective value) noexcept {
  return kObjectives[static_cast<std::size_t>(value)];
}

std::optional<Objective> objective_from_string(std::string_view name) noexcept {
  const auto at = std::ranges::find(kObjectives, name);
  if (at == kObjectives.end()) return std::nullopt;
  return static_cast<Objective>(at - kObjectives.begin());
}

Plan make_plan(const ModelSpec& model, const Topology& given, const PlanOptions& options) {
  model.validate();
  const auto topology = with_margins(given, options);
  const auto devices = usable_devices(topology, options);
  check_options(model, options, devices.size());
  const auto choices = node_choices(devices, options.most_nodes);
  std::optional<Plan> best;
  double best_value = 0;
  double lower_bound = std::numeric_limits<double>::infinity();
  bool exact = true;
  std::uint64_t states = 0;
  for (const auto& choice : choices) {
    if (options.stages > choice.size()) continue;
    if (std::ranges::any_of(options.pins, [&](const PlanPin& pin) {
          return std::ranges::find(choice, pin.device) == choice.end() &&
                 std::ranges::find(devices, pin.device) != devices.end();
        }))
      continue;
    const PlanProblem chain(model, topology, choice, options);
    auto result = search_chain(chain.problem());
    exact = exact && result.exact;
    states += result.states;
    if (!result.stages.empty() || !result.exact)
      lower_bound = std::min(lower_bound, result.lower_bound);
    if (result.stages.empty()) {
      if (choices.size() == 1)
        throw explain_infeasible(model, topology, choice, chain, options, result);
      continue;
    }
    if (best && result.value >= best_value) continue;
    best_value = result.value;
    best = plan_of(model, chain, result, options);
  }
  if (!best)
    throw Error(
        exact ? Errc::out_of_memory : Errc::exhausted,
        fmt::format("model '{}' was found to fit on no {}; allow more nodes", model.name,
                    options.most_nodes == 1 ? std::string("single node")
                                            : fmt::format("{} of the nodes", options.most_nodes)));
  if (choices.size() > 1) {
    ChainResult all;
    all.value = best_value;
    all.lower_bound = lower_bound;
    all.exact = exact;
    all.states = states;
    best->certificate = certificate_of(all, options);
  }
  return *best;
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
    if (stage.first_layer != next || stage.end_layer <= stage.first_layer ||
        stage.end_layer > model.layers.size())
      throw refuse(i, fmt::format("holds layers [{}, {}); it must start at {} and end by {}",
                                  stage.first_layer, stage.end_layer, next, model.layers.size()));
    next = stage.end_layer;
    const auto stages_left = static_cast<std::uint32_t>(plan.stages.size() - i);
    for (const auto& share : stage.shares()) {
      const auto name = share.device.to_string();
      if (topology.find(share.device) == nullptr)
        throw refuse(i, fmt::format("device {} is not in '{}'", name, topology.name()));
      if (!seen.insert(share.device).second)
        throw refuse(i, fmt::format("device {} has a stage already; it holds at most one", name));
      if (!(share.share > 0 && share.share <= 1))
        throw refuse(i, fmt::format("{} has a share of {}; shares are above 0 and sum up to 1",
                                    name, share.share));
      if (share.device.node != stage.device.node)
        throw refuse(i, fmt::format("{} and {} share it, on two nodes; only devices of one can",
                                    stage.device.to_string(), name));
      const auto memory = sizes.stage(stage.first_layer, stage.end_layer,
                                      std::min(plan.micro_batches, stages_left), share.share);
      // 0: a plan written by hand leaves the sizes to the planner.
      if (share.state_bytes != 0 && share.state_bytes != memory.state_bytes())
        throw refuse(i, fmt::format("says {} bytes of state on {}, the model has {}; plan again",
                                    share.state_bytes, name, memory.state_bytes()));
      const auto need = memory.state_bytes() + memory.activation_bytes;
      if (need > available(topology, share.device))
        throw refuse(i, fmt::format("needs {} of state and activations; {} has {} available",
                                    format_bytes(need), name,
                                    format_bytes(available(topology, share.device))));
    }
  }
  if (next != model.layers.size())
    throw refuse(plan.stages.size() - 1, fmt::format("ends at layer {} of {}; the rest is nowhere",
                                                     next, model.layers.size()));
}

}  // namespace causeway
