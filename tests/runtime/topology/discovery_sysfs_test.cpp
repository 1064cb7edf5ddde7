// Goal:   what sysfs can say besides GPUs: odd NICs, virtual machines, NUMA without places,
//         processors of other makes; and nothing that looks like sysfs breaks discover().
// Method: by hand; then seeded mutations of whole machines. Replay a failure with
//         CAUSEWAY_TEST_SEED=<seed>.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <random>
#include <set>
#include <string>

#include "causeway/error.h"
#include "causeway/topology_discovery.h"
#include "tests/runtime/topology/sysfs_fixture.h"

using namespace causeway;
namespace fs = std::filesystem;

static TopologyGraph discover_at(const SysfsFixture& machine, const std::string& node = "n") {
  DiscoveryOptions options;
  options.node = node;
  options.sysfs_root = machine.root();
  options.use_nvml = false;
  return discover(options);
}

static const Component& at(const TopologyGraph& graph, const std::string& name) {
  const auto* component = graph.find("n/" + name);
  REQUIRE_MESSAGE(component != nullptr, name);
  return *component;
}

static const TopologyLink* link_of(const TopologyGraph& graph, const std::string& lower) {
  const auto found = std::ranges::find(graph.links, "n/" + lower, &TopologyLink::a);
  return found == graph.links.end() ? nullptr : &*found;
}

static std::size_t count(const TopologyGraph& graph, ComponentKind kind) {
  return static_cast<std::size_t>(std::ranges::count(graph.components, kind, &Component::kind));
}

static std::string all_unseen(const TopologyGraph& graph) {
  std::string text;
  for (const auto& entry : graph.nodes.at(0).unseen) text += entry + "\n";
  return text;
}

static bool is_unseen(const TopologyGraph& graph, std::string_view words) {
  return all_unseen(graph).find(words) != std::string::npos;
}

TEST_CASE("the node's name is the host's, as a node may be called") {
  const SysfsFixture machine;
  CHECK(discover_at(machine, "").nodes[0].name == "desk-top");
  machine.file("/proc/sys/kernel/hostname", "(none)\n");
  CHECK(discover_at(machine, "").nodes[0].name == "node0");
  try {
    (void)discover_at(machine, "No Name");
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(error.code() == Errc::invalid_argument);
  }
}

TEST_CASE("an empty machine") {
  const SysfsFixture machine;
  const auto graph = discover_at(machine);
  CHECK(graph.nodes.size() == 1);
  CHECK(graph.nodes[0].view == MachineView::unknown);
  CHECK(is_unseen(graph, "PCI devices: /sys/bus/pci/devices shows none"));
  CHECK(count(graph, ComponentKind::cpu) == 1);
  CHECK_FALSE(at(graph, "host0").capacity_bytes);
}

TEST_CASE("NICs: several ports, virtual functions, other namespaces, no driver") {
  const SysfsFixture machine;
  machine.numa(0, "0-3", 1000);
  const auto nic = [&](const char* address, const char* driver) {
    return machine.pci({{address}, "0x020000", "15b3:1017", "", "", "", "", 0, driver});
  };
  const auto two_ports = nic("0000:01:00.0", "mlx4_core");
  for (int port = 1; port <= 2; ++port) {
    const auto folder = fmt::format("{}/infiniband/mlx4_0/ports/{}", two_ports, port);
    machine.file(folder + "/state", "4: ACTIVE\n");
    machine.file(folder + "/rate", port == 1 ? "56 Gb/sec (4X FDR)\n" : "40 Gb/sec (4X QDR)\n");
    machine.file(folder + "/gids/0",
                 fmt::format("fe80:0000:0000:0000:0002:c903:000a:000{}\n", port));
    machine.file(fmt::format("{}/net/ib{}/dev_port", two_ports, port),
                 fmt::format("{}\n", port - 1));
    machine.file(fmt::format("{}/net/ib{}/mtu", two_ports, port), fmt::format("{}\n", 2000 + port));
  }
  machine.file(two_ports + "/infiniband/mlx4_0/node_guid", "0002:c903:000a:0000\n");
  const auto representors = nic("0000:02:00.0", "mlx5_core");
  machine.file(representors + "/net/a0/phys_port_name", "pf0vf0\n");
  machine.file(representors + "/net/a0/mtu", "1\n");
  machine.file(representors + "/net/p0/phys_port_name", "p0\n");
  machine.file(representors + "/net/p0/mtu", "9000\n");
  machine.file(representors + "/net/p0/speed", "-1\n");
  machine.file(representors + "/net/p0/operstate", "down\n");
  const auto virtual_function = nic("0000:02:00.1", "mlx5_core");
  machine.link(virtual_function + "/physfn", "../0000:02:00.0");
  (void)nic("0000:03:00.0", "vfio-pci");
  const auto paravirtual = nic("0000:04:00.0", "virtio-pci");
  machine.file(paravirtual + "/virtio2/net/eth0/mtu", "1400\n");

  const auto graph = discover_at(machine);
  CHECK(count(graph, ComponentKind::nic) == 5);
  CHECK(at(graph, "nic0").title == "mlx4_0:1");
  CHECK(at(graph, "nic0").uuid == "0x0002c903000a0001");
  CHECK(at(graph, "nic0").port_bytes_per_s == doctest::Approx(7e9));
  CHECK(at(graph, "nic1").uuid == "0x0002c903000a0002");
  CHECK(at(graph, "nic1").mtu == 2002);
  CHECK(at(graph, "nic1").pci == at(graph, "nic0").pci);
  CHECK(at(graph, "nic2").title == "p0");
  CHECK(at(graph, "nic2").mtu == 9000);
  CHECK(at(graph, "nic2").port_up == false);
  CHECK_FALSE(at(graph, "nic2").port_bytes_per_s);
  CHECK(at(graph, "nic3").title == "0000:03:00.0");
  CHECK(at(graph, "nic3").driver == "vfio-pci");
  CHECK_FALSE(at(graph, "nic3").is_rdma);
  CHECK_FALSE(at(graph, "nic3").port_up);
  CHECK(at(graph, "nic4").title == "eth0");
  CHECK(is_unseen(graph, "port of 1 NICs"));
  REQUIRE(graph.notes.size() == 1);
  CHECK(graph.notes[0].text.starts_with("1 virtual functions"));
}

TEST_CASE("a virtual machine: what its bridges say is made up") {
  const SysfsFixture machine;
  machine.desktop();
  machine.file("/proc/cpuinfo", "vendor_id\t: GenuineIntel\nflags\t\t: fpu hypervisor sse\n");
  for (const char* file : {"current_link_speed", "max_link_speed"})
    machine.file(std::string("/sys/bus/pci/devices/0000:00:01.0/") + file, "2.5 GT/s PCIe\n");
  for (const char* file : {"current_link_width", "max_link_width"})
    machine.file(std::string("/sys/bus/pci/devices/0000:00:01.0/") + file, "1\n");
  machine.file("/sys/bus/pci/devices/0000:02:00.0/current_link_speed", "Unknown\n");
  machine.file("/sys/bus/pci/devices/0000:02:00.0/current_link_width", "255\n");
  const auto graph = discover_at(machine);
  INFO(all_unseen(graph));
  CHECK(graph.nodes[0].view == MachineView::vm);
  CHECK(is_unseen(graph, "the processor says that a hypervisor runs it"));
  const auto* link = link_of(graph, "gpu0");
  REQUIRE(link != nullptr);
  CHECK(link->pcie == PcieMode{1, 16});
  CHECK(link->pcie_max == PcieMode{5, {}});  // No 0.25 GB/s, and no alarm for a narrow slot.
  CHECK(link->effective_bytes_per_s == Figure{48e9, Provenance::sysfs});
  const auto* hidden = link_of(graph, "gpu1");
  REQUIRE(hidden != nullptr);
  CHECK(hidden->pcie == PcieMode{});
  CHECK_FALSE(hidden->effective_bytes_per_s);
  CHECK(hidden->state == LinkState::unknown);
  CHECK_FALSE(at(graph, "bridge-0000:00:1c.0").is_chipset);
  CHECK(is_unseen(graph, "PCIe link of 1 of 3 devices"));
}

TEST_CASE("a narrow link, an AMD chipset, a translating IOMMU, clipped affinity") {
  const SysfsFixture machine;
  machine.desktop();
  machine.file("/sys/bus/pci/devices/0000:01:00.0/current_link_width", "8\n");
  machine.file("/sys/bus/pci/devices/0000:01:00.0/iommu_group/type", "DMA-FQ\n");
  machine.file("/proc/self/status", "Cpus_allowed:\t3\nCpus_allowed_list:\t0-1\n");
  // The chipset: a switch below the processor's root port, the NIC below that.
  machine.remove("/sys/bus/pci/devices/0000:03:00.0");
  machine.pci({{"0000:00:02.1"}, "0x060400", "1022:14db", "", "", "", "", -1});
  machine.pci({{"0000:00:02.1", "0000:05:00.0"}, "0x060400", "1022:43f4", "", "", "", "", -1});
  machine.pci({{"0000:00:02.1", "0000:05:00.0", "0000:06:04.0"}, "0x060400", "1022:43f5"});
  machine.pci({{"0000:00:02.1", "0000:05:00.0", "0000:06:04.0", "0000:07:00.0"},
               "0x020000",
               "10ec:8125",
               "5.0 GT/s PCIe",
               "5.0 GT/s PCIe",
               "1",
               "1"});
  const auto graph = discover_at(machine);
  INFO(all_unseen(graph));
  const auto* link = link_of(graph, "gpu0");
  REQUIRE(link != nullptr);
  CHECK(link->state == LinkState::degraded);
  CHECK(link->pcie_max.width == 16);
  CHECK(link->effective_bytes_per_s->value == 24e9);
  CHECK(graph.nodes[0].iommu == IommuMode::translating);
  CHECK(is_unseen(graph, "CPU affinity: this process may use 2 of 16 CPUs (0-1)"));
  CHECK(at(graph, "bridge-0000:00:02.1").is_chipset == false);
  CHECK(at(graph, "bridge-0000:05:00.0").is_chipset == true);
  CHECK(at(graph, "bridge-0000:06:04.0").is_chipset == true);
  // Without the config space, ports take turns: 06:04.0 is joined to 05:00.0 inside the switch.
  CHECK(link_of(graph, "bridge-0000:06:04.0")->pcie == PcieMode{});
  CHECK(link_of(graph, "nic0")->pcie == PcieMode{2, 1});

  machine.remove("/sys/bus/pci/devices/0000:01:00.0/iommu_group/type");
  const auto unknown = discover_at(machine);
  CHECK_FALSE(unknown.nodes[0].iommu);
  CHECK(is_unseen(unknown, "IOMMU mode"));
}

TEST_CASE("several NUMA nodes: places unknown, memory alone, memory far from its index") {
  const SysfsFixture machine;
  machine.numa(0, "0-7", 1000, "10 20 40 30");
  machine.numa(1, "8-15", 1000, "20 10 30 40");
  machine.numa(2, "", 0, "40 30 10 50");     // Nothing yet.
  machine.numa(10, "", 500, "30 18 50 10");  // Memory nearest to node 1.
  machine.file("/proc/cpuinfo",
               "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd4f\n");
  machine.pci({{"0009:00:00.0"}, "0x060400", "10de:22b8", "", "", "", "", 1});
  machine.pci({{"0009:00:00.0", "0009:01:00.0"}, "0x030200", "10de:2342", "", "", "", "", -1});
  machine.pci({{"0000:01:00.0"}, "0x120000", "1da3:1060", "", "", "", "", -1});
  const auto graph = discover_at(machine);
  INFO(all_unseen(graph));
  CHECK(count(graph, ComponentKind::cpu) == 2);
  CHECK(count(graph, ComponentKind::host) == 3);
  CHECK(at(graph, "cpu1").arch == "arm64");
  CHECK(at(graph, "cpu1").cpu_vendor == "ARM");
  CHECK(at(graph, "cpu1").cpu_model == 0xd4f);
  CHECK(link_of(graph, "host10")->b == "n/cpu1");
  CHECK(link_of(graph, "bridge-0009:00:00.0")->b == "n/cpu1");
  CHECK(at(graph, "gpu0").pci == PciAddress{9, 1, 0, 0});
  CHECK_FALSE(at(graph, "gpu0").numa);
  CHECK(at(graph, "device0").vendor_id == 0x1da3);
  CHECK(at(graph, "device0").kind == ComponentKind::unknown);
  CHECK(is_unseen(graph, "NUMA node of 1 PCI root devices"));
  CHECK(link_of(graph, "device0")->b == "n/cpu0");
}

TEST_CASE("containers are known by what their engines leave") {
  const SysfsFixture machine;
  machine.desktop();
  SUBCASE("a file bound over the machine's") {
    machine.file(
        "/proc/self/mountinfo",
        "22 1 0:21 / /proc rw - proc proc rw\n30 1 8:1 /x /etc/hosts rw - ext4 /dev/a rw\n");
  }
  SUBCASE("a control group") { machine.file("/proc/self/cgroup", "0::/kubepods/besteffort/x\n"); }
  const auto graph = discover_at(machine);
  CHECK(graph.nodes[0].view == MachineView::container);
}

TEST_CASE("a pipe in the place of a file does not hold discover()") {
  const SysfsFixture machine;
  machine.desktop();
  machine.remove("/proc/cpuinfo");
  REQUIRE(::mkfifo((machine.root() / "proc/cpuinfo").c_str(), 0600) == 0);
  CHECK(discover_at(machine).components.size() > 5);
}

// What every graph must keep, however odd its source.
static void check_sound(const TopologyGraph& graph) {
  std::set<std::string> names;
  for (const auto& component : graph.components) {
    REQUIRE(names.insert(component.name).second);
    REQUIRE(component.node == "n");
  }
  std::set<std::string> lower;
  for (const auto& link : graph.links) {
    REQUIRE(names.contains(link.a));
    REQUIRE(names.contains(link.b));
    REQUIRE(link.a != link.b);
    // A tree: one way up from each.
    if (link.kind == LinkKind::pcie) REQUIRE(lower.insert(link.a).second);
    if (link.effective_bytes_per_s) REQUIRE(link.effective_bytes_per_s->value > 0);
  }
  for (const auto& name : lower) {
    std::string walker = name;
    for (std::size_t steps = 0; lower.contains(walker); ++steps) {
      REQUIRE(steps <= lower.size());
      walker = std::ranges::find_if(graph.links, [&](const TopologyLink& link) {
                 return link.kind == LinkKind::pcie && link.a == walker;
               })->b;
    }
  }
}

static std::string mutated(std::string text, std::mt19937_64& random) {
  switch (random() % 6) {
    case 0:
      return "";
    case 1:
      return text.substr(0, random() % (text.size() + 1));
    case 2:
      return std::string(random() % 20000, static_cast<char>('0' + random() % 10));
    case 3:
      return "-1\n";
    default:
      for (int i = 0; i < 3 && !text.empty(); ++i)
        text[random() % text.size()] = static_cast<char>(random());
      return text;
  }
}

struct Inputs {
  std::vector<fs::path> files;
  std::vector<fs::path> links;
};

static Inputs inputs_of(const SysfsFixture& machine) {
  Inputs inputs;
  for (const auto& entry : fs::recursive_directory_iterator(machine.root())) {
    if (entry.is_symlink()) inputs.links.push_back(entry.path());
    if (entry.is_regular_file() && !entry.is_symlink()) inputs.files.push_back(entry.path());
  }
  std::ranges::sort(inputs.files);
  std::ranges::sort(inputs.links);
  return inputs;
}

static void run_mutations(const SysfsFixture& machine, const Inputs& inputs, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  INFO("seed=", seed);
  const auto& [files, links] = inputs;
  std::vector<std::pair<fs::path, std::string>> before;
  for (int i = 0; i < 12; ++i) {
    const auto& path = files[random() % files.size()];
    std::ifstream in(path, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    before.emplace_back(path, text);
    std::ofstream(path, std::ios::binary) << mutated(text, random);
  }
  // One link that leads where another does, or in a circle.
  const auto& link = links[random() % links.size()];
  const auto target = fs::read_symlink(link);
  const auto other = fs::read_symlink(links[random() % links.size()]);
  fs::remove(link);
  fs::create_symlink(random() % 2 == 0 ? other : target / other.filename() / target.filename(),
                     link);
  check_sound(discover_at(machine));
  fs::remove(link);
  fs::create_symlink(target, link);
  std::ranges::reverse(before);
  for (const auto& [path, text] : before) std::ofstream(path, std::ios::binary) << text;
}

TEST_CASE("mutations of sysfs give a sound graph") {
  const SysfsFixture machine;
  machine.hgx();
  check_sound(discover_at(machine));
  const auto inputs = inputs_of(machine);
  if (const char* seed = std::getenv("CAUSEWAY_TEST_SEED"))
    return run_mutations(machine, inputs, std::stoull(seed));
  for (std::uint64_t seed = 1; seed <= 150; ++seed) run_mutations(machine, inputs, seed);
}

TEST_CASE("a NIC above a NIC is a bridge") {
  const SysfsFixture machine;
  machine.numa(0, "0", 1000);
  machine.pci({{"0000:02:00.0"}, "0x020000", "8086:1"});
  machine.pci({{"0000:02:00.0", "0000:01:00.0"}, "0x020000", "8086:2"});
  const auto graph = discover_at(machine);
  check_sound(graph);
  CHECK(link_of(graph, "nic0")->b == "n/bridge-0000:02:00.0");
}

TEST_CASE("a circle of ports is cut") {
  const SysfsFixture machine;
  machine.numa(0, "0", 1000);
  machine.pci({{"0000:00:01.0", "0000:01:00.0"}, "0x020000", "8086:1"});
  machine.pci({{"0000:01:00.0", "0000:00:01.0"}, "0x020000", "8086:2"});
  check_sound(discover_at(machine));
}
