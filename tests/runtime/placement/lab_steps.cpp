// lab_steps CAUSEWAY: plans held against what labs then do, on ten clusters.
//
// Shape:   for each cluster a lab is brought up by the real program, a model is planned over it,
// and
//          the plan is run: one process per stage, 1F1B, activations and gradients over the real
//          transport. Compute is emulated: a stage waits as long as its forward or backward is
//          predicted to take. So are the links' rates: a message says when it may be there, after
//          those before it on the same way. All times are stretched by one factor per cluster, so
//          that the longest stage takes 40 ms and the machine's own time is small beside it.
// Units:   milliseconds in the table; the plan's own are divided by the stretch.
// Errors:  exit code 1 and what went wrong on stderr; 2 for a wrong call.
// Cost:    a minute. The machine must be idle: every delay of a process is in the figure.
#include <fmt/format.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "causeway/plan.h"
#include "causeway/pool.h"
#include "causeway/worker.h"
#include "runtime/placement/cost/pipeline_step.h"
#include "tests/tools/run_command.h"

namespace {

using namespace causeway;
using Clock = std::chrono::steady_clock;

constexpr double kLongestStage = 0.04;
constexpr int kSteps = 7;  // The first is not counted.
constexpr std::chrono::seconds kLimit{120};

struct Trial {
  const char* name;
  const char* cluster;
  std::uint32_t layers;
  double layer_flops;
  std::uint64_t output_bytes;
  std::uint32_t micro_batches;
  std::uint32_t stages = 0;  // 0: as the plan finds best.
};

constexpr Trial kTrials[] = {
    {"desktop + hgx",
     "nodes: [{name: desktop, devices: [{gpu: rtx-5090, count: 2}]}, {name: hgx, devices: [{gpu: "
     "h100-sxm, count: 8, capacity: 10 GB}]}]\n"
     "links: [{between: [desktop, hgx], bandwidth: 1.25 GB/s, latency: 200 us}]\n",
     40, 5e10, 262144, 8},
    {"desktop", "nodes: [{name: a, devices: [{gpu: rtx-5090, count: 2}]}]\n", 24, 5e10, 262144, 8},
    {"hgx", "nodes: [{name: a, devices: [{gpu: h100-sxm, count: 8}]}]\n", 24, 5e10, 262144, 16},
    {"two desktops, 1 Gbit/s",
     "nodes: [{name: a, devices: [{gpu: rtx-4090, count: 2}]}, {name: b, devices: [{gpu: "
     "rtx-4090, count: 2}]}]\n"
     "links: [{between: [a, b], bandwidth: 125 MB/s, latency: 100 us}]\n",
     32, 8e10, 131072, 8, 4},
    {"two desktops, far apart",
     "nodes: [{name: a, devices: [{gpu: rtx-4090}]}, {name: b, devices: [{gpu: rtx-4090}]}]\n"
     "links: [{between: [a, b], bandwidth: 1.25 GB/s, latency: 2 ms}]\n",
     20, 8e10, 131072, 6, 2},
    {"three kinds of card",
     "nodes: [{name: a, devices: [{gpu: rtx-3090, count: 2}]}, {name: b, devices: [{gpu: "
     "rtx-4090}, {gpu: rtx-5090}]}]\n"
     "links: [{between: [a, b], bandwidth: 1.25 GB/s, latency: 50 us}]\n",
     32, 5e10, 262144, 8, 4},
    {"A100 beside a 3090",
     "nodes: [{name: a, devices: [{gpu: a100-pcie}]}, {name: b, devices: [{gpu: rtx-3090, count: "
     "2}]}]\n"
     "links: [{between: [a, b], bandwidth: 3 GB/s, latency: 30 us}]\n",
     30, 5e10, 524288, 12},
    {"four nodes in a row",
     "nodes: [{name: a, devices: [{gpu: rtx-4090}]}, {name: b, devices: [{gpu: rtx-4090}]}, "
     "{name: c, devices: [{gpu: rtx-4090}]}, {name: d, devices: [{gpu: rtx-4090}]}]\n"
     "links: [{between: [a, b], bandwidth: 1 GB/s, latency: 50 us}, {between: [b, c], bandwidth: "
     "1 GB/s, latency: 50 us}, {between: [c, d], bandwidth: 1 GB/s, latency: 50 us}, {between: "
     "[a, c], bandwidth: 1 GB/s, latency: 50 us}, {between: [a, d], bandwidth: 1 GB/s, latency: "
     "50 us}, {between: [b, d], bandwidth: 1 GB/s, latency: 50 us}]\n",
     40, 5e10, 262144, 8, 4},
    {"few micro-batches", "nodes: [{name: a, devices: [{gpu: l40s, count: 4}]}]\n", 40, 8e10,
     262144, 2, 4},
    {"large messages",
     "nodes: [{name: a, devices: [{gpu: rtx-5090}]}, {name: b, devices: [{gpu: rtx-5090}]}]\n"
     "links: [{between: [a, b], bandwidth: 1.25 GB/s, latency: 50 us}]\n",
     20, 5e10, 1048576, 8, 2},
};

ModelSpec model_of(const Trial& trial) {
  ModelSpec model;
  model.name = "steps";
  for (std::uint32_t i = 0; i < trial.layers; ++i)
    model.layers.push_back({fmt::format("layer{}", i),
                            {{fmt::format("w{}", i), DType::f32, {65536}}},
                            trial.layer_flops,
                            65536,
                            i + 1 == trial.layers ? 0 : trial.output_bytes});
  return model;
}

// What a rank is told: times of all stages, stretched, and the bytes between them.
struct Script {
  std::vector<PipelineStageTimes> stages;
  std::vector<std::size_t> bytes;
  std::uint32_t micro_batches = 1;

  [[nodiscard]] std::string to_text() const {
    auto text = fmt::format("{} {}\n", stages.size(), micro_batches);
    for (std::size_t i = 0; i < stages.size(); ++i)
      text += fmt::format("{} {} {} {} {}\n", stages[i].forward_s, stages[i].backward_s,
                          stages[i].send_s, stages[i].latency_s, bytes[i]);
    return text;
  }
  [[nodiscard]] static Script from_file(const std::string& path) {
    std::ifstream file(path);
    std::size_t count = 0;
    Script script;
    file >> count >> script.micro_batches;
    for (std::size_t i = 0; i < count; ++i) {
      PipelineStageTimes times;
      std::size_t bytes = 0;
      file >> times.forward_s >> times.backward_s >> times.send_s >> times.latency_s >> bytes;
      script.stages.push_back(times);
      script.bytes.push_back(bytes);
    }
    if (!file) throw Error(Errc::parse, path + ": no script of a step");
    return script;
  }
};

// ---- A rank ----

Clock::duration duration_of(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

// Sleeps until shortly before and watches the clock for the rest.
void wait_until(Clock::time_point when) {
  constexpr std::chrono::microseconds kWatched{150};
  if (when - Clock::now() > kWatched) std::this_thread::sleep_until(when - kWatched);
  while (Clock::now() < when) {
  }
}

// One way to another stage: a message carries when it may be there. One clock for all processes.
class PacedWay {
 public:
  PacedWay(double send_s, double latency_s, std::size_t bytes)
      : send_(duration_of(send_s)),
        latency_(duration_of(latency_s)),
        message_(std::max(bytes, sizeof(std::int64_t))) {}

  void send(Worker& worker, int from, int to, std::uint32_t tag) {
    free_ = std::max(free_, Clock::now()) + send_;
    const std::int64_t there = (free_ + latency_).time_since_epoch().count();
    std::memcpy(message_.data(), &there, sizeof(there));
    worker.send_bytes(from, to, tag, message_);
  }
  void receive(Worker& worker, int from, int to, std::uint32_t tag) {
    worker.receive_bytes(from, to, tag, message_);
    std::int64_t there = 0;
    std::memcpy(&there, message_.data(), sizeof(there));
    wait_until(Clock::time_point(Clock::duration(there)));
  }

 private:
  Clock::duration send_;
  Clock::duration latency_;
  Clock::time_point free_{};
  std::vector<std::byte> message_;
};

int run_rank(const std::string& plan_path, const std::string& script_path,
             const std::string& out_path) {
  ::prctl(PR_SET_TIMERSLACK, 1);
  const auto plan = Plan::from_file(plan_path);
  const auto script = Script::from_file(script_path);
  auto pool = Pool::connect();
  auto worker = Worker::join(pool, plan);
  const int stage = worker.stages().at(0);
  const auto own = static_cast<std::size_t>(stage);
  const auto& times = script.stages.at(own);
  const auto way = [&](std::size_t from) {
    const auto& of = script.stages.at(from);
    return PacedWay(of.send_s, of.latency_s, script.bytes.at(from));
  };
  PacedWay on = way(own);
  PacedWay back = way(own == 0 ? 0 : own - 1);
  PacedWay arriving = way(own == 0 ? 0 : own - 1);
  PacedWay returning = way(own);
  const bool last = own + 1 == script.stages.size();
  const auto order =
      pipeline_order(static_cast<std::uint32_t>(stage),
                     static_cast<std::uint32_t>(script.stages.size()), script.micro_batches);
  std::ostringstream out;
  for (int step = 0; step < kSteps; ++step) {
    worker.barrier();
    const auto start = Clock::now();
    for (const auto& operation : order) {
      const auto tag = 2 * operation.micro_batch + (operation.is_backward ? 1 : 0);
      if (!operation.is_backward && stage > 0) arriving.receive(worker, stage - 1, stage, tag);
      if (operation.is_backward && !last) returning.receive(worker, stage + 1, stage, tag);
      wait_until(Clock::now() +
                 duration_of(operation.is_backward ? times.backward_s : times.forward_s));
      if (!operation.is_backward && !last) on.send(worker, stage, stage + 1, tag);
      if (operation.is_backward && stage > 0) back.send(worker, stage, stage - 1, tag);
    }
    out << std::chrono::duration<double>(Clock::now() - start).count() << "\n";
  }
  worker.barrier();
  if (stage == 0) std::ofstream(out_path) << out.str();  // Its last backward is the step's end.
  return 0;
}

// ---- The trials ----

struct Result {
  Plan plan;
  double stretch = 1;
  double by_operations_s = 0;  // Stretched, as what follows.
  double measured_s = 0;
};

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values.at(values.size() / 2);
}

Script script_of(const Plan& plan, const ModelSpec& model, const Topology& topology,
                 double stretch) {
  Script script;
  script.micro_batches = plan.micro_batches;
  for (std::size_t i = 0; i < plan.stages.size(); ++i) {
    const auto& stage = plan.stages[i];
    double compute_s = stage.seconds;
    PipelineStageTimes times;
    std::size_t bytes = 0;
    if (i + 1 < plan.stages.size()) {
      bytes = model.layers[stage.end_layer - 1].output_bytes;
      const auto rate = topology.access(stage.device, plan.stages[i + 1].device).value().rate;
      times.send_s = stretch * static_cast<double>(bytes) / rate.bandwidth_bytes_per_s;
      times.latency_s = stretch * rate.latency_s;
      compute_s -= 2 * (times.send_s + times.latency_s) / stretch;
    }
    times.forward_s = stretch * compute_s / 3;
    times.backward_s = stretch * compute_s * 2 / 3;
    script.stages.push_back(times);
    script.bytes.push_back(bytes);
  }
  return script;
}

class Lab {
 public:
  Lab(std::string causeway, const Trial& trial) : causeway_(std::move(causeway)) {
    std::ofstream(file("cluster.yaml")) << "name: steps\nscale: 0.001\n" << trial.cluster;
    run({"lab", "up", file("cluster.yaml"), "--name", "steps"});
  }
  Lab(const Lab&) = delete;
  Lab& operator=(const Lab&) = delete;
  ~Lab() { (void)test::run_command({causeway_, "lab", "down", "steps"}, environment(), kLimit); }
  [[nodiscard]] std::string file(const std::string& name) const {
    return folder_.path() + "/" + name;
  }
  void run(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), causeway_);
    const auto result = test::run_command(arguments, environment(), kLimit);
    if (result.exit_code != 0)
      throw Error(Errc::internal, fmt::format("{}: exit code {}\n{}", fmt::join(arguments, " "),
                                              result.exit_code, result.err));
  }

 private:
  [[nodiscard]] std::vector<std::pair<std::string, std::string>> environment() const {
    return {{"XDG_RUNTIME_DIR", folder_.path()}};
  }
  std::string causeway_;
  test::TemporaryFolder folder_;
};

Result run_trial(const std::string& causeway, const Trial& trial) {
  const Lab lab(causeway, trial);
  const auto topology = Topology::from_cluster(ClusterSpec::from_file(lab.file("cluster.yaml")));
  const auto model = model_of(trial);
  Result result;
  result.plan =
      make_plan(model, topology, {.micro_batches = trial.micro_batches, .stages = trial.stages});
  double longest = 0;
  for (const auto& stage : result.plan.stages) longest = std::max(longest, stage.seconds);
  result.stretch = kLongestStage / longest;
  const auto script = script_of(result.plan, model, topology, result.stretch);
  result.by_operations_s = simulate_pipeline(script.stages, script.micro_batches).seconds;
  std::ofstream(lab.file("plan.yaml")) << result.plan.to_yaml();
  std::ofstream(lab.file("script")) << script.to_text();
  lab.run({"lab", "run", "steps", "--plan", lab.file("plan.yaml"), "--",
           std::filesystem::read_symlink("/proc/self/exe").string(), "--rank",
           lab.file("plan.yaml"), lab.file("script"), lab.file("out")});
  std::ifstream out(lab.file("out"));
  std::vector<double> steps;
  for (double seconds = 0; out >> seconds;) steps.push_back(seconds);
  if (steps.size() != kSteps) throw Error(Errc::internal, "the job wrote no times of its steps");
  steps.erase(steps.begin());
  result.measured_s = median(steps);
  return result;
}

int run_trials(const std::string& causeway) {
  fmt::print(
      "| cluster | stages | plan, ms | stretched by | formula, ms | by operations, ms | lab, ms "
      "| formula | by operations |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n");
  for (const auto& trial : kTrials) {
    const auto result = run_trial(causeway, trial);
    const double formula_s = result.stretch * result.plan.step_seconds;
    const auto error = [&](double predicted_s) {
      return 100 * (predicted_s / result.measured_s - 1);
    };
    fmt::print("| {} | {} | {:.3g} | {:.3g} | {:.1f} | {:.1f} | {:.1f} | {:+.1f}% | {:+.1f}% |\n",
               trial.name, result.plan.stages.size(), 1e3 * result.plan.step_seconds,
               result.stretch, 1e3 * formula_s, 1e3 * result.by_operations_s,
               1e3 * result.measured_s, error(formula_s), error(result.by_operations_s));
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc == 5 && std::string_view(argv[1]) == "--rank")
    return run_rank(argv[2], argv[3], argv[4]);
  if (argc != 2) {
    fmt::print(stderr, "usage: lab_steps CAUSEWAY   (the program; causewayd lies beside it)\n");
    return 2;
  }
  return run_trials(argv[1]);
} catch (const std::exception& error) {
  fmt::print(stderr, "lab_steps: {}\n", error.what());
  return 1;
}
