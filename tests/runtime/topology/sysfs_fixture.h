// A folder that looks like the sys/ and proc/ of a machine, made of real files in a temporary
// place. Gone with its owner.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

class SysfsFixture {
 public:
  struct Pci {
    std::vector<std::string> path;  // From the root bus down; the last is the device itself.
    std::string pci_class;          // "0x030000"
    std::string ids;                // "10de:2b85"
    std::string speed = "", speed_max = "";  // "16.0 GT/s PCIe"
    std::string width = "", width_max = "";
    int numa = 0;
    std::string driver = "";
    std::string config = "";  // Bytes.
  };

  SysfsFixture();
  SysfsFixture(const SysfsFixture&) = delete;
  SysfsFixture& operator=(const SysfsFixture&) = delete;
  ~SysfsFixture();

  [[nodiscard]] const std::filesystem::path& root() const { return root_; }

  // Paths start with '/'; folders are made as needed.
  void file(const std::string& path, std::string_view text) const;
  void link(const std::string& path, const std::string& target) const;
  void folder(const std::string& path) const;
  void remove(const std::string& path) const;

  void numa(int index, const std::string& cpus, std::uint64_t memory_kib,
            const std::string& distances = "") const;
  // Gives the folder of the device.
  std::string pci(const Pci& device) const;
  // Behind a root port of the same speed.
  std::string gpu(const std::string& port, const std::string& address, const std::string& ids,
                  int numa = 0) const;

  // Config space of a PCIe port: type 4 is a root port, 5 upstream, 6 downstream. `acs` are the
  // bits of the ACS control register; nullopt: no such capability.
  static std::string port_config(int type, std::optional<int> acs = std::nullopt);

  // Whole machines, without what needs NVML.
  void desktop() const;         // Two RTX 5090 on an Intel board, a NIC behind the chipset.
  void server_of_3090() const;  // Four on one AMD EPYC.
  void hgx() const;  // Eight H100 and NICs in pairs below switches, four NVSwitches, two sockets.

 private:
  std::filesystem::path root_;
};
