// W03 to W08: the way between a device and its CPU.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "runtime/topology/doctor/checks.h"
#include "runtime/topology/link_rates.h"

namespace causeway::doctor {

namespace {

// What a healthy board reaches of the rates that link_rates.h has is 0.95 to 1.2 of them; a
// generation too low halves it. Between the two, with room for a busy machine.
constexpr double kExpectedShare = 0.7;
// Up to 10 Gb/s a chipset's uplink is no obstacle: boards put such NICs there.
constexpr double kChipsetNicBytesPerS = 1.25e9;
// BAR1 sizes are powers of two and VRAM sizes are read as 10^9 or 2^30: less than this is less.
constexpr double kWholeVram = 0.9;

std::string mode_text(const PcieMode& mode) {
  const auto width = mode.width ? fmt::format("x{}", *mode.width) : std::string("x?");
  return mode.generation ? fmt::format("Gen{} {}", *mode.generation, width) : width;
}

bool is_known(const std::optional<std::uint32_t>& width) { return width && *width > 0; }

struct SharedLink {
  const TopologyLink* link;
  std::vector<std::string> devices;
};

// Every PCIe link on the way from a GPU or NIC to its CPU, once, with the devices below it.
std::vector<SharedLink> links_to_cpus(const Examination& machine) {
  std::vector<SharedLink> links;
  std::map<const TopologyLink*, std::size_t> index;
  for (const auto& node : machine.nodes())
    for (const auto* devices : {&node.gpus, &node.nics})
      for (const auto* device : *devices)
        for (const auto* link : machine.path(*device).links) {
          const auto [at, is_new] = index.try_emplace(link, links.size());
          if (is_new) links.push_back({link, {}});
          auto& below = links[at->second].devices;
          if (below.empty() || below.back() != device->name) below.push_back(device->name);
        }
  return links;
}

std::string cost_of_width(const TopologyLink& link) {
  // The current generation may be an idle one.
  const auto generation =
      link.pcie_max.generation ? link.pcie_max.generation : link.pcie.generation;
  const auto now = pcie_bytes_per_s({generation, link.pcie.width});
  const auto could = pcie_bytes_per_s({generation, link.pcie_max.width});
  if (!now || !could)
    return fmt::format("copies get {:.0f}% of what the link could carry",
                       100.0 * *link.pcie.width / *link.pcie_max.width);
  return fmt::format("copies get {} where {} is possible (spec)", rate_text(*now),
                     rate_text(*could));
}

// The link of the way that could carry least; nullptr if what one could carry is not known.
const TopologyLink* narrowest_link(const PciPath& path) {
  const TopologyLink* narrowest = nullptr;
  double least = 0;
  for (const auto* link : path.links) {
    const double rate = pcie_bytes_per_s(link->pcie_max).value_or(0);
    if (rate == 0) return nullptr;
    if (narrowest != nullptr && rate >= least) continue;
    narrowest = link;
    least = rate;
  }
  return narrowest;
}

enum class Widths { right, narrow, unknown };

Widths widths_of(const PciPath& path) {
  auto widths = Widths::right;
  for (const auto* link : path.links) {
    if (!is_known(link->pcie.width) || !is_known(link->pcie_max.width)) return Widths::unknown;
    if (*link->pcie.width < *link->pcie_max.width) widths = Widths::narrow;
  }
  return widths;
}

// What was measured between each GPU and host memory near it: the better direction.
std::map<std::string_view, Figure> measured_to_host(const Examination& machine) {
  std::map<std::string_view, Figure> best;
  const auto take = [&best](const std::string& gpu, const std::optional<Figure>& figure) {
    if (!figure || figure->provenance != Provenance::measured) return;
    const auto [at, is_new] = best.try_emplace(gpu, *figure);
    if (!is_new && figure->value > at->second.value) at->second = *figure;
  };
  for (const auto& pair : machine.graph().pairs) {
    const auto* gpu = machine.find(pair.from);
    const auto* host = machine.find(pair.to);
    if (gpu != nullptr && gpu->kind != ComponentKind::gpu) std::swap(gpu, host);
    if (gpu == nullptr || host == nullptr || gpu->kind != ComponentKind::gpu ||
        (host->kind != ComponentKind::host && host->kind != ComponentKind::cpu) ||
        gpu->node != host->node)
      continue;
    // Another CPU's memory is as far as the link between the CPUs is wide.
    if (gpu->numa && host->numa && gpu->numa != host->numa) continue;
    take(gpu->name, pair.bandwidth_bytes_per_s);
  }
  for (const auto& link : machine.graph().links)
    if (link.kind == LinkKind::pcie) take(link.a, link.effective_bytes_per_s);
  return best;
}

}  // namespace

void check_pcie_width(const Examination& machine, Report& report) {
  for (const auto& [link, devices] : links_to_cpus(machine)) {
    const FindingSubject subject{link->a, link->b};
    if (!is_known(link->pcie.width) || !is_known(link->pcie_max.width)) {
      report.unknown("present or possible width is not known", subject.to_string());
      continue;
    }
    report.examine();
    if (*link->pcie.width >= *link->pcie_max.width) continue;
    auto seen = fmt::format("runs x{}, both ends can do x{} ({})", *link->pcie.width,
                            *link->pcie_max.width, to_string(link->provenance));
    if (devices.size() > 1) seen += fmt::format(", shared by {}", names_text(devices));
    report.add({Severity::warning, cost_of_width(*link),
                "reseat the card and its riser or cable and clean the contacts; look in the BIOS "
                "for the slot's bifurcation and in the board's manual for slots and M.2 places "
                "that share lanes; then compare LnkCap and LnkSta in lspci -vv -s ADDRESS"},
               subject, {std::move(seen)});
  }
}

namespace {

void judge_bandwidth(const Component& gpu, const TopologyLink& link, const Figure& measured,
                     Report& report) {
  const double possible = pcie_bytes_per_s(link.pcie_max).value_or(0);
  if (measured.value >= kExpectedShare * possible) return;
  report.add({Severity::warning,
              fmt::format("under load the link stays {} below what its mode gives",
                          rate_text(possible - measured.value)),
              "set the slot's speed in the BIOS to the highest generation, try without riser, look "
              "for errors in dmesg (AER) and for power limits; while a copy runs, nvidia-smi -q -d "
              "PERFORMANCE and lspci -vv -s ADDRESS show the generation"},
             {gpu.name},
             {fmt::format("host and device: {}; {} carries {} ({}), and the width is right",
                          figure_text(measured), mode_text(link.pcie_max), rate_text(possible),
                          to_string(link.provenance))});
}

}  // namespace

void check_pcie_bandwidth(const Examination& machine, Report& report) {
  const auto measured = measured_to_host(machine);
  for (const auto& node : machine.nodes())
    for (const auto* gpu : node.gpus) {
      const auto& path = machine.path(*gpu);
      const auto at = measured.find(gpu->name);
      const auto* narrowest = path.reaches_cpu ? narrowest_link(path) : nullptr;
      const auto widths = widths_of(path);
      if (at == measured.end()) {
        report.unknown(
            "host to device was not measured, and what an idle card reports says nothing: causeway "
            "topo measure",
            gpu->name);
      } else if (narrowest == nullptr || widths == Widths::unknown || path.is_ambiguous) {
        report.unknown("what the links up to the CPU can do is not known", gpu->name);
      } else {
        report.examine();
        // A narrow link is W03's.
        if (widths == Widths::right) judge_bandwidth(*gpu, *narrowest, at->second, report);
      }
    }
}

namespace {

// True if a port on the way is the chipset's; nullopt if no port says.
std::optional<bool> is_behind_chipset(const Examination& machine, const PciPath& path,
                                      const TopologyLink*& uplink) {
  std::optional<bool> behind;
  for (const auto* link : path.links) {
    const auto* port = machine.find(link->b);
    if (port == nullptr || !port->is_chipset) continue;
    behind = behind.value_or(false) || *port->is_chipset;
    if (*port->is_chipset) uplink = link;
  }
  // The last one is the device's side of the chipset; the next link, if any, leads to the CPU.
  if (uplink != nullptr) {
    const auto at = std::ranges::find(path.links, uplink);
    if (at + 1 != path.links.end()) uplink = *(at + 1);
  }
  return behind;
}

bool matters_behind_chipset(const Component& device) {
  if (device.kind == ComponentKind::gpu || device.is_rdma == true) return true;
  const auto rate =
      device.port_max_bytes_per_s ? device.port_max_bytes_per_s : device.port_bytes_per_s;
  return rate && *rate > kChipsetNicBytesPerS;
}

}  // namespace

void check_chipset_slot(const Examination& machine, Report& report) {
  for (const auto& node : machine.nodes())
    for (const auto* devices : {&node.gpus, &node.nics})
      for (const auto* device : *devices) {
        if (!matters_behind_chipset(*device)) continue;
        const TopologyLink* uplink = nullptr;
        const auto behind = is_behind_chipset(machine, machine.path(*device), uplink);
        if (!behind) {
          report.unknown("whether its slot is the chipset's is not known", device->name);
          continue;
        }
        report.examine();
        if (!*behind) continue;
        const auto mode = uplink->pcie_max.generation ? uplink->pcie_max : uplink->pcie;
        const auto rate = pcie_bytes_per_s(mode);
        const auto source = machine.source(*device);
        report.add(
            {Severity::warning,
             "the device shares the chipset's uplink with disks, USB and network, and peers "
             "cannot be reached directly",
             "move the card to a slot that is wired to the CPU (the board's manual says "
             "which)"},
            {device->name},
            {rate ? fmt::format("below the chipset ({}), whose uplink {} carries {} ({})", source,
                                mode_text(mode), rate_text(*rate), to_string(uplink->provenance))
                  : fmt::format("below the chipset ({})", source)});
      }
}

namespace {

// What would talk to each other below a bridge.
struct Below {
  std::vector<const Component*> peers;   // GPUs that reach each other over PCIe.
  std::vector<const Component*> direct;  // GPUs that a NIC could write to.
  std::vector<const Component*> nics;

  [[nodiscard]] bool has_traffic() const {
    return peers.size() > 1 || (!direct.empty() && !nics.empty());
  }
};

// True if devices of `part` talk to others of `whole`, which holds them too.
bool talks_out_of(const Below& part, const Below& whole) {
  return (!part.peers.empty() && whole.peers.size() > part.peers.size()) ||
         (!part.direct.empty() && whole.nics.size() > part.nics.size()) ||
         (!part.nics.empty() && whole.direct.size() > part.direct.size());
}

void note_device(const Examination& machine, const Component& device, Below& below) {
  if (device.kind == ComponentKind::nic) {
    if (device.is_rdma == true && device.gpu_direct != false) below.nics.push_back(&device);
    return;
  }
  if (machine.peers_over_pcie(device) == true) below.peers.push_back(&device);
  if (machine.gpu_direct_capable(device) == true) below.direct.push_back(&device);
}

struct BridgeUse {
  const Component* top = nullptr;  // The bridge below the CPU.
  Below below;
  Below next_to;  // Without a bridge between: a description that leaves a switch's ports out.
};

// Bridges between a device and its CPU, nearest first.
std::vector<const Component*> bridges_above(const Examination& machine, const Component& device) {
  std::vector<const Component*> bridges;
  for (const auto* link : machine.path(device).links) {
    const auto* above = machine.find(link->b);
    if (above != nullptr && above->kind == ComponentKind::bridge) bridges.push_back(above);
  }
  return bridges;
}

}  // namespace

void check_acs(const Examination& machine, Report& report) {
  std::map<std::size_t, BridgeUse> uses;  // By the bridge's place in the graph.
  for (const auto& node : machine.nodes())
    for (const auto* devices : {&node.gpus, &node.nics})
      for (const auto* device : *devices) {
        const auto bridges = bridges_above(machine, *device);
        for (const auto* bridge : bridges) {
          auto& use = uses[static_cast<std::size_t>(bridge - machine.graph().components.data())];
          use.top = bridges.back();
          note_device(machine, *device, use.below);
          if (bridge == bridges.front()) note_device(machine, *device, use.next_to);
        }
      }
  for (const auto& [place, use] : uses) {
    const auto* bridge = &machine.graph().components[place];
    const auto& all =
        uses.at(static_cast<std::size_t>(use.top - machine.graph().components.data())).below;
    if (!talks_out_of(use.below, all) && !use.next_to.has_traffic()) continue;
    if (!all.has_traffic()) continue;  // A tree deeper than is followed.
    if (!bridge->acs_redirect) {
      report.unknown("whether it redirects is not known", bridge->name);
      continue;
    }
    report.examine();
    if (!*bridge->acs_redirect) continue;
    const bool among_gpus = all.peers.size() > 1;
    report.add(
        {Severity::warning,
         "what devices below one switch send each other goes up to the CPU and back: half the "
         "bandwidth, and with a translating IOMMU copies may hang",
         "on bare metal add pci=disable_acs_redir=ADDRESS (the bridges, separated by ';') to the "
         "kernel's command line, or turn ACS off in the BIOS; keep it where VMs own the devices"},
        {bridge->name},
        {fmt::format("ACS redirect is on ({}) between {} and {}", machine.source(*bridge),
                     among_gpus ? all.peers[0]->name : all.direct[0]->name,
                     among_gpus ? all.peers[1]->name : all.nics[0]->name)});
  }
}

namespace {

// True if GPUs of the node reach each other over PCIe, or a NIC reaches one.
bool has_direct_traffic(const Examination& machine, const NodeParts& node) {
  Below all;
  for (const auto* devices : {&node.gpus, &node.nics})
    for (const auto* device : *devices) note_device(machine, *device, all);
  return all.has_traffic();
}

}  // namespace

void check_iommu(const Examination& machine, Report& report) {
  for (const auto& node : machine.nodes()) {
    if (node.gpus.empty()) continue;
    if (!node.node->iommu) {
      report.unknown("the IOMMU's mode is not known", node.node->name);
      continue;
    }
    report.examine();
    if (*node.node->iommu != IommuMode::translating) continue;
    const bool matters = has_direct_traffic(machine, node);
    const bool is_arm = std::ranges::any_of(
        node.cpus, [](const auto* cpu) { return cpu->arch == "arm64" || cpu->arch == "aarch64"; });
    report.add(
        {matters ? Severity::warning : Severity::info,
         matters ? "peer copies and GPUDirect RDMA are translated at the CPU: slower, and on "
                   "some boards they hang or give wrong data"
                 : "copies to and from the host cost a little more; no device here reaches "
                   "another's memory directly as far as is known",
         is_arm ? "boot with iommu.passthrough=1"
                : "boot with iommu=pt, or turn the IOMMU (VT-d, AMD-Vi) off in the BIOS "
                  "unless VMs own devices"},
        {node.node->name},
        {fmt::format("IOMMU mode: {} ({})", to_string(*node.node->iommu), machine.source(node))});
  }
}

void check_bar1(const Examination& machine, Report& report) {
  for (const auto& node : machine.nodes())
    for (const auto* gpu : node.gpus) {
      const auto* model = find_gpu_model(gpu->model);
      const auto vram = gpu->capacity_bytes ? gpu->capacity_bytes
                        : model != nullptr  ? std::optional(model->memory_bytes)
                                            : std::nullopt;
      if (!gpu->bar1_bytes || !vram) {
        report.unknown("BAR1 or VRAM is not known", gpu->name);
        continue;
      }
      report.examine();
      if (static_cast<double>(*gpu->bar1_bytes) >= kWholeVram * static_cast<double>(*vram))
        continue;
      const bool matters = (machine.peers_over_pcie(*gpu) == true && node.gpus.size() > 1) ||
                           (machine.gpu_direct_capable(*gpu) == true && !node.nics.empty());
      report.add(
          {matters ? Severity::warning : Severity::info,
           matters ? "peers and NICs see only a part of this memory at once: peer access over "
                     "PCIe and GPUDirect RDMA fail or are slow for large buffers"
                   : "the CPU sees only a part of this memory at once; nothing else needs "
                     "more here as far as is known",
           "turn on Above 4G Decoding and Resizable BAR in the BIOS; data center cards: "
           "nvidia-smi -q -d MEMORY shows BAR1, and the vendor's displaymodeselector sets "
           "its size on cards with display outputs"},
          {gpu->name},
          {fmt::format("BAR1 {} MiB, VRAM {} MiB ({})", *gpu->bar1_bytes >> 20, *vram >> 20,
                       machine.source(*gpu))});
    }
}

}  // namespace causeway::doctor
