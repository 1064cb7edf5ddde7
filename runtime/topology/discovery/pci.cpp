#include "runtime/topology/discovery/pci.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

namespace causeway {

namespace {

constexpr std::string_view kDevices = "/sys/bus/pci/devices";

// One step of a device's path below /sys/devices, root first.
struct Step {
  PciAddress address;
  std::size_t depth;
};

// "../../../devices/pci0000:00/0000:00:01.0/0000:01:00.0": two steps, the device itself the last.
std::vector<Step> path_of(std::string_view link) {
  std::vector<Step> path;
  std::size_t depth = 0;
  while (!link.empty()) {
    const auto part = link.substr(0, link.find('/'));
    link.remove_prefix(std::min(part.size() + 1, link.size()));
    if (const auto address = PciAddress::parse(part))
      path.push_back({*address, ++depth});
    else if (part.starts_with("pci"))
      depth = 0;
  }
  return path;
}

// What a function is by its class, if it is kept.
std::optional<ComponentKind> kind_of(std::uint64_t pci_class, std::uint32_t vendor, bool on_root) {
  const auto base = pci_class >> 16;
  const auto sub = pci_class >> 8;
  switch (base) {
    case 0x02:
      return ComponentKind::nic;
    case 0x03:
      if (vendor == kNvidia || vendor == kAmdGraphics) return ComponentKind::gpu;
      // Intel's graphics on the root bus are part of the processor and have no memory of their own.
      if (vendor == kIntel && !on_root) return ComponentKind::gpu;
      return std::nullopt;  // A console, or emulated.
    case 0x06:
      if (vendor == kNvidia && sub == 0x0680) return ComponentKind::nvswitch;
      return std::nullopt;
    case 0x12:
      return vendor == kAmdGraphics ? ComponentKind::gpu : ComponentKind::unknown;
    default:
      return std::nullopt;
  }
}

PcieMode read_mode(const FileTree& files, const std::string& folder, std::string_view which) {
  return {parse_link_speed(files.text(fmt::format("{}/{}_link_speed", folder, which))),
          parse_link_width(files.text(fmt::format("{}/{}_link_width", folder, which)))};
}

std::optional<IommuMode> read_iommu(const FileTree& files, const std::string& folder) {
  if (!files.exists(folder + "/iommu_group")) return IommuMode::off;
  const auto type = files.text(folder + "/iommu_group/type");
  if (type.empty()) return std::nullopt;
  // The others are DMA, DMA-FQ and unmanaged (the addresses of a virtual machine).
  return type == "identity" ? IommuMode::passthrough : IommuMode::translating;
}

// The ports of AMD's chipsets: the vendor's ids. Source: the PCI ID database.
bool is_amd_chipset(const PciDevice& port) {
  constexpr std::array<std::uint32_t, 15> kPorts{0x43a0, 0x43a1, 0x43a2, 0x43a3, 0x43b0,
                                                 0x43b1, 0x43b4, 0x43c6, 0x43c7, 0x43e9,
                                                 0x43ea, 0x43f4, 0x43f5, 0x57a3, 0x57a4};
  constexpr std::uint32_t kMatisseUpstream = 0x57ad;
  return port.vendor == kAmd &&
         (port.device == kMatisseUpstream || std::ranges::count(kPorts, port.device) != 0);
}

// Where Intel's chipsets have their root ports, and its processors never: bus 0, devices 26 to 29.
bool is_intel_chipset(const PciDevice& port) {
  return port.vendor == kIntel && !port.parent && port.address.domain == 0 &&
         port.address.bus == 0 && port.address.device >= 26 && port.address.device <= 29;
}

void read_common(const FileTree& files, const std::string& folder, PciDevice& device) {
  device.vendor = static_cast<std::uint32_t>(files.hex(folder + "/vendor").value_or(0) & 0xffff);
  device.device = static_cast<std::uint32_t>(files.hex(folder + "/device").value_or(0) & 0xffff);
  // "-1" where the firmware does not say is no decimal number.
  const auto numa = files.decimal(folder + "/numa_node");
  if (numa && *numa < 0xffff) device.numa = static_cast<std::uint32_t>(*numa);
  device.cpus = files.text(folder + "/local_cpulist");
  if (!count_cpus(device.cpus)) device.cpus.clear();
  device.driver = files.link_name(folder + "/driver");
  device.mode = read_mode(files, folder, "current");
  device.mode_max = read_mode(files, folder, "max");
}

void read_bridge(const FileTree& files, const std::string& folder, PciDevice& bridge) {
  const auto config = files.read(folder + "/config");
  const PciConfig view{config ? std::string_view(*config) : std::string_view()};
  bridge.port = view.port();
  bridge.acs_redirect = view.acs_redirect();
  // Emulated ports say so, whatever really lies above.
  if (bridge.mode_max == PcieMode{1, 1}) bridge.mode = bridge.mode_max = {};
}

void read_device(const FileTree& files, PciDevice& device) {
  const auto folder = pci_folder(device.address);
  read_common(files, folder, device);
  if (device.kind == ComponentKind::bridge)
    read_bridge(files, folder, device);
  else
    device.iommu = read_iommu(files, folder);
  if (device.kind == ComponentKind::gpu) {
    device.bar1_bytes = parse_prefetchable_bytes(files.text(folder + "/resource"));
    device.memory_bytes = files.decimal(folder + "/mem_info_vram_total");
  }
}

// The kernel's tree has no circles. What only looks like sysfs may, and whoever walks up must end.
void cut_circles(PciTree& tree) {
  for (auto& device : tree.devices) {
    std::size_t steps = 0;
    const auto* above = &device;
    while (above != nullptr && above->parent && steps++ <= tree.devices.size())
      above = tree.find(*above->parent);
    if (steps > tree.devices.size()) device.parent.reset();
  }
}

// Root ports and downstream ports have a link below them, upstream ports one above.
void set_upstream_links(PciTree& tree) {
  for (auto& device : tree.devices) {
    const auto* parent = device.parent ? tree.find(*device.parent) : nullptr;
    if (parent == nullptr) continue;
    if (parent->port && *parent->port != PciPort::other)
      device.has_upstream_link = *parent->port != PciPort::upstream;
    else  // Without the config space: ports that face down and up take turns.
      device.has_upstream_link = device.depth % 2 == 0;
  }
}

// From the root down, since what is below a chipset is behind it.
void set_chipset(PciTree& tree) {
  std::vector<PciDevice*> bridges;
  for (auto& device : tree.devices)
    if (device.kind == ComponentKind::bridge) bridges.push_back(&device);
  std::ranges::stable_sort(bridges, {}, &PciDevice::depth);
  for (auto* bridge : bridges) {
    const auto* parent = bridge->parent ? tree.find(*bridge->parent) : nullptr;
    if (is_amd_chipset(*bridge) || is_intel_chipset(*bridge))
      bridge->is_chipset = true;
    else if (parent != nullptr)
      bridge->is_chipset = parent->is_chipset;
    else if (bridge->vendor == kIntel || bridge->vendor == kAmd)
      bridge->is_chipset = false;
  }
}

void say_unseen(PciTree& tree) {
  std::size_t bridges = 0;
  std::size_t without_acs = 0;
  std::size_t without_speed = 0;
  std::size_t devices = 0;
  for (const auto& device : tree.devices) {
    const bool is_bridge = device.kind == ComponentKind::bridge;
    bridges += is_bridge ? 1 : 0;
    without_acs += is_bridge && !device.acs_redirect ? 1 : 0;
    devices += is_bridge ? 0 : 1;
    without_speed += !is_bridge && !device.mode.width ? 1 : 0;
  }
  if (without_acs > 0)
    tree.unseen.push_back(fmt::format(
        "ACS of {} of {} PCI bridges: their extended config space cannot be read (it takes root)",
        without_acs, bridges));
  if (without_speed > 0)
    tree.unseen.push_back(fmt::format(
        "PCIe link of {} of {} devices: sysfs has no speed and width of it (a virtual machine "
        "hides them; a device without PCIe has none)",
        without_speed, devices));
}

}  // namespace

std::string pci_folder(const PciAddress& address) {
  return fmt::format("{}/{}", kDevices, address.to_string());
}

const PciDevice* PciTree::find(const PciAddress& address) const noexcept {
  const auto at = std::ranges::lower_bound(devices, address, {}, &PciDevice::address);
  return at == devices.end() || at->address != address ? nullptr : &*at;
}

PciTree read_pci(const FileTree& files, bool is_virtual) {
  PciTree tree;
  std::map<PciAddress, PciDevice> kept;
  for (const auto& name : files.list(std::string(kDevices))) {
    const auto address = PciAddress::parse(name);
    if (!address) continue;
    tree.is_visible = true;
    const auto folder = pci_folder(*address);
    auto path = path_of(files.link(folder));
    if (path.empty() || path.back().address != *address) path = {{*address, 1}};
    const auto vendor = static_cast<std::uint32_t>(files.hex(folder + "/vendor").value_or(0));
    const auto kind = kind_of(files.hex(folder + "/class").value_or(0), vendor, path.size() == 1);
    if (!kind) continue;
    if (files.exists(folder + "/physfn")) {
      ++tree.virtual_functions;
      continue;
    }
    for (std::size_t i = 0; i < path.size(); ++i) {
      auto& device = kept[path[i].address];
      if (i > 0) device.parent = path[i - 1].address;
      device.depth = path[i].depth;
      // What has anything below it is a bridge, whatever it says itself.
      if (i + 1 < path.size())
        device.kind = ComponentKind::bridge;
      else if (device.kind != ComponentKind::bridge)
        device.kind = *kind;
    }
  }
  for (auto& [address, device] : kept) {
    device.address = address;
    read_device(files, device);
    tree.devices.push_back(std::move(device));
  }
  cut_circles(tree);
  set_upstream_links(tree);
  if (!is_virtual) set_chipset(tree);
  say_unseen(tree);
  return tree;
}

}  // namespace causeway
