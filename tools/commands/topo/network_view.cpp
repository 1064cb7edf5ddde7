#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <map>

#include "causeway/cluster.h"
#include "tools/commands/command.h"
#include "tools/commands/topo/text.h"
#include "tools/commands/topo/views.h"

namespace causeway::tools {

namespace {

// Of each network switch how far it is from the nodes: 1 for those that nodes hang on. A switch of
// the middle may have a node too, for its management: it takes a quarter of the links to count.
std::vector<std::optional<std::size_t>> levels_of(const Layout& layout) {
  const auto& graph = layout.graph();
  std::vector<std::vector<std::size_t>> near(graph.components.size());
  std::vector<std::size_t> to_nodes(graph.components.size());
  const auto is_switch = [&](std::size_t at) {
    return graph.components[at].kind == ComponentKind::network_switch;
  };
  for (const auto& link : graph.links) {
    if (link.kind != LinkKind::network) continue;
    const auto a = layout.find(link.a);
    const auto b = layout.find(link.b);
    for (const auto& [own, other] : {std::pair(a, b), std::pair(b, a)}) {
      if (!own || !is_switch(*own)) continue;
      if (other && is_switch(*other))
        near[*own].push_back(*other);
      else
        ++to_nodes[*own];
    }
  }
  std::vector<std::optional<std::size_t>> levels(graph.components.size());
  std::deque<std::size_t> queue;
  for (const bool any : {false, true}) {
    if (!queue.empty()) break;  // Without a switch of nodes, one with a node will do.
    for (std::size_t i = 0; i < levels.size(); ++i)
      if (to_nodes[i] > 0 && (any || to_nodes[i] * 4 >= to_nodes[i] + near[i].size())) {
        levels[i] = 1;
        queue.push_back(i);
      }
  }
  for (; !queue.empty(); queue.pop_front())
    for (const auto next : near[queue.front()])
      if (!levels[next]) {
        levels[next] = *levels[queue.front()] + 1;
        queue.push_back(next);
      }
  return levels;
}

std::string level_name(const std::optional<std::size_t>& level, std::size_t highest) {
  if (!level) return "apart from all nodes";
  if (highest == 1) return "switch";
  if (*level == 1) return "leaf";
  if (*level == 2) return "spine";
  return *level == 3 ? "core" : fmt::format("level {}", *level);
}

using Counts = std::vector<std::pair<std::string, std::size_t>>;

void count(Counts& counts, const std::string& what, std::size_t by = 1) {
  const auto at = std::ranges::find(counts, what, &std::pair<std::string, std::size_t>::first);
  if (at == counts.end())
    counts.emplace_back(what, by);
  else
    at->second += by;
}

std::string text_of(const Counts& counts) {
  std::string text;
  for (const auto& [what, number] : counts)
    text += fmt::format("{}{}{}", text.empty() ? "" : ", ",
                        number > 1 ? fmt::format("{} x ", counted(number)) : "", what);
  return text.empty() ? "-" : text;
}

std::string node_table(const Layout& layout) {
  const auto& graph = layout.graph();
  std::vector<std::size_t> ports(graph.nodes.size());
  for (const auto& link : graph.links)
    if (link.kind == LinkKind::network)
      for (const auto* end : {&link.a, &link.b})
        if (const auto node = layout.find_node(node_part(*end))) ++ports[*node];
  Table table({{"NODES", false, true},
               {"COUNT", true},
               {"GPUS"},
               {"VRAM", true},
               {"NICS"},
               {"LINKS", true}});
  for (const auto& group : alike_nodes(layout)) {
    // Nodes of one shape may still be joined to the network in different ways.
    std::map<std::size_t, std::vector<std::string>> by_ports;
    for (const auto at : group) by_ports[ports[at]].push_back(graph.nodes[at].name);
    Counts gpus;
    Counts nics;
    std::optional<std::uint64_t> memory = 0;
    for (const auto at : layout.components_of(group.front())) {
      const auto& component = graph.components[at];
      if (component.kind == ComponentKind::gpu) {
        count(gpus, title_of(component));
        if (!component.capacity_bytes) memory.reset();
        if (memory) *memory += *component.capacity_bytes;
      }
      if (component.kind == ComponentKind::nic)
        count(nics, component.port_bytes_per_s ? format_rate(*component.port_bytes_per_s)
                                               : std::string("NIC"));
    }
    for (const auto& [links, names] : by_ports)
      table.add({{name_ranges(names, 2), Colour::bold},
                 {counted(names.size())},
                 {text_of(gpus)},
                 {gpus.empty() ? "-" : bytes_text(memory)},
                 {text_of(nics)},
                 {counted(links)}});
  }
  return table.to_string();
}

std::string switch_table(const Layout& layout,
                         const std::vector<std::optional<std::size_t>>& levels) {
  const auto& graph = layout.graph();
  struct Ports {
    std::size_t up = 0;
    std::size_t down = 0;
    std::size_t across = 0;
  };
  std::vector<Ports> ports(graph.components.size());
  std::size_t highest = 0;
  for (const auto& level : levels) highest = std::max(highest, level.value_or(0));
  for (const auto& link : graph.links) {
    if (link.kind != LinkKind::network) continue;
    const auto a = layout.find(link.a);
    const auto b = layout.find(link.b);
    const auto level = [&](const auto& at) { return at ? levels[*at].value_or(0) : 0; };
    for (const auto& [own, other] : {std::pair(a, b), std::pair(b, a)}) {
      if (!own || graph.components[*own].kind != ComponentKind::network_switch) continue;
      auto& entry = ports[*own];
      (level(other) > level(own)   ? entry.up
       : level(other) < level(own) ? entry.down
                                   : entry.across) += link.count;
    }
  }
  std::map<std::size_t, std::vector<std::size_t>, std::greater<>> groups;
  for (std::size_t i = 0; i < graph.components.size(); ++i)
    if (graph.components[i].kind == ComponentKind::network_switch)
      groups[levels[i].value_or(0)].push_back(i);
  Table table({{"LEVEL"},
               {"SWITCHES", false, true},
               {"COUNT", true},
               {"DOWN", true},
               {"UP", true},
               {"ACROSS", true}});
  const auto range = [&](const std::vector<std::size_t>& switches, std::size_t Ports::*member) {
    const auto [least, most] = std::ranges::minmax_element(
        switches, {}, [&](std::size_t at) { return ports[at].*member; });
    const auto low = ports[*least].*member;
    const auto high = ports[*most].*member;
    return low == high ? counted(low) : fmt::format("{}-{}", low, high);
  };
  for (const auto& [level, switches] : groups) {
    std::vector<std::string> names;
    for (const auto at : switches) names.push_back(graph.components[at].name);
    table.add({{level_name(level == 0 ? std::nullopt : std::optional(level), highest)},
               {name_ranges(names, 2), Colour::cyan},
               {counted(names.size())},
               {range(switches, &Ports::down)},
               {range(switches, &Ports::up)},
               {range(switches, &Ports::across)}});
  }
  return table.empty() ? "" : "\n" + table.to_string();
}

// What a transfer gets, or, where that is not known, what the wire carries.
const std::optional<Figure>& rate_of(const TopologyLink& link) {
  return link.effective_bytes_per_s ? link.effective_bytes_per_s : link.line_bytes_per_s;
}

std::string link_table(const Layout& layout,
                       const std::vector<std::optional<std::size_t>>& levels) {
  const auto& graph = layout.graph();
  struct Group {
    std::vector<std::string> a;
    std::vector<std::string> b;
    std::size_t links = 0;
    const TopologyLink* first = nullptr;
  };
  const auto place = [&](const std::string& end) -> std::size_t {
    const auto at = layout.find(end);
    return at && levels[*at] ? *levels[*at] : 0;
  };
  using Key = std::tuple<std::size_t, std::size_t, double, double, Provenance, LinkState>;
  std::map<Key, Group> groups;
  for (const auto& link : graph.links) {
    if (link.kind != LinkKind::network) continue;
    const auto* low = &link.a;
    const auto* high = &link.b;
    if (place(*low) > place(*high)) std::swap(low, high);
    const auto& rate = rate_of(link);
    auto& group =
        groups[{place(*low), place(*high), rate ? rate->value : -1,
                link.latency_s ? link.latency_s->value : -1, link.provenance, link.state}];
    group.a.push_back(*low);
    group.b.push_back(*high);
    group.links += link.count;
    group.first = &link;
  }
  Table table({{"FROM", false, true},
               {"TO", false, true},
               {"LINKS", true},
               {"RATE", true},
               {"LATENCY", true},
               {"STATE"},
               {"SOURCE"}});
  for (const auto& [key, group] : groups) {
    const auto state = group.first->state;
    table.add({{name_ranges(group.a, 2)},
               {name_ranges(group.b, 2)},
               {counted(group.links)},
               {rate_text(rate_of(*group.first))},
               {latency_text(group.first->latency_s)},
               {state == LinkState::unknown ? "?" : std::string(to_string(state)),
                link_colour(*group.first)},
               {std::string(to_string(group.first->provenance)), Colour::dim}});
  }
  return table.empty() ? "\nno network link is known\n" : "\n" + table.to_string();
}

}  // namespace

std::string network_view(const Topology& topology, const Layout& layout) {
  const auto& graph = topology.graph();
  const auto levels = levels_of(layout);
  std::size_t switches = 0;
  std::size_t links = 0;
  for (const auto& component : graph.components)
    switches += component.kind == ComponentKind::network_switch ? 1 : 0;
  for (const auto& link : graph.links) links += link.kind == LinkKind::network ? 1 : 0;
  return coloured(Colour::bold, fmt::format("{}, {}, {}", counted(graph.nodes.size(), "node"),
                                            counted(switches, "switch", "switches"),
                                            counted(links, "network link"))) +
         "\n" + node_table(layout) + switch_table(layout, levels) + link_table(layout, levels);
}

}  // namespace causeway::tools
