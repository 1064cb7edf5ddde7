#include "runtime/topology/doctor/examination.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "runtime/topology/link_rates.h"

namespace causeway::doctor {

namespace {

// Far over the depth of any PCI tree; a file may hold a circle or a chain of any length.
constexpr std::size_t kMaxDepth = 64;

bool names_series(std::string_view title, std::string_view series) {
  return title.find("GeForce " + std::string(series)) != std::string_view::npos;
}

}  // namespace

std::optional<PeerPolicy> peer_policy(const Component& gpu) {
  if (const auto* model = find_gpu_model(gpu.model)) return model->peer_policy;
  if (names_series(gpu.title, "RTX 40") || names_series(gpu.title, "RTX 50"))
    return PeerPolicy::refused;
  if (names_series(gpu.title, "")) return PeerPolicy::nvlink_only;
  return std::nullopt;
}

bool is_gpu_link(LinkKind kind) noexcept {
  return kind == LinkKind::nvlink || kind == LinkKind::xgmi;
}

std::optional<std::uint32_t> chip_links(const Component& gpu) noexcept {
  const auto rate = gpu.sm ? nvlink_rate(*gpu.sm) : std::nullopt;
  return rate ? std::optional(rate->links) : std::nullopt;
}

std::optional<PeerStatus> grant(const Pair& pair) noexcept {
  if (pair.granted_read && pair.granted_read != PeerStatus::ok) return pair.granted_read;
  if (pair.granted_write) return pair.granted_write;
  return pair.granted_read;
}

Examination::Examination(const Topology& topology, const DoctorOptions& options)
    : topology_(&topology), index_(topology.graph()) {
  std::map<std::string_view, std::size_t> node_index;
  for (const auto& node : graph().nodes) {
    node_index.emplace(node.name, nodes_.size());
    nodes_.push_back({&node, {}, {}, {}});
  }
  for (const auto& component : graph().components) {
    const auto at = node_index.find(component.node);
    if (at == node_index.end()) continue;
    auto& node = nodes_[at->second];
    if (component.kind == ComponentKind::gpu) node.gpus.push_back(&component);
    if (component.kind == ComponentKind::nic) node.nics.push_back(&component);
    if (component.kind == ComponentKind::cpu) node.cpus.push_back(&component);
    if (component.kind == ComponentKind::nvswitch) node.has_nvswitch = true;
    if (component.kind == ComponentKind::gpu || component.kind == ComponentKind::nic)
      paths_.emplace(&component, climb(component));
  }
  for (std::size_t i = 0; i < topology.nvlink_domains().size(); ++i)
    for (const auto& device : topology.nvlink_domains()[i].devices)
      domains_.emplace(device.to_string(), i);
  for (const auto& pair : graph().pairs) {
    const auto status = grant(pair);
    if (!status || *status == PeerStatus::unknown) continue;
    for (const auto& name : {pair.from, pair.to}) granted_[name] |= *status == PeerStatus::ok;
  }
  if (!options.process_cpus.empty()) {
    process_cores_ = CoreList::parse(options.process_cpus);
    if (!process_cores_)
      throw Error(Errc::parse, fmt::format("cores '{}' are not a list; write it as '0-23,48-71'",
                                           options.process_cpus));
  }
  if (options.node.empty() && graph().nodes.size() == 1) process_node_ = &graph().nodes.front();
  if (options.node.empty()) return;
  process_node_ = graph().find_node(options.node);
  if (process_node_ == nullptr)
    throw Error(Errc::not_found,
                fmt::format("node '{}' is not in topology '{}'; give one of its {} nodes",
                            options.node, graph().name, graph().nodes.size()));
}

const Component* Examination::find(std::string_view name) const noexcept {
  const auto vertex = index_.find(name);
  return vertex ? index_.component(*vertex) : nullptr;
}

PciPath Examination::climb(const Component& device) const {
  PciPath path;
  auto at = *index_.find(device.name);
  while (path.links.size() < kMaxDepth) {
    const TopologyLink* up = nullptr;
    Vertex next = at;
    for (const auto& edge : index_.edges(at)) {
      const auto& link = index_.link(edge);
      if (link.kind != LinkKind::pcie || link.a != index_.name(at) || edge.to == at) continue;
      if (up != nullptr) path.is_ambiguous = true;
      if (up == nullptr) next = edge.to;
      if (up == nullptr) up = &link;
    }
    if (up == nullptr) return path;
    path.links.push_back(up);
    if (std::ranges::find(path.links, index_.name(next), &TopologyLink::a) != path.links.end())
      return path;
    at = next;
    const auto* component = index_.component(at);
    if (component != nullptr && component->kind == ComponentKind::cpu) {
      path.reaches_cpu = true;
      return path;
    }
  }
  return path;
}

const PciPath& Examination::path(const Component& device) const { return paths_.at(&device); }

LinkCount Examination::gpu_links(const Component& gpu) const {
  LinkCount count;
  bool has_links = false;
  std::optional<std::uint32_t> xgmi;
  std::set<Vertex> peers;
  const auto self = *index_.find(gpu.name);
  for (const auto& edge : index_.edges(self)) {
    const auto& link = index_.link(edge);
    if (!is_gpu_link(link.kind) || edge.to == self) continue;
    if (!has_links) count.source = to_string(link.provenance);
    has_links = true;
    if (link.provenance == Provenance::spec) count.is_counted = false;
    const auto* other = index_.component(edge.to);
    if (other != nullptr && other->kind == ComponentKind::nvswitch) count.to_switch = true;
    if (other != nullptr && other->kind == ComponentKind::gpu) peers.insert(edge.to);
    if (link.kind == LinkKind::xgmi) {
      if (xgmi.value_or(link.count) != link.count) count.is_uneven_xgmi = true;
      xgmi = link.count;
    }
    (link.state == LinkState::down ? count.down : count.drawn) += link.count;
  }
  count.peers = peers.size();
  count.active = count.drawn;
  count.has_record = gpu.nvlinks_max && gpu.nvlinks_down;
  if (count.has_record) {
    count.down = std::min(*gpu.nvlinks_max, *gpu.nvlinks_down);
    count.active = *gpu.nvlinks_max - count.down;
    count.is_counted = true;
  }
  if (count.has_record || !has_links) count.source = source(gpu);
  return count;
}

std::optional<std::size_t> Examination::domain(const Component& gpu) const {
  const auto at = domains_.find(gpu.name);
  if (at == domains_.end()) return std::nullopt;
  return at->second;
}

bool Examination::share_nvlink(const Component& a, const Component& b) const {
  const auto first = domain(a);
  return first && first == domain(b);
}

std::optional<bool> Examination::any_peer_granted(const Component& gpu) const {
  const auto at = granted_.find(gpu.name);
  if (at == granted_.end()) return std::nullopt;
  return at->second;
}

std::optional<bool> Examination::peers_over_pcie(const Component& gpu) const {
  // Where NVLink joins them, peers do not go over PCIe.
  if (domain(gpu)) return false;
  if (const auto granted = any_peer_granted(gpu)) return granted;
  if (const auto policy = peer_policy(gpu)) return *policy == PeerPolicy::granted;
  return std::nullopt;
}

std::optional<bool> Examination::gpu_direct_capable(const Component& gpu) const {
  if (gpu.gpu_direct) return gpu.gpu_direct;
  if (const auto policy = peer_policy(gpu)) return *policy == PeerPolicy::granted;
  return std::nullopt;
}

std::string Examination::source(const Component& component) const {
  const auto& edges = index_.edges(*index_.find(component.name));
  std::optional<Provenance> all;
  for (const auto& edge : edges) {
    const auto provenance = index_.link(edge).provenance;
    const bool is_told = provenance == Provenance::spec || provenance == Provenance::import;
    if (!is_told || (all && all != provenance)) return kUntold;
    all = provenance;
  }
  return all ? std::string(to_string(*all)) : kUntold;
}

std::string Examination::source(const NodeParts& node) const {
  for (const auto* parts : {&node.gpus, &node.nics, &node.cpus})
    if (!parts->empty()) return source(*parts->front());
  return kUntold;
}

}  // namespace causeway::doctor
