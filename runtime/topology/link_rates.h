// What links can carry by what they are: PCIe by generation and width, NVLink by the chip, sockets
// by the processor.
//
// Units:   bytes per second in one direction; seconds.
// Errors:  nullopt where nothing is known of the kind; never a guess.
// Threads: constants.
// Source:  PCIe, NVLink and socket rates as NCCL plans with them; line rates from the vendors' data
//          sheets. docs/topology.md lists them.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "causeway/topology_graph.h"

namespace causeway {

struct NvlinkRate {
  std::uint32_t links;           // That the chip has at most; a card may have fewer.
  double line_bytes_per_s;       // Of one link.
  double effective_bytes_per_s;  // Of one link, as a large transfer sees it.
};

// By compute capability times 10. nullopt for chips without NVLink and for unknown ones.
[[nodiscard]] std::optional<NvlinkRate> nvlink_rate(std::uint32_t sm) noexcept;

// One xGMI link by the GPU's architecture ("gfx942").
[[nodiscard]] std::optional<double> xgmi_bytes_per_s(std::string_view arch) noexcept;

// What a large transfer gets. nullopt unless generation and width are both known; the kernel's and
// the virtual bridges' "Gen1 x1" of a link that is not there is the caller's to leave out.
[[nodiscard]] std::optional<double> pcie_bytes_per_s(const PcieMode& mode) noexcept;

// The generation of a rate in GT/s: 2.5, 5, 8, 16, 32, 64. nullopt for others.
[[nodiscard]] std::optional<std::uint32_t> pcie_generation(double gt_per_s) noexcept;

// Between two sockets of this processor.
[[nodiscard]] std::optional<double> socket_bytes_per_s(const Component& cpu) noexcept;

// Nominal latencies of one hop, until a measurement replaces them.
constexpr double kLocalLatency = 0.3e-6;
constexpr double kPeerLatency = 0.4e-6;
constexpr double kPcieLatency = 1e-6;
constexpr double kStagedLatency = 14e-6;
constexpr double kSocketLatency = 0.2e-6;
constexpr double kHostBytesPerS = 50e9;    // Two channels of memory: the least a host has.
constexpr double kSocketBytesPerS = 16e9;  // Where the processor is not known.

// Gives every link the figures that follow from its kind, count, mode and ends, where it has none.
// They carry the provenance of the link itself. A PCIe link gets those of its lanes in use at the
// generation that both ends can do. O(links + components).
void fill_rates(TopologyGraph& graph);

}  // namespace causeway
