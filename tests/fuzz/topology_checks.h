// What holds of every graph that a reader gives.
#pragma once

#include <cmath>
#include <set>
#include <string>

#include "causeway/topology_graph.h"
#include "fuzz_target.h"

namespace causeway_fuzz {

inline void check_figure(const std::optional<causeway::Figure>& figure, const std::string& link) {
  if (figure && !(std::isfinite(figure->value) && figure->value > 0))
    fail("a figure is no positive number", link);
}

// Names are unique and in a node; links join two that are there and have figures that can be; the
// PCIe links are a forest whose roots are CPUs.
inline void check_graph(const causeway::TopologyGraph& graph) {
  std::set<std::string> names;
  for (const auto& component : graph.components) {
    if (!names.insert(component.name).second) fail("a name is there twice", component.name);
    if (graph.find_node(component.node) == nullptr) fail("no node of a component", component.node);
  }
  std::set<std::string> has_parent;
  for (const auto& link : graph.links) {
    const auto ends = link.a + " - " + link.b;
    if (!names.contains(link.a) || !names.contains(link.b)) fail("a link to nothing", ends);
    if (link.a == link.b) fail("a link to itself", ends);
    if (link.count == 0) fail("no link at all", ends);
    if (link.pcie.width == 0U || link.pcie.generation == 0U) fail("0 for unknown", ends);
    for (const auto* figure :
         {&link.line_bytes_per_s, &link.effective_bytes_per_s, &link.latency_s})
      check_figure(*figure, ends);
    if (link.kind == causeway::LinkKind::pcie && !has_parent.insert(link.a).second)
      fail("two places of one device", ends);
  }
  for (const auto& component : graph.components) {
    const bool is_device = component.kind != causeway::ComponentKind::cpu &&
                           component.kind != causeway::ComponentKind::host &&
                           component.kind != causeway::ComponentKind::nvswitch &&
                           !(component.kind == causeway::ComponentKind::nic && !component.pci);
    if (is_device && !has_parent.contains(component.name)) fail("no place", component.name);
  }
}

}  // namespace causeway_fuzz
