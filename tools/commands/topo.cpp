// causeway topo show: nodes, their islands and why they are islands, links, and tiers of memory.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <boost/json.hpp>
#include <memory>

#include "causeway/cluster.h"
#include "tools/base/terminal.h"
#include "tools/commands/command.h"
#include "tools/lab.h"

namespace causeway::tools {

namespace {

struct TopoOptions {
  Connection connection;
  std::string cluster;
  std::string near;
};

struct Lines {
  const char* branch;
  const char* last;
  const char* down;
};

Lines lines() {
  if (has_unicode()) return {"├─ ", "└─ ", "│  "};
  return {"|- ", "`- ", "|  "};
}

// "gpu0" or "gpu0-gpu7", and the total.
std::string device_range(const Topology& topology, const std::vector<DeviceName>& devices) {
  std::uint64_t capacity = 0;
  for (const auto& name : devices)
    if (const auto* device = topology.find(name)) capacity += device->capacity_bytes;
  const auto& first = devices.front();
  const auto* device = topology.find(first);
  const auto model = device == nullptr ? std::string() : model_title(device->model);
  if (devices.size() == 1) return fmt::format("{}  {}", model, format_bytes(capacity));
  return fmt::format("{} x {}  {}-{}  {} in all", devices.size(), model, first.local(),
                     devices.back().local(), format_bytes(capacity));
}

std::string node_tree(const Topology& topology, const std::string& node) {
  std::vector<std::string> entries;
  for (const auto& island : topology.islands()) {
    if (island.devices.empty() || island.devices.front().node != node) continue;
    const auto name = "island " + island.name;
    const auto devices = device_range(topology, island.devices);
    auto basis = "(" + island.basis + ")";
    if (const auto width = terminal_width()) {
      const auto taken = display_width(name) + display_width(devices) + 7;  // Branch and gaps.
      basis = fitted(basis, *width > taken ? *width - taken : 0);
    }
    entries.push_back(fmt::format("{}  {}  {}", coloured(Colour::cyan, name), devices,
                                  coloured(Colour::dim, basis)));
  }
  for (const auto& device : topology.devices())
    if (device.name.node == node && device.name.kind == DeviceKind::host)
      entries.push_back(fmt::format("{}  host memory  {}", device.name.to_string(),
                                    format_bytes(device.capacity_bytes)));
  const auto [branch, last, down] = lines();
  std::string text = coloured(Colour::bold, node) + "\n";
  for (std::size_t i = 0; i < entries.size(); ++i)
    text += (i + 1 < entries.size() ? branch : last) + entries[i] + "\n";
  return text;
}

// Links of the same kind and rate inside one node are one line: an NVLink domain has 28.
std::string link_table(const Topology& topology) {
  struct Group {
    const TopologyLink* link;
    std::size_t count;
  };
  std::vector<Group> groups;
  const auto node_of = [](const std::string& end) { return end.substr(0, end.find('/')); };
  for (const auto& link : topology.graph().links) {
    const auto same = std::ranges::find_if(groups, [&](const Group& group) {
      const auto& other = *group.link;
      return link.kind != LinkKind::network && other.kind == link.kind &&
             node_of(other.a) == node_of(link.a) && node_of(other.b) == node_of(link.b) &&
             other.effective_bytes_per_s == link.effective_bytes_per_s &&
             other.latency_s == link.latency_s && other.provenance == link.provenance;
    });
    if (same == groups.end())
      groups.push_back({&link, 1});
    else
      ++same->count;
  }
  Table table({{"LINK"}, {"BETWEEN", false, true}, {"RATE", true}, {"LATENCY", true}, {"SOURCE"}});
  for (const auto& [link, count] : groups) {
    const auto between = count == 1 ? fmt::format("{} - {}", link->a, link->b)
                                    : fmt::format("{} pairs on {}", count, node_of(link->a));
    table.add(
        {{std::string(to_string(link->kind))},
         {between},
         {link->effective_bytes_per_s ? format_rate(link->effective_bytes_per_s->value) : "-"},
         {link->latency_s ? format_seconds(link->latency_s->value) : "-"},
         {std::string(to_string(link->provenance)), Colour::dim}});
  }
  return table.empty() ? "" : "\n" + table.to_string();
}

std::string rank_table(const Topology& topology, const DeviceName& near) {
  Table table({{"#", true},
               {"DEVICE"},
               {"TIER"},
               {"RATE", true},
               {"LATENCY", true},
               {"PATH", false, true},
               {"SOURCE"}});
  std::size_t place = 0;
  for (const auto& [device, cost] : topology.rank(near))
    table.add({{std::to_string(++place)},
               {device.to_string()},
               {std::string(to_string(cost.tier))},
               {format_rate(cost.rate.bandwidth_bytes_per_s)},
               {format_seconds(cost.rate.latency_s)},
               {cost.path},
               {std::string(to_string(cost.rate.provenance)), Colour::dim}});
  return fmt::format("\nMemory by cost of access from {}:\n{}", near.to_string(),
                     table.to_string());
}

// The ranking is one more key beside those of Topology::to_json().
void print_json(const Topology& topology, const std::optional<DeviceName>& near) {
  auto value = boost::json::parse(topology.to_json());
  if (near) {
    boost::json::array ranking;
    for (const auto& [device, cost] : topology.rank(*near))
      ranking.push_back({{"device", device.to_string()},
                         {"tier", to_string(cost.tier)},
                         {"bandwidth_bytes_per_s", cost.rate.bandwidth_bytes_per_s},
                         {"latency_s", cost.rate.latency_s},
                         {"provenance", to_string(cost.rate.provenance)},
                         {"path", cost.path}});
    value.as_object()["near"] = near->to_string();
    value.as_object()["ranking"] = std::move(ranking);
  }
  fmt::print("{}\n", boost::json::serialize(value));
}

int run_topo_show(const TopoOptions& options, bool json) {
  const auto topology = options.cluster.empty()
                            ? connect_pool(options.connection).topology()
                            : Topology::from_cluster(load_cluster(options.cluster));
  std::optional<DeviceName> near;
  if (!options.near.empty()) near = DeviceName::parse(options.near);
  if (json) {
    print_json(topology, near);
    return kExitOk;
  }
  for (const auto& node : topology.nodes()) fmt::print("{}", node_tree(topology, node));
  fmt::print("{}", link_table(topology));
  if (near) fmt::print("{}", rank_table(topology, *near));
  return kExitOk;
}

}  // namespace

void add_topo(CLI::App& app, Shell& shell) {
  auto* topo = app.add_subcommand("topo", "What islands there are and what joins them");
  topo->require_subcommand(1);
  topo->footer(std::string("Example:\n  causeway topo show --cluster desktop-and-hgx\n\n") +
               kExitCodesText);
  auto options = std::make_shared<TopoOptions>();
  auto* show = add_command(*topo, shell, "show", "Draw the islands and links of a pool or cluster",
                           "causeway topo show --cluster desktop-and-hgx --near desktop/gpu0",
                           [options, &shell]() { return run_topo_show(*options, shell.json); });
  auto* cluster = show->add_option("--cluster", options->cluster,
                                   "A cluster file or built-in lab instead of a running pool");
  cluster->type_name("FILE");
  show->add_option("--near", options->near, "Rank all memory by cost of access from this device")
      ->type_name("DEVICE");
  add_connection_options(*show, options->connection);
  for (const char* name : {"--lab", "--socket", "--address"})
    cluster->excludes(show->get_option(name));
}

}  // namespace causeway::tools
