// Machines by hand, small enough to know by heart: what exports, diffs and what-ifs are tried on.
//
// Threads: pure functions.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <vector>

#include "causeway/gpu_catalogue.h"
#include "causeway/topology_graph.h"
#include "runtime/topology/link_rates.h"

namespace causeway::test {

class GraphBuilder {
 public:
  explicit GraphBuilder(std::string name) { graph.name = std::move(name); }

  TopologyGraph graph;

  // A node of `sockets` CPUs, each with host memory; the CPUs are joined.
  void node(const std::string& name, std::size_t sockets, std::uint64_t host_bytes) {
    graph.nodes.emplace_back().name = name;
    graph.nodes.back().nvlinks_known = true;
    for (std::size_t i = 0; i < sockets; ++i) {
      auto& cpu = add(name, "cpu", i, ComponentKind::cpu);
      cpu.cpu_vendor = "AuthenticAMD";
      cpu.title = "AMD EPYC 9454";
      auto& host = add(name, "host", i, ComponentKind::host);
      host.model = "host";
      host.capacity_bytes = host_bytes;
      join(LinkKind::memory, fmt::format("{}/cpu{}", name, i), host.name);
    }
    if (sockets == 2) join(LinkKind::socket, name + "/cpu0", name + "/cpu1");
  }

  // Under `above` ("cpu0") by sixteen lanes of the card's generation.
  void gpu(const std::string& node, std::size_t index, const std::string& above,
           std::string_view model, std::uint32_t sm, const std::string& title) {
    auto& gpu = add(node, "gpu", index, ComponentKind::gpu);
    gpu.model = model;
    gpu.title = title;
    gpu.sm = sm;
    gpu.uuid = fmt::format("GPU-{}-{}", node, index);
    gpu.pci = PciAddress{0, static_cast<std::uint8_t>(0x10 * (index + 1)), 0, 0};
    const auto generation = static_cast<std::uint32_t>(find_gpu_model(model)->pcie_generation);
    pcie(gpu.name, node + "/" + above, generation, 16);
  }

  void nic(const std::string& node, std::size_t index, const std::string& above, double rate) {
    auto& nic = add(node, "nic", index, ComponentKind::nic);
    nic.title = fmt::format("mlx5_{}", index);
    nic.port_bytes_per_s = rate;
    nic.port_up = true;
    nic.is_rdma = true;
    pcie(nic.name, node + "/" + above, 5, 16);
  }

  void network_switch(const std::string& name) {
    Component component;
    component.name = name;
    component.kind = ComponentKind::network_switch;
    graph.components.push_back(component);
  }

  Component& add(const std::string& node, const std::string& kind, std::size_t index,
                 ComponentKind component_kind) {
    auto& component = graph.components.emplace_back();
    component.name = fmt::format("{}/{}{}", node, kind, index);
    component.node = node;
    component.kind = component_kind;
    return component;
  }

  TopologyLink& join(LinkKind kind, const std::string& a, const std::string& b,
                     std::uint32_t count = 1) {
    auto& link = graph.links.emplace_back(TopologyLink{kind, a, b});
    link.count = count;
    link.state = LinkState::up;
    return link;
  }

  TopologyLink& pcie(const std::string& lower, const std::string& upper, std::uint32_t generation,
                     std::uint32_t width) {
    auto& link = join(LinkKind::pcie, lower, upper);
    link.provenance = Provenance::sysfs;
    link.pcie = link.pcie_max = {generation, width};
    return link;
  }

  TopologyLink& network(const std::string& a, const std::string& b, double rate, double latency) {
    auto& link = join(LinkKind::network, a, b);
    link.effective_bytes_per_s = Figure{rate, Provenance::import};
    link.latency_s = Figure{latency, Provenance::import};
    return link;
  }

  TopologyGraph finish() {
    fill_rates(graph);
    return graph;
  }
};

// Two RTX 5090 under one CPU; the driver refuses them peer access, and staging was measured.
inline TopologyGraph desktop() {
  GraphBuilder builder("desktop");
  builder.node("desktop", 1, 64'000'000'000);
  for (std::size_t i = 0; i < 2; ++i)
    builder.gpu("desktop", i, "cpu0", "rtx-5090", 120, "NVIDIA GeForce RTX 5090");
  for (const auto& [from, to] : {std::pair{0, 1}, std::pair{1, 0}}) {
    Pair pair;
    pair.from = fmt::format("desktop/gpu{}", from);
    pair.to = fmt::format("desktop/gpu{}", to);
    pair.granted_read = pair.granted_write = PeerStatus::chipset_not_supported;
    pair.staged_bytes_per_s = Figure{24.9e9, Provenance::measured};
    pair.latency_s = Figure{14e-6, Provenance::measured};
    builder.graph.pairs.push_back(pair);
  }
  return builder.finish();
}

// Eight H100 behind four NVSwitches; a PCIe switch with two GPUs and a NIC, four times.
inline TopologyGraph hgx() {
  GraphBuilder builder("hgx");
  builder.node("hgx", 2, 1'000'000'000'000);
  for (std::size_t i = 0; i < 4; ++i) {
    auto& bridge = builder.add("hgx", "bridge", i, ComponentKind::bridge);
    bridge.title = "PCIe switch";
    builder.pcie(bridge.name, i < 2 ? "hgx/cpu0" : "hgx/cpu1", 5, 16);
    builder.nic("hgx", i, fmt::format("bridge{}", i), 50e9);
  }
  for (std::size_t i = 0; i < 8; ++i)
    builder.gpu("hgx", i, fmt::format("bridge{}", i / 2), "h100-sxm", 90, "NVIDIA H100 80GB HBM3");
  constexpr std::uint32_t kLinks[] = {5, 4, 4, 5};
  for (std::size_t i = 0; i < 4; ++i) {
    builder.add("hgx", "nvswitch", i, ComponentKind::nvswitch);
    for (int gpu = 0; gpu < 8; ++gpu)
      builder.join(LinkKind::nvlink, fmt::format("hgx/gpu{}", gpu),
                   fmt::format("hgx/nvswitch{}", i), kLinks[i]);
  }
  return builder.finish();
}

// Four RTX 3090, NVLink bridges on two pairs; one card has only eight lanes.
inline TopologyGraph four_3090() {
  GraphBuilder builder("four-3090");
  builder.node("rig", 1, 128'000'000'000);
  for (std::size_t i = 0; i < 4; ++i)
    builder.gpu("rig", i, "cpu0", "rtx-3090", 86, "NVIDIA GeForce RTX 3090");
  auto& narrow = builder.graph.links.back();
  narrow.pcie.width = 8;
  narrow.state = LinkState::degraded;
  builder.join(LinkKind::nvlink, "rig/gpu0", "rig/gpu1", 4);
  builder.join(LinkKind::nvlink, "rig/gpu2", "rig/gpu3", 4);
  return builder.finish();
}

// Three nodes at a switch, a fourth joined by a declared link, one port down.
inline TopologyGraph small_cluster() {
  GraphBuilder builder("small-cluster");
  builder.network_switch("leaf0");
  for (const char* node : {"node0", "node1", "node2"}) {
    builder.node(node, 1, 256'000'000'000);
    for (std::size_t i = 0; i < 2; ++i) builder.gpu(node, i, "cpu0", "l40s", 89, "NVIDIA L40S");
    builder.nic(node, 0, "cpu0", 12.5e9);
    builder.network(std::string(node) + "/nic0", "leaf0", 12.5e9, 3e-6);
  }
  builder.graph.links.back().state = LinkState::down;
  builder.node("storage", 1, 64'000'000'000);
  builder.network("storage", "leaf0", 3.125e9, 20e-6);
  return builder.finish();
}

}  // namespace causeway::test
