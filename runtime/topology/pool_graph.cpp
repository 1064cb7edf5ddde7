#include "runtime/topology/pool_graph.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>

#include <algorithm>
#include <memory>

#include "causeway/topology.h"
#include "causeway/topology_export.h"

namespace causeway {

namespace {

// The interface that owns a numeric address: "eth0"; empty if none does.
std::string interface_of(const std::string& host) {
  ifaddrs* raw = nullptr;
  if (::getifaddrs(&raw) != 0) return {};
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> list(raw, ::freeifaddrs);
  for (const auto* entry = list.get(); entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr) continue;
    char text[INET6_ADDRSTRLEN] = {};
    const auto family = entry->ifa_addr->sa_family;
    if (family == AF_INET)
      ::inet_ntop(family, &reinterpret_cast<const sockaddr_in*>(entry->ifa_addr)->sin_addr, text,
                  sizeof text);
    else if (family == AF_INET6)
      ::inet_ntop(family, &reinterpret_cast<const sockaddr_in6*>(entry->ifa_addr)->sin6_addr, text,
                  sizeof text);
    if (host == text) return entry->ifa_name;
  }
  return {};
}

Component data_plane() {
  Component component;
  component.name = kDataPlane;
  component.kind = ComponentKind::network_switch;
  return component;
}

// Of a machine's devices those that are lent, with what is lent; and those it did not find itself.
void lend_devices(TopologyGraph& machine, const NodeSpec& node) {
  for (const auto& spec : node.devices) {
    const auto name = spec.name.to_string();
    const auto found = std::ranges::find(machine.components, name, &Component::name);
    if (found != machine.components.end()) {
      found->capacity_bytes = spec.capacity_bytes;
      continue;
    }
    const auto alone = graph_of_cluster({.name = {}, .nodes = {{node.name, {spec}}}, .links = {}});
    machine.components.push_back(*alone.find(name));
  }
}

void append(TopologyGraph& graph, TopologyGraph part) {
  const auto move_all = [](auto& to, auto& from) {
    to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
  };
  move_all(graph.nodes, part.nodes);
  move_all(graph.links, part.links);
  move_all(graph.pairs, part.pairs);
  move_all(graph.notes, part.notes);
  for (auto& component : part.components)
    if (component.name != kDataPlane || graph.find(kDataPlane) == nullptr)
      graph.components.push_back(std::move(component));
}

}  // namespace

TopologyGraph published_graph(TopologyGraph machine, const std::string& data_host) {
  const auto interface = interface_of(data_host);
  const auto nic = std::ranges::find_if(machine.components, [&](const Component& component) {
    return component.kind == ComponentKind::nic && component.title == interface;
  });
  if (interface.empty() || nic == machine.components.end() || !nic->port_bytes_per_s)
    return machine;
  TopologyLink link{LinkKind::network, nic->name, kDataPlane, Provenance::sysfs};
  link.effective_bytes_per_s = Figure{*nic->port_bytes_per_s, Provenance::sysfs};
  machine.links.push_back(std::move(link));
  machine.components.push_back(data_plane());
  return machine;
}

TopologyGraph parse_published_graph(std::string_view text, const std::string& node) {
  const auto origin = "the topology of " + node;
  auto graph = graph_from_json(text, origin);
  const auto refuse = [&](const std::string& what) {
    return Error(Errc::parse,
                 fmt::format("{}: {}; a node publishes its own machine only", origin, what));
  };
  if (graph.nodes.size() != 1 || graph.nodes.front().name != node)
    throw refuse(fmt::format("has {} nodes or another name", graph.nodes.size()));
  for (const auto& component : graph.components)
    if (component.node != node && component.name != kDataPlane)
      throw refuse(fmt::format("component '{}' is not on it", component.name));
  return graph;
}

TopologyGraph pool_graph(const ClusterSpec& cluster, std::vector<TopologyGraph> machines) {
  TopologyGraph graph;
  graph.name = cluster.name;
  for (const auto& node : cluster.nodes) {
    const auto machine = std::ranges::find_if(
        machines, [&](const TopologyGraph& each) { return each.find_node(node.name) != nullptr; });
    if (machine == machines.end()) {
      append(graph, graph_of_cluster({.name = {}, .nodes = {node}, .links = {}}));
      continue;
    }
    lend_devices(*machine, node);
    append(graph, std::move(*machine));
  }
  append(graph, [&] {
    // Only the links: the nodes are there.
    TopologyGraph links;
    links.links = graph_of_cluster(cluster).links;
    std::erase_if(links.links,
                  [](const TopologyLink& link) { return link.kind != LinkKind::network; });
    return links;
  }());
  return graph;
}

}  // namespace causeway
