// The topology as the checks look at it: the devices of each node, the PCI path of a device, who
// says what. Borrows the topology and the options.
//
// Cost:    building O(graph).
// Errors:  as diagnose().
// Threads: read-only once built.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "causeway/gpu_catalogue.h"
#include "causeway/topology_doctor.h"
#include "runtime/topology/doctor/core_list.h"
#include "runtime/topology/graph_index.h"

namespace causeway::doctor {

struct NodeParts {
  const TopologyNode* node;
  std::vector<const Component*> gpus;
  std::vector<const Component*> nics;
  std::vector<const Component*> cpus;
  bool has_nvswitch = false;
};

// The PCIe links from a device towards its CPU, the device's own first.
struct PciPath {
  std::vector<const TopologyLink*> links;
  bool reaches_cpu = false;
  bool is_ambiguous = false;  // Something on it hangs below several others.
};

// The NVLinks or xGMI links of a GPU. A GPU's own record says how many there are and not where they
// lead; the graph's links say where they lead.
struct LinkCount {
  std::uint64_t active = 0;  // By the record, else by the graph's links.
  std::uint64_t down = 0;
  std::uint64_t drawn = 0;  // Links of the graph that are not down.
  std::size_t peers = 0;    // GPUs at the other ends of the graph's links.
  bool has_record = false;
  bool is_counted = true;  // A declared link says that there is one, not how many.
  bool to_switch = false;
  bool is_uneven_xgmi = false;  // More xGMI links to one GPU than to another.
  std::string source;
};

constexpr const char* kUntold = "as its source says";

class Examination {
 public:
  Examination(const Topology& topology, const DoctorOptions& options);

  [[nodiscard]] const Topology& topology() const noexcept { return *topology_; }
  [[nodiscard]] const TopologyGraph& graph() const noexcept { return index_.graph(); }
  [[nodiscard]] const GraphIndex& index() const noexcept { return index_; }
  [[nodiscard]] const std::vector<NodeParts>& nodes() const noexcept { return nodes_; }
  [[nodiscard]] const Component* find(std::string_view name) const noexcept;
  [[nodiscard]] const PciPath& path(const Component& device) const;

  // The cores that the asking process may use, and its node; nullptr and nullopt if not known.
  [[nodiscard]] const std::optional<CoreList>& process_cores() const noexcept {
    return process_cores_;
  }
  [[nodiscard]] const TopologyNode* process_node() const noexcept { return process_node_; }

  [[nodiscard]] LinkCount gpu_links(const Component& gpu) const;
  // Number of the NVLink domain that a GPU is in.
  [[nodiscard]] std::optional<std::size_t> domain(const Component& gpu) const;
  // Both in one node and one domain.
  [[nodiscard]] bool share_nvlink(const Component& a, const Component& b) const;
  // What the driver granted to any pair of this GPU with another GPU; nullopt if nothing is known.
  [[nodiscard]] std::optional<bool> any_peer_granted(const Component& gpu) const;
  // True if peers and NICs could reach its memory over PCIe; nullopt if nothing is known of that.
  [[nodiscard]] std::optional<bool> peers_over_pcie(const Component& gpu) const;
  [[nodiscard]] std::optional<bool> gpu_direct_capable(const Component& gpu) const;

  // Who says so, of what a graph holds without a provenance: that of the component's links where
  // all come from one kind of file or from a specification; else kUntold.
  [[nodiscard]] std::string source(const Component& component) const;
  [[nodiscard]] std::string source(const NodeParts& node) const;

 private:
  [[nodiscard]] PciPath climb(const Component& device) const;

  const Topology* topology_;
  GraphIndex index_;
  std::vector<NodeParts> nodes_;
  std::map<const Component*, PciPath> paths_;
  std::map<std::string, std::size_t, std::less<>> domains_;
  std::map<std::string, bool, std::less<>> granted_;
  std::optional<CoreList> process_cores_;
  const TopologyNode* process_node_ = nullptr;
};

// By the catalogue, else by the name of the product: GeForce cards that the catalogue lacks.
[[nodiscard]] std::optional<PeerPolicy> peer_policy(const Component& gpu);

[[nodiscard]] bool is_gpu_link(LinkKind kind) noexcept;  // NVLink or xGMI.
// How many NVLinks the chip has at most; nullopt if that is not known.
[[nodiscard]] std::optional<std::uint32_t> chip_links(const Component& gpu) noexcept;

// What both directions of a pair's status come to: the first that is not OK.
[[nodiscard]] std::optional<PeerStatus> grant(const Pair& pair) noexcept;

}  // namespace causeway::doctor
