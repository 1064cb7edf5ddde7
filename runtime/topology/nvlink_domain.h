// Tells NVLinks that join two GPUs from those that end at a switch which a source does not show.
//
// Shape:   matrices say for each two GPUs how many links join them, also through NVSwitches. Where
//          the links to all peers together are more than the chip has, there must be a switch.
// Errors:  none.
// Cost:    O(components + links).
// Threads: pure functions.
// Source:  links per chip, link_rates.h; no chip has more than kMostNvlinks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "causeway/topology_graph.h"

namespace causeway {

constexpr std::uint32_t kMostNvlinks = 18;
// No eight GPUs have been built with a direct link between any two of them.
constexpr std::size_t kSwitchedMeshGpus = 8;

// Replaces each mesh that cannot be direct by a hidden NVSwitch with one link per GPU, and returns
// the names of the switches. With `by_size`, also an equal mesh of kSwitchedMeshGpus or more.
std::vector<std::string> replace_switched_meshes(TopologyGraph& graph, bool by_size);

// A GPU with more NVLinks than its chip has.
struct OverlinkedGpu {
  std::string gpu;
  std::uint64_t stated;
  std::uint32_t most;
};

// Lowers the counts of each such GPU's links by one ratio, to at least 1 each, and returns the
// GPUs.
std::vector<OverlinkedGpu> limit_links_of_chips(TopologyGraph& graph);

// A switch that is known by its effect alone.
[[nodiscard]] bool is_hidden_switch(const Component& component) noexcept;

}  // namespace causeway
