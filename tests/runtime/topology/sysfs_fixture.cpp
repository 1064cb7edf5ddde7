#include "tests/runtime/topology/sysfs_fixture.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <fstream>

namespace fs = std::filesystem;

static constexpr auto kGen1 = "2.5 GT/s PCIe";
static constexpr auto kGen4 = "16.0 GT/s PCIe";
static constexpr auto kGen5 = "32.0 GT/s PCIe";

SysfsFixture::SysfsFixture() {
  // Thousands of small files: in memory where there is a place for it.
  const auto place =
      ::access("/dev/shm", W_OK) == 0 ? fs::path("/dev/shm") : fs::temp_directory_path();
  auto name = (place / "causeway-sysfs-XXXXXX").string();
  REQUIRE(::mkdtemp(name.data()) != nullptr);
  root_ = name;
  folder("/sys/bus/pci/devices");
  folder("/sys/kernel/iommu_groups");
  file("/proc/sys/kernel/osrelease", "6.8.0-45-generic\n");
  file("/proc/sys/kernel/hostname", "Desk_Top\n");
}

SysfsFixture::~SysfsFixture() {
  std::error_code ignored;
  fs::remove_all(root_, ignored);
}

void SysfsFixture::file(const std::string& path, std::string_view text) const {
  const auto at = root_ / path.substr(1);
  fs::create_directories(at.parent_path());
  std::ofstream(at, std::ios::binary) << text;
}

void SysfsFixture::link(const std::string& path, const std::string& target) const {
  const auto at = root_ / path.substr(1);
  fs::create_directories(at.parent_path());
  fs::remove(at);
  fs::create_symlink(target, at);
}

void SysfsFixture::folder(const std::string& path) const {
  fs::create_directories(root_ / path.substr(1));
}

void SysfsFixture::remove(const std::string& path) const { fs::remove_all(root_ / path.substr(1)); }

void SysfsFixture::numa(int index, const std::string& cpus, std::uint64_t memory_kib,
                        const std::string& distances) const {
  const auto node = fmt::format("/sys/devices/system/node/node{}", index);
  file(node + "/cpulist", cpus + "\n");
  file(node + "/distance", distances + "\n");
  file(node + "/meminfo", fmt::format("Node {0} MemTotal:       {1} kB\nNode {0} MemFree:  1 kB\n",
                                      index, memory_kib));
}

std::string SysfsFixture::pci(const Pci& device) const {
  const auto& address = device.path.back();
  std::string place = "pci" + device.path.front().substr(0, 7);
  for (const auto& step : device.path) place += "/" + step;
  const auto folder_name = "/sys/bus/pci/devices/" + address;
  folder("/sys/devices/" + place);
  link(folder_name, "../../../devices/" + place);
  const auto put = [&](const std::string& name, const std::string& text) {
    if (!text.empty()) file(folder_name + "/" + name, text + "\n");
  };
  put("class", device.pci_class);
  put("vendor", "0x" + device.ids.substr(0, 4));
  put("device", "0x" + device.ids.substr(5));
  put("current_link_speed", device.speed);
  put("max_link_speed", device.speed_max);
  put("current_link_width", device.width);
  put("max_link_width", device.width_max);
  put("numa_node", std::to_string(device.numa));
  put("local_cpulist", device.numa == 1 ? "48-95" : "0-47");
  if (!device.config.empty()) file(folder_name + "/config", device.config);
  if (!device.driver.empty())
    link(folder_name + "/driver", "../../../bus/pci/drivers/" + device.driver);
  return folder_name;
}

std::string SysfsFixture::gpu(const std::string& port, const std::string& address,
                              const std::string& ids, int numa) const {
  pci({{port}, "0x060400", "1022:14ab", kGen1, kGen5, "16", "16", numa});
  const auto folder_name =
      pci({{port, address}, "0x030000", ids, kGen1, kGen5, "16", "16", numa, "nvidia"});
  file(folder_name + "/resource",
       "0x00000000a0000000 0x00000000a0ffffff 0x0000000000040200\n"
       "0x0000018000000000 0x000001800fffffff 0x000000000014220c\n"
       "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
       "0x0000018010000000 0x0000018011ffffff 0x000000000014220c\n");
  return folder_name;
}

std::string SysfsFixture::port_config(int type, std::optional<int> acs) {
  std::string bytes(4096, '\0');
  const auto put = [&](std::size_t at, int value) {
    bytes[at] = static_cast<char>(value & 0xff);
    bytes[at + 1] = static_cast<char>(value >> 8 & 0xff);
  };
  put(0x06, 0x0010);
  put(0x34, 0x50);
  put(0x50, 0x6001);  // Power management, then PCI Express.
  put(0x60, 0x0010);
  put(0x62, type << 4 | 2);
  put(0x100, 0x0001);  // Error reporting; the next at 0x148.
  put(0x102, acs ? 0x148 << 4 | 1 : 1);
  if (acs) {
    put(0x148, 0x000d);
    put(0x14a, 1);
    put(0x14e, *acs);
  }
  return bytes;
}

void SysfsFixture::desktop() const {
  numa(0, "0-15", 65'000'000, "10");
  file("/sys/devices/system/cpu/online", "0-15\n");
  file("/proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-15\n");
  file("/proc/cpuinfo",
       "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 183\n"
       "model name\t: Intel(R) Core(TM) i9-14900K\nflags\t\t: fpu vme de sse\n\n");
  file("/sys/class/dmi/id/sys_vendor", "ASUS\n");
  gpu("0000:00:01.0", "0000:01:00.0", "10de:2b85");
  gpu("0000:00:01.1", "0000:02:00.0", "10de:2b85");
  for (const char* port : {"0000:00:01.0", "0000:00:01.1"})
    file(std::string("/sys/bus/pci/devices/") + port + "/vendor", "0x8086\n");
  // The second slot has eight lanes.
  file("/sys/bus/pci/devices/0000:00:01.1/max_link_width", "8\n");
  file("/sys/bus/pci/devices/0000:00:01.1/current_link_width", "8\n");
  file("/sys/bus/pci/devices/0000:02:00.0/current_link_width", "8\n");
  pci({{"0000:00:1c.0"}, "0x060400", "8086:7ab8", "8.0 GT/s PCIe", "8.0 GT/s PCIe", "1", "1"});
  const auto nic = pci({{"0000:00:1c.0", "0000:03:00.0"},
                        "0x020000",
                        "8086:15f3",
                        "5.0 GT/s PCIe",
                        "5.0 GT/s PCIe",
                        "1",
                        "1",
                        0,
                        "igc"});
  file(nic + "/net/enp3s0/speed", "2500\n");
  file(nic + "/net/enp3s0/mtu", "1500\n");
  file(nic + "/net/enp3s0/operstate", "up\n");
  file(nic + "/net/enp3s0/address", "04:42:1a:00:00:01\n");
  // Not kept: graphics in the processor, the sound of a card, a disk and its port.
  pci({{"0000:00:02.0"}, "0x030000", "8086:a780"});
  pci({{"0000:00:01.0", "0000:01:00.1"}, "0x040300", "10de:22e8"});
  pci({{"0000:00:06.0"}, "0x060400", "8086:a74d"});
  pci({{"0000:00:06.0", "0000:04:00.0"}, "0x010802", "144d:a80c"});
}

void SysfsFixture::server_of_3090() const {
  numa(0, "0-63", 263'000'000, "10");
  file("/proc/cpuinfo",
       "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 1\n"
       "model name\t: AMD EPYC 7543 32-Core Processor\nflags\t\t: fpu sse\n\n");
  for (const char* bus : {"01", "41", "81", "c1"}) {
    const auto root = fmt::format("{:02x}", std::stoi(bus, nullptr, 16) - 1);
    gpu(fmt::format("0000:{}:01.1", root), fmt::format("0000:{}:00.0", bus), "10de:2204");
  }
}

void SysfsFixture::hgx() const {
  numa(0, "0-47", 1'056'000'000, "10 21");
  numa(1, "48-95", 1'056'000'000, "21 10");
  file("/proc/cpuinfo",
       "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\n"
       "model name\t: Intel(R) Xeon(R) Platinum 8480C\nflags\t\t: fpu sse\n\n");
  file("/sys/module/nvidia/version", "550.54.15\n");
  folder("/sys/module/nvidia_peermem");
  int index = 0;
  for (const int bus : {0x19, 0x3b, 0x4c, 0x5d, 0x9b, 0xbb, 0xcb, 0xdb}) {
    const auto at = [&](int up, const char* rest) {
      return fmt::format("0000:{:02x}:{}", bus - up, rest);
    };
    // Root port, the switch's upstream port and two downstream ports; the GPU and the NIC below.
    const std::vector<std::string> port{at(4, "01.0")};
    const std::vector<std::string> upstream{port[0], at(3, "00.0")};
    const std::vector<std::string> down_gpu{port[0], upstream[1], at(2, "00.0")};
    const std::vector<std::string> down_nic{port[0], upstream[1], at(2, "01.0")};
    const int numa_node = index / 4;
    const auto bridge = [&](const std::vector<std::string>& path, int type, int acs) {
      pci({path, "0x060400", type == 4 ? "8086:352a" : "1000:c030", kGen5, kGen5, "16", "16",
           numa_node, "pcieport", port_config(type, acs)});
    };
    bridge(port, 4, 0x1d);
    bridge(upstream, 5, 0);
    bridge(down_gpu, 6, index == 3 ? 0x1d : 0x01);
    bridge(down_nic, 6, 0);
    auto path = down_gpu;
    path.push_back(at(0, "00.0"));
    const auto card =
        pci({path, "0x030200", "10de:2330", kGen5, kGen5, "16", "16", numa_node, "nvidia"});
    file(card + "/iommu_group/type", "identity\n");
    path = down_nic;
    path.push_back(at(1, "00.0"));
    const auto nic =
        pci({path, "0x020700", "15b3:1021", kGen5, kGen5, "16", "16", numa_node, "mlx5_core"});
    file(nic + "/iommu_group/type", "identity\n");
    const auto name = fmt::format("mlx5_{}", index);
    file(nic + "/infiniband/" + name + "/node_guid", fmt::format("b83f:d203:00c6:2f9{}\n", index));
    file(nic + "/infiniband/" + name + "/ports/1/state", index == 7 ? "1: DOWN\n" : "4: ACTIVE\n");
    file(nic + "/infiniband/" + name + "/ports/1/rate",
         index == 7 ? "10 Gb/sec (4X SDR)\n" : "400 Gb/sec (4X NDR)\n");
    file(nic + fmt::format("/net/ib{}/mtu", index), "4092\n");
    file(nic + fmt::format("/net/ib{}/operstate", index), "up\n");
    ++index;
  }
  for (const char* address : {"0000:c3:00.0", "0000:c4:00.0", "0000:c5:00.0", "0000:c6:00.0"})
    pci({{"0000:c0:01.0", address},
         "0x068000",
         "10de:22a3",
         "5.0 GT/s PCIe",
         "5.0 GT/s PCIe",
         "2",
         "2",
         1,
         "nvidia-nvswitch"});
  pci({{"0000:c0:01.0"},
       "0x060400",
       "8086:352a",
       kGen4,
       kGen4,
       "16",
       "16",
       1,
       "pcieport",
       port_config(4)});
}
