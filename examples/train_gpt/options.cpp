#include "options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "optimizer.h"

namespace train_gpt {

namespace {

constexpr const char* kFooter = R"(
Examples:
  train_gpt --describe model.yaml
  causeway plan model.yaml --pool --format yaml > plan.yaml
  causeway lab run quickstart --plan plan.yaml -- train_gpt --plan plan.yaml

  causeway lab run quickstart --plan plan.yaml --ranks-per-stage 2 -- \
      train_gpt --plan plan.yaml --data-parallel 2

  train_gpt --layers 4 --width 64 --only desktop --steps 100 --checkpoint run1
  train_gpt --resume run1 --only desktop --steps 200

Exit codes: 0 ok, 1 error, 2 usage, 3 out of memory in the pool, 4 a peer was lost.
SIGINT and SIGTERM end the run after the current step; a --checkpoint is written first.)";

void add_model_options(CLI::App& app, Options& options) {
  const GptConfig defaults;
  const auto text = [](const char* what, auto value) {
    return fmt::format("{} [{}]", what, value);
  };
  const std::string group = "Model";
  app.add_option("--layers", options.blocks, text("Transformer blocks", defaults.blocks))
      ->group(group);
  app.add_option("--width", options.width, text("Width of the residual stream", defaults.width))
      ->group(group);
  app.add_option("--heads", options.heads, text("Attention heads", defaults.heads))->group(group);
  app.add_option("--context", options.context, text("Bytes of one sequence", defaults.context))
      ->group(group);
}

void add_training_options(CLI::App& app, Options& options) {
  const GptConfig defaults;
  const std::string group = "Training";
  app.add_option("--text", options.text, "The text to learn")->capture_default_str()->group(group);
  app.add_option("--steps", options.steps, "Steps in all, those before --resume included")
      ->check(CLI::Range(0.0, 1e12))
      ->capture_default_str()
      ->group(group);
  app.add_option("--micro-batch", options.micro_batch,
                 fmt::format("Sequences of a micro-batch [{}]", defaults.micro_batch))
      ->group(group);
  app.add_option("--micro-batches", options.micro_batches,
                 fmt::format("Micro-batches of a step [{}]", defaults.micro_batches))
      ->group(group);
  app.add_option("--lr", options.learning_rate,
                 fmt::format("Learning rate [{}]", OptimizerOptions{}.learning_rate))
      ->check(CLI::PositiveNumber)
      ->group(group);
  app.add_option("--seed", options.seed, "Of starting values, batches and sample [1]")
      ->group(group);
  app.add_option("--threads", options.blas_threads, "OpenBLAS threads of each process")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str()
      ->group(group);
}

DeviceChoice device_choice(const std::string& name) {
  if (name == "auto") return DeviceChoice::any;
  if (name == "cpu") return DeviceChoice::cpu;
  if (name == "cuda") return DeviceChoice::cuda;
  throw CLI::ValidationError("--device", fmt::format("'{}' is none of auto, cpu, cuda", name));
}

void add_placement_options(CLI::App& app, Options& options) {
  const std::string group = "Placement";
  auto* plan = app.add_option("--plan", options.plan, "Plan file; without it the pool is planned")
                   ->group(group);
  app.add_option("--only", options.only, "Devices or nodes the plan may use: desktop/gpu0,hgx")
      ->delimiter(',')
      ->excludes(plan)
      ->group(group);
  app.add_option("--stages", options.stages, "Stages of the plan; 0: as many as are best")
      ->capture_default_str()
      ->excludes(plan)
      ->group(group);
  app.add_option_function<std::string>(
         "--device", [&options](const std::string& name) { options.device = device_choice(name); },
         "Who computes. auto: what the memory of a stage belongs to; cpu, cuda: that, or an error "
         "that says what to do")
      ->type_name("auto|cpu|cuda")
      ->default_str("auto")
      ->group(group);
  app.add_option("--data-parallel", options.parallel.data,
                 "Replicas of each stage; each takes its part of the micro-batches")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str()
      ->group(group);
  app.add_option("--tensor-parallel", options.parallel.tensor,
                 "Shards of each replica; each has its part of the heads and of the MLPs")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str()
      ->group(group);
  app.add_flag("--exact", options.parallel.exact,
               "Replicas sum after each micro-batch, and the losses have the bits of one process")
      ->group(group);
  app.add_option("--describe", options.describe,
                 "Write the model for `causeway plan` to this file and end ('-': stdout)")
      ->group(group);
}

void add_output_options(CLI::App& app, Options& options) {
  const std::string group = "Checkpoints and output";
  app.add_option("--checkpoint", options.checkpoint, "Folder for checkpoints, shared by all nodes")
      ->group(group);
  app.add_option("--checkpoint-every", options.checkpoint_every, "Steps; 0: at the end only")
      ->check(CLI::Range(0.0, 1e12))
      ->capture_default_str()
      ->group(group);
  app.add_option("--resume", options.resume, "Go on from this checkpoint folder")->group(group);
  app.add_option("--sample", options.sample, "Bytes of text to write at the end")
      ->check(CLI::Range(0.0, 1e9))
      ->capture_default_str()
      ->group(group);
  app.add_option("--prompt", options.prompt, "What the text starts with")
      ->capture_default_str()
      ->group(group);
  app.add_option("--temperature", options.temperature, "Of the text")
      ->check(CLI::PositiveNumber)
      ->capture_default_str()
      ->group(group);
  app.add_option("--json", options.json, "Write losses, placement and routes to this file")
      ->group(group);
  app.add_flag("--quiet", options.quiet, "Print errors only")->group(group);
}

}  // namespace

GptConfig Options::config(GptConfig base) const {
  base.blocks = blocks.value_or(base.blocks);
  base.width = width.value_or(base.width);
  base.heads = heads.value_or(base.heads);
  base.context = context.value_or(base.context);
  base.micro_batch = micro_batch.value_or(base.micro_batch);
  base.micro_batches = micro_batches.value_or(base.micro_batches);
  return base;
}

ParsedOptions parse_options(int argc, char** argv, bool is_first) {
  Options options;
  CLI::App app{
      "Trains a byte-level transformer over the pool: weights, gradients, Adam state and kept\n"
      "activations live on the pool's devices, one pipeline stage on each device of the plan.\n",
      "train_gpt"};
  app.footer(kFooter);
  add_model_options(app, options);
  add_training_options(app, options);
  add_placement_options(app, options);
  add_output_options(app, options);
  try {
    app.parse(argc, argv);
    options.config({}).validate();
    if (options.checkpoint_every > 0 && options.checkpoint.empty())
      throw CLI::RequiresError("--checkpoint-every", "--checkpoint");
  } catch (const CLI::ParseError& error) {
    const bool ok = error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success);
    if (is_first) {
      if (ok)
        app.exit(error);
      else
        fmt::print(stderr, "train_gpt: {}; see train_gpt --help\n", error.what());
    }
    return {std::nullopt, ok ? kExitOk : kExitUsage};
  } catch (const causeway::Error& error) {
    if (is_first) fmt::print(stderr, "train_gpt: {}\n", error.what());
    return {std::nullopt, kExitUsage};
  }
  return {options, kExitOk};
}

}  // namespace train_gpt
