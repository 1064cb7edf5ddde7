// Goal:   a cluster file means what its author wrote, and a mistake is named with file, line and
//         field.
// Method: sizes and mistakes by hand; then random clusters through YAML and back. Replay a failure
//         with CAUSEWAY_TEST_SEED=<seed>.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "causeway/cluster.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cstdlib>
#include <fstream>
#include <random>
#include <set>
#include <string>

#include "causeway/gpu_catalogue.h"
#include "runtime/topology/bytes.h"

using causeway::ClusterSpec;
using causeway::DeviceKind;
using causeway::Errc;
using causeway::Error;
using causeway::format_bytes;
using causeway::parse_bytes;

static std::string error_of(const std::string& yaml) {
  try {
    (void)ClusterSpec::from_yaml(yaml, "c.yaml");
  } catch (const Error& error) {
    CHECK(error.code() == Errc::parse);
    return error.what();
  }
  return "accepted";
}

// A file with one mistake in the devices of its one node (line 4).
static std::string with_device(const std::string& device) {
  return "name: x\nnodes:\n  - name: a\n    devices: [" + device + "]\n";
}

static std::string with_links(const std::string& links) {
  return "name: x\nnodes:\n  - {name: a, devices: [{gpu: l40s}]}\n"
         "  - {name: b, devices: [{gpu: l40s}]}\nlinks:\n" +
         links;
}

TEST_CASE("sizes are read exactly and refused when unclear") {
  CHECK(parse_bytes("4096") == 4096);
  CHECK(parse_bytes("0") == 0);
  CHECK(parse_bytes("32 GB") == 32'000'000'000);
  CHECK(parse_bytes("32.1GB") == 32'100'000'000);
  CHECK(parse_bytes("1.5GiB") == 1'610'612'736);
  CHECK(parse_bytes("64KiB") == 65536);
  CHECK(parse_bytes("18446744073709551615") == ~std::uint64_t{0});
  CHECK(parse_bytes("1.000 KB") == 1000);
  for (const char* bad :
       {"", "GB", "1 gb", "1 Gb", "-1", "1.5", "0.3 B", "1..5 GB", ".5 GB", "5. GB", "1e9", "nan",
        "18446744073709551616", "20000 PiB", "1 GB x", "12345678901234567890123 B", "1 G B"}) {
    CAPTURE(bad);
    CHECK_THROWS_AS((void)parse_bytes(bad), Error);
  }
  try {
    (void)parse_bytes("12 gb");
  } catch (const Error& error) {
    CHECK(error.code() == Errc::invalid_argument);
    CHECK(std::string(error.what()).find("32 GB or 1.5 GiB") != std::string::npos);
  }
}

TEST_CASE("sizes are printed with three significant digits") {
  CHECK(format_bytes(0) == "0 B");
  CHECK(format_bytes(999) == "999 B");
  CHECK(format_bytes(1000) == "1 kB");
  CHECK(format_bytes(31'981'568) == "32 MB");
  CHECK(format_bytes(31'900'000'000) == "31.9 GB");
  CHECK(format_bytes(1'234'567) == "1.23 MB");
  CHECK(format_bytes(999'499) == "999 kB");
  CHECK(format_bytes(999'500) == "1 MB");
  CHECK(format_bytes(~std::uint64_t{0}) == "18.4 EB");
}

TEST_CASE("rates and times") {
  CHECK(causeway::parse_bandwidth("1.25 GB/s") == 1.25e9);
  CHECK(causeway::parse_bandwidth("10 Gbit/s") == 1.25e9);
  CHECK(causeway::parse_bandwidth("1e9 B/s") == 1e9);
  CHECK(causeway::parse_seconds("200 us") == 0.0002);
  CHECK(causeway::parse_seconds("1.5ms") == 0.0015);
  for (const char* bad : {"10 Gb/s", "10", "inf GB/s", "nan GB/s", "-1 GB/s", "GB/s", "1e999 GB/s"})
    CHECK_FALSE(causeway::parse_bandwidth(bad));
  for (const char* bad : {"200", "1 min", "-1 us", "-0 s", "nan s", ""})
    CHECK_FALSE(causeway::parse_seconds(bad));
}

TEST_CASE("the cluster of the header comment") {
  const auto cluster = ClusterSpec::from_yaml(R"(
name: desktop-and-hgx
scale: 0.001
nodes:
  - name: desktop
    devices:
      - {gpu: rtx-5090, count: 2}
      - {host: 64 GB}
  - name: hgx
    devices:
      - {gpu: h100-sxm, count: 8, capacity: 10 GB}
links:
  - {between: [desktop, hgx], bandwidth: 1.25 GB/s, latency: 200 us}
)",
                                              "c.yaml");
  REQUIRE(cluster.nodes.size() == 2);
  REQUIRE(cluster.nodes[0].devices.size() == 3);
  REQUIRE(cluster.nodes[1].devices.size() == 8);
  const auto& gpu1 = cluster.nodes[0].devices[1];
  CHECK(gpu1.name.to_string() == "desktop/gpu1");
  CHECK(gpu1.model == "rtx-5090");
  CHECK(gpu1.capacity_bytes == 32'000'000 / 65536 * 65536);
  CHECK(cluster.nodes[0].devices[2].name.to_string() == "desktop/host0");
  CHECK(cluster.nodes[0].devices[2].model == "host");
  CHECK(cluster.nodes[1].devices[7].capacity_bytes == 10'000'000 / 65536 * 65536);
  REQUIRE(cluster.links.size() == 1);
  CHECK(cluster.links[0] == causeway::LinkSpec{"desktop", "hgx", 1.25e9, 0.0002});
  CHECK(cluster.scale == 0.001);
  CHECK(cluster.find_node("hgx") == &cluster.nodes[1]);
  CHECK(cluster.find_node("nowhere") == nullptr);
  CHECK(ClusterSpec::from_yaml(cluster.to_yaml(), "again") == cluster);
}

TEST_CASE("devices of one kind are numbered across entries, host entries are NUMA nodes") {
  const auto cluster = ClusterSpec::from_yaml(
      with_device("{gpu: l40s}, {host: 1 GB, count: 2}, {gpu: rtx-3090, count: 2}, {host: 2 GB}"),
      "c.yaml");
  std::string names;
  for (const auto& device : cluster.nodes[0].devices) names += device.name.local() + ' ';
  CHECK(names == "gpu0 host0 host1 gpu1 gpu2 host2 ");
}

TEST_CASE("JSON is read like YAML") {
  const auto cluster = ClusterSpec::from_yaml(
      R"({"name":"x","scale":1,"nodes":[{"name":"a","devices":[{"gpu":"l40s","count":2}]},)"
      R"({"name":"b","devices":[{"host":"1 GB"}]}],"links":)"
      R"([{"between":["a","b"],"bandwidth":"1 GB/s","latency":"1 ms"}]})",
      "c.json");
  CHECK(cluster.nodes.size() == 2);
  CHECK(cluster.links.size() == 1);
}

TEST_CASE("mistakes are named with file, line and field") {
  struct Case {
    std::string yaml;
    std::string expected;
  };
  const std::string one = with_device("{gpu: l40s}");
  for (const auto& [yaml, expected] : std::vector<Case>{
           {"", "c.yaml:1: file: must be a cluster with the keys name, scale"},
           {"- 1", "c.yaml:1: file: must be a cluster"},
           {"name: [", "c.yaml:1: YAML: "},
           {"nodes: []", "'name' is missing; write name: desktop-and-hgx"},
           {"name: x", "c.yaml:1: file: 'nodes' is missing"},
           {"name: x\nnodes: []", "c.yaml:2: nodes: is empty"},
           {"name: x\nnodes: 3", "c.yaml:2: nodes: must be a list"},
           {"name: x\nname: y\n", "c.yaml:2: name: given twice"},
           {"name: ''\nnodes: []", "c.yaml:1: name: must have 1 to 128"},
           {one + "nods: []", "c.yaml:5: nods: unknown key; did you mean 'nodes'?"},
           {one + "scale: 0", "c.yaml:5: scale: '0' is not a number from 1e-09"},
           {one + "scale: nan", "c.yaml:5: scale: 'nan' is not a number"},
           {one + "scale: -1", "c.yaml:5: scale:"},
           {one + "scale: 1e-9", "gpu: 48 GB times scale 1e-09 is less than one granule"},
           {one + "scale: 1\nscaled: 1", "c.yaml:6: scaled: stands beside 'scale'"},
           {one + "scaled: 0.5", "c.yaml:4: nodes[0].devices[0]: 'capacity' is missing"},
           {"name: x\nnodes:\n  - {name: A, devices: [{gpu: l40s}]}",
            "c.yaml:3: nodes[0].name: 'A' is not a node name"},
           {"name: x\nnodes:\n  - {name: a, devices: []}", "c.yaml:3: nodes[0].devices: is empty"},
           {"name: x\nnodes:\n  - {name: a, devices: [{gpu: l40s}]}\n"
            "  - {name: a, devices: [{gpu: l40s}]}",
            "c.yaml:4: nodes[1]: a node named 'a' is there already, on line 3"},
           {with_device("{gpu: rtx-5900}"),
            "c.yaml:4: nodes[0].devices[0].gpu: unknown GPU 'rtx-5900'; did you mean 'rtx-5090'?"},
           {with_device("{gpu: zzzzzzzzzzzzzzzzzzzzzzz}"), "; known: rtx-3090, rtx-4090"},
           {with_device("{gpu: l40s, host: 1 GB}"), "must have either 'gpu: NAME' or 'host: SIZE'"},
           {with_device("{count: 1}"), "must have either"},
           {with_device("gpu"), "devices[0]: must be a device with the keys"},
           {with_device("{gpu: [l40s]}"), "devices[0].gpu: must be one value"},
           {with_device("{gpu: l40s, count: 0}"),
            "count: '0' is not a whole number from 1 to 1024"},
           {with_device("{gpu: l40s, count: 1025}"), "count: '1025' is not"},
           {with_device("{gpu: l40s, count: -1}"), "count: '-1' is not"},
           {with_device("{gpu: l40s, count: 1.5}"), "count: '1.5' is not"},
           {with_device("{gpu: l40s, count: 1000}, {gpu: l40s, count: 25}"),
            "devices[1]: more than 1024 devices on one node"},
           {with_device("{gpu: l40s, capacity: 0}"), "capacity: is 0"},
           {with_device("{gpu: l40s, capacity: -5 GB}"), "capacity: '-5 GB' is not a size"},
           {with_device("{gpu: l40s, capacity: 9 PB}"), "is over"},
           {with_device("{gpu: l40s, capacity: 1 KB}"), "less than one granule of 65536 bytes"},
           {with_device("{host: 0}"), "host: is 0"},
           {with_device("{host: ~}"), "host: must be one value"},
           {with_device("{host: 1 GB, capacity: 1 GB}"), "capacity: host memory gives its size"},
           {with_device("{gpu: l40s, cout: 2}"), "cout: unknown key; did you mean 'count'?"},
           {with_links("  - {between: [a, c], bandwidth: 1 GB/s, latency: 1 ms}"),
            "c.yaml:6: links[0].between[1]: no node is named 'c'; nodes: a, b"},
           {with_links("  - {between: [a, a], bandwidth: 1 GB/s, latency: 1 ms}"),
            "links[0].between: joins 'a' to itself"},
           {with_links("  - {between: [a], bandwidth: 1 GB/s, latency: 1 ms}"),
            "between: must be two node names"},
           {with_links("  - {between: [a, b, a], bandwidth: 1 GB/s, latency: 1 ms}"),
            "between: must be two node names"},
           {with_links("  - {between: [a, b], latency: 1 ms}"), "'bandwidth' is missing"},
           {with_links("  - {between: [a, b], bandwidth: 1 GB/s}"), "'latency' is missing"},
           {with_links("  - {between: [a, b], bandwidth: 0 GB/s, latency: 1 ms}"),
            "bandwidth: '0 GB/s' is not a bandwidth from 1 kB/s"},
           {with_links("  - {between: [a, b], bandwidth: nan GB/s, latency: 1 ms}"), "bandwidth:"},
           {with_links("  - {between: [a, b], bandwidth: 1e30 GB/s, latency: 1 ms}"), "bandwidth:"},
           {with_links("  - {between: [a, b], bandwidth: 1 GB/s, latency: -1 ms}"), "latency:"},
           {with_links("  - {between: [a, b], bandwidth: 1 GB/s, latency: 2000 s}"), "latency:"},
           {with_links("  - {between: [a, b], bandwidth: 1 GB/s, latency: 1 ms}\n"
                       "  - {between: [b, a], bandwidth: 1 GB/s, latency: 1 ms}"),
            "c.yaml:7: links[1]: joins b and a a second time, after line 6"},
           {one + "x: &a 1", "c.yaml:5: anchor: not supported"},
           {one + "x: !!int 1", "c.yaml:5: tag: not supported"},
           {one + "---\nname: y", "c.yaml:5: document: a second one"},
           {"name: x\x04", "c.yaml:1: text: control character 0x04"},
           {"a: 1\nname: \xff", "c.yaml:2: text: is not UTF-8"},
           {"a: " + std::string(40, '[') + std::string(40, ']'), "nesting: deeper than 32 levels"},
           {"a: " + std::string(1 << 20, 'x'), "at most 1048576 are read"},
       }) {
    CAPTURE(yaml.substr(0, 300));
    const auto message = error_of(yaml);
    CAPTURE(message);
    CAPTURE(expected);
    CHECK(message.starts_with("c.yaml:"));
    CHECK(message.find(expected) != std::string::npos);
  }
}

TEST_CASE("too many nodes and devices are refused") {
  std::string nodes = "name: x\nnodes:\n";
  for (int i = 0; i < 1025; ++i)
    nodes += "  - {name: n" + std::to_string(i) + ", devices: [{gpu: l40s}]}\n";
  CHECK(error_of(nodes).find("nodes: 1025 entries; at most 1024") != std::string::npos);
  std::string devices = "name: x\nnodes:\n";
  for (int i = 0; i < 5; ++i)
    devices += "  - {name: n" + std::to_string(i) + ", devices: [{gpu: l40s, count: 1000}]}\n";
  CHECK(error_of(devices).find("c.yaml:7: nodes[4]: more than 4096 devices") != std::string::npos);
}

TEST_CASE("a file that is not there is not_found, a folder is io") {
  const auto code = [](const std::string& path) {
    try {
      (void)ClusterSpec::from_file(path);
    } catch (const Error& error) {
      CHECK(std::string(error.what()).starts_with(path));
      return error.code();
    }
    return Errc::internal;
  };
  CHECK(code("/nonexistent/c.yaml") == Errc::not_found);
  CHECK(code("/") == Errc::io);
}

TEST_CASE("to_yaml refuses devices that it could not number again") {
  ClusterSpec cluster = ClusterSpec::from_yaml(with_device("{gpu: l40s, count: 2}"), "c.yaml");
  std::swap(cluster.nodes[0].devices[0], cluster.nodes[0].devices[1]);
  CHECK_THROWS_AS((void)cluster.to_yaml(), Error);
}

static ClusterSpec random_cluster(std::mt19937_64& random) {
  ClusterSpec cluster;
  cluster.name =
      random() % 4 == 0 ? "odd: \"na\\me\"\n#\xc3\xa9" : "pool-" + std::to_string(random());
  if (random() % 2 == 0) cluster.scale = 0.001 * static_cast<double>(1 + random() % 100000);
  const auto models = causeway::gpu_models();
  for (std::uint64_t n = 0, nodes = 1 + random() % 5; n < nodes; ++n) {
    causeway::NodeSpec node{random() % 8 == 0 ? std::to_string(n) : "n" + std::to_string(n), {}};
    std::uint32_t next[2] = {0, 0};
    for (std::uint64_t d = 0, devices = 1 + random() % 6; d < devices; ++d) {
      const auto kind = random() % 3 == 0 ? DeviceKind::host : DeviceKind::gpu;
      const auto model = kind == DeviceKind::host ? "host" : models[random() % models.size()].name;
      node.devices.push_back({{node.name, kind, next[static_cast<int>(kind)]++},
                              std::string(model),
                              (1 + random() % 3) * causeway::kDeviceGranuleBytes});
    }
    cluster.nodes.push_back(std::move(node));
  }
  for (std::size_t a = 0; a < cluster.nodes.size(); ++a)
    for (std::size_t b = a + 1; b < cluster.nodes.size(); ++b)
      if (random() % 2 == 0)
        cluster.links.push_back({cluster.nodes[a].name, cluster.nodes[b].name,
                                 1e3 + static_cast<double>(random() % 1000000) * 1.7,
                                 static_cast<double>(random() % 1000) * 1e-7});
  return cluster;
}

static void run_round_trip(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto cluster = random_cluster(random);
  const auto text = cluster.to_yaml();
  INFO("seed=", seed, "\n", text);
  ClusterSpec again;
  REQUIRE_NOTHROW(again = ClusterSpec::from_yaml(text, "round-trip"));
  REQUIRE((again == cluster));
}

TEST_CASE("random clusters come back equal") {
  if (const char* seed = std::getenv("CAUSEWAY_TEST_SEED"))
    return run_round_trip(std::stoull(seed));
  for (std::uint64_t seed = 1; seed <= 300; ++seed) run_round_trip(seed);
}

TEST_CASE("the catalogue has sound figures under unique names") {
  std::set<std::string_view> names;
  for (const auto& model : causeway::gpu_models()) {
    CAPTURE(model.name);
    CHECK(names.insert(model.name).second);
    CHECK(causeway::find_gpu_model(model.name) == &model);
    CHECK(model.memory_bytes >= 24'000'000'000);
    CHECK(model.memory_bandwidth_bytes_per_s > 5e11);
    CHECK(model.flops_per_s > 5e13);
    CHECK(model.pcie_generation >= 4);
    if (model.has_nvswitch_form) CHECK(model.nvlink_bytes_per_s.has_value());
  }
  CHECK(causeway::find_gpu_model("rtx-9090") == nullptr);
  CHECK(causeway::find_gpu_model("host") == nullptr);
}

TEST_CASE("the catalogue in docs/topology.md is this one") {
  std::ifstream file(CAUSEWAY_SOURCE_DIR "/docs/topology.md");
  REQUIRE(file);
  std::set<std::string> lines;
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("| `")) lines.insert(line);
  std::set<std::string> expected;
  for (const auto& model : causeway::gpu_models()) {
    const auto nvlink = !model.nvlink_bytes_per_s
                            ? std::string("-")
                            : fmt::format("{}{}", *model.nvlink_bytes_per_s / 1e9,
                                          model.has_nvswitch_form ? "" : " (bridge)");
    const auto policy = model.peer_policy == causeway::PeerPolicy::refused       ? "refused"
                        : model.peer_policy == causeway::PeerPolicy::nvlink_only ? "NVLink only"
                                                                                 : "granted";
    expected.insert(fmt::format("| `{}` | {} | {} | {} | {} | {} | {} |", model.name,
                                model.memory_bytes / 1'000'000'000,
                                model.memory_bandwidth_bytes_per_s / 1e9, model.flops_per_s / 1e12,
                                nvlink, model.pcie_generation, policy));
  }
  for (const auto& line : expected) {
    CAPTURE(line);
    CHECK(lines.contains(line));
  }
}
