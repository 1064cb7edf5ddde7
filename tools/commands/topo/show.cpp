// causeway topo show: a machine or cluster as a tree, a matrix, its islands or its network.
#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <memory>

#include "causeway/cuda_report.h"
#include "causeway/topology_discovery.h"
#include "tools/base/terminal.h"
#include "tools/commands/topo/commands.h"
#include "tools/commands/topo/source.h"
#include "tools/commands/topo/text.h"
#include "tools/commands/topo/views.h"

namespace causeway::tools {

namespace {

struct ShowOptions {
  TopoSource source;
  std::string view;
  std::string near;
};

// Past this many nodes a tree is long: islands say more.
constexpr std::size_t kManyNodes = 4;

// The ranking is one more key beside those of Topology::to_json(), whose text stays as it is: a
// parser would round some of its numbers.
std::string to_json(const Topology& topology, const std::optional<DeviceName>& near) {
  auto text = topology.to_json();
  if (!near) return text;
  boost::json::array ranking;
  for (const auto& [device, cost] : topology.rank(*near))
    ranking.push_back({{"device", device.to_string()},
                       {"tier", to_string(cost.tier)},
                       {"bandwidth_bytes_per_s", cost.rate.bandwidth_bytes_per_s},
                       {"latency_s", cost.rate.latency_s},
                       {"provenance", to_string(cost.rate.provenance)},
                       {"path", cost.path}});
  text.pop_back();
  return fmt::format("{},\"near\":{},\"ranking\":{}}}", text, json_string(near->to_string()),
                     boost::json::serialize(ranking));
}

// With what its CUDA driver shows when it is tried. Our side of it is in every build.
Topology this_machine() {
  auto graph = discover();
  for (const auto& line : cuda_report())
    graph.notes.push_back({TopologyNote::Kind::remark, "CUDA (built in)", line});
  return Topology(std::move(graph));
}

int run_show(const ShowOptions& options, bool json) {
  const auto topology = options.source.is_self() ? this_machine() : load_topology(options.source);
  std::optional<DeviceName> near;
  if (!options.near.empty()) near = DeviceName::parse(options.near);
  if (json) {
    fmt::print("{}\n", to_json(topology, near));
    return kExitOk;
  }
  fmt::print("{}", views_text(topology, options.view));
  if (near) fmt::print("\n{}", rank_view(topology, *near));
  return kExitOk;
}

}  // namespace

std::string views_text(const Topology& topology, const std::string& view) {
  const Layout layout(topology.graph());
  std::string text;
  const auto add = [&](const std::string& part) { text += (text.empty() ? "" : "\n") + part; };
  const bool is_cluster = topology.nodes().size() > kManyNodes;
  if (view == "tree" || view == "all" || (view.empty() && !is_cluster))
    add(tree_view(topology, layout));
  if (view == "islands" || view == "all" || view.empty()) add(islands_view(topology));
  if (view == "matrix" || view == "all") add(matrix_view(topology, layout));
  const bool has_network =
      std::ranges::any_of(topology.graph().links,
                          [](const TopologyLink& link) { return link.kind == LinkKind::network; });
  if (view == "network" || (view == "all" && has_network)) add(network_view(topology, layout));
  if (const auto notes = notes_view(topology.graph()); !notes.empty()) add(notes);
  return text;
}

std::string rank_view(const Topology& topology, const DeviceName& near) {
  Table table({{"#", true},
               {"DEVICE"},
               {"TIER"},
               {"RATE", true},
               {"LATENCY", true},
               {"PATH", false, true},
               {"SOURCE"}});
  const auto ranked = topology.rank(near);
  const auto is_alike = [](const RankedDevice& a, const RankedDevice& b) {
    return a.device.node == b.device.node && a.cost.tier == b.cost.tier &&
           a.cost.rate.bandwidth_bytes_per_s == b.cost.rate.bandwidth_bytes_per_s &&
           a.cost.rate.latency_s == b.cost.rate.latency_s && a.cost.path == b.cost.path;
  };
  for (std::size_t first = 0; first < ranked.size();) {
    std::vector<std::string> names;
    auto end = first;
    for (; end < ranked.size() && is_alike(ranked[first], ranked[end]); ++end)
      names.push_back(ranked[end].device.to_string());
    const auto& cost = ranked[first].cost;
    table.add({{names.size() == 1 ? std::to_string(end) : fmt::format("{}-{}", first + 1, end)},
               {name_ranges(names)},
               {std::string(to_string(cost.tier))},
               {format_rate(cost.rate.bandwidth_bytes_per_s)},
               {format_seconds(cost.rate.latency_s)},
               {cost.path},
               {std::string(to_string(cost.rate.provenance)), Colour::dim}});
    first = end;
  }
  return fmt::format("Memory by cost of access from {}:\n{}", near.to_string(), table.to_string());
}

std::string notes_view(const TopologyGraph& graph) {
  constexpr std::size_t kShown = 12;
  std::string text;
  for (std::size_t i = 0; i < std::min(graph.notes.size(), kShown); ++i) {
    const auto& note = graph.notes[i];
    const auto word = std::string(to_string(note.kind));
    const auto line = fmt::format("{}: {}", note.source, note.text);
    text += coloured(note.kind == TopologyNote::Kind::remark ? Colour::dim : Colour::yellow, word);
    text += std::string(10 - word.size(), ' ') + wrapped(line, 10).substr(10);
  }
  if (graph.notes.size() > kShown)
    text += fmt::format("{} more: topo import prints all of them\n",
                        counted(graph.notes.size() - kShown, "note"));
  return text;
}

void add_topo_show(CLI::App& topo, Shell& shell) {
  auto options = std::make_shared<ShowOptions>();
  auto* show = add_command(topo, shell, "show", "Draw a machine, a cluster or a pool",
                           "causeway topo show --cluster desktop-and-hgx --near desktop/gpu0",
                           [options, &shell]() { return run_show(*options, shell.json); });
  show->add_option("--view", options->view,
                   "tree, matrix, islands, network or all (else what fits the size)")
      ->check(CLI::IsMember({"tree", "matrix", "islands", "network", "all"}))
      ->type_name("VIEW");
  show->add_option("--near", options->near, "Rank all memory by cost of access from this device")
      ->type_name("DEVICE");
  add_source_options(*show, options->source);
}

void add_topo_islands(CLI::App& topo, Shell& shell) {
  auto options = std::make_shared<ShowOptions>();
  options->view = "islands";
  auto* islands = add_command(topo, shell, "islands", "Which GPUs see each other's memory, and why",
                              "causeway topo islands --cluster desktop-and-hgx",
                              [options, &shell]() { return run_show(*options, shell.json); });
  add_source_options(*islands, options->source);
}

}  // namespace causeway::tools
