#include <fmt/format.h>

#include <map>
#include <set>

#include "causeway/gpu_catalogue.h"
#include "causeway/topology.h"
#include "runtime/topology/link_rates.h"

namespace causeway {

namespace {

const GpuModel& model_of(const DeviceSpec& spec) {
  if (const auto* found = find_gpu_model(spec.model)) return *found;
  throw Error(Errc::invalid_argument,
              fmt::format("device {}: GPU '{}' is not in the catalogue; write one of its names",
                          spec.name.to_string(), spec.model));
}

Component component_of(const DeviceSpec& spec) {
  Component component;
  component.name = spec.name.to_string();
  component.node = spec.name.node;
  component.model = spec.model;
  component.capacity_bytes = spec.capacity_bytes;
  component.kind = spec.name.kind == DeviceKind::gpu ? ComponentKind::gpu : ComponentKind::host;
  if (component.kind == ComponentKind::host) component.numa = spec.name.index;
  if (component.kind == ComponentKind::gpu) component.title = model_of(spec).title;
  return component;
}

// One CPU per NUMA node with memory, each joined to the first; without any, one CPU.
std::vector<std::string> add_cpus(TopologyGraph& graph, const NodeSpec& node) {
  std::vector<std::string> cpus;
  for (const auto& spec : node.devices) {
    if (spec.name.kind != DeviceKind::host) continue;
    Component cpu;
    cpu.name = fmt::format("{}/cpu{}", node.name, spec.name.index);
    cpu.kind = ComponentKind::cpu;
    cpu.node = node.name;
    cpu.numa = spec.name.index;
    graph.links.push_back({LinkKind::memory, spec.name.to_string(), cpu.name});
    cpus.push_back(cpu.name);
    graph.components.push_back(std::move(cpu));
  }
  if (cpus.empty()) {
    Component cpu;
    cpu.name = node.name + "/cpu0";
    cpu.kind = ComponentKind::cpu;
    cpu.node = node.name;
    cpus.push_back(cpu.name);
    graph.components.push_back(std::move(cpu));
  }
  for (std::size_t a = 0; a < cpus.size(); ++a)
    for (std::size_t b = a + 1; b < cpus.size(); ++b)
      graph.links.push_back({LinkKind::socket, cpus[a], cpus[b]});
  return cpus;
}

// Several GPUs of a model that comes with NVSwitch are one domain.
void add_nvswitches(TopologyGraph& graph, const NodeSpec& node) {
  std::map<std::string, std::vector<const DeviceSpec*>> by_model;
  for (const auto& spec : node.devices)
    if (spec.name.kind == DeviceKind::gpu && model_of(spec).has_nvswitch_form)
      by_model[spec.model].push_back(&spec);
  int number = 0;
  for (const auto& [name, gpus] : by_model) {
    if (gpus.size() < 2) continue;
    Component nvswitch;
    nvswitch.name = fmt::format("{}/nvswitch{}", node.name, number++);
    nvswitch.kind = ComponentKind::nvswitch;
    nvswitch.node = node.name;
    for (const auto* spec : gpus) {
      TopologyLink link{LinkKind::nvlink, spec->name.to_string(), nvswitch.name};
      if (const auto rate = model_of(*spec).nvlink_bytes_per_s)
        link.effective_bytes_per_s = Figure{*rate, Provenance::spec};
      graph.links.push_back(std::move(link));
    }
    graph.components.push_back(std::move(nvswitch));
  }
}

void add_node(TopologyGraph& graph, const NodeSpec& node) {
  TopologyNode entry;
  entry.name = node.name;
  entry.nvlinks_known = true;
  graph.nodes.push_back(std::move(entry));
  std::set<DeviceName> seen;
  for (const auto& spec : node.devices) {
    if (!seen.insert(spec.name).second)
      throw Error(Errc::invalid_argument,
                  fmt::format("device {} is in the cluster twice", spec.name.to_string()));
    graph.components.push_back(component_of(spec));
  }
  const auto cpus = add_cpus(graph, node);
  for (const auto& spec : node.devices) {
    if (spec.name.kind != DeviceKind::gpu) continue;
    TopologyLink link{LinkKind::pcie, spec.name.to_string(), {}};
    link.pcie = {static_cast<std::uint32_t>(model_of(spec).pcie_generation), 16};
    for (const auto& cpu : cpus) {
      link.b = cpu;
      graph.links.push_back(link);
    }
  }
  add_nvswitches(graph, node);
}

}  // namespace

TopologyGraph graph_of_cluster(const ClusterSpec& cluster) {
  TopologyGraph graph;
  graph.name = cluster.name;
  std::set<std::string_view> names;
  for (const auto& node : cluster.nodes) {
    add_node(graph, node);
    names.insert(node.name);
  }
  for (const auto& spec : cluster.links) {
    for (const auto& end : {spec.node_a, spec.node_b})
      if (!names.contains(end))
        throw Error(Errc::invalid_argument, fmt::format("link {} - {}: no node is named '{}'",
                                                        spec.node_a, spec.node_b, end));
    TopologyLink link{LinkKind::network, spec.node_a, spec.node_b};
    link.effective_bytes_per_s = Figure{spec.bandwidth_bytes_per_s, Provenance::spec};
    link.latency_s = Figure{spec.latency_s, Provenance::spec};
    graph.links.push_back(std::move(link));
  }
  fill_rates(graph);
  return graph;
}

}  // namespace causeway
