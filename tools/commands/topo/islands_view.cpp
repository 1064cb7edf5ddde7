#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "causeway/cluster.h"
#include "tools/commands/topo/text.h"
#include "tools/commands/topo/views.h"

namespace causeway::tools {

namespace {

constexpr std::size_t kMaxLines = 16;  // Of islands each for itself; past it like ones join.

struct Line {
  std::vector<const Island*> islands;
  std::string gpus;
  std::optional<std::uint64_t> memory_bytes;  // Of one island.
  const NvlinkDomain* domain = nullptr;
};

Colour colour_of(PeerBasis basis) {
  switch (basis) {
    case PeerBasis::verified:
      return Colour::green;
    case PeerBasis::cuda:
    case PeerBasis::granted:
      return Colour::cyan;
    case PeerBasis::policy:
      return Colour::none;
    case PeerBasis::unknown:
      break;
  }
  return Colour::dim;
}

// The sum, or nullopt if one is not known.
std::optional<std::uint64_t> memory_of(const Topology& topology, const Island& island) {
  std::uint64_t sum = 0;
  for (const auto& name : island.devices) {
    const auto* device = topology.find(name);
    if (device == nullptr || device->capacity_bytes == 0) return std::nullopt;
    sum += device->capacity_bytes;
  }
  return sum;
}

std::string gpus_of(const std::unordered_map<std::string_view, const Component*>& components,
                    const Island& island) {
  std::vector<std::pair<std::string, std::size_t>> models;
  std::vector<std::string> names;
  std::set<std::string_view> nodes;
  for (const auto& name : island.devices) {
    const auto at = components.find(name.to_string());
    const auto title = at == components.end() ? std::string("GPU") : title_of(*at->second);
    const auto known =
        std::ranges::find(models, title, &std::pair<std::string, std::size_t>::first);
    if (known == models.end())
      models.emplace_back(title, 1);
    else
      ++known->second;
    names.push_back(name.local());
    nodes.insert(name.node);
  }
  std::string text;
  for (const auto& [title, count] : models)
    text += fmt::format("{}{}{}", text.empty() ? "" : ", ",
                        count > 1 || models.size() > 1 ? fmt::format("{} x ", count) : "", title);
  if (nodes.size() > 1) return fmt::format("{} on {}", text, counted(nodes.size(), "node"));
  return island.devices.size() == 1 ? text : text + "  " + name_ranges(names);
}

std::string_view shape_of(const Island& island, const NvlinkDomain* domain) {
  if (domain == nullptr) return "-";
  if (domain->devices.size() < island.devices.size()) return "in part";
  if (domain->is_switched) return "switched";
  return domain->is_all_to_all ? "all to all" : "not all to all";
}

// Without the word that the column before it has.
std::string_view reason_of(const Island& island) {
  const std::string_view basis = island.basis;
  const auto word = to_string(island.rests_on);
  return basis.starts_with(word) && basis.substr(word.size()).starts_with(": ")
             ? basis.substr(word.size() + 2)
             : basis;
}

// A GPU without another rests on nothing.
Cell basis_cell(const Island& island) {
  if (island.basis.starts_with("alone")) return {"-"};
  return {std::string(to_string(island.rests_on)), colour_of(island.rests_on)};
}

std::string names_of(const std::vector<const Island*>& islands) {
  std::vector<std::string> names;
  for (const auto* island : islands) names.push_back(island->name);
  return name_ranges(names, 2);
}

std::vector<Line> lines_of(const Topology& topology) {
  std::unordered_map<std::string_view, const Component*> components;
  for (const auto& component : topology.graph().components)
    if (component.kind == ComponentKind::gpu) components.emplace(component.name, &component);
  std::unordered_map<DeviceName, const NvlinkDomain*> domains;
  for (const auto& domain : topology.nvlink_domains())
    for (const auto& device : domain.devices) domains.emplace(device, &domain);
  const bool join = topology.islands().size() > kMaxLines;
  std::vector<Line> lines;
  std::unordered_map<std::string, std::size_t> known;
  for (const auto& island : topology.islands()) {
    Line line{{&island}, gpus_of(components, island), memory_of(topology, island), nullptr};
    for (const auto& device : island.devices) {
      const auto domain = domains.find(device);
      if (domain == domains.end()) continue;
      line.domain = domain->second;
      break;
    }
    if (join) {
      const auto key =
          fmt::format("{}|{}|{}|{}|{}|{}", line.gpus, line.memory_bytes.value_or(0),
                      to_string(island.rests_on), island.basis, shape_of(island, line.domain),
                      line.domain ? line.domain->devices.size() : 0);
      const auto [at, is_new] = known.emplace(key, lines.size());
      if (!is_new) {
        lines[at->second].islands.push_back(&island);
        continue;
      }
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

// Domains that are several islands, or a part of one: kernels do not reach through a GPU.
std::string split_domains(const Topology& topology) {
  std::map<std::string, std::vector<std::string>> texts;
  for (const auto& domain : topology.nvlink_domains()) {
    std::set<const Island*> inside;
    for (const auto& device : domain.devices) inside.insert(topology.island_of(device));
    if (inside.size() < 2) continue;
    const auto* shape = domain.is_switched ? "over switches"
                        : domain.is_all_to_all
                            ? "all to all"
                            : "not all to all, and a kernel reaches over one NVLink, not through "
                              "a GPU";
    texts[fmt::format("joins {} GPUs and is {} islands: {}", domain.devices.size(), inside.size(),
                      shape)]
        .push_back(domain.name);
  }
  std::string result;
  for (const auto& [text, names] : texts)
    result += wrapped(fmt::format("NVLink {} {}", name_ranges(names), text), 0);
  return result.empty() ? result : "\n" + result;
}

}  // namespace

std::string islands_view(const Topology& topology) {
  std::size_t gpus = 0;
  std::optional<std::uint64_t> memory = 0;
  std::optional<std::uint64_t> host = 0;
  for (const auto& device : topology.devices()) {
    auto& sum = device.name.kind == DeviceKind::gpu ? memory : host;
    if (device.name.kind == DeviceKind::gpu) ++gpus;
    if (device.capacity_bytes == 0) sum.reset();
    if (sum) *sum += device.capacity_bytes;
  }
  auto text = fmt::format("{}, {}", counted(topology.nodes().size(), "node"), counted(gpus, "GPU"));
  if (gpus > 0)
    text += fmt::format(" in {}, {} of VRAM", counted(topology.islands().size(), "island"),
                        bytes_text(memory));
  if (!host || *host > 0) text += fmt::format(", {} of host memory", bytes_text(host));
  text = coloured(Colour::bold, text) + "\n";
  if (gpus == 0) return text;
  const auto lines = lines_of(topology);
  const bool joined = lines.size() < topology.islands().size();
  std::vector<Column> columns{{"ISLAND", false, true}};
  if (joined) columns.push_back({"COUNT", true});
  columns.insert(columns.end(), {{"GPUS"},
                                 {joined ? "EACH" : "MEMORY", true},
                                 {"NVLINK"},
                                 {"RESTS ON"},
                                 {"BECAUSE", false, true}});
  Table table(columns);
  for (const auto& line : lines) {
    const auto& island = *line.islands.front();
    std::vector<Cell> cells{{names_of(line.islands), Colour::cyan}};
    if (joined) cells.push_back({counted(line.islands.size())});
    cells.insert(cells.end(), {{line.gpus},
                               {bytes_text(line.memory_bytes)},
                               {std::string(shape_of(*line.islands.front(), line.domain))},
                               basis_cell(island),
                               {std::string(reason_of(island)), Colour::dim}});
    table.add(std::move(cells));
  }
  return text + table.to_string() + split_domains(topology);
}

}  // namespace causeway::tools
