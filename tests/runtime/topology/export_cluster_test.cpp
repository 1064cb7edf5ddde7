// Goal:   the cluster file of a graph says what the graph knows, and is one that is accepted.
// Method: small graphs by hand, one per rule and refusal; then random graphs, whose widest ways are
//         found again by trying every path. Replay a failure with CAUSEWAY_TEST_SEED=<seed>.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cstdlib>
#include <functional>
#include <map>
#include <random>
#include <set>
#include <string>

#include "causeway/gpu_catalogue.h"
#include "causeway/topology_export.h"
#include "random_graph.h"

using causeway::ClusterSpec;
using causeway::Component;
using causeway::ComponentKind;
using causeway::Errc;
using causeway::Error;
using causeway::Figure;
using causeway::graph_to_cluster;
using causeway::LinkKind;
using causeway::Provenance;
using causeway::TopologyGraph;
using causeway::TopologyLink;

static Component component(const std::string& node, const std::string& name, ComponentKind kind) {
  Component result;
  result.node = node;
  result.name = node.empty() ? name : node + "/" + name;
  result.kind = kind;
  return result;
}

static Component gpu(const std::string& node, const std::string& name, const std::string& model) {
  auto result = component(node, name, ComponentKind::gpu);
  result.model = model;
  return result;
}

static void add_node(TopologyGraph& graph, const std::string& name) {
  graph.nodes.emplace_back().name = name;
  graph.components.push_back(gpu(name, "gpu0", "l40s"));
}

static TopologyLink& add_link(TopologyGraph& graph, const std::string& a, const std::string& b,
                              std::optional<double> rate, std::optional<double> latency = {}) {
  auto& link = graph.links.emplace_back(TopologyLink{LinkKind::network, a, b});
  if (rate) link.effective_bytes_per_s = Figure{*rate, Provenance::import};
  if (latency) link.latency_s = Figure{*latency, Provenance::import};
  return link;
}

static ClusterSpec accepted(const TopologyGraph& graph) {
  auto cluster = graph_to_cluster(graph);
  CHECK(ClusterSpec::from_yaml(cluster.to_yaml(), "c.yaml") == cluster);
  return cluster;
}

static std::string refused(const TopologyGraph& graph) {
  try {
    (void)graph_to_cluster(graph);
  } catch (const Error& error) {
    CHECK(error.code() == Errc::invalid_argument);
    return error.what();
  }
  return "accepted";
}

static bool has(const std::string& text, const std::string& part) {
  const bool found = text.find(part) != std::string::npos;
  if (!found) MESSAGE(text);
  return found;
}

TEST_CASE("devices have the catalogue's capacity unless theirs is known, and keep their order") {
  TopologyGraph graph;
  graph.name = "two \"cards\"";
  graph.nodes.emplace_back().name = "desktop";
  graph.components = {gpu("desktop", "gpu1", "rtx-4090"), gpu("desktop", "gpu0", "rtx-5090"),
                      component("desktop", "host0", ComponentKind::host),
                      component("desktop", "host1", ComponentKind::host),
                      component("desktop", "cpu0", ComponentKind::cpu)};
  graph.components[0].capacity_bytes = 25'757'220'864 + 5;
  graph.components[3].capacity_bytes = std::uint64_t{64} << 30;
  const auto cluster = accepted(graph);
  CHECK(cluster.name == "two \"cards\"");
  REQUIRE(cluster.nodes.size() == 1);
  const auto& devices = cluster.nodes[0].devices;
  REQUIRE(devices.size() == 3);  // host0's size is not known.
  CHECK(devices[0].model == "rtx-5090");
  CHECK(devices[0].capacity_bytes == 32'000'000'000 / 65536 * 65536);
  CHECK(devices[1].model == "rtx-4090");
  CHECK(devices[1].capacity_bytes == 25'757'220'864);
  CHECK(devices[2].name.to_string() == "desktop/host0");
  CHECK(devices[2].capacity_bytes == std::uint64_t{64} << 30);
  CHECK(cluster.links.empty());
}

TEST_CASE("what a cluster file cannot say is refused with what to do") {
  TopologyGraph graph;
  graph.name = "g";
  CHECK(has(refused(graph), "has no node"));
  graph.nodes.emplace_back().name = "n";
  CHECK(has(refused(graph), "node n has neither a GPU nor host memory of known size; give it"));
  graph.components.push_back(gpu("n", "gpu0", ""));
  graph.components[0].title = "Tesla <P4>";
  CHECK(has(refused(graph), "GPU n/gpu0 ('Tesla <P4>') is no model of the catalogue; name the "));
  graph.components[0].model = "l40s";
  CHECK(refused(graph) == "accepted");
  graph.components[0].capacity_bytes = 65535;
  CHECK(has(refused(graph), "n/gpu0 has 65535 bytes of memory"));
  graph.components[0].capacity_bytes = (std::uint64_t{1} << 50) + 65536;
  CHECK(has(refused(graph), "n/gpu0 has 1125899906908160 bytes of memory"));
  graph.components[0].capacity_bytes = std::uint64_t{1} << 50;
  CHECK(refused(graph) == "accepted");
  graph.nodes[0].name = "N";
  CHECK(has(refused(graph), "'N' cannot name a node"));
  graph = {};
  for (int i = 0; i < 1025; ++i) add_node(graph, fmt::format("n{}", i));
  CHECK(has(refused(graph), "1025 nodes; a cluster file takes 1024"));
}

TEST_CASE("nodes are joined by the widest way through NICs and switches") {
  TopologyGraph graph;
  for (const char* name : {"a", "b", "c", "d"}) add_node(graph, name);
  graph.components.push_back(component("a", "nic0", ComponentKind::nic));
  graph.components.push_back(component("a", "nic1", ComponentKind::nic));
  graph.components.push_back(component("b", "nic0", ComponentKind::nic));
  graph.components.push_back(component("", "leaf", ComponentKind::network_switch));
  graph.components.push_back(component("", "spine", ComponentKind::network_switch));
  add_link(graph, "a/nic0", "leaf", 50e9, 1e-6);
  add_link(graph, "a/nic1", "spine", 10e9, 1e-6);
  add_link(graph, "leaf", "spine", 40e9, 2e-6);
  add_link(graph, "spine", "b/nic0", 25e9, 1e-6);
  add_link(graph, "b", "c", 1e9);  // By whichever NIC; c is behind b for a: not joined to it.
  const auto cluster = accepted(graph);
  REQUIRE(cluster.links.size() == 2);
  CHECK(cluster.links[0].node_a == "a");
  CHECK(cluster.links[0].node_b == "b");
  CHECK(cluster.links[0].bandwidth_bytes_per_s == 25e9);
  CHECK(cluster.links[0].latency_s == doctest::Approx(4e-6));
  CHECK(cluster.links[1].node_a == "b");
  CHECK(cluster.links[1].node_b == "c");
  CHECK(cluster.links[1].latency_s == 10e-6);  // Not known: nominal.

  SUBCASE("a port narrows its link") {
    graph.components[4].port_bytes_per_s = 12.5e9;
    CHECK(accepted(graph).links[0].bandwidth_bytes_per_s == 12.5e9);
  }
  SUBCASE("the other way is taken where the widest is down") {
    graph.links[0].state = causeway::LinkState::down;
    CHECK(accepted(graph).links[0].bandwidth_bytes_per_s == 10e9);
    graph.components[5].port_up = false;
    CHECK(accepted(graph).links.size() == 1);
  }
  SUBCASE("a port gives the rate where the link has none; else it is asked for") {
    graph.links[3].effective_bytes_per_s.reset();
    CHECK(has(refused(graph), "the bandwidth of link spine-b/nic0 is not known"));
    graph.components[6].port_bytes_per_s = 5e9;
    CHECK(accepted(graph).links[0].bandwidth_bytes_per_s == 5e9);
    graph.links[3].line_bytes_per_s = Figure{4e9, Provenance::spec};
    CHECK(accepted(graph).links[0].bandwidth_bytes_per_s == 4e9);
  }
  SUBCASE("rates that no cluster file takes") {
    graph.links[4].effective_bytes_per_s = Figure{999, Provenance::spec};
    CHECK(has(refused(graph), "b and c are joined by 999 B/s"));
  }
}

TEST_CASE("more pairs of nodes than a cluster file takes become a tree of the widest ways") {
  TopologyGraph graph;
  graph.components.push_back(component("", "leaf", ComponentKind::network_switch));
  for (int i = 0; i < 1024; ++i) {
    add_node(graph, fmt::format("n{}", i));
    add_link(graph, fmt::format("n{}", i), "leaf", i % 2 == 0 ? 50e9 : 25e9, 1e-6);
  }
  const auto cluster = accepted(graph);
  REQUIRE(cluster.links.size() == 1023);
  std::size_t wide = 0;
  for (const auto& link : cluster.links) {
    CHECK(link.node_a == "n0");  // One hop from it to all.
    if (link.bandwidth_bytes_per_s == 50e9) ++wide;
  }
  CHECK(wide == 511);
}

// The widest way from node to node over switches, by trying every path without a loop.
static double widest(const TopologyGraph& graph, const std::string& from, const std::string& to) {
  const auto at = [&](const std::string& end) {
    const auto* found = graph.find(end);
    return found == nullptr || found->kind == ComponentKind::network_switch ? end : found->node;
  };
  double best = 0;
  std::set<std::string> seen{from};
  const std::function<void(const std::string&, double)> walk = [&](const std::string& place,
                                                                   double width) {
    if (place == to) best = std::max(best, width);
    if (graph.find_node(place) != nullptr && place != from) return;
    for (const auto& link : graph.links) {
      if (link.kind != LinkKind::network || link.state == causeway::LinkState::down) continue;
      double rate = link.effective_bytes_per_s ? link.effective_bytes_per_s->value
                                               : link.line_bytes_per_s->value;
      bool up = true;
      for (const auto& end : {link.a, link.b})
        if (const auto* nic = graph.find(end); nic && nic->kind == ComponentKind::nic) {
          if (nic->port_up == false) up = false;
          rate = std::min(rate, nic->port_bytes_per_s.value_or(rate));
        }
      for (const auto& [near, far] :
           {std::pair{at(link.a), at(link.b)}, std::pair{at(link.b), at(link.a)}})
        if (up && near == place && seen.insert(far).second) {
          walk(far, std::min(width, rate));
          seen.erase(far);
        }
    }
  };
  walk(from, 1e300);
  return best;
}

static void run_random(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  auto graph = causeway::test::random_graph(random);
  INFO("seed=", seed);
  for (auto& link : graph.links) {
    const auto rate = [&] { return Figure{1e9 * static_cast<double>(1 + random() % 9), {}}; };
    if (link.effective_bytes_per_s || !link.line_bytes_per_s) link.effective_bytes_per_s = rate();
    if (link.line_bytes_per_s) link.line_bytes_per_s = rate();
    if (link.latency_s) link.latency_s->value = 1e-6;
  }
  for (auto& one : graph.components) {
    if (one.port_bytes_per_s) one.port_bytes_per_s = 1e9 * static_cast<double>(1 + random() % 9);
    if (one.kind == ComponentKind::gpu && one.capacity_bytes)
      one.capacity_bytes = 65536 + *one.capacity_bytes % (std::uint64_t{1} << 49);
  }
  if (graph.nodes.empty()) return;
  const auto cluster = accepted(graph);
  REQUIRE(cluster.nodes.size() == graph.nodes.size());
  std::map<std::pair<std::string, std::string>, double> rates;
  for (const auto& link : cluster.links)
    rates[{link.node_a, link.node_b}] = link.bandwidth_bytes_per_s;
  for (std::size_t a = 0; a < graph.nodes.size(); ++a)
    for (std::size_t b = a + 1; b < graph.nodes.size(); ++b)
      REQUIRE(rates[{graph.nodes[a].name, graph.nodes[b].name}] ==
              widest(graph, graph.nodes[a].name, graph.nodes[b].name));
}

TEST_CASE("clusters of random graphs are accepted and as wide as the graphs") {
  if (const char* seed = std::getenv("CAUSEWAY_TEST_SEED")) return run_random(std::stoull(seed));
  for (std::uint64_t seed = 1; seed <= 400; ++seed) run_random(seed);
}
