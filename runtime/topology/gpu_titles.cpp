#include "runtime/topology/gpu_titles.h"

#include <algorithm>
#include <array>

#include "causeway/gpu_catalogue.h"

namespace causeway {

namespace {

struct Title {
  std::string_view title;  // Without "NVIDIA ", which older drivers leave out.
  std::string_view model;
};

constexpr std::array kTitles{
    Title{"GeForce RTX 3090", "rtx-3090"},
    Title{"GeForce RTX 4090", "rtx-4090"},
    Title{"GeForce RTX 5090", "rtx-5090"},
    Title{"RTX PRO 6000 Blackwell Workstation Edition", "rtx-pro-6000"},
    Title{"RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000"},
    Title{"RTX PRO 6000 Blackwell Max-Q Workstation Edition", "rtx-pro-6000-max-q"},
    Title{"A100 80GB PCIe", "a100-pcie"},
    Title{"A100-PCIE-80GB", "a100-pcie"},
    Title{"A100-SXM4-80GB", "a100-sxm"},
    Title{"A100-SXM-80GB", "a100-sxm"},
    Title{"H100 80GB HBM3", "h100-sxm"},
    Title{"H100 SXM5 80GB", "h100-sxm"},
    Title{"H200", "h200-sxm"},
    Title{"H200 SXM 141GB", "h200-sxm"},
};

constexpr char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

bool same(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, {}, lower, lower);
}

}  // namespace

std::string_view gpu_model_of(std::string_view title) noexcept {
  constexpr std::string_view kVendor = "NVIDIA ";
  if (same(title.substr(0, kVendor.size()), kVendor)) title.remove_prefix(kVendor.size());
  for (const auto& known : kTitles)
    if (same(title, known.title)) return known.model;
  // The catalogue's own titles: "L40S", "RTX A6000", "H100 PCIe", "B200".
  for (const auto& model : gpu_models())
    if (same(title, model.title)) return model.name;
  return {};
}

}  // namespace causeway
