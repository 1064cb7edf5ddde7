// What follows from a topology graph: the islands, the way between two devices, and what it costs.
//
// Shape:   built once from a graph (topology_graph.h) and then fixed, but for what is lent. An
// island
//          is a maximal set of GPUs whose kernels can load and store each other's memory.
// Units:   bytes per second, seconds. Unknown is nullopt, never 0.
// Errors:  not_found for a device that is not in the topology.
// Cost:    building O(components + links + pairs of GPUs of a node); a copy is cheap; route()
// O(links
//          of the nodes it crosses), and O(network log network) between nodes.
// Threads: a plain value.
// Source:  peer access policy and PCIe and NVLink rates: GPU catalogue (gpu_catalogue.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "causeway/cluster.h"
#include "causeway/device_name.h"
#include "causeway/error.h"
#include "causeway/topology_graph.h"

namespace causeway {

struct Rate {
  double bandwidth_bytes_per_s;
  double latency_s;
  Provenance provenance;  // Of the bandwidth.
};

// How far an extent is from the device that uses it. `host` is whatever is reached through this
// node's host memory, a GPU behind it included.
enum class Tier : std::uint8_t { local, island_peer, host, remote };

// Memory with an owner: a GPU, or the host memory of one NUMA node.
struct TopologyDevice {
  DeviceName name;
  std::string model;  // Catalogue name, or "host"; empty if unknown.
  std::uint64_t capacity_bytes = 0;
  std::uint64_t available_bytes = 0;  // Capacity less what is lent, when read from a pool.
};

// What the claim "these see each other" (or do not) rests on, weakest first.
enum class PeerBasis : std::uint8_t {
  unknown,   // Nothing is known of it.
  policy,    // What the driver does with such cards.
  granted,   // What the driver answered.
  cuda,      // What CUDA answered.
  verified,  // A copy whose data was checked.
};

struct Island {
  std::string name;  // "desktop/gpu0" for one device, "hgx/nvlink0", "server/pcie0".
  std::vector<DeviceName> devices;
  PeerBasis rests_on = PeerBasis::unknown;  // Of several pairs the weakest.
  std::string basis;  // In words: "policy: GeForce refuses peer access", "granted: NVSwitch".
};

// GPUs that NVLink or xGMI joins, directly or over others. It may hold several islands: kernels
// reach over one NVLink or a switch, but not through another GPU.
struct NvlinkDomain {
  std::string name;  // "dgx/domain0"
  std::vector<DeviceName> devices;
  bool is_switched = false;
  bool is_all_to_all = false;
};

// One link of a route, in the direction of the bytes.
struct Hop {
  std::size_t link;  // In graph().links.
  std::string from;  // Component, or a node where the graph knows no NIC of it.
  std::string to;
  std::optional<Figure> bandwidth_bytes_per_s;
  std::string transport;  // Who moves the bytes here: "load/store", "copy engine", "staged", "UCX".
};

struct Route {
  Tier tier = Tier::local;
  std::vector<Hop> hops;   // Empty for a device and itself.
  bool is_staged = false;  // Between GPUs of one node that do not see each other: by host memory.
  std::optional<std::size_t> bottleneck;             // Index of the narrowest hop.
  std::optional<Figure> bandwidth_bytes_per_s = {};  // Of one large transfer that is alone.
  std::optional<Figure> latency_s = {};
  std::string path;  // "NVLink", "PCIe to host", "PCIe, network, PCIe".
};

struct AccessCost {
  Tier tier;
  Rate rate;
  std::string path;
};

struct RankedDevice {
  DeviceName device;
  AccessCost cost;
};

class Topology {
 public:
  Topology();
  // Errors: invalid_argument for a component given twice or a link to nowhere.
  explicit Topology(TopologyGraph graph);
  // Figures follow from the catalogue, policy and the file's links: docs/topology.md has the rules.
  // Errors: invalid_argument for a model that is not in the catalogue or a device given twice.
  [[nodiscard]] static Topology from_cluster(const ClusterSpec& cluster);

  [[nodiscard]] const TopologyGraph& graph() const noexcept;
  [[nodiscard]] const std::string& name() const noexcept { return graph().name; }
  [[nodiscard]] const std::vector<TopologyDevice>& devices() const noexcept { return devices_; }
  [[nodiscard]] const std::vector<Island>& islands() const noexcept;
  [[nodiscard]] const std::vector<NvlinkDomain>& nvlink_domains() const noexcept;
  [[nodiscard]] const std::vector<std::string>& nodes() const noexcept;

  [[nodiscard]] const TopologyDevice* find(const DeviceName& name) const noexcept;
  [[nodiscard]] const Island* island_of(const DeviceName& gpu) const noexcept;
  void set_available(const DeviceName& name, std::uint64_t bytes);

  // The way that bytes take between `from` and memory of `to`. nullopt if no known path joins them.
  [[nodiscard]] std::optional<Route> route(const DeviceName& from, const DeviceName& to) const;

  // Other GPUs of the route's nodes whose own way to the same memory crosses its bottleneck.
  [[nodiscard]] std::vector<DeviceName> sharers(const DeviceName& from, const DeviceName& to,
                                                const Route& route) const;

  // How far two GPUs or a GPU and a NIC of one node are, by the PCI tree, else as a matrix said it.
  // `a` and `b` are names of components.
  [[nodiscard]] std::optional<PathClass> path_class(std::string_view a, std::string_view b) const;

  // What it costs `from` to use memory of `to`. nullopt if no known path of known bandwidth joins
  // them.
  [[nodiscard]] std::optional<AccessCost> access(const DeviceName& from,
                                                 const DeviceName& to) const;

  // Every device by rising cost of access from `from`, itself first: by bandwidth, then latency,
  // then name; devices that no known path reaches are left out. On a GeForce card host memory comes
  // before another card; on an H100 a peer does.
  [[nodiscard]] std::vector<RankedDevice> rank(const DeviceName& from) const;

  // What is derived, and under "graph" what graph_to_json() writes: documented in docs/topology.md.
  [[nodiscard]] std::string to_json() const;

 private:
  struct Derived;
  [[nodiscard]] std::size_t index_of(const DeviceName& name) const;

  std::shared_ptr<const Derived> derived_;
  std::vector<TopologyDevice> devices_;
  std::unordered_map<DeviceName, std::size_t> device_index_;
};

// A cluster file's nodes as components and links, all of provenance `spec`. A GPU stands as near to
// each NUMA node of its node, since a cluster file does not say.
// Errors: as Topology::from_cluster().
[[nodiscard]] TopologyGraph graph_of_cluster(const ClusterSpec& cluster);

[[nodiscard]] std::string_view to_string(Tier value) noexcept;
[[nodiscard]] std::string_view to_string(PeerBasis value) noexcept;

}  // namespace causeway
