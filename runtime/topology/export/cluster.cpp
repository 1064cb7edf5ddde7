// A graph as a cluster file says it: devices to lend, and one link per pair of nodes.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <queue>
#include <unordered_map>

#include "causeway/gpu_catalogue.h"
#include "causeway/topology_export.h"
#include "runtime/topology/utf8.h"

namespace causeway {

namespace {

// What ClusterSpec::from_yaml() accepts.
constexpr std::size_t kMaxNodes = 1024;
constexpr std::size_t kMaxDevices = 4096;
constexpr std::size_t kMaxLinks = 16384;
constexpr std::uint64_t kMaxCapacityBytes = std::uint64_t{1} << 50;
constexpr std::size_t kMaxNameBytes = 128;
constexpr double kMinBandwidth = 1e3;
constexpr double kMaxBandwidth = 1e14;
constexpr double kMaxLatency = 60;

// A cluster file must give a latency. Where the graph knows none for a hop of a path, the path gets
// this: RDMA NICs of 200 Gb/s show 5.6 to 10.8 us end to end.
constexpr double kNominalLatency = 10e-6;

Error refuse(const TopologyGraph& graph, const std::string& what) {
  return {Errc::invalid_argument,
          fmt::format("topology '{}': {}", printable(graph.name, 64), what)};
}

// --- Devices ---

std::uint64_t capacity_of(const TopologyGraph& graph, const Component& component) {
  auto bytes = component.capacity_bytes;
  if (component.kind == ComponentKind::gpu) {
    const auto* model = find_gpu_model(component.model);
    if (model == nullptr)
      throw refuse(graph,
                   fmt::format("GPU {} ('{}') is no model of the catalogue; name the nearest "
                               "one: --set {}.model=rtx-5090",
                               component.name, printable(component.title, 64), component.name));
    if (!bytes) bytes = model->memory_bytes;
  }
  const auto whole = *bytes / kDeviceGranuleBytes * kDeviceGranuleBytes;
  if (whole == 0 || whole > kMaxCapacityBytes)
    throw refuse(graph, fmt::format("{} has {} bytes of memory; a cluster file takes {} to {}",
                                    component.name, *bytes, kDeviceGranuleBytes,
                                    format_bytes(kMaxCapacityBytes)));
  return whole;
}

// The number that a device has in its name ("hgx/gpu3"); the highest for any other name.
std::uint32_t number_of(const Component& component, DeviceKind kind) {
  try {
    const auto name = DeviceName::parse(component.name);
    if (name.node == component.node && name.kind == kind) return name.index;
  } catch (const Error&) {
  }
  return std::numeric_limits<std::uint32_t>::max();
}

// GPUs, and host memory of known size: what is not known cannot be lent. A cluster file numbers
// from 0 in its own order, so devices keep their order by number.
void add_devices(NodeSpec& node, const TopologyGraph& graph,
                 const std::vector<const Component*>& components) {
  for (const auto kind : {DeviceKind::gpu, DeviceKind::host}) {
    const auto wanted = kind == DeviceKind::gpu ? ComponentKind::gpu : ComponentKind::host;
    std::vector<const Component*> devices;
    for (const auto* component : components)
      if (component->kind == wanted && (kind == DeviceKind::gpu || component->capacity_bytes))
        devices.push_back(component);
    std::ranges::stable_sort(devices, {},
                             [kind](const Component* c) { return number_of(*c, kind); });
    for (std::uint32_t i = 0; i < devices.size(); ++i)
      node.devices.push_back({{node.name, kind, i},
                              kind == DeviceKind::gpu ? devices[i]->model : "host",
                              capacity_of(graph, *devices[i])});
  }
  if (node.devices.empty())
    throw refuse(graph, fmt::format("node {} has neither a GPU nor host memory of known size; give "
                                    "it some (--set {}/host0.capacity=64GB) or --remove {}",
                                    node.name, node.name, node.name));
}

// --- Network ---

struct Way {
  double bytes_per_s = 0;
  double latency_s = 0;
  bool is_nominal = false;  // A hop's latency is unknown.

  [[nodiscard]] double latency() const {
    return is_nominal ? std::max(latency_s, kNominalLatency) : latency_s;
  }
  [[nodiscard]] bool better_than(const Way& other) const {
    if (bytes_per_s != other.bytes_per_s) return bytes_per_s > other.bytes_per_s;
    return latency() < other.latency();
  }
};

Way in_series(const Way& a, const Way& b) {
  return {std::min(a.bytes_per_s, b.bytes_per_s), a.latency_s + b.latency_s,
          a.is_nominal || b.is_nominal};
}

// Nodes joined through NICs, links and switches. A node passes nothing on here: what is reached
// over other nodes follows from the cluster file's links.
class Network {
 public:
  explicit Network(const TopologyGraph& graph) {
    for (const auto& node : graph.nodes) vertex_of_.emplace(node.name, vertex_of_.size());
    nodes_ = vertex_of_.size();
    for (const auto& component : graph.components) {
      if (component.kind == ComponentKind::network_switch)
        vertex_of_.emplace(component.name, vertex_of_.size());
      else
        ends_.emplace(component.name, &component);
    }
    edges_.resize(vertex_of_.size());
    for (const auto& link : graph.links)
      if (link.kind == LinkKind::network) add(graph, link);
  }

  // The widest ways from a node to those after it, by index.
  [[nodiscard]] std::map<std::size_t, Way> ways_from(std::size_t node) const {
    std::vector<std::optional<Way>> best(edges_.size());
    const auto worse = [](const auto& a, const auto& b) { return b.first.better_than(a.first); };
    std::priority_queue<std::pair<Way, std::size_t>, std::vector<std::pair<Way, std::size_t>>,
                        decltype(worse)>
        open(worse);
    std::vector<bool> done(edges_.size());
    open.push({{std::numeric_limits<double>::infinity(), 0, false}, node});
    while (!open.empty()) {
      const auto [way, at] = open.top();
      open.pop();
      if (done[at]) continue;
      done[at] = true;
      if (at < nodes_ && at != node) continue;
      for (const auto& [to, hop] : edges_[at]) {
        const auto next = in_series(way, hop);
        if (done[to] || (best[to] && !next.better_than(*best[to]))) continue;
        best[to] = next;
        open.push({next, to});
      }
    }
    std::map<std::size_t, Way> ways;
    for (std::size_t to = node + 1; to < nodes_; ++to)
      if (best[to]) ways.emplace(to, *best[to]);
    return ways;
  }

 private:
  [[nodiscard]] std::optional<std::size_t> vertex(const std::string& end) const {
    if (const auto at = vertex_of_.find(end); at != vertex_of_.end()) return at->second;
    const auto at = ends_.find(end);
    const auto node = at == ends_.end() ? vertex_of_.end() : vertex_of_.find(at->second->node);
    return node == vertex_of_.end() ? std::nullopt : std::optional(node->second);
  }

  void add(const TopologyGraph& graph, const TopologyLink& link) {
    const auto a = vertex(link.a);
    const auto b = vertex(link.b);
    if (!a || !b || a == b || link.state == LinkState::down) return;
    std::optional<double> rate;
    const auto narrow = [&rate](std::optional<double> other) {
      if (other) rate = std::min(rate.value_or(*other), *other);
    };
    if (const auto& figure =
            link.effective_bytes_per_s ? link.effective_bytes_per_s : link.line_bytes_per_s)
      narrow(figure->value);
    for (const auto& name : {link.a, link.b}) {
      const auto end = ends_.find(name);
      if (end == ends_.end()) continue;
      if (end->second->port_up == false) return;
      narrow(end->second->port_bytes_per_s);
    }
    if (!rate)
      throw refuse(graph, fmt::format("the bandwidth of link {}-{} is not known and a cluster file "
                                      "needs one: --set '{}-{}.bandwidth=100 Gbit/s'",
                                      link.a, link.b, link.a, link.b));
    const Way hop{*rate, link.latency_s ? link.latency_s->value : 0, !link.latency_s};
    edges_[*a].push_back({*b, hop});
    edges_[*b].push_back({*a, hop});
  }

  std::unordered_map<std::string_view, std::size_t> vertex_of_;  // Nodes first, then switches.
  std::unordered_map<std::string_view, const Component*> ends_;  // NICs, by name.
  std::vector<std::vector<std::pair<std::size_t, Way>>> edges_;
  std::size_t nodes_ = 0;
};

struct Joined {
  std::size_t a;
  std::size_t b;
  Way way;
};

// Where there are more pairs of nodes than a cluster file takes, those that keep the widest path
// between any two: a maximum spanning tree, which is a star where all are alike.
std::vector<Joined> spanning(std::vector<Joined> joined, std::size_t nodes) {
  std::ranges::stable_sort(joined, [](const Joined& x, const Joined& y) {
    return x.way.bytes_per_s > y.way.bytes_per_s;
  });
  std::vector<std::size_t> parent(nodes);
  for (std::size_t i = 0; i < nodes; ++i) parent[i] = i;
  const auto root = [&parent](std::size_t i) {
    while (parent[i] != i) i = parent[i] = parent[parent[i]];
    return i;
  };
  std::erase_if(joined, [&](const Joined& link) {
    const auto a = root(link.a);
    const auto b = root(link.b);
    if (a == b) return true;
    parent[std::max(a, b)] = std::min(a, b);
    return false;
  });
  return joined;
}

void add_links(ClusterSpec& cluster, const TopologyGraph& graph) {
  const Network network(graph);
  std::vector<Joined> joined;
  for (std::size_t a = 0; a < graph.nodes.size(); ++a)
    for (const auto& [b, way] : network.ways_from(a)) joined.push_back({a, b, way});
  if (joined.size() > kMaxLinks) joined = spanning(std::move(joined), graph.nodes.size());
  for (const auto& [a, b, way] : joined) {
    const LinkSpec link{graph.nodes[a].name, graph.nodes[b].name, way.bytes_per_s, way.latency()};
    if (!(link.bandwidth_bytes_per_s >= kMinBandwidth &&
          link.bandwidth_bytes_per_s <= kMaxBandwidth && link.latency_s <= kMaxLatency))
      throw refuse(
          graph, fmt::format("{} and {} are joined by {} B/s and {} s; a cluster file takes "
                             "1 kB/s to 100 TB/s and at most 60 s",
                             link.node_a, link.node_b, link.bandwidth_bytes_per_s, link.latency_s));
    cluster.links.push_back(link);
  }
}

// `name` in the bytes that a cluster's name may have.
std::string cluster_name(const std::string& name) {
  auto shown = printable(name, kMaxNameBytes / 4 - 1);  // A character has up to 4 bytes.
  return shown.empty() ? "cluster" : shown;
}

}  // namespace

ClusterSpec graph_to_cluster(const TopologyGraph& graph) {
  ClusterSpec cluster;
  cluster.name = cluster_name(graph.name);
  if (graph.nodes.empty()) throw refuse(graph, "has no node; a cluster file needs one");
  if (graph.nodes.size() > kMaxNodes)
    throw refuse(graph,
                 fmt::format("{} nodes; a cluster file takes {}", graph.nodes.size(), kMaxNodes));
  std::unordered_map<std::string_view, std::vector<const Component*>> components;
  for (const auto& component : graph.components) components[component.node].push_back(&component);
  std::size_t devices = 0;
  for (const auto& node : graph.nodes) {
    if (!is_node_name(node.name))
      throw refuse(graph, fmt::format("'{}' cannot name a node of a cluster file: 1 to 63 of a-z, "
                                      "0-9, '.', '-', starting with a letter or digit",
                                      printable(node.name, 80)));
    NodeSpec spec{node.name, {}};
    add_devices(spec, graph, components[node.name]);
    devices += spec.devices.size();
    if (spec.devices.size() > kMaxNodes || devices > kMaxDevices)
      throw refuse(graph, fmt::format("more than {} devices on node {} or {} in all", kMaxNodes,
                                      node.name, kMaxDevices));
    cluster.nodes.push_back(std::move(spec));
  }
  add_links(cluster, graph);
  return cluster;
}

}  // namespace causeway
