// causeway topo whatif: what a change would do to islands and costs, before it is made.
#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <map>
#include <memory>
#include <set>
#include <tuple>

#include "causeway/topology_diff.h"
#include "causeway/topology_export.h"
#include "causeway/topology_whatif.h"
#include "tools/base/files.h"
#include "tools/commands/topo/commands.h"
#include "tools/commands/topo/layout.h"
#include "tools/commands/topo/source.h"
#include "tools/commands/topo/text.h"

namespace causeway::tools {

namespace {

namespace json = boost::json;

// Pairs of more devices are compared on one node of each shape.
constexpr std::size_t kMaxDevices = 96;

struct WhatIfCommand {
  TopoSource source;
  std::vector<std::string> set;
  std::vector<std::string> add_node;
  std::vector<std::string> add_file;
  std::vector<std::string> remove;
  const CLI::App* app = nullptr;  // Knows in which order they were given.
  std::string then;
  std::string output;
};

// In the order of the command line: a node that was added can be changed. Returns how many.
std::size_t apply_all(TopologyGraph& graph, const WhatIfCommand& command) {
  std::map<std::string, std::size_t> used;
  std::size_t changes = 0;
  for (const auto* option : command.app->parse_order()) {
    const auto name = option->get_name();
    const auto at = used[name]++;
    if (name == "--set")
      apply(graph, {WhatIf::Kind::set, command.set.at(at)});
    else if (name == "--add-node")
      apply(graph, {WhatIf::Kind::add_node, command.add_node.at(at)});
    else if (name == "--remove")
      apply(graph, {WhatIf::Kind::remove, command.remove.at(at)});
    else if (name == "--add-file")
      add_nodes(graph, load_named(command.add_file.at(at)));
    else
      continue;
    ++changes;
  }
  return changes;
}

struct CostChange {
  std::optional<AccessCost> before;
  std::optional<AccessCost> after;
  std::vector<std::string> from;
  std::vector<std::string> to;
};

std::vector<DeviceName> compared_devices(const Topology& before, const Topology& after) {
  std::vector<DeviceName> devices;
  std::set<std::string> nodes;
  if (after.devices().size() > kMaxDevices)
    for (const auto* topology : {&before, &after}) {
      const Layout layout(topology->graph());
      for (const auto& group : alike_nodes(layout))
        nodes.insert(topology->graph().nodes[group.front()].name);
    }
  for (const auto& device : after.devices())
    if (before.find(device.name) != nullptr && devices.size() < kMaxDevices &&
        (nodes.empty() || nodes.contains(device.name.node)))
      devices.push_back(device.name);
  return devices;
}

bool is_same(const std::optional<AccessCost>& a, const std::optional<AccessCost>& b) {
  if (!a || !b) return !a && !b;
  return a->tier == b->tier && a->rate.bandwidth_bytes_per_s == b->rate.bandwidth_bytes_per_s &&
         a->rate.latency_s == b->rate.latency_s;
}

std::string cost_text(const std::optional<AccessCost>& cost) {
  if (!cost) return "no path";
  return fmt::format("{} {} {}", to_string(cost->tier),
                     format_rate(cost->rate.bandwidth_bytes_per_s),
                     format_seconds(cost->rate.latency_s));
}

// What changes for one device, by what it was and is.
std::vector<CostChange> cost_changes_from(const Topology& before, const Topology& after,
                                          const DeviceName& from,
                                          const std::vector<DeviceName>& devices) {
  std::vector<CostChange> changes;
  std::map<std::pair<std::string, std::string>, std::size_t> known;
  for (const auto& to : devices) {
    auto was = before.access(from, to);
    auto is = after.access(from, to);
    if (is_same(was, is)) continue;
    const auto [at, is_new] =
        known.emplace(std::pair(cost_text(was), cost_text(is)), changes.size());
    if (is_new) changes.push_back({std::move(was), std::move(is), {from.to_string()}, {}});
    changes[at->second].to.push_back(to.to_string());
  }
  return changes;
}

// Of devices that change alike towards the same others, or towards each other, one line.
std::vector<CostChange> cost_changes(const Topology& before, const Topology& after) {
  std::vector<CostChange> changes;
  using Key = std::tuple<std::string, std::string, std::vector<std::string>>;
  std::map<Key, std::size_t> known;
  const auto devices = compared_devices(before, after);
  for (const auto& from : devices)
    for (auto& change : cost_changes_from(before, after, from, devices)) {
      auto with_itself = change.to;
      with_itself.push_back(from.to_string());
      std::ranges::sort(with_itself);
      const Key others{cost_text(change.before), cost_text(change.after), change.to};
      const Key among{std::get<0>(others), std::get<1>(others), with_itself};
      auto at = known.find(others);
      if (at == known.end()) at = known.find(among);
      if (at == known.end()) {
        known.emplace(others, changes.size());
        known.emplace(among, changes.size());
        changes.push_back(std::move(change));
        continue;
      }
      auto& line = changes[at->second];
      line.from.push_back(from.to_string());
      for (auto& to : change.to)
        if (std::ranges::find(line.to, to) == line.to.end()) line.to.push_back(std::move(to));
    }
  return changes;
}

std::map<std::string, const Island*> islands_of(const Topology& topology) {
  std::map<std::string, const Island*> islands;
  for (const auto& island : topology.islands()) {
    std::vector<std::string> names;
    for (const auto& device : island.devices) names.push_back(device.to_string());
    islands.emplace(name_ranges(names, 64), &island);
  }
  return islands;
}

bool has_same(const std::map<std::string, const Island*>& islands,
              const std::pair<const std::string, const Island*>& entry) {
  const auto at = islands.find(entry.first);
  return at != islands.end() && at->second->name == entry.second->name &&
         at->second->basis == entry.second->basis;
}

struct IslandChanges {
  std::vector<std::pair<std::string, const Island*>> gone;
  std::vector<std::pair<std::string, const Island*>> made;
};

IslandChanges island_changes(const Topology& before, const Topology& after) {
  const auto was = islands_of(before);
  const auto is = islands_of(after);
  IslandChanges changes;
  for (const auto& entry : was)
    if (!has_same(is, entry)) changes.gone.push_back(entry);
  for (const auto& entry : is)
    if (!has_same(was, entry)) changes.made.push_back(entry);
  return changes;
}

std::string islands_text(const IslandChanges& changes) {
  if (changes.gone.empty() && changes.made.empty()) return "the islands stay as they are\n";
  Table table({{""}, {"ISLAND"}, {"GPUS", false, true}, {"BECAUSE", false, true}});
  for (const auto& [devices, island] : changes.gone)
    table.add({{"-", Colour::red}, {island->name}, {devices}, {island->basis, Colour::dim}});
  for (const auto& [devices, island] : changes.made)
    table.add({{"+", Colour::green}, {island->name}, {devices}, {island->basis, Colour::dim}});
  return table.to_string();
}

std::string costs_text(const std::vector<CostChange>& changes) {
  if (changes.empty()) return "no cost of access changes between devices that were there before\n";
  Table table({{"FROM", false, true},
               {"TO MEMORY OF", false, true},
               {"BEFORE"},
               {"AFTER"},
               {"RATE", true}});
  for (const auto& change : changes) {
    std::string factor = "-";
    auto colour = Colour::none;
    if (change.before && change.after) {
      const auto ratio =
          change.after->rate.bandwidth_bytes_per_s / change.before->rate.bandwidth_bytes_per_s;
      factor = fmt::format("x {:.3g}", ratio);
      if (ratio != 1) colour = ratio > 1 ? Colour::green : Colour::red;
    }
    table.add({{name_ranges(change.from, 2)},
               {name_ranges(change.to, 2)},
               {cost_text(change.before), Colour::dim},
               {cost_text(change.after)},
               {factor, colour}});
  }
  return table.to_string();
}

json::value cost_json(const std::optional<AccessCost>& cost) {
  if (!cost) return nullptr;
  return json::object{{"tier", to_string(cost->tier)},
                      {"bandwidth_bytes_per_s", cost->rate.bandwidth_bytes_per_s},
                      {"latency_s", cost->rate.latency_s},
                      {"path", cost->path}};
}

json::array island_json(const std::vector<std::pair<std::string, const Island*>>& islands) {
  json::array list;
  for (const auto& [devices, island] : islands)
    list.push_back({{"name", island->name}, {"devices", devices}, {"basis", island->basis}});
  return list;
}

void print_json(const Topology& after, const IslandChanges& islands,
                const std::vector<CostChange>& costs) {
  json::array list;
  for (const auto& change : costs) {
    list.push_back({{"from", json::value_from(change.from)},
                    {"to", json::value_from(change.to)},
                    {"before", cost_json(change.before)},
                    {"after", cost_json(change.after)}});
  }
  auto text = json::serialize(json::object{{"islands_gone", island_json(islands.gone)},
                                           {"islands_made", island_json(islands.made)},
                                           {"costs", std::move(list)}});
  text.pop_back();  // A parser would round some of the topology's numbers.
  fmt::print("{},\"topology\":{}}}\n", text, after.to_json());
}

int run_whatif(const WhatIfCommand& command, bool as_json) {
  auto graph = load_graph(command.source);
  const Topology before(graph);
  const auto given = apply_all(graph, command);
  const Topology after(graph);
  if (!command.output.empty()) write_file(command.output, graph_to_json(graph));
  const auto islands = island_changes(before, after);
  const auto costs = cost_changes(before, after);
  if (as_json) {
    print_json(after, islands, costs);
    return kExitOk;
  }
  if (given == 0) fmt::print("nothing to change was given: --set, --add-node, ...\n\n");
  fmt::print("{}\n{}\n{}", changes_text(diff(before.graph(), graph)), islands_text(islands),
             costs_text(costs));
  if (command.then == "doctor")
    fmt::print("\n{}", diagnosis_text(diagnose(after)));
  else if (!command.then.empty())
    fmt::print("\n{}", views_text(after, command.then == "show" ? "" : command.then));
  return kExitOk;
}

}  // namespace

void add_topo_whatif(CLI::App& topo, Shell& shell) {
  auto command = std::make_shared<WhatIfCommand>();
  auto* whatif = add_command(
      topo, shell, "whatif", "What a change would do, before it is made",
      "causeway topo whatif --cluster desktop-and-hgx --set desktop-hgx.bandwidth=12.5GB/s",
      [command, &shell]() { return run_whatif(*command, shell.json); });
  const auto add = [&](const char* name, std::vector<std::string>& values, const char* type,
                       const char* text) {
    whatif->add_option(name, values, text)
        ->type_name(type)
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  };
  add("--set", command->set, "TARGET.FIELD=VALUE",
      "desktop/gpu0-desktop/cpu0.width=8, desktop/gpu0.model=rtx-4090, "
      "a/gpu0>a/gpu1.granted=OK, a.iommu=off");
  add("--add-node", command->add_node, "NAME=PART,...",
      "new=8xh100-sxm,host:1TB,link:desktop:100Gbit/s:5us");
  add("--add-file", command->add_file, "FILE", "All nodes of another topology");
  add("--remove", command->remove, "NAME", "A node, a component or a link (A-B)");
  whatif
      ->add_option("--then", command->then,
                   "And then: show, tree, matrix, islands, network, all or doctor")
      ->check(CLI::IsMember({"show", "tree", "matrix", "islands", "network", "all", "doctor"}))
      ->type_name("VIEW");
  whatif->add_option("-o,--output", command->output, "Write the changed topology there")
      ->type_name("FILE");
  add_source_options(*whatif, command->source);
  command->app = whatif;
}

}  // namespace causeway::tools
