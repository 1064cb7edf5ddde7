#include "runtime/topology/link_rates.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <unordered_map>

namespace causeway {

namespace {

// Effective bandwidth of sixteen lanes, generations 1 to 6.
constexpr std::array kPcieX16BytesPerS{3e9, 6e9, 12e9, 24e9, 48e9, 96e9};
constexpr std::array kPcieGtPerS{2.5, 5.0, 8.0, 16.0, 32.0, 64.0};

using Components = std::unordered_map<std::string_view, const Component*>;

const Component* find(const Components& components, const std::string& name) {
  const auto at = components.find(name);
  return at == components.end() ? nullptr : at->second;
}

// The chip of a link between GPUs, or between a GPU and a switch or CPU. Of two, the older one.
std::optional<NvlinkRate> rate_of_ends(const Component* a, const Component* b) {
  std::optional<NvlinkRate> slower;
  for (const auto* end : {a, b}) {
    const auto rate = end != nullptr && end->sm ? nvlink_rate(*end->sm) : std::nullopt;
    if (rate && (!slower || rate->line_bytes_per_s < slower->line_bytes_per_s)) slower = rate;
  }
  return slower;
}

void fill(std::optional<Figure>& figure, std::optional<double> value, Provenance provenance) {
  if (!figure && value) figure = Figure{*value, provenance};
}

// A line of Gen1 to Gen2 codes 8 bits in 10, later ones 128 in 130.
std::optional<double> pcie_line_bytes_per_s(const PcieMode& mode) {
  if (!mode.generation || !mode.width || *mode.generation < 1 || *mode.generation > 6)
    return std::nullopt;
  const double coding = *mode.generation <= 2 ? 0.8 : *mode.generation <= 5 ? 128.0 / 130 : 1;
  return kPcieGtPerS[*mode.generation - 1] * 1e9 / 8 * coding * *mode.width;
}

void fill_link(TopologyLink& link, const Component* a, const Component* b) {
  const auto from = link.provenance;
  switch (link.kind) {
    case LinkKind::nvlink: {
      const auto rate = rate_of_ends(a, b);
      if (rate) fill(link.line_bytes_per_s, link.count * rate->line_bytes_per_s, from);
      if (rate) fill(link.effective_bytes_per_s, link.count * rate->effective_bytes_per_s, from);
      fill(link.latency_s, kPeerLatency, Provenance::spec);
      break;
    }
    case LinkKind::xgmi: {
      const auto rate = a != nullptr ? xgmi_bytes_per_s(a->arch) : std::nullopt;
      if (rate) fill(link.effective_bytes_per_s, link.count * *rate, from);
      fill(link.latency_s, kPeerLatency, Provenance::spec);
      break;
    }
    case LinkKind::pcie: {
      // An idle card runs at Gen1 and speeds up when it has to: so the generation that both ends
      // can do counts, but only the lanes that are in use.
      const PcieMode mode{
          link.pcie_max.generation ? link.pcie_max.generation : link.pcie.generation,
          link.pcie.width};
      fill(link.line_bytes_per_s, pcie_line_bytes_per_s(mode), from);
      fill(link.effective_bytes_per_s, pcie_bytes_per_s(mode), from);
      break;
    }
    case LinkKind::socket: {
      const auto known = a != nullptr ? socket_bytes_per_s(*a) : std::nullopt;
      fill(link.effective_bytes_per_s, known ? *known : kSocketBytesPerS, Provenance::spec);
      fill(link.latency_s, kSocketLatency, Provenance::spec);
      break;
    }
    case LinkKind::memory:  // fill_memory()
    case LinkKind::c2c:
    case LinkKind::network:
      break;
  }
}

// Memory is nominally as fast as two channels, and at least as fast as the widest link to its CPU:
// whoever builds that link wants to fill it.
void fill_memory(TopologyGraph& graph) {
  std::unordered_map<std::string_view, double> widest;
  for (const auto& link : graph.links) {
    if (link.kind == LinkKind::memory || link.kind == LinkKind::network) continue;
    if (!link.effective_bytes_per_s) continue;
    for (const auto& end : {std::string_view(link.a), std::string_view(link.b)})
      widest[end] = std::max(widest[end], link.effective_bytes_per_s->value);
  }
  for (auto& link : graph.links) {
    if (link.kind != LinkKind::memory) continue;
    const auto nominal = std::max({kHostBytesPerS, widest[link.a], widest[link.b]});
    fill(link.effective_bytes_per_s, nominal, Provenance::spec);
  }
}

}  // namespace

std::optional<NvlinkRate> nvlink_rate(std::uint32_t sm) noexcept {
  switch (sm) {
    case 60:
      return NvlinkRate{4, 20e9, 18e9};
    case 70:
      return NvlinkRate{6, 25e9, 20e9};
    case 80:
      return NvlinkRate{12, 25e9, 20e9};
    case 86:
      return NvlinkRate{4, 14.0625e9, 12e9};
    case 90:
      return NvlinkRate{18, 25e9, 20.6e9};
    case 100:
    case 103:
      return NvlinkRate{18, 50e9, 40.1e9};
    default:
      return std::nullopt;
  }
}

std::optional<double> xgmi_bytes_per_s(std::string_view arch) noexcept {
  if (arch.starts_with("gfx94") || arch.starts_with("gfx95")) return 48e9;
  if (arch.starts_with("gfx90a")) return 36e9;
  if (arch.starts_with("gfx90")) return 24e9;
  return std::nullopt;
}

std::optional<double> pcie_bytes_per_s(const PcieMode& mode) noexcept {
  if (!mode.generation || !mode.width || *mode.width == 0) return std::nullopt;
  if (*mode.generation < 1 || *mode.generation > kPcieX16BytesPerS.size()) return std::nullopt;
  return kPcieX16BytesPerS[*mode.generation - 1] * std::min(*mode.width, 16U) / 16;
}

std::optional<std::uint32_t> pcie_generation(double gt_per_s) noexcept {
  const auto at = std::ranges::find_if(
      kPcieGtPerS, [gt_per_s](double rate) { return std::abs(rate - gt_per_s) < 0.01; });
  if (at == kPcieGtPerS.end()) return std::nullopt;
  return static_cast<std::uint32_t>(at - kPcieGtPerS.begin()) + 1;
}

std::optional<double> socket_bytes_per_s(const Component& cpu) noexcept {
  if (cpu.arch == "arm64" || cpu.arch == "aarch64") return 6e9;
  if (cpu.arch == "ppc64") return 32e9;
  if (cpu.cpu_vendor == "AuthenticAMD") return 16e9;
  if (cpu.cpu_vendor != "GenuineIntel" || !cpu.cpu_model) return std::nullopt;
  if (cpu.cpu_family && *cpu.cpu_family != 6) return std::nullopt;
  if (*cpu.cpu_model >= 0xad) return 40e9;  // Granite Rapids, Emerald Rapids (0xcf)
  if (*cpu.cpu_model >= 0x8f) return 22e9;  // Sapphire Rapids
  if (*cpu.cpu_model >= 0x55) return 10e9;  // Skylake
  return 6e9;                               // Broadwell and before
}

void fill_rates(TopologyGraph& graph) {
  Components components;
  for (const auto& component : graph.components) components.emplace(component.name, &component);
  for (auto& link : graph.links)
    fill_link(link, find(components, link.a), find(components, link.b));
  fill_memory(graph);
}

}  // namespace causeway
