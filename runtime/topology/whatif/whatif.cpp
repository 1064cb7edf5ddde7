#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <tuple>
#include <unordered_set>
#include <utility>

#include "causeway/error.h"
#include "causeway/topology_whatif.h"
#include "runtime/topology/utf8.h"
#include "runtime/topology/whatif/derived.h"
#include "runtime/topology/whatif/node_spec.h"
#include "runtime/topology/whatif/set.h"
#include "runtime/topology/whatif/target.h"

namespace causeway {

namespace {

using namespace whatif;

// "TARGET.FIELD=VALUE" or "pair A>B FIELD=VALUE".
void set(TopologyGraph& graph, const std::string& text) {
  constexpr std::string_view kForm =
      "write TARGET.FIELD=VALUE, such as desktop/gpu0-desktop/cpu0.width=8";
  const auto equals = text.find('=');
  if (equals == text.npos) throw refuse(text, fmt::format("has no '='; {}", kForm));
  const auto left = std::string_view(text).substr(0, equals);
  auto value = std::string_view(text).substr(equals + 1);
  if (value.size() >= 2 && value.front() == '"' && value.back() == '"')
    value = value.substr(1, value.size() - 2);
  auto at = left.rfind('.');
  if (left.starts_with("pair ")) {
    const auto space = left.rfind(' ');
    // After the second end: names have no spaces.
    if (space > left.find('>') && left.find('>') != left.npos) at = space;
  }
  if (at == left.npos || at == 0 || at + 1 == left.size())
    throw refuse(text, fmt::format("names no field; {}", kForm));
  const auto target = find_target(graph, left.substr(0, at), text);
  set_field(graph, target, left.substr(at + 1), value, text);
}

// Components, with their links and pairs, and what links name only the node.
void remove_components(TopologyGraph& graph, const std::vector<bool>& doomed,
                       const std::string& node) {
  std::unordered_set<std::string> gone;
  if (!node.empty()) gone.insert(node);
  for (std::size_t i = 0; i < doomed.size(); ++i)
    if (doomed[i]) gone.insert(graph.components[i].name);
  std::erase_if(graph.links, [&](const TopologyLink& link) {
    return gone.contains(link.a) || gone.contains(link.b);
  });
  std::erase_if(graph.pairs, [&](const Pair& pair) {
    return gone.contains(pair.from) || gone.contains(pair.to);
  });
  std::erase_if(graph.components,
                [&](const Component& component) { return gone.contains(component.name); });
  std::erase_if(graph.nodes, [&](const TopologyNode& one) { return one.name == node; });
}

void remove(TopologyGraph& graph, const std::string& text) {
  const auto target = find_target(graph, text, text);
  if (const auto* node = std::get_if<NodeTarget>(&target)) {
    const auto name = graph.nodes[node->index].name;
    std::vector<bool> doomed;
    for (const auto& component : graph.components) doomed.push_back(component.node == name);
    remove_components(graph, doomed, name);
  } else if (const auto* component = std::get_if<ComponentTarget>(&target)) {
    remove_components(graph, hanging_on(graph, component->index), "");
  } else if (const auto* link = std::get_if<LinkTarget>(&target)) {
    forget_measurements(graph, graph.links[link->index]);
    graph.links.erase(graph.links.begin() + static_cast<std::ptrdiff_t>(link->index));
  } else {
    throw refuse(text, "a pair is no thing to remove; set its field 'granted'");
  }
}

}  // namespace

void apply(TopologyGraph& graph, const WhatIf& change) {
  auto changed = graph;
  switch (change.kind) {
    case WhatIf::Kind::set:
      set(changed, change.text);
      break;
    case WhatIf::Kind::add_node:
      add_nodes(changed, read_node_spec(graph, change.text));
      break;
    case WhatIf::Kind::remove:
      remove(changed, change.text);
      break;
  }
  graph = std::move(changed);
}

void add_nodes(TopologyGraph& graph, const TopologyGraph& other) {
  const auto taken = [](std::string_view kind, const std::string& name) {
    return Error(Errc::already_exists,
                 fmt::format("a {} named '{}' is there already; give the new one another name",
                             kind, printable(name, 80)));
  };
  auto changed = graph;
  std::unordered_set<std::string_view> names;
  for (const auto& node : graph.nodes) names.insert(node.name);
  std::unordered_set<std::string_view> switches;
  for (const auto& component : graph.components) {
    names.insert(component.name);
    if (component.kind == ComponentKind::network_switch) switches.insert(component.name);
  }
  for (const auto& node : other.nodes) {
    if (names.contains(node.name)) throw taken("node", node.name);
    changed.nodes.push_back(node);
  }
  for (const auto& component : other.components) {
    const bool is_switch = component.kind == ComponentKind::network_switch;
    if (is_switch && switches.contains(component.name)) continue;
    if (names.contains(component.name)) throw taken("component", component.name);
    changed.components.push_back(component);
  }
  std::set<std::tuple<LinkKind, std::string_view, std::string_view>> known;
  for (const auto& link : graph.links) {
    known.insert({link.kind, link.a, link.b});
    known.insert({link.kind, link.b, link.a});
  }
  for (const auto& link : other.links)
    if (!known.contains({link.kind, link.a, link.b})) changed.links.push_back(link);
  changed.pairs.insert(changed.pairs.end(), other.pairs.begin(), other.pairs.end());
  changed.notes.insert(changed.notes.end(), other.notes.begin(), other.notes.end());
  graph = std::move(changed);
}

}  // namespace causeway
