// Goal:   topology.conf is a tree that Slurm takes, whatever the fabric is.
// Method: small fabrics by hand; then random ones, read back.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cstdlib>
#include <map>
#include <random>
#include <set>
#include <sstream>

#include "causeway/error.h"
#include "causeway/topology_export.h"

using namespace causeway;

namespace {

void add_switch(TopologyGraph& graph, const std::string& name) {
  Component component;
  component.name = name;
  component.kind = ComponentKind::network_switch;
  graph.components.push_back(component);
}

void add_node(TopologyGraph& graph, const std::string& name) {
  graph.nodes.emplace_back();
  graph.nodes.back().name = name;
}

void join(TopologyGraph& graph, const std::string& a, const std::string& b) {
  graph.links.push_back({.kind = LinkKind::network, .a = a, .b = b});
}

// The names of a host list: "a[1-3,5],b".
std::set<std::string> expand(const std::string& list) {
  std::set<std::string> names;
  std::size_t at = 0;
  while (at < list.size()) {
    const auto end = list.find_first_of(",[", at);
    const auto prefix = list.substr(at, end - at);
    if (end == std::string::npos || list[end] == ',') {
      REQUIRE(names.insert(prefix).second);
      at = end == std::string::npos ? list.size() : end + 1;
      continue;
    }
    const auto close = list.find(']', end);
    std::istringstream ranges(list.substr(end + 1, close - end - 1));
    for (std::string range; std::getline(ranges, range, ',');) {
      const auto dash = range.find('-');
      const auto first = range.substr(0, dash);
      const auto last = dash == std::string::npos ? first : range.substr(dash + 1);
      for (auto i = std::stoull(first); i <= std::stoull(last); ++i)
        REQUIRE(names.insert(prefix + fmt::format("{:0{}}", i, first.size())).second);
    }
    at = close + 2;
  }
  return names;
}

struct Line {
  std::set<std::string> nodes, switches;
};

std::map<std::string, Line> parsed(const std::string& text) {
  std::map<std::string, Line> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    if (line.starts_with("#")) continue;
    std::istringstream words(line);
    std::string name;
    Line parts;
    for (std::string word; words >> word;) {
      const auto value = word.substr(word.find('=') + 1);
      if (word.starts_with("SwitchName="))
        name = value;
      else if (word.starts_with("Nodes="))
        parts.nodes = expand(value);
      else if (word.starts_with("Switches="))
        parts.switches = expand(value);
      else
        FAIL("unknown key: ", word);
    }
    REQUIRE(lines.emplace(name, parts).second);
  }
  return lines;
}

}  // namespace

TEST_CASE("a spine, two leaves, nodes by their NICs and by their names") {
  TopologyGraph graph;
  for (const auto* name : {"spine", "leaf1", "leaf2"}) add_switch(graph, name);
  for (int i = 1; i <= 12; ++i) add_node(graph, fmt::format("node{}", i));
  for (int i = 1; i <= 12; ++i) {
    Component nic;
    nic.name = fmt::format("node{}/nic0", i);
    nic.kind = ComponentKind::nic;
    nic.node = fmt::format("node{}", i);
    graph.components.push_back(nic);
    join(graph, i % 2 == 0 ? nic.name : nic.node, i <= 10 ? "leaf1" : "leaf2");
  }
  join(graph, "leaf1", "spine");
  join(graph, "spine", "leaf2");
  CHECK(graph_to_slurm(graph) ==
        "# For TopologyPlugin=topology/tree\n"
        "SwitchName=leaf1 Nodes=node[1-10]\n"
        "SwitchName=leaf2 Nodes=node[11-12]\n"
        "SwitchName=spine Switches=leaf[1-2]\n");
}

TEST_CASE("leading zeros, gaps, single names, nodes of no switch") {
  TopologyGraph graph;
  add_switch(graph, "s0");
  for (const auto* name : {"gpu008", "gpu009", "gpu010", "gpu100", "login", "gpu7", "rack2-b"}) {
    add_node(graph, name);
    join(graph, "s0", name);
  }
  add_node(graph, "desk");
  CHECK(graph_to_slurm(graph) ==
        "# For TopologyPlugin=topology/tree\n"
        "SwitchName=s0 Nodes=gpu7,gpu[008-010,100],login,rack2-b\n"
        "SwitchName=switch-desk Nodes=desk\n");
  add_node(graph, "a,b");
  CHECK_THROWS_WITH_AS((void)graph_to_slurm(graph), doctest::Contains("\"a,b\" cannot be a name"),
                       Error);
  CHECK(graph_to_slurm({}) == "# For TopologyPlugin=topology/tree\n");
}

TEST_CASE("several rails and several spines become one tree") {
  TopologyGraph graph;
  for (const auto* name : {"spine1", "spine2", "railA", "railB", "lonely"}) add_switch(graph, name);
  for (const auto* node : {"n1", "n2"}) {
    add_node(graph, node);
    join(graph, node, "railA");
    join(graph, node, "railB");
  }
  add_node(graph, "n3");
  join(graph, "n3", "railB");
  for (const auto* rail : {"railA", "railB"})
    for (const auto* spine : {"spine1", "spine2"}) join(graph, rail, spine);
  CHECK(graph_to_slurm(graph) ==
        "# For TopologyPlugin=topology/tree\n"
        "SwitchName=railA Nodes=n[1-2]\n"
        "SwitchName=railB Nodes=n3\n"
        "SwitchName=spine1 Switches=railA,railB\n");
}

TEST_CASE("random fabrics: each name once, every node there, no circles") {
  const char* text = std::getenv("CAUSEWAY_TEST_SEED");
  const auto seed = text != nullptr ? std::strtoull(text, nullptr, 10) : std::random_device()();
  MESSAGE("CAUSEWAY_TEST_SEED=" << seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 300; ++round) {
    TopologyGraph graph;
    const auto switches = 1 + random() % 8;
    const auto nodes = random() % 30;
    for (std::size_t i = 0; i < switches; ++i) add_switch(graph, fmt::format("s{}", i));
    for (std::size_t i = 0; i < nodes; ++i)
      add_node(graph, random() % 2 == 0 ? fmt::format("n{}", i) : fmt::format("n{:03}", i));
    const auto any_switch = [&] { return fmt::format("s{}", random() % switches); };
    for (auto links = random() % 60; links-- > 0;)
      join(graph, any_switch(),
           nodes > 0 && random() % 2 == 0 ? graph.nodes[random() % nodes].name : any_switch());
    const auto lines = parsed(graph_to_slurm(graph));
    std::set<std::string> seen_nodes;
    std::set<std::string> seen_switches;
    for (const auto& [name, line] : lines) {
      for (const auto& node : line.nodes) CHECK(seen_nodes.insert(node).second);
      for (const auto& each : line.switches) {
        CHECK(seen_switches.insert(each).second);
        CHECK(lines.contains(each));
      }
    }
    CHECK(seen_nodes.size() == nodes);
    // A forest with one parent each has no circle if its roots reach all.
    std::size_t reached = 0;
    std::vector<std::string> open;
    for (const auto& [name, line] : lines)
      if (!seen_switches.contains(name)) open.push_back(name);
    while (!open.empty()) {
      const auto name = open.back();
      open.pop_back();
      ++reached;
      const auto& below = lines.at(name).switches;
      open.insert(open.end(), below.begin(), below.end());
    }
    CHECK(reached == lines.size());
  }
}
