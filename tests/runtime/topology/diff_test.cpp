// Goal:   a diff names every change once, and nothing where nothing changed.
// Method: changes by hand on known machines; then random graphs: against themselves in another
//         order, and against a copy with one field changed, for each field. Replay a failure with
//         CAUSEWAY_TEST_SEED=<seed>.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <string>

#include "causeway/topology_diff.h"
#include "random_graph.h"
#include "sample_graphs.h"

using causeway::diff;
using causeway::FieldName;
using causeway::Figure;
using causeway::for_each_field;
using causeway::LinkState;
using causeway::Provenance;
using causeway::TopologyChange;
using causeway::TopologyGraph;

static std::string text(const std::vector<TopologyChange>& changes) {
  std::string lines;
  for (const auto& change : changes)
    lines += fmt::format("{} {} {} [{}] -> [{}] {}\n", to_string(change.kind), change.what,
                         change.field, change.before, change.after, to_string(change.severity));
  return lines;
}

static std::string text(const TopologyGraph& before, const TopologyGraph& after) {
  return text(diff(before, after));
}

static causeway::TopologyLink& link(TopologyGraph& graph, const std::string& a,
                                    const std::string& b) {
  const auto at = std::ranges::find_if(
      graph.links, [&](const causeway::TopologyLink& one) { return one.a == a && one.b == b; });
  REQUIRE(at != graph.links.end());
  return *at;
}

static causeway::Component& component(TopologyGraph& graph, const std::string& name) {
  const auto at = std::ranges::find(graph.components, name, &causeway::Component::name);
  REQUIRE(at != graph.components.end());
  return *at;
}

TEST_CASE("rates and states are better or worse, other things neither") {
  const auto before = causeway::test::desktop();
  auto after = before;
  auto& lanes = link(after, "desktop/gpu1", "desktop/cpu0");
  lanes.pcie.width = 8;
  lanes.state = LinkState::degraded;
  lanes.effective_bytes_per_s = Figure{24e9, Provenance::sysfs};
  component(after, "desktop/gpu0").bar1_bytes = 32'000'000'000;
  component(after, "desktop/host0").capacity_bytes = 128'000'000'000;
  after.nodes[0].driver_version = "590.1";
  after.nodes[0].unseen = {"x", "y"};
  after.pairs[0].granted_read = causeway::PeerStatus::ok;
  after.pairs[0].latency_s = Figure{16e-6, Provenance::measured};
  CHECK(text(before, after) ==
        "changed node desktop driver_version [unknown] -> [590.1] neutral\n"
        "changed node desktop unseen [none] -> [x; y] neutral\n"
        "changed component desktop/host0 capacity_bytes [64 GB] -> [128 GB] better\n"
        "changed component desktop/gpu0 bar1_bytes [unknown] -> [32 GB] neutral\n"
        "changed pcie link desktop/gpu1-desktop/cpu0 state [up] -> [degraded] worse\n"
        "changed pcie link desktop/gpu1-desktop/cpu0 pcie.width [16] -> [8] worse\n"
        "changed pcie link desktop/gpu1-desktop/cpu0 effective_bytes_per_s [48 GB/s (sysfs)] -> "
        "[24 GB/s (sysfs)] worse\n"
        "changed pair desktop/gpu0>desktop/gpu1 granted_read [CNS] -> [OK] better\n"
        "changed pair desktop/gpu0>desktop/gpu1 latency_s [14 us (measured)] -> [16 us "
        "(measured)] worse\n");
  const auto back = diff(after, before);
  CHECK(back.size() == 9);
  CHECK(std::ranges::count(back, TopologyChange::Severity::better, &TopologyChange::severity) == 4);
  CHECK(std::ranges::count(back, TopologyChange::Severity::worse, &TopologyChange::severity) == 2);
}

TEST_CASE("measured figures are equal within the tolerance, others only if they are") {
  const auto before = causeway::test::desktop();
  auto after = before;
  auto& staged = after.pairs[0].staged_bytes_per_s;
  staged->value = 24.9e9 * 0.951;
  CHECK(text(before, after) == "");
  CHECK(diff(before, after, {.measured_tolerance = 0.04}).size() == 1);
  staged->value = 24.9e9 * 0.94;
  CHECK(text(before, after) ==
        "changed pair desktop/gpu0>desktop/gpu1 staged_bytes_per_s [24.9 GB/s (measured)] -> [23.4 "
        "GB/s (measured)] worse\n");
  after = before;
  auto& lanes = link(after, "desktop/gpu1", "desktop/cpu0").effective_bytes_per_s;
  lanes->value += 1;  // Not measured, and shown in full where it would be rounded away.
  CHECK(
      text(before, after) ==
      "changed pcie link desktop/gpu1-desktop/cpu0 effective_bytes_per_s [48000000000 (sysfs)] -> "
      "[48000000001 (sysfs)] better\n");
  lanes = Figure{47e9, Provenance::measured};  // Now known better: worth saying, not worse.
  CHECK(
      text(before, after) ==
      "changed pcie link desktop/gpu1-desktop/cpu0 effective_bytes_per_s [48 GB/s (sysfs)] -> [47 "
      "GB/s (measured)] neutral\n");
}

TEST_CASE("what is gone takes its links along") {
  const auto before = causeway::test::small_cluster();
  auto after = before;
  std::erase_if(after.components, [](const auto& c) { return c.name == "node1/gpu1"; });
  std::erase_if(after.links, [](const auto& l) { return l.a == "node1/gpu1"; });
  CHECK(text(before, after) == "removed component node1/gpu1  [gpu, NVIDIA L40S] -> [] worse\n");
  CHECK(text(after, before) == "added component node1/gpu1  [] -> [gpu, NVIDIA L40S] better\n");
  std::erase_if(after.nodes, [](const auto& n) { return n.name == "storage"; });
  std::erase_if(after.components, [](const auto& c) { return c.node == "storage"; });
  std::erase_if(after.links, [](const auto& l) { return l.a.starts_with("storage"); });
  CHECK(text(before, after) ==
        "removed node storage  [node] -> [] worse\n"
        "removed component node1/gpu1  [gpu, NVIDIA L40S] -> [] worse\n");
  after = before;
  std::erase_if(after.links, [](const auto& l) { return l.a == "node0/nic0" && l.b == "leaf0"; });
  CHECK(text(before, after) ==
        "removed network link node0/nic0-leaf0  [12.5 GB/s (import)] -> [] worse\n");
}

TEST_CASE("cards that were renumbered are the same cards") {
  const auto before = causeway::test::desktop();
  auto after = before;
  const auto swapped = [](std::string& name) {
    if (name == "desktop/gpu0")
      name = "desktop/gpu1";
    else if (name == "desktop/gpu1")
      name = "desktop/gpu0";
  };
  for (auto& one : after.components) swapped(one.name);
  for (auto& one : after.links) swapped(one.a);
  for (auto& one : after.pairs) {
    swapped(one.from);
    swapped(one.to);
  }
  CHECK(text(before, after) ==
        "changed component desktop/gpu0 name [desktop/gpu0] -> [desktop/gpu1] neutral\n"
        "changed component desktop/gpu1 name [desktop/gpu1] -> [desktop/gpu0] neutral\n");
  after = before;
  component(after, "desktop/gpu0").uuid = "GPU-new";  // Another card in the same slot.
  CHECK(text(before, after) ==
        "changed component desktop/gpu0 uuid [GPU-desktop-0] -> [GPU-new] neutral\n");
}

// --- Random graphs ---

static void rename(TopologyGraph& graph, const std::string& from, const std::string& to) {
  const auto change = [&](std::string& name) {
    if (name == from) name = to;
  };
  for (auto& one : graph.components) change(one.name);
  for (auto& one : graph.links) {
    change(one.a);
    change(one.b);
  }
  for (auto& one : graph.pairs) {
    change(one.from);
    change(one.to);
  }
}

static void check_shuffled(const TopologyGraph& graph, std::mt19937_64& random) {
  auto other = graph;
  std::ranges::shuffle(other.nodes, random);
  std::ranges::shuffle(other.components, random);
  std::ranges::stable_sort(other.links, {}, &causeway::TopologyLink::b);
  std::ranges::shuffle(other.pairs, random);
  for (auto& node : other.nodes) std::ranges::shuffle(node.unseen, random);
  for (auto& one : other.links)
    if (one.kind != causeway::LinkKind::pcie && random() % 2 == 0) std::swap(one.a, one.b);
  other.notes.clear();
  REQUIRE(text(graph, other) == "");
}

// Changes one field of `record`, which is a part of `after`, and expects that one change.
template <typename Record>
static void check_mutations(const TopologyGraph& before, TopologyGraph& after, Record& record,
                            const std::string& what, std::initializer_list<std::string_view> except,
                            causeway::test::GraphGenerator& generator) {
  for_each_field(record, [&]<typename T>(FieldName name, T& field) {
    if (std::ranges::find(except, name.text) != except.end()) return;
    const T old = field;
    // Until it is another value, also within the tolerance of figures.
    const auto differs = [&] {
      if constexpr (std::same_as<T, std::optional<Figure>>)
        if (old && field && old->provenance == field->provenance)
          return std::abs(old->value - field->value) > 0.06 * std::max(old->value, field->value);
      return field != old;
    };
    while (!differs()) {
      if (causeway::kIsOptional<T> && generator.coin())
        field = T{};
      else
        generator.set(field);
    }
    const auto changes = diff(before, after);
    INFO(what, " ", name.text, "\n", text(changes));
    REQUIRE(changes.size() >= 1);
    REQUIRE(changes.size() <= 2);  // Of a PCIe mode both parts.
    for (const auto& change : changes) {
      REQUIRE(change.kind == TopologyChange::Kind::changed);
      REQUIRE(change.what == what);
      REQUIRE(change.field.starts_with(name.text));
      REQUIRE(change.before != change.after);
    }
    field = old;
  });
}

static void run_random(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  causeway::test::GraphGenerator generator(random);
  const auto graph = generator.make(2);
  INFO("seed=", seed);
  REQUIRE(text(graph, graph) == "");
  check_shuffled(graph, random);
  auto after = graph;
  after.name += "x";
  REQUIRE(diff(graph, after).size() == 1);
  after = graph;
  for (auto& node : after.nodes)
    check_mutations(graph, after, node, "node " + node.name, {"name"}, generator);
  for (auto& one : after.components)
    check_mutations(graph, after, one, "component " + one.name, {"name"}, generator);
  for (auto& one : after.links)
    check_mutations(graph, after, one,
                    fmt::format("{} link {}-{}", to_string(one.kind), one.a, one.b),
                    {"kind", "a", "b"}, generator);
  for (auto& one : after.pairs)
    check_mutations(graph, after, one, fmt::format("pair {}>{}", one.from, one.to), {"from", "to"},
                    generator);
  for (const auto& one : graph.components) {
    after = graph;
    rename(after, one.name, "new");
    const auto changes = diff(graph, after);
    const bool known = !one.uuid.empty() || one.pci;
    REQUIRE(changes.size() == (known ? 1 : 2));
    REQUIRE(changes[0].what == "component " + one.name);
  }
  for (std::size_t i = 0; i < graph.links.size(); ++i) {
    after = graph;
    after.links.erase(after.links.begin() + static_cast<std::ptrdiff_t>(i));
    REQUIRE(text(graph, after).find("removed") != std::string::npos);
    REQUIRE(text(after, graph).find("added") != std::string::npos);
  }
}

TEST_CASE("each change of a random graph is found, and none where there is none") {
  if (const char* seed = std::getenv("CAUSEWAY_TEST_SEED")) return run_random(std::stoull(seed));
  for (std::uint64_t seed = 1; seed <= 60; ++seed) run_random(seed);
}
