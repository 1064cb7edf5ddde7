#include "runtime/placement/plan_problem.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "causeway/gpu_catalogue.h"
#include "runtime/placement/cost/device_rates.h"
#include "runtime/placement/cost/runtime_memory.h"
#include "runtime/placement/cost/serving_cost.h"

namespace causeway {

namespace {

constexpr double kTrainingFlopsPerForward = 3;  // Backward counts twice.
constexpr double kSecondsPerHour = 3600;
constexpr double kHostBytesPerS = 50e9;  // A server's memory, as its cores read it.
constexpr double kHostFlopsPerS = 1e12;
constexpr double kIdleShare = 0.25;  // Of a board's watts.

std::vector<std::uint32_t> marks_of(const ModelSpec& model, const std::vector<DeviceName>& devices,
                                    const PlanOptions& options) {
  std::vector<std::uint32_t> marks(devices.size(), 0);
  for (const auto& pin : options.pins) {
    if (pin.layer >= model.layers.size())
      throw Error(Errc::invalid_argument,
                  fmt::format("layer {} is pinned to {}, but model '{}' has {} layers", pin.layer,
                              pin.device.to_string(), model.name, model.layers.size()));
    const auto at = std::ranges::find(devices, pin.device);
    if (at == devices.end())
      throw Error(Errc::invalid_argument,
                  fmt::format("layer {} is pinned to {}, which this plan may not use", pin.layer,
                              pin.device.to_string()));
    const auto index = static_cast<std::size_t>(at - devices.begin());
    marks[index] = static_cast<std::uint32_t>(index) + 1;
  }
  return marks;
}

// Of the values that a pass reads, those in blocks.
double quantised_values(const LayerSpec& layer) {
  double values = 0;
  for (const auto& tensor : layer.tensors)
    if (block_of(tensor.dtype).elements > 1) values += static_cast<double>(tensor.elements());
  const auto bytes = layer.weight_bytes();
  return bytes == 0 ? 0
                    : values * static_cast<double>(layer.bytes_read()) / static_cast<double>(bytes);
}

}  // namespace

PlanProblem::ServingRates PlanProblem::serving_rates_of(const std::string& model) {
  const EngineOverheads engine;
  constexpr double kAnyRate = std::numeric_limits<double>::infinity();
  if (find_gpu_model(model) == nullptr)
    return {kHostFlopsPerS, engine.decode_bandwidth * kHostBytesPerS, kAnyRate};
  const auto rates = rates_of(model);
  return {rates.gemm_flops_per_s(), engine.decode_bandwidth * rates.spec_bandwidth_bytes_per_s,
          rates.multiprocessor_hz ? engine.unpack_per_cycle * *rates.multiprocessor_hz : kAnyRate};
}

Topology with_margins(const Topology& topology, const PlanOptions& options) {
  if (!(options.margin >= 0 && options.margin < 1))
    throw Error(Errc::invalid_argument,
                fmt::format("margin is {}; write a share from 0 to below 1", options.margin));
  auto result = topology;
  for (const auto& device : topology.devices())
    result.set_available(device.name,
                         static_cast<std::uint64_t>(static_cast<double>(device.available_bytes) *
                                                    (1 - options.margin)));
  if (options.reserve_runtime)
    for (const auto& device : topology.devices()) {
      const auto left = result.find(device.name)->available_bytes;
      const auto taken = runtime_reserve_bytes(device.model, device.capacity_bytes);
      result.set_available(device.name, left - std::min(left, taken));
    }
  for (const auto& [name, bytes] : options.margins) {
    const auto* device = result.find(name);
    if (device == nullptr)
      throw Error(Errc::not_found, fmt::format("margin of {}: it is not in '{}'", name.to_string(),
                                               topology.name()));
    result.set_available(name, device->available_bytes - std::min(device->available_bytes, bytes));
  }
  return result;
}

PlanProblem::PlanProblem(const ModelSpec& model, const Topology& topology,
                         const std::vector<DeviceName>& devices, const PlanOptions& options)
    : sizes_(model),
      types_(collapse_devices(topology, devices, marks_of(model, devices, options))),
      work_before_{0},
      pinned_(types_.types.size()),
      forward_before_{0},
      read_before_{0},
      quantised_before_{0},
      micro_batches_(options.micro_batches),
      serving_(options.serving) {
  for (const auto& type : types_.types) {
    const auto at = std::ranges::find(options.calibrated, type.model, &CalibratedDevice::device);
    calibrated_.push_back(at == options.calibrated.end() ? std::nullopt : std::optional(*at));
    serving_rates_.push_back(serving_rates_of(type.model));
  }
  for (const auto& layer : model.layers) {
    const double work = kTrainingFlopsPerForward * layer.forward_flops;
    work_before_.push_back(work_before_.back() + work);
    // Serving has no one figure that its time grows with on every device.
    if (!options.serving) problem_.work.push_back(work);
    send_bytes_.push_back(layer.output_bytes);
    sent_before_.push_back(sent_before_.back() + static_cast<double>(layer.output_bytes));
    forward_before_.push_back(forward_before_.back() + layer.forward_flops);
    read_before_.push_back(read_before_.back() + static_cast<double>(layer.bytes_read()) +
                           static_cast<double>(layer.activation_bytes));
    quantised_before_.push_back(quantised_before_.back() + quantised_values(layer));
  }
  for (std::size_t type = 0; type < types_.types.size(); ++type) {
    const auto& held = types_.types[type].devices;
    for (const auto& pin : options.pins)
      if (std::ranges::find(held, pin.device) != held.end()) {
        pinned_[type].push_back(pin.layer);
        all_pinned_.push_back(pin.layer);
      }
    problem_.counts.push_back(static_cast<std::uint16_t>(held.size()));
    add_group({{type, 1, 1}});
  }
  if (options.most_sharing > 1) add_groups(options.most_sharing);
  std::ranges::sort(all_pinned_);
  problem_.layers = static_cast<std::uint32_t>(model.layers.size());
  problem_.objective = options.objective;
  problem_.micro_batches = options.micro_batches;
  problem_.stages = options.stages;
  problem_.seconds = [this](std::size_t option, std::uint32_t first, std::uint32_t end,
                            std::uint32_t behind) {
    return stage_seconds(option, first, end, behind);
  };
  problem_.send_seconds = [this](std::size_t from, std::size_t to, std::uint32_t boundary) {
    return send_seconds(groups_[from], groups_[to], boundary);
  };
  set_rates(options);
}

void PlanProblem::add_group(Group group) {
  ChainOption option;
  option.uses.assign(types_.types.size(), 0);
  for (const auto& members : group) option.uses[members.type] = members.count;
  problem_.options.push_back(std::move(option));
  groups_.push_back(std::move(group));
}

// Engines cut tensors in powers of two, and heads and widths are multiples of them.
void PlanProblem::add_groups(std::uint32_t most) {
  const auto& types = types_.types;
  // The node of all devices of a type that may share; empty: none of it may.
  const auto node_of = [&](std::size_t type) -> std::string {
    const auto& devices = types[type].devices;
    const bool is_apart = std::ranges::any_of(devices, [&](const DeviceName& device) {
      return device.node != devices.front().node || device.kind != DeviceKind::gpu;
    });
    return is_apart || !pinned_[type].empty() ? std::string() : devices.front().node;
  };
  const auto speed = [&](std::size_t type) {
    return serving_ ? serving_rates_[type].read_bytes_per_s : 1 / types[type].seconds_per_flop;
  };
  const auto memory = [&](std::size_t type) {
    return static_cast<double>(types[type].available_bytes);
  };
  const auto add_mixed = [&](std::size_t a, std::uint16_t of_a, std::size_t b, std::uint16_t of_b,
                             double weight_a, double weight_b) {
    const bool is_alike = types[a].model == types[b].model;
    if (is_alike && !std::has_single_bit(static_cast<unsigned>(of_a + of_b))) return;
    // Shares of few bits sum up to 1 exactly, in whatever order: what is left for the first is its.
    constexpr double kParts = 1 << 20;
    const double whole = of_a * weight_a + of_b * weight_b;
    const double share_b = std::round(weight_b / whole * kParts) / kParts;
    const double share_a = (1 - of_b * share_b) / of_a;
    if (share_a <= 0 || share_b <= 0) return;
    const Group group{{a, of_a, share_a}, {b, of_b, share_b}};
    if (link_within(group)) add_group(group);
  };
  for (std::size_t a = 0; a < types.size(); ++a) {
    const auto node = node_of(a);
    if (node.empty()) continue;
    const auto count_a = static_cast<std::uint32_t>(types[a].devices.size());
    for (std::uint16_t n = 2; n <= std::min(most, count_a); n = static_cast<std::uint16_t>(2 * n))
      if (const Group group{{a, n, 1.0 / n}}; link_within(group)) add_group(group);
    for (std::size_t b = a + 1; b < types.size(); ++b) {
      if (node_of(b) != node) continue;
      const auto count_b = static_cast<std::uint32_t>(types[b].devices.size());
      for (std::uint16_t i = 1; i <= std::min(most, count_a); i = static_cast<std::uint16_t>(2 * i))
        for (std::uint16_t k = 1; k <= std::min(most, count_b) && i + k <= static_cast<int>(most);
             k = static_cast<std::uint16_t>(2 * k)) {
          add_mixed(a, i, b, k, speed(a), speed(b));
          if (memory(a) != memory(b) && memory(a) > 0 && memory(b) > 0)
            add_mixed(a, i, b, k, memory(a), memory(b));
        }
    }
  }
}

std::optional<Rate> PlanProblem::link_within(const Group& group) const {
  std::optional<Rate> slowest;
  for (std::size_t i = 0; i < group.size(); ++i)
    for (std::size_t k = i; k < group.size(); ++k) {
      if (i == k && group[i].count == 1) continue;
      const auto& link = types_.link(group[i].type, group[k].type);
      if (!link) return std::nullopt;
      if (!slowest) slowest = link;
      slowest->bandwidth_bytes_per_s =
          std::min(slowest->bandwidth_bytes_per_s, link->bandwidth_bytes_per_s);
      slowest->latency_s = std::max(slowest->latency_s, link->latency_s);
    }
  return slowest;
}

double PlanProblem::seconds_of(std::size_t type, double share, std::uint32_t first,
                               std::uint32_t end) const {
  const auto over = [&](const std::vector<double>& before) {
    return share * (before[end] - before[first]);
  };
  const auto& measured = calibrated_[type];
  const double flop_s = types_.types[type].seconds_per_flop;
  if (!serving_)
    return measured
               ? measured->seconds(over(work_before_), 0, end - first, 1 / flop_s, kHostBytesPerS)
               : over(work_before_) * flop_s;
  const auto& rates = serving_rates_[type];
  if (measured)
    return measured->seconds(over(forward_before_), over(read_before_), end - first,
                             rates.flops_per_s, rates.read_bytes_per_s);
  // As decode_seconds() has it.
  const double read_s = std::hypot(over(read_before_) / rates.read_bytes_per_s,
                                   over(quantised_before_) / rates.unpacked_per_s);
  return std::max(read_s, over(forward_before_) / rates.flops_per_s) +
         (end - first) * EngineOverheads{}.layer_s;
}

double PlanProblem::compute_seconds(const Group& group, std::uint32_t first,
                                    std::uint32_t end) const {
  double slowest = 0;
  int devices = 0;
  for (const auto& members : group) {
    slowest = std::max(slowest, seconds_of(members.type, members.share, first, end));
    devices += members.count;
  }
  if (devices == 1) return slowest;
  const auto link = link_within(group);
  if (!link) return ChainProblem::kImpossible;
  // A layer sums up twice each way: behind the attention and behind its two products.
  const double sums = serving_ ? 2 : 4;
  const double steps = 2.0 * (devices - 1);
  const double bytes = sent_before_[end] - sent_before_[first];
  return slowest + sums * (steps * (end - first) * link->latency_s +
                           steps / devices * bytes / link->bandwidth_bytes_per_s);
}

double PlanProblem::stage_seconds(std::size_t option, std::uint32_t first, std::uint32_t end,
                                  std::uint32_t behind) const {
  const auto& group = groups_[option];
  // A pinned layer is on its device, and a device with pins holds all of them.
  const auto low = std::ranges::lower_bound(all_pinned_, first);
  const auto high = std::ranges::lower_bound(all_pinned_, end);
  const auto& own = pinned_[group.front().type];
  const auto here = std::ranges::count_if(
      own, [&](std::uint32_t layer) { return layer >= first && layer < end; });
  if (here != high - low || here != static_cast<std::ptrdiff_t>(own.size()))
    return ChainProblem::kImpossible;
  const auto in_flight = std::min(micro_batches_, behind + 1);
  for (const auto& members : group)
    if (sizes_.total_bytes(first, end, in_flight, members.share) >
        types_.types[members.type].available_bytes)
      return ChainProblem::kImpossible;
  return compute_seconds(group, first, end);
}

double PlanProblem::send_seconds(const Group& from, const Group& to, std::uint32_t boundary) const {
  const auto bytes = static_cast<double>(send_bytes_[boundary - 1]);
  double slowest = 0;
  for (const auto& a : from)
    for (const auto& b : to) {
      const auto& link = types_.link(a.type, b.type);
      if (!link) return ChainProblem::kImpossible;
      slowest = std::max(slowest, link->latency_s + bytes / link->bandwidth_bytes_per_s);
    }
  // Activations go on, and in training their gradients come back.
  return (serving_ ? 1 : 2) * slowest;
}

void PlanProblem::set_rates(const PlanOptions& options) {
  const bool cost = options.objective == Objective::cost;
  const bool energy = options.objective == Objective::energy;
  for (std::size_t type = 0; type < types_.types.size(); ++type) {
    const auto& model = types_.types[type].model;
    const auto price = options.price_per_hour.find(model);
    if (cost && price == options.price_per_hour.end())
      throw Error(Errc::invalid_argument,
                  fmt::format("the price of a '{}' is not known; say what an hour of it costs, or "
                              "keep off it",
                              model));
    problem_.price_per_s.push_back(
        price == options.price_per_hour.end() ? 0 : price->second / kSecondsPerHour);
    const auto given = options.watts.find(model);
    const auto watts =
        given != options.watts.end() ? std::optional(given->second) : board_watts(model);
    if (energy && !watts)
      throw Error(
          Errc::invalid_argument,
          fmt::format("the power of a '{}' is not known; say its watts, or keep off it", model));
    problem_.idle_watts.push_back(energy ? kIdleShare * *watts : 0);
    if (!energy) continue;
    for (std::size_t option = 0; option < groups_.size(); ++option)
      for (const auto& members : groups_[option])
        if (members.type == type)
          problem_.options[option].busy_watts += (1 - kIdleShare) * members.count * *watts;
  }
}

}  // namespace causeway
