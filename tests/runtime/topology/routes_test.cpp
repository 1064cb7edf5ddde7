// Goal:   islands rest on the strongest statement, and routes are the ways that bytes really take.
// Method: machines written down by hand, one for each rule; then random trees whose routes are
//         checked against the links they name. Replay with CAUSEWAY_TEST_SEED.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <set>
#include <string>

#include "causeway/topology.h"
#include "runtime/topology/link_rates.h"
#include "tests/runtime/topology/graph_maker.h"

using namespace causeway;

static Topology made(GraphMaker& maker) {
  fill_rates(maker.graph());
  return Topology(maker.graph());
}
static DeviceName device(const std::string& name) { return DeviceName::parse(name); }
static std::string islands_of(const Topology& topology) {
  std::string text;
  for (const auto& island : topology.islands()) {
    text += island.name + "=";
    for (const auto& member : island.devices) text += member.local() + ",";
    text += " ";
  }
  return text;
}
static std::string hops_of(const Route& route) {
  std::string text = route.hops.empty() ? "" : route.hops.front().from;
  for (const auto& hop : route.hops) text += " > " + hop.to;
  return text;
}
static std::string number(const char* kind, int i) { return kind + std::to_string(i); }

// One CPU with memory, `count` GPUs on own Gen`generation` x16 ports.
static GraphMaker machine(const std::string& model, int count, std::uint32_t generation,
                          std::optional<std::uint32_t> sm = {}) {
  GraphMaker maker;
  maker.node("m");
  maker.add("cpu0").numa = 0;
  maker.add("host0").numa = 0;
  maker.link(LinkKind::memory, "host0", "cpu0");
  for (int i = 0; i < count; ++i) {
    auto& gpu = maker.add(number("gpu", i));
    gpu.model = model;
    gpu.sm = sm;
    auto& port = maker.add(number("bridge", i));
    port.pci = PciAddress{0, 0, static_cast<std::uint8_t>(1 + i), 0};
    maker.pcie(number("gpu", i), number("bridge", i), generation);
    maker.pcie(number("bridge", i), "cpu0", generation);
  }
  return maker;
}

TEST_CASE("what the driver refuses makes two islands, and says the code") {
  auto maker = machine("rtx-5090", 2, 5);
  maker.granted("gpu0", "gpu1", PeerStatus::gpu_not_supported);
  const auto topology = made(maker);
  CHECK(islands_of(topology) == "m/gpu0=gpu0, m/gpu1=gpu1, ");
  for (const auto& island : topology.islands()) {
    CHECK(island.rests_on == PeerBasis::granted);
    CHECK(island.basis == "granted: GNS, the driver does not support it on this GPU");
  }
  const auto route = topology.route(device("m/gpu0"), device("m/gpu1"));
  REQUIRE(route);
  CHECK(route->is_staged);
  CHECK(hops_of(*route) == "m/gpu0 > m/bridge0 > m/cpu0 > m/host0 > m/cpu0 > m/bridge1 > m/gpu1");
  CHECK(route->bandwidth_bytes_per_s->value == 24e9);
  CHECK(route->hops.front().transport == "staged");
}

TEST_CASE("a stronger statement wins over a weaker one, in both directions of the answer") {
  // Policy says no, a patched driver says yes, CUDA agrees, and a copy shows the truth.
  auto maker = machine("rtx-5090", 2, 5);
  maker.granted("gpu0", "gpu1", PeerStatus::ok);
  auto topology = made(maker);
  CHECK(islands_of(topology) == "m/pcie0=gpu0,gpu1, ");
  CHECK(topology.islands()[0].rests_on == PeerBasis::granted);
  CHECK(topology.islands()[0].basis == "granted: peer access over PCIe");
  for (auto& pair : maker.graph().pairs) pair.cuda_agrees = true;
  topology = made(maker);
  CHECK(topology.islands()[0].rests_on == PeerBasis::cuda);
  maker.graph().pairs[1].verified = PeerCheck::wrong_data;
  topology = made(maker);
  CHECK(islands_of(topology) == "m/gpu0=gpu0, m/gpu1=gpu1, ");
  CHECK(topology.islands()[1].basis == "verified: a copy arrived with wrong data");
  for (auto& pair : maker.graph().pairs) pair.verified = PeerCheck::passed;
  topology = made(maker);
  CHECK(topology.islands()[0].rests_on == PeerBasis::verified);
  // One direction alone proves nothing: the next weaker statement of both stands.
  maker.graph().pairs[0].verified.reset();
  CHECK(made(maker).islands()[0].rests_on == PeerBasis::cuda);
  maker.graph().pairs[1].granted_read = PeerStatus::unknown;
  maker.graph().pairs[0].cuda_agrees.reset();
  maker.graph().pairs[1].verified.reset();
  CHECK(made(maker).islands().size() == 2);  // Nobody answers for all of it: policy, which says no.
}

TEST_CASE("a hybrid cube mesh is one domain and two islands") {
  auto maker = machine("", 8, 3, 70);
  const int pairs[][3] = {{0, 1, 2}, {0, 2, 2}, {0, 3, 1}, {1, 2, 1}, {1, 3, 2}, {2, 3, 1},
                          {4, 5, 2}, {4, 6, 2}, {4, 7, 1}, {5, 6, 1}, {5, 7, 2}, {6, 7, 1},
                          {0, 4, 1}, {1, 5, 1}, {2, 6, 2}, {3, 7, 2}};
  for (const auto& [a, b, count] : pairs)
    maker.nvlink(number("gpu", a), number("gpu", b), static_cast<std::uint32_t>(count));
  const auto topology = made(maker);
  CHECK(islands_of(topology) == "m/nvlink0=gpu0,gpu1,gpu2,gpu3, m/nvlink1=gpu4,gpu5,gpu6,gpu7, ");
  REQUIRE(topology.nvlink_domains().size() == 1);
  CHECK(topology.nvlink_domains()[0].devices.size() == 8);
  CHECK_FALSE(topology.nvlink_domains()[0].is_all_to_all);
  CHECK_FALSE(topology.nvlink_domains()[0].is_switched);
  const auto near = topology.access(device("m/gpu0"), device("m/gpu1"));
  CHECK(near->rate.bandwidth_bytes_per_s == 40e9);
  CHECK(near->path == "NVLink");
  // 0 and 4 have a link, though they are in different islands; 0 and 5 have none.
  CHECK(topology.access(device("m/gpu0"), device("m/gpu4"))->tier == Tier::island_peer);
  CHECK(topology.route(device("m/gpu0"), device("m/gpu5"))->is_staged);
}

TEST_CASE("GPUs on several switches are one island, as fast as the GPU with fewer links") {
  auto maker = machine("h100-sxm", 4, 5, 90);
  for (int s = 0; s < 4; ++s) maker.add(number("nvswitch", s));
  for (int g = 0; g < 4; ++g)
    for (int s = 0; s < 4; ++s)
      maker.nvlink(number("gpu", g), number("nvswitch", s), s < 2 ? 5 : g == 3 && s == 3 ? 3 : 4);
  auto topology = made(maker);
  CHECK(islands_of(topology) == "m/nvlink0=gpu0,gpu1,gpu2,gpu3, ");
  CHECK(topology.islands()[0].basis == "nvml: NVSwitch");
  CHECK(topology.nvlink_domains()[0].is_switched);
  CHECK(topology.access(device("m/gpu0"), device("m/gpu1"))->rate.bandwidth_bytes_per_s ==
        doctest::Approx(18 * 20.6e9));
  CHECK(topology.access(device("m/gpu0"), device("m/gpu3"))->rate.bandwidth_bytes_per_s ==
        doctest::Approx(17 * 20.6e9));
  // A link that is down carries nothing; a GPU all of whose links are down is alone.
  for (auto& link : maker.graph().links)
    if (link.kind == LinkKind::nvlink && link.a == "m/gpu3") link.state = LinkState::down;
  CHECK(made(maker).access(device("m/gpu0"), device("m/gpu3"))->path == "PCIe peer");
  maker.granted("gpu0", "gpu3", PeerStatus::topology_not_supported);
  topology = made(maker);
  CHECK(islands_of(topology) == "m/nvlink0=gpu0,gpu1,gpu2, m/gpu3=gpu3, ");
}

TEST_CASE("switches whose fabric is not up join nothing, whatever links there are") {
  auto maker = machine("h100-sxm", 2, 5, 90);
  maker.add("nvswitch0");
  maker.nvlink("gpu0", "nvswitch0", 18).nvlink("gpu1", "nvswitch0", 18);
  for (const auto state :
       {FabricState::not_started, FabricState::in_progress, FabricState::failed}) {
    maker.last_node().fabric = state;
    const auto topology = made(maker);
    CHECK(topology.islands().size() == 2);
    CHECK(topology.islands()[0].basis ==
          "granted: the NVLink fabric is not up (" + std::string(to_string(state)) + ")");
    CHECK(topology.route(device("m/gpu0"), device("m/gpu1"))->is_staged);
  }
  maker.last_node().fabric = FabricState::completed;
  CHECK(made(maker).islands().size() == 1);
}

TEST_CASE("where NVLinks may be untold, peer access is not taken for PCIe") {
  auto maker = machine("h100-sxm", 2, 5, 90);
  maker.last_node().nvlinks_known = false;
  auto topology = made(maker);
  CHECK(islands_of(topology) == "m/peers0=gpu0,gpu1, ");
  CHECK(topology.islands()[0].basis == "policy: peer access, by a way that is not known");
  CHECK_FALSE(topology.access(device("m/gpu0"), device("m/gpu1")));
  maker.pair("gpu0", "gpu1").bandwidth_bytes_per_s = Figure{394e9, Provenance::measured};
  topology = made(maker);
  CHECK(topology.access(device("m/gpu0"), device("m/gpu1"))->rate.bandwidth_bytes_per_s == 394e9);
  CHECK(topology.access(device("m/gpu0"), device("m/gpu1"))->tier == Tier::island_peer);
  // The same where links are active and nobody says where they lead.
  auto bridged = machine("rtx-3090", 2, 4, 86);
  for (auto& component : bridged.graph().components)
    if (component.kind == ComponentKind::gpu) component.nvlinks_max = 4;
  CHECK(made(bridged).islands()[0].basis.ends_with("and none is known"));
  for (auto& component : bridged.graph().components)
    if (component.kind == ComponentKind::gpu) component.nvlinks_down = 0;
  CHECK(made(bridged).islands()[0].basis.ends_with("where its links lead is not known"));
}

TEST_CASE("a measured pair has a cost, though nothing tells how it is joined") {
  GraphMaker maker;
  maker.node("m");
  maker.last_node().nvlinks_known = false;
  for (int i = 0; i < 2; ++i) maker.add(number("gpu", i)).model = "rtx-4090";
  CHECK_FALSE(made(maker).access(device("m/gpu0"), device("m/gpu1")));
  maker.pair("gpu0", "gpu1").staged_bytes_per_s = Figure{19e9, Provenance::measured};
  const auto topology = made(maker);
  const auto access = topology.access(device("m/gpu0"), device("m/gpu1"));
  REQUIRE(access);
  CHECK(access->rate.bandwidth_bytes_per_s == 19e9);
  CHECK(access->tier == Tier::host);
  CHECK(topology.rank(device("m/gpu0")).size() == 2);
}

TEST_CASE("a link to the CPU that is wider than memory's nominal rate is not cut to it") {
  auto maker = machine("", 1, 6, 103);
  maker.link(LinkKind::c2c, "gpu0", "cpu0").effective_bytes_per_s =
      Figure{447e9, Provenance::import};
  CHECK(made(maker).access(device("m/gpu0"), device("m/host0"))->rate.bandwidth_bytes_per_s ==
        447e9);
  auto power = machine("", 1, 3, 70);  // POWER9: NVLinks between GPU and CPU.
  power.nvlink("gpu0", "cpu0", 3);
  const auto topology = made(power);
  const auto access = topology.access(device("m/gpu0"), device("m/host0"));
  CHECK(access->rate.bandwidth_bytes_per_s == 60e9);
  CHECK(access->path == "NVLink to host");
}

TEST_CASE("one fabric over many nodes is one island, whatever joins it") {
  GraphMaker maker;
  for (int n = 0; n < 3; ++n) {
    maker.node("t" + std::to_string(n));
    maker.add("gpu0").sm = 100;
    maker.add("nvswitch0");
  }
  // The third node's GPU has links to the switches of both others.
  maker.nvlink("t0/gpu0", "t0/nvswitch0", 9).nvlink("t1/gpu0", "t1/nvswitch0", 9);
  CHECK(made(maker).islands().size() == 3);
  maker.nvlink("t2/gpu0", "t0/nvswitch0", 9).nvlink("t2/gpu0", "t1/nvswitch0", 9);
  CHECK(islands_of(made(maker)) == "t0/nvlink0=gpu0,gpu0,gpu0, ");
  // A pair that is spoken of is asked for itself.
  maker.granted("t0/gpu0", "t1/gpu0", PeerStatus::not_supported);
  CHECK(made(maker).islands().size() == 2);
}

TEST_CASE("a link between two GPUs does not make their two switches one fabric") {
  auto maker = machine("", 4, 5, 90);
  for (int s = 0; s < 2; ++s) {
    maker.add(number("nvswitch", s));
    for (int g = 0; g < 2; ++g) maker.nvlink(number("gpu", 2 * s + g), number("nvswitch", s), 4);
  }
  maker.nvlink("gpu1", "gpu2", 1);
  const auto topology = made(maker);
  CHECK(islands_of(topology) == "m/nvlink0=gpu0,gpu1, m/nvlink1=gpu2,gpu3, ");
  CHECK(topology.access(device("m/gpu1"), device("m/gpu2"))->rate.bandwidth_bytes_per_s ==
        doctest::Approx(20.6e9));
  CHECK(topology.route(device("m/gpu0"), device("m/gpu3"))->is_staged);
}

TEST_CASE("of ways with as few hops the widest is taken, to memory and to a NIC") {
  GraphMaker maker;
  maker.node("m");
  maker.add("cpu0");
  maker.add("host0");
  maker.link(LinkKind::memory, "host0", "cpu0");
  maker.add("gpu0").model = "l40s";
  for (int i = 0; i < 3; ++i) {
    maker.add(number("bridge", i));
    maker.pcie("gpu0", number("bridge", i), i == 1 ? 4 : 3);
    maker.pcie(number("bridge", i), "cpu0", 5);
    maker.add(number("nic", i)).port_bytes_per_s = 50e9;
    maker.pcie(number("nic", i), number("bridge", i), 5);
    maker.network(number("nic", i), "far", 50e9);
  }
  maker.graph().nodes.push_back({});
  maker.graph().nodes.back().name = "far";
  TopologyGraph& graph = maker.graph();
  graph.components.push_back(*graph.find("m/host0"));
  graph.components.back().name = "far/host0";
  graph.components.back().node = "far";
  for (auto& link : graph.links)
    if (link.b == "m/far") link.b = "far";
  const auto topology = made(maker);
  CHECK(hops_of(*topology.route(device("m/gpu0"), device("m/host0"))) ==
        "m/gpu0 > m/bridge1 > m/cpu0 > m/host0");
  CHECK(hops_of(*topology.route(device("m/gpu0"), device("far/host0"))) ==
        "m/gpu0 > m/bridge1 > m/nic1 > far");
}

TEST_CASE("bridged pairs are islands of two") {
  auto maker = machine("rtx-3090", 4, 4, 86);
  maker.nvlink("gpu0", "gpu2", 4).nvlink("gpu1", "gpu3", 4);
  const auto topology = made(maker);
  CHECK(islands_of(topology) == "m/nvlink0=gpu0,gpu2, m/nvlink1=gpu1,gpu3, ");
  CHECK(topology.access(device("m/gpu0"), device("m/gpu2"))->rate.bandwidth_bytes_per_s == 48e9);
  CHECK(topology.access(device("m/gpu0"), device("m/gpu1"))->rate.bandwidth_bytes_per_s == 12e9);
}

TEST_CASE("an xGMI hive is one island, over others where there is no link") {
  auto maker = machine("", 4, 4);
  for (auto& component : maker.graph().components)
    if (component.kind == ComponentKind::gpu) component.arch = "gfx90a";
  for (const auto& [a, b] : {std::pair(0, 1), {1, 2}, {2, 3}, {3, 0}}) {
    auto& link = maker.link(LinkKind::xgmi, number("gpu", a), number("gpu", b));
    link.provenance = Provenance::import;
    link.count = 2;
  }
  const auto topology = made(maker);
  CHECK(islands_of(topology) == "m/xgmi0=gpu0,gpu1,gpu2,gpu3, ");
  CHECK(topology.islands()[0].basis == "import: xGMI");
  CHECK(topology.access(device("m/gpu0"), device("m/gpu1"))->rate.bandwidth_bytes_per_s == 72e9);
  const auto far = topology.access(device("m/gpu0"), device("m/gpu2"));
  REQUIRE(far);
  CHECK(far->path == "xGMI over others");
  CHECK(far->rate.bandwidth_bytes_per_s == 72e9);
}

TEST_CASE("what is not known stays unknown") {
  auto maker = machine("", 2, 4);
  maker.last_node().nvlinks_known = false;
  auto topology = made(maker);
  CHECK(topology.islands()[0].rests_on == PeerBasis::unknown);
  CHECK(topology.islands()[0].basis == "unknown: nothing tells of peer access");
  // No rate is known on the way: there is a route without a rate, and no cost.
  for (auto& link : maker.graph().links) link = TopologyLink{link.kind, link.a, link.b};
  topology = Topology(maker.graph());
  const auto route = topology.route(device("m/gpu0"), device("m/host0"));
  REQUIRE(route);
  CHECK_FALSE(route->bandwidth_bytes_per_s);
  CHECK_FALSE(route->bottleneck);
  CHECK_FALSE(topology.access(device("m/gpu0"), device("m/host0")));
  // The model knows its slot.
  maker.graph().components[2].model = "rtx-4090";
  REQUIRE(maker.graph().components[2].kind == ComponentKind::gpu);
  topology = Topology(maker.graph());
  CHECK(topology.access(device("m/gpu0"), device("m/host0"))->rate.bandwidth_bytes_per_s == 24e9);
}

TEST_CASE("every upstream port counts, and the narrowest is the bottleneck") {
  auto maker = machine("l40s", 2, 4);
  for (auto& link : maker.graph().links)
    if (link.a == "m/bridge1") link.pcie.width = 4;
  const auto topology = made(maker);
  const auto route = topology.route(device("m/gpu1"), device("m/host0"));
  REQUIRE(route);
  REQUIRE(route->bottleneck);
  CHECK(route->hops[*route->bottleneck].from == "m/bridge1");
  CHECK(route->bandwidth_bytes_per_s->value == 6e9);
  CHECK(route->bandwidth_bytes_per_s->provenance == Provenance::sysfs);
  CHECK(topology.access(device("m/gpu0"), device("m/gpu1"))->rate.bandwidth_bytes_per_s == 6e9);
}

TEST_CASE("the class of a path follows from the tree, else from a matrix") {
  GraphMaker maker;
  maker.node("m");
  for (const char* cpu : {"cpu0", "cpu1"}) maker.add(cpu);
  maker.link(LinkKind::socket, "cpu0", "cpu1");
  const auto bridge = [&](const std::string& name, const std::string& up, std::uint8_t bus) {
    maker.add(name).pci = PciAddress{0, bus, 1, 0};
    maker.pcie(name, up, 4);
  };
  const auto gpu = [&](const std::string& name, const std::string& up) {
    maker.add(name);
    maker.pcie(name, up, 4);
  };
  bridge("bridge0", "cpu0", 0);  // A switch as one bridge, with two GPUs,
  gpu("gpu0", "bridge0");
  gpu("gpu1", "bridge0");
  bridge("bridge1", "bridge0", 9);  // another switch below it,
  gpu("gpu2", "bridge1");
  bridge("bridge2", "cpu0", 0);  // another port of the same host bridge,
  gpu("gpu3", "bridge2");
  bridge("bridge3", "cpu0", 64);  // another host bridge of the same CPU,
  gpu("gpu4", "bridge3");
  bridge("bridge4", "cpu1", 128);  // and another CPU, with a switch as sysfs shows it.
  bridge("bridge5", "bridge4", 129);
  bridge("bridge6", "bridge5", 130);
  bridge("bridge7", "bridge5", 130);
  gpu("gpu5", "bridge6");
  gpu("gpu6", "bridge7");
  bridge("bridge8", "bridge5", 140);  // Three switches, each shown as one bridge.
  gpu("gpu9", "bridge8");
  maker.add("gpu7");
  maker.add("gpu8");
  maker.pair("gpu8", "gpu7").path = PathClass::phb;
  maker.nvlink("gpu0", "gpu5", 2);
  const auto topology = made(maker);
  const auto path = [&](int a, int b) {
    return topology.path_class(number("m/gpu", a), number("m/gpu", b));
  };
  CHECK(path(0, 1) == PathClass::pix);
  CHECK(path(0, 2) == PathClass::pxb);
  CHECK(path(0, 3) == PathClass::phb);
  CHECK(path(0, 4) == PathClass::node);
  CHECK(path(1, 5) == PathClass::sys);
  CHECK(path(5, 6) == PathClass::pix);
  CHECK(path(5, 9) == PathClass::pxb);
  CHECK(path(0, 5) == PathClass::nvlink);
  CHECK(path(7, 8) == PathClass::phb);
  CHECK_FALSE(path(0, 7));
  // Other sources do not show root ports: what a matrix says of host bridges is better.
  for (auto& link : maker.graph().links) link.provenance = Provenance::import;
  const auto imported = made(maker);
  CHECK(imported.path_class("m/gpu0", "m/gpu4") == PathClass::phb);
  maker.pair("gpu0", "gpu4").path = PathClass::node;
  CHECK(made(maker).path_class("m/gpu4", "m/gpu0") == PathClass::node);
}

TEST_CASE("measured figures replace what links promise") {
  auto maker = machine("rtx-5090", 2, 5);
  maker.granted("gpu0", "gpu1", PeerStatus::gpu_not_supported);
  maker.graph().pairs[0].staged_bytes_per_s = Figure{43e9, Provenance::measured};
  maker.graph().pairs[0].latency_s = Figure{9e-6, Provenance::measured};
  const auto topology = made(maker);
  const auto there = topology.access(device("m/gpu0"), device("m/gpu1"));
  CHECK(there->rate.bandwidth_bytes_per_s == 43e9);
  CHECK(there->rate.provenance == Provenance::measured);
  CHECK(there->rate.latency_s == 9e-6);
  CHECK(topology.access(device("m/gpu1"), device("m/gpu0"))->rate.bandwidth_bytes_per_s == 24e9);
}

TEST_CASE("a GPU with a link to its CPU takes that, not PCIe") {
  auto maker = machine("", 1, 6, 103);
  auto& link = maker.link(LinkKind::c2c, "gpu0", "cpu0");
  link.effective_bytes_per_s = Figure{223e9, Provenance::import};
  for (auto& other : maker.graph().links)
    if (other.kind == LinkKind::memory)
      other.effective_bytes_per_s = Figure{400e9, Provenance::measured};
  const auto topology = made(maker);
  const auto access = topology.access(device("m/gpu0"), device("m/host0"));
  CHECK(access->path == "C2C to host");
  CHECK(access->rate.bandwidth_bytes_per_s == 223e9);
}

// Two nodes of two GPUs, each GPU with a NIC under its own switch; two rails.
static GraphMaker rails(bool joined) {
  GraphMaker maker;
  maker.network_switch("leaf0").network_switch("leaf1");
  for (const char* node : {"a", "b"}) {
    maker.node(node);
    maker.add("cpu0");
    maker.add("host0");
    maker.link(LinkKind::memory, "host0", "cpu0");
    for (int i = 0; i < 2; ++i) {
      maker.add(number("bridge", i));
      maker.pcie(number("bridge", i), "cpu0", 5);
      maker.add(number("gpu", i)).model = "l40s";
      maker.pcie(number("gpu", i), number("bridge", i), 4);
      maker.add(number("nic", i)).port_bytes_per_s = 25e9;
      maker.pcie(number("nic", i), number("bridge", i), 5);
      maker.network(number("nic", i), number("leaf", i), 25e9);
    }
  }
  if (joined) maker.network("leaf0", "leaf1", 10e9, 5e-6);
  return maker;
}

TEST_CASE("between nodes each GPU uses its own NIC, and the other where the rail ends") {
  auto maker = rails(true);
  auto topology = made(maker);
  auto route = topology.route(device("a/gpu1"), device("b/gpu1"));
  REQUIRE(route);
  CHECK(hops_of(*route) == "a/gpu1 > a/bridge1 > a/nic1 > leaf1 > b/nic1 > b/bridge1 > b/gpu1");
  CHECK(route->bandwidth_bytes_per_s->value == 24e9);
  CHECK(route->latency_s->value == doctest::Approx(4e-6));
  CHECK(route->path == "PCIe, network (2 hops), PCIe");
  route = topology.route(device("a/gpu0"), device("b/gpu1"));
  CHECK(hops_of(*route) ==
        "a/gpu0 > a/bridge0 > a/nic0 > leaf0 > leaf1 > b/nic1 > b/bridge1 > b/gpu1");
  CHECK(route->bandwidth_bytes_per_s->value == 10e9);
  CHECK(route->hops[*route->bottleneck].from == "leaf0");
  auto apart = rails(false);
  topology = made(apart);
  route = topology.route(device("a/gpu0"), device("b/gpu1"));
  REQUIRE(route);  // In by the NIC of the other GPU.
  CHECK(hops_of(*route) ==
        "a/gpu0 > a/bridge0 > a/nic0 > leaf0 > b/nic0 > b/bridge0 > b/cpu0 > b/bridge1 > b/gpu1");
  // A port that is down is none.
  for (auto& component : apart.graph().components)
    if (component.name == "a/nic0") component.port_up = false;
  topology = made(apart);
  CHECK(topology.route(device("a/gpu0"), device("b/gpu1"))->hops[1].to == "a/cpu0");
}

TEST_CASE("those who share the bottleneck are named") {
  GraphMaker maker;
  maker.node("m");
  maker.add("cpu0");
  maker.add("host0");
  maker.link(LinkKind::memory, "host0", "cpu0");
  maker.add("bridge0");
  maker.pcie("bridge0", "cpu0", 3);
  for (int i = 0; i < 3; ++i) {
    maker.add(number("gpu", i)).model = "l40s";
    maker.pcie(number("gpu", i), i < 2 ? "bridge0" : "cpu0", 4);
  }
  const auto topology = made(maker);
  const auto route = topology.route(device("m/gpu0"), device("m/host0"));
  REQUIRE(route);
  const auto sharers = topology.sharers(device("m/gpu0"), device("m/host0"), *route);
  REQUIRE(sharers.size() == 1);
  CHECK(sharers[0].to_string() == "m/gpu1");
}

TEST_CASE("nodes of one NVLink fabric are one island") {
  GraphMaker maker;
  for (const char* node : {"t0", "t1"}) {
    maker.node(node);
    maker.last_node().fabric_cluster = "f";
    maker.add("nvswitch0");
    for (int i = 0; i < 2; ++i) {
      maker.add(number("gpu", i)).sm = 100;
      maker.nvlink(number("gpu", i), "nvswitch0", 18);
    }
  }
  const auto topology = made(maker);
  CHECK(islands_of(topology) == "t0/nvlink0=gpu0,gpu1,gpu0,gpu1, ");
  const auto access = topology.access(device("t0/gpu0"), device("t1/gpu1"));
  REQUIRE(access);
  CHECK(access->tier == Tier::island_peer);
  CHECK(access->rate.bandwidth_bytes_per_s == doctest::Approx(18 * 40.1e9));
  // The same without a name for it, where both nodes' GPUs have links to one switch.
  for (auto& node : maker.graph().nodes) node.fabric_cluster.clear();
  CHECK(made(maker).islands().size() == 2);
  for (auto& link : maker.graph().links)
    if (link.b == "t1/nvswitch0") link.b = "t0/nvswitch0";
  CHECK(made(maker).islands().size() == 1);
}

TEST_CASE("a graph that contradicts itself is refused") {
  GraphMaker twice;
  twice.node("m");
  twice.add("gpu0");
  twice.add("gpu0");
  CHECK_THROWS_AS(Topology(twice.graph()), Error);
  GraphMaker nowhere;
  nowhere.node("m");
  nowhere.add("gpu0");
  nowhere.pcie("gpu0", "cpu0", 4);
  CHECK_THROWS_AS(Topology(nowhere.graph()), Error);
}

// A random PCI tree on one or two CPUs, and what every route over it must be.
static void run_properties(std::uint64_t seed) {
  INFO("seed=", seed);
  std::mt19937_64 random(seed);
  GraphMaker maker;
  maker.node("m");
  const auto cpus = 1 + random() % 2;
  std::vector<std::string> parents;
  for (std::size_t c = 0; c < cpus; ++c) {
    maker.add("cpu" + std::to_string(c));
    maker.add("host" + std::to_string(c));
    maker.link(LinkKind::memory, "host" + std::to_string(c), "cpu" + std::to_string(c));
    parents.push_back("cpu" + std::to_string(c));
  }
  if (cpus == 2) maker.link(LinkKind::socket, "cpu0", "cpu1");
  const auto width = [&] { return static_cast<std::uint32_t>(1U << (random() % 5)); };
  for (std::size_t b = 0, bridges = random() % 6; b < bridges; ++b) {
    maker.add("bridge" + std::to_string(b));
    maker.pcie("bridge" + std::to_string(b), parents[random() % parents.size()],
               static_cast<std::uint32_t>(1 + random() % 6), width());
    parents.push_back("bridge" + std::to_string(b));
  }
  const auto gpus = 2 + random() % 5;
  for (std::size_t g = 0; g < gpus; ++g) {
    maker.add("gpu" + std::to_string(g)).model = random() % 2 ? "l40s" : "rtx-4090";
    maker.pcie("gpu" + std::to_string(g), parents[random() % parents.size()],
               static_cast<std::uint32_t>(1 + random() % 6), width());
  }
  const auto topology = made(maker);
  for (const auto& from : topology.devices())
    for (const auto& to : topology.devices()) {
      const auto route = topology.route(from.name, to.name);
      REQUIRE(route);
      if (from.name == to.name) continue;
      auto at = from.name.to_string();
      std::optional<double> narrowest;
      std::set<std::size_t> links;
      for (const auto& hop : route->hops) {
        const auto& link = topology.graph().links[hop.link];
        REQUIRE(hop.from == at);
        REQUIRE(
            ((link.a == hop.from && link.b == hop.to) || (link.b == hop.from && link.a == hop.to)));
        REQUIRE((links.insert(hop.link).second || route->is_staged));
        REQUIRE(hop.bandwidth_bytes_per_s == link.effective_bytes_per_s);
        if (!narrowest || hop.bandwidth_bytes_per_s->value < *narrowest)
          narrowest = hop.bandwidth_bytes_per_s->value;
        at = hop.to;
      }
      REQUIRE(at == to.name.to_string());
      REQUIRE(route->bandwidth_bytes_per_s->value ==
              doctest::Approx(route->is_staged ? *narrowest / 2 : *narrowest));
      REQUIRE(route->hops[*route->bottleneck].bandwidth_bytes_per_s->value == *narrowest);
      if (from.name.kind == DeviceKind::gpu && to.name.kind == DeviceKind::gpu)
        REQUIRE((topology.island_of(from.name) == topology.island_of(to.name)) != route->is_staged);
    }
}

TEST_CASE("routes over random trees are made of links that follow each other") {
  if (const char* seed = std::getenv("CAUSEWAY_TEST_SEED"))
    return run_properties(std::stoull(seed));
  for (std::uint64_t seed = 1; seed <= 300; ++seed) run_properties(seed);
}
