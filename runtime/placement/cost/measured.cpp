// Calibration: reading, the fit, and a topology with measured links.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "causeway/calibration.h"
#include "causeway/gpu_catalogue.h"
#include "runtime/placement/cost/calibration.h"
#include "runtime/placement/cost/serving_cost.h"
#include "runtime/topology/yaml_tree.h"

namespace causeway {

namespace {

constexpr std::size_t kMaxSteps = 4096;
constexpr std::size_t kMaxLinks = 16384;
constexpr std::size_t kMaxPairs = std::size_t{1} << 20;  // That figures of nodes may stand for.
constexpr std::size_t kMaxNameBytes = 256;
constexpr double kMostWork = 1e30;
constexpr double kLeastSeconds = 1e-9;
constexpr double kMostSeconds = 1e7;
constexpr double kLeastBandwidth = 1;
constexpr double kMostBandwidth = 1e16;
constexpr double kMostLatency = 60;

MeasuredStep read_step(const YamlField& entry) {
  entry.expect_map("a measured step", {"device", "flops", "bytes", "layers", "seconds"});
  MeasuredStep step;
  const auto device = entry.require("device", "the GPU's model: rtx-4090");
  step.device = device.text("the GPU's model: rtx-4090");
  const bool control =
      std::ranges::any_of(step.device, [](char c) { return static_cast<unsigned char>(c) < 0x20; });
  if (step.device.empty() || step.device.size() > kMaxNameBytes || control)
    throw device.error("write the GPU's model, such as rtx-4090");
  if (const auto flops = entry.find("flops")) step.flops = flops->number(0, kMostWork);
  if (const auto bytes = entry.find("bytes")) step.bytes = bytes->number(0, kMostWork);
  if (const auto layers = entry.find("layers"))
    step.layers = static_cast<std::uint32_t>(layers->whole_number(0, 1u << 20));
  step.seconds =
      entry.require("seconds", "what it took: 0.021").number(kLeastSeconds, kMostSeconds);
  if (step.flops == 0 && step.bytes == 0 && step.layers == 0)
    throw entry.error("say what was done in that time: flops, bytes or layers");
  return step;
}

MeasuredLink read_link(const YamlField& entry) {
  entry.expect_map("a measured link", {"from", "to", "bandwidth_bytes_per_s", "latency_s"});
  MeasuredLink link;
  link.from = entry.require("from", "a device: desktop/gpu0").device_name("a device: desktop/gpu0");
  link.to = entry.require("to", "a device: hgx/gpu0").device_name("a device: hgx/gpu0");
  link.bandwidth_bytes_per_s = entry.require("bandwidth_bytes_per_s", "such as 2.5e9")
                                   .number(kLeastBandwidth, kMostBandwidth);
  if (const auto latency = entry.find("latency_s"))
    link.latency_s = latency->number(0, kMostLatency);
  return link;
}

// One of `topo measure --json`. Those between its own processes are no pair of devices, and what
// was not measured has no figure.
std::optional<MeasuredLink> read_measurement(const YamlField& entry) {
  entry.expect_map("a measurement of `causeway topo measure`",
                   {"what", "from", "to", "bandwidth_bytes_per_s", "reference_bytes_per_s",
                    "reference", "remark", "skipped"});
  const auto what = entry.require("what", "memory or network").text("memory or network");
  const auto figure = entry.require("bandwidth_bytes_per_s", "a number, or null");
  if ((what != "memory" && what != "network") || figure.kind() == YamlNode::Kind::null)
    return std::nullopt;
  return MeasuredLink{entry.require("from", "a device").device_name("a device"),
                      entry.require("to", "a device").device_name("a device"),
                      figure.number(kLeastBandwidth, kMostBandwidth)};
}

// A device's specification as a start: what its steps say little of stays near it.
struct Prior {
  double flops_per_s = 0;
  double bytes_per_s = 0;
};

Prior prior_of(const std::string& device, const std::vector<const MeasuredStep*>& steps) {
  Prior prior;
  for (const auto* step : steps) {
    prior.flops_per_s = std::max(prior.flops_per_s, step->flops / step->seconds);
    prior.bytes_per_s = std::max(prior.bytes_per_s, step->bytes / step->seconds);
  }
  if (find_gpu_model(device) == nullptr) return prior;
  const auto rates = rates_of(device);
  return {rates.gemm_flops_per_s(),
          EngineOverheads{}.decode_bandwidth * rates.spec_bandwidth_bytes_per_s};
}

double mean_error(const CalibratedDevice& device, const std::vector<const MeasuredStep*>& steps,
                  std::size_t first) {
  double sum = 0;
  std::size_t count = 0;
  for (std::size_t i = first; i < steps.size(); i += 2, ++count)
    sum += std::abs(device.seconds(steps[i]->flops, steps[i]->bytes, steps[i]->layers, 1, 1) /
                        steps[i]->seconds -
                    1);
  return count == 0 ? 0 : sum / static_cast<double>(count);
}

CalibratedDevice fit_device(const std::string& name,
                            const std::vector<const MeasuredStep*>& steps) {
  // Of a rate's logarithm over the prior's: emulated devices are slower by orders of magnitude.
  constexpr double kSlowest = -14;
  constexpr double kFastest = 5;
  constexpr double kPriorWeight = 0.003;  // Far under what a step weighs that is 1% off.
  const auto prior = prior_of(name, steps);
  double most_layer_s = kLeastSeconds;  // No layer takes longer than all of a step.
  for (const auto* step : steps)
    if (step->layers > 0) most_layer_s = std::max(most_layer_s, step->seconds / step->layers);
  CalibratedDevice device;
  device.device = name;
  device.held_out_steps = steps.size() / 2;
  device.fitted_steps = steps.size() - device.held_out_steps;
  const auto any = [&](auto&& has) { return std::ranges::any_of(steps, has); };
  const bool has_flops = any([](const auto* step) { return step->flops > 0; });
  const bool has_bytes = any([](const auto* step) { return step->bytes > 0; });
  const auto with = [&](const std::vector<double>& at) {
    auto result = device;
    if (has_flops) result.flops_per_s = prior.flops_per_s * std::exp(at[0]);
    if (has_bytes) result.bytes_per_s = prior.bytes_per_s * std::exp(at[1]);
    result.layer_s = at[2];
    return result;
  };
  const auto residuals = [&](const std::vector<double>& at) {
    const auto trial = with(at);
    std::vector<double> result;
    for (std::size_t i = 0; i < steps.size(); i += 2) {
      const double predicted =
          trial.seconds(steps[i]->flops, steps[i]->bytes, steps[i]->layers, 1, 1);
      result.push_back(std::log(std::max(predicted, 1e-12) / steps[i]->seconds));
    }
    const double weight = kPriorWeight * std::sqrt(static_cast<double>(result.size()));
    result.push_back(weight * at[0]);
    result.push_back(weight * at[1]);
    result.push_back(weight * at[2] / most_layer_s);
    return result;
  };
  device =
      with(fit_coefficients(residuals, {kSlowest, kSlowest, 0}, {kFastest, kFastest, most_layer_s})
               .coefficients);
  device.fitted_error = mean_error(device, steps, 0);
  if (device.held_out_steps > 0) device.held_out_error = mean_error(device, steps, 1);
  return device;
}

// Its own figures, where the topology has both devices; between nodes those of all their devices.
std::vector<Pair> pairs_of(const MeasuredLink& link, const Topology& topology) {
  const auto pair_of = [&](const DeviceName& from, const DeviceName& to) {
    Pair pair{from.to_string(), to.to_string()};
    pair.bandwidth_bytes_per_s = Figure{link.bandwidth_bytes_per_s, Provenance::measured};
    if (link.latency_s) pair.latency_s = Figure{*link.latency_s, Provenance::measured};
    return pair;
  };
  std::vector<Pair> pairs;
  if (topology.find(link.from) == nullptr || topology.find(link.to) == nullptr) return pairs;
  if (link.from.node == link.to.node) {
    if (link.from != link.to) pairs.push_back(pair_of(link.from, link.to));
    return pairs;
  }
  for (const auto& from : topology.devices())
    for (const auto& to : topology.devices())
      if (from.name.node == link.from.node && to.name.node == link.to.node)
        pairs.push_back(pair_of(from.name, to.name));
  return pairs;
}

}  // namespace

double CalibratedDevice::seconds(double flops, double bytes, double layers,
                                 double other_flops_per_s,
                                 double other_bytes_per_s) const noexcept {
  return std::max(flops / flops_per_s.value_or(other_flops_per_s),
                  bytes / bytes_per_s.value_or(other_bytes_per_s)) +
         layers * layer_s;
}

Calibration Calibration::from_file(const std::string& path) {
  return from_yaml(read_text_file(path, kMaxYamlBytes), path);
}

Calibration Calibration::from_yaml(std::string_view text, const std::string& origin) {
  const YamlNode tree = parse_yaml(text, origin);
  const YamlField root(tree, origin);
  root.expect_map("a calibration", {"steps", "links", "measurements", "file"});
  Calibration result;
  if (const auto steps = root.find("steps"))
    for (const auto& entry :
         steps->items("[{device: rtx-4090, flops: 1e12, seconds: 0.01}]", kMaxSteps))
      result.steps.push_back(read_step(entry));
  if (const auto links = root.find("links"))
    for (const auto& entry :
         links->items("[{from: a/gpu0, to: b/gpu0, bandwidth_bytes_per_s: 1e9}]", kMaxLinks))
      result.links.push_back(read_link(entry));
  if (const auto list = root.find("measurements"))
    for (const auto& entry : list->items("what `causeway topo measure --json` prints", kMaxLinks))
      if (auto link = read_measurement(entry)) result.links.push_back(std::move(*link));
  if (result.steps.empty() && result.links.empty())
    throw root.error(
        "it holds no figure; write steps, such as [{device: rtx-4090, flops: 1e12, seconds: "
        "0.01}], or give what `causeway topo measure --json` prints");
  return result;
}

std::string Calibration::to_yaml() const {
  std::string text;
  if (!steps.empty()) text += "steps:\n";
  for (const auto& step : steps)
    text += fmt::format("  - {{device: {}, flops: {}, bytes: {}, layers: {}, seconds: {}}}\n",
                        yaml_scalar(step.device), yaml_number(step.flops), yaml_number(step.bytes),
                        step.layers, yaml_number(step.seconds));
  if (!links.empty()) text += "links:\n";
  for (const auto& link : links)
    text += fmt::format(
        "  - {{from: {}, to: {}, bandwidth_bytes_per_s: {}{}}}\n",
        yaml_scalar(link.from.to_string()), yaml_scalar(link.to.to_string()),
        yaml_number(link.bandwidth_bytes_per_s),
        link.latency_s ? fmt::format(", latency_s: {}", yaml_number(*link.latency_s)) : "");
  return text;
}

std::vector<CalibratedDevice> Calibration::fit() const {
  std::vector<std::string> names;
  for (const auto& step : steps)
    if (std::ranges::find(names, step.device) == names.end()) names.push_back(step.device);
  std::vector<CalibratedDevice> devices;
  for (const auto& name : names) {
    std::vector<const MeasuredStep*> own;
    for (const auto& step : steps)
      if (step.device == name) own.push_back(&step);
    devices.push_back(fit_device(name, own));
  }
  // The slowest of the hosts' memories, as one figure stands for all.
  std::optional<double> host;
  for (const auto& link : links)
    if (link.from == link.to && link.from.kind == DeviceKind::host)
      host = std::min(host.value_or(link.bandwidth_bytes_per_s), link.bandwidth_bytes_per_s);
  if (host && std::ranges::find(names, "host") == names.end()) {
    devices.push_back({});
    devices.back().device = "host";
    devices.back().bytes_per_s = host;
  }
  return devices;
}

Topology Calibration::applied_to(const Topology& topology) const {
  auto graph = topology.graph();
  std::map<std::pair<std::string, std::string>, Pair> measured;
  for (const auto& link : links) {
    // A later figure of the same pair stands.
    for (auto& pair : pairs_of(link, topology))
      measured.insert_or_assign(std::pair(pair.from, pair.to), pair);
    if (measured.size() > kMaxPairs)
      throw Error(Errc::invalid_argument,
                  fmt::format("the calibration's links stand for more than {} pairs of devices",
                              kMaxPairs));
  }
  for (auto& pair : graph.pairs) {
    const auto at = measured.find(std::pair(pair.from, pair.to));
    if (at == measured.end()) continue;
    pair.bandwidth_bytes_per_s = at->second.bandwidth_bytes_per_s;
    if (at->second.latency_s) pair.latency_s = at->second.latency_s;
    measured.erase(at);
  }
  for (auto& [names, pair] : measured) graph.pairs.push_back(std::move(pair));
  Topology result(std::move(graph));
  for (const auto& device : topology.devices())
    result.set_available(device.name, device.available_bytes);
  return result;
}

}  // namespace causeway
