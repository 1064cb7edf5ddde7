// Goal:   measured figures reach the pair and the direction that they were measured in, and
//         nothing that is no one-way copy is taken for one.
// Method: each output by hand with numbers that tell every cell apart; then the published files.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <fmt/format.h>

#include <ctime>
#include <vector>

#include "causeway/topology.h"
#include "import_support.h"

using causeway::ComponentKind;
using causeway::Figure;
using causeway::ImportFormat;
using causeway::Pair;
using causeway::Provenance;
using causeway::TopologyGraph;
using causeway_test::count_of;
using causeway_test::find_link;
using causeway_test::find_pair;
using causeway_test::fixture;
using causeway_test::has_note;
using causeway_test::parse_refusal;
using causeway_test::published;
using Note = causeway::TopologyNote::Kind;

static TopologyGraph read(const std::string& text, ImportFormat format = ImportFormat::automatic) {
  return causeway::import_topology(text, "file", {format, "m"});
}

static Figure measured(double value) { return {value, Provenance::measured}; }

TEST_CASE("p2pBandwidthLatencyTest fills bandwidth, staged bandwidth, latency and CUDA's answer") {
  const auto graph = read(fixture("three-gpus.p2p-test.txt"));
  CHECK(causeway::detect_format(fixture("three-gpus.p2p-test.txt")) == ImportFormat::p2p_test);
  REQUIRE(count_of(graph, ComponentKind::gpu) == 3);
  CHECK(graph.find("m/gpu1")->pci->to_string() == "0001:1a:00.0");  // Hexadecimal, unpadded.
  CHECK(graph.find("m/gpu1")->title == "NVIDIA GeForce RTX 4090");
  CHECK(graph.find("m/gpu1")->model == "rtx-4090");
  CHECK(graph.find("m/gpu1")->sm == 89U);
  const auto* pair = find_pair(graph, "m/gpu0", "m/gpu1");
  REQUIRE(pair != nullptr);
  CHECK(pair->cuda_agrees == true);
  CHECK(pair->staged_bytes_per_s == measured(10.01e9));
  CHECK(pair->bandwidth_bytes_per_s == measured(50.01e9));
  CHECK(pair->latency_s == measured(1.01e-6));
  const auto* back = find_pair(graph, "m/gpu1", "m/gpu0");
  CHECK(back->bandwidth_bytes_per_s == measured(52.01e9));  // Its read was better than its write.
  CHECK(find_pair(graph, "m/gpu0", "m/gpu2")->cuda_agrees == false);
  CHECK(find_pair(graph, "m/gpu2", "m/gpu1")->staged_bytes_per_s == measured(10.21e9));
  CHECK(find_pair(graph, "m/gpu0", "m/gpu0") == nullptr);
  CHECK(graph.pairs.size() == 6);
  CHECK_FALSE(pair->granted_read);  // CUDA's answer is not the driver's.
  CHECK_FALSE(graph.nodes[0].nvlinks_known);
  CHECK(has_note(graph, Note::remark, "p2pBandwidthLatencyTest"));
}

TEST_CASE("parts of p2pBandwidthLatencyTest are enough") {
  const auto lines = read(
      "Device=0 CAN Access Peer Device=1\nDevice=1 CANNOT Access Peer Device=0\n"
      "P2P Connectivity Matrix\n     D\\D     0     1\n     0\t     1     0\n");
  CHECK(find_pair(lines, "m/gpu0", "m/gpu1")->cuda_agrees == true);  // The first.
  CHECK(find_pair(lines, "m/gpu1", "m/gpu0")->cuda_agrees == false);
  CHECK(has_note(lines, Note::conflict, "m/gpu0 to m/gpu1"));
  const auto old = read(
      "Unidirectional P2P=Enabled Bandwidth Matrix (GB/s)\n   D\\D     0      1 \n"
      "     0 900.00   9.50 \n     1   0.00 900.00 \n");
  CHECK(find_pair(old, "m/gpu0", "m/gpu1")->bandwidth_bytes_per_s == measured(9.5e9));
  CHECK_FALSE(find_pair(old, "m/gpu1", "m/gpu0")->bandwidth_bytes_per_s);  // 0.00: not measured.
  const auto reads = read(
      "Unidirectional P2P=Enabled Bandwidth (P2P Reads) Matrix (GB/s)\n"
      "   D\\D     0      1 \n     0 900.00   9.50 \n     1   8.50 900.00 \n");
  // Row 0 reads from column 1: the bytes go from 1 to 0.
  CHECK(find_pair(reads, "m/gpu1", "m/gpu0")->bandwidth_bytes_per_s == measured(9.5e9));
  const auto both_ways = read(
      "Bidirectional P2P=Enabled Bandwidth Matrix (GB/s)\n   D\\D     0      1 \n"
      "     0 900.00  99.50 \n     1  98.50 900.00 \n"
      "P2P=Disabled Latency Matrix (us)\n   GPU     0      1 \n     0   1.00  14.00 \n",
      ImportFormat::p2p_test);
  CHECK(both_ways.pairs.empty());
}

TEST_CASE("p2pBandwidthLatencyTest of CUDA 8 heads its latencies as its rates") {
  const auto graph = read(
      "P2P=Disabled Latency Matrix (us)\n   D\\D     0      1 \n"
      "     0   2.70  16.20 \n     1  16.30   2.70 \n"
      "P2P=Enabled Latency Matrix (us)\n   D\\D     0      1 \n"
      "     0   2.70   7.20 \n     1   7.50   2.70 \n");
  REQUIRE(find_pair(graph, "m/gpu0", "m/gpu1") != nullptr);
  CHECK(find_pair(graph, "m/gpu0", "m/gpu1")->latency_s->value == doctest::Approx(7.2e-6));
  CHECK(find_pair(graph, "m/gpu1", "m/gpu0")->latency_s->value == doctest::Approx(7.5e-6));
}

TEST_CASE("nvbandwidth's arrows say which way the bytes go") {
  const auto text = fixture("two-gpus.nvbandwidth.txt");
  CHECK(causeway::detect_format(text) == ImportFormat::nvbandwidth);
  const auto graph = read(text);
  REQUIRE(count_of(graph, ComponentKind::gpu) == 2);
  REQUIRE(count_of(graph, ComponentKind::host) == 1);
  CHECK(graph.find("m/host0")->model == "host");
  CHECK(graph.find("m/gpu1")->pci->to_string() == "0000:3b:00.0");
  CHECK(graph.find("m/gpu1")->model == "rtx-a6000");
  CHECK(graph.nodes[0].driver_version == "580.95.05");
  const auto bandwidth = [&](const char* from, const char* to) {
    const auto* pair = find_pair(graph, from, to);
    return pair == nullptr ? std::nullopt : pair->bandwidth_bytes_per_s;
  };
  CHECK(bandwidth("m/host0", "m/gpu0") == measured(25.5e9));
  CHECK(bandwidth("m/host0", "m/gpu1") == measured(25.75e9));
  CHECK(bandwidth("m/gpu0", "m/host0") == measured(26.5e9));
  CHECK(bandwidth("m/gpu1", "m/host0") == measured(26.75e9));
  CHECK(bandwidth("m/gpu0", "m/gpu1") == measured(21.25e9));  // Read: 0 -> 1.
  CHECK(bandwidth("m/gpu1", "m/gpu0") == measured(22.5e9));   // Write: 0 <- 1 beats the read.
  CHECK(find_pair(graph, "m/gpu0", "m/gpu1")->latency_s == measured(700.5 / 1e9));
  CHECK(graph.pairs.size() == 6);
  CHECK(has_note(graph, Note::remark, "nvbandwidth v0.8"));
  for (const auto* name : {"host_to_device_bidirectional_memcpy_ce",
                           "device_to_device_memcpy_read_sm", "all_to_host_memcpy_ce"})
    CHECK(has_note(graph, Note::remark, name));
}

TEST_CASE("a table without its test's name is taken where it can be one thing only") {
  const std::string device =
      "memcpy CE GPU(row) -> GPU(column) bandwidth (GB/s)\n"
      "           0         1\n 0       N/A     26.34\n 1     26.00       N/A\n";
  const auto square = read(device);
  CHECK(find_pair(square, "m/gpu0", "m/gpu1")->bandwidth_bytes_per_s == measured(26.34e9));
  const std::string host =
      "memcpy CE CPU(row) -> GPU(column) bandwidth (GB/s)\n"
      "           0         1\n 0     25.50     25.75\n\n";
  CHECK(read(host).pairs.empty());  // Or all at once.
  const auto named = read(host + "SUM host_to_device_memcpy_ce 51.25\n");
  CHECK(find_pair(named, "m/host0", "m/gpu1")->bandwidth_bytes_per_s == measured(25.75e9));
  CHECK(read(host + "SUM host_to_all_memcpy_ce 51.25\n").pairs.empty());
  const auto nodes = "Running multinode_device_to_device_memcpy_read_ce.\n" + device;
  CHECK_FALSE(parse_refusal([&] { return read(nodes); }).empty());  // Ranks, not devices.
}

TEST_CASE("nvbandwidth's JSON says the same as its text") {
  const auto json = fixture("two-gpus.nvbandwidth.json");
  CHECK(causeway::detect_format(json) == ImportFormat::nvbandwidth);
  const auto graph = read(json);
  const auto text = read(fixture("two-gpus.nvbandwidth.txt"));
  CHECK(graph.components == text.components);
  CHECK(graph.nodes == text.nodes);
  for (const auto& pair : graph.pairs) {
    CAPTURE(pair.from);
    CAPTURE(pair.to);
    const auto* same = find_pair(text, pair.from, pair.to);
    REQUIRE(same != nullptr);
    CHECK(pair.bandwidth_bytes_per_s == same->bandwidth_bytes_per_s);
  }
  CHECK(graph.pairs.size() == text.pairs.size());
}

TEST_CASE("nvbandwidth's JSON is found among what a terminal says") {
  const auto json = fixture("two-gpus.nvbandwidth.json");
  const auto graph = read(json);
  for (const auto& text :
       {"$ mpirun -n 1 ./nvbandwidth -j\n" + json, json + "$ exit {}\n",
        "```json\n" + json + "\n```\n", "Warning: {0} of {1}\n" + json + "done }\n"}) {
    CAPTURE(text);
    CHECK(causeway::detect_format(text) == ImportFormat::nvbandwidth);
    const auto found = read(text);
    CHECK(found.components == graph.components);
    CHECK(found.pairs == graph.pairs);
  }
  // What is cut stays refused, with its place in the text.
  const auto cut = "$ ./nvbandwidth -j\n" + json.substr(0, json.size() / 2);
  CHECK(parse_refusal([&] { return read(cut); }).find("JSON: ") != std::string::npos);
}

TEST_CASE("a transfer table gives NICs of two hosts and what goes between them") {
  const auto graph = read(
      R"([{"src_host": "a", "dst_host": "Node_B", "endpoints": [
        {"src_dev": "mlx5_0", "dst_dev": "mlx5_1", "src_numa": 0, "dst_numa": 1,
         "bandwidth": 20000.5, "latency": 5.5},
        {"src_dev": "mlx5_0", "dst_dev": "mlx5_0", "src_numa": 1, "dst_numa": 0,
         "bandwidth": 0, "latency": 0}]}])");
  CHECK(graph.nodes.size() == 2);
  REQUIRE(graph.find_node("node-b") != nullptr);
  CHECK(has_note(graph, Note::repaired, "'Node_B' node-b"));
  CHECK(graph.find("a/nic0")->title == "mlx5_0");
  CHECK(graph.find("a/nic0")->numa == 0U);
  CHECK(has_note(graph, Note::conflict, "a/nic0: NUMA node 1 here, 0 before"));
  CHECK(graph.find("node-b/nic0")->title == "mlx5_1");
  const auto* pair = find_pair(graph, "a/nic0", "node-b/nic0");
  REQUIRE(pair != nullptr);
  CHECK(pair->bandwidth_bytes_per_s == measured(20000.5e6));
  CHECK(pair->latency_s == measured(5.5e-6));
  CHECK_FALSE(find_pair(graph, "a/nic0", "node-b/nic1")->bandwidth_bytes_per_s);
  CHECK(find_pair(graph, "node-b/nic0", "a/nic0") == nullptr);
}

TEST_CASE("a transfer table's hosts reach each other as measured") {
  const causeway::Topology topology(read(
      R"([{"src_host": "A", "dst_host": "b", "endpoints": [
        {"src_dev": "n0", "dst_dev": "n0", "src_numa": 0, "dst_numa": 1,
         "bandwidth": 20000, "latency": 5}]},
       {"src_host": "b", "dst_host": "A", "endpoints": [
        {"src_dev": "n0", "dst_dev": "n0", "src_numa": 1, "dst_numa": 0,
         "bandwidth": 18000, "latency": 6},
        {"src_dev": "n1", "dst_dev": "n0", "src_numa": 0, "dst_numa": 0, "bandwidth": 0}]}])"));
  const auto& graph = topology.graph();
  CHECK(has_note(graph, Note::remark, "calls the host 'A' a"));  // Harmless.
  const auto* cable = find_link(graph, "a/nic0", "b/nic0");
  REQUIRE(cable != nullptr);
  CHECK(cable->kind == causeway::LinkKind::network);
  CHECK(cable->provenance == Provenance::measured);
  CHECK(cable->effective_bytes_per_s == measured(18e9));  // The slower way.
  CHECK(cable->latency_s == measured(6e-6));
  CHECK(find_link(graph, "b/nic1", "a/nic0") == nullptr);
  CHECK(find_link(graph, "b/nic0", "b/cpu1")->kind == causeway::LinkKind::pcie);
  CHECK(find_link(graph, "b/cpu0", "b/cpu1")->kind == causeway::LinkKind::socket);
  CHECK_FALSE(graph.find("a/host0")->capacity_bytes);
  const auto device = [](const char* name) { return causeway::DeviceName::parse(name); };
  const auto near = topology.access(device("a/host0"), device("b/host1"));
  REQUIRE(near);
  CHECK(near->tier == causeway::Tier::remote);
  CHECK(near->rate.bandwidth_bytes_per_s == 18e9);
  CHECK(near->rate.provenance == Provenance::measured);
  CHECK(topology.access(device("b/host0"), device("a/host0")));  // Through the other NUMA node.
  const auto bare = read(
      R"([{"src_host": "a", "dst_host": "b", "endpoints": [
        {"src_dev": "n0", "dst_dev": "n0", "bandwidth": 1, "latency": 5}]}])");
  CHECK(causeway::Topology(bare).route(device("a/host0"), device("b/host0")));
}

TEST_CASE("figures that no machine has are left out, and that is said") {
  const auto copies = read(
      "Running device_to_device_memcpy_write_ce.\n"
      "memcpy CE GPU(row) -> GPU(column) bandwidth (GB/s)\n"
      "           0         1\n 0       N/A     1e308\n 1      24.5       N/A\n");
  CHECK_FALSE(find_pair(copies, "m/gpu0", "m/gpu1")->bandwidth_bytes_per_s);
  CHECK(find_pair(copies, "m/gpu1", "m/gpu0")->bandwidth_bytes_per_s == measured(24.5e9));
  CHECK(has_note(copies, Note::repaired, "m/gpu0 to m/gpu1: left out 1e+308 GB/s"));

  const auto tables = read(
      "Unidirectional P2P=Enabled Bandwidth (P2P Writes) Matrix (GB/s)\n"
      "   D\\D     0      1\n     0 900.00   1e300\n     1  25.00  900.00\n"
      "P2P=Enabled Latency (P2P Writes) Matrix (us)\n"
      "   GPU     0      1\n     0   1.00    1e12\n     1   2.00    1.00\n");
  const auto* pair = find_pair(tables, "m/gpu0", "m/gpu1");
  REQUIRE(pair != nullptr);
  CHECK_FALSE(pair->bandwidth_bytes_per_s);
  CHECK_FALSE(pair->latency_s);
  CHECK(has_note(tables, Note::repaired, "left out 1e+300 GB/s"));
  CHECK(has_note(tables, Note::repaired, "left out 1e+12 us"));

  const auto hosts = read(
      R"([{"src_host": "a", "dst_host": "b", "endpoints": [
        {"src_dev": "n0", "dst_dev": "n0", "bandwidth": 1e305, "latency": 1e300}]}])");
  CHECK_FALSE(find_pair(hosts, "a/nic0", "b/nic0")->bandwidth_bytes_per_s);
  CHECK_FALSE(find_pair(hosts, "a/nic0", "b/nic0")->latency_s);
  CHECK(has_note(hosts, Note::repaired, "left out 1e+305 MB/s"));
}

TEST_CASE("bad JSON is refused with its place") {
  const auto refuse = [](const std::string& text, ImportFormat format) {
    return parse_refusal([&] { return read(text, format); });
  };
  CHECK(refuse("[\n{\"src_host\": }\n]", ImportFormat::transfer_table).starts_with("file:2: JSON"));
  CHECK(refuse("[] []", ImportFormat::transfer_table).starts_with("file:1: JSON"));
  CHECK(refuse("[]", ImportFormat::transfer_table).find("no measured pair") != std::string::npos);
  CHECK(refuse("[{\"src_host\": \"a\", \"dst_host\": \"b\"}]", ImportFormat::transfer_table)
            .find("[0].endpoints") != std::string::npos);
  CHECK(refuse("[{\"src_host\": \"a\", \"dst_host\": \"//\"}]", ImportFormat::transfer_table)
            .find("[0].dst_host") != std::string::npos);
  CHECK(refuse(R"([{"src_host": "A", "dst_host": "a", "endpoints": []}])",
               ImportFormat::transfer_table)
            .find("one node") != std::string::npos);
  CHECK(refuse("{\"nvbandwidth\": 1}", ImportFormat::nvbandwidth).find("nvbandwidth") !=
        std::string::npos);
  CHECK_FALSE(refuse(std::string(100'000, '['), ImportFormat::transfer_table).empty());
}

TEST_CASE("tables past any machine are refused") {
  std::string wide = "memcpy CE GPU(row) -> GPU(column) bandwidth (GB/s)\n";
  for (int i = 0; i < 1000; ++i) wide += fmt::format(" {}", i);
  CHECK(parse_refusal([&] { return read(wide); }).find("more than 512") != std::string::npos);
  CHECK_FALSE(
      parse_refusal([] { return read("memcpy CE GPU(row) -> GPU(column) (GB/s)\n"); }).empty());
}

TEST_CASE("what formats look like") {
  const auto detect = [](const char* text) { return causeway::detect_format(text); };
  CHECK(detect("<?xml version=\"1.0\"?>\n<!-- a -->\n<system version=\"1\">") ==
        ImportFormat::nccl_xml);
  CHECK(detect("\xef\xbb\xbf\n<system version=\"1\">") == ImportFormat::nccl_xml);
  CHECK(detect("<graphs version=\"1\">") == ImportFormat::nccl_xml);  // Its reader says why not.
  CHECK(detect("<?xml?><!DOCTYPE topology SYSTEM \"hwloc2.dtd\"><topology version=\"2.0\">") ==
        ImportFormat::hwloc_xml);
  CHECK(detect("<html>") == std::nullopt);
  CHECK(detect("name: a\nnodes:\n  - name: b\n") == ImportFormat::cluster_yaml);
  CHECK(detect("{\n  \"schema\": \"causeway-topology/1\",\n \"nodes\": []}") ==
        ImportFormat::causeway_json);
  CHECK(detect("{\"name\": \"a\", \"nodes\": []}") == ImportFormat::cluster_yaml);
  CHECK(detect("[{\"src_host\": \"a\", \"endpoints\": []}]") == ImportFormat::transfer_table);
  CHECK(detect("") == std::nullopt);
  CHECK(detect("[]") == std::nullopt);
  CHECK(detect("switches:\n  core:\n") == std::nullopt);
  CHECK(detect("$ ls\nGPU0 is a card\nX\n") == std::nullopt);
  CHECK(detect("<!-- never closed") == std::nullopt);
  const auto refusal = parse_refusal([] { return read("what is this\n"); });
  for (const auto* kind : {"file:1: ", "NCCL", "hwloc", "topo -m", "nvbandwidth", "ibnetdiscover"})
    CHECK(refusal.find(kind) != std::string::npos);
}

TEST_CASE("detection is cheap, and says what is wrong with a text") {
  const auto refusal = [](const std::string& text) {
    return parse_refusal([&] { return read(text); });
  };
  const std::string wide(
      "\xff\xfe\x09\0G\0P\0U\0"
      "0\0",
      12);
  CHECK(refusal(wide).find("file:1: text: is UTF-16") == 0);
  std::string header;
  for (int i = 0; i < 600; ++i) header += fmt::format("\tGPU{}", i);
  CHECK(refusal(header + "\nGPU0\t X \tPIX\n").find("header: more than 512 devices") !=
        std::string::npos);
  const std::string blank(60'000'000, '\n');
  const auto time_of = [&](const std::string& text) {
    const auto start = std::clock();
    CHECK(refusal(text).find("of no known kind") != std::string::npos);
    return static_cast<double>(std::clock() - start);
  };
  const auto tenth = time_of(blank.substr(blank.size() / 10 * 9));
  CHECK(time_of(blank) < 40 * tenth);  // A tenth of the lines, a tenth of the time.
  const auto late = refusal(blank + "\tGPU0\tGPU512\nGPU0\t X\n");
  CHECK(late.find("file:60000001: header: more than 512 devices") == 0);
}

TEST_CASE("files that cannot be read are said to be so") {
  try {
    (void)causeway::import_topology_file("/no/such/file");
    FAIL("read what is not there");
  } catch (const causeway::Error& error) {
    CHECK(error.code() == causeway::Errc::not_found);
  }
}

TEST_CASE("the published measurements") {
  const auto a6000 = published("6x-a6000-nvbandwidth-d2d.txt");
  if (!a6000) return;
  const auto graph = read(*a6000);
  CHECK(count_of(graph, ComponentKind::gpu) == 6);
  CHECK(graph.pairs.size() == 30);
  CHECK(find_pair(graph, "m/gpu0", "m/gpu3")->bandwidth_bytes_per_s == measured(21.95e9));
  CHECK(find_pair(graph, "m/gpu3", "m/gpu0")->bandwidth_bytes_per_s == measured(21.82e9));

  const auto patched = read(*published("8x-rtx5090-patched.nvbandwidth.txt"));
  CHECK(count_of(patched, ComponentKind::gpu) == 8);
  CHECK(patched.find("m/gpu7")->model == "rtx-5090");
  CHECK(patched.pairs.size() == 16);
  CHECK(find_pair(patched, "m/host0", "m/gpu7")->bandwidth_bytes_per_s == measured(56.41e9));
  CHECK(find_pair(patched, "m/gpu4", "m/host0")->bandwidth_bytes_per_s == measured(57.29e9));

  const auto table = read(*published("mooncake-tent-cluster-topology.json"));
  CHECK(table.nodes.size() == 2);
  CHECK(count_of(table, ComponentKind::nic) == 16);
  CHECK(table.pairs.size() == 64);
  for (const auto& pair : table.pairs) {
    CHECK(pair.bandwidth_bytes_per_s->value > 17.3e9);
    CHECK(pair.bandwidth_bytes_per_s->value < 22e9);
    CHECK(pair.latency_s->value > 5.5e-6);
    CHECK(pair.latency_s->value < 10.9e-6);
  }
}
