#include "runtime/topology/gpu_titles.h"

#include <algorithm>
#include <array>
#include <cctype>

namespace causeway {

namespace {

// Longer names before those that they contain.
constexpr std::array kTitles{
    GpuTitle{"RTX PRO 6000 Blackwell Max-Q", "rtx-pro-6000-max-q", 120},
    GpuTitle{"RTX PRO 6000 Blackwell", "rtx-pro-6000", 120},
    GpuTitle{"RTX 5090 Laptop", "", 120},
    GpuTitle{"RTX 5090 D", "", 120},
    GpuTitle{"RTX 5090", "rtx-5090", 120},
    GpuTitle{"RTX 5080", "", 120},
    GpuTitle{"RTX 5070", "", 120},
    GpuTitle{"RTX 5060", "", 120},
    GpuTitle{"RTX 4090 Laptop", "", 89},
    GpuTitle{"RTX 4090 D", "", 89},
    GpuTitle{"RTX 4090", "rtx-4090", 89},
    GpuTitle{"RTX 4080", "", 89},
    GpuTitle{"RTX 4070", "", 89},
    GpuTitle{"RTX 4060", "", 89},
    GpuTitle{"RTX 6000 Ada", "", 89},
    GpuTitle{"L40S", "l40s", 89},
    GpuTitle{"L40", "", 89},
    GpuTitle{"L4", "", 89},
    GpuTitle{"RTX 3090 Ti", "", 86},
    GpuTitle{"RTX 3090", "rtx-3090", 86},
    GpuTitle{"RTX 3080", "", 86},
    GpuTitle{"RTX 3070", "", 86},
    GpuTitle{"RTX 3060", "", 86},
    GpuTitle{"RTX A6000", "rtx-a6000", 86},
    GpuTitle{"RTX A5500", "", 86},
    GpuTitle{"RTX A5000", "", 86},
    GpuTitle{"RTX A4500", "", 86},
    GpuTitle{"RTX A4000", "", 86},
    GpuTitle{"A40", "", 86},
    GpuTitle{"A10G", "", 86},
    GpuTitle{"A10", "", 86},
    GpuTitle{"GB300", "", 103},
    GpuTitle{"B300", "", 103},
    GpuTitle{"GB200", "", 100},
    GpuTitle{"B200", "b200", 100},
    GpuTitle{"GH200", "", 90},
    GpuTitle{"H200 NVL", "", 90},
    GpuTitle{"H200", "h200-sxm", 90},
    GpuTitle{"H100 PCIe", "h100-pcie", 90},
    GpuTitle{"H100 80GB HBM3", "h100-sxm", 90},
    GpuTitle{"H100 SXM5 80GB", "h100-sxm", 90},
    GpuTitle{"H100 SXM", "h100-sxm", 90},
    GpuTitle{"H100", "", 90},
    GpuTitle{"H800", "", 90},
    GpuTitle{"H20", "", 90},
    GpuTitle{"A100-SXM4-80GB", "a100-sxm", 80},
    GpuTitle{"A100-SXM-80GB", "a100-sxm", 80},
    GpuTitle{"A100 SXM 80GB", "a100-sxm", 80},
    GpuTitle{"A100 PCIe 80GB", "a100-pcie", 80},
    GpuTitle{"A100 80GB PCIe", "a100-pcie", 80},
    GpuTitle{"A100-PCIE-80GB", "a100-pcie", 80},
    GpuTitle{"A100", "", 80},
    GpuTitle{"A800", "", 80},
    GpuTitle{"A30", "", 80},
    GpuTitle{"RTX 2080", "", 75},
    GpuTitle{"T4", "", 75},
    GpuTitle{"V100", "", 70},
    GpuTitle{"V100S", "", 70},
    GpuTitle{"P40", "", 61},
    GpuTitle{"P4", "", 61},
    GpuTitle{"P100", "", 60},
};

char lower(char c) noexcept {
  return static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
}

bool is_word(char c) noexcept { return std::isalnum(static_cast<unsigned char>(c)) != 0; }

}  // namespace

const GpuTitle* find_gpu_title(std::string_view title) noexcept {
  for (const auto& known : kTitles) {
    const auto found =
        std::search(title.begin(), title.end(), known.words.begin(), known.words.end(),
                    [](char a, char b) { return lower(a) == lower(b); });
    if (found == title.end()) continue;
    const auto at = static_cast<std::size_t>(found - title.begin());
    const auto end = at + known.words.size();
    if ((at == 0 || !is_word(title[at - 1])) && (end == title.size() || !is_word(title[end])))
      return &known;
  }
  return nullptr;
}

std::string_view gpu_model_of(std::string_view title) noexcept {
  const auto* known = find_gpu_title(title);
  return known == nullptr ? std::string_view() : known->model;
}

void set_gpu_title(Component& gpu, std::string_view title) {
  gpu.title = title;
  const auto* known = find_gpu_title(title);
  if (known == nullptr) return;
  if (gpu.model.empty()) gpu.model = known->model;
  if (!gpu.sm) gpu.sm = known->sm;
}

}  // namespace causeway
