#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "causeway/device_name.h"
#include "causeway/error.h"
#include "causeway/topology_discovery.h"
#include "runtime/topology/discovery/cpus.h"
#include "runtime/topology/discovery/file_tree.h"
#include "runtime/topology/discovery/gpus.h"
#include "runtime/topology/discovery/machine_view.h"
#include "runtime/topology/discovery/nics.h"
#include "runtime/topology/discovery/nvml.h"
#include "runtime/topology/discovery/pci.h"
#include "runtime/topology/link_rates.h"

namespace causeway {

namespace {

// A host's name as a node may be called: small letters, no underscores.
std::string node_name(const FileTree& files, const std::string& wanted) {
  if (!wanted.empty()) {
    if (!is_node_name(wanted))
      throw Error(Errc::invalid_argument,
                  fmt::format("{}: not a node's name; use up to 63 of a-z, 0-9, '.' and '-', the "
                              "first a letter or digit",
                              wanted));
    return wanted;
  }
  std::string name;
  for (const char c : files.text("/proc/sys/kernel/hostname")) {
    const auto small = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    name += small == '_' ? '-' : small;
  }
  name.resize(std::min<std::size_t>(name.size(), 63));
  return is_node_name(name) ? name : "node0";
}

class Discovery {
 public:
  explicit Discovery(const DiscoveryOptions& options)
      : options_(options),
        files_(options.sysfs_root),
        processor_(read_processor(files_)),
        view_(read_view(files_, processor_)),
        tree_(read_pci(files_, view_.is_virtual)) {
    node_.name = node_name(files_, options.node);
    prefix_ = node_.name + "/";
    graph_.name = node_.name;
  }

  TopologyGraph run() {
    add_node_facts();
    const auto report = ask_driver();
    add_cpus(report.get());
    auto unseen = tree_.unseen;
    gpus_ = join_gpus(tree_, report.get(), unseen);
    for (std::size_t i = 0; i < gpus_.size(); ++i)
      add_device(gpu_component(gpus_[i], prefix_, i), gpus_[i].place);
    add_other_devices(unseen);
    node_.unseen.insert(node_.unseen.end(), unseen.begin(), unseen.end());
    add_pci_links();
    if (report != nullptr) add_nvml_links(gpus_, *report, prefix_, graph_, node_);
    graph_.nodes.push_back(std::move(node_));
    fill_rates(graph_);
    return std::move(graph_);
  }

 private:
  void add_node_facts() {
    node_.kernel = files_.text("/proc/sys/kernel/osrelease");
    node_.driver_version = files_.text("/sys/module/nvidia/version");
    node_.view = view_.view;
    if (view_.view == MachineView::container || view_.is_virtual) {
      std::string evidence;
      for (const auto& one : view_.evidence) evidence += (evidence.empty() ? "" : "; ") + one;
      node_.unseen.push_back(fmt::format(
          "the whole machine: this is a {}'s view ({})",
          view_.view == MachineView::container ? "container" : "virtual machine", evidence));
    }
    if (const auto clipped = clipped_affinity(files_); !clipped.empty())
      node_.unseen.push_back(clipped);
    if (!tree_.is_visible) node_.unseen.push_back("PCI devices: /sys/bus/pci/devices shows none");
    add_iommu();
  }

  // Of the devices: one that is translated counts for all.
  void add_iommu() {
    bool is_unknown = false;
    for (const auto& device : tree_.devices) {
      if (device.kind == ComponentKind::bridge) continue;
      is_unknown = is_unknown || !device.iommu;
      if (device.iommu && (!node_.iommu || *device.iommu > *node_.iommu))
        node_.iommu = device.iommu;
    }
    if (is_unknown && node_.iommu != IommuMode::translating) {
      node_.iommu.reset();
      node_.unseen.push_back("IOMMU mode: the type of a device's group cannot be read");
    }
  }

  // nullptr if the driver had nothing to say.
  std::unique_ptr<const NvmlReport> ask_driver() {
    const auto unseen = [this](const std::string& why) {
      node_.unseen.push_back("GPU links, peer access and memory: " + why);
    };
    const bool has_gpu = std::ranges::any_of(tree_.devices, [](const PciDevice& device) {
      return device.kind == ComponentKind::gpu && device.vendor == kNvidia;
    });
    if (!options_.use_nvml) {
      if (has_gpu) unseen("NVML was left out as asked");
      return nullptr;
    }
    auto report = ask_nvml(options_.nvml_library, options_.nvml_timeout);
    switch (report->outcome) {
      case NvmlOutcome::complete:
        break;
      case NvmlOutcome::no_library:
        // Nobody misses it where there is no such GPU.
        if (has_gpu || !tree_.is_visible)
          unseen(fmt::format("no NVML ({})", text_of(report->error)));
        return nullptr;
      case NvmlOutcome::no_init:
        if (has_gpu || report->code != nvml::kDriverNotLoaded)
          unseen("NVML does not start: " + nvml_error(report->code));
        return nullptr;
      case NvmlOutcome::no_child:
        unseen(fmt::format("NVML's process does not start (errno {})", report->code));
        return nullptr;
      case NvmlOutcome::timed_out:
        unseen(fmt::format("NVML did not answer within {} ms, in {}; what it said before counts",
                           options_.nvml_timeout.count(), last_call(*report)));
        break;
      case NvmlOutcome::crashed:
        unseen(fmt::format("NVML's process ended by signal {}, in {}; what it said before counts",
                           report->code, last_call(*report)));
        break;
    }
    for (auto& fact : missing_facts(*report)) node_.unseen.push_back(std::move(fact));
    add_driver_facts(*report, node_);
    return report;
  }

  // One CPU and one host memory a NUMA node, the CPUs joined in pairs. Memory without CPUs goes to
  // the nearest; memory that is a GPU's own is not the host's.
  void add_cpus(const NvmlReport* report) {
    auto nodes = read_numa(files_);
    for (std::uint32_t i = 0; report != nullptr && i < report->reported(); ++i)
      if (const auto own = report->gpus[i].numa_memory)
        std::erase_if(
            nodes, [&](const NumaNode& node) { return node.index == *own && node.cpus.empty(); });
    for (const auto& node : nodes)
      if (!node.cpus.empty() || nodes.size() == 1) add_cpu(node);
    for (const auto& node : nodes) add_host(node);
    for (std::size_t a = 0; a < cpus_.size(); ++a)
      for (std::size_t b = a + 1; b < cpus_.size(); ++b)
        graph_.links.push_back(
            {LinkKind::socket, cpu_name(cpus_[a]), cpu_name(cpus_[b]), Provenance::sysfs});
  }

  void add_cpu(const NumaNode& node) {
    Component cpu;
    cpu.name = cpu_name(node.index);
    cpu.kind = ComponentKind::cpu;
    cpu.node = node_.name;
    cpu.title = processor_.title;
    cpu.numa = node.index;
    cpu.arch = processor_.arch;
    cpu.cpu_vendor = processor_.vendor;
    cpu.cpu_family = processor_.family;
    cpu.cpu_model = processor_.model;
    cpu.cpus = node.cpus;
    graph_.components.push_back(std::move(cpu));
    cpus_.push_back(node.index);
  }

  void add_host(const NumaNode& node) {
    if (node.memory_bytes == std::uint64_t{0}) return;
    Component host;
    host.name = fmt::format("{}host{}", prefix_, node.index);
    host.kind = ComponentKind::host;
    host.node = node_.name;
    host.model = "host";
    host.numa = node.index;
    host.capacity_bytes = node.memory_bytes;
    host.cpus = node.cpus;
    std::optional<std::uint32_t> near;
    std::uint64_t least = 0;
    for (const auto cpu : cpus_) {
      const auto known = node.distances.find(cpu);
      const auto far = cpu == node.index               ? 0
                       : known != node.distances.end() ? known->second
                                                       : ~std::uint64_t{0};
      if (near && far >= least) continue;
      near = cpu;
      least = far;
    }
    if (near)
      graph_.links.push_back({LinkKind::memory, host.name, cpu_name(*near), Provenance::sysfs});
    graph_.components.push_back(std::move(host));
  }

  void add_other_devices(std::vector<std::string>& unseen) {
    std::map<ComponentKind, std::size_t> count;
    std::size_t without_interface = 0;
    for (const auto& device : tree_.devices) {
      if (device.kind == ComponentKind::nic) {
        for (auto& port : read_nic_ports(files_, device)) {
          port.name = fmt::format("{}nic{}", prefix_, count[ComponentKind::nic]++);
          port.kind = ComponentKind::nic;
          if (!port.is_rdma.has_value()) ++without_interface;
          add_device(std::move(port), &device);
        }
      } else if (device.kind == ComponentKind::nvswitch || device.kind == ComponentKind::unknown) {
        Component component;
        const auto* word = device.kind == ComponentKind::nvswitch ? "nvswitch" : "device";
        component.name = fmt::format("{}{}{}", prefix_, word, count[device.kind]++);
        component.kind = device.kind;
        add_device(std::move(component), &device);
      } else if (device.kind == ComponentKind::bridge) {
        Component bridge;
        bridge.name = bridge_name(device.address);
        bridge.kind = ComponentKind::bridge;
        bridge.acs_redirect = device.acs_redirect;
        bridge.is_chipset = device.is_chipset;
        add_device(std::move(bridge), &device);
      }
    }
    if (without_interface > 0)
      unseen.push_back(fmt::format(
          "port of {} NICs: they show no network interface (no driver is bound, or another network "
          "namespace has it)",
          without_interface));
    if (tree_.virtual_functions > 0)
      graph_.notes.push_back(
          {TopologyNote::Kind::remark, "sysfs",
           fmt::format("{} virtual functions are left out: they share the port of their device",
                       tree_.virtual_functions)});
  }

  void add_device(Component component, const PciDevice* place) {
    component.node = node_.name;
    if (place != nullptr) {
      component.pci = place->address;
      component.vendor_id = place->vendor;
      component.device_id = place->device;
      component.numa = place->numa;
      component.cpus = place->cpus;
      if (component.kind == ComponentKind::nic) component.driver = place->driver;
      ends_.emplace_back(component.name, place);
    }
    graph_.components.push_back(std::move(component));
  }

  // Devices to the port above them, ports to the next, and what is on a root bus to a CPU.
  void add_pci_links() {
    std::size_t unplaced = 0;
    for (const auto& [name, place] : ends_) {
      const auto* parent = place->parent ? tree_.find(*place->parent) : nullptr;
      if (parent != nullptr) {
        graph_.links.push_back(port_link(name, *place, *parent));
        continue;
      }
      const bool is_placed = place->numa && std::ranges::count(cpus_, *place->numa) != 0;
      if (!is_placed && cpus_.size() > 1) ++unplaced;
      if (cpus_.empty()) continue;
      TopologyLink link{LinkKind::pcie, name, cpu_name(is_placed ? *place->numa : cpus_.front()),
                        Provenance::sysfs};
      // A device on a root bus has its speed from a virtual machine's host, if any. A root port's
      // is that of the link below it.
      if (place->kind != ComponentKind::bridge) {
        link.pcie = place->mode;
        link.pcie_max.generation = place->mode_max.generation;
      }
      link.state = link.pcie.width ? LinkState::up : LinkState::unknown;
      graph_.links.push_back(std::move(link));
    }
    for (std::size_t i = 0; i < gpus_.size(); ++i)
      if (gpus_[i].driver != nullptr && gpus_[i].place == nullptr && !cpus_.empty()) {
        add_driver_link(*gpus_[i].driver, i);
        unplaced += cpus_.size() > 1 ? 1 : 0;
      }
    if (unplaced > 0) {
      node_.unseen.push_back(
          fmt::format("NUMA node of {} PCI root devices: sysfs does not say", unplaced));
      graph_.notes.push_back(
          {TopologyNote::Kind::remark, "sysfs",
           fmt::format("{} PCI root devices of unknown NUMA node are drawn at {}", unplaced,
                       cpu_name(cpus_.front()))});
    }
  }

  TopologyLink port_link(const std::string& name, const PciDevice& device,
                         const PciDevice& parent) const {
    TopologyLink link{LinkKind::pcie, name, bridge_name(parent.address), Provenance::sysfs};
    if (!device.has_upstream_link) return link;  // Within a switch.
    link.pcie = device.mode;
    const auto& a = device.mode_max;
    const auto& b = parent.mode_max;
    // Of a generation, one end's bound is a bound. Lanes are compared with those in use, and a
    // narrow slot would look like a fault: so both ends or nothing.
    link.pcie_max.generation = a.generation && b.generation
                                   ? std::min(*a.generation, *b.generation)
                                   : (a.generation ? a.generation : b.generation);
    if (a.width && b.width) link.pcie_max.width = std::min(*a.width, *b.width);
    if (link.pcie.width)
      link.state = link.pcie_max.width && *link.pcie.width < *link.pcie_max.width
                       ? LinkState::degraded
                       : LinkState::up;
    return link;
  }

  // A GPU that only the driver shows hangs below a CPU, with the driver's word for its link.
  void add_driver_link(const NvmlGpu& driver, std::size_t index) {
    TopologyLink link{LinkKind::pcie, fmt::format("{}gpu{}", prefix_, index),
                      cpu_name(cpus_.front()), Provenance::nvml};
    const auto sane = [](std::optional<std::uint32_t> value, std::uint32_t most) {
      return value && *value > 0 && *value <= most ? value : std::nullopt;
    };
    link.pcie = {sane(driver.generation, 7), sane(driver.width, 32)};
    link.pcie_max = {sane(driver.generation_max, 7), sane(driver.width_max, 32)};
    link.state = !link.pcie.width ? LinkState::unknown
                 : link.pcie_max.width && *link.pcie.width < *link.pcie_max.width
                     ? LinkState::degraded
                     : LinkState::up;
    graph_.links.push_back(std::move(link));
  }

  std::string cpu_name(std::uint32_t index) const { return fmt::format("{}cpu{}", prefix_, index); }
  std::string bridge_name(const PciAddress& address) const {
    return fmt::format("{}bridge-{}", prefix_, address.to_string());
  }

  const DiscoveryOptions& options_;
  FileTree files_;
  Processor processor_;
  ViewFacts view_;
  PciTree tree_;
  std::string prefix_;
  TopologyGraph graph_;
  TopologyNode node_;
  std::vector<GpuSource> gpus_;
  std::vector<std::uint32_t> cpus_;  // NUMA indices that have a CPU component.
  std::vector<std::pair<std::string, const PciDevice*>> ends_;  // Below which link each hangs.
};

}  // namespace

TopologyGraph discover(const DiscoveryOptions& options) { return Discovery(options).run(); }

}  // namespace causeway
