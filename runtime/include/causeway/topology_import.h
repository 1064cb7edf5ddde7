// Reads what other tools say of machines and clusters into a TopologyGraph.
//
// Shape:   one text is one graph; merge() joins what several texts say of one machine by identity.
//          What a reader had to repair or leave out is in the graph's notes, with "FILE:LINE".
// Errors:  Errc::parse: "FILE:LINE: what is wrong; what to do" for a text that is not what it says,
//          or is over kMaxImportBytes; not_found or io for a file that cannot be read.
// Cost:    O(text); memory bounded by a small multiple of the text.
// Threads: pure functions.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "causeway/topology_graph.h"

namespace causeway {

enum class ImportFormat : std::uint8_t {
  automatic,
  causeway_json,  // What `topo export` writes: docs/topology.md.
  cluster_yaml,   // A cluster file: docs/cluster-files.md.
  nccl_xml,       // NCCL_TOPO_DUMP_FILE, also AMD's.
  hwloc_xml,      // lstopo FILE.xml
  smi_topo,       // nvidia-smi topo -m
  smi_p2p,        // nvidia-smi topo -p2p r, w, n, a or p
  smi_nvlink,     // nvidia-smi nvlink -s
  nvbandwidth,    // Text or JSON.
  p2p_test,       // p2pBandwidthLatencyTest
  ibnetdiscover,
  transfer_table,  // Mooncake's JSON of measured NIC pairs.
};

constexpr std::size_t kMaxImportBytes = std::size_t{64} << 20;

struct ImportOptions {
  ImportFormat format = ImportFormat::automatic;
  std::string node;  // What to call the machine that a text describes; empty: "node0".
};

// `origin` stands for the file's name in errors and notes.
[[nodiscard]] TopologyGraph import_topology(std::string_view text, const std::string& origin,
                                            const ImportOptions& options = {});
[[nodiscard]] TopologyGraph import_topology_file(const std::string& path,
                                                 const ImportOptions& options = {});

// The format that `text` is in, or nullopt.
[[nodiscard]] std::optional<ImportFormat> detect_format(std::string_view text) noexcept;

// What several sources say of the same nodes, as one graph. Devices are the same if their UUIDs or
// full PCI addresses are; where a source numbers its devices only (nvidia-smi's matrices), number i
// is the i-th in the order of PCI addresses, and a note says that this was assumed. Measured
// figures win over reported ones, and these over specifications; where two of one rank differ, the
// first stays and a note of kind `conflict` names both. Nodes of different names stay different
// nodes.
[[nodiscard]] TopologyGraph merge(std::span<const TopologyGraph> graphs);

[[nodiscard]] std::string_view to_string(ImportFormat value) noexcept;  // "nccl_xml", "auto"

}  // namespace causeway
