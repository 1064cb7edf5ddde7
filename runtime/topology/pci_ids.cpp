#include "runtime/topology/pci_ids.h"

#include <algorithm>
#include <array>
#include <charconv>

namespace causeway {

namespace {

// By id. Where the catalogue has another memory size or board power, the model stays empty.
constexpr std::array kNvidiaGpus{
    PciGpu{0x15f0, 60, ""},                     // Quadro GP100
    PciGpu{0x15f7, 60, ""},                     // P100 PCIe 12 GB
    PciGpu{0x15f8, 60, ""},                     // P100 PCIe 16 GB
    PciGpu{0x15f9, 60, ""},                     // P100 SXM2
    PciGpu{0x1db1, 70, ""},                     // V100 SXM2 16 GB
    PciGpu{0x1db2, 70, ""},                     // V100 DGXS 16 GB
    PciGpu{0x1db3, 70, ""},                     // V100 FHHL
    PciGpu{0x1db4, 70, ""},                     // V100 PCIe 16 GB
    PciGpu{0x1db5, 70, ""},                     // V100 SXM2 32 GB
    PciGpu{0x1db6, 70, ""},                     // V100 PCIe 32 GB
    PciGpu{0x1db7, 70, ""},                     // V100 DGXS 32 GB
    PciGpu{0x1db8, 70, ""},                     // V100 SXM3 32 GB
    PciGpu{0x1dba, 70, ""},                     // Quadro GV100
    PciGpu{0x1df5, 70, ""},                     // V100 SXM2 16 GB
    PciGpu{0x1df6, 70, ""},                     // V100S PCIe
    PciGpu{0x20b0, 80, ""},                     // A100 SXM4 40 GB
    PciGpu{0x20b1, 80, ""},                     // A100 PCIe 40 GB
    PciGpu{0x20b2, 80, "a100-sxm"},             // A100 SXM4 80 GB
    PciGpu{0x20b3, 80, ""},                     // A100 SXM4 64 GB
    PciGpu{0x20b5, 80, "a100-pcie"},            // A100 PCIe 80 GB
    PciGpu{0x20b7, 80, ""},                     // A30
    PciGpu{0x20f1, 80, ""},                     // A100 PCIe 40 GB
    PciGpu{0x20f3, 80, ""},                     // A800 SXM4 80 GB
    PciGpu{0x20f5, 80, ""},                     // A800 PCIe 80 GB
    PciGpu{0x2203, 86, ""},                     // RTX 3090 Ti
    PciGpu{0x2204, 86, "rtx-3090"},             //
    PciGpu{0x2230, 86, "rtx-a6000"},            //
    PciGpu{0x2235, 86, ""},                     // A40
    PciGpu{0x2236, 86, ""},                     // A10
    PciGpu{0x2237, 86, ""},                     // A10G
    PciGpu{0x2321, 90, ""},                     // H100 NVL
    PciGpu{0x2322, 90, ""},                     // H800 PCIe
    PciGpu{0x2324, 90, ""},                     // H800
    PciGpu{0x2329, 90, ""},                     // H20
    PciGpu{0x2330, 90, "h100-sxm"},             // H100 SXM5 80 GB
    PciGpu{0x2331, 90, "h100-pcie"},            //
    PciGpu{0x2335, 90, "h200-sxm"},             //
    PciGpu{0x2336, 90, ""},                     // H100
    PciGpu{0x2339, 90, ""},                     // H100
    PciGpu{0x233b, 90, ""},                     // H200 NVL
    PciGpu{0x2342, 90, ""},                     // GH200
    PciGpu{0x2348, 90, ""},                     // GH200 144 GB
    PciGpu{0x2684, 89, "rtx-4090"},             //
    PciGpu{0x2685, 89, ""},                     // RTX 4090 D
    PciGpu{0x26b1, 89, ""},                     // RTX 6000 Ada
    PciGpu{0x26b5, 89, ""},                     // L40
    PciGpu{0x26b9, 89, "l40s"},                 //
    PciGpu{0x27b8, 89, ""},                     // L4
    PciGpu{0x2901, 100, "b200"},                //
    PciGpu{0x2941, 100, ""},                    // GB200
    PciGpu{0x2b85, 120, "rtx-5090"},            //
    PciGpu{0x2b87, 120, ""},                    // RTX 5090 D
    PciGpu{0x2bb1, 120, "rtx-pro-6000"},        // Workstation edition
    PciGpu{0x2bb4, 120, "rtx-pro-6000-max-q"},  //
    PciGpu{0x2bb5, 120, ""},                    // RTX PRO 6000 server edition
    PciGpu{0x3182, 103, ""},                    // B300
    PciGpu{0x31c2, 103, ""},                    // GB300
};
static_assert(std::ranges::is_sorted(kNvidiaGpus, {}, &PciGpu::device_id));

}  // namespace

const PciGpu* find_pci_gpu(std::optional<std::uint32_t> vendor_id,
                           std::optional<std::uint32_t> device_id) noexcept {
  if (vendor_id != kPciVendorNvidia || !device_id) return nullptr;
  const auto* at = std::ranges::lower_bound(kNvidiaGpus, *device_id, {}, &PciGpu::device_id);
  return at == kNvidiaGpus.end() || at->device_id != *device_id ? nullptr : at;
}

bool is_without_expected_ids(const Component& gpu) noexcept {
  constexpr std::uint32_t kFirstAlwaysWithIds = 90;
  return !gpu.vendor_id && gpu.arch.empty() && gpu.sm.value_or(0) >= kFirstAlwaysWithIds;
}

std::optional<std::uint32_t> parse_pci_class(std::string_view text) noexcept {
  if (text.starts_with("0x") || text.starts_with("0X")) text.remove_prefix(2);
  if (text.size() != 2 && text.size() != 4 && text.size() != 6) return std::nullopt;
  std::uint32_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (result.ec != std::errc() || result.ptr != text.data() + text.size()) return std::nullopt;
  return value << (4 * (6 - text.size()));
}

ComponentKind kind_of_pci_class(std::uint32_t class_code,
                                std::optional<std::uint32_t> vendor_id) noexcept {
  // A device that hides answers with all bits alike.
  const auto vendor = vendor_id.value_or(0) & 0xffff;
  const bool is_unknown = vendor == 0 || vendor == 0xffff;
  const bool may_be_nvidia = is_unknown || vendor == kPciVendorNvidia;
  switch (class_code >> 8) {
    case 0x0300:  // AMD's are the graphics of a processor, or cards without peer access.
      return may_be_nvidia ? ComponentKind::gpu : ComponentKind::unknown;
    case 0x0302:
    case 0x0380:
      return may_be_nvidia || vendor == kPciVendorAmd ? ComponentKind::gpu : ComponentKind::unknown;
    case 0x1200:
      return vendor == kPciVendorAmd ? ComponentKind::gpu : ComponentKind::unknown;
    case 0x0604:
      return ComponentKind::bridge;
    case 0x0680:
      return may_be_nvidia ? ComponentKind::nvswitch : ComponentKind::unknown;
    default:
      return class_code >> 16 == 0x02 ? ComponentKind::nic : ComponentKind::unknown;
  }
}

}  // namespace causeway
