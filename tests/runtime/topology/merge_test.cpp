// Goal:   several sources of one machine give one machine: every device once, every contradiction
//         named, nothing joined that differs.
// Method: each rule of identity and of precedence by hand; then properties over random views of
//         random machines. Replay with CAUSEWAY_TEST_SEED.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <fmt/format.h>

#include <map>
#include <random>
#include <set>
#include <vector>

#include "causeway/topology.h"
#include "import_support.h"

using causeway::Component;
using causeway::ComponentKind;
using causeway::Figure;
using causeway::LinkKind;
using causeway::LinkState;
using causeway::merge;
using causeway::Pair;
using causeway::PathClass;
using causeway::PciAddress;
using causeway::Provenance;
using causeway::TopologyGraph;
using causeway::TopologyLink;
using causeway_test::count_notes;
using causeway_test::count_of;
using causeway_test::find_link;
using causeway_test::find_pair;
using causeway_test::has_note;
using Note = causeway::TopologyNote::Kind;

// A graph built step by step.
struct Source {
  TopologyGraph graph;

  explicit Source(const char* name, const char* node = "m") {
    graph.name = name;
    if (*node != '\0') graph.nodes.emplace_back().name = node;
  }
  Component& add(ComponentKind kind, const std::string& name, const char* pci = "",
                 const char* uuid = "") {
    auto& made = graph.components.emplace_back();
    made.name = name;
    made.kind = kind;
    const auto slash = name.find('/');
    made.node = slash == std::string::npos ? "" : name.substr(0, slash);
    made.pci = PciAddress::parse(pci);
    made.uuid = uuid;
    return made;
  }
  TopologyLink& link(LinkKind kind, const std::string& a, const std::string& b,
                     std::uint32_t count = 1) {
    auto& made = graph.links.emplace_back(TopologyLink{kind, a, b});
    made.provenance = Provenance::import;
    made.count = count;
    return made;
  }
  Pair& pair(const std::string& from, const std::string& to) {
    auto& made = graph.pairs.emplace_back();
    made.from = from;
    made.to = to;
    return made;
  }
};

static TopologyGraph merged(std::vector<Source> sources) {
  std::vector<TopologyGraph> graphs;
  for (auto& source : sources) graphs.push_back(std::move(source.graph));
  return merge(graphs);
}

constexpr auto kGpu = ComponentKind::gpu;
constexpr auto kNic = ComponentKind::nic;
constexpr auto kSwitch = ComponentKind::nvswitch;

TEST_CASE("nothing and one graph stay what they are") {
  CHECK(merge({}) == TopologyGraph{});
  Source one("a");
  one.add(kGpu, "m/gpu0", "1:2.0", "GPU-1");
  one.add(kGpu, "m/gpu1", "1:2.0", "GPU-1");  // However odd.
  one.link(LinkKind::nvlink, "m/gpu0", "m/gpu1", 99);
  one.graph.notes.assign(2, {Note::remark, "a", "twice"});
  CHECK(merge({&one.graph, 1}) == one.graph);
  const std::vector twice{one.graph, one.graph};
  CHECK(merge(twice) == one.graph);
}

TEST_CASE("a UUID is an identity, whatever number and case it has") {
  Source a("a");
  a.add(kGpu, "m/gpu0", "", "GPU-aa");
  a.add(kGpu, "m/gpu1", "", "GPU-bb").title = "first";
  Source b("b");
  b.add(kGpu, "m/gpu0", "", "GPU-BB").numa = 1;
  b.add(kGpu, "m/gpu1", "", "GPU-cc");
  const auto graph = merged({a, b});
  CHECK(count_of(graph, kGpu) == 3);
  CHECK(graph.find("m/gpu1")->numa == 1U);
  CHECK(graph.find("m/gpu1")->title == "first");
  CHECK(graph.find("m/gpu2")->uuid == "GPU-cc");  // Its old name was taken.
}

TEST_CASE("PCI addresses are compared with their domains, as numbers") {
  Source a("a");
  a.add(kGpu, "m/gpu0", "0000:65:00.0");
  a.add(kGpu, "m/gpu1", "0001:65:00.0");
  Source b("b");
  b.add(kGpu, "m/gpu0", "00000001:65:00.0", "GPU-1");
  b.add(kGpu, "m/gpu1", "65:00.0", "GPU-0");
  const auto graph = merged({a, b});
  CHECK(graph.components.size() == 2);
  CHECK(graph.find("m/gpu0")->uuid == "GPU-0");
  CHECK(graph.find("m/gpu1")->uuid == "GPU-1");
  CHECK(graph.notes.empty());
}

TEST_CASE("a device of unknown kind is what stands at its address") {
  Source hints("hints");
  hints.add(ComponentKind::unknown, "m/device0", "10:1c.0").numa = 1;
  Source tree("tree");
  tree.add(kGpu, "m/gpu0", "10:1c.0");
  hints.add(ComponentKind::bridge, "m/bridge0", "10:1.0");
  hints.link(LinkKind::pcie, "m/device0", "m/bridge0");
  for (const auto& graph : {merged({hints, tree}), merged({tree, hints})}) {
    REQUIRE(graph.components.size() == 2);
    const auto* gpu = graph.find("m/gpu0");  // Its name says the kind.
    REQUIRE(gpu != nullptr);
    CHECK(gpu->kind == kGpu);
    CHECK(gpu->numa == 1U);
    CHECK(find_link(graph, "m/gpu0", "m/bridge0") != nullptr);
    CHECK_NOTHROW(causeway::Topology{graph});
  }
}

TEST_CASE("a device that gets a kind takes no other's name") {
  Source hints("hints");
  hints.add(ComponentKind::unknown, "m/device0", "20:1c.0");
  hints.add(kGpu, "m/gpu0", "10:1c.0");
  Source tree("tree");
  tree.add(kGpu, "m/gpu0", "20:1c.0");
  tree.add(kGpu, "m/gpu1", "10:1c.0");
  const auto graph = merged({hints, tree});
  REQUIRE(graph.components.size() == 2);
  CHECK(graph.find("m/gpu0")->pci == PciAddress::parse("10:1c.0"));
  CHECK(graph.find("m/gpu1")->pci == PciAddress::parse("20:1c.0"));
}

TEST_CASE("numbers stand for the order of PCI addresses, and that is said") {
  Source tree("tree");
  tree.add(kGpu, "m/gpu0", "c1:00.0").title = "late";
  tree.add(kGpu, "m/gpu1", "03:00.0").title = "early";
  Source table("table");
  table.add(kGpu, "m/gpu0").numa = 0;
  table.add(kGpu, "m/gpu1").numa = 1;
  table.pair("m/gpu0", "m/gpu1").path = PathClass::sys;
  for (const bool swapped : {false, true}) {
    const auto graph = swapped ? merged({table, tree}) : merged({tree, table});
    REQUIRE(graph.components.size() == 2);
    for (const auto& gpu : graph.components) CHECK(gpu.numa == (gpu.title == "early" ? 0U : 1U));
    CHECK(has_note(graph, Note::remark, "in the order of PCI addresses"));
    REQUIRE(graph.pairs.size() == 1);
    CHECK(graph.find(graph.pairs[0].from)->title == "early");
  }
}

TEST_CASE("numbers stand for numbers where no source has more") {
  Source a("a");
  a.add(kGpu, "m/gpu0");
  a.add(kGpu, "m/gpu1");
  Source b("b");
  b.add(kGpu, "m/gpu1", "", "GPU-1");
  const auto graph = merged({a, b});
  CHECK(graph.components.size() == 2);
  CHECK(graph.find("m/gpu1")->uuid == "GPU-1");
  CHECK(has_note(graph, Note::remark, "only numbers its GPUs"));
}

TEST_CASE("numbers never join chips of two generations") {
  Source table("table");
  table.add(kGpu, "m/gpu0").sm = 89;
  Source tree("tree");
  tree.add(kGpu, "m/gpu0", "03:00.0").sm = 120;
  const auto graph = merged({tree, table});
  CHECK(graph.components.size() == 2);
  CHECK(has_note(graph, Note::conflict, "they differ in what identifies them"));
}

TEST_CASE("a number past all addresses is another GPU") {
  Source tree("tree");
  tree.add(kGpu, "m/gpu0", "03:00.0");
  Source table("table");
  table.add(kGpu, "m/gpu0");
  table.add(kGpu, "m/gpu1");
  auto again = table;
  again.graph.name = "again";
  const auto graph = merged({tree, table, again});
  CHECK(graph.components.size() == 2);
  CHECK(has_note(graph, Note::conflict, "m/gpu1 is none of the 1 GPUs"));
}

TEST_CASE("NICs are joined by GUID, address or title") {
  Source a("a");
  a.add(kNic, "m/nic0", "", "0xE09D730300857D78").title = "mlx5_0";
  a.add(kNic, "m/nic1", "41:00.1").title = "mlx5_1";
  a.add(kNic, "m/nic2").title = "mlx5_2";
  a.add(kNic, "m/nic3").title = "eth0";
  Source b("b");
  b.add(kNic, "m/nic0").title = "mlx5_2";
  b.add(kNic, "m/nic1", "0000:41:00.1").mtu = 4096;
  b.add(kNic, "m/nic2", "", "e09d:7303:0085:7d78").port_up = true;
  b.add(kNic, "m/nic3").title = "eth1";
  const auto graph = merged({a, b});
  CHECK(count_of(graph, kNic) == 5);  // eth0 and eth1 are two.
  CHECK(graph.find("m/nic0")->port_up == true);
  CHECK(graph.find("m/nic1")->mtu == 4096U);
  CHECK(count_notes(graph, Note::conflict) == 0);
}

TEST_CASE("a fabric's adapters find their machines") {
  Source machine("machine", "a08-c01");
  machine.add(kNic, "a08-c01/nic0", "18:00.0", "0xe09d").title = "mlx5_0";
  machine.add(kNic, "a08-c01/nic1", "29:00.0", "").title = "mlx5_1";
  Source fabric("fabric", "a08-c01");
  fabric.add(kNic, "a08-c01/nic1").title = "mlx5_1";
  fabric.add(kNic, "hca-000000000000e09d", "", "0x000000000000e09d").title = "MT4129 ConnectX7";
  fabric.add(ComponentKind::network_switch, "leaf-1", "", "0x1");
  fabric.link(LinkKind::network, "a08-c01/nic1", "leaf-1");
  fabric.link(LinkKind::network, "hca-000000000000e09d", "leaf-1");
  Source other("other", "");
  other.add(ComponentKind::network_switch, "the-leaf", "", "0x01");
  for (const bool swapped : {false, true}) {
    const auto graph =
        swapped ? merged({other, fabric, machine}) : merged({machine, fabric, other});
    CHECK(graph.components.size() == 3);
    const auto* leaf = swapped ? "the-leaf" : "leaf-1";
    CHECK(find_link(graph, "a08-c01/nic0", leaf) != nullptr);
    CHECK(find_link(graph, "a08-c01/nic1", leaf) != nullptr);
    CHECK(graph.find("a08-c01/nic0")->node == "a08-c01");
  }
}

TEST_CASE("nodes of different names stay different nodes") {
  Source a("a", "m");
  a.add(kGpu, "m/gpu0", "01:00.0", "GPU-1");
  Source b("b", "n");
  b.add(kGpu, "n/gpu0", "01:00.0", "GPU-1");
  const auto graph = merged({a, b});
  CHECK(graph.nodes.size() == 2);
  CHECK(graph.components.size() == 2);
}

TEST_CASE("CPUs and host memories are joined by NUMA node") {
  Source a("a");
  a.add(ComponentKind::cpu, "m/cpu0").numa = 1;
  a.add(ComponentKind::host, "m/host0").numa = 0;
  Source b("b");
  b.add(ComponentKind::cpu, "m/cpu0").numa = 0;
  b.add(ComponentKind::cpu, "m/cpu1").numa = 1;
  auto& host = b.add(ComponentKind::host, "m/host7");
  host.numa = 0;
  host.capacity_bytes = 64;
  const auto graph = merged({a, b});
  CHECK(count_of(graph, ComponentKind::cpu) == 2);
  CHECK(graph.find("m/host0")->capacity_bytes == 64U);
}

TEST_CASE("what a source repeats is no identity") {
  Source a("a");
  a.add(ComponentKind::bridge, "m/bridge0", "ff:00.0");
  a.add(ComponentKind::bridge, "m/bridge1", "ff:00.0");
  Source b("b");
  b.add(ComponentKind::bridge, "m/bridge1", "ff:00.0");
  const auto graph = merged({a, b});
  CHECK(graph.components.size() == 2);  // By name.
}

TEST_CASE("values that differ are named with both sources, and the first stays") {
  Source a("first.xml");
  a.add(kGpu, "m/gpu0", "01:00.0").numa = 0;
  a.graph.nodes[0].driver_version = "550";
  Source b("second.txt");
  b.add(kGpu, "m/gpu0", "01:00.0").numa = 1;
  b.graph.nodes[0].driver_version = "560";
  const auto graph = merged({a, b});
  CHECK(graph.find("m/gpu0")->numa == 0U);
  CHECK(has_note(graph, Note::conflict,
                 "m/gpu0: NUMA node is 0 in first.xml and 1 in second.txt; kept the first"));
  CHECK(has_note(graph, Note::conflict, "m: driver is 550 in first.xml and 560 in second.txt"));
}

TEST_CASE("values of two files that differ are named with the files") {
  const auto file = [](const char* name, const char* model) {
    return causeway::import_topology(
        std::string(R"(<system version="1"><cpu numaid="0" modelid=")") + model + R"("/></system>)",
        name);
  };
  const auto graph = merge(std::vector{file("a.xml", "1"), file("b.xml", "2")});
  CHECK(has_note(graph, Note::conflict, "CPU model is 1 in a.xml and 2 in b.xml"));
}

TEST_CASE("measured wins over reported, and reported over specified, in any order") {
  const auto with = [](const char* name, Figure figure) {
    Source source(name);
    source.add(kGpu, "m/gpu0", "01:00.0");
    source.add(kGpu, "m/gpu1", "02:00.0");
    source.pair("m/gpu0", "m/gpu1").bandwidth_bytes_per_s = figure;
    return source;
  };
  const auto spec = with("spec", {1, Provenance::spec});
  const auto said = with("said", {2, Provenance::nvml});
  const auto seen = with("seen", {3, Provenance::measured});
  for (const auto& order : std::vector<std::vector<Source>>{
           {spec, said, seen}, {seen, said, spec}, {said, seen, spec}}) {
    const auto graph = merged(order);
    REQUIRE(graph.pairs.size() == 1);
    CHECK(graph.pairs[0].bandwidth_bytes_per_s == Figure{3, Provenance::measured});
    CHECK(count_notes(graph, Note::conflict) == 0);
  }
  const auto graph = merged({said, with("also", {4, Provenance::sysfs})});
  CHECK(graph.pairs[0].bandwidth_bytes_per_s->value == 2);
  CHECK(has_note(graph, Note::conflict, "bandwidth is 2 (nvml) in said and 4 (sysfs) in also"));
}

TEST_CASE("links that two sources show are one, whichever way round") {
  Source a("a");
  a.add(kGpu, "m/gpu0", "01:00.0");
  a.add(kGpu, "m/gpu1", "02:00.0");
  a.link(LinkKind::nvlink, "m/gpu0", "m/gpu1", 4);
  Source b("b");
  b.add(kGpu, "m/gpu7", "01:00.0");
  b.add(kGpu, "m/gpu8", "02:00.0");
  b.link(LinkKind::nvlink, "m/gpu8", "m/gpu7", 4).state = LinkState::up;
  const auto graph = merged({a, b});
  REQUIRE(graph.links.size() == 1);
  CHECK(graph.links[0].state == LinkState::up);
  b.graph.links[0].count = 3;
  CHECK(has_note(merged({a, b}), Note::conflict, "links is 4 in a and 3 in b"));
}

TEST_CASE("a hidden switch is the real ones of another source") {
  Source table("table");
  Source tree("tree");
  for (int i = 0; i < 4; ++i) {
    table.add(kGpu, fmt::format("m/gpu{}", i));
    tree.add(kGpu, fmt::format("m/gpu{}", i), fmt::format("{:02x}:00.0", i + 1).c_str());
  }
  table.add(kSwitch, "m/nvswitch0").title = "hidden";
  tree.add(kSwitch, "m/nvswitch0", "c1:00.0");
  tree.add(kSwitch, "m/nvswitch1", "c2:00.0");
  for (int i = 0; i < 4; ++i) {
    table.link(LinkKind::nvlink, fmt::format("m/gpu{}", i), "m/nvswitch0", 18);
    tree.link(LinkKind::nvlink, fmt::format("m/gpu{}", i), "m/nvswitch0", 9);
    tree.link(LinkKind::nvlink, fmt::format("m/gpu{}", i), "m/nvswitch1", 9);
  }
  for (const bool swapped : {false, true}) {
    const auto graph = swapped ? merged({table, tree}) : merged({tree, table});
    CHECK(count_of(graph, kSwitch) == 2);
    CHECK(graph.links.size() == 8);
    CHECK(count_notes(graph, Note::conflict) == 0);
  }
  table.graph.links[0].count = 17;
  CHECK(has_note(merged({tree, table}), Note::conflict, "m/gpu0: 17 NVLinks to switches here, 18"));
}

TEST_CASE("what a table joins and a tree shows in halves is one domain") {
  Source table("table");
  table.add(kSwitch, "m/nvswitch0").title = "hidden";
  Source tree("tree");
  tree.add(kSwitch, "m/nvswitch0", "c1:00.0");
  tree.add(kSwitch, "m/nvswitch1", "c2:00.0");
  for (int i = 0; i < 4; ++i) {
    table.add(kGpu, fmt::format("m/gpu{}", i));
    table.link(LinkKind::nvlink, fmt::format("m/gpu{}", i), "m/nvswitch0", 6);
    tree.add(kGpu, fmt::format("m/gpu{}", i), fmt::format("{:02x}:00.0", i + 1).c_str());
    tree.link(LinkKind::nvlink, fmt::format("m/gpu{}", i), fmt::format("m/nvswitch{}", i / 2), 6);
  }
  for (const bool swapped : {false, true}) {
    const auto graph = swapped ? merged({table, tree}) : merged({tree, table});
    REQUIRE(count_of(graph, kSwitch) == 3);
    CHECK(graph.links.size() == 6);  // One per GPU, and the two halves to the hidden one.
    std::size_t trunks = 0;
    for (const auto& link : graph.links)
      if (graph.find(link.a)->kind == kSwitch && graph.find(link.b)->kind == kSwitch) {
        ++trunks;
        CHECK(link.count == 6);
        CHECK((graph.find(link.a)->title == "hidden") != (graph.find(link.b)->title == "hidden"));
      }
    CHECK(trunks == 2);
    CHECK(has_note(graph, Note::remark, "shows in parts"));
  }
}

TEST_CASE("a direct link is the way over another source's switch") {
  Source pair("pair");
  pair.add(kGpu, "m/gpu0", "", "GPU-0");
  pair.add(kGpu, "m/gpu1", "", "GPU-1");
  pair.link(LinkKind::nvlink, "m/gpu0", "m/gpu1", 18);
  Source tree("tree");
  tree.add(kGpu, "m/gpu0", "", "GPU-0");
  tree.add(kGpu, "m/gpu1", "", "GPU-1");
  tree.add(kSwitch, "m/nvswitch0", "c1:00.0");
  tree.link(LinkKind::nvlink, "m/gpu0", "m/nvswitch0", 18);
  tree.link(LinkKind::nvlink, "m/gpu1", "m/nvswitch0", 18);
  const auto graph = merged({pair, tree});
  CHECK(graph.links.size() == 2);
  CHECK(find_link(graph, "m/gpu0", "m/gpu1") == nullptr);
  CHECK(has_note(graph, Note::remark, "go through the NVSwitch"));
}

TEST_CASE("one source knows the chip, another one its links") {
  Source table("table");
  Source names("names");
  for (int i = 0; i < 3; ++i) {
    table.add(kGpu, fmt::format("m/gpu{}", i));
    names.add(kGpu, fmt::format("m/gpu{}", i)).sm = 70;  // Six links each.
    for (int j = 0; j < i; ++j)
      table.link(LinkKind::nvlink, fmt::format("m/gpu{}", j), fmt::format("m/gpu{}", i), 6);
  }
  const auto graph = merged({table, names});
  CHECK(count_of(graph, kSwitch) == 1);
  CHECK(graph.links.size() == 3);
}

TEST_CASE("the tree that shows more places a device; paths stay in pairs") {
  Source flat("flat");
  flat.add(kGpu, "m/gpu0", "03:00.0");
  flat.add(ComponentKind::cpu, "m/cpu0").numa = 0;
  flat.link(LinkKind::pcie, "m/gpu0", "m/cpu0");
  Source deep("deep");
  deep.add(kGpu, "m/gpu0", "03:00.0");
  deep.add(ComponentKind::bridge, "m/bridge0", "01:00.0");
  deep.add(ComponentKind::cpu, "m/cpu0").numa = 0;
  deep.link(LinkKind::pcie, "m/gpu0", "m/bridge0");
  deep.link(LinkKind::pcie, "m/bridge0", "m/cpu0");
  Source table("table");
  table.add(kGpu, "m/gpu0");
  table.add(kGpu, "m/gpu1");
  table.pair("m/gpu0", "m/gpu1").path = PathClass::phb;
  for (const bool swapped : {false, true}) {
    const auto graph = swapped ? merged({table, flat, deep}) : merged({deep, flat, table});
    CHECK(graph.links.size() == 2);
    CHECK(find_link(graph, "m/gpu0", "m/cpu0") == nullptr);
    REQUIRE(graph.pairs.size() == 1);
    CHECK(graph.pairs[0].path == PathClass::phb);
  }
}

TEST_CASE("notes are kept once, and conflicts are not without end") {
  Source a("a");
  a.graph.notes.push_back({Note::remark, "x", "same"});
  Source b("b");
  b.graph.notes.push_back({Note::remark, "x", "same"});
  for (int i = 0; i < 200; ++i) {
    a.add(kGpu, fmt::format("m/gpu{}", i), "", fmt::format("GPU-{}", i).c_str()).numa = 0;
    b.add(kGpu, fmt::format("m/gpu{}", i), "", fmt::format("GPU-{}", i).c_str()).numa = 1;
  }
  const auto graph = merged({a, b});
  CHECK(count_notes(graph, Note::remark) == 1);
  CHECK(count_notes(graph, Note::conflict) == 65);
  CHECK(has_note(graph, Note::conflict, "136 more values"));
}

// A view of a machine: what one source sees of it, under names of its own.
static TopologyGraph view(std::mt19937_64& random, std::size_t gpus, bool addresses, bool uuids,
                          const std::string& name) {
  Source source(name.c_str());
  std::vector<std::size_t> order(gpus);
  for (std::size_t i = 0; i < gpus; ++i) order[i] = i;
  // Only a source that identifies its devices may name them as it likes.
  if (addresses) std::ranges::shuffle(order, random);
  std::vector<std::string> names(gpus);
  for (std::size_t i = 0; i < gpus; ++i) {
    const auto device = order[i];
    names[device] = fmt::format("m/gpu{}", i);
    auto& gpu = source.add(kGpu, names[device],
                           addresses ? fmt::format("{:02x}:00.0", device + 1).c_str() : "",
                           uuids ? fmt::format("GPU-{}", device).c_str() : "");
    if (random() % 2 == 0) gpu.numa = static_cast<std::uint32_t>(device / 2);
    if (random() % 2 == 0) gpu.title = fmt::format("card {}", device);
  }
  for (std::size_t i = 0; i < gpus; ++i)
    for (std::size_t j = 0; j < gpus; ++j) {
      if (i == j || random() % 3 == 0) continue;
      auto& pair = source.pair(names[i], names[j]);
      pair.path = PathClass::sys;
      if (random() % 2 == 0)
        pair.bandwidth_bytes_per_s =
            Figure{static_cast<double>(10 * i + j + 1), Provenance::measured};
      if (i < j && i + 1 == j && random() % 2 == 0)
        source.link(LinkKind::nvlink, names[i], names[j], 2);
    }
  return source.graph;
}

// What is said of each device by what it is, not by its name.
static std::set<std::string> facts(const TopologyGraph& graph) {
  std::map<std::string, std::string> ids;
  std::set<std::string> said;
  for (const auto& component : graph.components) {
    ids[component.name] = component.pci ? component.pci->to_string() : component.name;
    said.insert(fmt::format("{} uuid={} numa={} title={}", ids[component.name], component.uuid,
                            component.numa.value_or(99), component.title));
  }
  for (const auto& link : graph.links)
    said.insert(fmt::format("{} - {} x{}", std::min(ids[link.a], ids[link.b]),
                            std::max(ids[link.a], ids[link.b]), link.count));
  for (const auto& pair : graph.pairs)
    said.insert(fmt::format("{} > {} {}", ids[pair.from], ids[pair.to],
                            pair.bandwidth_bytes_per_s ? pair.bandwidth_bytes_per_s->value : 0));
  return said;
}

TEST_CASE("random views of a machine make the machine, in any order") {
  const char* given = std::getenv("CAUSEWAY_TEST_SEED");
  const auto first = given != nullptr ? std::strtoull(given, nullptr, 10) : 1;
  const auto last = given != nullptr ? first : 2000;
  for (auto seed = first; seed <= last; ++seed) {
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    const auto gpus = 1 + random() % 8;
    std::vector<TopologyGraph> graphs{view(random, gpus, true, random() % 2 == 0, "v0")};
    for (auto more = random() % 4; more-- > 0;)
      graphs.push_back(view(random, gpus, random() % 2 == 0, random() % 2 == 0,
                            fmt::format("v{}", graphs.size())));
    const auto graph = merge(graphs);
    REQUIRE(graph.components.size() == gpus);
    REQUIRE(count_notes(graph, Note::conflict) == 0);
    const std::vector again{graph, graph};
    REQUIRE(merge(again) == graph);
    std::ranges::shuffle(graphs, random);
    REQUIRE(facts(merge(graphs)) == facts(graph));
    // What a source says does not change what it already said.
    graphs.push_back(graph);
    REQUIRE(facts(merge(graphs)) == facts(graph));
  }
}
