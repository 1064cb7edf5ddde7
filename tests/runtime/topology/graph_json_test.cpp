// Goal:   a graph written as JSON reads back equal, to the last bit of every figure, and whatever
//         else is read is refused with file, line and field.
// Method: one text with every field by hand, one text per mistake; then random graphs there and
//         back, and the cost of a large one. Replay a failure with CAUSEWAY_TEST_SEED=<seed>.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cstdlib>
#include <ctime>
#include <limits>
#include <map>
#include <random>
#include <string>

#include "causeway/error.h"
#include "causeway/topology_export.h"
#include "causeway/topology_import.h"
#include "random_graph.h"
#include "runtime/topology/graph_check.h"

using causeway::Errc;
using causeway::Error;
using causeway::graph_from_json;
using causeway::graph_to_json;
using causeway::TopologyGraph;

static std::string error_of(const std::string& text) {
  try {
    (void)graph_from_json(text, "t.json");
  } catch (const Error& error) {
    CHECK(error.code() == Errc::parse);
    return error.what();
  }
  return "accepted";
}

// A file with `rest` after its schema (line 2) on line 3.
static std::string file(const std::string& rest) {
  return "{\n\"schema\": \"causeway-topology/1\",\n" + rest + "\n}";
}

static bool starts(const std::string& text, const std::string& start) {
  const bool same = text.substr(0, start.size()) == start;
  if (!same) MESSAGE(text);
  return same;
}

// Every field, as docs/topology.md names it. One line: also the compact form is read.
static const char* const kEverything = R"({
  "schema": "causeway-topology/1",
  "name": "lab",
  "nodes": [
    {
      "name": "a",
      "driver_version": "580.95.05",
      "cuda_version": "13.0",
      "kernel": "6.1.0",
      "view": "bare_metal",
      "iommu": "passthrough",
      "fabric": "completed",
      "fabric_cluster": "c0ffee",
      "nvlinks_known": true,
      "unseen": ["GPU links: no driver", "x"]
    }
  ],
  "components": [
    {
      "name": "a/gpu0",
      "kind": "gpu",
      "node": "a",
      "model": "h100-sxm",
      "title": "NVIDIA H100 80GB HBM3",
      "uuid": "GPU-1",
      "pci": "0000:65:00.0",
      "vendor_id": 4318,
      "device_id": 9008,
      "numa": 0,
      "capacity_bytes": 18446744073709551615,
      "bar1_bytes": 137438953472,
      "sm": 90,
      "arch": "gfx942",
      "cpu_vendor": "ARM",
      "cpu_family": 6,
      "cpu_model": 207,
      "cpus": "0-23",
      "nvlinks_max": 18,
      "nvlinks_down": 0,
      "port_bytes_per_s": 50000000000,
      "port_max_bytes_per_s": 50000000000.5,
      "port_up": false,
      "mtu": 9000,
      "driver": "mlx5_core",
      "is_rdma": true,
      "gpu_direct": false,
      "acs_redirect": true,
      "is_chipset": false
    },
    {
      "name": "a/bridge0",
      "kind": "bridge",
      "node": "a"
    }
  ],
  "links": [
    {
      "kind": "pcie",
      "a": "a/gpu0",
      "b": "a/bridge0",
      "provenance": "sysfs",
      "count": 2,
      "state": "degraded",
      "pcie": {"generation": 5, "width": 8},
      "pcie_max": {"width": 16},
      "line_bytes_per_s": {"value": 31507692307.692307, "provenance": "spec"},
      "effective_bytes_per_s": {"value": 24000000000, "provenance": "measured"},
      "latency_s": {"value": 1e-06, "provenance": "import"}
    }
  ],
  "pairs": [
    {
      "from": "a/gpu0",
      "to": "a/bridge0",
      "granted_read": "OK",
      "granted_write": "GNS",
      "cuda_agrees": false,
      "verified": "wrong_data",
      "path": "PXB",
      "bandwidth_bytes_per_s": {"value": 55600000000, "provenance": "nvml"},
      "staged_bytes_per_s": {"value": 24900000000, "provenance": "measured"},
      "latency_s": {"value": 4e-07, "provenance": "measured"}
    }
  ],
  "notes": [
    {
      "kind": "repaired",
      "source": "x.xml:3",
      "text": "width 0 \"read\" as\nunknown"
    }
  ]
}
)";

TEST_CASE("every field is read and written by its name, in this order") {
  const auto graph = graph_from_json(kEverything, "t.json");
  CHECK(graph_to_json(graph) == kEverything);
  // Nothing of it is left at its default, so that no field can be skipped on both ways.
  const auto all_there = [](const auto& record) {
    causeway::for_each_field(record, [](causeway::FieldName name, const auto& field) {
      CHECK_MESSAGE(!causeway::is_absent(field), name.text);
    });
  };
  all_there(graph);
  all_there(graph.nodes[0]);
  all_there(graph.components[0]);
  all_there(graph.links[0]);
  all_there(graph.pairs[0]);
  all_there(graph.notes[0]);
  const auto& gpu = graph.components[0];
  CHECK(gpu.kind == causeway::ComponentKind::gpu);
  CHECK(gpu.pci == causeway::PciAddress{0, 0x65, 0, 0});
  CHECK(gpu.capacity_bytes == ~std::uint64_t{0});
  CHECK(gpu.cpu_family == 6U);
  CHECK(gpu.cpu_model == 207U);
  CHECK(gpu.vendor_id == 4318U);
  CHECK(gpu.port_bytes_per_s == 50e9);
  CHECK(gpu.port_max_bytes_per_s == 50e9 + 0.5);
  CHECK(gpu.acs_redirect == true);
  CHECK(gpu.is_chipset == false);
  const auto& link = graph.links[0];
  CHECK(link.pcie.width == 8U);
  CHECK(link.pcie_max.width == 16U);
  CHECK_FALSE(link.pcie_max.generation);
  CHECK(link.latency_s == causeway::Figure{1e-6, causeway::Provenance::import});
  const auto& pair = graph.pairs[0];
  CHECK(pair.granted_write == causeway::PeerStatus::gpu_not_supported);
  CHECK(pair.verified == causeway::PeerCheck::wrong_data);
  CHECK(pair.path == causeway::PathClass::pxb);
  CHECK(graph.nodes[0].unseen == std::vector<std::string>{"GPU links: no driver", "x"});
}

TEST_CASE("the compact form, any order and an empty graph are read") {
  std::string compact;
  for (const char* c = kEverything; *c != '\0'; ++c)
    if (*c != '\n' && !(*c == ' ' && c[1] == ' ')) compact += *c;
  CHECK(graph_from_json(compact, "t.json") == graph_from_json(kEverything, "t.json"));
  CHECK(graph_from_json(R"({"schema":"causeway-topology/1"})", "t.json") == TopologyGraph());
  CHECK(graph_from_json(" {\"name\": \"\\u00e9\\ud83d\\ude00\", \"schema\": "
                        "\"causeway-topology/1\"}\r\n\t ",
                        "t.json")
            .name == "é\xF0\x9F\x98\x80");
}

TEST_CASE("a mistake is named with file, line and field") {
  const auto component = [](const std::string& rest) {
    return error_of(file(R"("components": [{"name": "x", "kind": "gpu", )" + rest + "}]"));
  };
  const auto two = [](const std::string& rest) {
    return error_of(file(R"("nodes": [{"name": "n"}], "components": [{"name": "x", "kind": "gpu"},
      {"name": "y", "kind": "gpu"}],)" +
                         rest));
  };
  CHECK(starts(error_of(""), "t.json:1: not JSON: "));
  CHECK(starts(error_of("{"), "t.json:1: not JSON: "));
  CHECK(starts(error_of("7"), "t.json:1: file: expected an object"));
  CHECK(starts(error_of("[]"), "t.json:1: file: expected an object"));
  CHECK(starts(error_of("\n{} x"), "t.json:2: file: 'schema' is missing"));
  CHECK(starts(error_of(file("\"name\": \"x\"") + "\n{}"), "t.json:5: file: more text after"));
  CHECK(starts(error_of(R"({"schema": "causeway-topology/2"})"),
               "t.json:1: schema: 'causeway-topology/2' is not known; this version understands "
               "\"causeway-topology/1\""));
  CHECK(starts(error_of(file(R"("schema": "causeway-topology/1")")),
               "t.json:3: schema: given twice"));
  CHECK(starts(error_of(file(R"("node": [])")), "t.json:3: node: unknown key; did you mean "));
  CHECK(starts(component(R"("capacity": 1)"), "t.json:3: components[0].capacity: unknown key; "));
  CHECK(starts(component(R"("zzzzzzzzzzzzzzzzzzzzzzzzzz": 1)"),
               "t.json:3: components[0].zzzzzzzzzzzzzzzzzzzzzzzzzz: unknown key; known: name, "));
  CHECK(starts(component(R"("sm": 90, "sm": 90)"), "t.json:3: components[0].sm: given twice"));
  CHECK(starts(component(R"("sm": null)"), "t.json:3: components[0].sm: is null; leave out"));
  CHECK(starts(component(R"("sm": -1)"), "t.json:3: components[0].sm: expected a whole number fr"));
  CHECK(starts(component(R"("sm": 4294967296)"), "t.json:3: components[0].sm: expected a whole"));
  CHECK(starts(component(R"("sm": 1.5)"), "t.json:3: components[0].sm: expected a whole number"));
  CHECK(starts(component(R"("sm": "90")"), "t.json:3: components[0].sm: expected a whole number"));
  CHECK(starts(component(R"("capacity_bytes": 18446744073709551616)"),
               "t.json:3: components[0].capacity_bytes: expected a whole number from 0 to 184467"));
  CHECK(starts(component(R"("port_bytes_per_s": 1e999)"), "t.json:3: "));
  CHECK(starts(component(R"("port_bytes_per_s": -1.5)"),
               "t.json:3: components[0].port_bytes_per_s: expected a finite number of 0 or more"));
  CHECK(starts(component(R"("port_bytes_per_s": NaN)"), "t.json:3: not JSON"));
  CHECK(starts(component(R"("port_up": 1)"), "t.json:3: components[0].port_up: expected true or"));
  CHECK(starts(component(R"("title": 1)"), "t.json:3: components[0].title: expected a string"));
  CHECK(starts(component(R"("title": "\ud800")"), "t.json:3: not JSON"));
  CHECK(starts(component("\"title\": \"\xff\""), "t.json:3: not JSON"));
  CHECK(starts(component(R"("title": {})"),
               "t.json:3: components[0].title: expected one value, got an object"));
  CHECK(starts(component(R"("title": [])"),
               "t.json:3: components[0].title: expected one value, got an array"));
  CHECK(starts(component(R"("pci": "65")"), "t.json:3: components[0].pci: expected a PCI address"));
  CHECK(starts(error_of(file(R"("components": {})")),
               "t.json:3: components: expected an array, got an object"));
  CHECK(starts(error_of(file(R"("components": [[]])")),
               "t.json:3: components[0]: expected an object, got an array"));
  CHECK(starts(error_of(file(R"("components": [7])")),
               "t.json:3: components[0]: expected an object, got '7'"));
  CHECK(starts(error_of(file(R"("components": [{"kind": "gpu"}])")),
               "t.json:3: components[0]: 'name' is missing"));
  CHECK(starts(error_of(file(R"("components": [{"name": "x", "kind": "car"}])")),
               "t.json:3: components[0].kind: expected one of gpu, host, cpu, nic, bridge, "));
  CHECK(starts(error_of(file(R"("components": [{"name": "x", "kind": ""}])")),
               "t.json:3: components[0].kind: expected one of gpu"));
  CHECK(starts(error_of(file("\"components\": [{\"name\": \"x\", \"kind\": \"gpu\"},\n\n{}]")),
               "t.json:5: components[1]: 'name' is missing"));
  CHECK(starts(error_of(file(R"("components": [{"name": "", "kind": "gpu"}])")),
               "t.json: components[0].name: is empty"));
  CHECK(starts(two(R"("components": [])"), "t.json:4: components: given twice"));
  CHECK(starts(component(R"("node": "m")"), "t.json: components[0].node: no node is named 'm'"));
  CHECK(starts(error_of(file(R"("nodes": [{"name": "n"}, {"name": "n"}])")),
               "t.json: nodes[1].name: 'n' is there already, as nodes[0]"));
  CHECK(starts(error_of(file(R"("components": [{"name": "n", "kind": "gpu"},
      {"name": "n", "kind": "nic"}])")),
               "t.json: components[1].name: 'n' is there already, as components[0]"));
  CHECK(starts(error_of(file(R"("nodes": [{"name": "n"}],
      "components": [{"name": "n", "kind": "network_switch"}])")),
               "t.json: components[0].name: 'n' is a node's name"));
  const auto link = [&](const std::string& rest) {
    return two(R"("links": [{"kind": "nvlink", "provenance": "nvml", )" + rest + "}]");
  };
  CHECK(starts(link(R"("a": "x")"), "t.json:4: links[0]: 'b' is missing"));
  CHECK(starts(link(R"("a": "x", "b": "z")"), "t.json: links[0].b: no component is named 'z'"));
  CHECK(starts(link(R"("a": "n", "b": "x")"), "t.json: links[0].a: no component is named 'n'"));
  CHECK(starts(link(R"("a": "x", "b": "x")"), "t.json: links[0].b: joins 'x' to itself"));
  CHECK(starts(link(R"("a": "x", "b": "y", "count": 0)"), "t.json: links[0].count: is 0"));
  CHECK(starts(link(R"("a": "x", "b": "y", "pcie": {"width": "x"})"),
               "t.json:4: links[0].pcie.width: expected a whole number"));
  CHECK(starts(link(R"("a": "x", "b": "y", "latency_s": 1)"),
               "t.json:4: links[0].latency_s: expected an object, got '1'"));
  CHECK(starts(link(R"("a": "x", "b": "y", "latency_s": {"value": 1})"),
               "t.json:4: links[0].latency_s: 'provenance' is missing"));
  CHECK(link(R"("a": "x", "b": "y")") == "accepted");
  CHECK(two(R"("links": [{"kind": "network", "provenance": "spec", "a": "x", "b": "n"}])") ==
        "accepted");
  CHECK(starts(two(R"("pairs": [{"from": "x", "to": "z"}])"),
               "t.json: pairs[0].to: no component is named 'z'"));
  CHECK(starts(two(R"("pairs": [{"from": "x", "to": "y"}, {"from": "x", "to": "y"}])"),
               "t.json: pairs[1].from: 'x' to 'y' is there already"));
}

TEST_CASE("a hostile text costs no more than a small multiple of itself") {
  CHECK(starts(error_of(std::string(1 << 20, '[')), "t.json:1: "));
  std::string deep = file("\"nodes\": ");
  for (int i = 0; i < 100000; ++i) deep.insert(deep.size() - 2, "{\"name\":");
  CHECK(starts(error_of(deep), "t.json:3: "));
  CHECK(starts(error_of(std::string(causeway::kMaxImportBytes + 1, ' ')),
               "t.json:1: text: 67108865 bytes; at most 67108864 are read"));
  std::string many = R"("nodes": [{"name":"n","unseen":[""])";
  many.pop_back();
  for (int i = 0; i < 300; ++i) many += ",\"\"";
  CHECK(starts(error_of(file(many + "]}]")), "t.json:3: nodes[0].unseen[255]: more than 256"));
  std::string notes = "\"notes\": [";
  for (int i = 0; i < 270'000; ++i) notes += R"({"kind":"remark","text":""},)";
  notes.back() = ']';
  CHECK(starts(error_of(file(notes)), "t.json:3: notes[262143]: more than 262144 entries"));
}

TEST_CASE("what JSON cannot say is refused when it is written") {
  const auto refused = [](const TopologyGraph& graph) {
    try {
      (void)graph_to_json(graph);
    } catch (const Error& error) {
      CHECK(error.code() == Errc::invalid_argument);
      return std::string(error.what());
    }
    return std::string("written");
  };
  TopologyGraph graph;
  graph.name = "g";
  causeway::Component gpu;
  gpu.name = "x";
  gpu.title = "\xff";
  graph.components.push_back(gpu);
  CHECK(starts(refused(graph), "topology 'g': components[0].title: '\xEF\xBF\xBD' is not UTF-8"));
  graph.components[0].title.clear();
  graph.components[0].port_bytes_per_s = std::numeric_limits<double>::infinity();
  CHECK(starts(refused(graph), "topology 'g': components[0].port_bytes_per_s: inf is not a "));
  graph.components[0].port_bytes_per_s.reset();
  graph.components[0].pci = causeway::PciAddress{0, 1, 40, 0};
  CHECK(starts(refused(graph), "topology 'g': components[0].pci: 0000:01:28.0 is not a PCI"));
  graph.components[0].pci.reset();
  graph.pairs.push_back({"x", "x"});
  graph.pairs[0].latency_s = causeway::Figure{-1, causeway::Provenance::spec};
  CHECK(starts(refused(graph), "topology 'g': pairs[0].latency_s.value: -1 is not a finite"));
}

static void run_round_trip(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto graph = causeway::test::random_graph(random);
  INFO("seed=", seed);
  REQUIRE(causeway::fault_of(graph).value_or("whole") == "whole");
  const auto text = graph_to_json(graph);
  TopologyGraph again;
  REQUIRE_NOTHROW(again = graph_from_json(text, "round-trip"));
  REQUIRE((again == graph));
  REQUIRE(graph_to_json(again) == text);
}

TEST_CASE("random graphs come back equal") {
  if (const char* seed = std::getenv("CAUSEWAY_TEST_SEED"))
    return run_round_trip(std::stoull(seed));
  for (std::uint64_t seed = 1; seed <= 400; ++seed) run_round_trip(seed);
}

TEST_CASE("random graphs have every field, and are without it, before long") {
  std::map<std::string, std::pair<int, int>> seen;  // By field: there, absent.
  const auto count = [&](const std::string& record, const auto& records) {
    for (const auto& one : records)
      causeway::for_each_field(one, [&](causeway::FieldName name, const auto& field) {
        auto& [there, absent] = seen[record + "." + std::string(name.text)];
        ++(causeway::is_absent(field) ? absent : there);
        if (name.required || name.text == "count") ++absent;
      });
  };
  std::mt19937_64 random(1);
  for (int i = 0; i < 100; ++i) {
    const auto graph = causeway::test::random_graph(random);
    count("node", graph.nodes);
    count("component", graph.components);
    count("link", graph.links);
    count("pair", graph.pairs);
    count("note", graph.notes);
  }
  CHECK(seen.size() == 10 + 29 + 11 + 10 + 3);
  for (const auto& entry : seen) {
    CAPTURE(entry.first);
    CHECK(entry.second.first > 0);
    CHECK(entry.second.second > 0);
  }
}

// 1,024 nodes of 8 GPUs, 8 NICs, 2 CPUs with memory and an NVSwitch.
static TopologyGraph large_graph() {
  TopologyGraph graph;
  graph.name = "large";
  using causeway::ComponentKind;
  using causeway::LinkKind;
  const auto add = [&](const std::string& node, const std::string& name, ComponentKind kind) {
    causeway::Component component;
    component.name = name;
    component.kind = kind;
    component.node = node;
    component.pci = causeway::PciAddress{0, 0x65, 0, 0};
    component.uuid = "GPU-00000000-0000-0000-0000-" + name;
    component.numa = 0;
    component.cpus = "0-47,96-143";
    component.capacity_bytes = 85'899'345'920;
    graph.components.push_back(component);
  };
  const auto join = [&](LinkKind kind, const std::string& a, const std::string& b) {
    causeway::TopologyLink link{kind, a, b};
    link.state = causeway::LinkState::up;
    link.pcie = link.pcie_max = {5, 16};
    link.line_bytes_per_s = causeway::Figure{63'015'384'615.384616, causeway::Provenance::sysfs};
    link.effective_bytes_per_s = causeway::Figure{48e9, causeway::Provenance::sysfs};
    link.latency_s = causeway::Figure{1e-6, causeway::Provenance::spec};
    graph.links.push_back(link);
  };
  add("", "spine", ComponentKind::network_switch);
  for (int n = 0; n < 1024; ++n) {
    const auto node = fmt::format("node{}", n);
    graph.nodes.emplace_back().name = node;
    for (int i = 0; i < 2; ++i) {
      add(node, fmt::format("{}/cpu{}", node, i), ComponentKind::cpu);
      add(node, fmt::format("{}/host{}", node, i), ComponentKind::host);
      join(LinkKind::memory, fmt::format("{}/cpu{}", node, i), fmt::format("{}/host{}", node, i));
    }
    add(node, node + "/nvswitch0", ComponentKind::nvswitch);
    for (int i = 0; i < 8; ++i) {
      const auto gpu = fmt::format("{}/gpu{}", node, i);
      add(node, gpu, ComponentKind::gpu);
      join(LinkKind::pcie, gpu, fmt::format("{}/cpu{}", node, i / 4));
      join(LinkKind::nvlink, gpu, node + "/nvswitch0");
      const auto nic = fmt::format("{}/nic{}", node, i);
      add(node, nic, ComponentKind::nic);
      join(LinkKind::pcie, nic, fmt::format("{}/cpu{}", node, i / 4));
      join(LinkKind::network, nic, "spine");
    }
  }
  return graph;
}

TEST_CASE("a cluster of 1,024 nodes is read fast") {
  const auto graph = large_graph();
  const auto text = graph_to_json(graph);
  const auto start = std::clock();  // The processor's time: neighbours do not count.
  const auto again = graph_from_json(text, "large");
  const auto took = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  MESSAGE(graph.components.size(), " components, ", graph.links.size(), " links, ", text.size(),
          " bytes: ", took, " s");
  CHECK((again == graph));
  CHECK(took < 10);  // A fifth of a second where no sanitizer slows it.
}
