// Goal:   islands and the order of access follow from what GPUs and links are; nothing is invented
//         where the file says nothing.
// Method: the machines of the design by hand; then random clusters against plain models:
// brute-force
//         widest paths, and properties that every topology has. Replay with CAUSEWAY_TEST_SEED.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "causeway/topology.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdlib>
#include <map>
#include <random>
#include <set>
#include <string>

#include "causeway/gpu_catalogue.h"

using causeway::ClusterSpec;
using causeway::DeviceKind;
using causeway::DeviceName;
using causeway::Errc;
using causeway::Error;
using causeway::LinkKind;
using causeway::Provenance;
using causeway::Tier;
using causeway::Topology;

static Topology make(const std::string& nodes, const std::string& links = "[]") {
  return Topology::from_cluster(
      ClusterSpec::from_yaml("{name: t, nodes: [" + nodes + "], links: " + links + "}", "test"));
}

static DeviceName device(const char* name) { return DeviceName::parse(name); }

static std::string ranking(const Topology& topology, const char* from) {
  std::string names;
  for (const auto& entry : topology.rank(device(from))) names += entry.device.to_string() + ' ';
  return names;
}

static std::string island_names(const Topology& topology) {
  std::string names;
  for (const auto& island : topology.islands())
    names += island.name + ':' + std::to_string(island.devices.size()) + ' ';
  return names;
}

constexpr const char* kDesktop =
    "{name: desktop, devices: [{gpu: rtx-5090, count: 2}, {host: 64 GB}]}";
constexpr const char* kHgx = "{name: hgx, devices: [{gpu: h100-sxm, count: 8}, {host: 1 TB}]}";

TEST_CASE("what is published of a card's host link") {
  const std::pair<const char*, double> known[] = {
      {"rtx-3090", 28.8e9},  {"rtx-4090", 28.8e9}, {"rtx-5090", 57.6e9},  {"l40s", 28.8e9},
      {"a100-pcie", 28.8e9}, {"a100-sxm", 28.8e9}, {"h100-pcie", 57.6e9}, {"h100-sxm", 57.6e9}};
  for (const auto& [name, rate] : known) {
    INFO(name);
    const auto* const model = causeway::find_gpu_model(name);
    REQUIRE(model != nullptr);
    CHECK(causeway::published_host_link_bytes_per_s(*model) ==
          doctest::Approx(rate).epsilon(0.002));
  }
  for (const auto& model : causeway::gpu_models()) {  // Above what any copy gets, below the line.
    const double line = 2e9 * 16 * (1 << (model.pcie_generation - 4));
    CHECK(causeway::published_host_link_bytes_per_s(model) < line);
    CHECK(causeway::published_host_link_bytes_per_s(model) > 0.85 * line);
  }
}

TEST_CASE("on a 5090 host memory comes before another 5090, which it cannot see") {
  const auto topology = make(kDesktop);
  CHECK(island_names(topology) == "desktop/gpu0:1 desktop/gpu1:1 ");
  CHECK(topology.islands()[0].basis == "policy: GeForce refuses peer access");
  CHECK(ranking(topology, "desktop/gpu0") == "desktop/gpu0 desktop/host0 desktop/gpu1 ");
  const auto rank = topology.rank(device("desktop/gpu0"));
  CHECK(rank[0].cost.tier == Tier::local);
  CHECK(rank[0].cost.rate.bandwidth_bytes_per_s == 1792e9);
  CHECK(rank[1].cost.tier == Tier::host);
  CHECK(rank[1].cost.rate.bandwidth_bytes_per_s == 48e9);
  CHECK(rank[1].cost.path == "PCIe to host");
  CHECK(rank[2].cost.tier == Tier::host);
  CHECK(rank[2].cost.rate.bandwidth_bytes_per_s == 24e9);
  CHECK(rank[2].cost.path == "PCIe, staged in host memory, PCIe");
}

TEST_CASE("on an H100 a peer comes before the host") {
  const auto topology = make(kHgx);
  CHECK(island_names(topology) == "hgx/nvlink0:8 ");
  CHECK(topology.islands()[0].basis == "spec: NVSwitch");
  const auto rank = topology.rank(device("hgx/gpu3"));
  REQUIRE(rank.size() == 9);
  CHECK(rank[0].device.to_string() == "hgx/gpu3");
  for (std::size_t i = 1; i < 8; ++i) {
    CHECK(rank[i].cost.tier == Tier::island_peer);
    CHECK(rank[i].cost.rate.bandwidth_bytes_per_s == 371e9);
    CHECK(rank[i].cost.rate.provenance == Provenance::spec);
  }
  CHECK(rank[8].device.to_string() == "hgx/host0");
}

TEST_CASE("peer access over PCIe makes an island, a single GPU is one alone") {
  const auto topology = make(
      "{name: a, devices: [{gpu: l40s, count: 2}, {gpu: h100-sxm}, {gpu: rtx-3090, count: 2}, "
      "{gpu: a100-pcie, count: 2}]}");
  CHECK(island_names(topology) == "a/pcie0:2 a/gpu2:1 a/gpu3:1 a/gpu4:1 a/pcie1:2 ");
  const auto peer = topology.access(device("a/gpu0"), device("a/gpu1"));
  REQUIRE(peer);
  CHECK(peer->tier == Tier::island_peer);
  CHECK(peer->rate.bandwidth_bytes_per_s == 24e9);
  // The 3090s may have a bridge; nothing says so.
  CHECK(topology.islands()[2].basis.find("bridge") != std::string::npos);
  CHECK(topology.access(device("a/gpu3"), device("a/gpu4"))->tier == Tier::host);
  // Different models: staged at half of the slower card's PCIe, with no host memory declared.
  CHECK(topology.access(device("a/gpu0"), device("a/gpu2"))->rate.bandwidth_bytes_per_s == 12e9);
}

TEST_CASE("a remote device costs the narrowest leg and all latencies") {
  const auto topology = make(std::string(kDesktop) + ", " + kHgx,
                             "[{between: [hgx, desktop], bandwidth: 1.25 GB/s, latency: 200 us}]");
  const auto far = topology.access(device("desktop/gpu0"), device("hgx/gpu5"));
  REQUIRE(far);
  CHECK(far->tier == Tier::remote);
  CHECK(far->rate.bandwidth_bytes_per_s == 1.25e9);
  CHECK(far->rate.latency_s == doctest::Approx(202e-6));
  CHECK(far->path == "PCIe, network, PCIe");
  CHECK(topology.access(device("desktop/host0"), device("hgx/host0"))->path == "network");
  const auto wide = make(std::string(kDesktop) + ", " + kHgx,
                         "[{between: [hgx, desktop], bandwidth: 100 GB/s, latency: 2 us}]");
  CHECK(wide.access(device("desktop/gpu0"), device("hgx/gpu5"))->rate.bandwidth_bytes_per_s ==
        48e9);
}

TEST_CASE("without a link there is a path over other nodes, or none") {
  const std::string nodes =
      "{name: a, devices: [{host: 1 GB}]}, {name: b, devices: [{host: 1 GB}]}, "
      "{name: c, devices: [{host: 1 GB}]}, {name: d, devices: [{host: 1 GB}]}";
  const auto topology = make(nodes,
                             "[{between: [a, b], bandwidth: 1 GB/s, latency: 1 ms}, "
                             "{between: [b, c], bandwidth: 3 GB/s, latency: 2 ms}, "
                             "{between: [a, c], bandwidth: 2 GB/s, latency: 5 ms}]");
  // a - b has a link of its own, and that is taken, though the way over c is wider.
  CHECK(topology.access(device("a/host0"), device("b/host0"))->rate.bandwidth_bytes_per_s == 1e9);
  CHECK_FALSE(topology.access(device("a/host0"), device("d/host0")));
  CHECK(ranking(topology, "a/host0") == "a/host0 c/host0 b/host0 ");
  const auto line = make(nodes,
                         "[{between: [a, b], bandwidth: 1 GB/s, latency: 1 ms}, "
                         "{between: [b, c], bandwidth: 3 GB/s, latency: 2 ms}]");
  const auto far = line.access(device("a/host0"), device("c/host0"));
  REQUIRE(far);
  CHECK(far->rate.bandwidth_bytes_per_s == 1e9);
  CHECK(far->rate.latency_s == doctest::Approx(3e-3));
  CHECK(far->path == "network (2 hops)");
}

TEST_CASE("two NUMA nodes are joined by the socket link") {
  const auto topology = make("{name: a, devices: [{host: 1 GB, count: 2}, {gpu: l40s}]}");
  const auto access = topology.access(device("a/host0"), device("a/host1"));
  REQUIRE(access);
  CHECK(access->tier == Tier::host);
  CHECK(access->path == "between NUMA nodes");
  CHECK(topology.access(device("a/host1"), device("a/gpu0"))->path == "PCIe from host");
  CHECK(std::ranges::count(topology.graph().links, LinkKind::socket,
                           &causeway::TopologyLink::kind) == 1);
}

TEST_CASE("an unknown device is not_found, an unknown model or a repeated device is refused") {
  auto topology = make(kDesktop);
  const auto code = [](auto&& call) {
    try {
      call();
    } catch (const Error& error) {
      return error.code();
    }
    return Errc::internal;
  };
  const auto nowhere = device("desktop/gpu2");
  const auto here = device("desktop/gpu0");
  CHECK(topology.find(nowhere) == nullptr);
  CHECK(code([&] { (void)topology.access(here, nowhere); }) == Errc::not_found);
  CHECK(code([&] { (void)topology.access(nowhere, here); }) == Errc::not_found);
  CHECK(code([&] { (void)topology.rank(nowhere); }) == Errc::not_found);
  CHECK(code([&] { topology.set_available(nowhere, 1); }) == Errc::not_found);
  topology.set_available(here, 5);
  CHECK(topology.find(here)->available_bytes == 5);
  CHECK(topology.find(here)->capacity_bytes > 5);
  ClusterSpec odd{"x", 1.0, {{"a", {{device("a/gpu0"), "voodoo2", 65536}}}}, {}};
  CHECK(code([&] { (void)Topology::from_cluster(odd); }) == Errc::invalid_argument);
  odd.nodes[0].devices = {{device("a/gpu0"), "l40s", 65536}, {device("a/gpu0"), "l40s", 65536}};
  CHECK(code([&] { (void)Topology::from_cluster(odd); }) == Errc::invalid_argument);
  odd.nodes[0].devices.pop_back();
  odd.links.push_back({"a", "b", 1e9, 0});
  CHECK(code([&] { (void)Topology::from_cluster(odd); }) == Errc::invalid_argument);
}

TEST_CASE("the JSON has every device, link and island") {
  auto topology = make(std::string(kDesktop) + ", " + kHgx,
                       "[{between: [hgx, desktop], bandwidth: 1.25 GB/s, latency: 200 us}]");
  topology.set_available(device("desktop/gpu1"), 1234567890123456789);
  const auto json = boost::json::parse(topology.to_json());
  CHECK(json.at("name") == "t");
  CHECK(json.at("nodes").as_array().size() == 2);
  CHECK(json.at("devices").as_array().size() == 12);
  CHECK(json.at("devices").at(1).at("name") == "desktop/gpu1");
  CHECK(json.at("devices").at(1).at("kind") == "gpu");
  CHECK(json.at("devices").at(1).at("capacity_bytes").to_number<std::uint64_t>() ==
        topology.find(device("desktop/gpu1"))->capacity_bytes);
  CHECK(json.at("devices").at(1).at("available_bytes") == 1234567890123456789);
  CHECK(json.at("graph").at("links").as_array().size() == topology.graph().links.size());
  CHECK(json.at("islands").as_array().size() == 3);
  CHECK(json.at("islands").at(2).at("devices").as_array().size() == 8);
}

static ClusterSpec random_cluster(std::mt19937_64& random) {
  ClusterSpec cluster;
  cluster.name = "random";
  const auto models = causeway::gpu_models();
  for (std::uint64_t n = 0, nodes = 1 + random() % 6; n < nodes; ++n) {
    causeway::NodeSpec node{"n" + std::to_string(n), {}};
    std::uint32_t next[2] = {0, 0};
    for (std::uint64_t d = 0, devices = 1 + random() % 5; d < devices; ++d) {
      const auto kind = random() % 4 == 0 ? DeviceKind::host : DeviceKind::gpu;
      const auto model =
          kind == DeviceKind::host ? "host" : models[random() % 3 * 5 % models.size()].name;
      node.devices.push_back(
          {{node.name, kind, next[static_cast<int>(kind)]++}, std::string(model), 1 << 20});
    }
    cluster.nodes.push_back(std::move(node));
  }
  for (std::size_t a = 0; a < cluster.nodes.size(); ++a)
    for (std::size_t b = a + 1; b < cluster.nodes.size(); ++b)
      if (random() % 3 == 0)
        cluster.links.push_back({cluster.nodes[a].name, cluster.nodes[b].name,
                                 1e8 * static_cast<double>(1 + random() % 9), 1e-4});
  return cluster;
}

// Bandwidth between nodes the slow way: the declared link, else Floyd and Warshall's widest path.
static std::map<std::pair<std::string, std::string>, double> widest_paths(
    const ClusterSpec& cluster) {
  std::map<std::pair<std::string, std::string>, double> direct;
  for (const auto& link : cluster.links) {
    direct[{link.node_a, link.node_b}] = link.bandwidth_bytes_per_s;
    direct[{link.node_b, link.node_a}] = link.bandwidth_bytes_per_s;
  }
  auto wide = direct;
  for (const auto& via : cluster.nodes)
    for (const auto& a : cluster.nodes)
      for (const auto& b : cluster.nodes) {
        if (!wide.contains({a.name, via.name}) || !wide.contains({via.name, b.name})) continue;
        const auto through = std::min(wide[{a.name, via.name}], wide[{via.name, b.name}]);
        auto& best = wide[{a.name, b.name}];
        best = std::max(best, through);
      }
  for (const auto& [pair, bandwidth] : direct) wide[pair] = bandwidth;
  return wide;
}

static void run_properties(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto cluster = random_cluster(random);
  const auto topology = Topology::from_cluster(cluster);
  const auto wide = widest_paths(cluster);
  INFO("seed=", seed, "\n", cluster.to_yaml());
  std::multiset<DeviceName> members;
  std::map<DeviceName, std::string> island_of;
  for (const auto& island : topology.islands())
    for (const auto& member : island.devices) {
      members.insert(member);
      island_of[member] = island.name;
    }
  std::multiset<DeviceName> gpus;
  for (const auto& spec : topology.devices())
    if (spec.name.kind == DeviceKind::gpu) gpus.insert(spec.name);
  REQUIRE((members == gpus));  // Islands part the GPUs: each is in one.
  for (const auto& from : topology.devices()) {
    const auto rank = topology.rank(from.name);
    REQUIRE((rank.front().device == from.name));
    std::set<DeviceName> ranked;
    for (std::size_t i = 0; i < rank.size(); ++i) {
      ranked.insert(rank[i].device);
      if (i > 1)
        REQUIRE(rank[i - 1].cost.rate.bandwidth_bytes_per_s >=
                rank[i].cost.rate.bandwidth_bytes_per_s);
    }
    REQUIRE(ranked.size() == rank.size());
    for (const auto& to : topology.devices()) {
      const auto there = topology.access(from.name, to.name);
      const auto back = topology.access(to.name, from.name);
      REQUIRE(there.has_value() == ranked.contains(to.name));
      REQUIRE(there.has_value() == back.has_value());
      if (!there) continue;
      REQUIRE(there->rate.bandwidth_bytes_per_s == back->rate.bandwidth_bytes_per_s);
      REQUIRE(there->rate.latency_s == doctest::Approx(back->rate.latency_s));
      const bool peers = from.name != to.name && island_of.contains(from.name) &&
                         island_of.contains(to.name) && island_of[from.name] == island_of[to.name];
      REQUIRE((there->tier == Tier::island_peer) == peers);
      REQUIRE((there->tier == Tier::remote) == (from.name.node != to.name.node));
      if (there->tier == Tier::remote)  // These networks are slower than any PCIe.
        REQUIRE(there->rate.bandwidth_bytes_per_s == wide.at({from.name.node, to.name.node}));
    }
    for (const auto& [pair, bandwidth] : wide)
      if (pair.first == from.name.node && pair.second != from.name.node)
        REQUIRE(std::ranges::any_of(
            ranked, [&](const DeviceName& name) { return name.node == pair.second; }));
  }
}

TEST_CASE("random clusters have the properties of every topology") {
  if (const char* seed = std::getenv("CAUSEWAY_TEST_SEED"))
    return run_properties(std::stoull(seed));
  for (std::uint64_t seed = 1; seed <= 300; ++seed) run_properties(seed);
}
