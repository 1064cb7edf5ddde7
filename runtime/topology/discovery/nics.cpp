#include "runtime/topology/discovery/nics.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace causeway {

namespace {

struct Interface {
  std::string name;
  std::string folder;
};

// By port number. Interfaces that stand for a virtual function's port are left out.
std::map<std::uint64_t, Interface> interfaces_of(const FileTree& files, const std::string& device) {
  std::vector<std::string> parents{device};
  // virtio puts a device of its own between.
  for (const auto& name : files.list(device))
    if (name.starts_with("virtio")) parents.push_back(fmt::format("{}/{}", device, name));
  std::map<std::uint64_t, Interface> interfaces;
  for (const auto& parent : parents) {
    for (const auto& name : files.list(parent + "/net")) {
      const auto folder = fmt::format("{}/net/{}", parent, name);
      // "p0" is a port's own, "pf0vf1" and "pf0sf2" stand for others.
      const auto port_name = files.text(folder + "/phys_port_name");
      if (port_name.find("vf") != std::string::npos || port_name.find("sf") != std::string::npos)
        continue;
      interfaces.try_emplace(files.decimal(folder + "/dev_port").value_or(0),
                             Interface{name, folder});
    }
  }
  return interfaces;
}

std::optional<bool> up_by_operstate(std::string_view state) {
  if (state == "up") return true;
  if (state.empty() || state == "unknown") return std::nullopt;
  return false;
}

void read_interface(const FileTree& files, const Interface& interface, Component& nic) {
  nic.title = interface.name;
  nic.port_up = up_by_operstate(files.text(interface.folder + "/operstate"));
  // A port that is down refuses the question, a virtual one answers -1.
  const auto megabits = files.decimal(interface.folder + "/speed");
  if (megabits && *megabits > 0 && *megabits < 0xffffffff)
    nic.port_bytes_per_s = static_cast<double>(*megabits) * 1e6 / 8;
  const auto mtu = files.decimal(interface.folder + "/mtu");
  if (mtu && *mtu > 0 && *mtu <= 0xffffffff) nic.mtu = static_cast<std::uint32_t>(*mtu);
  const auto mac = files.text(interface.folder + "/address");
  // InfiniBand's are 20 bytes and hold the GUID; zeros are nobody's.
  if (mac.size() == 17 && mac != "00:00:00:00:00:00") nic.uuid = mac;
}

void read_infiniband(const FileTree& files, const std::string& device, std::string_view name,
                     std::string_view port, bool has_siblings, Component& nic) {
  const auto folder = fmt::format("{}/infiniband/{}", device, name);
  const auto port_folder = fmt::format("{}/ports/{}", folder, port);
  nic.title = has_siblings ? fmt::format("{}:{}", name, port) : std::string(name);
  // "4: ACTIVE". A port that is down keeps the slowest rate there is; that says nothing.
  const auto state = files.text(port_folder + "/state");
  if (!state.empty()) nic.port_up = state.starts_with("4:");
  if (nic.port_up == true)
    if (const auto rate = parse_infiniband_rate(files.text(port_folder + "/rate")))
      nic.port_bytes_per_s = rate;
  // Ports of one device share its GUID, so each is known by its own.
  const auto guid = parse_guid(has_siblings ? files.text(port_folder + "/gids/0")
                                            : files.text(folder + "/node_guid"));
  if (!guid.empty()) nic.uuid = guid;
  nic.is_rdma = true;
}

// The kernel's doors to memory of a GPU for RDMA. Without one there may still be DMA-BUF.
bool has_peer_memory(const FileTree& files) {
  return files.exists("/sys/module/nvidia_peermem") || files.exists("/sys/module/nv_peer_mem") ||
         files.exists("/sys/kernel/mm/memory_peers/nv_mem");
}

}  // namespace

std::vector<Component> read_nic_ports(const FileTree& files, const PciDevice& device) {
  const auto folder = pci_folder(device.address);
  const auto interfaces = interfaces_of(files, folder);
  std::vector<Component> ports;
  for (const auto& name : files.list(folder + "/infiniband")) {
    const auto numbers = files.list(fmt::format("{}/infiniband/{}/ports", folder, name));
    for (const auto& number : numbers) {
      const auto port = parse_decimal(number);
      if (!port || *port == 0) continue;
      Component nic;
      // A single port's interface has whatever number its driver gave it.
      auto interface = interfaces.find(*port - 1);
      if (interface == interfaces.end() && numbers.size() == 1) interface = interfaces.begin();
      if (interface != interfaces.end()) read_interface(files, interface->second, nic);
      read_infiniband(files, folder, name, number, numbers.size() > 1, nic);
      if (has_peer_memory(files)) nic.gpu_direct = true;
      ports.push_back(std::move(nic));
    }
  }
  if (ports.empty()) {
    for (const auto& [number, interface] : interfaces) {
      Component nic;
      read_interface(files, interface, nic);
      nic.is_rdma = false;
      ports.push_back(std::move(nic));
    }
  }
  if (ports.empty()) {
    Component nic;
    nic.title = device.address.to_string();
    ports.push_back(std::move(nic));
  }
  return ports;
}

}  // namespace causeway
