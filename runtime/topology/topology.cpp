#include "causeway/topology.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "runtime/topology/graph_index.h"
#include "runtime/topology/islands.h"
#include "runtime/topology/router.h"

namespace causeway {

struct Topology::Derived {
  explicit Derived(TopologyGraph given)
      : graph(std::move(given)),
        index(graph),
        nvlinks(index),
        router(index, nvlinks),
        islands(derive_islands(index, nvlinks)) {
    for (const auto& node : graph.nodes) nodes.push_back(node.name);
  }
  Derived(const Derived&) = delete;
  Derived& operator=(const Derived&) = delete;

  [[nodiscard]] Vertex vertex(const DeviceName& device) const {
    if (const auto found = index.find(device.to_string())) return *found;
    throw Error(Errc::not_found, fmt::format("device {} is not in '{}'; its nodes: {}",
                                             device.to_string(), graph.name, some(nodes)));
  }
  // A cluster may have a thousand nodes; an error names a few.
  [[nodiscard]] static std::string some(const std::vector<std::string>& names) {
    constexpr std::size_t kShown = 8;
    const auto shown = std::min(names.size(), kShown);
    return fmt::format("{}{}", fmt::join(names.begin(), names.begin() + shown, ", "),
                       names.size() > shown ? ", ..." : "");
  }

  TopologyGraph graph;
  GraphIndex index;
  NvlinkMap nvlinks;
  Router router;
  IslandMap islands;
  std::vector<std::string> nodes;
};

namespace {

std::string_view transport_of(const TopologyLink& link, const Way& way, bool to_memory) {
  if (link.kind == LinkKind::network) return "UCX";
  if (way.is_staged) return "staged";
  if (way.tier == Tier::remote) return "UCX";
  return to_memory ? "copy engine" : "load/store";
}

std::optional<AccessCost> cost_of(const std::optional<Way>& way) {
  if (!way || !way->bandwidth) return std::nullopt;
  const double latency_s = way->latency ? way->latency->value : 0;
  return AccessCost{
      way->tier, {way->bandwidth->value, latency_s, way->bandwidth->provenance}, way->path};
}

Route route_of(const Way& way, const GraphIndex& index) {
  Route route;
  route.tier = way.tier;
  route.is_staged = way.is_staged;
  route.bandwidth_bytes_per_s = way.bandwidth;
  route.latency_s = way.latency;
  route.path = way.path;
  for (const auto& step : way.steps) {
    const auto& link = index.graph().links[step.link];
    route.hops.push_back({step.link, std::string(index.name(step.from)),
                          std::string(index.name(step.to)), step.bandwidth,
                          std::string(transport_of(link, way, way.tier == Tier::host))});
    if (!step.bandwidth) continue;
    const auto narrowest = route.bottleneck;
    if (!narrowest || step.bandwidth->value < route.hops[*narrowest].bandwidth_bytes_per_s->value)
      route.bottleneck = route.hops.size() - 1;
  }
  return route;
}

}  // namespace

Topology::Topology() : Topology(TopologyGraph{}) {}

Topology::Topology(TopologyGraph graph)
    : derived_(std::make_shared<const Derived>(std::move(graph))) {
  for (const auto& component : derived_->graph.components) {
    if (component.kind != ComponentKind::gpu && component.kind != ComponentKind::host) continue;
    const auto name = device_of(component);
    device_index_.emplace(name, devices_.size());
    const auto capacity_bytes = component.capacity_bytes.value_or(0);
    devices_.push_back({name, component.kind == ComponentKind::host ? "host" : component.model,
                        capacity_bytes, capacity_bytes});
  }
}

Topology Topology::from_cluster(const ClusterSpec& cluster) {
  return Topology(graph_of_cluster(cluster));
}

const TopologyGraph& Topology::graph() const noexcept { return derived_->graph; }
const std::vector<Island>& Topology::islands() const noexcept { return derived_->islands.islands; }
const std::vector<NvlinkDomain>& Topology::nvlink_domains() const noexcept {
  return derived_->islands.domains;
}
const std::vector<std::string>& Topology::nodes() const noexcept { return derived_->nodes; }

std::size_t Topology::index_of(const DeviceName& name) const {
  const auto at = device_index_.find(name);
  if (at != device_index_.end()) return at->second;
  throw Error(Errc::not_found, fmt::format("device {} is not in '{}'; its nodes: {}",
                                           name.to_string(), this->name(), Derived::some(nodes())));
}

const TopologyDevice* Topology::find(const DeviceName& name) const noexcept {
  const auto at = device_index_.find(name);
  return at == device_index_.end() ? nullptr : &devices_[at->second];
}

const Island* Topology::island_of(const DeviceName& gpu) const noexcept {
  const auto vertex = derived_->index.find(gpu.to_string());
  if (!vertex || !derived_->islands.island_of[*vertex]) return nullptr;
  return &islands()[*derived_->islands.island_of[*vertex]];
}

void Topology::set_available(const DeviceName& name, std::uint64_t bytes) {
  devices_[index_of(name)].available_bytes = bytes;
}

std::optional<Route> Topology::route(const DeviceName& from, const DeviceName& to) const {
  const auto target = derived_->vertex(to);
  const auto way =
      derived_->router.route(Router::Origin(derived_->router, derived_->vertex(from)), target);
  return way ? std::optional(route_of(*way, derived_->index)) : std::nullopt;
}

std::vector<DeviceName> Topology::sharers(const DeviceName& from, const DeviceName& to,
                                          const Route& route) const {
  std::vector<DeviceName> found;
  if (!route.bottleneck) return found;
  const auto link = route.hops[*route.bottleneck].link;
  const auto target = derived_->vertex(to);
  for (const auto& device : devices_) {
    const auto& name = device.name;
    if (name.kind != DeviceKind::gpu || name == from || name == to) continue;
    if (name.node != from.node && name.node != to.node) continue;
    const auto way =
        derived_->router.route(Router::Origin(derived_->router, derived_->vertex(name)), target);
    if (way && std::ranges::any_of(way->steps, [&](const Step& s) { return s.link == link; }))
      found.push_back(name);
  }
  return found;
}

std::optional<PathClass> Topology::path_class(std::string_view a, std::string_view b) const {
  const auto from = derived_->index.find(a);
  const auto to = derived_->index.find(b);
  if (!from || !to || from == to) return std::nullopt;
  if (derived_->nvlinks.is_switched(*from, *to) || !derived_->nvlinks.direct(*from, *to).empty())
    return PathClass::nvlink;
  if (derived_->index.component(*from) == nullptr || derived_->index.component(*to) == nullptr)
    return std::nullopt;
  std::optional<PathClass> by_matrix;
  for (const auto* pair : {derived_->index.pair(*from, *to), derived_->index.pair(*to, *from)})
    if (pair != nullptr && pair->path && !by_matrix) by_matrix = pair->path;
  const auto by_tree = derived_->router.tree_class(*from, *to);
  // Whether two ports are of one host bridge is more than most descriptions of a tree tell.
  const auto is_by_cpu = [](const std::optional<PathClass>& path) {
    return path == PathClass::phb || path == PathClass::node;
  };
  if (!by_tree || (is_by_cpu(by_tree) && is_by_cpu(by_matrix))) return by_matrix;
  return by_tree;
}

std::optional<AccessCost> Topology::access(const DeviceName& from, const DeviceName& to) const {
  const auto target = derived_->vertex(to);
  const Router::Origin origin(derived_->router, derived_->vertex(from));
  return cost_of(derived_->router.route(origin, target));
}

std::vector<RankedDevice> Topology::rank(const DeviceName& from) const {
  const Router::Origin origin(derived_->router, derived_->vertex(from));
  std::vector<RankedDevice> ranked;
  for (const auto& device : devices_)
    if (auto cost = cost_of(derived_->router.route(origin, derived_->vertex(device.name))))
      ranked.push_back({device.name, std::move(*cost)});
  std::ranges::sort(ranked, {}, [&from](const RankedDevice& entry) {
    return std::tuple(entry.device != from, -entry.cost.rate.bandwidth_bytes_per_s,
                      entry.cost.rate.latency_s, std::tie(entry.device));
  });
  return ranked;
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
