// Goal:   every `topo` command says what a topology holds and no more, fits the terminal, and fails
//         with a line that says what to do.
// Method: the real program on hand-written topologies (tests/data/topology), on the machine that
//         runs this, on a generated cluster of 1,024 nodes, and inside a pseudo-terminal, where
//         colours and widths count.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <pty.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "causeway/topology.h"
#include "causeway/topology_export.h"
#include "tests/tools/run_command.h"
#include "tools/base/files.h"
#include "tools/base/terminal.h"

using namespace causeway;
using causeway::test::CommandResult;
using causeway::test::TemporaryFolder;

namespace json = boost::json;

static const TemporaryFolder& folder() {
  static const TemporaryFolder made;
  return made;
}

static std::string data(const std::string& name) { return std::string(TOPOLOGY_DATA) + "/" + name; }

static std::vector<std::string> words(const std::string& text) {
  std::vector<std::string> result;
  std::istringstream stream(text);
  for (std::string word; stream >> word;) result.push_back(word);
  return result;
}

// "@x.json" in a line is that file of the test data.
static std::vector<std::string> arguments_of(const std::string& line) {
  auto arguments = words(line);
  for (auto& word : arguments)
    if (word.starts_with('@')) word = data(word.substr(1));
  arguments.insert(arguments.begin(), {CAUSEWAY, "topo"});
  return arguments;
}

static CommandResult topo(const std::string& line) {
  return test::run_command(arguments_of(line),
                           {{"XDG_RUNTIME_DIR", folder().path()}, {"LC_ALL", "C.UTF-8"}});
}

static json::value topo_json(const std::string& line, int exit_code = 0) {
  const auto result = topo(line + " --json");
  INFO(line);
  INFO(result.err);
  REQUIRE(result.exit_code == exit_code);
  return json::parse(result.out);
}

static bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// The first line that holds `part`.
static std::string line_with(const std::string& text, const std::string& part) {
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);)
    if (contains(line, part)) return line;
  return "";
}

// The line of a table that begins with `name`.
static std::string row_of(const std::string& text, const std::string& name) {
  return line_with(text.substr(std::min(text.find("\n" + name + " "), text.size())), name);
}

struct Screen {
  std::string text;
  int exit_code = -1;
};

// What the program shows on a terminal of so many columns.
static Screen on_terminal(
    const std::string& line, unsigned columns,
    const std::vector<std::pair<std::string, std::string>>& environment = {}) {
  winsize size{};
  size.ws_row = 50;
  size.ws_col = static_cast<unsigned short>(columns);
  int terminal = -1;
  const auto arguments = arguments_of(line);
  std::vector<char*> pointers;
  for (const auto& argument : arguments) pointers.push_back(const_cast<char*>(argument.c_str()));
  pointers.push_back(nullptr);
  const auto pid = ::forkpty(&terminal, nullptr, nullptr, &size);
  REQUIRE(pid >= 0);
  if (pid == 0) {
    ::setenv("TERM", "xterm", 1);
    ::setenv("LC_ALL", "C.UTF-8", 1);
    ::setenv("XDG_RUNTIME_DIR", folder().path().c_str(), 1);
    ::unsetenv("NO_COLOR");
    for (const auto& [name, value] : environment) ::setenv(name.c_str(), value.c_str(), 1);
    ::execv(pointers[0], pointers.data());
    ::_exit(127);
  }
  const tools::UniqueFd fd(terminal);
  Screen screen;
  std::array<char, 4096> buffer{};
  for (;;) {  // Ends with EIO once the program has closed the other side.
    const auto count = ::read(terminal, buffer.data(), buffer.size());
    if (count <= 0) break;
    screen.text.append(buffer.data(), static_cast<std::size_t>(count));
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  screen.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  std::erase(screen.text, '\r');
  return screen;
}

static std::string without_colours(const std::string& text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\033') {
      while (i < text.size() && text[i] != 'm' && text[i] != 'K') ++i;
      continue;
    }
    plain += text[i];
  }
  return plain;
}

static std::size_t widest(const std::string& text) {
  std::size_t width = 0;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);)
    width = std::max(width, tools::display_width(line));
  return width;
}

TEST_CASE("this machine is shown with what its CUDA driver can do, or why there is none") {
  const auto show = [](const char* library, std::vector<std::string> more = {}) {
    std::vector<std::string> command{CAUSEWAY, "topo", "show"};
    command.insert(command.end(), more.begin(), more.end());
    return test::run_command(std::move(command), {{"CAUSEWAY_CUDA_LIBRARY", library},
                                                  {"CAUSEWAY_CUDA_EMULATOR", "{devices: 1}"},
                                                  {"COLUMNS", "500"}})
        .out;
  };
  const auto has = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  const auto absent = show("/nowhere/cuda.so");
  CHECK(has(absent, "CUDA (built in): no CUDA driver: /nowhere/cuda.so"));
  const auto there = show(CUDA_EMULATOR);
  CHECK(has(there, "CUDA (built in): CUDA driver 12.4, 1 GPU\n"));
  CHECK(has(there, "CUDA (built in): GPU 0: Emulated GPU at 0000:10:00.0, 1.1 of 1.1 GB free"));
  CHECK(has(show(CUDA_EMULATOR, {"--json"}), "CUDA driver 12.4, 1 GPU"));
  CHECK_FALSE(has(show(CUDA_EMULATOR, {"--cluster", "desktop"}), "CUDA"));
}

TEST_CASE("the tree places devices, names figures' sources, and marks what is wrong") {
  const auto result = topo("show --from @workstation.json");
  INFO(result.out);
  REQUIRE(result.exit_code == 0);
  CHECK(contains(result.out, "driver 580.95.05"));
  CHECK(contains(line_with(result.out, "cpu0"), "AMD Ryzen 9 7950X, cores 0-31"));
  CHECK(contains(line_with(result.out, "gpu0 "), "RTX 5090"));
  CHECK(contains(line_with(result.out, "gpu0 "), "Gen5 x16  48 GB/s (sysfs)"));
  CHECK(contains(line_with(result.out, "gpu0 "), "01:00.0 GPU-3f2a1b0c"));
  CHECK(contains(line_with(result.out, "gpu1 "), "Gen4 x4 of x16  6 GB/s (sysfs)"));
  CHECK(contains(line_with(result.out, "gpu1 "), "│"));  // Below the chipset's bridge.
  CHECK(contains(line_with(result.out, "bridge1"), "behind the chipset"));
  CHECK_FALSE(contains(result.out, "bridge0"));  // Only the way to one card.
  CHECK(contains(line_with(result.out, "nic0"), "enp7s0, 1.25 GB/s possible"));
  CHECK(contains(line_with(result.out, "nic0"), "312 MB/s"));
  CHECK(contains(result.out, "2 GPUs in 2 islands, 68.4 GB of VRAM"));
  CHECK(contains(line_with(result.out, "ws/gpu1"), "granted   GNS"));
}

TEST_CASE("NVLinks are a branch of their own, alike ones on one line") {
  const auto result = topo("show --from @hgx.json");
  INFO(result.out);
  REQUIRE(result.exit_code == 0);
  CHECK(contains(line_with(result.out, "gpu[0-1,3]"), "to 1 NVSwitch"));
  CHECK(contains(line_with(result.out, "gpu[0-1,3]"), "18 links  371 GB/s (nvml)"));
  CHECK(contains(result.out, "17 links  350 GB/s (nvml), degraded"));
  CHECK(contains(line_with(result.out, "cpu0"), "between CPUs  22 GB/s (spec)"));
  CHECK(contains(line_with(result.out, "nic1"), "down"));
  CHECK(contains(line_with(result.out, "hgx/nvlink0"), "4 x H100 SXM  gpu[0-3]"));
  CHECK(contains(line_with(result.out, "hgx/nvlink0"), "granted   NVSwitch"));
}

TEST_CASE("what is not known is a question mark, never 0") {
  const auto result = topo("show --from @unknown.json --view all");
  INFO(result.out);
  REQUIRE(result.exit_code == 0);
  CHECK(contains(line_with(result.out, "gpu0"), "?"));
  CHECK(contains(result.out, "unknown: no source spoke of it"));
  CHECK(contains(result.out, "not seen  NVLinks: the file lists PCI devices alone"));
  CHECK(contains(result.out, "dump.xml:7: width 0 read as unknown"));
  CHECK(contains(result.out, "2 GPUs in 2 islands, ? of VRAM"));
  CHECK(contains(topo("show --from @unknown.json --view network").out, "no network link is known"));
  CHECK_FALSE(contains(result.out, " 0 B"));
  CHECK_FALSE(contains(result.out, "0 GB"));
}

TEST_CASE("the matrix says how far, how fast and whether they see each other") {
  const auto apart = topo("show --view matrix --from @workstation.json");
  INFO(apart.out);
  CHECK(contains(row_of(apart.out, "gpu0"), "PHB     3 ×"));
  CHECK(contains(row_of(apart.out, "nic0"), "PHB  0.75    PIX  0.75"));
  const auto joined = topo("show --view matrix --from @hgx.json");
  INFO(joined.out);
  CHECK(contains(row_of(joined.out, "gpu0"), "NV18  371 +"));
  CHECK(contains(row_of(joined.out, "gpu2"), "NV17  350 +"));
  // By the narrow slot of gpu3, and over the link between the CPUs.
  CHECK(contains(row_of(joined.out, "nic1"), "SYS    22    SYS    22    PIX    48    PIX    24"));
  CHECK(contains(joined.out, "verified by a copy"));
  const auto ring = topo("show --view matrix --from @ring.json");
  INFO(ring.out);
  CHECK(contains(row_of(ring.out, "gpu0"), "NV2    40 ~"));
}

TEST_CASE("islands: a ring of NVLinks is one domain and several islands") {
  const auto result = topo("islands --from @ring.json");
  INFO(result.out);
  CHECK(contains(result.out, "NVLink ring/domain0 joins 4 GPUs and is 2 islands: not all"));
  CHECK(contains(line_with(result.out, "ring/nvlink0"), "not all to all"));
  const auto value = topo_json("islands --from @ring.json");
  CHECK(value.at("nvlink_domains").at(0).at("all_to_all").as_bool() == false);
}

TEST_CASE("islands: a card beside a bridged pair sees it over PCIe, and the line says so") {
  for (const int lone : {0, 2}) {
    const auto path = fmt::format("{}/bridged{}.txt", folder().path(), lone);
    std::ofstream file(path);
    for (int gpu = 0; gpu < 3; ++gpu) {
      file << fmt::format("GPU {0}: NVIDIA RTX A6000 (UUID: GPU-0000000{0}-1-2-3-4)\n", gpu);
      if (gpu == lone) file << "NVML: Unable to retrieve NVLink information as all are inActive\n";
      for (int link = 0; link < 4 && gpu != lone; ++link)
        file << fmt::format("\t Link {}: 14.062 GB/s\n", link);
    }
    file << "\tGPU0\tGPU1\tGPU2\tCPU Affinity\n";
    for (int gpu = 0; gpu < 3; ++gpu) {
      file << "GPU" << gpu;
      for (int other = 0; other < 3; ++other)
        file << (gpu == other ? "\t X " : gpu == lone || other == lone ? "\tNODE" : "\tNV4");
      file << "\t0-31\n";
    }
    file.close();
    const auto islands = topo("islands --from " + path);
    INFO(islands.out, islands.err);
    const auto line = line_with(islands.out, "node0/pcie0");
    CHECK(contains(line, "in part"));
    CHECK(contains(line, "peer access over PCIe"));
    const auto matrix = topo("show --view matrix --from " + path);
    INFO(matrix.out, matrix.err);
    CHECK(contains(matrix.out, "NODE    ? ~"));
  }
}

TEST_CASE("the network view counts switches by level, nodes by shape and links by rate") {
  const auto result = topo("show --view network --from @fabric.json");
  INFO(result.out);
  REQUIRE(result.exit_code == 0);
  CHECK(contains(result.out, "4 nodes, 3 switches, 6 network links"));
  CHECK(contains(line_with(result.out, "n[0-3] "), "A100 PCIe"));
  const auto leaf = words(line_with(result.out, "leaf[0-1]"));
  REQUIRE(leaf.size() == 6);
  CHECK((leaf[0] == "leaf" && leaf[2] == "2" && leaf[3] == "2" && leaf[4] == "2"));
  CHECK(words(line_with(result.out, "spine0"))[0] == "spine");
  CHECK(contains(line_with(result.out, "n[0-3]/nic0"), "25 GB/s"));

  // Of a fabric only what its wires carry is known.
  const auto wires = topo("show --view network --from @small.ibnetdiscover.txt");
  CHECK(contains(line_with(wires.out, "node-1/nic3"), "50 GB/s"));
}

TEST_CASE("path: hops, bottleneck, time, sharers, what is nearer") {
  const auto result = topo("path ws/gpu0 ws/gpu1 --bytes 6GB --from @workstation.json");
  INFO(result.out);
  REQUIRE(result.exit_code == 0);
  CHECK(contains(result.out, "ws/gpu0 → ws/gpu1  host: PCIe, staged in host memory, PCIe"));
  CHECK(contains(line_with(result.out, "bottleneck"), "6 GB/s"));
  CHECK(contains(result.out, "3 GB/s (sysfs), 14 us latency"));
  CHECK(contains(line_with(result.out, "6 GB  "), "2 s"));
  CHECK(contains(result.out, "NEARER TO ws/gpu0"));

  const auto value = topo_json("path ws/gpu0 ws/gpu1 --from @workstation.json");
  CHECK(value.at("staged").as_bool());
  const auto bottleneck = value.at("bottleneck").to_number<std::size_t>();
  CHECK(value.at("hops").at(bottleneck).at("bandwidth_bytes_per_s").at("value") == 6e9);
  CHECK(value.at("nearer").at(0).at("device").as_string() == "ws/host0");

  const auto network = topo_json("path n0/gpu0 n3/gpu0 --from @fabric.json");
  CHECK(network.at("tier").as_string() == "remote");
  CHECK(network.at("hops").as_array().size() == 8);
  const auto nowhere = topo("path ws/gpu0 ws/gpu7 --from @workstation.json");
  CHECK(nowhere.exit_code == 1);
  CHECK(contains(nowhere.err, "ws/gpu7"));
}

TEST_CASE("doctor: the exit code is the worst finding, errors are apart from it") {
  const auto result = topo("doctor --from @workstation.json");
  INFO(result.out);
  CHECK(result.exit_code == 1);
  CHECK(contains(result.out, "W03 warning"));
  CHECK(contains(result.out, "ws/gpu1"));
  CHECK(contains(result.out, "  fix    "));
  CHECK(contains(result.out, "Could not look"));
  const auto value = topo_json("doctor --from @workstation.json", 1);
  CHECK_FALSE(value.at("findings").as_array().empty());
  const auto absent = topo("doctor --from /nowhere.json");
  CHECK(absent.exit_code == 5);
  CHECK(contains(absent.err, "/nowhere.json"));
}

TEST_CASE("diff: 0 equal, 1 different, 5 not comparable") {
  const auto equal = topo("diff @hgx.json @hgx.json");
  CHECK(equal.exit_code == 0);
  CHECK(equal.out == "no difference\n");
  auto text = tools::read_file(data("workstation.json")).value();
  const auto at = text.find("\"width\": 4}");
  REQUIRE(at != text.npos);
  text.replace(at, 11, "\"width\": 2}");
  const auto narrower = folder().path() + "/narrower.json";
  tools::write_file(narrower, text);
  const auto result = topo("diff @workstation.json " + narrower);
  INFO(result.out);
  CHECK(result.exit_code == 1);
  CHECK(contains(result.out, "pcie.width"));
  const auto value = topo_json("diff @workstation.json " + narrower, 1);
  CHECK_FALSE(value.at("equal").as_bool());
  const auto absent = topo("diff @hgx.json no-such");
  CHECK(absent.exit_code == 5);
  CHECK(contains(absent.err, "no-such"));
  CHECK(contains(absent.err, "self"));
}

TEST_CASE("whatif: what changes in islands and costs, in the order of the command line") {
  const auto faster = topo("whatif --cluster desktop-and-hgx --set desktop-hgx.bandwidth=12.5GB/s");
  INFO(faster.out);
  INFO(faster.err);
  REQUIRE(faster.exit_code == 0);
  CHECK(contains(faster.out, "the islands stay as they are"));
  CHECK(contains(line_with(faster.out, "hgx/gpu[0-7]"), "x 10"));
  const auto removed = topo_json("whatif --from @hgx.json --remove hgx/nvswitch0");
  CHECK(removed.at("islands_gone").at(0).at("name").as_string() == "hgx/nvlink0");
  CHECK_FALSE(removed.at("costs").as_array().empty());
  // Set on what the same line adds; the other way round it is not there yet.
  const auto added = "--add-node new=2xrtx-5090,host:64GB,link:desktop:10Gbit/s";
  const auto changed = std::string("--set desktop-new.bandwidth=1GB/s");
  const auto base = std::string("whatif --cluster desktop --then show ");
  const auto in_order = topo(base + added + " " + changed);
  INFO(in_order.err);
  CHECK(in_order.exit_code == 0);
  CHECK(contains(in_order.out, "new"));
  const auto too_early = topo(base + changed + " " + added);
  CHECK(too_early.exit_code == 1);
}

TEST_CASE("import, export and back are one topology") {
  const auto out = folder().path() + "/out.json";
  const auto result = topo("import @hgx.json -o " + out);
  INFO(result.err);
  REQUIRE(result.exit_code == 0);
  CHECK(contains(result.out, "1 node, 4 GPUs, 2 NICs, 1 NVSwitch"));
  CHECK(topo("diff @hgx.json " + out).exit_code == 0);
  CHECK(topo("import " + out).out == tools::read_file(out).value());
  const auto noted = topo("import @unknown.json");
  CHECK(contains(noted.err, "dump.xml:7: repaired: width 0"));
  CHECK(json::parse(noted.out).at("name").as_string() == "bare");

  const auto yaml = topo("export --format yaml --from @workstation.json");
  CHECK(contains(yaml.out, "rtx-5090"));
  CHECK(topo("export --format dot --from @hgx.json").out.find("graph ") < 10);
  const auto nccl = topo("export --format nccl --from @hgx.json");
  CHECK(contains(nccl.out, "<system"));
  const auto many = topo("export --format nccl --from @fabric.json");
  CHECK(many.exit_code == 1);
  CHECK(contains(many.err, "--of-node"));
  CHECK(contains(topo("export --format slurm --from @fabric.json").out, "SwitchName=leaf0"));
  CHECK(topo("export --format pdf").exit_code == 2);
}

TEST_CASE("watch prints what changes, one line each") {
  const auto path = folder().path() + "/watched.json";
  auto text = tools::read_file(data("workstation.json")).value();
  std::ofstream(path) << text;
  test::RunningCommand watch(arguments_of("watch --interval 0.1 --from " + path),
                             {{"XDG_RUNTIME_DIR", folder().path()}});
  REQUIRE(watch.wait_output("until Ctrl-C", std::chrono::seconds(30)));
  text.replace(text.find("\"port_up\": true"), 15, "\"port_up\": false");
  const auto fresh = path + ".new";
  tools::write_file(fresh, text);
  REQUIRE(::rename(fresh.c_str(), path.c_str()) == 0);
  CHECK(watch.wait_output("ws/nic0 port_up", std::chrono::seconds(30)));
  watch.process().signal(SIGINT);
  const auto result = watch.finish(std::chrono::seconds(30));
  INFO(result.out);
  INFO(result.err);
  CHECK(result.exit_code == 0);
  CHECK(std::ranges::count(result.out, '\n') == 2);

  const auto counted = topo("watch --interval 0.05 --count 2 --from @hgx.json");
  CHECK(counted.exit_code == 0);
  CHECK(std::ranges::count(counted.out, '\n') == 1);
}

TEST_CASE("measure: this machine's memory, with a reference, into a file that reads back") {
  const auto out = folder().path() + "/measured.json";
  const auto value = topo_json("measure --only memory --seconds 0.05 -o " + out);
  REQUIRE_FALSE(value.at("measurements").as_array().empty());
  for (const auto& entry : value.at("measurements").as_array()) {
    CHECK(entry.at("what").as_string() == "memory");
    CHECK(entry.at("bandwidth_bytes_per_s").to_number<double>() > 1e8);
    CHECK(entry.at("reference_bytes_per_s").to_number<double>() > 0);
  }
  const auto shown = topo("show --from " + out);
  CHECK(shown.exit_code == 0);
  CHECK(contains(shown.out, "(measured)"));
  const auto file = topo("measure --from @hgx.json");
  CHECK(file.exit_code == 1);
  CHECK(contains(file.err, "cannot be measured"));
}

TEST_CASE("measure: a transport of its own, and each pair of a pool's nodes") {
  const auto loopback = topo("measure --only loopback --seconds 0.05");
  INFO(loopback.out);
  INFO(loopback.err);
  CHECK(loopback.exit_code == 0);
  CHECK(contains(line_with(loopback.out, "one process"), "B/s"));
  CHECK(test::processes_with(folder().path() + "/causeway-").empty());

  const auto run = [](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), CAUSEWAY);
    return test::run_command(std::move(arguments), {{"XDG_RUNTIME_DIR", folder().path()}});
  };
  REQUIRE(run({"lab", "up", "two-nodes", "--name", "m"}).exit_code == 0);
  const auto out = folder().path() + "/pool.json";
  const auto value = topo_json("measure --lab m --seconds 0.05 --size 1MiB -o " + out);
  const auto path = topo("path a/gpu0 b/gpu0 --from " + out);
  CHECK(run({"lab", "down", "m"}).exit_code == 0);
  std::size_t network = 0;
  for (const auto& entry : value.at("measurements").as_array()) {
    if (entry.at("what").as_string() == "gpu") {
      CHECK(contains(std::string(entry.at("skipped").as_string()), "no CUDA backend"));
      continue;
    }
    ++network;
    CHECK(entry.at("bandwidth_bytes_per_s").to_number<double>() > 1e6);
    CHECK(entry.at("reference_bytes_per_s") == 1.25e9);
  }
  CHECK(network == 2);
  INFO(path.out);
  CHECK(contains(path.out, "(measured)"));
  CHECK(topo("measure --lab none").exit_code == 1);
}

TEST_CASE("this machine is shown when nothing is named, and quickly") {
  const auto begin = std::chrono::steady_clock::now();
  const auto result = topo("show");
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  INFO(result.out);
  INFO(result.err);
  REQUIRE(result.exit_code == 0);
  CHECK(contains(result.out, "cpu0"));
  CHECK(contains(result.out, "host memory"));
  MESSAGE("topo show took " << took.count() * 1e3 << " ms");
  CHECK(took.count() < 5);  // A driver may have to wake; docs/topology.md has what to expect.
  const auto value = topo_json("show");
  CHECK(value.at("nodes").as_array().size() == 1);
  CHECK(topo("doctor").exit_code <= 2);
  CHECK(topo("diff self self").exit_code == 0);
}

TEST_CASE("one thing to look at: two are refused by name") {
  for (const auto& [line, word] : std::vector<std::pair<std::string, std::string>>{
           {"show --cluster desktop --from @hgx.json", "--from"},
           {"show --lab a --cluster desktop", "--cluster"},
           {"islands --pool --from @hgx.json", "--pool"},
           {"show --format nccl_xml", "--from"},
           {"show --view circle", "tree"},
           {"path ws/gpu0", "TO"},
           {"diff @hgx.json", "AFTER"},
           {"import", "FILES"}}) {
    const auto result = topo(line);
    INFO(result.out);
    INFO(result.err);
    CHECK(result.exit_code == 2);
    CHECK(contains(result.err, word));
    CHECK(result.out.empty());
  }
  CHECK(topo("show --from @hgx.json --format no-such").exit_code == 1);
  CHECK(topo("show --pool").exit_code == 4);
}

static const char* const kScreens[] = {"show --from @workstation.json --view all",
                                       "show --from @hgx.json --view all --near hgx/gpu0",
                                       "show --from @fabric.json --view all",
                                       "show --cluster desktop-and-hgx --view all",
                                       "path ws/gpu0 ws/gpu1 --from @workstation.json",
                                       "path n0/gpu0 n3/gpu0 --from @fabric.json",
                                       "doctor --from @hgx.json",
                                       "diff @hgx.json @workstation.json",
                                       "show"};

TEST_CASE("nothing is wider than the terminal, and colours are there or not") {
  for (const std::string line : kScreens)
    for (const unsigned columns : {80U, 100U, 120U}) {
      INFO(line);
      INFO(columns);
      const auto screen = on_terminal(line, columns);
      INFO(screen.text);
      CHECK(screen.exit_code <= 2);
      CHECK(contains(screen.text, "\033["));
      CHECK(widest(without_colours(screen.text)) <= columns);
    }
  const auto plain = on_terminal("show --from @hgx.json", 100, {{"NO_COLOR", "1"}});
  CHECK_FALSE(contains(plain.text, "\033["));
  const auto ascii = on_terminal("show --from @hgx.json --view all", 100, {{"LC_ALL", "C"}});
  CHECK(std::ranges::all_of(without_colours(ascii.text),
                            [](char c) { return static_cast<unsigned char>(c) < 128; }));
  CHECK(contains(on_terminal("show --from @workstation.json", 120).text,
                 "\033[33mGen4 x4 of x16  6 GB/s (sysfs)"));  // Yellow: narrower than it could be.
  CHECK(contains(on_terminal("show --from @hgx.json", 120).text,
                 "\033[31m17 links  350 GB/s (nvml), degraded"));  // Red.
}

TEST_CASE("1,024 nodes of 8 GPUs: islands in a moment and in little memory") {
  ClusterSpec cluster;
  cluster.name = "large";
  for (int i = 0; i < 1024; ++i) {
    NodeSpec node{fmt::format("hgx{}", i), {}};
    for (std::uint32_t gpu = 0; gpu < 8; ++gpu)
      node.devices.push_back({{node.name, DeviceKind::gpu, gpu}, "h100-sxm", 80'000'000'000});
    node.devices.push_back({{node.name, DeviceKind::host, 0}, "host", 1'000'000'000'000});
    if (i > 0) cluster.links.push_back({"hgx0", node.name, 50e9, 5e-6});
    cluster.nodes.push_back(std::move(node));
  }
  const auto path = folder().path() + "/large.json";
  tools::write_file(path, graph_to_json(graph_of_cluster(cluster)));
  const auto begin = std::chrono::steady_clock::now();
  auto arguments = arguments_of("show --from " + path);
  const auto pid = ::fork();
  if (pid == 0) {
    const int out = ::open((folder().path() + "/large.out").c_str(), O_WRONLY | O_CREAT, 0600);
    ::dup2(out, STDOUT_FILENO);
    std::vector<char*> pointers;
    for (auto& argument : arguments) pointers.push_back(argument.data());
    pointers.push_back(nullptr);
    ::execv(pointers[0], pointers.data());
    ::_exit(127);
  }
  int status = 0;
  rusage usage{};
  REQUIRE(::wait4(pid, &status, 0, &usage) == pid);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  const auto text = tools::read_file(folder().path() + "/large.out").value_or("");
  INFO(text);
  CHECK(status == 0);
  CHECK(contains(text, "1,024 nodes, 8,192 GPUs in 1,024 islands, 655 TB of VRAM"));
  CHECK(contains(line_with(text, "hgx[0-1023]/nvlink0"), "8 x H100 SXM  gpu[0-7]"));
  CHECK(std::ranges::count(text, '\n') == 3);
  MESSAGE("1,024 nodes: " << took.count() << " s, " << usage.ru_maxrss / 1024 << " MiB");
  CHECK(took.count() < 5);
  CHECK(usage.ru_maxrss / 1024 < 500);
}
