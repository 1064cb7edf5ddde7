// causeway plan: where each layer of a model goes, what it will cost, or why it does not fit.
#include "causeway/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "causeway/plan_export.h"
#include "tools/base/files.h"
#include "tools/base/terminal.h"
#include "tools/commands/command.h"
#include "tools/lab.h"

namespace causeway::tools {

namespace {

struct PlanCommandOptions {
  Connection connection;
  std::string model;
  std::string cluster;
  bool pool = false;
  bool serve = false;
  std::uint64_t context = 0;
  std::uint64_t batch = 1;
  PlanOptions plan;
  std::vector<std::string> only;
  std::string format = "table";
  std::string engine;
  std::string output;
};

constexpr std::uint64_t kUsualContext = 4096;

// Weights and the KV cache of all sequences, which one pass goes through: no micro-batches.
ModelSpec serving_model(PlanCommandOptions& options) {
  const auto model = ModelDescription::read(options.model);
  const auto longest = model.architecture ? model.architecture->context : 0;
  Workload workload{.is_training = false, .sequences = options.batch, .tokens = 1};
  workload.context = options.context > 0 ? options.context
                     : longest > 0       ? std::min(longest, kUsualContext)
                                         : kUsualContext;
  options.plan.micro_batches = 1;
  return model_spec(model, workload);
}

std::string table_text(const Plan& plan, const ModelSpec& model, const Topology& topology) {
  Table table({{"STAGE", true},
               {"DEVICE"},
               {"MODEL", false, true},
               {"LAYERS", false, true},
               {"STATE", true},
               {"ACTIVATIONS", true},
               {"OF THE DEVICE"},
               {"TIME", true}});
  for (std::size_t i = 0; i < plan.stages.size(); ++i) {
    const auto& stage = plan.stages[i];
    const auto* device = topology.find(stage.device);
    const auto available = device == nullptr ? 0 : device->available_bytes;
    const auto used = stage.state_bytes + stage.activation_bytes;
    const auto fraction =
        available == 0 ? 1.0 : static_cast<double>(used) / static_cast<double>(available);
    const auto last = stage.end_layer - 1;
    table.add(
        {{std::to_string(i)},
         {stage.device.to_string()},
         {device == nullptr ? "" : model_title(device->model)},
         {stage.first_layer == last
              ? model.layers.at(last).name
              : fmt::format("{} .. {} ({})", model.layers.at(stage.first_layer).name,
                            model.layers.at(last).name, stage.end_layer - stage.first_layer)},
         {format_bytes(stage.state_bytes)},
         {format_bytes(stage.activation_bytes)},
         {fmt::format("{} {:3.0f}%", bar(fraction, 10), fraction * 100), fill_colour(fraction)},
         {format_seconds(stage.seconds)}});
  }
  return fmt::format(
      "{}\n{} over {} device{}: {} of state, predicted step {} with {} micro-batches\n{}\n",
      table.to_string(), plan.model, plan.stages.size(), plan.stages.size() == 1 ? "" : "s",
      format_bytes(model.state_bytes()), format_seconds(plan.step_seconds), plan.micro_batches,
      plan.certificate);
}

// What `engine` is to be started with, for the same layers.
std::string engine_text(const Plan& plan, const std::string& path, const std::string& engine) {
  const auto model = ModelDescription::read(path);
  if (engine == "accelerate") return to_device_map(plan, model) + "\n";
  if (engine == "llama.cpp") return to_llama_cpp(plan, model) + "\n";
  return to_vllm(plan, model) + "\n";
}

int run_plan(PlanCommandOptions& options, bool json) {
  // A GGUF file, and the other engines, are for serving.
  options.serve = options.serve || !options.engine.empty() || options.model.ends_with(".gguf");
  const auto model = options.serve ? serving_model(options) : ModelSpec::from_path(options.model);
  const auto topology = options.cluster.empty()
                            ? connect_pool(options.connection).topology()
                            : Topology::from_cluster(load_cluster(options.cluster));
  options.plan.only = parse_devices(options.only);
  const auto plan = make_plan(model, topology, options.plan);
  if (!options.engine.empty()) {
    const auto text = engine_text(plan, options.model, options.engine);
    if (!options.output.empty()) write_file(options.output, text);
    fmt::print("{}", text);
    return kExitOk;
  }
  const auto text = [&](const std::string& format) {
    if (format == "yaml") return plan.to_yaml();
    if (format == "json") return plan.to_json() + "\n";
    return table_text(plan, model, topology) +
           (options.serve
                ? "Serving: memory is that of weights and KV cache; times are still those "
                  "of a training step.\n"
                : "");
  };
  if (options.output.empty()) {
    fmt::print("{}", text(json ? "json" : options.format));
    return kExitOk;
  }
  // A plan in a file is there to be read back, so a table is never what goes into it.
  write_file(options.output, text(options.format == "table" ? "yaml" : options.format));
  fmt::print("{}", text(json ? "json" : "table"));
  return kExitOk;
}

}  // namespace

void add_plan(CLI::App& app, Shell& shell) {
  auto options = std::make_shared<PlanCommandOptions>();
  auto* command = add_command(app, shell, "plan", "Place a model's layers on devices",
                              "causeway plan model.yaml --cluster desktop-and-hgx -o plan.yaml",
                              [options, &shell]() { return run_plan(*options, shell.json); });
  command
      ->add_option(
          "MODEL", options->model,
          "A Hugging Face folder, its config.json or index, a .safetensors or .gguf file, or a "
          "description in YAML")
      ->required();
  auto* cluster =
      command->add_option("--cluster", options->cluster, "Plan for a cluster file or built-in lab");
  cluster->type_name("FILE");
  auto* pool =
      command->add_flag("--pool", options->pool, "Plan for the running pool (the default)");
  auto* micro_batches =
      command->add_option("--micro-batches", options->plan.micro_batches, "Per step");
  micro_batches->type_name("N")->check(CLI::Range(1, 4096));
  auto* serve =
      command->add_flag("--serve", options->serve,
                        "Room for weights and KV cache only (the default of a .gguf file)");
  serve->excludes(micro_batches);
  command->add_option("--context", options->context, "Tokens of a sequence when serving")
      ->type_name("N")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 32));
  command->add_option("--batch", options->batch, "Sequences at once when serving")
      ->type_name("N")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--only", options->only, "Use no other devices than these")
      ->type_name("DEVICE,...")
      ->delimiter(',');
  command->add_option("--stages", options->plan.stages, "Exactly so many stages")
      ->type_name("N")
      ->check(CLI::Range(1, 4096));
  command->add_flag("--use-host", options->plan.use_host_devices,
                    "Host memory may hold stages too");
  command->add_option("--format", options->format, "table, yaml or json")
      ->check(CLI::IsMember({"table", "yaml", "json"}));
  command->add_option("--for", options->engine, "In the words of another engine, for serving")
      ->type_name("accelerate|llama.cpp|vllm")
      ->check(CLI::IsMember({"accelerate", "llama.cpp", "vllm"}));
  command->add_option("-o,--output", options->output, "Write the plan to a file as well")
      ->type_name("FILE");
  add_connection_options(*command, options->connection);
  cluster->excludes(pool);
  for (const char* name : {"--lab", "--socket", "--address"})
    cluster->excludes(command->get_option(name));
}

}  // namespace causeway::tools
