// train_gpt on the card against the processor: the same model, steps and seed in a lab of one node.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "tests/gpu/parts.h"
#include "tests/tools/run_command.h"
#include "tools/base/process.h"

namespace causeway::gpu {

namespace {

using test::run_command;

constexpr auto kLimit = std::chrono::seconds(50);
constexpr int kCpuSteps = 3;         // Slow: enough to compare.
constexpr double kTolerance = 0.02;  // Of the loss, relative: sums go in another order.

std::string beside(const char* name) { return tools::executable_folder() + "/" + name; }

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

void run(const std::vector<std::string>& command) {
  const auto result = run_command(command, {}, kLimit);
  require(result.exit_code == 0, command[1] + " " + command[2] + ": exit code " +
                                     std::to_string(result.exit_code) + ": " + result.err);
}

// A lab that goes down again, whatever happens.
class Lab {
 public:
  Lab(const std::string& cluster, const std::string& gpus) {
    run({beside("causeway"), "lab", "up", cluster, "--gpus", gpus});
  }
  Lab(const Lab&) = delete;
  Lab& operator=(const Lab&) = delete;
  ~Lab() { (void)run_command({beside("causeway"), "lab", "down", "card"}, {}, kLimit); }
};

// What both devices train on; a system need not have any text.
void write_text(const std::string& path) {
  std::ofstream file(path);
  for (int i = 0; i < 2000; ++i)
    file << "Line " << i << " holds " << i * i % 997 << " words, and " << i * 7 % 31
         << " of them are new.\n";
}

struct Trained {
  json::object report;
  std::vector<double> losses;
};

Trained train(const std::string& folder, const std::string& device, int steps, bool is_small) {
  const auto cluster = folder + "/card.yaml";
  const auto out = folder + "/" + device + ".json";
  const auto threads = std::to_string(std::max(1U, std::thread::hardware_concurrency()));
  const Lab lab(cluster, device == "cuda" ? "cuda" : "emulated");
  std::vector<std::string> command{beside("causeway"),
                                   "lab",
                                   "run",
                                   "card",
                                   "--",
                                   beside("train_gpt"),
                                   "--device",
                                   device,
                                   "--stages",
                                   "1",
                                   "--steps",
                                   std::to_string(steps),
                                   "--json",
                                   out,
                                   "--text",
                                   folder + "/text.txt",
                                   "--sample",
                                   "0",
                                   "--threads",
                                   threads};
  if (is_small)
    for (const char* option : {"--layers", "2", "--width", "32"}) command.emplace_back(option);
  run(command);
  const auto report = json::parse(text_of(out)).as_object();
  std::vector<double> times;
  Trained result;
  for (const auto& step : report.at("steps").as_array()) {
    times.push_back(step.at("seconds").to_number<double>());
    result.losses.push_back(step.at("loss").to_number<double>());
  }
  require(!times.empty(), "train_gpt made no step on " + device);
  result.report = {{"steps", times.size()},
                   {"steps_per_s", 1 / median(std::move(times))},
                   {"tokens_per_s", report.at("tokens_per_s")},
                   {"loss", result.losses.back()},
                   {"model", report.at("model")}};
  return result;
}

// Of the steps that both made.
void require_same_losses(const Trained& cuda, const Trained& cpu) {
  for (std::size_t i = 0; i < std::min(cuda.losses.size(), cpu.losses.size()); ++i)
    require(std::abs(cuda.losses[i] - cpu.losses[i]) <= kTolerance * std::abs(cpu.losses[i]),
            "the losses of step " + std::to_string(i + 1) + " differ: cuda " +
                std::to_string(cuda.losses[i]) + ", cpu " + std::to_string(cpu.losses[i]));
}

}  // namespace

json::object measure_train_gpt(const Amount& amount) {
  if (!std::filesystem::exists(beside("train_gpt")) || !std::filesystem::exists(beside("causeway")))
    throw Absent("no train_gpt beside this program");
  const auto help = run_command({beside("train_gpt"), "--help"}, {}, kLimit);
  if (help.out.find("--device") == std::string::npos)
    throw Absent("this train_gpt computes on the processor alone: it knows no --device");
  const test::TemporaryFolder folder;
  ::setenv("XDG_RUNTIME_DIR", folder.path().c_str(), 1);
  const bool is_small = amount.most_bytes < 64 * kMiB;
  const int steps = is_small ? 3 : 20;
  std::ofstream(folder.path() + "/card.yaml")
      << "name: card\nnodes:\n  - name: a\n    devices:\n      - {gpu: rtx-4090, capacity: "
      << (is_small ? "256" : "2048") << " MiB}\n";
  write_text(folder.path() + "/text.txt");
  const auto cuda = train(folder.path(), "cuda", steps, is_small);
  json::object result{{"steps", steps}, {"cuda", cuda.report}};
  Trained cpu;
  try {
    cpu = train(folder.path(), "cpu", kCpuSteps, is_small);
  } catch (const std::exception& error) {  // The card's figure counts without the other.
    result["cpu"] = nullptr;
    result["note"] = std::string("nothing to compare with: cpu: ") + error.what();
    return result;
  }
  result["cpu"] = cpu.report;
  require_same_losses(cuda, cpu);
  return result;
}

}  // namespace causeway::gpu
