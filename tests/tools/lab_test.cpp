// Goal:   a lab comes up whole or not at all, and nothing of it is left afterwards: no process, no
//         socket, no folder, however its daemons or the commands around it ended.
// Method: the real programs in a runtime folder of the test's own. A daemon is found by that
//         folder in its command line.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <csignal>
#include <filesystem>

#include "causeway/plan.h"
#include "causeway/pool.h"
#include "tests/tools/run_command.h"
#include "tools/base/files.h"

using namespace causeway;
using causeway::test::CommandResult;
using causeway::test::processes_with;
using causeway::test::RunningCommand;
using causeway::test::TemporaryFolder;
using causeway::test::wait_no_process_with;

namespace fs = std::filesystem;
namespace json = boost::json;

static bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// A runtime folder; its labs are taken down at the end even if the test failed half way.
class LabFolder {
 public:
  CommandResult run(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), CAUSEWAY);
    return test::run_command(std::move(arguments), environment());
  }
  std::vector<std::pair<std::string, std::string>> environment() const {
    return {{"XDG_RUNTIME_DIR", folder_.path()}};
  }
  std::string lab(const std::string& name) const {
    return folder_.path() + "/causeway-" + std::to_string(::geteuid()) + "/labs/" + name;
  }
  const std::string& path() const { return folder_.path(); }
  ~LabFolder() {
    for (const int pid : processes_with(folder_.path() + "/causeway-")) ::kill(pid, SIGKILL);
  }

 private:
  TemporaryFolder folder_;
};

static std::uint64_t used_bytes(const PoolStatus& status) {
  std::uint64_t used = 0;
  for (const auto& node : status.nodes)
    for (const auto& device : node.devices) used += device.used_bytes;
  return used;
}

TEST_CASE("a lab comes up, is listed, serves its pool, and goes down without a trace") {
  const LabFolder labs;
  const auto up = labs.run({"lab", "up", "desktop-and-hgx", "--name", "trial", "--json"});
  INFO(up.err);
  REQUIRE(up.exit_code == 0);
  const auto nodes = json::parse(up.out).at("nodes").as_array();
  REQUIRE(nodes.size() == 2);
  CHECK(processes_with(labs.lab("trial")).size() == 2);

  const auto list = json::parse(labs.run({"lab", "list", "--json"}).out);
  CHECK(list.at("labs").at(0).at("lab").as_string() == "trial");
  CHECK(list.at("labs").at(0).at("alive").as_int64() == 2);
  CHECK(contains(labs.run({"lab", "list"}).out, "2 of 2 alive"));

  const auto status = labs.run({"status", "--lab", "trial", "--json"});
  REQUIRE(status.exit_code == 0);
  CHECK(json::parse(status.out).at("nodes").as_array().size() == 2);
  const auto text = labs.run({"status", "--lab", "trial"});
  CHECK(contains(text.out, "desktop/gpu0"));
  CHECK(contains(text.out, "hgx/gpu7"));
  CHECK(contains(text.out, "/ 32.0 MB"));
  CHECK(contains(labs.run({"regions", "--lab", "trial"}).out, "no regions"));
  CHECK(contains(labs.run({"topo", "show", "--lab", "trial"}).out, "hgx/nvlink0"));

  CHECK(labs.run({"lab", "down", "trial"}).exit_code == 0);
  CHECK(processes_with(labs.lab("trial")).empty());
  CHECK_FALSE(fs::exists(labs.lab("trial")));
  CHECK(contains(labs.run({"lab", "down", "trial"}).out, "was not up"));  // Twice is no error.
}

TEST_CASE("a region shows in regions and status, and is gone with its client") {
  const LabFolder labs;
  REQUIRE(labs.run({"lab", "up", "desktop"}).exit_code == 0);
  PoolOptions options;
  options.socket_path = labs.lab("desktop") + "/desktop.sock";
  {
    auto pool = Pool::connect(options);
    const auto region = pool.allocate(1 << 20, {.name = "shown"});
    const auto text = labs.run({"regions", "--lab", "desktop"});
    CHECK(contains(text.out, "shown"));
    CHECK(contains(text.out, "desktop/gpu"));
    const auto value = json::parse(labs.run({"regions", "--lab", "desktop", "--json"}).out);
    CHECK(value.at("regions").as_array().size() == 1);
    CHECK(used_bytes(pool.status()) >= (1 << 20));
  }
  auto pool = Pool::connect(options);
  CHECK(used_bytes(pool.status()) == 0);
  CHECK(labs.run({"lab", "down", "desktop"}).exit_code == 0);
}

TEST_CASE("one name is up once; a failed second start leaves the first alone") {
  const LabFolder labs;
  REQUIRE(labs.run({"lab", "up", "desktop"}).exit_code == 0);
  const auto again = labs.run({"lab", "up", "desktop"});
  CHECK(again.exit_code == 1);
  CHECK(contains(again.err, "is up already"));
  CHECK(labs.run({"status", "--lab", "desktop"}).exit_code == 0);
  CHECK(labs.run({"lab", "up", "desktop", "--name", "../evil"}).exit_code == 1);
  CHECK(labs.run({"lab", "down", "../evil"}).exit_code == 1);
  CHECK(labs.run({"lab", "down", "desktop"}).exit_code == 0);
}

TEST_CASE("daemons that were killed are seen as dead, and down cleans up behind them") {
  const LabFolder labs;
  REQUIRE(labs.run({"lab", "up", "desktop-and-hgx", "--name", "x"}).exit_code == 0);
  for (const int pid : processes_with(labs.lab("x"))) ::kill(pid, SIGKILL);
  REQUIRE(wait_no_process_with(labs.lab("x"), std::chrono::seconds(5)));
  CHECK(contains(labs.run({"lab", "list"}).out, "0 of 2 alive"));
  CHECK(fs::exists(labs.lab("x") + "/desktop.sock"));  // What a killed daemon leaves.
  CHECK(labs.run({"status", "--lab", "x"}).exit_code == 4);
  CHECK(labs.run({"lab", "down", "x"}).exit_code == 0);
  CHECK_FALSE(fs::exists(labs.lab("x")));

  // Up again without a down in between: what was left is no obstacle.
  REQUIRE(labs.run({"lab", "up", "desktop", "--name", "x"}).exit_code == 0);
  for (const int pid : processes_with(labs.lab("x"))) ::kill(pid, SIGKILL);
  REQUIRE(wait_no_process_with(labs.lab("x"), std::chrono::seconds(5)));
  CHECK(labs.run({"lab", "up", "desktop", "--name", "x"}).exit_code == 0);
  CHECK(labs.run({"lab", "down", "x"}).exit_code == 0);
}

TEST_CASE("a pid file that names another process does it no harm") {
  const LabFolder labs;
  REQUIRE(labs.run({"lab", "up", "desktop"}).exit_code == 0);
  const RunningCommand bystander({"sleep", "600"});
  const auto id = bystander.process().id();
  const auto real = tools::read_file(labs.lab("desktop") + "/desktop.pid").value();
  // As if the daemon had died and its pid had been given to the bystander.
  tools::write_private_file(labs.lab("desktop") + "/other.pid",
                            tools::ProcessId{id.pid, id.start_ticks - 1}.to_string());
  CHECK(labs.run({"lab", "down", "desktop"}).exit_code == 0);
  CHECK_FALSE(bystander.process().wait_ended(std::chrono::steady_clock::now()));
  CHECK_FALSE(tools::Process::open(tools::ProcessId::parse(real).value()));
}

TEST_CASE("a start that fails half way shows the log and takes down what it had started") {
  const LabFolder labs;
  const auto cluster = labs.path() + "/broken.yaml";
  // More than an address space holds: the second daemon fails once the first is up.
  tools::write_file(cluster,
                    "name: broken\nnodes:\n"
                    "  - {name: a, devices: [{gpu: rtx-4090, capacity: 1 GB}]}\n"
                    "  - {name: b, devices: [{gpu: rtx-4090, capacity: 900000 GB}]}\n");
  const auto up = labs.run({"lab", "up", cluster});
  INFO(up.err);
  CHECK(up.exit_code == 1);
  CHECK(contains(up.err, "the daemon of node b ended before it was ready"));
  CHECK(contains(up.err, "causewayd: "));
  CHECK(processes_with(labs.lab("broken")).empty());
  CHECK_FALSE(fs::exists(labs.lab("broken")));
  CHECK(labs.run({"lab", "up", "desktop", "--name", std::string(41, 'a')}).exit_code == 1);
}

TEST_CASE("a lab's GPUs are memory of the CUDA driver when told so, and emulated otherwise") {
  const LabFolder labs;
  const auto cluster = labs.path() + "/gpus.yaml";
  tools::write_file(cluster,
                    "name: gpus\nnodes:\n  - name: a\n    devices:\n"
                    "      - {gpu: rtx-4090, capacity: 64 MiB}\n      - {host: 32 MiB}\n"
                    "  - {name: b, devices: [{host: 32 MiB}]}\n"
                    "links: [{between: [a, b], bandwidth: 1 GB/s, latency: 100 us}]\n");
  const auto with_driver = [&](std::vector<std::string> arguments, const char* library) {
    arguments.insert(arguments.begin(), CAUSEWAY);
    auto environment = labs.environment();
    environment.emplace_back("CAUSEWAY_CUDA_LIBRARY", library);
    return test::run_command(std::move(arguments), environment);
  };
  const auto up = with_driver({"lab", "up", cluster, "--gpus", "cuda"}, CUDA_EMULATOR);
  INFO(up.err);
  REQUIRE(up.exit_code == 0);
  auto status = labs.run({"status", "--lab", "gpus"});
  CHECK(contains(status.out, "RTX 4090     cuda "));
  CHECK(contains(status.out, "host memory  host "));
  CHECK(contains(status.out, "a: CUDA driver 12.4, 2 GPUs\n"));
  CHECK(contains(status.out, "a: a/gpu0 is Emulated GPU at 0000:10:00.0\n"));
  const auto device = json::parse(labs.run({"status", "--lab", "gpus", "--json"}).out)
                          .at("nodes")
                          .at(0)
                          .at("devices")
                          .at(0);
  CHECK(device.at("kind") == "cuda");
  CHECK(device.at("reaches").at(0) == "a/host0");
  const auto copy =
      with_driver({"bench", "copy", "--lab", "gpus", "--from", "a/gpu0", "--to", "b/host0",
                   "--size", "64KiB", "--rounds", "1", "--seconds", "0.05", "--explain"},
                  CUDA_EMULATOR);
  INFO(copy.out, copy.err);
  CHECK(copy.exit_code == 0);
  CHECK(contains(copy.out, "a/gpu0: through pinned memory, 16 slots each way, in chunks of "));
  CHECK(labs.run({"lab", "down", "gpus"}).exit_code == 0);

  const auto refused = with_driver({"lab", "up", cluster, "--gpus", "cuda"}, "/nowhere/cuda.so");
  CHECK(refused.exit_code == 1);
  CHECK(contains(refused.err, "a/gpu0: no GPU to lend: no CUDA driver: /nowhere/cuda.so"));
  REQUIRE(with_driver({"lab", "up", cluster}, CUDA_EMULATOR).exit_code == 0);
  status = labs.run({"status", "--lab", "gpus"});
  CHECK(contains(status.out, "RTX 4090     emulated "));
  CHECK_FALSE(contains(status.out, "CUDA"));  // It was not asked.
  CHECK(labs.run({"lab", "down", "gpus"}).exit_code == 0);

  const std::vector<std::string> plain{"up", "--cluster", cluster, "--node", "a"};
  REQUIRE(with_driver(plain, CUDA_EMULATOR).exit_code == 0);
  CHECK(contains(labs.run({"status"}).out, "RTX 4090     cuda "));
  CHECK(labs.run({"down"}).exit_code == 0);
  REQUIRE(with_driver(plain, "/nowhere/cuda.so").exit_code == 0);
  status = labs.run({"status"});
  CHECK(contains(status.out, "RTX 4090     emulated "));
  CHECK(contains(status.out, "a: no CUDA driver: /nowhere/cuda.so"));
  CHECK(contains(status.out, "a: a/gpu0 is emulated in host memory\n"));
  CHECK(labs.run({"down"}).exit_code == 0);
}

TEST_CASE("an interrupted start takes down what it had started") {
  const LabFolder labs;
  const auto cluster = labs.path() + "/many.yaml";
  std::string text = "name: many\nnodes:\n";
  for (int i = 0; i < 12; ++i)
    text += "  - {name: n" + std::to_string(i) + ", devices: [{gpu: rtx-4090, capacity: 1 GB}]}\n";
  tools::write_file(cluster, text);
  RunningCommand up({CAUSEWAY, "lab", "up", cluster}, labs.environment());
  while (!fs::exists(labs.lab("many") + "/n0.pid")) ::usleep(500);  // ctest bounds it.
  up.process().signal(SIGINT);
  const auto result = up.finish(std::chrono::seconds(30));
  INFO(result.err);
  CHECK(result.exit_code == 1);
  CHECK(contains(result.err, "interrupted"));
  CHECK(processes_with(labs.lab("many")).empty());
  CHECK_FALSE(fs::exists(labs.lab("many")));
}

TEST_CASE("lab run gives each node's process its daemon, and each stage its rank") {
  const LabFolder labs;
  REQUIRE(labs.run({"lab", "up", "desktop-and-hgx", "--name", "r"}).exit_code == 0);
  const auto per_node = labs.run({"lab", "run", "r", "--", "sh", "-c",
                                  "echo $CAUSEWAY_RANK of $CAUSEWAY_WORLD_SIZE $CAUSEWAY_SOCKET"});
  CHECK(per_node.exit_code == 0);
  CHECK(per_node.out == "0 of 2 " + labs.lab("r") + "/desktop.sock\n");
  CHECK(contains(per_node.err, "[rank 1] 1 of 2 " + labs.lab("r") + "/hgx.sock\n"));

  const auto plan = labs.path() + "/plan.yaml";
  Plan value;
  value.model = "m";
  for (const char* device : {"hgx/gpu0", "hgx/gpu1", "desktop/gpu0"}) {
    PlanStage stage;
    stage.device = DeviceName::parse(device);
    stage.first_layer = static_cast<std::uint32_t>(value.stages.size());
    stage.end_layer = stage.first_layer + 1;
    value.stages.push_back(stage);
  }
  tools::write_file(plan, value.to_yaml());
  const auto staged = labs.run({"lab", "run", "r", "--plan", plan, "--", "sh", "-c",
                                "echo $CAUSEWAY_RANK $CAUSEWAY_SOCKET --flag"});
  CHECK(staged.out == "0 " + labs.lab("r") + "/hgx.sock --flag\n");
  CHECK(contains(staged.err, "[rank 2] 2 " + labs.lab("r") + "/desktop.sock --flag\n"));
  const auto both = labs.run({"lab", "run", "r", "--plan", plan, "--per-node", "--", "sh", "-c",
                              "echo $CAUSEWAY_WORLD_SIZE"});
  CHECK(both.out == "2\n");
  const auto teams =
      labs.run({"lab", "run", "r", "--plan", plan, "--ranks-per-stage", "2", "--", "sh", "-c",
                "echo $CAUSEWAY_RANK of $CAUSEWAY_WORLD_SIZE "
                "$CAUSEWAY_SOCKET"});
  CHECK(teams.out == "0 of 6 " + labs.lab("r") + "/hgx.sock\n");
  CHECK(contains(teams.err, "[rank 3] 3 of 6 " + labs.lab("r") + "/hgx.sock\n"));
  CHECK(contains(teams.err, "[rank 5] 5 of 6 " + labs.lab("r") + "/desktop.sock\n"));

  CHECK(labs.run({"lab", "run", "r", "--", "sh", "-c", "exit 9"}).exit_code == 9);
  CHECK(labs.run({"lab", "run", "none", "--", "true"}).exit_code == 1);
  value.stages.back().device = DeviceName::parse("elsewhere/gpu0");
  tools::write_file(plan, value.to_yaml());
  const auto wrong = labs.run({"lab", "run", "r", "--plan", plan, "--", "true"});
  CHECK(wrong.exit_code == 1);
  CHECK(contains(wrong.err, "elsewhere"));
  CHECK(labs.run({"lab", "down", "r"}).exit_code == 0);
}

TEST_CASE("a killed lab run leaves no rank, and its memory comes back") {
  const LabFolder labs;
  REQUIRE(labs.run({"lab", "up", "desktop"}).exit_code == 0);
  const auto mark = "lab-run-mark-" + std::to_string(::getpid());
  RunningCommand job({CAUSEWAY, "lab", "run", "desktop", "--", CAUSEWAY, "status", "--watch",
                      "--interval", "0.1", "--socket", labs.lab("desktop") + "/desktop.sock"},
                     labs.environment());
  REQUIRE(job.wait_output("pool", std::chrono::seconds(20)));
  job.process().signal(SIGKILL);
  (void)job.finish(std::chrono::seconds(10));
  CHECK(wait_no_process_with("--watch --interval 0.1 --socket " + labs.lab("desktop"),
                             std::chrono::seconds(5)));
  CHECK(labs.run({"lab", "down", "desktop"}).exit_code == 0);
}

TEST_CASE("status --watch goes on until Ctrl-C and then ends well") {
  const LabFolder labs;
  REQUIRE(labs.run({"lab", "up", "desktop"}).exit_code == 0);
  RunningCommand watch({CAUSEWAY, "status", "--lab", "desktop", "--watch", "--interval", "0.05"},
                       labs.environment());
  REQUIRE(watch.wait_output("pool", std::chrono::seconds(20)));
  watch.process().signal(SIGINT);
  const auto result = watch.finish(std::chrono::seconds(10));
  CHECK(result.exit_code == 0);
  CHECK(labs.run({"lab", "down", "desktop"}).exit_code == 0);
}
