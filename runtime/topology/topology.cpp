#include "causeway/topology.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <queue>
#include <tuple>
#include <utility>

#include "causeway/gpu_catalogue.h"
#include "runtime/topology/link_rates.h"

namespace causeway {

namespace {

constexpr std::size_t kNoIsland = std::numeric_limits<std::size_t>::max();

double pcie_bytes_per_s(int generation) {
  return *causeway::pcie_bytes_per_s({std::clamp<std::uint32_t>(generation, 1, 6), 16});
}

Rate pcie_rate(const GpuModel& model) {
  return {pcie_bytes_per_s(model.pcie_generation), kPcieLatency, Provenance::spec};
}

// Down to the host and up again share its memory and root complex: half of the slower card's PCIe.
Rate staged_rate(const GpuModel& a, const GpuModel& b) {
  const int generation = std::min(a.pcie_generation, b.pcie_generation);
  return {pcie_bytes_per_s(generation) / 2, kStagedLatency, Provenance::spec};
}

// One path of two legs: the narrower bounds it and gives the provenance, both delay it.
Rate in_series(const Rate& a, const Rate& b) {
  const Rate& narrow = b.bandwidth_bytes_per_s < a.bandwidth_bytes_per_s ? b : a;
  return {narrow.bandwidth_bytes_per_s, a.latency_s + b.latency_s, narrow.provenance};
}

// How the GPUs of one model on one node see each other.
struct Sight {
  bool joined;
  EdgeKind kind;
  std::string basis;
};

Sight sight_of(const GpuModel& model, std::size_t count) {
  if (count < 2)
    return {false, EdgeKind::host_staged, "alone: no other GPU of its model on the node"};
  if (model.has_nvswitch_form) return {true, EdgeKind::nvlink, "spec: NVSwitch"};
  switch (model.peer_policy) {
    case PeerPolicy::refused:
      return {false, EdgeKind::host_staged, "policy: GeForce refuses peer access"};
    case PeerPolicy::nvlink_only:
      return {false, EdgeKind::host_staged,
              "policy: peer access over an NVLink bridge only, and none is known"};
    case PeerPolicy::granted:
      break;
  }
  return {true, EdgeKind::pcie, "policy: peer access over PCIe"};
}

const GpuModel& model_of(const std::string& model, const std::string& device) {
  if (const auto* found = find_gpu_model(model)) return *found;
  throw Error(Errc::invalid_argument,
              fmt::format("device {}: GPU '{}' is not in the catalogue; write one of its names",
                          device, model));
}

}  // namespace

Topology Topology::from_cluster(const ClusterSpec& cluster) {
  Topology topology;
  topology.name_ = cluster.name;
  for (const auto& node : cluster.nodes) topology.add_node(node);
  for (const auto& link : cluster.links) {
    for (const auto& end : {link.node_a, link.node_b})
      if (!cluster.find_node(end))
        throw Error(Errc::invalid_argument, fmt::format("link {} - {}: no node is named '{}'",
                                                        link.node_a, link.node_b, end));
    topology.links_.push_back({EdgeKind::network,
                               link.node_a,
                               link.node_b,
                               {link.bandwidth_bytes_per_s, link.latency_s, Provenance::spec}});
  }
  return topology;
}

void Topology::add_node(const NodeSpec& node) {
  const auto first = devices_.size();
  node_names_.push_back(node.name);
  for (const auto& spec : node.devices) {
    if (spec.name.kind == DeviceKind::gpu) (void)model_of(spec.model, spec.name.to_string());
    if (!device_index_.emplace(spec.name, devices_.size()).second)
      throw Error(Errc::invalid_argument,
                  fmt::format("device {} is in the cluster twice", spec.name.to_string()));
    devices_.push_back({spec.name, spec.model, spec.capacity_bytes, spec.capacity_bytes});
    island_of_.push_back(kNoIsland);
  }
  add_islands(node);
  add_node_links(first, devices_.size());
}

void Topology::add_islands(const NodeSpec& node) {
  std::map<std::string, std::vector<DeviceName>> by_model;
  for (const auto& spec : node.devices)
    if (spec.name.kind == DeviceKind::gpu) by_model[spec.model].push_back(spec.name);
  std::map<EdgeKind, int> domains;
  for (const auto& spec : node.devices) {
    auto& self = island_of_[index_of(spec.name)];
    if (spec.name.kind != DeviceKind::gpu || self != kNoIsland) continue;
    const auto& alike = by_model[spec.model];
    const auto sight = sight_of(model_of(spec.model, spec.name.to_string()), alike.size());
    self = islands_.size();
    if (!sight.joined) {
      islands_.push_back({spec.name.to_string(), {spec.name}, sight.basis});
      continue;
    }
    for (const auto& device : alike) island_of_[index_of(device)] = islands_.size();
    islands_.push_back(
        {fmt::format("{}/{}{}", node.name, to_string(sight.kind), domains[sight.kind]++), alike,
         sight.basis});
  }
}

void Topology::add_node_links(std::size_t first, std::size_t end) {
  for (std::size_t a = first; a < end; ++a) {
    for (std::size_t b = a + 1; b < end; ++b) {
      const GpuModel* gpu_a = find_gpu_model(devices_[a].model);
      const GpuModel* gpu_b = find_gpu_model(devices_[b].model);
      if (gpu_a == nullptr && gpu_b == nullptr) {
        add_link(EdgeKind::socket, a, b, {kSocketBytesPerS, kSocketLatency, Provenance::spec});
      } else if (gpu_a == nullptr || gpu_b == nullptr) {
        add_link(EdgeKind::pcie, a, b, pcie_rate(gpu_a != nullptr ? *gpu_a : *gpu_b));
      } else if (island_of_[a] != island_of_[b]) {
        add_link(EdgeKind::host_staged, a, b, staged_rate(*gpu_a, *gpu_b));
      } else if (gpu_a->has_nvswitch_form && gpu_a->nvlink_bytes_per_s) {
        add_link(EdgeKind::nvlink, a, b,
                 {*gpu_a->nvlink_bytes_per_s, kPeerLatency, Provenance::spec});
      } else {
        add_link(EdgeKind::pcie, a, b,
                 {pcie_bytes_per_s(gpu_a->pcie_generation), kPeerLatency, Provenance::spec});
      }
    }
  }
}

static std::uint64_t pair_key(std::size_t a, std::size_t b) {
  return (std::uint64_t{std::min(a, b)} << 32) | std::max(a, b);
}

void Topology::add_link(EdgeKind kind, std::size_t a, std::size_t b, const Rate& rate) {
  link_index_.emplace(pair_key(a, b), links_.size());
  links_.push_back({kind, devices_[a].name.to_string(), devices_[b].name.to_string(), rate});
}

const TopologyEdge* Topology::link_between(std::size_t a, std::size_t b) const noexcept {
  const auto at = link_index_.find(pair_key(a, b));
  return at == link_index_.end() ? nullptr : &links_[at->second];
}

std::size_t Topology::index_of(const DeviceName& name) const {
  const auto at = device_index_.find(name);
  if (at == device_index_.end())
    throw Error(Errc::not_found,
                fmt::format("device {} is not in '{}'; its nodes: {}", name.to_string(), name_,
                            fmt::join(node_names_, ", ")));
  return at->second;
}

const TopologyDevice* Topology::find(const DeviceName& name) const noexcept {
  const auto at = device_index_.find(name);
  return at == device_index_.end() ? nullptr : &devices_[at->second];
}

void Topology::set_available(const DeviceName& name, std::uint64_t bytes) {
  devices_[index_of(name)].available_bytes = bytes;
}

namespace {

struct Edge {
  std::string_view to;
  const Rate* rate;
};
using Edges = std::map<std::string_view, std::vector<Edge>>;

// Best-first search over the links at least `floor_bytes_per_s` wide. `before(a, b)`: path a is
// better than path b; a longer path is never better than its beginning.
template <typename Before>
std::map<std::string_view, NetworkPath> search_paths(const Edges& edges, std::string_view from,
                                                     double floor_bytes_per_s, Before before) {
  struct Reached {
    NetworkPath path;
    std::string_view node;
  };
  const auto later = [&](const Reached& a, const Reached& b) { return before(b.path, a.path); };
  std::priority_queue<Reached, std::vector<Reached>, decltype(later)> open(later);
  std::map<std::string_view, NetworkPath> paths;
  open.push({{{std::numeric_limits<double>::infinity(), 0, Provenance::spec}, 0}, from});
  while (!open.empty()) {
    const Reached next = open.top();
    open.pop();
    if (!paths.emplace(next.node, next.path).second) continue;
    const auto out = edges.find(next.node);
    if (out == edges.end()) continue;
    for (const auto& edge : out->second)
      if (edge.rate->bandwidth_bytes_per_s >= floor_bytes_per_s && !paths.contains(edge.to))
        open.push({{in_series(next.path.rate, *edge.rate), next.path.hops + 1}, edge.to});
  }
  return paths;
}

}  // namespace

// A declared link is taken as it is. Other nodes are reached over the widest path, and of several
// such over the quickest.
Topology::NetworkPaths Topology::network_paths(const std::string& from_node) const {
  Edges edges;
  for (const auto& link : links_) {
    if (link.kind != EdgeKind::network) continue;
    edges[link.a].push_back({link.b, &link.rate});
    edges[link.b].push_back({link.a, &link.rate});
  }
  const auto widest =
      search_paths(edges, from_node, 0, [](const NetworkPath& a, const NetworkPath& b) {
        return a.rate.bandwidth_bytes_per_s > b.rate.bandwidth_bytes_per_s;
      });
  std::map<double, std::vector<std::string_view>> by_width;
  for (const auto& [node, path] : widest) by_width[path.rate.bandwidth_bytes_per_s].push_back(node);
  NetworkPaths paths;
  for (const auto& [width, nodes] : by_width) {
    const auto quickest =
        search_paths(edges, from_node, width, [](const NetworkPath& a, const NetworkPath& b) {
          return a.rate.latency_s < b.rate.latency_s;
        });
    for (const auto node : nodes) paths.emplace(node, quickest.at(node));
  }
  for (const auto& edge : edges[from_node])
    paths.insert_or_assign(std::string(edge.to), NetworkPath{*edge.rate, 1});
  return paths;
}

std::optional<AccessCost> Topology::cost(std::size_t from, std::size_t to,
                                         const NetworkPaths& paths) const {
  const auto& user = devices_[from];
  const auto& owner = devices_[to];
  const GpuModel* user_gpu = find_gpu_model(user.model);
  const GpuModel* owner_gpu = find_gpu_model(owner.model);
  if (from == to) {
    if (user_gpu == nullptr)
      return AccessCost{
          Tier::local, {kHostBytesPerS, kLocalLatency, Provenance::spec}, "local host memory"};
    return AccessCost{Tier::local,
                      {user_gpu->memory_bandwidth_bytes_per_s, kLocalLatency, Provenance::spec},
                      "local VRAM"};
  }
  if (const auto* link = link_between(from, to)) {
    switch (link->kind) {
      case EdgeKind::nvlink:
        return AccessCost{Tier::island_peer, link->rate, "NVLink"};
      case EdgeKind::pcie:
        if (user_gpu != nullptr && owner_gpu != nullptr)
          return AccessCost{Tier::island_peer, link->rate, "PCIe peer"};
        return AccessCost{Tier::host, link->rate,
                          user_gpu != nullptr ? "PCIe to host" : "PCIe from host"};
      case EdgeKind::host_staged:
        return AccessCost{Tier::host, link->rate, "PCIe, staged in host memory, PCIe"};
      case EdgeKind::socket:
        return AccessCost{Tier::host, link->rate, "between NUMA nodes"};
      case EdgeKind::network:
        break;
    }
  }
  const auto network = paths.find(owner.name.node);
  if (user.name.node == owner.name.node || network == paths.end()) return std::nullopt;
  Rate rate = network->second.rate;
  if (user_gpu != nullptr) rate = in_series(rate, pcie_rate(*user_gpu));
  if (owner_gpu != nullptr) rate = in_series(rate, pcie_rate(*owner_gpu));
  const auto hops = network->second.hops;
  return AccessCost{Tier::remote, rate,
                    fmt::format("{}network{}{}", user_gpu != nullptr ? "PCIe, " : "",
                                hops > 1 ? fmt::format(" ({} hops)", hops) : "",
                                owner_gpu != nullptr ? ", PCIe" : "")};
}

std::optional<AccessCost> Topology::access(const DeviceName& from, const DeviceName& to) const {
  const auto from_index = index_of(from);
  const auto to_index = index_of(to);
  if (from.node == to.node) return cost(from_index, to_index, {});
  return cost(from_index, to_index, network_paths(from.node));
}

std::vector<RankedDevice> Topology::rank(const DeviceName& from) const {
  const auto self = index_of(from);
  const auto paths = network_paths(from.node);
  std::vector<RankedDevice> ranked;
  for (std::size_t to = 0; to < devices_.size(); ++to)
    if (auto access = cost(self, to, paths)) ranked.push_back({devices_[to].name, *access});
  std::ranges::sort(ranked, {}, [&from](const RankedDevice& entry) {
    return std::tuple(entry.device != from, -entry.cost.rate.bandwidth_bytes_per_s,
                      entry.cost.rate.latency_s, std::tie(entry.device));
  });
  return ranked;
}

std::string_view to_string(EdgeKind value) noexcept {
  switch (value) {
    case EdgeKind::nvlink:
      return "nvlink";
    case EdgeKind::pcie:
      return "pcie";
    case EdgeKind::host_staged:
      return "host_staged";
    case EdgeKind::socket:
      return "socket";
    case EdgeKind::network:
      return "network";
  }
  return "unknown";
}

std::string_view to_string(Tier value) noexcept {
  switch (value) {
    case Tier::local:
      return "local";
    case Tier::island_peer:
      return "island_peer";
    case Tier::host:
      return "host";
    case Tier::remote:
      return "remote";
  }
  return "unknown";
}

}  // namespace causeway
