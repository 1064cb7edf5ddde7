// Goal:   the training job over real daemons: the same loss for any cut, a curve that goes on after
//         resume, clear refusals, and an end in time when a process dies.
// Method: the real programs in labs of the test's own folder; plans are dealt by hand so that
//         neighbouring stages sit on different nodes.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <set>

#include "causeway/plan.h"
#include "causeway/pool.h"
#include "tests/tools/run_command.h"

using namespace causeway;
using causeway::test::CommandResult;
using causeway::test::processes_with;
using causeway::test::RunningCommand;
using causeway::test::TemporaryFolder;

namespace fs = std::filesystem;
namespace json = boost::json;
using Environment = std::vector<std::pair<std::string, std::string>>;

namespace {

constexpr std::chrono::seconds kLimit{240};

// A small job of 8 layers whose steps take milliseconds.
const std::vector<std::string> kSmall{"--layers",  "6",  "--width", "32",
                                      "--context", "32", "--heads", "4"};

// A lab of a desktop with 2 devices and an hgx node with 8, taken down at the end.
class TestLab {
 public:
  TestLab() {
    const auto up = causeway({"lab", "up", "desktop-and-hgx", "--name", "t"});
    INFO(up.err);
    REQUIRE(up.exit_code == 0);
  }
  ~TestLab() {
    (void)causeway({"lab", "down", "t"});
    for (const int pid : processes_with(folder_.path() + "/causeway-")) ::kill(pid, SIGKILL);
  }
  TestLab(const TestLab&) = delete;
  TestLab& operator=(const TestLab&) = delete;

  CommandResult causeway(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), CAUSEWAY);
    return test::run_command(std::move(arguments), environment(), kLimit);
  }
  Environment environment() const { return {{"XDG_RUNTIME_DIR", folder_.path()}}; }
  std::string file(const std::string& name) const { return folder_.path() + "/" + name; }
  std::string socket(const std::string& node) const {
    return folder_.path() + "/causeway-" + std::to_string(::geteuid()) + "/labs/t/" + node +
           ".sock";
  }

  // A plan of `count` stages, by turns on hgx and desktop as long as devices last there.
  std::string plan(std::size_t count) const {
    const auto path = file("plan-" + std::to_string(count) + ".yaml");
    if (fs::exists(path)) return path;
    auto describe = with_small({TRAIN_GPT, "--describe", file("model.yaml")});
    REQUIRE(test::run_command(describe, {}, kLimit).exit_code == 0);
    const auto made = causeway({"plan", file("model.yaml"), "--cluster", "desktop-and-hgx",
                                "--stages", std::to_string(count), "-o", path});
    INFO(made.err);
    REQUIRE(made.exit_code == 0);
    auto plan = Plan::from_file(path);
    REQUIRE(plan.stages.size() == count);
    const std::vector<const char*> devices{"hgx/gpu0", "desktop/gpu0", "hgx/gpu1", "desktop/gpu1",
                                           "hgx/gpu2"};
    for (std::size_t i = 0; i < count; ++i)
      plan.stages[i].device = DeviceName::parse(devices.at(i));
    std::ofstream(path) << plan.to_yaml();
    return path;
  }

  static std::vector<std::string> with_small(std::vector<std::string> command) {
    command.insert(command.end(), kSmall.begin(), kSmall.end());
    return command;
  }

  // Losses by step of a run of one process per stage with `options`, or as `lab_options` say.
  std::vector<double> losses(std::size_t stages, std::vector<std::string> options,
                             const std::vector<std::string>& lab_options = {}) const {
    const auto out = file("out.json");
    fs::remove(out);
    std::vector<std::string> command{"lab", "run", "t", "--plan", plan(stages)};
    command.insert(command.end(), lab_options.begin(), lab_options.end());
    command.insert(command.end(), {"--", TRAIN_GPT, "--plan", plan(stages), "--json", out});
    command.insert(command.end(), options.begin(), options.end());
    const auto result = causeway(with_small(command));
    INFO(result.out, result.err);
    REQUIRE(result.exit_code == 0);
    std::vector<double> values;
    const auto written = report();
    for (const auto& step : written.at("steps").as_array())
      values.push_back(step.at("loss").to_number<double>());
    return values;
  }

  json::value report() const {
    std::ifstream stream(file("out.json"));
    return json::parse(std::string{std::istreambuf_iterator<char>(stream), {}});
  }

  std::uint64_t used_bytes() const {
    PoolOptions options;
    options.socket_path = socket("desktop");
    std::uint64_t used = 0;
    for (const auto& node : Pool::connect(options).status().nodes)
      for (const auto& device : node.devices) used += device.used_bytes;
    return used;
  }

 private:
  TemporaryFolder folder_;
};

void check_close(const std::vector<double>& got, const std::vector<double>& expected,
                 double relative) {
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    INFO("step ", i + 1);
    CHECK(got[i] == doctest::Approx(expected[i]).epsilon(relative));
  }
}

}  // namespace

TEST_CASE("50 steps give the same loss with 1, 2, 3 and 5 stages over two nodes") {
  const TestLab lab;
  const auto expected = lab.losses(1, {});
  REQUIRE(expected.size() == 50);
  CHECK(expected.back() < 0.8 * expected.front());
  for (const std::size_t stages : {2U, 3U, 5U}) {
    INFO("stages=", stages);
    check_close(lab.losses(stages, {}), expected, 1e-4);
    const auto report = lab.report();
    std::uint64_t crossed = 0;
    for (const auto& route : report.at("routes").as_array())
      if (route.at("from").as_string() != route.at("to").as_string())
        crossed += route.at("bytes").to_number<std::uint64_t>();
    // Each micro-batch crosses each seam between stages once each way.
    CHECK(crossed > (stages - 1) * 50 * 4 * 2 * (32 * 2 * 32 * 4));
    std::set<std::string> devices;
    for (const auto& part : report.at("placement").as_array())
      devices.emplace(part.at("device").as_string());
    CHECK(devices.size() == stages);
    CHECK(lab.used_bytes() == 0);
  }
  // Three stages on hgx in one process, two on the desktop in another.
  check_close(lab.losses(5, {}, {"--per-node"}), expected, 1e-4);
}

TEST_CASE("a run resumed with other stages continues the curve") {
  const TestLab lab;
  const auto whole = lab.losses(1, {"--steps", "20", "--sample", "0"});
  auto parts =
      lab.losses(3, {"--steps", "10", "--checkpoint", lab.file("run"), "--checkpoint-every", "5"});
  CHECK(fs::exists(lab.file("run/step-5/stage-00-of-03.safetensors")));
  CHECK(fs::read_symlink(lab.file("run/latest")) == "step-10");
  for (const auto loss : lab.losses(2, {"--steps", "20", "--resume", lab.file("run")}))
    parts.push_back(loss);
  check_close(parts, whole, 1e-6);
}

TEST_CASE("replicas and shards give the same loss, and leave nothing behind") {
  const TestLab lab;
  const std::vector<std::string> short_run{"--steps", "10", "--sample", "0"};
  const auto expected = lab.losses(1, short_run);
  struct Shape {
    std::size_t stages;
    const char *data, *tensor, *ranks;
    double relative;
  };
  for (const auto& [stages, data, tensor, ranks, relative] :
       {Shape{1, "2", "1", "2", 1e-6}, Shape{2, "4", "1", "4", 1e-6}, Shape{1, "1", "2", "2", 1e-5},
        Shape{2, "2", "2", "4", 1e-5}}) {
    INFO("stages=", stages, " data=", data, " tensor=", tensor);
    auto options = short_run;
    options.insert(options.end(), {"--data-parallel", data, "--tensor-parallel", tensor});
    check_close(lab.losses(stages, options, {"--ranks-per-stage", ranks}), expected, relative);
    CHECK(lab.used_bytes() == 0);
  }
  auto exact = short_run;
  exact.insert(exact.end(), {"--data-parallel", "2", "--exact"});
  CHECK(lab.losses(2, exact, {"--ranks-per-stage", "2"}) == expected);  // To the bit.
  // Two stages per process, in two replicas.
  auto options = short_run;
  options.insert(options.end(), {"--data-parallel", "2"});
  check_close(lab.losses(4, options, {"--per-node", "--ranks-per-stage", "2"}), expected, 1e-6);
  // Each process of a stage has a device of its own, as long as there are some.
  std::map<std::string, int> devices;
  const auto report = lab.report();
  for (const auto& part : report.at("placement").as_array())
    if (part.at("kind").as_string() == "weights")
      ++devices[std::string(part.at("device").as_string())];
  CHECK(devices["hgx/gpu0"] == 1);
  CHECK(devices.size() == 6);  // Four on hgx; two on the desktop, where two stages are.
}

TEST_CASE("a parallel run is resumed in other shapes") {
  const TestLab lab;
  const auto whole = lab.losses(1, {"--steps", "12", "--sample", "0"});
  const auto run = lab.file("run");
  auto parts = lab.losses(
      2, {"--steps", "4", "--checkpoint", run, "--data-parallel", "2", "--tensor-parallel", "2"},
      {"--ranks-per-stage", "4"});
  CHECK(fs::exists(run + "/step-4/stage-01-of-02.safetensors"));
  for (const auto loss : lab.losses(
           1, {"--steps", "8", "--resume", run, "--checkpoint", run, "--tensor-parallel", "4"},
           {"--ranks-per-stage", "4"}))
    parts.push_back(loss);
  for (const auto loss : lab.losses(3, {"--steps", "12", "--resume", run, "--sample", "0"}))
    parts.push_back(loss);
  check_close(parts, whole, 1e-5);
}

TEST_CASE("the wrong number of processes, heads or micro-batches is refused with what to do") {
  const TestLab lab;
  const auto refused = [&](std::vector<std::string> lab_options, std::vector<std::string> options) {
    std::vector<std::string> command{"lab", "run", "t", "--plan", lab.plan(2)};
    command.insert(command.end(), lab_options.begin(), lab_options.end());
    command.insert(command.end(), {"--", TRAIN_GPT, "--plan", lab.plan(2)});
    command.insert(command.end(), options.begin(), options.end());
    const auto result = lab.causeway(TestLab::with_small(command));
    INFO(result.err);
    CHECK(result.exit_code == 1);
    CHECK(result.err.find("rank 1: ") == std::string::npos);  // Every rank meets it; one speaks.
    return result.err;
  };
  CHECK(refused({}, {"--data-parallel", "2"}).find("--ranks-per-stage 2") != std::string::npos);
  CHECK(refused({"--ranks-per-stage", "3"}, {"--tensor-parallel", "2"})
            .find("3 of this job's processes run on ") != std::string::npos);
  CHECK(refused({}, {"--data-parallel", "3"}).find("--micro-batches 4 is not a multiple") !=
        std::string::npos);
  CHECK(refused({}, {"--tensor-parallel", "3"}).find("--heads 4 is not a multiple") !=
        std::string::npos);
}

TEST_CASE("a killed replica or shard ends all others in time, with its name") {
  const TestLab lab;
  const auto plan = lab.plan(1);
  std::vector<std::unique_ptr<RunningCommand>> ranks;
  for (int rank = 0; rank < 4; ++rank) {
    auto environment = lab.environment();
    environment.insert(environment.end(), {{"CAUSEWAY_SOCKET", lab.socket("hgx")},
                                           {"SLURM_PROCID", std::to_string(rank)},
                                           {"SLURM_NTASKS", "4"}});
    ranks.push_back(std::make_unique<RunningCommand>(
        TestLab::with_small({TRAIN_GPT, "--plan", plan, "--steps", "1000000", "--data-parallel",
                             "2", "--tensor-parallel", "2"}),
        environment));
  }
  REQUIRE(ranks[0]->wait_output("step    1/", std::chrono::seconds(60)));
  const auto killed = std::chrono::steady_clock::now();
  ranks[2]->process().signal(SIGKILL);
  for (const std::size_t rank : {0U, 1U, 3U}) {
    const auto result = ranks[rank]->finish(std::chrono::seconds(30));
    INFO("rank ", rank, ": ", result.err);
    CHECK(result.exit_code == 4);
    CHECK(result.err.find("rank 2 on hgx") != std::string::npos);
  }
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - killed;
  CHECK(taken.count() < 5);  // 2 s by contract; the rest is for a busy machine.
  (void)ranks[2]->finish(std::chrono::seconds(5));
}

TEST_CASE("a model too large for what it may use is refused with the figures") {
  const TestLab lab;
  for (const auto& [only, available] : std::vector<std::pair<std::string, std::string>>{
           {"desktop/gpu0", "32 MB"}, {"desktop", "64 MB"}}) {
    const auto result = test::run_command({TRAIN_GPT, "--only", only},
                                          {{"CAUSEWAY_SOCKET", lab.socket("desktop")}}, kLimit);
    CHECK(result.exit_code == 3);
    CHECK(result.err.find("needs") != std::string::npos);
    CHECK(result.err.find(available + " available") != std::string::npos);
    CHECK(std::ranges::count(result.err, '\n') == 1);
  }
  // Every rank meets it; one speaks.
  const auto job = lab.causeway({"lab", "run", "t", "--", TRAIN_GPT, "--only", "desktop"});
  CHECK(job.exit_code == 3);
  CHECK(job.err.find("rank 1: model") == std::string::npos);
  CHECK(lab.used_bytes() == 0);
}

TEST_CASE("a killed process ends the others with exit code 4, and the memory comes back") {
  const TestLab lab;
  const auto start = [&](const std::string& node, const std::string& rank) {
    auto environment = lab.environment();
    environment.insert(environment.end(), {{"CAUSEWAY_SOCKET", lab.socket(node)},
                                           {"CAUSEWAY_RANK", rank},
                                           {"CAUSEWAY_WORLD_SIZE", "2"}});
    return std::make_unique<RunningCommand>(
        TestLab::with_small({TRAIN_GPT, "--plan", lab.plan(2), "--steps", "1000000"}), environment);
  };
  const auto survivor = start("hgx", "0");
  const auto victim = start("desktop", "1");
  REQUIRE(survivor->wait_output("step    1/", std::chrono::seconds(60)));
  victim->process().signal(SIGKILL);
  const auto killed = std::chrono::steady_clock::now();
  const auto result = survivor->finish(std::chrono::seconds(30));
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - killed;
  CHECK(result.exit_code == 4);
  CHECK(result.err.find("rank 1") != std::string::npos);
  CHECK(taken.count() < 5);  // 2 s by contract; the rest is for a busy machine.
  (void)victim->finish(std::chrono::seconds(5));
  const auto deadline = killed + std::chrono::seconds(20);
  while (lab.used_bytes() > 0 && std::chrono::steady_clock::now() < deadline) ::usleep(50'000);
  CHECK(lab.used_bytes() == 0);
}

TEST_CASE("SIGINT ends a run after the step, with its checkpoint and report") {
  const TestLab lab;
  const auto run = lab.file("run");
  auto environment = lab.environment();
  environment.emplace_back("CAUSEWAY_SOCKET", lab.socket("desktop"));
  RunningCommand job(TestLab::with_small({TRAIN_GPT, "--only", "desktop/gpu0", "--steps", "1000000",
                                          "--checkpoint", run}),
                     environment);
  REQUIRE(job.wait_output("step    1/", std::chrono::seconds(60)));
  job.process().signal(SIGINT);
  const auto result = job.finish(std::chrono::seconds(60));
  CHECK(result.exit_code == 0);
  CHECK(result.out.find("stopped by a signal") != std::string::npos);
  CHECK(result.out.find("Where the bytes live") != std::string::npos);
  CHECK(fs::exists(run + "/latest/stage-00-of-01.safetensors"));
  CHECK(lab.used_bytes() == 0);
}

TEST_CASE("processes started with different options are told") {
  const TestLab lab;
  const auto out = lab.causeway(TestLab::with_small(
      {"lab", "run", "t", "--plan", lab.plan(2), "--", "sh", "-c",
       "exec \"$0\" \"$@\" --seed $CAUSEWAY_RANK", TRAIN_GPT, "--plan", lab.plan(2)}));
  CHECK(out.exit_code != 0);
  CHECK(out.err.find("rank 1 has 'seed: 1' where rank 0 has 'seed: 0'") != std::string::npos);
}

TEST_CASE("usage errors have exit code 2 and one line") {
  for (const auto& wrong : std::vector<std::vector<std::string>>{{"--unknown"},
                                                                 {"--width", "30", "--heads", "4"},
                                                                 {"--steps", "-1"},
                                                                 {"--lr", "0"},
                                                                 {"--data-parallel", "0"},
                                                                 {"--plan", "x", "--only", "a"},
                                                                 {"--checkpoint-every", "5"}}) {
    auto command = wrong;
    command.insert(command.begin(), TRAIN_GPT);
    const auto result = test::run_command(command, {}, kLimit);
    INFO(wrong.front(), " ", result.err);
    CHECK(result.exit_code == 2);
    CHECK(std::ranges::count(result.err, '\n') == 1);
  }
  const auto help = test::run_command({TRAIN_GPT, "--help"}, {}, kLimit);
  CHECK(help.exit_code == 0);
  CHECK(help.out.find("Examples:") != std::string::npos);
}

TEST_CASE("what is missing is named with exit code 1") {
  const TestLab lab;
  const Environment environment{{"CAUSEWAY_SOCKET", lab.socket("desktop")}};
  for (const auto& [option, text] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"--text", "/no/such"}, "/no/such"},
           {{"--plan", "/no/plan.yaml"}, "/no/plan.yaml"},
           {{"--resume", "/no/run"}, "/no/run"},
           {{"--only", "mars"}, "desktop, hgx"}}) {
    auto command = option;
    command.insert(command.begin(), TRAIN_GPT);
    const auto result = test::run_command(command, environment, kLimit);
    INFO(result.err);
    CHECK(result.exit_code == 1);
    CHECK(result.err.find(text) != std::string::npos);
  }
}
