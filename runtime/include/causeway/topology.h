// What is joined to what: nodes, devices, links, the islands that follow, and what access costs.
//
// Shape:   devices are vertices, links are edges between devices of one node or between nodes. An
//          island is a maximal set of GPUs whose kernels can load and store each other's memory.
// Units:   bytes per second, seconds. Unknown is nullopt, never 0.
// Errors:  not_found for a device that is not in the topology.
// Cost:    islands O(devices + links); rank O(devices log devices).
// Threads: a plain value.
// Source:  peer access policy and PCIe and NVLink rates: GPU catalogue (gpu_catalogue.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
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

// `socket` joins the host memories of two NUMA nodes; `host_staged` two GPUs of one node that
// cannot see each other.
enum class EdgeKind : std::uint8_t { nvlink, pcie, host_staged, socket, network };

struct Rate {
  double bandwidth_bytes_per_s;
  double latency_s;
  Provenance provenance;
};

// How far an extent is from the device that uses it. `host` is whatever is reached through this
// node's host memory, a GPU behind it included.
enum class Tier : std::uint8_t { local, island_peer, host, remote };

struct TopologyDevice {
  DeviceName name;
  std::string model;  // Catalogue name, or "host".
  std::uint64_t capacity_bytes = 0;
  std::uint64_t available_bytes = 0;  // Capacity less what is lent, when read from a pool.
};

// Between two devices of one node, or (kind network) between two nodes' hosts.
struct TopologyEdge {
  EdgeKind kind;
  std::string a;  // "desktop/gpu0"; for network links the node: "desktop".
  std::string b;
  Rate rate;
};

struct Island {
  std::string name;  // "desktop/gpu0" for one device, "hgx/nvlink0" for a domain.
  std::vector<DeviceName> devices;
  std::string basis;  // What it rests on: "policy: GeForce refuses peer access", "spec: NVSwitch".
};

struct AccessCost {
  Tier tier;
  Rate rate;
  std::string path;  // "local VRAM", "NVLink", "PCIe to host", "PCIe, network, PCIe".
};

// Over declared links, from one node to another.
struct NetworkPath {
  Rate rate;
  std::uint32_t hops;
};

struct RankedDevice {
  DeviceName device;
  AccessCost cost;
};

class Topology {
 public:
  Topology() = default;
  // Figures follow from the catalogue, policy and the file's links: docs/topology.md has the rules.
  // Errors: invalid_argument for a model that is not in the catalogue or a device given twice.
  [[nodiscard]] static Topology from_cluster(const ClusterSpec& cluster);

  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] const std::vector<TopologyDevice>& devices() const noexcept { return devices_; }
  [[nodiscard]] const std::vector<TopologyEdge>& links() const noexcept { return links_; }
  [[nodiscard]] const std::vector<Island>& islands() const noexcept { return islands_; }
  [[nodiscard]] const std::vector<std::string>& nodes() const noexcept { return node_names_; }

  [[nodiscard]] const TopologyDevice* find(const DeviceName& name) const noexcept;
  void set_available(const DeviceName& name, std::uint64_t bytes);

  // What it costs `from` to use memory of `to`. nullopt if no known path joins them.
  [[nodiscard]] std::optional<AccessCost> access(const DeviceName& from,
                                                 const DeviceName& to) const;

  // Every device by rising cost of access from `from`, itself first: by bandwidth, then latency,
  // then name; devices that no known path reaches are left out. On a GeForce card host memory comes
  // before another card; on an H100 a peer does.
  [[nodiscard]] std::vector<RankedDevice> rank(const DeviceName& from) const;

  // Same layout as GET /v1/topology; documented in docs/topology.md.
  [[nodiscard]] std::string to_json() const;

 private:
  using NetworkPaths = std::map<std::string, NetworkPath, std::less<>>;

  void add_node(const NodeSpec& node);
  void add_islands(const NodeSpec& node);
  void add_node_links(std::size_t first, std::size_t end);
  void add_link(EdgeKind kind, std::size_t a, std::size_t b, const Rate& rate);
  [[nodiscard]] std::size_t index_of(const DeviceName& name) const;
  [[nodiscard]] const TopologyEdge* link_between(std::size_t a, std::size_t b) const noexcept;
  [[nodiscard]] NetworkPaths network_paths(const std::string& from_node) const;
  [[nodiscard]] std::optional<AccessCost> cost(std::size_t from, std::size_t to,
                                               const NetworkPaths& paths) const;

  std::string name_;
  std::vector<TopologyDevice> devices_;
  std::vector<TopologyEdge> links_;
  std::vector<Island> islands_;
  std::vector<std::size_t> island_of_;  // By device; npos for host memory.
  std::unordered_map<DeviceName, std::size_t> device_index_;
  std::unordered_map<std::uint64_t, std::size_t> link_index_;  // By two device indices.
  std::vector<std::string> node_names_;
};

[[nodiscard]] std::string_view to_string(EdgeKind value) noexcept;
[[nodiscard]] std::string_view to_string(Tier value) noexcept;

}  // namespace causeway
