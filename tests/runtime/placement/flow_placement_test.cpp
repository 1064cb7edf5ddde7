// Placement as flow: equal to a brute force where one can finish, no worse than what was published,
// judged by a maximum flow that shares nothing with the search's.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "runtime/placement/flow_placement.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <queue>
#include <random>
#include <sstream>
#include <string>

using causeway::FlowEdge;
using causeway::FlowInstance;
using causeway::FlowPlacement;
using causeway::NodeLayers;

namespace {

// Instrumented code may take longer.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr double kSlowdown = 20;
#else
constexpr double kSlowdown = 1;
#endif

// Shortest augmenting paths on a dense matrix (Edmonds and Karp), straight from the rules of the
// model: plain, slow, and by somebody else's algorithm.
double checked_flow(const FlowInstance& instance, const std::vector<NodeLayers>& nodes) {
  const std::size_t n = nodes.size();
  const std::size_t size = 2 * n + 2;
  const auto source = 2 * n;
  const auto sink = 2 * n + 1;
  std::vector<double> capacity(size * size, 0);
  const auto holds = [&](std::size_t i) { return nodes[i].end > nodes[i].first; };
  for (std::size_t i = 0; i < n; ++i) {
    REQUIRE(nodes[i].end <= instance.layers);
    REQUIRE(nodes[i].first <= nodes[i].end);
    if (!holds(i)) continue;
    const auto k = nodes[i].end - nodes[i].first;
    REQUIRE(k < instance.throughput[i].size());
    capacity[2 * i * size + 2 * i + 1] = instance.throughput[i][k];
  }
  const auto add = [&](std::size_t from, std::size_t to, double limit) {
    if (from == n) {
      if (holds(to) && nodes[to].first == 0) capacity[source * size + 2 * to] = limit;
    } else if (to == n) {
      if (holds(from) && nodes[from].end == instance.layers)
        capacity[(2 * from + 1) * size + sink] = limit;
    } else if (holds(from) && holds(to) && nodes[to].first <= nodes[from].end &&
               nodes[from].end < nodes[to].end) {
      capacity[(2 * from + 1) * size + 2 * to] = limit;
    }
  };
  if (instance.unlimited_network) {
    for (std::size_t i = 0; i <= n; ++i)
      for (std::size_t j = 0; j <= n; ++j)
        if (i != j) add(i, j, 1e15);
  } else {
    for (const auto& edge : instance.edges)
      add(edge.from == FlowEdge::kOutside ? n : edge.from,
          edge.to == FlowEdge::kOutside ? n : edge.to, edge.capacity);
  }
  double flow = 0;
  for (;;) {
    std::vector<std::size_t> from(size, size);
    from[source] = source;
    std::queue<std::size_t> queue({source});
    while (!queue.empty() && from[sink] == size) {
      const auto at = queue.front();
      queue.pop();
      for (std::size_t to = 0; to < size; ++to)
        if (from[to] == size && capacity[at * size + to] > 1e-9) {
          from[to] = at;
          queue.push(to);
        }
    }
    if (from[sink] == size) return flow;
    double most = 1e300;
    for (auto at = sink; at != source; at = from[at])
      most = std::min(most, capacity[from[at] * size + at]);
    for (auto at = sink; at != source; at = from[at]) {
      capacity[from[at] * size + at] -= most;
      capacity[at * size + from[at]] += most;
    }
    flow += most;
  }
}

void check(const FlowInstance& instance, const FlowPlacement& placement) {
  CHECK(checked_flow(instance, placement.nodes) ==
        doctest::Approx(placement.throughput).epsilon(1e-6));
  CHECK(placement.throughput <= placement.upper_bound * (1 + 1e-9));
  CHECK(placement.optimal == placement.certificate().starts_with("optimal"));
}

std::optional<std::filesystem::path> data_folder() {
  const char* root = std::getenv("CAUSEWAY_SHARED");
  const auto folder =
      std::filesystem::path(root != nullptr ? root : CAUSEWAY_SHARED_DEFAULT) / "planner-data";
  if (std::filesystem::exists(folder)) return folder;
  MESSAGE("SKIPPED: ", folder.string(), " is not there; CAUSEWAY_SHARED names its parent");
  return std::nullopt;
}

struct Published {
  FlowInstance instance;
  double objective = 0;
};

Published read_instance(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  const auto json = boost::json::parse(text.str());
  Published published;
  auto& instance = published.instance;
  instance.layers = json.at("layers").to_number<std::uint32_t>();
  published.objective = json.at("published_objective").to_number<double>();
  for (const auto& type : json.at("node_types").as_array()) {
    std::vector<double> table(1, 0);
    for (const auto& [k, value] : type.at("throughput_by_layers").as_object()) {
      const auto index = std::stoul(std::string(k));
      if (table.size() <= index) table.resize(index + 1, 0);
      table[index] = value.to_number<double>();
    }
    for (const auto& node : type.at("nodes").as_array()) {
      const auto i = node.to_number<std::size_t>();
      if (instance.throughput.size() <= i) instance.throughput.resize(i + 1);
      instance.throughput[i] = table;
    }
  }
  for (const auto& edge : json.at("edges").as_array()) {
    const auto end = [&](std::size_t i) {
      const std::string name(edge.at(i).as_string());
      return name == "source" || name == "sink" ? FlowEdge::kOutside
                                                : static_cast<std::uint32_t>(std::stoul(name));
    };
    instance.edges.push_back({end(0), end(1), edge.at(2).to_number<double>()});
  }
  return published;
}

double brute_force(const FlowInstance& instance, std::vector<NodeLayers>& nodes, std::size_t at) {
  if (at == nodes.size()) return checked_flow(instance, nodes);
  double best = 0;
  for (std::uint32_t first = 0; first < instance.layers; ++first)
    for (std::uint32_t end = first; end <= instance.layers; ++end) {
      if (end == first && first > 0) continue;
      if (end - first >= instance.throughput[at].size()) continue;
      nodes[at] = {first, end};
      best = std::max(best, brute_force(instance, nodes, at + 1));
    }
  nodes[at] = {};
  return best;
}

FlowInstance random_instance(std::mt19937_64& random) {
  FlowInstance instance;
  instance.layers = 1 + static_cast<std::uint32_t>(random() % 4);
  const auto nodes = 1 + random() % 3;
  for (std::uint64_t i = 0; i < nodes; ++i) {
    std::vector<double> table(1 + std::min<std::uint64_t>(instance.layers, 1 + random() % 4), 0);
    for (std::size_t k = 1; k < table.size(); ++k)
      table[k] = random() % 6 == 0 ? 0 : static_cast<double>(random() % 100);
    instance.throughput.push_back(table);
  }
  if (random() % 3 == 0) {
    instance.unlimited_network = true;
    return instance;
  }
  for (std::uint32_t i = 0; i < nodes; ++i) {
    const auto maybe = [&](std::uint32_t from, std::uint32_t to) {
      if (random() % 5 != 0)
        instance.edges.push_back({from, to, static_cast<double>(random() % 120)});
    };
    maybe(FlowEdge::kOutside, i);
    maybe(i, FlowEdge::kOutside);
    for (std::uint32_t j = 0; j < nodes; ++j)
      if (i != j) maybe(i, j);
  }
  return instance;
}

// Cards of several sizes: throughput falls with the layers, and faster than 1 / k where less room
// is left for keys and values.
FlowInstance farm(std::size_t types, std::size_t of_each, std::uint32_t layers) {
  FlowInstance instance;
  instance.layers = layers;
  instance.unlimited_network = true;
  for (std::size_t type = 0; type < types; ++type) {
    const auto room = 3 + type % 10;
    std::vector<double> table(1, 0);
    for (std::size_t k = 1; k <= room; ++k)
      table.push_back((1000.0 + 370.0 * static_cast<double>(type)) / static_cast<double>(k) *
                      (1 - 0.5 * static_cast<double>(k * k) / static_cast<double>(room * room)));
    for (std::size_t i = 0; i < of_each; ++i) instance.throughput.push_back(table);
  }
  return instance;
}

double seconds_of(const std::function<void()>& work) {
  const auto start = std::clock();
  work();
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

}  // namespace

TEST_CASE("random small instances: as good as a brute force, and proven") {
  int carrying = 0;
  int split = 0;
  for (std::uint64_t seed = 1; seed <= 400; ++seed) {
    std::mt19937_64 random(seed);
    const auto instance = random_instance(random);
    INFO("seed=", seed);
    std::vector<NodeLayers> nodes(instance.throughput.size());
    const double best = brute_force(instance, nodes, 0);
    const auto placement = causeway::place_flow(instance);
    check(instance, placement);
    REQUIRE(placement.throughput == doctest::Approx(best).epsilon(1e-9));
    REQUIRE(placement.optimal);
    if (best > 0) ++carrying;
    if (best > 0 && instance.throughput.size() > 1 && instance.layers > 1) ++split;
  }
  MESSAGE(carrying, " carry something, ", split, " on several nodes");
  CHECK(carrying > 150);
  CHECK(split > 80);
}

TEST_CASE("published instances: never worse, the 24 nodes within a second") {
  const auto data = data_folder();
  if (!data) return;
  int seen = 0;
  for (const auto& entry : std::filesystem::directory_iterator(*data)) {
    const auto name = entry.path().filename().string();
    if (!name.starts_with("helix-")) continue;
    ++seen;
    const auto published = read_instance(entry.path());
    FlowPlacement placement;
    const double took_s = seconds_of([&] { placement = causeway::place_flow(published.instance); });
    INFO(name);
    MESSAGE(name, ": ", placement.throughput, ", published ", published.objective, ", ", took_s,
            " s, ", placement.certificate());
    check(published.instance, placement);
    // The tables have fewer digits than what was published.
    CHECK(placement.throughput >= published.objective * (1 - 1e-5));
    CHECK(took_s < kSlowdown * (published.instance.throughput.size() <= 24 ? 1 : 10));
  }
  CHECK(seen > 0);
}

TEST_CASE("64 devices of 5 types within ten seconds, with a stated gap") {
  auto instance = farm(5, 13, 80);
  instance.throughput.pop_back();
  FlowPlacement placement;
  const double took_s = seconds_of([&] { placement = causeway::place_flow(instance); });
  MESSAGE(took_s, " s: ", placement.throughput, ", ", placement.certificate());
  check(instance, placement);
  CHECK(took_s < kSlowdown * 10);
  CHECK(placement.throughput > 0.98 * placement.upper_bound);
}

TEST_CASE("1000 devices of 20 types within a minute") {
  const auto instance = farm(20, 50, 80);
  FlowPlacement placement;
  const double took_s = seconds_of([&] { placement = causeway::place_flow(instance); });
  MESSAGE(took_s, " s: ", placement.throughput, ", ", placement.certificate());
  CHECK(causeway::placement_flow(instance, placement.nodes) ==
        doctest::Approx(placement.throughput));
  CHECK(took_s < kSlowdown * 60);
  CHECK(placement.throughput > 0.98 * placement.upper_bound);
}

TEST_CASE("a shared stage beats two chains") {
  // Two slow nodes together feed a fast one: 60 where two chains would carry 30.
  FlowInstance instance;
  instance.layers = 4;
  instance.unlimited_network = true;
  instance.throughput = {{0, 60, 30}, {0, 60, 30}, {0, 90, 60}};
  const auto placement = causeway::place_flow(instance);
  check(instance, placement);
  CHECK(placement.throughput == doctest::Approx(60));
  CHECK(placement.optimal);
}

TEST_CASE("what makes no sense is refused") {
  FlowInstance instance;
  CHECK_THROWS_AS((void)causeway::place_flow(instance), causeway::Error);
  instance.layers = 2;
  instance.throughput = {{0, 1, 1, 1}};
  CHECK_THROWS_AS((void)causeway::place_flow(instance), causeway::Error);
  instance.throughput = {{0, 1}, {0, 2}};
  instance.edges = {{0, 5, 1}};
  CHECK_THROWS_AS((void)causeway::place_flow(instance), causeway::Error);
  instance.edges = {{0, 1, -1}};
  CHECK_THROWS_AS((void)causeway::place_flow(instance), causeway::Error);
}
