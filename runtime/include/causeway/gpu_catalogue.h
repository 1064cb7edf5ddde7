// What is known of GPU models before any measurement: memory, rates, links, peer access policy.
//
// Units:   bytes, bytes per second, floating point operations per second (dense bf16).
// Errors:  find_gpu_model gives nullptr for an unknown name; gpu_models() lists what there is.
// Threads: constants.
// Source:  vendor specifications; NVLink effective rates as seen by NCCL; docs/topology.md lists
// them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace causeway {

enum class PeerPolicy : std::uint8_t {
  refused,      // The stock driver refuses peer access (GeForce 40 and 50).
  nvlink_only,  // Over an NVLink bridge only.
  granted,      // Over NVLink or PCIe.
};

struct GpuModel {
  std::string_view name;   // "rtx-5090"
  std::string_view title;  // "RTX 5090"
  std::uint64_t memory_bytes;
  double memory_bandwidth_bytes_per_s;
  double flops_per_s;
  bool has_nvswitch_form;  // Several of them in one node form one NVLink domain.
  std::optional<double>
      nvlink_bytes_per_s;  // Effective, per direction, per GPU; nullopt: no NVLink.
  int pcie_generation;
  PeerPolicy peer_policy;
};

// What the host link of a model can carry of payload in one direction, by what is published:
// sixteen lanes of its PCIe generation (every model here has them), 128 bits in 130 on the line,
// and 24 bytes of framing, header and check for each packet of 256 (PCI Express Base
// Specification). 28.8 GB/s for generation 4, 57.6 for 5: no copy is faster, and a host that sends
// smaller packets is slower.
[[nodiscard]] double published_host_link_bytes_per_s(const GpuModel& model) noexcept;

[[nodiscard]] std::span<const GpuModel> gpu_models() noexcept;
[[nodiscard]] const GpuModel* find_gpu_model(std::string_view name) noexcept;

}  // namespace causeway
