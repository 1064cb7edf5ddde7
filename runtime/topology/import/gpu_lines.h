// Lines of text that name one GPU or one of its links, as the tools print them.
//
// Errors:  nullopt for any other line.
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "causeway/topology_graph.h"

namespace causeway {

struct GpuLine {
  std::uint32_t number = 0;
  std::string title;
  std::string uuid;
  std::optional<PciAddress> pci = {};
};

// "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-...)", by nvidia-smi.
[[nodiscard]] std::optional<GpuLine> parse_smi_gpu_line(std::string_view line);
// "Device 0: NVIDIA H100 (00000000:18:00)", by nvbandwidth; the address is not always there.
// Also its JSON form "0: NVIDIA H100 (PCI:0000:0a:00.0): (host)".
[[nodiscard]] std::optional<GpuLine> parse_nvbandwidth_gpu_line(std::string_view line);
// "Device: 0, NVIDIA H100, pciBusID: 18, pciDeviceID: 0, pciDomainID:0", by
// p2pBandwidthLatencyTest. The numbers are hexadecimal.
[[nodiscard]] std::optional<GpuLine> parse_p2p_test_gpu_line(std::string_view line);

struct SmiLinkLine {
  std::uint32_t number = 0;
  std::optional<double> gb_per_s = {};  // nullopt: inactive.
};

// "Link 0: 26.562 GB/s" and "Link 1: <inactive>".
[[nodiscard]] std::optional<SmiLinkLine> parse_smi_link_line(std::string_view line);

}  // namespace causeway
