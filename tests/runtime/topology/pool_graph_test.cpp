// Goal:   a pool's topology is what its nodes found, with what is lent; nobody speaks for another.
// Method: machines and clusters by hand.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "runtime/topology/pool_graph.h"

#include <doctest/doctest.h>

#include "causeway/topology.h"
#include "causeway/topology_export.h"
#include "runtime/topology/link_rates.h"
#include "tests/error_of.h"
#include "tests/runtime/topology/graph_maker.h"

using namespace causeway;

// A CPU, its memory, and one NIC named `interface`.
static GraphMaker server(const std::string& node, const std::string& interface) {
  GraphMaker maker(node);
  maker.node(node);
  maker.add("cpu0").numa = 0;
  auto& host = maker.add("host0");
  host.numa = 0;
  host.capacity_bytes = std::uint64_t{64} << 30;
  maker.link(LinkKind::memory, "host0", "cpu0").provenance = Provenance::sysfs;
  auto& nic = maker.add("nic0");
  nic.title = interface;
  nic.port_bytes_per_s = 3.125e9;
  maker.pcie("nic0", "cpu0", 4, 8);
  fill_rates(maker.graph());
  return maker;
}

static ClusterSpec lending(const std::string& node, std::uint64_t bytes) {
  ClusterSpec cluster;
  cluster.name = "p";
  cluster.nodes.push_back({node, {{DeviceName::parse(node + "/host0"), "host", bytes}}});
  return cluster;
}

TEST_CASE("what a node found is in the pool with what it lends") {
  auto cluster = lending("a", 1 << 20);
  cluster.nodes.push_back({"b",
                           {{DeviceName::parse("b/host0"), "host", 2 << 20},
                            {DeviceName::parse("b/host1"), "host", 3 << 20}}});
  cluster.links.push_back({"a", "b", 1e9, 1e-3});
  const auto graph = pool_graph(cluster, {server("b", "eth0").graph()});
  CHECK(graph.name == "p");
  REQUIRE(graph.find("a/host0") != nullptr);
  CHECK(graph.find("a/host0")->capacity_bytes == 1 << 20);
  CHECK(graph.find("b/host0")->capacity_bytes == 2 << 20);
  CHECK(graph.find("b/nic0") != nullptr);
  CHECK(graph.find("b/host1") != nullptr);  // Lent, though the machine did not find it.
  const Topology topology(graph);
  const auto access = topology.access(DeviceName::parse("a/host0"), DeviceName::parse("b/host0"));
  REQUIRE(access);
  CHECK(access->rate.bandwidth_bytes_per_s == 1e9);
}

TEST_CASE("without a machine the pool is what the cluster file says") {
  auto cluster = lending("a", 1 << 20);
  CHECK(pool_graph(cluster, {}) == graph_of_cluster(cluster));
}

TEST_CASE("nodes whose data planes have NICs of known rates are joined by them") {
  // 127.0.0.1 is on every machine, and its interface is lo.
  const auto a = published_graph(server("a", "lo").graph(), "127.0.0.1");
  const auto b = published_graph(server("b", "lo").graph(), "127.0.0.1");
  auto cluster = lending("a", 1 << 20);
  cluster.nodes.push_back(lending("b", 1 << 20).nodes.front());
  const Topology topology(pool_graph(cluster, {a, b}));
  const auto route = topology.route(DeviceName::parse("a/host0"), DeviceName::parse("b/host0"));
  REQUIRE(route);
  CHECK(route->bandwidth_bytes_per_s == Figure{3.125e9, Provenance::sysfs});
  // Another interface, an address of no interface, a port of unknown rate: not joined.
  CHECK(published_graph(server("a", "eth9").graph(), "127.0.0.1") == server("a", "eth9").graph());
  CHECK(published_graph(server("a", "lo").graph(), "192.0.2.1") == server("a", "lo").graph());
  auto unknown = server("a", "lo");
  unknown.graph().components.back().port_bytes_per_s.reset();
  CHECK(published_graph(unknown.graph(), "127.0.0.1") == unknown.graph());
}

TEST_CASE("a node speaks for itself only") {
  const auto text = graph_to_json(server("a", "eth0").graph());
  CHECK(parse_published_graph(text, "a") == server("a", "eth0").graph());
  CHECK(test::code_of([&] { (void)parse_published_graph(text, "b"); }) == Errc::parse);
  auto two = server("a", "eth0");
  two.node("b");
  two.add("gpu0");
  CHECK(test::code_of([&] { (void)parse_published_graph(graph_to_json(two.graph()), "a"); }) ==
        Errc::parse);
  auto foreign = server("a", "eth0");
  foreign.network_switch("b/gpu0");
  CHECK(test::code_of([&] { (void)parse_published_graph(graph_to_json(foreign.graph()), "a"); }) ==
        Errc::parse);
  CHECK(test::code_of([&] { (void)parse_published_graph("{}", "a"); }) == Errc::parse);
}
