// Goal:   each form of a what-if changes what it names and what follows from it, and nothing else;
//         each mistake is answered with what would be right.
// Method: every form and every mistake by hand, told by the diff; then any texts on random graphs,
//         which stay whole. Replay a failure with CAUSEWAY_TEST_SEED=<seed>.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cstdlib>
#include <random>
#include <string>

#include "causeway/error.h"
#include "causeway/topology_diff.h"
#include "causeway/topology_export.h"
#include "causeway/topology_whatif.h"
#include "random_graph.h"
#include "runtime/topology/graph_check.h"
#include "runtime/topology/whatif/derived.h"
#include "sample_graphs.h"

using causeway::Errc;
using causeway::Error;
using causeway::Figure;
using causeway::LinkKind;
using causeway::LinkState;
using causeway::Provenance;
using causeway::TopologyGraph;
using causeway::WhatIf;
using Kind = causeway::WhatIf::Kind;

// What the change did: "[what] field: before -> after", a line each.
static std::string effect(const TopologyGraph& before, Kind kind, const std::string& text) {
  auto after = before;
  try {
    causeway::apply(after, {kind, text});
  } catch (const Error& error) {
    CHECK((after == before));
    return fmt::format("{}: {}", causeway::to_string(error.code()), error.what());
  }
  CHECK(causeway::fault_of(after).value_or("whole") == "whole");
  std::string lines;
  for (const auto& change : causeway::diff(before, after)) {
    lines += fmt::format("{} {}", causeway::to_string(change.kind), change.what);
    if (!change.field.empty())
      lines += fmt::format(" {}: {} -> {}", change.field, change.before, change.after);
    lines += '\n';
  }
  return lines;
}

static std::string set(const TopologyGraph& graph, const std::string& text) {
  return effect(graph, Kind::set, text);
}

static bool starts(const std::string& text, const std::string& start) {
  const bool same = text.substr(0, start.size()) == start;
  if (!same) MESSAGE(text);
  return same;
}

TEST_CASE("a narrower slot: rates follow, and what was measured over it is forgotten") {
  const auto graph = causeway::test::desktop();
  const std::string forgotten =
      "changed pair desktop/gpu0>desktop/gpu1 staged_bytes_per_s: 24.9 GB/s (measured) -> unknown\n"
      "changed pair desktop/gpu0>desktop/gpu1 latency_s: 14 us (measured) -> unknown\n"
      "changed pair desktop/gpu1>desktop/gpu0 staged_bytes_per_s: 24.9 GB/s (measured) -> unknown\n"
      "changed pair desktop/gpu1>desktop/gpu0 latency_s: 14 us (measured) -> unknown\n";
  const std::string link = "changed pcie link desktop/gpu0-desktop/cpu0 ";
  CHECK(set(graph, "desktop/gpu0-desktop/cpu0.width=8") ==
        link + "state: up -> degraded\n" + link + "pcie.width: 16 -> 8\n" + link +
            "line_bytes_per_s: 63 GB/s (sysfs) -> 31.5 GB/s (spec)\n" + link +
            "effective_bytes_per_s: 48 GB/s (sysfs) -> 24 GB/s (spec)\n" + forgotten);
  CHECK(set(graph, "desktop/cpu0-desktop/gpu0.generation=6") ==  // Either end first.
        link + "pcie.generation: 5 -> 6\n" + link + "pcie_max.generation: 5 -> 6\n" + link +
            "line_bytes_per_s: 63 GB/s (sysfs) -> 128 GB/s (spec)\n" + link +
            "effective_bytes_per_s: 48 GB/s (sysfs) -> 96 GB/s (spec)\n" + forgotten);
  CHECK(set(graph, "pcie:desktop/gpu0-desktop/cpu0.bandwidth=\"25 Gbit/s\"") ==
        link + "effective_bytes_per_s: 48 GB/s (sysfs) -> 3.12 GB/s (spec)\n" + forgotten);
  CHECK(set(graph, "desktop/gpu0-desktop/cpu0.bandwidth=70 GB/s") ==
        link + "line_bytes_per_s: 63 GB/s (sysfs) -> unknown\n" + link +
            "effective_bytes_per_s: 48 GB/s (sysfs) -> 70 GB/s (spec)\n" + forgotten);
  CHECK(set(graph, "desktop/gpu0-desktop/cpu0.latency=2 us") ==
        link + "latency_s: unknown -> 2 us (spec)\n" + forgotten);
  CHECK(set(graph, "desktop/gpu0-desktop/cpu0.state=down") ==
        link + "state: up -> down\n" + forgotten);
}

TEST_CASE("other links keep what they have and what they lack") {
  auto graph = causeway::test::desktop();
  graph.links[1].effective_bytes_per_s.reset();
  graph.links[2].effective_bytes_per_s = Figure{5e9, Provenance::measured};
  auto after = graph;
  causeway::apply(after, {Kind::set, "desktop/cpu0-desktop/host0.bandwidth=100 GB/s"});
  CHECK_FALSE(after.links[1].effective_bytes_per_s);
  CHECK(after.links[2].effective_bytes_per_s == Figure{5e9, Provenance::measured});
  CHECK(after.links[0].effective_bytes_per_s == Figure{100e9, Provenance::spec});
}

TEST_CASE("NVLinks are counted") {
  auto graph = causeway::test::four_3090();
  const std::string link = "changed nvlink link rig/gpu0-rig/gpu1 ";
  CHECK(set(graph, "rig/gpu0-rig/gpu1.count=2") ==
        link + "count: 4 -> 2\n" + link +
            "line_bytes_per_s: 56.2 GB/s (spec) -> 28.1 GB/s (spec)\n" + link +
            "effective_bytes_per_s: 48 GB/s (spec) -> 24 GB/s (spec)\n");
  graph.components[2].sm.reset();  // The chips are not known: in proportion.
  graph.components[3].sm.reset();
  CHECK(set(graph, "rig/gpu0-rig/gpu1.count=2") ==
        link + "count: 4 -> 2\n" + link + "line_bytes_per_s: 56.2 GB/s (spec) -> unknown\n" + link +
            "effective_bytes_per_s: 48 GB/s (spec) -> 24 GB/s (spec)\n");
}

TEST_CASE("two kinds of link between the same ends are told apart") {
  causeway::test::GraphBuilder builder("gh200");
  builder.node("n", 1, 1'000'000'000);
  builder.gpu("n", 0, "cpu0", "h200-sxm", 90, "");
  builder.join(LinkKind::c2c, "n/gpu0", "n/cpu0");
  const auto graph = builder.finish();
  CHECK(set(graph, "n/gpu0-n/cpu0.state=down") ==
        "invalid_argument: n/gpu0-n/cpu0.state=down: several links are meant by 'n/gpu0-n/cpu0': "
        "write one of pcie:n/gpu0-n/cpu0, c2c:n/gpu0-n/cpu0");
  CHECK(set(graph, "c2c:n/gpu0-n/cpu0.bandwidth=450GB/s") ==
        "changed c2c link n/gpu0-n/cpu0 effective_bytes_per_s: unknown -> 450 GB/s (spec)\n");
  CHECK(starts(set(graph, "xgmi:n/gpu0-n/cpu0.state=down"),
               "not_found: xgmi:n/gpu0-n/cpu0.state=down: no xgmi link joins these two"));
}

TEST_CASE("names with dashes and dots are found") {
  causeway::test::GraphBuilder builder("dashes");
  builder.node("a-b.c", 1, 1'000'000'000);
  builder.node("a", 1, 1'000'000'000);
  builder.network("a-b.c", "a", 1e9, 1e-6);
  const auto graph = builder.finish();
  CHECK(set(graph, "a-b.c-a.bandwidth=2 GB/s") ==
        "changed network link a-b.c-a effective_bytes_per_s: 1 GB/s (import) -> 2 GB/s (spec)\n");
  CHECK(
      set(graph, "a-b.c/cpu0-a-b.c/host0.bandwidth=2 GB/s") ==
      "changed memory link a-b.c/cpu0-a-b.c/host0 effective_bytes_per_s: 50 GB/s (spec) -> 2 GB/s "
      "(spec)\n");
  CHECK(set(graph, "a-b.c.iommu=translating") ==
        "changed node a-b.c iommu: unknown -> translating\n");
}

TEST_CASE("a pair is granted or refused") {
  const auto graph = causeway::test::desktop();
  const std::string pair = "changed pair desktop/gpu0>desktop/gpu1 ";
  const auto granted = pair + "granted_read: CNS -> OK\n" + pair + "granted_write: CNS -> OK\n" +
                       pair + "latency_s: 14 us (measured) -> unknown\n";
  CHECK(set(graph, "pair desktop/gpu0>desktop/gpu1 granted=OK") == granted);
  CHECK(set(graph, "desktop/gpu0>desktop/gpu1.granted=OK") == granted);
  CHECK(set(graph, "pair desktop/gpu0>desktop/gpu1.granted_read=OK") ==
        pair + "granted_read: CNS -> OK\n" + pair + "latency_s: 14 us (measured) -> unknown\n");
  CHECK(set(graph, "desktop/gpu0>desktop/gpu1.staged=14 GB/s") ==
        pair + "staged_bytes_per_s: 24.9 GB/s (measured) -> 14 GB/s (spec)\n");
  CHECK(set(graph, "desktop/gpu0>desktop/gpu1.bandwidth=55.6 GB/s") ==
        pair + "bandwidth_bytes_per_s: unknown -> 55.6 GB/s (spec)\n");
  CHECK(set(graph, "desktop/gpu0>desktop/gpu1.latency=400 ns") ==
        pair + "latency_s: 14 us (measured) -> 0.4 us (spec)\n");
  CHECK(set(graph, "desktop/gpu0>desktop/gpu1.verified=passed") ==
        pair + "verified: unknown -> passed\n");
  CHECK(set(graph, "desktop/gpu0>desktop/gpu1.cuda_agrees=no") ==
        pair + "cuda_agrees: unknown -> no\n");
  CHECK(set(graph, "desktop/gpu0>desktop/gpu1.path=SYS") == pair + "path: unknown -> SYS\n");
  CHECK(set(graph, "desktop/host0>desktop/gpu1.bandwidth=50GB/s") ==
        "added pair desktop/host0>desktop/gpu1\n");
}

TEST_CASE("components: memory, ports, bridges") {
  const auto graph = causeway::test::hgx();
  CHECK(set(graph, "hgx/host0.capacity=2 TB") ==
        "changed component hgx/host0 capacity_bytes: 1 TB -> 2 TB\n");
  CHECK(set(graph, "hgx/gpu0.capacity=40GB") ==
        "changed component hgx/gpu0 capacity_bytes: unknown -> 40 GB\n");
  CHECK(set(graph, "hgx/gpu0.bar1=128 GiB") ==
        "changed component hgx/gpu0 bar1_bytes: unknown -> 137 GB\n");
  CHECK(set(graph, "hgx/nic0.bandwidth=100 Gbit/s") ==
        "changed component hgx/nic0 port_bytes_per_s: 50 GB/s -> 12.5 GB/s\n");
  CHECK(set(graph, "hgx/nic0.up=no") == "changed component hgx/nic0 port_up: yes -> no\n");
  CHECK(set(graph, "hgx/nic0.mtu=9000") == "changed component hgx/nic0 mtu: unknown -> 9000\n");
  CHECK(set(graph, "hgx/nic0.is_rdma=false") == "changed component hgx/nic0 is_rdma: yes -> no\n");
  CHECK(set(graph, "hgx/nic0.gpu_direct=on") ==
        "changed component hgx/nic0 gpu_direct: unknown -> yes\n");
  CHECK(set(graph, "hgx/bridge0.acs_redirect=true") ==
        "changed component hgx/bridge0 acs_redirect: unknown -> yes\n");
  CHECK(set(graph, "hgx/bridge0.is_chipset=1") ==
        "changed component hgx/bridge0 is_chipset: unknown -> yes\n");
  CHECK(set(graph, "hgx.fabric=completed") == "changed node hgx fabric: unknown -> completed\n");
  CHECK(set(graph, "hgx.view=vm") == "changed node hgx view: unknown -> vm\n");
}

TEST_CASE("another card in the slot: nothing of the old one but its place") {
  auto graph = causeway::test::four_3090();
  graph.pairs.push_back({"rig/gpu0", "rig/gpu2"});
  graph.components[2].nvlinks_down = 1;
  graph.components[2].bar1_bytes = 1;
  const std::string gpu = "changed component rig/gpu0 ";
  const std::string pcie = "changed pcie link rig/gpu0-rig/cpu0 ";
  CHECK(set(graph, "rig/gpu0.model=rtx-5090") ==
        gpu + "model: rtx-3090 -> rtx-5090\n" + gpu +
            "title: NVIDIA GeForce RTX 3090 -> RTX 5090\n" + gpu + "uuid: GPU-rig-0 -> unknown\n" +
            gpu + "capacity_bytes: unknown -> 32 GB\n" + gpu + "bar1_bytes: 1 B -> unknown\n" +
            gpu + "sm: 86 -> 120\n" + gpu + "nvlinks_down: 1 -> unknown\n" + pcie +
            "pcie.generation: 4 -> 5\n" + pcie + "pcie_max.generation: 4 -> 5\n" + pcie +
            "line_bytes_per_s: 31.5 GB/s (sysfs) -> 63 GB/s (spec)\n" + pcie +
            "effective_bytes_per_s: 24 GB/s (sysfs) -> 48 GB/s (spec)\n" +
            "removed nvlink link rig/gpu0-rig/gpu1\nremoved pair rig/gpu0>rig/gpu2\n");
  // A slot that held the old card back holds the new one back.
  for (auto& link : graph.links)
    if (link.a == "rig/gpu0" && link.kind == LinkKind::pcie) link.pcie = link.pcie_max = {3, 16};
  auto after = graph;
  causeway::apply(after, {Kind::set, "rig/gpu0.model=rtx-5090"});
  CHECK(after.links[1].a == "rig/gpu0");
  CHECK(after.links[1].pcie.generation.value_or(0) == 3);
  // NVLinks of a switch stay, as many as the new chip has, at the slower end's rate.
  auto switched = causeway::test::hgx();
  causeway::apply(switched, {Kind::set, "hgx/gpu0.model=a100-sxm"});
  std::uint32_t links = 0;
  double rate = 0;
  for (const auto& link : switched.links)
    if (link.kind == LinkKind::nvlink && link.a == "hgx/gpu0") {
      links += link.count;
      rate += link.effective_bytes_per_s->value;
    }
  CHECK(links == 12);
  CHECK(rate == doctest::Approx(240e9));
  for (const auto& model : causeway::gpu_models()) {
    CAPTURE(model.name);
    CHECK(causeway::whatif::sm_of_model(model.name));
    // The rates by chip and the catalogue's agree.
    const auto by_chip = causeway::nvlink_rate(*causeway::whatif::sm_of_model(model.name));
    if (!model.nvlink_bytes_per_s) continue;
    REQUIRE(by_chip);
    const auto most = causeway::whatif::nvlinks_of_model(model);
    CHECK(most * by_chip->effective_bytes_per_s ==
          doctest::Approx(*model.nvlink_bytes_per_s).epsilon(0.04));
    CHECK(most <= by_chip->links);
  }
}

TEST_CASE("mistakes in what is set are answered with what would be right") {
  const auto graph = causeway::test::desktop();
  const auto wrong = [&](const std::string& text, const std::string& answer) {
    CHECK(starts(set(graph, text), answer));
  };
  wrong("", "invalid_argument: : has no '='; write TARGET.FIELD=VALUE");
  wrong("desktop/gpu0", "invalid_argument: desktop/gpu0: has no '='");
  wrong("desktop/gpu0=4", "invalid_argument: desktop/gpu0=4: names no field; write TARGET.FIELD");
  wrong(".width=4", "invalid_argument: .width=4: names no field");
  wrong("desktop/gpu0.=4", "invalid_argument: desktop/gpu0.=4: names no field");
  wrong("desktop/gpu7.capacity=4",
        "not_found: desktop/gpu7.capacity=4: no node, component or link is named 'desktop/gpu7'; "
        "did you mean 'desktop/gpu0'?");
  wrong("zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz.x=4",
        "not_found: zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz.x=4: no node, component or link is named "
        "'zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz'; there are desktop, desktop/cpu0, ");
  wrong("desktop/gpu0-desktop/cpu1.width=8",
        "not_found: desktop/gpu0-desktop/cpu1.width=8: no component is named 'desktop/cpu1'; did "
        "you mean 'desktop/cpu0'?");
  wrong("desktop/gpu0-desktop/gpu1.width=8",
        "not_found: desktop/gpu0-desktop/gpu1.width=8: no link joins these two");
  wrong("desktop/gpu0-desktop/cpu0.widht=8",
        "invalid_argument: desktop/gpu0-desktop/cpu0.widht=8: a pcie link has no field 'widht' to "
        "set; did you mean 'width'?");
  wrong("desktop/gpu0-desktop/cpu0.count=8", "invalid_argument: ");
  wrong("desktop/gpu0-desktop/cpu0.width=0",
        "invalid_argument: desktop/gpu0-desktop/cpu0.width=0: '0' is not a whole number from 1 to");
  wrong("desktop/gpu0-desktop/cpu0.width=7",
        "invalid_argument: desktop/gpu0-desktop/cpu0.width=7: '7' is not 1, 2, 4, 8, 12, 16 or 32");
  wrong("desktop/gpu0-desktop/cpu0.width=x16", "invalid_argument: ");
  wrong("desktop/gpu0-desktop/cpu0.generation=7", "invalid_argument: ");
  wrong("desktop/gpu0-desktop/cpu0.bandwidth=25 Gb/s",
        "invalid_argument: desktop/gpu0-desktop/cpu0.bandwidth=25 Gb/s: '25 Gb/s' is not a "
        "bandwidth; write it such as 25 Gbit/s");
  wrong("desktop/gpu0-desktop/cpu0.bandwidth=0 GB/s", "invalid_argument: ");
  wrong("desktop/gpu0-desktop/cpu0.latency=fast", "invalid_argument: ");
  wrong("desktop/gpu0-desktop/cpu0.state=broken",
        "invalid_argument: desktop/gpu0-desktop/cpu0.state=broken: 'broken' is not one of unknown, "
        "up, degraded, down");
  wrong("desktop/gpu0-desktop/cpu0.state=", "invalid_argument: ");
  wrong("desktop/gpu0.model=rtx-5900",
        "invalid_argument: desktop/gpu0.model=rtx-5900: unknown GPU 'rtx-5900'; did you mean "
        "'rtx-5090'? known: ");
  wrong("desktop/gpu0.capacity=much",
        "invalid_argument: desktop/gpu0.capacity=much: 'much' is not");
  wrong("desktop/gpu0.capacity=0", "invalid_argument: ");
  wrong("desktop/gpu0.up=yes",
        "invalid_argument: desktop/gpu0.up=yes: a component of kind gpu has no field 'up' to set");
  wrong("desktop/cpu0.model=x", "invalid_argument: ");
  wrong("desktop.driver=1", "invalid_argument: desktop.driver=1: a node has no field 'driver'");
  wrong("desktop.iommu=maybe", "invalid_argument: ");
  wrong("pair desktop/gpu0>desktop/gpu9 granted=OK",
        "not_found: pair desktop/gpu0>desktop/gpu9 granted=OK: no component is named "
        "'desktop/gpu9'; did you mean");
  wrong("desktop/gpu0>desktop/gpu0.granted=OK", "invalid_argument: ");
  wrong("pair desktop/gpu0>desktop/gpu1 granted=ok",
        "invalid_argument: pair desktop/gpu0>desktop/gpu1 granted=ok: 'ok' is not one of OK, CNS");
  wrong("pair desktop/gpu0>desktop/gpu1 grant=OK",
        "invalid_argument: pair desktop/gpu0>desktop/gpu1 "
        "grant=OK: a pair has no field 'grant' to set; did you mean 'granted'?");
  wrong(
      "pair desktop/gpu0>desktop/gpu1 cuda_agrees=perhaps",
      "invalid_argument: pair desktop/gpu0>desktop/gpu1 cuda_agrees=perhaps: 'perhaps' is not yes");
}

TEST_CASE("a node is added by a line") {
  const auto before = causeway::test::desktop();
  auto graph = before;
  causeway::apply(graph,
                  {Kind::add_node, "hgx2=8xh100-sxm,host:1TB,host:1TB,link:desktop:100Gbit/s:5us"});
  CHECK(causeway::fault_of(graph).value_or("whole") == "whole");
  CHECK(graph.nodes.size() == 2);
  CHECK(graph.nodes[1].nvlinks_known);
  CHECK(graph.components.size() == before.components.size() + 2 + 2 + 8 + 1);
  const auto* gpu = graph.find("hgx2/gpu7");
  REQUIRE(gpu != nullptr);
  CHECK(gpu->capacity_bytes == 80'000'000'000U);
  CHECK(gpu->sm == 90U);
  std::size_t nvlinks = 0;
  for (const auto& link : graph.links) {
    if (link.kind == LinkKind::nvlink) {
      ++nvlinks;
      CHECK(link.effective_bytes_per_s->value == doctest::Approx(370.8e9));
      CHECK(link.effective_bytes_per_s->provenance == Provenance::spec);
    }
    if (link.kind == LinkKind::pcie && link.a == "hgx2/gpu3") CHECK(link.b == "hgx2/cpu0");
    if (link.kind == LinkKind::pcie && link.a == "hgx2/gpu4") {
      CHECK(link.b == "hgx2/cpu1");
      CHECK(link.effective_bytes_per_s->value == 48e9);
    }
  }
  CHECK(nvlinks == 8);
  const auto cluster = causeway::graph_to_cluster(graph);
  CHECK(cluster.nodes[1].devices.size() == 10);
  REQUIRE(cluster.links.size() == 1);
  CHECK(cluster.links[0].bandwidth_bytes_per_s == 12.5e9);
  CHECK(cluster.links[0].latency_s == 5e-6);
  // A single card has no switch; a switch of the network is a peer too.
  auto cards = causeway::test::small_cluster();
  causeway::apply(cards, {Kind::add_node, "one=h100-sxm,2xrtx-4090,link:leaf0:25Gbit/s"});
  CHECK(cards.find("one/gpu2")->model == "rtx-4090");
  CHECK(cards.find("one/nvswitch0") == nullptr);
  CHECK(cards.links.back().kind == LinkKind::pcie);
}

TEST_CASE("mistakes in a node's line are answered with what would be right") {
  const auto graph = causeway::test::desktop();
  const auto wrong = [&](const std::string& text, const std::string& answer) {
    CHECK(starts(effect(graph, Kind::add_node, text), answer));
  };
  wrong("hgx2", "invalid_argument: hgx2: is no node; write NAME=PART,..., a part being 8xh100-sxm");
  wrong("=h100-sxm", "invalid_argument: =h100-sxm: '' is not a node name");
  wrong("A B=h100-sxm", "invalid_argument: A B=h100-sxm: 'A B' is not a node name");
  wrong("x=", "invalid_argument: x=: '' is no GPU of the catalogue");
  wrong("x=link:desktop:1GB/s", "invalid_argument: x=link:desktop:1GB/s: has neither a GPU nor");
  wrong("x=8xh100", "invalid_argument: x=8xh100: 'h100' is no GPU of the catalogue; did you mean");
  wrong("x=0xh100-sxm", "invalid_argument: x=0xh100-sxm: '0xh100-sxm': 1 to 64 GPUs");
  wrong("x=99999999999999999999xl40s", "invalid_argument: ");
  wrong("x=64xl40s,l40s", "invalid_argument: x=64xl40s,l40s: more than 64 GPUs");
  wrong("x=host:much", "invalid_argument: x=host:much: 'much' is not a size");
  wrong("x=host:0", "invalid_argument: x=host:0: host memory of 0 bytes");
  wrong("x=host:1TB,link:desktop",
        "invalid_argument: x=host:1TB,link:desktop: 'link:desktop' is "
        "not a link; write link:PEER:100Gbit/s");
  wrong("x=host:1TB,link:dekstop:1GB/s",
        "not_found: x=host:1TB,link:dekstop:1GB/s: no node or "
        "network switch is named 'dekstop'; did you mean 'desktop'?");
  wrong("x=host:1TB,link:desktop/gpu0:1GB/s", "not_found: ");
  wrong("x=host:1TB,link:desktop:1Gb/s",
        "invalid_argument: x=host:1TB,link:desktop:1Gb/s: '1Gb/s'");
  wrong("x=host:1TB,link:desktop:1GB/s:5",
        "invalid_argument: x=host:1TB,link:desktop:1GB/s:5: '5'");
  wrong("desktop=host:1TB", "already_exists: a node named 'desktop' is there already");
}

TEST_CASE("nodes of another graph are added, its switches are the same by name") {
  auto graph = causeway::test::small_cluster();
  const auto before = graph;
  causeway::test::GraphBuilder builder("more");
  builder.network_switch("leaf0");
  builder.network_switch("spine");
  builder.network("leaf0", "spine", 50e9, 1e-6);
  builder.node("node9", 1, 1'000'000'000);
  builder.network("node9", "leaf0", 1e9, 1e-6);
  causeway::add_nodes(graph, builder.finish());
  CHECK(graph.components.size() == before.components.size() + 3);
  CHECK(graph.links.size() == before.links.size() + 3);
  CHECK(causeway::fault_of(graph).value_or("whole") == "whole");
  const auto again = graph;
  CHECK_THROWS_AS(causeway::add_nodes(graph, builder.graph), Error);
  CHECK((graph == again));
}

TEST_CASE("what is removed takes along what hangs on it") {
  const auto graph = causeway::test::hgx();
  const auto removed = [&](const std::string& text) { return effect(graph, Kind::remove, text); };
  CHECK(removed("hgx") == "removed node hgx\n");
  CHECK(removed("hgx/gpu3") == "removed component hgx/gpu3\n");
  CHECK(removed("hgx/bridge1") ==
        "removed component hgx/bridge1\nremoved component hgx/nic1\n"
        "removed component hgx/gpu2\nremoved component hgx/gpu3\n");
  CHECK(removed("hgx/cpu1") ==
        "removed component hgx/cpu1\nremoved component hgx/host1\n"
        "removed component hgx/bridge2\nremoved component hgx/nic2\n"
        "removed component hgx/bridge3\nremoved component hgx/nic3\n"
        "removed component hgx/gpu4\nremoved component hgx/gpu5\n"
        "removed component hgx/gpu6\nremoved component hgx/gpu7\n");
  CHECK(removed("hgx/nvswitch0") == "removed component hgx/nvswitch0\n");
  CHECK(removed("hgx/nvswitch0-hgx/gpu1") == "removed nvlink link hgx/gpu1-hgx/nvswitch0\n");
  CHECK(removed("socket:hgx/cpu0-hgx/cpu1") == "removed socket link hgx/cpu0-hgx/cpu1\n");
  CHECK(starts(removed("hgx/gpu33"),
               "not_found: hgx/gpu33: no node, component or link is named "
               "'hgx/gpu33'; did you mean 'hgx/gpu3'?"));
  CHECK(starts(removed("hgx/gpu0>hgx/gpu1"), "invalid_argument: hgx/gpu0>hgx/gpu1: a pair is no "));
  CHECK(starts(removed("hgx/gpu0-hgx/gpu1"), "not_found: hgx/gpu0-hgx/gpu1: no link joins these"));
  const auto cluster = causeway::test::small_cluster();
  CHECK(effect(cluster, Kind::remove, "leaf0") == "removed component leaf0\n");
  CHECK(effect(cluster, Kind::remove, "storage") == "removed node storage\n");
  CHECK(effect(cluster, Kind::remove, "storage-leaf0") == "removed network link storage-leaf0\n");
  auto measured = causeway::test::desktop();
  causeway::apply(measured, {Kind::remove, "desktop/gpu0-desktop/cpu0"});
  CHECK_FALSE(measured.pairs[0].staged_bytes_per_s);
}

static void run_random(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  causeway::test::GraphGenerator generator(random);
  auto graph = generator.make();
  INFO("seed=", seed);
  const auto pick = [&](const auto& list) -> const auto& { return list[random() % list.size()]; };
  const std::vector<std::string> fields{"width", "generation", "count",    "bandwidth", "latency",
                                        "state", "model",      "capacity", "granted",   "up",
                                        "iommu", "bar1",       "verified", "mtu"};
  const std::vector<std::string> values{
      "8",  "4",   "25 Gbit/s", "5 us", "down", "rtx-4090", "h100-sxm", "64 GB",
      "OK", "CNS", "no",        "off",  "",     "-1",       "\"\"",     "="};
  for (int i = 0; i < 30; ++i) {
    std::string target = "x";
    if (!graph.links.empty() && random() % 2 == 0) {
      const auto& link = pick(graph.links);
      target = fmt::format("{}:{}-{}", to_string(link.kind), link.a, link.b);
    } else if (!graph.components.empty()) {
      target = pick(graph.components).name;
      if (random() % 4 == 0) target += ">" + pick(graph.components).name;
    }
    WhatIf change{Kind::set, fmt::format("{}.{}={}", target, pick(fields), pick(values))};
    if (random() % 8 == 0) change = {Kind::remove, target};
    if (random() % 8 == 0) change = {Kind::add_node, fmt::format("n{}=2xh100-sxm,host:1TB", i)};
    const auto before = graph;
    CAPTURE(change.text);
    try {
      causeway::apply(graph, change);
    } catch (const Error& error) {
      REQUIRE((graph == before));
      REQUIRE((error.code() == Errc::invalid_argument || error.code() == Errc::not_found));
    }
    REQUIRE(causeway::fault_of(graph).value_or("whole") == "whole");
  }
}

TEST_CASE("random changes leave random graphs whole") {
  if (const char* seed = std::getenv("CAUSEWAY_TEST_SEED")) return run_random(std::stoull(seed));
  for (std::uint64_t seed = 1; seed <= 200; ++seed) run_random(seed);
}
