// Goal:   a fabric is read with its machines, adapters, switches, rates and parallel cables, each
//         cable once; names that strangers gave become names that we can use.
// Method: a small fabric by hand, then what can be wrong with it; random fabrics printed and read
//         back; the published one. Replay with CAUSEWAY_TEST_SEED.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <fmt/format.h>

#include <chrono>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "import_support.h"

using causeway::ComponentKind;
using causeway::ImportFormat;
using causeway::TopologyGraph;
using causeway_test::count_notes;
using causeway_test::count_of;
using causeway_test::find_link;
using causeway_test::fixture;
using causeway_test::has_note;
using causeway_test::parse_refusal;
using causeway_test::published;
using Note = causeway::TopologyNote::Kind;

static TopologyGraph read(const std::string& text) {
  return causeway::import_topology(text, "file", {ImportFormat::ibnetdiscover, ""});
}

TEST_CASE("a small fabric") {
  const auto text = fixture("small.ibnetdiscover.txt");
  CHECK(causeway::detect_format(text) == ImportFormat::ibnetdiscover);
  const auto graph = causeway::import_topology(text, "file");
  CHECK(graph.nodes.size() == 2);
  REQUIRE(graph.find_node("node-1") != nullptr);
  CHECK(has_note(graph, Note::repaired, "'Node_1' node-1"));
  REQUIRE(count_of(graph, ComponentKind::network_switch) == 2);
  REQUIRE(count_of(graph, ComponentKind::nic) == 4);
  const auto* leaf = graph.find("leaf-1");
  REQUIRE(leaf != nullptr);
  CHECK(leaf->node.empty());
  CHECK(leaf->uuid == "0x000000000000aa01");
  CHECK(leaf->title == "MF0;Leaf-1:MQM9700/U1");
  const auto* nic = graph.find("node-1/nic3");
  REQUIRE(nic != nullptr);
  CHECK(nic->node == "node-1");
  CHECK(nic->title == "mlx5_3");
  CHECK(nic->uuid == "0x0000000000000001");
  CHECK(nic->port_bytes_per_s == 50e9);  // 4xNDR: 400 Gbit/s.
  CHECK(nic->port_up == true);
  // A card of two ports is two NICs, with the GUIDs of the ports.
  CHECK(graph.find("b/nic1")->uuid == "0x2a");
  CHECK(graph.find("b/nic2")->uuid == "0x2b");
  CHECK(graph.find("b/nic2")->port_bytes_per_s == 25e9);  // 2xNDR
  CHECK(graph.find("hca-0000000000000003")->node.empty());
  CHECK(has_note(graph, Note::remark, "1 adapters do not say whose they are"));
  const auto* trunk = find_link(graph, "leaf-1", "spine-1");
  REQUIRE(trunk != nullptr);
  CHECK(trunk->count == 2);
  CHECK(trunk->line_bytes_per_s->value == 75e9);  // 4xNDR and 4xHDR.
  CHECK(trunk->effective_bytes_per_s == trunk->line_bytes_per_s);
  const auto* up = find_link(graph, "leaf-1", "node-1/nic3");
  REQUIRE(up != nullptr);
  CHECK(up->a == "node-1/nic3");
  CHECK(up->count == 1);
  CHECK(graph.links.size() == 5);
  CHECK_FALSE(has_note(graph, Note::repaired, "listed from one end"));
}

TEST_CASE("rates of widths and speeds") {
  for (const auto& rate : std::map<std::string, double>{{"4xSDR", 8},
                                                        {"4xDDR", 16},
                                                        {"4xQDR", 32},
                                                        {"4xFDR10", 40},
                                                        {"4xEDR", 100},
                                                        {"4xHDR", 200},
                                                        {"2xHDR", 100},
                                                        {"4xNDR", 400},
                                                        {"2xNDR", 200},
                                                        {"1xNDR", 100},
                                                        {"4xXDR", 800},
                                                        {"12xQDR", 96}}) {
    const auto& word = rate.first;
    CAPTURE(word);
    const auto graph =
        read("Ca 1 \"H-01\" # \"a mlx5_0\"\n[1](1) \"S-02\"[1] # lid 1 lmc 0 \"s\" lid 2 " + word +
             "\n");
    CHECK(*graph.find("a/nic0")->port_bytes_per_s == doctest::Approx(rate.second * 1e9 / 8));
  }
  const auto odd =
      read("Ca 1 \"H-01\" # \"a mlx5_0\"\n[1](1) \"S-02\"[1] # lid 1 lmc 0 \"s\" lid 2 4xWhat\n");
  CHECK_FALSE(odd.find("a/nic0")->port_bytes_per_s);
  CHECK_FALSE(odd.links[0].line_bytes_per_s);
  CHECK_FALSE(odd.links[0].effective_bytes_per_s);
  CHECK(has_note(odd, Note::remark, "not known"));
}

TEST_CASE("cables that one end does not list, and other oddities") {
  const auto one = read(
      "Switch 2 \"S-01\" # \"a\" base port 0 lid 1 lmc 0\n"
      "[1] \"S-02\"[7] # \"b\" lid 2 4xHDR\n[2] \"S-01\"[2] # \"a\" lid 1 4xHDR\n"
      "Switch 2 \"S-02\" # \"b\" base port 0 lid 2 lmc 0\n");
  CHECK(one.links.size() == 1);
  CHECK(has_note(one, Note::repaired, "S-02 does not list its cable to S-01"));
  CHECK(has_note(one, Note::repaired, "to itself"));

  // Chassis, as -g prints them, and a router.
  const auto chassis = read(
      "Chassis 0x8f104004117db guid 0x8f104004117db\n"
      "Switch 24 \"S-01\" # \"x\" base port 0 lid 6 lmc 0\n"
      "[22][ext 1] \"H-02\"[1](2) # \"n mlx4_0\" lid 4 4xQDR\n"
      "[3] \"S-03\"[2][ext 18] # \"y\" lid 4 4xQDR\n"
      "Rt 1 \"R-04\" # \"router\"\n[1](4) \"S-01\"[4] # lid 9 lmc 0 \"x\" lid 6 4xQDR\n");
  CHECK(count_of(chassis, ComponentKind::network_switch) == 3);
  CHECK(find_link(chassis, "x", "y") != nullptr);
  CHECK(find_link(chassis, "x", "router") != nullptr);
  CHECK(find_link(chassis, "x", "n/nic0") != nullptr);
}

TEST_CASE("a fabric that a report indents") {
  const std::string text =
      "    switchguid=0x1(1)\n"
      "    Switch 2 \"S-01\" # \"a\" base port 0 lid 1 lmc 0\n"
      "    [1] \"H-02\"[1](2) # \"n mlx4_0\" lid 2 4xQDR\n";
  CHECK(causeway::detect_format(text) == ImportFormat::ibnetdiscover);
  CHECK(find_link(read(text), "a", "n/nic0") != nullptr);
}

TEST_CASE("prompts around the output, and the full form with numbers behind the rate") {
  const std::string text =
      "[root@n ~]# ibnetdiscover -f\n"
      "Switch 2 \"S-01\" # \"a\" base port 0 lid 1 lmc 0\n"
      "[1] \"H-02\"[1](2) # \"n mlx5_0\" lid 2 4xEDR s=4 w=2 v=4 e=2\n"
      "[2] \"S-03\"[1] # \"b\" lid 3 4xQDR s=4 w=2 v=4 slot 2\n"
      "[root@n ~]#\n";
  CHECK(causeway::detect_format(text) == ImportFormat::ibnetdiscover);
  const auto graph = read(text);
  CHECK(graph.find("n/nic0")->port_bytes_per_s == 12.5e9);
  CHECK(find_link(graph, "a", "b")->line_bytes_per_s->value == 4e9);
  CHECK_FALSE(has_note(graph, Note::remark, "not known"));
}

TEST_CASE("hosts that say more of themselves than the number of their adapter") {
  const auto graph = read(
      "Switch 3 \"S-01\" # \"a\" base port 0 lid 1 lmc 0\n"
      "[1] \"H-02\"[1](2) # \"db01 S 192.0.2.1 HCA-1\" lid 2 4xQDR\n"
      "[2] \"H-03\"[1](3) # \"h_7 HCA-2 (Mellanox HCA)\" lid 3 4xHDR\n"
      "[3] \"H-04\"[1](4) # \"Mellanox Technologies Aggregation Node\" lid 4 4xHDR\n");
  REQUIRE(find_link(graph, "a", "db01/nic1") != nullptr);
  CHECK(graph.find("db01/nic1")->title == "HCA-1");
  CHECK(graph.find("h-7/nic2") != nullptr);
  CHECK(graph.nodes.size() == 2);
}

TEST_CASE("grouping prints a chassis' switches twice") {
  const std::string record =
      "Switch 24 \"S-01\" # \"x\" base port 0 lid 6 lmc 0\n"
      "[1] \"H-02\"[1](2) # \"n mlx4_0\" lid 4 4xQDR\n";
  const auto graph =
      read("Chassis 1 (guid 0x1)\n# Line Nodes\n" + record + "# Chassis Switches\n" + record +
           "Ca 1 \"H-02\" # \"n mlx4_0\"\n"
           "[1](2) \"S-01\"[1] # lid 4 lmc 0 \"x\" lid 6 4xQDR\n");
  CHECK(find_link(graph, "x", "n/nic0")->count == 1);
  CHECK(graph.notes.empty());
}

TEST_CASE("what stands behind the rate, and behind an adapter's number") {
  const auto graph = read(
      "Switch 3 \"S-01\" # \"a\" base port 0 lid 1 lmc 0\n"
      "[1] \"H-02\"[1](2) # \"n HCA-1 (Some HCA)\" lid 2 4xHDR s=4 w=2 v=4\n"  // -f
      "[2] \"H-03\"[1](3) # \"n HCA-2 (Some HCA)\" lid 3 1xSDR slot 2\n"
      "[3] \"H-04\"[1](4) # \"MT0 Some Card\" lid 4 4xQDR (scp)\n");
  CHECK(graph.nodes.size() == 1);
  REQUIRE(graph.find("n/nic1") != nullptr);
  CHECK(graph.find("n/nic1")->title == "HCA-1");
  CHECK(graph.find("n/nic1")->port_bytes_per_s == 25e9);
  REQUIRE(graph.find("n/nic2") != nullptr);
  CHECK(graph.find("n/nic2")->port_bytes_per_s == 0.25e9);
  CHECK(graph.find("hca-04")->port_bytes_per_s == 4e9);
  CHECK_FALSE(has_note(graph, Note::remark, "width and speed"));
}

TEST_CASE("chassis list their switches twice") {
  const std::string records =
      "Switch 2 \"S-01\" # \"x\" base port 0 lid 6 lmc 0\n[1] \"S-02\"[1] # \"y\" lid 4 4xQDR\n"
      "Switch 2 \"S-02\" # \"y\" base port 0 lid 4 lmc 0\n[1] \"S-01\"[1] # \"x\" lid 6 4xQDR\n";
  const auto grouped = read("Chassis 1 (guid 0x8)\n# Spine Nodes\n" + records +
                            "# Chassis Switches\n" + records + "Non-Chassis Nodes\n");
  REQUIRE(grouped.links.size() == 1);
  CHECK(grouped.links[0].count == 1);
  CHECK(grouped.notes.empty());
}

TEST_CASE("a cable whose ends give two rates") {
  const auto graph = read(
      "Switch 2 \"S-01\" # \"a\" base port 0 lid 1 lmc 0\n[1] \"S-02\"[1] # \"b\" lid 2 4xSDR\n"
      "Switch 2 \"S-02\" # \"b\" base port 0 lid 2 lmc 0\n[1] \"S-01\"[1] # \"a\" lid 1 1xSDR\n");
  const auto* cable = find_link(graph, "a", "b");
  REQUIRE(cable != nullptr);
  CHECK(cable->line_bytes_per_s->value == 0.25e9);
  CHECK(has_note(graph, Note::conflict, "S-01 and S-02 give it two rates"));
}

TEST_CASE("names that say nothing, or the same") {
  const auto same = read(
      "Switch 1 \"S-01\" # \"SwitchIB Mellanox Technologies\"\n"
      "Switch 1 \"S-02\" # \"SwitchIB Mellanox Technologies\"\n"
      "Rt 1 \"R-02\" # \"SwitchIB Mellanox Technologies\"\n"
      "Ca 1 \"H-03\" # \"localhost HCA-1\"\nCa 1 \"H-04\" # \"localhost HCA-2\"\n"
      "Ca 1 \"H-05\" # \"box mlx5_0\"\nCa 1 \"H-06\" # \"box mlx5_0\"\n"
      "Ca 1 \"H-07\" # \"A_b mlx5_0\"\nCa 1 \"H-08\" # \"a-b mlx5_0\"\n"
      "Ca 1 \"H-09\" # \"alone\"\nCa 1 \"H-0a\" # \"\"\nCa 1 \"H-0b\"\n");
  CHECK(same.find("switch-01") != nullptr);
  CHECK(same.find("switch-02") != nullptr);
  CHECK(same.find("switch-02-x") != nullptr);  // A router of the same GUID.
  std::set<std::string> nodes;
  for (const auto& node : same.nodes) nodes.insert(node.name);
  CHECK(nodes == std::set<std::string>{"a-b", "a-b-2", "alone"});
  CHECK(count_of(same, ComponentKind::nic) == 9);
  CHECK(has_note(same, Note::remark, "6 adapters"));
  CHECK_FALSE(same.find("a-b/nic0")->port_up);  // Nothing is said of it.
}

TEST_CASE("what is no fabric is refused with its line") {
  CHECK(parse_refusal([] { return read("hello"); }).find("ibnetdiscover") != std::string::npos);
  CHECK(parse_refusal([] { return read("\n[1] \"H-01\"[1](1)\n"); }).starts_with("file:2: "));
  CHECK(parse_refusal([] {
          return read("Switch 1 \"S-01\"\n[x] \"H-01\"[1]\n");
        }).starts_with("file:2: "));
  CHECK(parse_refusal([] {
          return read("Switch 1 \"S-01\"\n[1] nothing\n");
        }).starts_with("file:2: "));
  CHECK(parse_refusal([] { return read("Switch 1 \"Q-01\"\n"); }).find("Q-01") !=
        std::string::npos);
  CHECK(parse_refusal([] { return read("Switch 1 \"S-xyz\"\n"); }).find("S-xyz") !=
        std::string::npos);
}

TEST_CASE("random fabrics read back") {
  const char* given = std::getenv("CAUSEWAY_TEST_SEED");
  const auto first = given != nullptr ? std::strtoull(given, nullptr, 10) : 1;
  const auto last = given != nullptr ? first : 300;
  for (auto seed = first; seed <= last; ++seed) {
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    const auto switches = 1 + random() % 6;
    const auto hosts = random() % 12;
    std::vector<std::string> records(switches + hosts);
    std::vector<std::uint32_t> next_port(switches, 1);
    const auto id = [&](std::size_t device) {
      return fmt::format("{}-{:04x}", device < switches ? 'S' : 'H', device + 1);
    };
    const auto title = [&](std::size_t device) {
      return device < switches ? fmt::format("MF0;s{}:Q/U1", device)
                               : fmt::format("h{} mlx5_0", device - switches);
    };
    std::map<std::pair<std::size_t, std::size_t>, std::uint32_t> cables;
    const auto connect = [&](std::size_t a, std::size_t b) {
      const auto port_a = next_port[a]++;
      const auto port_b = b < switches ? next_port[b]++ : 1;
      records[a] += fmt::format("[{}]\t\"{}\"[{}]{} # \"{}\" lid 1 4xEDR\n", port_a, id(b), port_b,
                                b < switches ? "" : fmt::format("({:x})", b), title(b));
      records[b] += b < switches
                        ? fmt::format("[{}]\t\"{}\"[{}] # \"{}\" lid 1 4xEDR\n", port_b, id(a),
                                      port_a, title(a))
                        : fmt::format("[1]({:x})\t\"{}\"[{}] # lid 3 lmc 0 \"{}\" lid 1 4xEDR\n", b,
                                      id(a), port_a, title(a));
      ++cables[{a, b}];
    };
    for (std::size_t i = 0; i < hosts; ++i) connect(random() % switches, switches + i);
    for (auto i = random() % 10; i-- > 0 && switches > 1;) {
      const auto a = random() % (switches - 1);
      connect(a, a + 1 + random() % (switches - 1 - a));
    }
    std::string text;
    for (std::size_t i = 0; i < records.size(); ++i)
      text += fmt::format("vendid=0x2c9\n{} 9 \"{}\" # \"{}\"\n{}\n",
                          i < switches ? "Switch" : "Ca", id(i), title(i), records[i]);
    const auto graph = read(text);
    CAPTURE(text);
    REQUIRE(count_of(graph, ComponentKind::network_switch) == switches);
    REQUIRE(graph.nodes.size() == hosts);
    REQUIRE(graph.links.size() == cables.size());
    const auto name = [&](std::size_t device) {
      return device < switches ? fmt::format("s{}", device)
                               : fmt::format("h{}/nic0", device - switches);
    };
    for (const auto& [ends, count] : cables) {
      const auto* link = find_link(graph, name(ends.first), name(ends.second));
      REQUIRE(link != nullptr);
      REQUIRE(link->count == count);
      REQUIRE(link->line_bytes_per_s->value == count * 12.5e9);
    }
    REQUIRE(graph.notes.empty());
  }
}

TEST_CASE("time grows with the text, not with its square") {
  const auto fabric = [](std::size_t hosts) {
    std::string text;
    for (std::size_t i = 0; i < hosts; ++i)
      text += fmt::format(
          "Ca 1 \"H-{0:x}\" # \"h{0} mlx5_0\"\n[1]({0:x}) \"S-1\"[{1}] # lid 1 lmc 0 "
          "\"s\" lid 1 4xNDR\n",
          i + 16, i % 60'000);
    return text;
  };
  const auto seconds = [](const std::string& text) {
    const auto start = std::chrono::steady_clock::now();
    (void)read(text);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  const auto small = fabric(4'000);
  const auto large = fabric(64'000);
  CHECK(seconds(large) < 16 * 8 * std::max(seconds(small), 0.002));  // A square would take 256.
}

TEST_CASE("the published fabric") {
  const auto text = published("topograph-ibnetdiscover-example.txt");
  if (!text) return;
  const auto graph = causeway::import_topology(*text, "file");
  CHECK(count_of(graph, ComponentKind::network_switch) == 40);
  CHECK(count_of(graph, ComponentKind::nic) == 582);
  CHECK(count_notes(graph, Note::conflict) == 0);
  const auto* nic = graph.find("a08-p1-dgx-04-c01/nic5");
  REQUIRE(nic != nullptr);
  CHECK(nic->title == "mlx5_5");
  CHECK(nic->port_bytes_per_s == 50e9);
  CHECK(find_link(graph, "a08-p1-dgx-04-c01/nic5", "a09-p1-ibleaf-04-04") != nullptr);
  const auto* trunk = find_link(graph, "a09-p1-ibleaf-04-04", "a10-p1-ibspine-02");
  REQUIRE(trunk != nullptr);
  CHECK(trunk->count == 2);
  CHECK(trunk->line_bytes_per_s->value == 100e9);
  // Every cable stands in the text twice.
  std::size_t lines = 0;
  for (std::size_t at = 0; (at = text->find("\n[", at)) != std::string::npos; ++at) ++lines;
  std::size_t cables = 0;
  for (const auto& link : graph.links) cables += link.count;
  CHECK(2 * cables == lines);
}
