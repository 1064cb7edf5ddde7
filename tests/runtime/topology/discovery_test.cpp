// Goal:   discover() says what a machine is made of, says of everything else that it is unknown and
//         why, and outlives a driver that hangs, crashes or fails.
// Method: folders that look like sysfs and a software libnvidia-ml.so.1 with a scenario each; the
//         expectations are those of the machines that they describe.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <dlfcn.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <set>
#include <string>
#include <thread>

#include "causeway/error.h"
#include "causeway/topology_discovery.h"
#include "tests/runtime/topology/sysfs_fixture.h"

using namespace causeway;
namespace fs = std::filesystem;
using std::chrono::milliseconds;

static void use_scenario(const std::string& name) {
  ::setenv("CAUSEWAY_NVML_SCENARIO", (CAUSEWAY_TEST_DATA "/nvml/" + name + ".txt").c_str(), 1);
}

static DiscoveryOptions options_of(const SysfsFixture& machine) {
  DiscoveryOptions options;
  options.node = "n";
  options.sysfs_root = machine.root();
  options.nvml_library = CAUSEWAY_NVML_FOLDER "/current/libnvidia-ml.so.1";
  return options;
}

static TopologyGraph discover_with(const SysfsFixture& machine, const std::string& scenario) {
  use_scenario(scenario);
  return discover(options_of(machine));
}

static const Component& at(const TopologyGraph& graph, const std::string& name) {
  const auto* component = graph.find("n/" + name);
  REQUIRE_MESSAGE(component != nullptr, name);
  return *component;
}

static const TopologyLink* link_between(const TopologyGraph& graph, const std::string& a,
                                        const std::string& b, LinkKind kind) {
  const auto found = std::ranges::find_if(graph.links, [&](const TopologyLink& link) {
    return link.kind == kind && ((link.a == "n/" + a && link.b == "n/" + b) ||
                                 (link.a == "n/" + b && link.b == "n/" + a));
  });
  return found == graph.links.end() ? nullptr : &*found;
}

static const Pair* pair_of(const TopologyGraph& graph, const std::string& from,
                           const std::string& to) {
  const auto found = std::ranges::find_if(graph.pairs, [&](const Pair& pair) {
    return pair.from == "n/" + from && pair.to == "n/" + to;
  });
  return found == graph.pairs.end() ? nullptr : &*found;
}

static std::size_t count(const TopologyGraph& graph, ComponentKind kind) {
  return static_cast<std::size_t>(std::ranges::count(graph.components, kind, &Component::kind));
}

static std::size_t count(const TopologyGraph& graph, LinkKind kind) {
  return static_cast<std::size_t>(std::ranges::count(graph.links, kind, &TopologyLink::kind));
}

static bool is_unseen(const TopologyGraph& graph, std::string_view words) {
  return std::ranges::any_of(graph.nodes.at(0).unseen, [&](const std::string& entry) {
    return entry.find(words) != std::string::npos;
  });
}

static std::string all_unseen(const TopologyGraph& graph) {
  std::string text;
  for (const auto& entry : graph.nodes.at(0).unseen) text += entry + "\n";
  return text;
}

TEST_CASE("a desktop of two RTX 5090") {
  const SysfsFixture machine;
  machine.desktop();
  const auto graph = discover_with(machine, "two-rtx5090");
  INFO(all_unseen(graph));
  const auto& node = graph.nodes.at(0);
  CHECK(node.view == MachineView::bare_metal);
  CHECK(node.driver_version == "580.95.05");
  CHECK(node.cuda_version == "13.0");
  CHECK(node.kernel == "6.8.0-45-generic");
  CHECK(node.iommu == IommuMode::off);
  CHECK_FALSE(node.fabric);
  CHECK(node.nvlinks_known);

  const auto& gpu = at(graph, "gpu0");
  CHECK(gpu.model == "rtx-5090");
  CHECK(gpu.title == "NVIDIA GeForce RTX 5090");
  CHECK(gpu.uuid == "GPU-5090aaaa-0000-4000-8000-000000000000");
  CHECK(gpu.pci == PciAddress{0, 1, 0, 0});
  CHECK(gpu.device_id == 0x2b85);
  CHECK(gpu.capacity_bytes == std::uint64_t{32607} << 20);
  CHECK(gpu.bar1_bytes == std::uint64_t{256} << 20);  // sysfs is the truth for PCI.
  CHECK(gpu.sm == 120);
  CHECK(gpu.nvlinks_max == 0);
  CHECK(gpu.nvlinks_down == 0);
  CHECK(gpu.numa == 0);
  CHECK(count(graph, ComponentKind::gpu) == 2);
  CHECK(count(graph, LinkKind::nvlink) == 0);

  // Idle at Gen1; what counts is Gen5 by the lanes in use.
  const auto* wide = link_between(graph, "gpu0", "bridge-0000:00:01.0", LinkKind::pcie);
  REQUIRE(wide != nullptr);
  CHECK(wide->pcie == PcieMode{1, 16});
  CHECK(wide->pcie_max == PcieMode{5, 16});
  CHECK(wide->effective_bytes_per_s == Figure{48e9, Provenance::sysfs});
  CHECK(wide->state == LinkState::up);
  CHECK(wide->a == "n/gpu0");
  const auto* narrow = link_between(graph, "gpu1", "bridge-0000:00:01.1", LinkKind::pcie);
  REQUIRE(narrow != nullptr);
  CHECK(narrow->pcie_max == PcieMode{5, 8});  // The slot's, though the card could do 16.
  CHECK(narrow->effective_bytes_per_s == Figure{24e9, Provenance::sysfs});
  CHECK(narrow->state == LinkState::up);

  CHECK(at(graph, "bridge-0000:00:01.0").is_chipset == false);
  CHECK(at(graph, "bridge-0000:00:1c.0").is_chipset == true);
  CHECK_FALSE(at(graph, "bridge-0000:00:01.0").acs_redirect);
  CHECK(is_unseen(graph, "ACS of 3 of 3 PCI bridges"));
  CHECK(count(graph, ComponentKind::bridge) == 3);  // The disk's port leads to nothing here.

  const auto& nic = at(graph, "nic0");
  CHECK(nic.title == "enp3s0");
  CHECK(nic.uuid == "04:42:1a:00:00:01");
  CHECK(nic.port_bytes_per_s == doctest::Approx(312.5e6));
  CHECK(nic.mtu == 1500);
  CHECK(nic.port_up == true);
  CHECK(nic.is_rdma == false);
  CHECK(nic.driver == "igc");

  const auto& cpu = at(graph, "cpu0");
  CHECK(cpu.arch == "x86_64");
  CHECK(cpu.cpu_vendor == "GenuineIntel");
  CHECK(cpu.cpu_family == 6);
  CHECK(cpu.cpu_model == 183);
  CHECK(cpu.cpus == "0-15");
  CHECK(at(graph, "host0").capacity_bytes == 65'000'000ULL * 1024);
  CHECK(link_between(graph, "host0", "cpu0", LinkKind::memory) != nullptr);
  CHECK(link_between(graph, "bridge-0000:00:01.0", "cpu0", LinkKind::pcie) != nullptr);

  CHECK(graph.pairs.size() == 2);
  for (const auto* pair : {pair_of(graph, "gpu0", "gpu1"), pair_of(graph, "gpu1", "gpu0")}) {
    REQUIRE(pair != nullptr);
    CHECK(pair->granted_read == PeerStatus::gpu_not_supported);
    CHECK(pair->granted_write == PeerStatus::gpu_not_supported);
  }
}

TEST_CASE("an HGX H100") {
  const SysfsFixture machine;
  machine.hgx();
  const auto graph = discover_with(machine, "hgx-h100");
  INFO(all_unseen(graph));
  CHECK(count(graph, ComponentKind::gpu) == 8);
  CHECK(count(graph, ComponentKind::nvswitch) == 4);
  CHECK(count(graph, ComponentKind::nic) == 8);
  CHECK(count(graph, ComponentKind::bridge) == 8 * 4 + 1);
  CHECK(count(graph, LinkKind::nvlink) == 32);
  CHECK(graph.nodes[0].fabric == FabricState::completed);
  CHECK(graph.nodes[0].fabric_cluster.empty());  // Zeros: a single node's.
  CHECK(graph.nodes[0].iommu == IommuMode::passthrough);
  const int links[] = {4, 5, 5, 4};
  for (int gpu = 0; gpu < 8; ++gpu) {
    CHECK(at(graph, fmt::format("gpu{}", gpu)).nvlinks_max == 18);
    CHECK(at(graph, fmt::format("gpu{}", gpu)).numa == gpu / 4);
    for (int i = 0; i < 4; ++i) {
      const auto* link = link_between(graph, fmt::format("gpu{}", gpu),
                                      fmt::format("nvswitch{}", i), LinkKind::nvlink);
      REQUIRE(link != nullptr);
      CHECK(link->count == links[i]);
      CHECK(link->state == LinkState::up);
      CHECK(link->effective_bytes_per_s == Figure{links[i] * 20.6e9, Provenance::nvml});
    }
  }
  CHECK(graph.pairs.size() == 56);
  CHECK(pair_of(graph, "gpu7", "gpu0")->granted_write == PeerStatus::ok);

  // Two ports of one switch are joined inside it: no PCIe link, no speed.
  const auto* inside =
      link_between(graph, "bridge-0000:17:00.0", "bridge-0000:16:00.0", LinkKind::pcie);
  REQUIRE(inside != nullptr);
  CHECK(inside->pcie == PcieMode{});
  CHECK_FALSE(inside->effective_bytes_per_s);
  const auto* up =
      link_between(graph, "bridge-0000:16:00.0", "bridge-0000:15:01.0", LinkKind::pcie);
  REQUIRE(up != nullptr);
  CHECK(up->pcie_max == PcieMode{5, 16});
  CHECK(link_between(graph, "bridge-0000:15:01.0", "cpu0", LinkKind::pcie) != nullptr);
  CHECK(link_between(graph, "cpu0", "cpu1", LinkKind::socket)->effective_bytes_per_s->value ==
        22e9);

  CHECK(at(graph, "bridge-0000:17:00.0").acs_redirect == false);
  CHECK(at(graph, "bridge-0000:5b:00.0").acs_redirect == true);
  CHECK(at(graph, "bridge-0000:15:01.0").acs_redirect == true);
  CHECK(at(graph, "bridge-0000:c0:01.0").acs_redirect == false);  // It has none.
  CHECK_FALSE(is_unseen(graph, "ACS"));

  const auto& nic = at(graph, "nic0");
  CHECK(nic.title == "mlx5_0");
  CHECK(nic.uuid == "0xb83fd20300c62f90");
  CHECK(nic.is_rdma == true);
  CHECK(nic.gpu_direct == true);
  CHECK(nic.port_bytes_per_s == doctest::Approx(50e9));
  CHECK(nic.port_up == true);
  CHECK(nic.mtu == 4092);
  CHECK(at(graph, "nic7").port_up == false);
  CHECK_FALSE(at(graph, "nic7").port_bytes_per_s);
}

TEST_CASE("switches that the driver hides, a link that is down, a fabric that is not ready") {
  const SysfsFixture machine;
  machine.hgx();
  for (const char* address : {"c3", "c4", "c5", "c6"})
    machine.remove(fmt::format("/sys/bus/pci/devices/0000:{}:00.0", address));
  for (const char* driver : {"current", "old"}) {
    CAPTURE(driver);
    use_scenario("hgx-h100-hidden");
    auto options = options_of(machine);
    options.nvml_library = fmt::format("{}/{}/libnvidia-ml.so.1", CAUSEWAY_NVML_FOLDER, driver);
    const auto graph = discover(options);
    INFO(all_unseen(graph));
    CHECK(count(graph, ComponentKind::nvswitch) == 1);
    CHECK(count(graph, LinkKind::nvlink) == 8);
    CHECK_FALSE(at(graph, "nvswitch0").pci);
    const auto* whole = link_between(graph, "gpu1", "nvswitch0", LinkKind::nvlink);
    REQUIRE(whole != nullptr);
    CHECK(whole->count == 18);
    CHECK(whole->state == LinkState::up);
    const auto* damaged = link_between(graph, "gpu2", "nvswitch0", LinkKind::nvlink);
    REQUIRE(damaged != nullptr);
    CHECK(damaged->count == 17);
    CHECK(damaged->state == LinkState::degraded);
    CHECK(at(graph, "gpu2").nvlinks_down == 1);
    CHECK(at(graph, "gpu2").nvlinks_max == 18);
    const auto& node = graph.nodes[0];
    if (driver == std::string("current")) {
      CHECK(node.fabric == FabricState::in_progress);
      CHECK(node.fabric_cluster == "00112233-4455-6677-8899-aabbccddeeff");
      CHECK_FALSE(is_unseen(graph, "is not in this driver's library"));
    } else {
      CHECK_FALSE(node.fabric);
      CHECK(is_unseen(graph, "fabric state: nvmlDeviceGetGpuFabricInfo is not in this driver"));
      CHECK(is_unseen(graph, "kind of device at an NVLink's end"));
      CHECK_FALSE(is_unseen(graph, "CUDA version"));  // The older function gives it.
      CHECK(node.cuda_version == "12.4");
    }
  }
}

TEST_CASE("four RTX 3090 with two bridges") {
  const SysfsFixture machine;
  machine.server_of_3090();
  const auto graph = discover_with(machine, "four-rtx3090");
  INFO(all_unseen(graph));
  CHECK(count(graph, LinkKind::nvlink) == 2);
  for (const auto& [a, b] : {std::pair{"gpu0", "gpu1"}, std::pair{"gpu2", "gpu3"}}) {
    const auto* link = link_between(graph, a, b, LinkKind::nvlink);
    REQUIRE(link != nullptr);
    CHECK(link->count == 4);
    CHECK(link->state == LinkState::up);
    CHECK(link->line_bytes_per_s == Figure{56.25e9, Provenance::nvml});
  }
  CHECK(pair_of(graph, "gpu0", "gpu1")->granted_read == PeerStatus::ok);
  CHECK(pair_of(graph, "gpu1", "gpu2")->granted_read == PeerStatus::chipset_not_supported);
  CHECK(pair_of(graph, "gpu3", "gpu2")->granted_read == PeerStatus::ok);
  CHECK(pair_of(graph, "gpu3", "gpu2")->granted_write == PeerStatus::disabled_by_registry);
  CHECK(pair_of(graph, "gpu2", "gpu3")->granted_write == PeerStatus::ok);
  CHECK(at(graph, "gpu3").model == "rtx-3090");

  // The address is enough for an old driver that does not tell kinds.
  auto options = options_of(machine);
  options.nvml_library = CAUSEWAY_NVML_FOLDER "/old/libnvidia-ml.so.1";
  CHECK(count(discover(options), LinkKind::nvlink) == 2);
}

TEST_CASE("a GPU and a CPU in one package") {
  const SysfsFixture machine;
  machine.numa(0, "0-71", 500'000'000, "10 80");
  machine.numa(1, "", 98'000'000, "80 10");
  machine.gpu("0009:00:00.0", "0009:01:00.0", "10de:2342");
  const auto graph = discover_with(machine, "grace-hopper");
  INFO(all_unseen(graph));
  CHECK(link_between(graph, "gpu0", "cpu0", LinkKind::c2c) != nullptr);
  CHECK(count(graph, ComponentKind::host) == 1);  // The GPU's memory is not the host's.
  CHECK(at(graph, "gpu0").model.empty());
  // Without the driver nobody knows whose memory it is.
  auto options = options_of(machine);
  options.use_nvml = false;
  CHECK(count(discover(options), ComponentKind::host) == 2);
}

TEST_CASE("a dead NVLink is seen from the end that knows it") {
  const SysfsFixture machine;
  machine.server_of_3090();
  const auto graph = discover_with(machine, "dead-nvlink");
  const auto* link = link_between(graph, "gpu2", "gpu3", LinkKind::nvlink);
  REQUIRE(link != nullptr);
  CHECK(link->count == 3);
  CHECK(link->state == LinkState::degraded);
  CHECK(at(graph, "gpu2").nvlinks_down == 1);
  CHECK(at(graph, "gpu3").nvlinks_down == 0);
  CHECK(link_between(graph, "gpu0", "gpu1", LinkKind::nvlink)->state == LinkState::up);
  REQUIRE(graph.notes.size() == 1);
  CHECK(graph.notes[0].kind == TopologyNote::Kind::conflict);
  CHECK(graph.notes[0].text == "n/gpu2 counts 3 NVLinks to n/gpu3, which counts 4");
}

TEST_CASE("a lost GPU keeps its number and its place") {
  const SysfsFixture machine;
  machine.server_of_3090();
  const auto graph = discover_with(machine, "lost-gpu");
  INFO(all_unseen(graph));
  CHECK(count(graph, ComponentKind::gpu) == 4);
  const auto& lost = at(graph, "gpu2");
  CHECK(lost.pci == PciAddress{0, 0x81, 0, 0});
  CHECK(lost.uuid.empty());
  CHECK_FALSE(lost.capacity_bytes);
  CHECK(at(graph, "gpu3").pci == PciAddress{0, 0xc1, 0, 0});
  CHECK(at(graph, "gpu3").capacity_bytes == std::uint64_t{24576} << 20);
  CHECK(is_unseen(graph, "gpu2: the GPU is lost"));
  CHECK(pair_of(graph, "gpu2", "gpu3") == nullptr);
  CHECK(pair_of(graph, "gpu0", "gpu1")->granted_read == PeerStatus::ok);
  // GPU 3 still counts links to it.
  const auto* link = link_between(graph, "gpu2", "gpu3", LinkKind::nvlink);
  REQUIRE(link != nullptr);
  CHECK(link->state == LinkState::degraded);
}

TEST_CASE("a container sees its share and says so") {
  SUBCASE("sysfs shows the whole machine") {
    const SysfsFixture machine;
    machine.hgx();
    machine.file("/.dockerenv", "");
    const auto graph = discover_with(machine, "hgx-container");
    INFO(all_unseen(graph));
    CHECK(graph.nodes[0].view == MachineView::container);
    CHECK(count(graph, ComponentKind::gpu) == 2);
    CHECK(at(graph, "gpu1").pci == PciAddress{0, 0xbb, 0, 0});
    CHECK(at(graph, "gpu1").numa == 1);
    CHECK(is_unseen(graph, "6 more GPUs of this machine: its driver gives this process 2"));
    CHECK(is_unseen(graph, "this is a container's view (/.dockerenv is there)"));
  }
  SUBCASE("sysfs is masked") {
    const SysfsFixture machine;
    machine.file("/run/.containerenv", "");
    machine.file("/proc/meminfo", "MemTotal:       16384 kB\n");
    const auto graph = discover_with(machine, "hgx-container");
    INFO(all_unseen(graph));
    CHECK(count(graph, ComponentKind::gpu) == 2);
    CHECK(at(graph, "gpu1").pci == PciAddress{0, 0xbb, 0, 0});
    CHECK(at(graph, "gpu0").bar1_bytes == std::uint64_t{131072} << 20);
    CHECK(at(graph, "host0").capacity_bytes == 16384 * 1024);
    CHECK(is_unseen(graph, "PCI devices: /sys/bus/pci/devices shows none"));
    CHECK(is_unseen(graph, "PCI place of gpu1 (00000000:BB:00.0)"));
    const auto* link = link_between(graph, "gpu0", "cpu0", LinkKind::pcie);
    REQUIRE(link != nullptr);
    CHECK(link->pcie == PcieMode{5, 16});
    CHECK(link->effective_bytes_per_s == Figure{48e9, Provenance::nvml});
    CHECK(link_between(graph, "gpu1", "nvswitch0", LinkKind::nvlink)->count == 18);
    CHECK_FALSE(graph.nodes[0].iommu);
  }
}

TEST_CASE("a driver that hangs is left behind in time, with what it had said") {
  const SysfsFixture machine;
  machine.server_of_3090();
  use_scenario("hang");
  auto options = options_of(machine);
  options.nvml_timeout = milliseconds(300);
  const auto before = std::chrono::steady_clock::now();
  const auto graph = discover(options);
  const auto took = std::chrono::steady_clock::now() - before;
  INFO(all_unseen(graph));
  CHECK(took >= milliseconds(300));
  CHECK(took < milliseconds(2000));
  CHECK(is_unseen(graph, "NVML did not answer within 300 ms, in nvmlDeviceGetMemoryInfo of GPU 2"));
  CHECK(is_unseen(graph, "gpu3: the driver was not asked in time"));
  CHECK(count(graph, ComponentKind::gpu) == 4);
  CHECK(at(graph, "gpu0").uuid == "GPU-30900000-0000-4000-8000-000000000000");
  CHECK(at(graph, "gpu2").uuid == "GPU-30900002-0000-4000-8000-000000000002");
  CHECK_FALSE(at(graph, "gpu2").capacity_bytes);
  CHECK(at(graph, "gpu3").pci == PciAddress{0, 0xc1, 0, 0});
  CHECK(at(graph, "gpu3").uuid.empty());
  CHECK(link_between(graph, "gpu0", "gpu1", LinkKind::nvlink)->count == 4);
  CHECK(graph.pairs.empty());
  // Nothing is left of the child.
  CHECK(::waitpid(-1, nullptr, WNOHANG) == -1);
  CHECK(errno == ECHILD);
}

// The child of this process that asks the driver, once it hangs there; 0 if none came.
static pid_t wait_for_child() {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (std::chrono::steady_clock::now() < deadline) {
    for (const auto& entry : fs::directory_iterator("/proc")) {
      std::ifstream file(entry.path() / "stat");
      pid_t pid = 0;
      pid_t parent = 0;
      std::string name;
      char state = 0;
      if (file >> pid >> name >> state >> parent && parent == ::getpid() &&
          name == "(causeway-nvml)" && state == 'S')
        return pid;
    }
    std::this_thread::yield();
  }
  return 0;
}

TEST_CASE("the child holds nothing of the caller's open") {
  const SysfsFixture machine;
  machine.server_of_3090();
  use_scenario("hang");
  auto options = options_of(machine);
  options.nvml_timeout = milliseconds(3000);
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  std::thread caller([&] { (void)discover(options); });
  const auto child = wait_for_child();
  std::size_t open = 0;
  if (child != 0)
    for (const auto& entry : fs::directory_iterator(fmt::format("/proc/{}/fd", child)))
      open += std::stoi(entry.path().filename()) > STDERR_FILENO ? 1 : 0;
  caller.join();
  CHECK(child != 0);
  CHECK(open == 1);  // Its end of the pipe that tells of its end.
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST_CASE("a driver's library that crashes ends its child alone") {
  const SysfsFixture machine;
  machine.server_of_3090();
  const auto graph = discover_with(machine, "crash");
  INFO(all_unseen(graph));
  CHECK(is_unseen(graph, "NVML's process ended by signal 6, in nvmlDeviceGetUUID of GPU 3"));
  CHECK(at(graph, "gpu2").capacity_bytes == std::uint64_t{24576} << 20);
  CHECK(count(graph, ComponentKind::gpu) == 4);
}

TEST_CASE("without an answer from NVML there is sysfs, and a reason") {
  const SysfsFixture machine;
  machine.hgx();
  auto options = options_of(machine);
  const auto check = [&](std::string_view reason) {
    const auto graph = discover(options);
    INFO(all_unseen(graph));
    CHECK(is_unseen(graph, reason));
    CHECK(count(graph, ComponentKind::gpu) == 8);
    CHECK(at(graph, "gpu0").pci == PciAddress{0, 0x19, 0, 0});
    CHECK(at(graph, "gpu0").device_id == 0x2330);
    CHECK_FALSE(at(graph, "gpu0").capacity_bytes);
    CHECK_FALSE(graph.nodes[0].nvlinks_known);
    CHECK_FALSE(graph.nodes[0].fabric);
    CHECK(graph.nodes[0].driver_version == "550.54.15");
    CHECK(graph.pairs.empty());
  };
  SUBCASE("versions differ") {
    use_scenario("no-init");
    check("NVML does not start: the library and the loaded driver are of different versions");
  }
  SUBCASE("no driver is loaded") {
    ::unsetenv("CAUSEWAY_NVML_SCENARIO");
    check("NVML does not start: the driver is not loaded");
  }
  SUBCASE("no library") {
    options.nvml_library = "libnvidia-ml-of-nobody.so.1";
    check("no NVML (libnvidia-ml-of-nobody.so.1: cannot open");
  }
  SUBCASE("another library") {
    options.nvml_library = CAUSEWAY_NVML_FOLDER "/current/libcuda.so.1";
    check("no NVML (nvmlInit_v2 is not in it)");
  }
  SUBCASE("left out") {
    options.use_nvml = false;
    check("NVML was left out as asked");
  }
}

TEST_CASE("nobody loads CUDA") {
  const SysfsFixture machine;
  machine.hgx();
  const auto witness = machine.root() / "witness";
  ::setenv("CAUSEWAY_CUDA_WITNESS", witness.c_str(), 1);
  const auto graph = discover_with(machine, "hgx-h100");
  CHECK(count(graph, ComponentKind::gpu) == 8);
  CHECK_FALSE(fs::exists(witness));
  CHECK(::dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_NOLOAD) == nullptr);
  // The witness speaks up when it is loaded the way any CUDA program would.
  const auto child = ::fork();
  if (child == 0) ::_exit(::dlopen("libcuda.so.1", RTLD_NOW) != nullptr ? 0 : 1);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(fs::exists(witness));
  ::unsetenv("CAUSEWAY_CUDA_WITNESS");
}
