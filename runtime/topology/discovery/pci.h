// The PCI devices of this machine that matter here, and the ports above them.
//
// Shape:   a tree by `parent`; a device without one sits on a root bus. Kept are GPUs, network
//          devices, NVSwitches, accelerators of unknown make, and every bridge above one of these.
// Unknown: link speeds and widths that a virtual bridge makes up ("Gen1 x1") are left out.
// Cost:    one link and one file a PCI function, some ten files for each that is kept.
// Threads: plain values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "causeway/topology_graph.h"
#include "runtime/topology/discovery/file_tree.h"
#include "runtime/topology/discovery/sysfs_text.h"

namespace causeway {

struct PciDevice {
  PciAddress address;
  std::optional<PciAddress> parent = {};
  std::size_t depth = 1;  // Below its root bus. A VMD controller begins a new one.
  ComponentKind kind = ComponentKind::unknown;
  std::uint32_t vendor = 0;
  std::uint32_t device = 0;
  std::optional<std::uint32_t> numa = {};
  std::string cpus = {};
  std::string driver = {};
  PcieMode mode =
      {};  // Of the device's own link, which for a port that faces down is the one below.
  PcieMode mode_max = {};
  // False between the ports of one switch: there is no PCIe link, so no speed either.
  bool has_upstream_link = false;
  std::optional<std::uint64_t> bar1_bytes = {};    // Of a GPU.
  std::optional<std::uint64_t> memory_bytes = {};  // Of an AMD GPU.
  std::optional<PciPort> port = {};                // Of a bridge.
  std::optional<bool> acs_redirect = {};           // Of a bridge.
  std::optional<bool> is_chipset = {};             // Of a bridge.
  std::optional<IommuMode> iommu = {};             // Of what is no bridge.
};

struct PciTree {
  std::vector<PciDevice> devices;     // By address.
  std::size_t virtual_functions = 0;  // Left out: they share the port of their physical function.
  std::vector<std::string> unseen;
  bool is_visible = false;  // False if sysfs shows no PCI device at all.

  [[nodiscard]] const PciDevice* find(const PciAddress& address) const noexcept;
};

constexpr std::uint32_t kNvidia = 0x10de;
constexpr std::uint32_t kAmdGraphics = 0x1002;
constexpr std::uint32_t kAmd = 0x1022;
constexpr std::uint32_t kIntel = 0x8086;

// `is_virtual`: the machine is one, so its bridges tell nothing of chipsets.
[[nodiscard]] PciTree read_pci(const FileTree& files, bool is_virtual);

// The folder of a device below /sys.
[[nodiscard]] std::string pci_folder(const PciAddress& address);

}  // namespace causeway
