#include "causeway/gpu_catalogue.h"

#include <algorithm>
#include <array>

namespace causeway {

namespace {

constexpr std::uint64_t gb(std::uint64_t value) { return value * 1'000'000'000; }

// Memory is the vendor's GB read as 10^9: up to 7% under what the card has, about what the driver
// and a context take. NVLink is links times the rate that NCCL sees per link, one direction.
constexpr auto kRefused = PeerPolicy::refused;
constexpr auto kNvlinkOnly = PeerPolicy::nvlink_only;
constexpr auto kGranted = PeerPolicy::granted;

constexpr std::array kModels{
    GpuModel{"rtx-3090", "RTX 3090", gb(24), 936e9, 71e12, false, 48e9, 4, kNvlinkOnly},
    GpuModel{"rtx-4090", "RTX 4090", gb(24), 1008e9, 165.2e12, false, {}, 4, kRefused},
    GpuModel{"rtx-5090", "RTX 5090", gb(32), 1792e9, 209.5e12, false, {}, 5, kRefused},
    GpuModel{"rtx-a6000", "RTX A6000", gb(48), 768e9, 154.8e12, false, 48e9, 4, kGranted},
    GpuModel{
        "rtx-pro-6000", "RTX PRO 6000 Blackwell", gb(96), 1792e9, 503.8e12, false, {}, 5, kGranted},
    GpuModel{"rtx-pro-6000-max-q",
             "RTX PRO 6000 Blackwell Max-Q",
             gb(96),
             1792e9,
             438.9e12,
             false,
             {},
             5,
             kGranted},
    GpuModel{"l40s", "L40S", gb(48), 864e9, 362e12, false, {}, 4, kGranted},
    GpuModel{"a100-pcie", "A100 PCIe 80GB", gb(80), 1935e9, 312e12, false, 240e9, 4, kGranted},
    GpuModel{"a100-sxm", "A100 SXM 80GB", gb(80), 2039e9, 312e12, true, 240e9, 4, kGranted},
    GpuModel{"h100-pcie", "H100 PCIe", gb(80), 2000e9, 756e12, false, 240e9, 5, kGranted},
    GpuModel{"h100-sxm", "H100 SXM", gb(80), 3350e9, 989.4e12, true, 371e9, 5, kGranted},
    GpuModel{"h200-sxm", "H200 SXM", gb(141), 4800e9, 989e12, true, 371e9, 5, kGranted},
    GpuModel{"b200", "B200", gb(180), 8000e9, 2200e12, true, 722e9, 5, kGranted},
};

}  // namespace

double published_host_link_bytes_per_s(const GpuModel& model) noexcept {
  constexpr double kLanes = 16;
  constexpr double kCoding = 128.0 / 130;
  constexpr double kPacket = 256.0 / (256 + 24);
  const double transfers_per_s = 8e9 * (1 << (model.pcie_generation - 3));
  return transfers_per_s / 8 * kLanes * kCoding * kPacket;
}

std::span<const GpuModel> gpu_models() noexcept { return kModels; }

const GpuModel* find_gpu_model(std::string_view name) noexcept {
  const auto at = std::ranges::find(kModels, name, &GpuModel::name);
  return at == kModels.end() ? nullptr : &*at;
}

}  // namespace causeway
