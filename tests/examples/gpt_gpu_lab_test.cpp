// Goal:   a pool of GPUs with memory of their own trains the model: with the losses that the
//         processor gets, wherever its stages, replicas and shards are; what cannot be is refused
//         with what to do.
// Method: the real programs in a lab on the software driver, with everything of the processes that
//         the driver would miss at their end made an error (check_leaks). Plans are dealt by hand.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <boost/json.hpp>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "causeway/plan.h"
#include "causeway/pool.h"
#include "tests/tools/run_command.h"

using namespace causeway;
using causeway::test::CommandResult;
using causeway::test::processes_with;
using causeway::test::TemporaryFolder;

namespace fs = std::filesystem;
namespace json = boost::json;
using Environment = std::vector<std::pair<std::string, std::string>>;

namespace {

constexpr std::chrono::seconds kLimit{120};

const std::vector<std::string> kSmall{"--layers",  "4",  "--width", "16",
                                      "--context", "16", "--heads", "2"};

constexpr auto kCluster = R"(
name: gpus
nodes:
  - name: a
    devices:
      - {gpu: rtx-4090, count: 2, capacity: 64 MiB}
      - {host: 32 MiB}
  - name: b
    devices:
      - {gpu: rtx-4090, count: 2, capacity: 64 MiB}
      - {host: 32 MiB}
links:
  - {between: [a, b], bandwidth: 1 GB/s, latency: 100 us}
)";

class GpuLab {
 public:
  explicit GpuLab(const char* gpus) {
    std::ofstream(file("gpus.yaml")) << kCluster;
    const auto up = causeway({"lab", "up", file("gpus.yaml"), "--gpus", gpus});
    INFO(up.err);
    REQUIRE(up.exit_code == 0);
  }
  ~GpuLab() {
    (void)causeway({"lab", "down", "gpus"});
    for (const int pid : processes_with(folder_.path() + "/causeway-")) ::kill(pid, SIGKILL);
  }
  GpuLab(const GpuLab&) = delete;
  GpuLab& operator=(const GpuLab&) = delete;

  [[nodiscard]] std::string file(const std::string& name) const {
    return folder_.path() + "/" + name;
  }
  [[nodiscard]] CommandResult causeway(std::vector<std::string> arguments,
                                       const Environment& more = {}) const {
    arguments.insert(arguments.begin(), CAUSEWAY);
    Environment environment{{"XDG_RUNTIME_DIR", folder_.path()},
                            {"CAUSEWAY_CUDA_LIBRARY", CUDA_EMULATOR},
                            {"CAUSEWAY_CUDA_EMULATOR", "{devices: 2, check_leaks: true}"}};
    environment.insert(environment.end(), more.begin(), more.end());
    return test::run_command(std::move(arguments), environment, kLimit);
  }

  // A plan with a stage on each of `devices`.
  [[nodiscard]] std::string plan(const std::vector<std::string>& devices) const {
    const auto path = file("plan.yaml");
    std::vector<std::string> describe{TRAIN_GPT, "--describe", file("model.yaml")};
    describe.insert(describe.end(), kSmall.begin(), kSmall.end());
    REQUIRE(test::run_command(describe, {}, kLimit).exit_code == 0);
    const auto made = causeway({"plan", file("model.yaml"), "--cluster", file("gpus.yaml"),
                                "--stages", std::to_string(devices.size()), "-o", path});
    INFO(made.err);
    REQUIRE(made.exit_code == 0);
    auto plan = Plan::from_file(path);
    for (std::size_t i = 0; i < devices.size(); ++i)
      plan.stages[i].device = DeviceName::parse(devices[i]);
    std::ofstream(path) << plan.to_yaml();
    return path;
  }

  [[nodiscard]] CommandResult train(const std::vector<std::string>& devices,
                                    const std::vector<std::string>& options = {},
                                    const std::vector<std::string>& lab_options = {},
                                    const Environment& more = {}) const {
    fs::remove(file("out.json"));
    const auto planned = plan(devices);
    std::vector<std::string> command{"lab", "run", "gpus", "--plan", planned};
    command.insert(command.end(), lab_options.begin(), lab_options.end());
    command.insert(command.end(), {"--", TRAIN_GPT, "--plan", planned, "--json", file("out.json"),
                                   "--sample", "8", "--steps", steps_});
    command.insert(command.end(), kSmall.begin(), kSmall.end());
    command.insert(command.end(), options.begin(), options.end());
    return causeway(command, more);
  }

  struct Run {
    std::vector<double> losses;
    std::set<std::string> computed_by;
  };
  [[nodiscard]] Run run(const std::vector<std::string>& devices,
                        const std::vector<std::string>& options = {},
                        const std::vector<std::string>& lab_options = {},
                        const Environment& more = {}) const {
    const auto result = train(devices, options, lab_options, more);
    INFO(result.out, result.err);
    REQUIRE(result.exit_code == 0);
    std::ifstream stream(file("out.json"));
    const auto report = json::parse(std::string{std::istreambuf_iterator<char>(stream), {}});
    Run run;
    for (const auto& step : report.at("steps").as_array())
      run.losses.push_back(step.at("loss").to_number<double>());
    for (const auto& stage : report.at("compute").as_array())
      run.computed_by.emplace(stage.at("by").as_string());
    return run;
  }

  [[nodiscard]] std::uint64_t used_bytes() const {
    std::uint64_t used = 0;
    const auto status = causeway({"status", "--lab", "gpus", "--json"});
    REQUIRE(status.exit_code == 0);
    const auto pool = json::parse(status.out);
    for (const auto& node : pool.at("nodes").as_array())
      for (const auto& device : node.at("devices").as_array())
        used += device.at("used_bytes").to_number<std::uint64_t>();
    return used;
  }

  void run_to(int steps) { steps_ = std::to_string(steps); }

 private:
  TemporaryFolder folder_;
  std::string steps_ = "6";
};

void check_close(const std::vector<double>& got, const std::vector<double>& expected) {
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    INFO("step=", i + 1);
    CHECK(got[i] == doctest::Approx(expected[i]).epsilon(1e-5));
  }
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

using Names = std::set<std::string>;

}  // namespace

TEST_CASE("a pool of GPUs trains with the losses of the processor") {
  std::vector<double> expected;
  {
    const GpuLab emulated("emulated");
    const auto run = emulated.run({"a/gpu0"});
    CHECK(run.computed_by == Names{"the processor"});
    expected = run.losses;
    const auto refused = emulated.train({"a/gpu0"}, {"--device", "cuda"});
    CHECK(refused.exit_code == 1);
    CHECK(contains(refused.err,
                   "stage 0: --device cuda, and a/gpu0 is memory of the processor's: start the "
                   "daemons with --gpus cuda, or give --device auto"));
    CHECK(emulated.run({"a/gpu0"}, {"--device", "cpu"}).losses == expected);
  }
  REQUIRE(expected.size() == 6);
  CHECK(expected.back() < expected.front());

  const GpuLab lab("cuda");
  const std::string first = "GPU 0 (Emulated GPU) with own products";
  const std::string second = "GPU 1 (Emulated GPU) with own products";
  const auto alone = lab.run({"a/gpu1"}, {"--device", "cuda"});
  check_close(alone.losses, expected);
  CHECK(alone.computed_by == Names{second});
  CHECK(lab.run({"a/gpu1"}).losses == alone.losses);  // To the bit, again.

  const auto two = lab.run({"a/gpu0", "b/gpu1"});
  check_close(two.losses, expected);
  CHECK(two.computed_by == Names{first, second});
  // Three stages over both nodes, one process for each node.
  check_close(lab.run({"a/gpu0", "b/gpu0", "a/gpu1"}, {}, {"--per-node"}).losses, expected);
  // A stage in host memory is the processor's.
  const auto mixed = lab.run({"a/gpu0", "b/host0"});
  check_close(mixed.losses, expected);
  CHECK(mixed.computed_by == Names{first, "the processor"});
  check_close(
      lab.run({"a/gpu0", "b/gpu0"}, {"--data-parallel", "2"}, {"--ranks-per-stage", "2"}).losses,
      expected);
  check_close(lab.run({"a/gpu0"}, {"--tensor-parallel", "2"}, {"--ranks-per-stage", "2"}).losses,
              expected);
  const auto cublas = lab.run({"b/gpu0"}, {}, {}, {{"TRAIN_GPT_CUBLAS", CUBLAS_EMULATOR}});
  check_close(cublas.losses, expected);
  CHECK(contains(*cublas.computed_by.begin(), "GPU 0 (Emulated GPU) with cuBLAS ("));
  CHECK(lab.used_bytes() == 0);
}

TEST_CASE("what cannot be computed there is refused with what to do, and takes nothing") {
  const GpuLab lab("cuda");
  const auto processor = lab.train({"a/gpu0"}, {"--device", "cpu"});
  CHECK(processor.exit_code == 1);
  CHECK(contains(processor.err,
                 "stage 0: --device cpu, and a/gpu0 is memory that only the GPU can address: "
                 "start the daemons with --gpus emulated, or give --device auto"));
  const auto unknown = lab.train({"a/gpu0"}, {"--device", "tpu"});
  CHECK(unknown.exit_code == 2);
  CHECK(contains(unknown.err, "--device: 'tpu' is none of auto, cpu, cuda"));
  const auto library =
      lab.train({"a/gpu0"}, {}, {}, {{"TRAIN_GPT_CUBLAS", "/nowhere/libcublas.so"}});
  CHECK(library.exit_code == 1);
  CHECK(contains(library.err, "no cuBLAS: /nowhere/libcublas.so"));
  CHECK(lab.used_bytes() == 0);
}

TEST_CASE("a run on GPUs is resumed on the processor") {
  GpuLab lab("cuda");
  lab.run_to(6);
  const auto whole = lab.run({"a/gpu0"}).losses;
  const auto folder = lab.file("run");
  lab.run_to(3);
  auto losses = lab.run({"a/gpu0", "b/gpu0"}, {"--checkpoint", folder}).losses;
  lab.run_to(6);
  const auto rest = lab.run({"b/host0"}, {"--resume", folder}).losses;
  losses.insert(losses.end(), rest.begin(), rest.end());
  check_close(losses, whole);
}
