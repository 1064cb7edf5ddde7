// Goal:   discover() sees the machine that it runs on as hwloc and lspci do, and quickly.
// Method: NUMA nodes, their memory and CPUs, the PCI tree above each device, network interfaces:
//         each against the other tools' own reading. The time is the least of several runs.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <hwloc.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "causeway/topology_discovery.h"

using namespace causeway;

static TopologyGraph discover_here() {
  DiscoveryOptions options;
  options.node = "n";
  return discover(options);
}

using HwlocTopology = std::unique_ptr<hwloc_topology, void (*)(hwloc_topology_t)>;

static HwlocTopology load_hwloc() {
  hwloc_topology_t topology = nullptr;
  REQUIRE(hwloc_topology_init(&topology) == 0);
  HwlocTopology owner(topology, [](hwloc_topology_t one) { hwloc_topology_destroy(one); });
  hwloc_topology_set_io_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_ALL);
  hwloc_topology_set_flags(topology, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED);
  REQUIRE(hwloc_topology_load(topology) == 0);
  return owner;
}

static PciAddress address_of(const hwloc_obj_attr_u::hwloc_pcidev_attr_s& pci) {
  return {pci.domain, pci.bus, pci.dev, pci.func};
}

// The PCI device that an object of hwloc is, or hangs from.
static hwloc_obj_t pci_above(hwloc_obj_t object) {
  while (object != nullptr && object->type != HWLOC_OBJ_PCI_DEVICE &&
         !(object->type == HWLOC_OBJ_BRIDGE &&
           object->attr->bridge.upstream_type == HWLOC_OBJ_BRIDGE_PCI))
    object = object->parent;
  return object;
}

static std::string cpus_of(hwloc_const_bitmap_t set) {
  char* text = nullptr;
  REQUIRE(hwloc_bitmap_list_asprintf(&text, set) >= 0);
  const std::unique_ptr<char, void (*)(void*)> owner(text, std::free);
  return text;
}

TEST_CASE("NUMA nodes, their memory and CPUs are hwloc's") {
  const auto graph = discover_here();
  const auto hwloc = load_hwloc();
  int nodes = 0;
  for (hwloc_obj_t node = nullptr;
       (node = hwloc_get_next_obj_by_type(hwloc.get(), HWLOC_OBJ_NUMANODE, node)) != nullptr;) {
    const auto index = std::to_string(node->os_index);
    CAPTURE(index);
    const auto* host = graph.find("n/host" + index);
    REQUIRE(host != nullptr);
    CHECK(host->capacity_bytes == node->attr->numanode.local_memory);
    const auto* cpu = graph.find("n/cpu" + index);
    if (hwloc_bitmap_iszero(node->cpuset)) {
      CHECK(cpu == nullptr);
    } else {
      REQUIRE(cpu != nullptr);
      CHECK(cpu->cpus == cpus_of(node->cpuset));
    }
    ++nodes;
  }
  CHECK(nodes > 0);
  CHECK(nodes == std::ranges::count(graph.components, ComponentKind::host, &Component::kind));
}

TEST_CASE("network interfaces of PCI devices are hwloc's") {
  const auto graph = discover_here();
  const auto hwloc = load_hwloc();
  std::map<PciAddress, std::set<std::string>> interfaces;
  for (hwloc_obj_t os = nullptr; (os = hwloc_get_next_osdev(hwloc.get(), os)) != nullptr;) {
    const auto type = os->attr->osdev.type;
    const auto* pci = pci_above(os);
    if (pci == nullptr || (type != HWLOC_OBJ_OSDEV_NETWORK && type != HWLOC_OBJ_OSDEV_OPENFABRICS))
      continue;
    interfaces[address_of(pci->attr->pcidev)].insert(os->name);
  }
  std::size_t compared = 0;
  for (const auto& nic : graph.components) {
    if (nic.kind != ComponentKind::nic || !nic.is_rdma.has_value()) continue;
    CAPTURE(nic.title);
    REQUIRE(nic.pci);
    // "mlx4_0:1" is a port of mlx4_0.
    CHECK(interfaces[*nic.pci].contains(nic.title.substr(0, nic.title.find(':'))));
    interfaces.erase(*nic.pci);
    ++compared;
  }
  for (const auto& [address, names] : interfaces) {
    const bool is_kept = std::ranges::any_of(graph.components, [&](const Component& component) {
      return component.kind == ComponentKind::nic && component.pci == address;
    });
    INFO(address.to_string());
    CHECK(is_kept);
  }
  MESSAGE(compared << " NICs compared");
}

// "0000:00:03.0 0200: 1af4:1000 (rev 01)" by address, of every function.
static std::map<PciAddress, std::vector<std::string>> read_lspci() {
  std::map<PciAddress, std::vector<std::string>> functions;
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(::popen("lspci -Dn 2>/dev/null", "r"),
                                                             ::pclose);
  REQUIRE(pipe != nullptr);
  char line[256];
  while (std::fgets(line, sizeof line, pipe.get()) != nullptr) {
    std::istringstream words(line);
    std::string address, pci_class, ids;
    words >> address >> pci_class >> ids;
    if (const auto parsed = PciAddress::parse(address)) functions[*parsed] = {pci_class, ids};
  }
  return functions;
}

TEST_CASE("PCI devices are lspci's") {
  const auto graph = discover_here();
  const auto functions = read_lspci();
  if (functions.empty()) {
    MESSAGE("SKIPPED: lspci is not there, or this machine has no PCI");
    return;
  }
  std::set<PciAddress> kept;
  for (const auto& component : graph.components) {
    if (!component.pci || !component.vendor_id) continue;
    CAPTURE(component.name);
    const auto at = functions.find(*component.pci);
    REQUIRE(at != functions.end());
    char ids[16];
    std::snprintf(ids, sizeof ids, "%04x:%04x", *component.vendor_id, *component.device_id);
    CHECK(at->second[1] == ids);
    if (component.kind != ComponentKind::bridge) kept.insert(*component.pci);
  }
  // Network devices, NVIDIA's cards and switches: all of them, and nothing else of class 02.
  for (const auto& [address, words] : functions) {
    const bool is_nic = words[0].starts_with("02");
    const bool is_nvidia = words[1].starts_with("10de") &&
                           (words[0].starts_with("03") || words[0].starts_with("0680"));
    INFO(address.to_string(), " ", words[0], " ", words[1]);
    if (is_nic || is_nvidia) CHECK(kept.contains(address));
  }
  MESSAGE(kept.size() << " of " << functions.size() << " functions are kept");
}

TEST_CASE("the ports above a device are hwloc's") {
  const auto graph = discover_here();
  const auto hwloc = load_hwloc();
  std::size_t compared = 0;
  for (hwloc_obj_t device = nullptr;
       (device = hwloc_get_next_pcidev(hwloc.get(), device)) != nullptr;) {
    const auto address = address_of(device->attr->pcidev);
    const auto ours = std::ranges::find_if(graph.components, [&](const Component& component) {
      return component.pci == address && component.kind != ComponentKind::bridge;
    });
    if (ours == graph.components.end()) continue;
    CAPTURE(ours->name);
    std::string name = ours->name;
    for (auto above = pci_above(device->parent);; above = pci_above(above->parent)) {
      const auto link = std::ranges::find_if(graph.links, [&](const TopologyLink& one) {
        return one.kind == LinkKind::pcie && one.a == name;
      });
      REQUIRE(link != graph.links.end());
      const auto* parent = graph.find(link->b);
      REQUIRE(parent != nullptr);
      if (above == nullptr) {
        CHECK(parent->kind == ComponentKind::cpu);
        break;
      }
      CHECK(parent->pci == address_of(above->attr->bridge.upstream.pci));
      name = parent->name;
    }
    ++compared;
  }
  MESSAGE(compared << " devices compared");
}

TEST_CASE("it is quick") {
  using Milliseconds = std::chrono::duration<double, std::milli>;
  const auto fastest = [](const DiscoveryOptions& options) {
    Milliseconds least{1e9};
    for (int i = 0; i < 10; ++i) {
      const auto before = std::chrono::steady_clock::now();
      (void)discover(options);
      least = std::min<Milliseconds>(least, std::chrono::steady_clock::now() - before);
    }
    return least.count();
  };
  DiscoveryOptions options;
  const auto whole = fastest(options);
  options.use_nvml = false;
  const auto sysfs = fastest(options);
  MESSAGE(whole << " ms, of which sysfs " << sysfs << " ms");
  CHECK(sysfs < 100);
  const auto graph = discover();
  // With a GPU the driver's time is the driver's.
  if (graph.nodes.at(0).driver_version.empty()) CHECK(whole < 100);
}
