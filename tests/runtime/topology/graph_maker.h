// Short ways to write a topology graph down in a test.
#pragma once

#include <string>
#include <utility>

#include "causeway/topology_graph.h"

class GraphMaker {
 public:
  explicit GraphMaker(std::string name = "made") { graph_.name = std::move(name); }

  // Further components are on this node.
  GraphMaker& node(const std::string& name) {
    graph_.nodes.push_back({});
    graph_.nodes.back().name = name;
    graph_.nodes.back().nvlinks_known = true;
    node_ = name;
    return *this;
  }
  causeway::TopologyNode& last_node() { return graph_.nodes.back(); }

  // "gpu0", "host1", "cpu0", "nic0", "bridge3", "nvswitch0": the kind is in the name.
  causeway::Component& add(const std::string& local) {
    using causeway::ComponentKind;
    causeway::Component component;
    component.name = node_ + "/" + local;
    component.node = node_;
    const auto kind = local.substr(0, local.find_first_of("0123456789"));
    component.kind = *causeway::parse_name<ComponentKind>(kind);
    if (component.kind == ComponentKind::host) component.model = "host";
    graph_.components.push_back(std::move(component));
    return graph_.components.back();
  }
  GraphMaker& network_switch(const std::string& name) {
    causeway::Component component;
    component.name = name;
    component.kind = causeway::ComponentKind::network_switch;
    graph_.components.push_back(std::move(component));
    return *this;
  }

  // Ends are names on the last node ("gpu0"), or anything with a slash or of no node as it stands.
  causeway::TopologyLink& link(causeway::LinkKind kind, const std::string& a,
                               const std::string& b) {
    causeway::TopologyLink link{kind, full(a), full(b)};
    graph_.links.push_back(std::move(link));
    return graph_.links.back();
  }
  GraphMaker& pcie(const std::string& a, const std::string& b, std::uint32_t generation,
                   std::uint32_t width = 16) {
    auto& made = link(causeway::LinkKind::pcie, a, b);
    made.provenance = causeway::Provenance::sysfs;
    made.pcie = {generation, width};
    made.pcie_max = made.pcie;
    return *this;
  }
  GraphMaker& nvlink(const std::string& a, const std::string& b, std::uint32_t count) {
    auto& made = link(causeway::LinkKind::nvlink, a, b);
    made.provenance = causeway::Provenance::nvml;
    made.count = count;
    return *this;
  }
  GraphMaker& network(const std::string& a, const std::string& b, double bytes_per_s,
                      double latency_s = 1e-6) {
    auto& made = link(causeway::LinkKind::network, a, b);
    made.effective_bytes_per_s = causeway::Figure{bytes_per_s, causeway::Provenance::import};
    made.latency_s = causeway::Figure{latency_s, causeway::Provenance::import};
    return *this;
  }
  causeway::Pair& pair(const std::string& from, const std::string& to) {
    causeway::Pair pair;
    pair.from = full(from);
    pair.to = full(to);
    graph_.pairs.push_back(std::move(pair));
    return graph_.pairs.back();
  }
  // What the driver answers for both directions, reads and writes.
  GraphMaker& granted(const std::string& a, const std::string& b, causeway::PeerStatus status) {
    for (const auto& [from, to] : {std::pair(a, b), std::pair(b, a)}) {
      auto& made = pair(from, to);
      made.granted_read = status;
      made.granted_write = status;
    }
    return *this;
  }

  [[nodiscard]] causeway::TopologyGraph& graph() { return graph_; }

 private:
  [[nodiscard]] std::string full(const std::string& name) const {
    if (name.find('/') != std::string::npos || graph_.find(name) || graph_.find_node(name))
      return name;
    return node_ + "/" + name;
  }

  causeway::TopologyGraph graph_;
  std::string node_;
};
