// Healthy machines, with every fact that a source could tell, as graphs made by hand.
//
// Source: what the vendors' manuals and published outputs of nvidia-smi say of such machines.
#pragma once

#include <fmt/format.h>

#include <string>
#include <vector>

#include "causeway/topology.h"

namespace machines {

using namespace causeway;

constexpr std::uint64_t kGib = std::uint64_t{1} << 30;

inline Component& add(TopologyGraph& graph, ComponentKind kind, const std::string& node,
                      const std::string& name) {
  auto& component = graph.components.emplace_back();
  component.name = node + "/" + name;
  component.kind = kind;
  component.node = node;
  return component;
}

inline TopologyLink& join(TopologyGraph& graph, LinkKind kind, const std::string& a,
                          const std::string& b, Provenance provenance) {
  auto& link = graph.links.emplace_back();
  link.kind = kind;
  link.a = a;
  link.b = b;
  link.provenance = provenance;
  link.state = LinkState::up;
  return link;
}

// An idle card: the width stands, the generation does not.
inline void plug(TopologyGraph& graph, const std::string& device, const std::string& port,
                 std::uint32_t generation, std::uint32_t width = 16) {
  auto& link = join(graph, LinkKind::pcie, device, port, Provenance::sysfs);
  link.pcie = {1, width};
  link.pcie_max = {generation, width};
}

inline TopologyNode& add_node(TopologyGraph& graph, const std::string& name) {
  auto& node = graph.nodes.emplace_back();
  node.name = name;
  node.driver_version = "580.95.05";
  node.cuda_version = "13.0";
  node.kernel = "6.8.0";
  node.view = MachineView::bare_metal;
  node.iommu = IommuMode::passthrough;
  node.fabric = FabricState::not_supported;
  node.nvlinks_known = true;
  return node;
}

// One NUMA node: cores and memory.
inline void add_numa(TopologyGraph& graph, const std::string& node, std::uint32_t numa,
                     const std::string& cpus) {
  auto& cpu = add(graph, ComponentKind::cpu, node, fmt::format("cpu{}", numa));
  cpu.numa = numa;
  cpu.cpus = cpus;
  cpu.arch = "x86_64";
  const auto name = cpu.name;
  auto& host = add(graph, ComponentKind::host, node, fmt::format("host{}", numa));
  host.numa = numa;
  host.model = "host";
  host.capacity_bytes = 512 * kGib;
  join(graph, LinkKind::memory, host.name, name, Provenance::sysfs);
  if (numa > 0) join(graph, LinkKind::socket, node + "/cpu0", name, Provenance::sysfs);
}

inline Component& add_gpu(TopologyGraph& graph, const std::string& node, std::size_t index,
                          const std::string& model, std::uint32_t sm, std::uint64_t gib,
                          std::uint32_t numa, const std::string& cpus) {
  auto& gpu = add(graph, ComponentKind::gpu, node, fmt::format("gpu{}", index));
  gpu.model = model;
  gpu.title = model;
  gpu.uuid = fmt::format("GPU-{}-{}", node, index);
  gpu.pci = PciAddress{0, static_cast<std::uint8_t>(0x10 + index * 8), 0, 0};
  gpu.sm = sm;
  gpu.capacity_bytes = gib * kGib;
  gpu.bar1_bytes = gib <= 32 ? 32 * kGib : 128 * kGib;
  gpu.numa = numa;
  gpu.cpus = cpus;
  return gpu;
}

inline Component& add_nic(TopologyGraph& graph, const std::string& node, std::size_t index,
                          bool is_rdma, double bytes_per_s, std::uint32_t numa,
                          const std::string& cpus) {
  auto& nic = add(graph, ComponentKind::nic, node, fmt::format("nic{}", index));
  nic.title = is_rdma ? fmt::format("mlx5_{}", index) : "enp5s0";
  nic.pci = PciAddress{0, static_cast<std::uint8_t>(0x11 + index * 8), 0, 0};
  nic.numa = numa;
  nic.cpus = cpus;
  nic.port_bytes_per_s = bytes_per_s;
  nic.port_max_bytes_per_s = bytes_per_s;
  nic.port_up = true;
  nic.mtu = is_rdma ? 4096 : 1500;
  nic.is_rdma = is_rdma;
  if (is_rdma) nic.gpu_direct = true;
  return nic;
}

inline std::string add_port(TopologyGraph& graph, const std::string& node, const std::string& name,
                            bool acs_redirect) {
  auto& port = add(graph, ComponentKind::bridge, node, name);
  port.acs_redirect = acs_redirect;
  port.is_chipset = false;
  return port.name;
}

// Every ordered pair of GPUs of a node.
inline Pair& add_pair(TopologyGraph& graph, const std::string& from, const std::string& to,
                      PeerStatus status, double staged) {
  auto& pair = graph.pairs.emplace_back();
  pair.from = from;
  pair.to = to;
  pair.granted_read = status;
  pair.granted_write = status;
  pair.cuda_agrees = status == PeerStatus::ok;
  pair.staged_bytes_per_s = Figure{staged, Provenance::measured};
  if (status == PeerStatus::ok) pair.verified = PeerCheck::passed;
  return pair;
}

inline void measure_host(TopologyGraph& graph, const std::string& host, const std::string& gpu,
                         double bytes_per_s) {
  auto& pair = graph.pairs.emplace_back();
  pair.from = host;
  pair.to = gpu;
  pair.bandwidth_bytes_per_s = Figure{bytes_per_s, Provenance::measured};
}

// Two RTX 5090 with the stock driver, and the board's own network port behind the chipset.
inline TopologyGraph desktop() {
  TopologyGraph graph;
  graph.name = "desktop";
  add_node(graph, "desktop");
  add_numa(graph, "desktop", 0, "0-31");
  for (std::size_t i = 0; i < 2; ++i) {
    const auto gpu = add_gpu(graph, "desktop", i, "rtx-5090", 120, 32, 0, "0-31").name;
    const auto port = add_port(graph, "desktop", fmt::format("port{}", i), true);
    plug(graph, gpu, port, 5);
    plug(graph, port, "desktop/cpu0", 5);
    measure_host(graph, "desktop/host0", gpu, 56.3e9);
  }
  const auto chipset = add_port(graph, "desktop", "chipset", false);
  graph.components.back().is_chipset = true;
  plug(graph, chipset, "desktop/cpu0", 4, 4);
  const auto nic = add_nic(graph, "desktop", 0, false, 2.5e9 / 8, 0, "0-31").name;
  plug(graph, nic, chipset, 2, 1);
  add_pair(graph, "desktop/gpu0", "desktop/gpu1", PeerStatus::gpu_not_supported, 43e9);
  add_pair(graph, "desktop/gpu1", "desktop/gpu0", PeerStatus::gpu_not_supported, 43e9);
  return graph;
}

// Eight H100 behind four NVSwitches, each GPU with a NIC below one PCIe switch.
inline void add_hgx(TopologyGraph& graph, const std::string& node) {
  add_node(graph, node).fabric = FabricState::completed;
  add_numa(graph, node, 0, "0-47,96-143");
  add_numa(graph, node, 1, "48-95,144-191");
  for (int i = 0; i < 4; ++i) add(graph, ComponentKind::nvswitch, node, fmt::format("switch{}", i));
  for (std::size_t i = 0; i < 8; ++i) {
    const std::uint32_t numa = i < 4 ? 0 : 1;
    const std::string cpus = i < 4 ? "0-47,96-143" : "48-95,144-191";
    auto& gpu = add_gpu(graph, node, i, "h100-sxm", 90, 80, numa, cpus);
    gpu.gpu_direct = true;
    gpu.nvlinks_max = 18;
    gpu.nvlinks_down = 0;
    const auto gpu_name = gpu.name;
    const auto nic = add_nic(graph, node, i, true, 50e9, numa, cpus).name;
    const auto root = add_port(graph, node, fmt::format("root{}", i), true);
    const auto up = add_port(graph, node, fmt::format("up{}", i), false);
    const auto left = add_port(graph, node, fmt::format("left{}", i), false);
    const auto right = add_port(graph, node, fmt::format("right{}", i), false);
    plug(graph, gpu_name, left, 5);
    plug(graph, nic, right, 5);
    plug(graph, left, up, 5);
    plug(graph, right, up, 5);
    plug(graph, up, root, 5);
    plug(graph, root, fmt::format("{}/cpu{}", node, numa), 5);
    constexpr std::uint32_t kLinks[] = {4, 5, 5, 4};
    for (int k = 0; k < 4; ++k)
      join(graph, LinkKind::nvlink, gpu_name, fmt::format("{}/switch{}", node, k), Provenance::nvml)
          .count = kLinks[k];
    measure_host(graph, fmt::format("{}/host{}", node, numa), gpu_name, 55.3e9);
  }
  for (int a = 0; a < 8; ++a)
    for (int b = 0; b < 8; ++b)
      if (a != b)
        add_pair(graph, fmt::format("{}/gpu{}", node, a), fmt::format("{}/gpu{}", node, b),
                 PeerStatus::ok, 37e9)
            .bandwidth_bytes_per_s = Figure{372e9, Provenance::measured};
}

inline TopologyGraph hgx() {
  TopologyGraph graph;
  graph.name = "hgx";
  add_hgx(graph, "hgx");
  return graph;
}

inline TopologyGraph cluster(std::size_t nodes = 16) {
  TopologyGraph graph;
  graph.name = "cluster";
  auto& leaf = graph.components.emplace_back();
  leaf.name = "leaf0";
  leaf.kind = ComponentKind::network_switch;
  for (std::size_t i = 0; i < nodes; ++i) {
    const auto node = fmt::format("node{:02}", i);
    add_hgx(graph, node);
    for (int k = 0; k < 8; ++k)
      join(graph, LinkKind::network, fmt::format("{}/nic{}", node, k), "leaf0", Provenance::import)
          .effective_bytes_per_s = Figure{50e9, Provenance::import};
  }
  return graph;
}

// Four RTX 3090, two bridges.
inline TopologyGraph bridged_3090s() {
  TopologyGraph graph;
  graph.name = "rig";
  add_node(graph, "rig");
  add_numa(graph, "rig", 0, "0-63");
  for (std::size_t i = 0; i < 4; ++i) {
    auto& gpu = add_gpu(graph, "rig", i, "rtx-3090", 86, 24, 0, "0-63");
    gpu.nvlinks_max = 4;
    gpu.nvlinks_down = 0;
    const auto name = gpu.name;
    const auto port = add_port(graph, "rig", fmt::format("port{}", i), true);
    plug(graph, name, port, 4);
    plug(graph, port, "rig/cpu0", 4);
    measure_host(graph, "rig/host0", name, 25e9);
  }
  for (int a = 0; a < 4; ++a)
    for (int b = 0; b < 4; ++b) {
      if (a == b) continue;
      const bool is_bridged = a / 2 == b / 2;
      add_pair(graph, fmt::format("rig/gpu{}", a), fmt::format("rig/gpu{}", b),
               is_bridged ? PeerStatus::ok : PeerStatus::chipset_not_supported, 11.3e9)
          .bandwidth_bytes_per_s = Figure{is_bridged ? 50e9 : 11.3e9, Provenance::measured};
      if (is_bridged && a < b)
        join(graph, LinkKind::nvlink, fmt::format("rig/gpu{}", a), fmt::format("rig/gpu{}", b),
             Provenance::nvml)
            .count = 4;
    }
  return graph;
}

struct MeshLink {
  int a;
  int b;
  std::uint32_t count;
};

// Eight GPUs on two CPUs, a NIC per two of them below one switch.
inline TopologyGraph mesh_of_8(const std::string& node, const std::string& title,
                               const std::vector<MeshLink>& mesh, LinkKind kind) {
  TopologyGraph graph;
  graph.name = node;
  add_node(graph, node);
  add_numa(graph, node, 0, "0-19");
  add_numa(graph, node, 1, "20-39");
  for (std::size_t i = 0; i < 8; ++i) {
    const std::uint32_t numa = i < 4 ? 0 : 1;
    const std::string cpus = numa == 0 ? "0-19" : "20-39";
    auto& gpu = add_gpu(graph, node, i, "", 70, 32, numa, cpus);
    gpu.title = title;
    gpu.gpu_direct = true;
    if (kind == LinkKind::xgmi) gpu.sm.reset();
    if (kind == LinkKind::xgmi) gpu.arch = "gfx942";
    if (kind == LinkKind::nvlink) gpu.nvlinks_max = 6;
    const auto name = gpu.name;
    const auto pair = i / 2;
    const auto up = fmt::format("up{}", pair);
    if (i % 2 == 0) {
      const auto root = add_port(graph, node, fmt::format("root{}", pair), true);
      add_port(graph, node, up, false);
      plug(graph, node + "/" + up, root, 3);
      plug(graph, root, fmt::format("{}/cpu{}", node, numa), 3);
      const auto nic = add_nic(graph, node, pair, true, 12.5e9, numa, cpus).name;
      const auto port = add_port(graph, node, fmt::format("nicport{}", pair), false);
      plug(graph, nic, port, 3);
      plug(graph, port, node + "/" + up, 3);
    }
    const auto port = add_port(graph, node, fmt::format("port{}", i), false);
    plug(graph, name, port, 3);
    plug(graph, port, node + "/" + up, 3);
    measure_host(graph, fmt::format("{}/host{}", node, numa), name, 11.8e9);
  }
  for (const auto& [a, b, count] : mesh)
    join(graph, kind, fmt::format("{}/gpu{}", node, a), fmt::format("{}/gpu{}", node, b),
         kind == LinkKind::nvlink ? Provenance::nvml : Provenance::sysfs)
        .count = count;
  return graph;
}

// A hybrid cube mesh: six links of every GPU, not all to all.
inline TopologyGraph dgx1v() {
  std::vector<MeshLink> mesh;
  for (const int base : {0, 4})
    for (const auto& [a, b, count] :
         {MeshLink{0, 1, 1}, {0, 2, 1}, {0, 3, 2}, {1, 2, 2}, {1, 3, 1}, {2, 3, 1}})
      mesh.push_back({base + a, base + b, count});
  for (int i = 0; i < 4; ++i) mesh.push_back({i, i + 4, 2});
  auto graph = mesh_of_8("dgx1", "Tesla V100-SXM2-32GB", mesh, LinkKind::nvlink);
  for (int a = 0; a < 8; ++a)
    for (int b = 0; b < 8; ++b)
      if (a != b)
        add_pair(
            graph, fmt::format("dgx1/gpu{}", a), fmt::format("dgx1/gpu{}", b),
            a / 4 == b / 4 || a % 4 == b % 4 ? PeerStatus::ok : PeerStatus::topology_not_supported,
            9e9);
  return graph;
}

inline TopologyGraph mi300x() {
  std::vector<MeshLink> mesh;
  for (int a = 0; a < 8; ++a)
    for (int b = a + 1; b < 8; ++b) mesh.push_back({a, b, 1});
  auto graph = mesh_of_8("mi300", "AMD Instinct MI300X", mesh, LinkKind::xgmi);
  graph.nodes[0].fabric.reset();  // Not a thing of this vendor's driver.
  return graph;
}

}  // namespace machines
