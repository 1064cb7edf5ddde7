// nvidia-smi nvlink -s, also nvidia-smi -L, which has the same lines without the links.
#include <fmt/format.h>

#include <array>
#include <map>

#include "runtime/topology/gpu_titles.h"
#include "runtime/topology/import/gpu_lines.h"
#include "runtime/topology/import/readers.h"
#include "runtime/topology/import/text.h"
#include "runtime/topology/link_rates.h"

namespace causeway {

namespace {

using Kind = TopologyNote::Kind;

struct GpuLinks {
  std::map<std::uint32_t, double> rates;  // By link, GB/s; 0: inactive.
  std::size_t line = 0;
};

// The chip whose links run at this rate in GB/s, as the driver prints it: the signalling rate,
// with the coding. 25 and 25.781 fit V100 and A100 alike: unknown.
std::optional<std::uint32_t> sm_of_rate(double rate) {
  constexpr std::array<std::pair<double, std::uint32_t>, 3> kRates{
      {{14.062, 86}, {26.562, 90}, {53.125, 100}}};
  for (const auto& [known, sm] : kRates)
    if (rate > known - 0.01 && rate < known + 0.01) return sm;
  return std::nullopt;
}

void read_links(MachineBuilder& builder, std::uint32_t number, const GpuLinks& links) {
  auto& gpu = builder.gpu(number);
  std::uint32_t down = 0;
  double first = 0;
  for (const auto& [link, rate] : links.rates) {
    if (rate == 0) ++down;
    if (first == 0) first = rate;
    if (rate != 0 && rate != first)
      builder.note(
          Kind::conflict, links.line,
          fmt::format("{}: link {} runs at {} GB/s, others at {}", gpu.name, link, rate, first));
  }
  gpu.nvlinks_max = static_cast<std::uint32_t>(links.rates.size());
  gpu.nvlinks_down = down;
  if (!gpu.sm && first > 0) gpu.sm = sm_of_rate(first);
}

// Bridges join cards in twos: where two cards are all that there is, their links end at each other.
void link_bridged_cards(MachineBuilder& builder, const std::map<std::uint32_t, GpuLinks>& gpus) {
  if (gpus.size() != 2) return;
  const auto one = gpus.begin()->first;
  const auto other = gpus.rbegin()->first;
  const auto active = [&](std::uint32_t number) {
    const auto& gpu = builder.gpu(number);
    return gpu.nvlinks_max.value_or(0) - gpu.nvlinks_down.value_or(0);
  };
  const bool bridged = builder.gpu(one).sm == 86U && builder.gpu(other).sm == 86U;
  if (!bridged || active(one) == 0 || active(one) != active(other)) return;
  TopologyLink link{LinkKind::nvlink, builder.gpu(one).name, builder.gpu(other).name};
  link.provenance = Provenance::import;
  link.count = active(one);
  link.state = builder.gpu(one).nvlinks_down == 0U ? LinkState::up : LinkState::degraded;
  builder.links().push_back(std::move(link));
  builder.note(Kind::remark, gpus.at(one).line,
               "took the links of these two cards for a bridge between them");
}

}  // namespace

TopologyGraph read_smi_nvlink(std::string_view text, const std::string& origin,
                              const std::string& node) {
  MachineBuilder builder(origin, node);
  std::map<std::uint32_t, GpuLinks> links;
  std::optional<std::uint32_t> current;
  for (LineReader lines(text); lines.next();) {
    if (const auto gpu = parse_smi_gpu_line(lines.line())) {
      current = gpu->number;
      auto& device = builder.gpu(gpu->number);
      set_gpu_title(device, gpu->title);
      device.uuid = gpu->uuid;
    } else if (const auto link = parse_smi_link_line(lines.line())) {
      if (!current)
        throw text_error(origin, lines.number(),
                         "a link before the line of its GPU; give the whole output of "
                         "'nvidia-smi nvlink -s'");
      auto& of = links[*current];
      of.line = lines.number();
      of.rates[link->number] = link->gb_per_s.value_or(0);
      builder.node().nvlinks_known = true;
    } else if (lines.line().find("all links are in") != std::string_view::npos) {
      builder.node().nvlinks_known = true;  // The driver's word for a GPU whose links are all down.
    }
  }
  if (builder.empty())
    throw text_error(origin, 1,
                     "no line 'GPU 0: NAME (UUID: ...)'; give the output of 'nvidia-smi nvlink "
                     "-s'");
  for (const auto& [number, of] : links) read_links(builder, number, of);
  link_bridged_cards(builder, links);
  return builder.take();
}

}  // namespace causeway
