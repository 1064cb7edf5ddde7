// Goal:   a drawing shows what there is once, marks what is wrong, and no title can break it.
// Method: the drawing of machines by hand, line by line; then random graphs, whose text is taken
//         apart again. Replay a failure with CAUSEWAY_TEST_SEED=<seed>.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <string>

#include "causeway/topology_export.h"
#include "random_graph.h"
#include "runtime/topology/export/drawing.h"
#include "runtime/topology/utf8.h"
#include "sample_graphs.h"

using causeway::draw;
using causeway::Drawing;
using causeway::DrawnBox;
using causeway::DrawnLine;
using causeway::LinkKind;
using causeway::LinkState;

static std::size_t count(const Drawing& drawing, DrawnBox::Kind kind) {
  return static_cast<std::size_t>(std::ranges::count(drawing.boxes, kind, &DrawnBox::kind));
}

static const DrawnBox& box(const Drawing& drawing, const std::string& name) {
  const auto at = std::ranges::find(drawing.boxes, name, &DrawnBox::name);
  REQUIRE(at != drawing.boxes.end());
  return *at;
}

// The line between two boxes by name, whichever is the upper one.
static const DrawnLine* line(const Drawing& drawing, const std::string& a, const std::string& b) {
  for (const auto& one : drawing.lines) {
    const auto& upper = drawing.boxes[one.upper].name;
    const auto& lower = drawing.boxes[one.lower].name;
    if ((upper == a && lower == b) || (upper == b && lower == a)) return &one;
  }
  return nullptr;
}

static bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_CASE("two cards that cannot see each other are joined by a dashed line") {
  const auto graph = causeway::test::desktop();
  const auto drawing = draw(graph);
  CHECK(drawing.boxes.size() == 4);
  CHECK(box(drawing, "gpu0").details ==
        std::vector<std::string>{"NVIDIA GeForce RTX 5090", "32 GB"});
  const auto* pair = line(drawing, "gpu0", "gpu1");
  REQUIRE(pair != nullptr);
  CHECK(pair->is_dashed);
  CHECK(pair->label == "through host memory\n24.9 GB/s");
  REQUIRE(line(drawing, "cpu0", "gpu1") != nullptr);
  CHECK(line(drawing, "cpu0", "gpu1")->label == "Gen5 x16\n48 GB/s");
  const auto text = causeway::graph_to_dot(graph);
  CHECK(has(text, "style=dashed"));
  CHECK(has(text, "through host memory"));
  CHECK_FALSE(has(text, "degraded or down"));
}

TEST_CASE("what the driver grants wins over the catalogue's policy") {
  auto graph = causeway::test::desktop();
  for (auto& pair : graph.pairs) pair.granted_read = pair.granted_write = causeway::PeerStatus::ok;
  CHECK(line(draw(graph), "gpu0", "gpu1") == nullptr);
  graph.pairs[1].verified = causeway::PeerCheck::hung;  // Granted, and does not work.
  CHECK(line(draw(graph), "gpu0", "gpu1") != nullptr);
  graph.pairs.clear();
  CHECK(line(draw(graph), "gpu0", "gpu1") != nullptr);  // GeForce.
  for (auto& component : graph.components) component.model = component.model.empty() ? "" : "l40s";
  CHECK(line(draw(graph), "gpu0", "gpu1") == nullptr);
}

TEST_CASE("switches that join the same cards are one box") {
  const auto drawing = draw(causeway::test::hgx());
  CHECK(count(drawing, DrawnBox::Kind::nvswitch) == 1);
  CHECK(box(drawing, "4 x NVSwitch").details ==
        std::vector<std::string>{"18 NVLink, 371 GB/s each"});
  CHECK(count(drawing, DrawnBox::Kind::bridge) == 4);
  CHECK(count(drawing, DrawnBox::Kind::staged) == 0);
  CHECK(std::ranges::count(drawing.lines, LinkKind::nvlink, &DrawnLine::kind) == 8);
  for (int i = 0; i < 8; ++i) {
    const auto* one = line(drawing, fmt::format("gpu{}", i), "4 x NVSwitch");
    REQUIRE(one != nullptr);
    CHECK(*one->bytes_per_s == doctest::Approx(370.8e9));
    CHECK(one->label.empty());
  }
}

TEST_CASE("bridged cards, and the other pairs as one hub") {
  const auto drawing = draw(causeway::test::four_3090());
  CHECK(line(drawing, "gpu0", "gpu1")->label == "4 NVLink\n48 GB/s");
  CHECK(line(drawing, "gpu1", "gpu2") == nullptr);
  CHECK(count(drawing, DrawnBox::Kind::staged) == 1);
  for (int i = 0; i < 4; ++i)
    CHECK(line(drawing, fmt::format("gpu{}", i), "other pairs")->is_dashed);
  const auto* narrow = line(drawing, "cpu0", "gpu3");
  CHECK(narrow->label == "Gen4 x8\n12 GB/s");
  CHECK(narrow->state == LinkState::degraded);
  CHECK(has(causeway::graph_to_dot(causeway::test::four_3090()), "degraded or down"));
}

TEST_CASE("a full mesh of one rate is a hub, any other mesh is not") {
  causeway::test::GraphBuilder builder("mesh");
  builder.node("n", 1, 1'000'000'000);
  for (std::size_t i = 0; i < 4; ++i) builder.gpu("n", i, "cpu0", "a100-pcie", 80, "A100");
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < i; ++j)
      builder.join(LinkKind::nvlink, fmt::format("n/gpu{}", i), fmt::format("n/gpu{}", j), 4);
  auto graph = builder.finish();
  auto drawing = draw(graph);
  REQUIRE(count(drawing, DrawnBox::Kind::mesh) == 1);
  CHECK(box(drawing, "each to each").details == std::vector<std::string>{"4 NVLink, 80 GB/s"});
  CHECK(line(drawing, "gpu0", "gpu1") == nullptr);
  graph.links.back().state = LinkState::down;
  drawing = draw(graph);
  CHECK(count(drawing, DrawnBox::Kind::mesh) == 0);
  CHECK(std::ranges::count(drawing.lines, LinkKind::nvlink, &DrawnLine::kind) == 6);
}

TEST_CASE("a port that passes one device on is a part of its line, the narrowest") {
  causeway::test::GraphBuilder builder("ports");
  builder.node("n", 1, 1'000'000'000);
  builder.add("n", "bridge", 0, causeway::ComponentKind::bridge);
  builder.add("n", "bridge", 1, causeway::ComponentKind::bridge);
  builder.add("n", "bridge", 2, causeway::ComponentKind::bridge);  // Nothing below it.
  builder.pcie("n/bridge0", "n/cpu0", 4, 4);
  builder.pcie("n/bridge1", "n/bridge0", 5, 16);
  builder.pcie("n/bridge2", "n/cpu0", 5, 16);
  builder.gpu("n", 0, "bridge1", "rtx-5090", 120, "");
  auto graph = builder.finish();
  auto drawing = draw(graph);
  CHECK(count(drawing, DrawnBox::Kind::bridge) == 0);
  REQUIRE(line(drawing, "cpu0", "gpu0") != nullptr);
  CHECK(line(drawing, "cpu0", "gpu0")->label == "Gen4 x4\n6 GB/s");
  CHECK(box(drawing, "gpu0").details.front() == "RTX 5090");
  graph.components[2].is_chipset = true;  // That is worth a box.
  drawing = draw(graph);
  CHECK(count(drawing, DrawnBox::Kind::bridge) == 1);
  CHECK(line(drawing, "bridge0", "gpu0")->label == "Gen5 x16\n48 GB/s");
}

TEST_CASE("nodes hang at their switch") {
  const auto drawing = draw(causeway::test::small_cluster());
  CHECK(drawing.nodes.size() == 4);
  CHECK(line(drawing, "network", "leaf0")->label == "25 Gbit/s");
  CHECK(count(drawing, DrawnBox::Kind::network_switch) == 1);
  const auto down = std::ranges::find(drawing.lines, LinkState::down, &DrawnLine::state);
  REQUIRE(down != drawing.lines.end());
  CHECK(drawing.boxes[down->upper].node == "node2");
  CHECK(down->label == "100 Gbit/s");
}

TEST_CASE("many nodes are a box each") {
  causeway::test::GraphBuilder builder("many");
  builder.network_switch("leaf");
  for (int i = 0; i < 17; ++i) {
    const auto node = fmt::format("n{}", i);
    builder.node(node, 2, 1'000'000'000);
    for (std::size_t gpu = 0; gpu < 8; ++gpu) builder.gpu(node, gpu, "cpu0", "l40s", 89, "L40S");
    builder.nic(node, 0, "cpu0", 12.5e9);
    builder.network(node + "/nic0", "leaf", 12.5e9, 1e-6);
  }
  const auto drawing = draw(builder.finish());
  CHECK(drawing.nodes.empty());
  CHECK(drawing.boxes.size() == 18);
  CHECK(drawing.lines.size() == 17);
  CHECK(box(drawing, "n3").details == std::vector<std::string>{"8 x L40S", "2 GB host"});
}

// `text` is what graphviz reads: every quote and every HTML label is closed, markup is only ours.
static void check_whole(const std::string& text) {
  REQUIRE(causeway::is_utf8(text));
  int depth = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    REQUIRE((c == '\n' || static_cast<unsigned char>(c) >= 0x20));
    if (c == '-' && text.substr(i, 2) == "->" && depth == 0) {
      ++i;
      continue;
    }
    if (c == '"') quoted = !quoted;
    if (c == '\\') REQUIRE(depth > 0);  // Ours has none; in HTML it is only text.
    if (quoted) continue;
    if (c == '<') ++depth;
    if (c == '>') --depth;
    REQUIRE((depth >= 0 && depth <= 2));
    if (c == '&' && depth > 0) {
      const auto name = text.substr(i, text.find(';', i) - i + 1);
      REQUIRE((name == "&lt;" || name == "&gt;" || name == "&amp;" || name == "&quot;"));
    }
  }
  REQUIRE(depth == 0);
  REQUIRE_FALSE(quoted);
}

TEST_CASE("hostile titles are only text") {
  auto graph = causeway::test::desktop();
  graph.name = "\"];}</TD>>";
  graph.nodes[0].name = "<B>";
  for (auto& component : graph.components) {
    component.node = "<B>";
    component.title = "</B><IMG SRC=\"/etc/passwd\"/>&\\\"\n\xff";
  }
  const auto text = causeway::graph_to_dot(graph);
  check_whole(text);
  CHECK(has(text, "&lt;/B&gt;&lt;IMG SRC=&quot;/etc/passwd&quot;"));
  CHECK_FALSE(has(text, "<IMG"));
}

static void run_random(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto graph = causeway::test::random_graph(random);
  INFO("seed=", seed);
  const auto drawing = draw(graph);
  for (const auto& one : drawing.lines) {
    REQUIRE(one.upper < drawing.boxes.size());
    REQUIRE(one.lower < drawing.boxes.size());
    REQUIRE(one.upper != one.lower);
  }
  REQUIRE(count(drawing, DrawnBox::Kind::gpu) ==
          static_cast<std::size_t>(std::ranges::count(
              graph.components, causeway::ComponentKind::gpu, &causeway::Component::kind)));
  check_whole(causeway::graph_to_dot(graph));
}

TEST_CASE("random graphs are drawn whole") {
  if (const char* seed = std::getenv("CAUSEWAY_TEST_SEED")) return run_random(std::stoull(seed));
  for (std::uint64_t seed = 1; seed <= 300; ++seed) run_random(seed);
}
