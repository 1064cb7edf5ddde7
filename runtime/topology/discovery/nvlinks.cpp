// The part of gpus.h that follows NVLinks to their ends.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "runtime/topology/discovery/gpus.h"

namespace causeway {

namespace {

// Where the driver says that a link leads.
struct Ends {
  std::map<PciAddress, std::string> gpus;
  std::map<PciAddress, std::string> switches;
};

Ends ends_of(const TopologyGraph& graph) {
  Ends ends;
  for (const auto& component : graph.components) {
    if (!component.pci) continue;
    if (component.kind == ComponentKind::gpu) ends.gpus.emplace(*component.pci, component.name);
    if (component.kind == ComponentKind::nvswitch)
      ends.switches.emplace(*component.pci, component.name);
  }
  return ends;
}

// The CPU of a GPU: of its NUMA node, or the only one.
std::string cpu_of(const TopologyGraph& graph, const Component& gpu) {
  std::string only;
  for (const auto& component : graph.components) {
    if (component.kind != ComponentKind::cpu) continue;
    if (gpu.numa && component.numa == gpu.numa) return component.name;
    only = only.empty() ? component.name : "?";
  }
  return only == "?" ? std::string() : only;
}

class NvlinkBuilder {
 public:
  NvlinkBuilder(std::string prefix, TopologyGraph& graph, TopologyNode& node)
      : prefix_(std::move(prefix)), graph_(graph), node_(node), ends_(ends_of(graph)) {}

  void follow(const NvmlGpu& driver, const std::string& name) {
    for (const auto& link : driver.links) {
      if (link.is_active != true) continue;
      const auto end = end_of(link, name);
      if (end.empty())
        ++nowhere_[name];
      else
        ++counts_[{name, end}];
    }
  }

  void finish() {
    for (const auto& [ends, count] : counts_) add(ends.first, ends.second, count);
    for (const auto& [name, count] : nowhere_)
      node_.unseen.push_back(fmt::format(
          "far ends of {} NVLinks of {}: the driver names a device that is not visible here", count,
          name.substr(prefix_.size())));
  }

 private:
  // Empty if it is not one of this graph.
  std::string end_of(const NvmlLink& link, const std::string& from) {
    const auto address = PciAddress::parse(text_of(link.remote_bus_id));
    const auto gpu = address ? ends_.gpus.find(*address) : ends_.gpus.end();
    const auto visible = address ? ends_.switches.find(*address) : ends_.switches.end();
    // The kind decides, since the address may be hidden; without it the address has to do.
    const bool to_switch = link.remote_type ? *link.remote_type == nvml::kRemoteSwitch
                                            : address && address->is_hidden();
    if (visible != ends_.switches.end()) return visible->second;
    if (to_switch) return hidden_switch();
    if (link.remote_type == nvml::kRemoteCpu) return cpu_of(graph_, *graph_.find(from));
    return gpu != ends_.gpus.end() && gpu->second != from ? gpu->second : std::string();
  }

  const std::string& hidden_switch() {
    if (!hidden_.empty()) return hidden_;
    Component component;
    component.name = fmt::format("{}nvswitch{}", prefix_, ends_.switches.size());
    component.kind = ComponentKind::nvswitch;
    component.node = node_.name;
    component.title = "NVSwitch, its address hidden by the driver";
    hidden_ = component.name;
    graph_.components.push_back(std::move(component));
    return hidden_;
  }

  // Both GPUs of a pair count the links between them; each pair is added from its first.
  void add(const std::string& a, const std::string& b, std::uint32_t count) {
    const auto back = counts_.find({b, a});
    const auto* to = graph_.find(b);
    const bool is_pair = to != nullptr && to->kind == ComponentKind::gpu;
    if (is_pair && back != counts_.end() && b < a) return;
    TopologyLink link{LinkKind::nvlink, a, b, Provenance::nvml};
    link.count = count;
    link.state = LinkState::up;
    const auto other = back != counts_.end() ? back->second : 0;
    if (is_pair && other != count) {
      link.count = std::max(1U, std::min(count, other));
      link.state = LinkState::degraded;
      graph_.notes.push_back(
          {TopologyNote::Kind::conflict, "nvml",
           fmt::format("{} counts {} NVLinks to {}, which counts {}", a, count, b, other)});
    }
    // Of a GPU whose links all lead to one place, a link that is down led there too.
    const auto* from = graph_.find(a);
    if (from != nullptr && from->nvlinks_down.value_or(0) > 0 && leads_to_one(a) &&
        (!is_pair || leads_to_one(b)))
      link.state = LinkState::degraded;
    graph_.links.push_back(std::move(link));
  }

  [[nodiscard]] bool leads_to_one(const std::string& name) const {
    return !nowhere_.contains(name) && std::ranges::count_if(counts_, [&](const auto& entry) {
                                         return entry.first.first == name;
                                       }) == 1;
  }

  std::string prefix_;
  TopologyGraph& graph_;
  TopologyNode& node_;
  Ends ends_;
  std::string hidden_;
  std::map<std::pair<std::string, std::string>, std::uint32_t> counts_;
  std::map<std::string, std::uint32_t> nowhere_;
};

PeerStatus peer_status(std::uint8_t value) {
  return value <= static_cast<std::uint8_t>(PeerStatus::unknown) ? static_cast<PeerStatus>(value)
                                                                 : PeerStatus::unknown;
}

void add_pairs(const std::vector<GpuSource>& gpus, const NvmlReport& report,
               const std::string& prefix, TopologyGraph& graph) {
  const auto count = std::min<std::size_t>(report.reported(), gpus.size());
  for (std::size_t from = 0; from < count; ++from) {
    for (std::size_t to = 0; to < count; ++to) {
      const auto& [read, write] = report.peers[from][to];
      if (from == to || (!read && !write)) continue;
      Pair pair{fmt::format("{}gpu{}", prefix, from), fmt::format("{}gpu{}", prefix, to)};
      if (read) pair.granted_read = peer_status(*read);
      if (write) pair.granted_write = peer_status(*write);
      graph.pairs.push_back(std::move(pair));
    }
  }
}

// How far the fabric manager is with one GPU.
std::optional<FabricState> fabric_of(const NvmlGpu& gpu) {
  if (!gpu.fabric_state) return std::nullopt;
  switch (*gpu.fabric_state) {
    case nvml::kFabricNotSupported:
      return FabricState::not_supported;
    case nvml::kFabricNotStarted:
      return FabricState::not_started;
    case nvml::kFabricInProgress:
      return FabricState::in_progress;
    case nvml::kFabricCompleted:
      return gpu.fabric_status == nvml::kSuccess ? FabricState::completed : FabricState::failed;
    default:
      return std::nullopt;
  }
}

// The node is as far as its last GPU; a failure, and any support at all, come first.
int fabric_rank(FabricState state) {
  switch (state) {
    case FabricState::failed:
      return 0;
    case FabricState::not_started:
      return 1;
    case FabricState::in_progress:
      return 2;
    case FabricState::completed:
      return 3;
    case FabricState::not_supported:
      return 4;
  }
  return 5;
}

std::string cluster_text(const std::array<std::uint8_t, 16>& bytes) {
  if (std::ranges::count(bytes, 0) == 16) return {};
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", bytes[i]);
  }
  return text;
}

}  // namespace

void add_nvml_links(const std::vector<GpuSource>& gpus, const NvmlReport& report,
                    const std::string& prefix, TopologyGraph& graph, TopologyNode& node) {
  NvlinkBuilder builder(prefix, graph, node);
  for (std::size_t i = 0; i < gpus.size(); ++i) {
    if (gpus[i].driver == nullptr) continue;
    const auto name = fmt::format("{}gpu{}", prefix, i);
    node.nvlinks_known = node.nvlinks_known || gpus[i].driver->is_nvlink_known;
    builder.follow(*gpus[i].driver, name);
    const auto cpu = gpus[i].driver->has_c2c ? cpu_of(graph, *graph.find(name)) : std::string();
    if (cpu.empty()) continue;
    TopologyLink link{LinkKind::c2c, name, cpu, Provenance::nvml};
    link.state = LinkState::up;
    graph.links.push_back(std::move(link));
  }
  builder.finish();
  add_pairs(gpus, report, prefix, graph);
}

void add_driver_facts(const NvmlReport& report, TopologyNode& node) {
  if (const auto version = text_of(report.driver_version); !version.empty())
    node.driver_version = version;
  if (report.cuda_version && *report.cuda_version >= 1000 && *report.cuda_version < 1000000)
    node.cuda_version =
        fmt::format("{}.{}", *report.cuda_version / 1000, *report.cuda_version % 1000 / 10);
  for (std::uint32_t i = 0; i < report.reported(); ++i) {
    const auto& gpu = report.gpus[i];
    const auto state = fabric_of(gpu);
    if (state && (!node.fabric || fabric_rank(*state) < fabric_rank(*node.fabric)))
      node.fabric = state;
    if (node.fabric_cluster.empty() && state == FabricState::completed)
      node.fabric_cluster = cluster_text(gpu.fabric_cluster);
  }
}

}  // namespace causeway
