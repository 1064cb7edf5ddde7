// What a machine or a cluster is made of, as its sources tell it: sysfs, NVML, imported files, a
// cluster file. Only facts; what follows from them (islands, routes) is in topology.h.
//
// Shape:   components are vertices, links are edges. Inside a node the PCI devices form a tree
// whose
//          root is a CPU (one per NUMA node); NVLinks join GPUs, NVSwitches or CPUs; NICs join the
//          network. A Pair holds what is known of two devices and of no single link.
// Identity: a GPU is its UUID, any PCI device its full address, a NIC also its GUID. `name` is for
//          people and for links; it is unique in a graph and says nothing by its number.
// Units:   bytes, bytes per second in one direction, seconds.
// Unknown: an empty optional or text, never 0. Every Figure says where it comes from.
// Threads: plain values.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace causeway {

// Where a figure comes from; printed beside it.
enum class Provenance : std::uint8_t { spec, sysfs, nvml, import, measured };

struct Figure {
  double value;
  Provenance provenance;
  bool operator==(const Figure&) const = default;
};

struct PciAddress {
  std::uint32_t domain = 0;
  std::uint8_t bus = 0;
  std::uint8_t device = 0;
  std::uint8_t function = 0;

  // "0000:65:00.0", "00000000:65:00.0" (NVML), "65:00.0" (domain 0), upper or lower case.
  // Errors: nullopt for anything else.
  [[nodiscard]] static std::optional<PciAddress> parse(std::string_view text) noexcept;
  [[nodiscard]] std::string to_string() const;  // "0000:65:00.0"
  // The address that NVIDIA's driver gives for a switch that it hides: "fffffff:ff:ff.0".
  [[nodiscard]] bool is_hidden() const noexcept;
  auto operator<=>(const PciAddress&) const = default;
};

enum class ComponentKind : std::uint8_t {
  gpu,
  host,    // The memory of one NUMA node.
  cpu,     // The cores and the PCI root of one NUMA node.
  nic,     // One network device; several ports are several NICs.
  bridge,  // A PCI port or switch between a root and a device.
  nvswitch,
  network_switch,
  unknown,  // A PCI device of which only the place is known.
};

struct Component {
  std::string name;  // "hgx/gpu0", "hgx/nic1"; a network switch: its own name.
  ComponentKind kind = ComponentKind::unknown;
  std::string node;   // Empty for a network switch.
  std::string model;  // Catalogue name of a GPU ("rtx-5090"), "host" for host memory; else empty.
  std::string title;  // As its source calls it: "NVIDIA GeForce RTX 5090", "mlx5_0", a CPU's name.
  std::string uuid;   // Of a GPU; of a NIC or network switch its GUID ("0x...") or MAC.
  std::optional<PciAddress> pci = {};
  std::optional<std::uint32_t> vendor_id = {};  // PCI ids.
  std::optional<std::uint32_t> device_id = {};
  std::optional<std::uint32_t> numa = {};            // OS index of the NUMA node it is near to.
  std::optional<std::uint64_t> capacity_bytes = {};  // Of memory: a GPU's VRAM, a host's RAM.
  std::optional<std::uint64_t> bar1_bytes =
      {};                                // Of a GPU: the window through which others see it.
  std::optional<std::uint32_t> sm = {};  // Compute capability times 10, of an NVIDIA GPU: 90, 120.
  std::string arch;                      // Of an AMD GPU "gfx942"; of a CPU "x86_64", "arm64".
  std::string cpu_vendor;                // Of a CPU: "GenuineIntel", "AuthenticAMD", "ARM".
  std::optional<std::uint32_t> cpu_family = {};
  std::optional<std::uint32_t> cpu_model = {};
  std::string cpus;  // Of a CPU its cores, of a device those near to it: "0-23,48-71".
  std::optional<std::uint32_t> nvlinks_max = {};    // Of a GPU: links that the chip has.
  std::optional<std::uint32_t> nvlinks_down = {};   // Of a GPU: links that are there and inactive.
  std::optional<double> port_bytes_per_s = {};      // Of a NIC: the rate its port runs at.
  std::optional<double> port_max_bytes_per_s = {};  // And could run at.
  std::optional<bool> port_up = {};
  std::optional<std::uint32_t> mtu = {};
  std::string driver;                     // Of a NIC: "mlx5_core".
  std::optional<bool> is_rdma = {};       // Of a NIC.
  std::optional<bool> gpu_direct = {};    // Of a GPU or NIC: RDMA straight to VRAM works.
  std::optional<bool> acs_redirect = {};  // Of a bridge: sends peer traffic up to the root.
  std::optional<bool> is_chipset = {};    // Of a bridge: behind the chipset, not the CPU.
  bool operator==(const Component&) const = default;
};

enum class LinkKind : std::uint8_t {
  nvlink,
  xgmi,  // AMD's NVLink.
  c2c,   // GPU and CPU in one package.
  pcie,
  memory,  // A CPU and its NUMA node's memory.
  socket,  // Two CPUs.
  network,
};

enum class LinkState : std::uint8_t { unknown, up, degraded, down };

struct PcieMode {
  std::optional<std::uint32_t> generation = {};
  std::optional<std::uint32_t> width = {};
  bool operator==(const PcieMode&) const = default;
};

// Joins two components; both directions alike. A network link may also end at a node by its name:
// by whichever NIC. Of a PCIe link `a` is the lower end and `b` the one nearer to the root.
struct TopologyLink {
  LinkKind kind;
  std::string a;
  std::string b;
  Provenance provenance = Provenance::spec;  // Who says that the link is there.
  std::uint32_t count = 1;                   // NVLinks bonded into one.
  LinkState state = LinkState::unknown;
  PcieMode pcie = {};      // As it runs; idle cards slow down, so a generation may be too low.
  PcieMode pcie_max = {};  // What both ends could do.
  std::optional<Figure> line_bytes_per_s = {};       // All `count` together, on the wire.
  std::optional<Figure> effective_bytes_per_s = {};  // What a large transfer gets.
  std::optional<Figure> latency_s = {};
  bool operator==(const TopologyLink&) const = default;
};

// What the driver answers to "may these two GPUs see each other": nvmlDeviceGetP2PStatus.
enum class PeerStatus : std::uint8_t {
  ok,
  chipset_not_supported,   // CNS
  gpu_not_supported,       // GNS
  topology_not_supported,  // TNS
  disabled_by_registry,    // DR
  not_supported,           // NS
  unknown,                 // U
};

// The result of a copy with a check of the data.
enum class PeerCheck : std::uint8_t { passed, wrong_data, hung, failed };

// How far two devices are from each other, in the words of nvidia-smi, nearest first.
enum class PathClass : std::uint8_t {
  nvlink,  // NV#
  pix,     // At most one PCIe bridge.
  pxb,     // Several bridges, no CPU.
  phb,     // The CPU's host bridge.
  node,    // Several host bridges of one NUMA node.
  sys,     // The link between CPUs.
};

// From one device to another: `from` uses memory of `to`, and bytes that were measured went from
// `from` to `to`. Of the four states of peer access the first, policy, is the catalogue's.
struct Pair {
  std::string from;
  std::string to;
  std::optional<PeerStatus> granted_read = {};
  std::optional<PeerStatus> granted_write = {};
  std::optional<bool> cuda_agrees = {};  // cuDeviceCanAccessPeer
  std::optional<PeerCheck> verified = {};
  std::optional<PathClass> path = {};                // As a matrix says it.
  std::optional<Figure> bandwidth_bytes_per_s = {};  // Of a copy as the driver does it.
  std::optional<Figure> staged_bytes_per_s = {};     // Through host memory.
  std::optional<Figure> latency_s = {};
  bool operator==(const Pair&) const = default;
};

enum class MachineView : std::uint8_t { unknown, bare_metal, vm, container };
enum class IommuMode : std::uint8_t { off, passthrough, translating };
enum class FabricState : std::uint8_t {
  not_supported,
  not_started,
  in_progress,
  completed,
  failed
};

struct TopologyNode {
  std::string name;
  std::string driver_version;  // "580.95.05"
  std::string cuda_version;    // "13.0"
  std::string kernel;
  MachineView view = MachineView::unknown;
  std::optional<IommuMode> iommu = {};
  std::optional<FabricState> fabric = {};  // What the driver says of the fabric manager's work.
  std::string fabric_cluster;              // UUID of the NVLink domain, which may span nodes.
  // True if a source spoke of NVLinks at all; else that there are none in the graph says nothing.
  bool nvlinks_known = false;
  std::vector<std::string> unseen;  // "GPU links: libnvidia-ml.so.1 is not installed".
  bool operator==(const TopologyNode&) const = default;
};

// What a reader of a source has to say to its user.
struct TopologyNote {
  enum class Kind : std::uint8_t { remark, repaired, conflict };
  Kind kind = Kind::remark;
  std::string source;  // "FILE:LINE", "sysfs", ...
  std::string text;
  bool operator==(const TopologyNote&) const = default;
};

struct TopologyGraph {
  std::string name;
  std::vector<TopologyNode> nodes;
  std::vector<Component> components;
  std::vector<TopologyLink> links;
  std::vector<Pair> pairs;
  std::vector<TopologyNote> notes;

  // Both O(components), both nullptr if there is none.
  [[nodiscard]] const Component* find(std::string_view component) const noexcept;
  [[nodiscard]] const TopologyNode* find_node(std::string_view node) const noexcept;
  bool operator==(const TopologyGraph&) const = default;
};

[[nodiscard]] std::string_view to_string(Provenance value) noexcept;
[[nodiscard]] std::string_view to_string(ComponentKind value) noexcept;  // "gpu", "network_switch"
[[nodiscard]] std::string_view to_string(LinkKind value) noexcept;
[[nodiscard]] std::string_view to_string(LinkState value) noexcept;
[[nodiscard]] std::string_view to_string(PeerStatus value) noexcept;  // "OK", "GNS": the driver's
[[nodiscard]] std::string_view to_string(PeerCheck value) noexcept;   // "passed", "wrong_data"
[[nodiscard]] std::string_view to_string(PathClass value) noexcept;   // "NVL", "PIX", ... "SYS"
[[nodiscard]] std::string_view to_string(MachineView value) noexcept;
[[nodiscard]] std::string_view to_string(IommuMode value) noexcept;
[[nodiscard]] std::string_view to_string(FabricState value) noexcept;
[[nodiscard]] std::string_view to_string(TopologyNote::Kind value) noexcept;

// The value that `text` stands for, as to_string() writes it: parse_name<LinkKind>("nvlink").
template <typename Enum>
[[nodiscard]] std::optional<Enum> parse_name(std::string_view text) noexcept {
  // Every enumeration here starts at 0 without gaps; to_string() past its end is empty.
  for (std::uint8_t i = 0; i < 16; ++i) {
    const auto name = to_string(static_cast<Enum>(i));
    if (name == text) return static_cast<Enum>(i);
    if (name.empty()) break;
  }
  return std::nullopt;
}

}  // namespace causeway
