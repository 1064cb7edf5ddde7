// Which GPUs see each other's memory, and why that is believed.
//
// Shape:   a GPU pair's sight is decided by the strongest statement there is about it: a verified
//          copy, then CUDA, then the driver, then policy by model. Islands are grown in the graph's
//          order; each GPU joins the first island all of whose members it sees.
// Cost:    O(pairs of GPUs of a node, or of nodes with one NVLink fabric).
// Threads: pure functions.
#pragma once

#include <vector>

#include "causeway/topology.h"
#include "runtime/topology/graph_index.h"

namespace causeway {

// The NVLinks and xGMI links of one graph, as seen from the GPUs.
class NvlinkMap {
 public:
  explicit NvlinkMap(const GraphIndex& index);

  // The switched fabric a GPU is on; nullopt if it has no link to a switch.
  [[nodiscard]] std::optional<Vertex> fabric_of(Vertex gpu) const noexcept;
  [[nodiscard]] bool is_switched(Vertex a, Vertex b) const noexcept;
  // A GPU's links to switches; its links straight to another GPU.
  [[nodiscard]] std::vector<Edge> to_switches(Vertex gpu) const;
  [[nodiscard]] std::vector<Edge> direct(Vertex a, Vertex b) const;
  // GPUs with the same number are joined, over whatever is between.
  [[nodiscard]] Vertex group_of(Vertex vertex) const noexcept { return group_[vertex]; }

 private:
  const GraphIndex* index_;
  std::vector<Vertex> group_;   // By all links.
  std::vector<Vertex> fabric_;  // By links between switches and to switches.
};

struct Sight {
  bool sees;
  PeerBasis rests_on;
  std::string basis;
  LinkKind kind;             // nvlink, xgmi or pcie.
  bool is_way_known = true;  // False if it may as well be an NVLink that nothing tells of.
};

[[nodiscard]] Sight sight_between(const GraphIndex& index, const NvlinkMap& nvlinks, Vertex a,
                                  Vertex b);

struct IslandMap {
  std::vector<Island> islands;
  std::vector<NvlinkDomain> domains;
  std::vector<std::optional<std::uint32_t>> island_of;  // By vertex; nullopt for what is no GPU.
};

[[nodiscard]] IslandMap derive_islands(const GraphIndex& index, const NvlinkMap& nvlinks);

// The device that a GPU or host component stands for. Errors: invalid_argument for a name that is
// not of the form NODE/gpuN or NODE/hostN.
[[nodiscard]] DeviceName device_of(const Component& component);

}  // namespace causeway
