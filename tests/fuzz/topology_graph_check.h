// What holds for every graph that a reader or merge() gives.
#pragma once

#include <string>
#include <unordered_set>

#include "causeway/topology_import.h"
#include "fuzz_target.h"

namespace causeway_fuzz {

// Readers keep ASCII only: what they read can be cut and printed anywhere.
inline void check_text(const std::string& text) {
  for (const char c : text)
    if (c < ' ' || c > '~') fail("a byte that is not printable ASCII", text);
}

inline void check_graph(const causeway::TopologyGraph& graph) {
  std::unordered_set<std::string> names;
  for (const auto& component : graph.components) {
    if (component.name.empty()) fail("a component without a name", graph.name);
    if (graph.find_node(component.name) != nullptr)
      fail("a component with a node's name", component.name);
    for (const auto* text : {&component.name, &component.title, &component.uuid, &component.cpus})
      check_text(*text);
    if (!names.insert(component.name).second) fail("two components of one name", component.name);
    if (!component.node.empty() && graph.find_node(component.node) == nullptr)
      fail("a component of no node", component.name);
  }
  const auto known = [&](const std::string& name) {
    return names.contains(name) || graph.find_node(name) != nullptr;
  };
  for (const auto& link : graph.links) {
    if (link.a == link.b) fail("a link to itself", link.a);
    if (!known(link.a) || !known(link.b)) fail("a link to nothing", link.a + " - " + link.b);
    if (link.count == 0) fail("a link of no links", link.a + " - " + link.b);
  }
  for (const auto& note : graph.notes) check_text(note.text);
  std::unordered_set<std::string> pairs;
  for (const auto& pair : graph.pairs) {
    if (!names.contains(pair.from) || !names.contains(pair.to))
      fail("a pair of nothing", pair.from + pair.to);
    if (!pairs.insert(pair.from + '\n' + pair.to).second) fail("a pair twice", pair.from + pair.to);
    for (const auto& figure : {pair.bandwidth_bytes_per_s, pair.staged_bytes_per_s, pair.latency_s})
      if (figure && !(figure->value > 0)) fail("a figure that is no measurement", pair.from);
  }
}

}  // namespace causeway_fuzz
