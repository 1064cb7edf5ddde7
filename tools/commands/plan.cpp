// causeway plan: where each layer of a model goes, what it will cost, or why it does not fit.
#include "causeway/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <memory>
#include <optional>
#include <set>

#include "causeway/plan_compare.h"
#include "causeway/plan_export.h"
#include "tools/base/files.h"
#include "tools/base/terminal.h"
#include "tools/commands/command.h"
#include "tools/commands/plan_views.h"
#include "tools/lab.h"

namespace causeway::tools {

namespace {

struct PlanCommandOptions {
  Connection connection;
  std::string model;
  std::string cluster;
  bool pool = false;
  bool serve = false;
  std::optional<std::uint64_t> context;
  std::optional<std::uint64_t> batch;
  std::optional<std::uint32_t> micro_batches;
  PlanOptions plan;
  std::vector<std::string> only;
  std::string format = "table";
  std::string engine;
  std::string output;
  std::string objective = "time";
  std::vector<std::string> pins;
  std::vector<std::string> margins;
  std::vector<std::string> prices;
  std::vector<std::string> watts;
  double margin_percent = 100 * kDefaultMargin;
  std::string calibration;
  bool explain = false;
  bool what_fits = false;
  std::vector<std::string> compare;
};

constexpr std::uint64_t kUsualContext = 4096;

// Weights and the KV cache of all sequences, which one pass goes through: no micro-batches.
ModelSpec serving_model(PlanCommandOptions& options) {
  const auto model = ModelDescription::read(options.model);
  const auto longest = model.architecture ? model.architecture->context : 0;
  Workload workload{.is_training = false, .sequences = options.batch.value_or(1), .tokens = 1};
  workload.context =
      options.context.value_or(longest > 0 ? std::min(longest, kUsualContext) : kUsualContext);
  options.plan.micro_batches = 1;
  options.plan.serving = true;
  const auto chain = model_spec(model, workload);
  // Its stages have a block each, and the ends beside one.
  return options.engine == "vllm" ? join_ends(chain, model) : chain;
}

// "KEY=VALUE", both not empty.
std::pair<std::string, std::string> parse_pair(const std::string& option, const std::string& text,
                                               const char* form) {
  const auto at = text.find('=');
  if (at == std::string::npos || at == 0 || at + 1 == text.size())
    throw Error(Errc::invalid_argument, fmt::format("{} '{}': write {}", option, text, form));
  return {text.substr(0, at), text.substr(at + 1)};
}

double parse_positive(const std::string& option, const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value) ||
      value < 0)
    throw Error(Errc::invalid_argument,
                fmt::format("{}: '{}' is no number of 0 or more", option, text));
  return value;
}

// By name, or by number from 0.
std::uint32_t parse_layer(const ModelSpec& model, const std::string& text) {
  const auto named = std::ranges::find(model.layers, text, &LayerSpec::name);
  if (named != model.layers.end()) return static_cast<std::uint32_t>(named - model.layers.begin());
  std::uint32_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size())
    throw Error(Errc::invalid_argument,
                fmt::format("--pin: model '{}' has no layer '{}'; write its name or number",
                            model.name, text));
  return number;
}

void parse_plan_options(PlanCommandOptions& options, const ModelSpec& model) {
  auto& plan = options.plan;
  plan.only = parse_devices(options.only);
  plan.objective = objective_from_string(options.objective).value();
  plan.margin = options.margin_percent / 100;
  plan.reserve_runtime = options.margin_percent > 0;
  for (const auto& text : options.pins) {
    const auto [layer, device] = parse_pair("--pin", text, "LAYER=DEVICE");
    plan.pins.push_back({parse_layer(model, layer), parse_devices({device}).front()});
  }
  for (const auto& text : options.margins) {
    const auto [device, bytes] = parse_pair("--keep-free", text, "DEVICE=SIZE");
    plan.margins.emplace_back(parse_devices({device}).front(), parse_bytes(bytes));
  }
  for (const auto& text : options.prices) {
    const auto [gpu, price] = parse_pair("--price", text, "MODEL=PER_HOUR");
    plan.price_per_hour[gpu] = parse_positive("--price", price);
  }
  for (const auto& text : options.watts) {
    const auto [gpu, watts] = parse_pair("--watts", text, "MODEL=WATTS");
    plan.watts[gpu] = parse_positive("--watts", watts);
  }
}

// Each of `sets` ("desktop", "desktop+hgx") as if there were no other nodes.
std::vector<PlanAlternative> compare_nodes(const std::vector<std::string>& sets,
                                           const ModelSpec& model, const Topology& topology,
                                           const PlanOptions& options) {
  std::vector<PlanAlternative> result;
  for (const auto& set : sets) {
    std::set<std::string> wanted;
    for (std::size_t at = 0; at <= set.size();) {
      const auto plus = std::min(set.find('+', at), set.size());
      const auto node = set.substr(at, plus - at);
      if (std::ranges::find(topology.nodes(), node) == topology.nodes().end())
        throw Error(Errc::not_found,
                    fmt::format("--compare: '{}' is no node of '{}'; its nodes: {}", node,
                                topology.name(), fmt::join(topology.nodes(), ", ")));
      wanted.insert(node);
      at = plus + 1;
    }
    auto limited = options;
    for (const auto& node : topology.nodes())
      if (!wanted.contains(node)) limited.avoid.push_back(node);
    PlanAlternative row{set};
    try {
      row.plan = make_plan(model, topology, limited);
      row.figures = plan_figures(*row.plan, model, topology, options);
    } catch (const Error& error) {
      // What does not fit is an answer; what is missing or wrong in the question is none.
      if (error.code() != Errc::out_of_memory && error.code() != Errc::exhausted &&
          error.code() != Errc::not_found)
        throw;
      row.why_not = error.what();
    }
    result.push_back(std::move(row));
  }
  return result;
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
  std::size_t devices = 0;
  for (std::size_t i = 0; i < plan.stages.size(); ++i) {
    const auto& stage = plan.stages[i];
    const auto last = stage.end_layer - 1;
    const auto layers =
        stage.first_layer == last
            ? model.layers.at(last).name
            : fmt::format("{} .. {} ({})", model.layers.at(stage.first_layer).name,
                          model.layers.at(last).name, stage.end_layer - stage.first_layer);
    const auto shares = stage.shares();
    devices += shares.size();
    for (std::size_t k = 0; k < shares.size(); ++k) {
      const auto& share = shares[k];
      const auto* device = topology.find(share.device);
      const auto available = device == nullptr ? 0 : device->available_bytes;
      const auto used = share.state_bytes + share.activation_bytes;
      const auto fraction =
          available == 0 ? 1.0 : static_cast<double>(used) / static_cast<double>(available);
      table.add(
          {{k == 0 ? std::to_string(i) : ""},
           {share.device.to_string()},
           {device == nullptr ? "" : model_title(device->model)},
           {stage.beside.empty() ? layers
                                 : fmt::format("{:.0f}% of {}", share.share * 100, layers)},
           {format_bytes(share.state_bytes)},
           {format_bytes(share.activation_bytes)},
           {fmt::format("{} {:3.0f}%", bar(fraction, 10), fraction * 100), fill_colour(fraction)},
           {k == 0 ? format_seconds(stage.seconds) : ""}});
    }
  }
  return fmt::format(
      "{}\n{} over {} device{}: {} of state, predicted step {} with {} micro-batches\n{}\n",
      table.to_string(), plan.model, devices, devices == 1 ? "" : "s",
      format_bytes(model.state_bytes()), format_seconds(plan.step_seconds), plan.micro_batches,
      plan.certificate);
}

// How well the rates that measurements gave predict the steps that they were not fitted to.
std::string calibration_text(const std::vector<CalibratedDevice>& devices) {
  std::string text;
  for (const auto& device : devices) {
    if (device.fitted_steps == 0) continue;
    text += fmt::format("Calibrated: {} by {} step{}, {:.1f}% off on them", device.device,
                        device.fitted_steps, device.fitted_steps == 1 ? "" : "s",
                        100 * device.fitted_error);
    if (device.held_out_error)
      text += fmt::format(", {:.1f}% on {} other{}\n", 100 * *device.held_out_error,
                          device.held_out_steps, device.held_out_steps == 1 ? "" : "s");
    else
      text += ", none left to check it by\n";
  }
  return text;
}

// What `engine` is to be started with, for the same layers.
std::string engine_text(const Plan& plan, const std::string& path, const std::string& engine) {
  const auto model = ModelDescription::read(path);
  if (engine == "accelerate") return to_device_map(plan, model) + "\n";
  if (engine == "llama.cpp") return to_llama_cpp(plan, model) + "\n";
  return to_vllm(with_ends(plan, model), model) + "\n";
}

// What the options do not say by themselves: whether it is for serving depends on the model.
void check_combination(const PlanCommandOptions& options) {
  if (options.serve && options.micro_batches)
    throw Error(Errc::invalid_argument,
                fmt::format("'{}' is planned for serving, which has no micro-batches: leave "
                            "--micro-batches out",
                            options.model));
  if (!options.serve && (options.context || options.batch))
    throw Error(Errc::invalid_argument,
                "--context and --batch are of serving: add --serve, or leave them out");
  if ((!options.compare.empty() || options.what_fits) && options.format == "yaml")
    throw Error(Errc::invalid_argument,
                "--compare and --what-fits print no plan: --format is table or json");
}

int run_plan(PlanCommandOptions& options, bool json) {
  // A GGUF file, and the other engines, are for serving.
  options.serve = options.serve || !options.engine.empty() || options.model.ends_with(".gguf");
  check_combination(options);
  if (options.micro_batches) options.plan.micro_batches = *options.micro_batches;
  const bool as_json = json || options.format == "json";
  const auto model = options.serve ? serving_model(options) : ModelSpec::from_path(options.model);
  auto topology = options.cluster.empty() ? connect_pool(options.connection).topology()
                                          : Topology::from_cluster(load_cluster(options.cluster));
  parse_plan_options(options, model);
  if (!options.calibration.empty()) {
    const auto calibration = Calibration::from_file(options.calibration);
    options.plan.calibrated = calibration.fit();
    topology = calibration.applied_to(topology);
  }
  if (!options.compare.empty()) {
    const auto rows = compare_nodes(options.compare, model, topology, options.plan);
    fmt::print("{}", as_json ? alternatives_json(rows) + "\n" : alternatives_text(rows));
    const bool any =
        std::ranges::any_of(rows, [](const auto& row) { return row.plan.has_value(); });
    return any ? kExitOk : kExitOutOfMemory;
  }
  if (options.what_fits) {
    const auto limits = plan_limits(model, topology, options.plan);
    fmt::print("{}", as_json ? limits_json(limits) + "\n" : limits_text(limits));
    return limits.micro_batches > 0 || limits.micro_batch_scale > 0 ? kExitOk : kExitOutOfMemory;
  }
  const auto plan = make_plan(model, topology, options.plan);
  if (!options.engine.empty()) {
    const auto text = engine_text(plan, options.model, options.engine);
    if (!options.output.empty()) write_file(options.output, text);
    fmt::print("{}", text);
    return kExitOk;
  }
  std::vector<PlanAlternative> others;
  if (options.explain) {
    others.push_back({"this plan", plan, plan_figures(plan, model, topology, options.plan), {}});
    for (auto& other : plan_alternatives(plan, model, topology, options.plan))
      others.push_back(std::move(other));
  }
  const auto text = [&](const std::string& format) {
    if (format == "yaml") return plan.to_yaml();
    if (format == "json")
      return options.explain ? fmt::format("{{\"plan\":{},\"alternatives\":{}}}\n", plan.to_json(),
                                           alternatives_json(others))
                             : plan.to_json() + "\n";
    auto table = table_text(plan, model, topology);
    if (options.serve)
      table += "Serving: memory holds weights and KV cache; times are of one token per sequence.\n";
    table += calibration_text(options.plan.calibrated);
    if (options.explain) table += "\n" + alternatives_text(others);
    return table;
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
  auto* micro_batches = command->add_option("--micro-batches", options->micro_batches, "Per step");
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
  command->add_option("--objective", options->objective, "What the plan is best in")
      ->check(CLI::IsMember({"time", "throughput", "latency", "cost", "energy"}));
  command->add_option("--pin", options->pins, "Put a layer, by name or number, on a device")
      ->type_name("LAYER=DEVICE");
  command->add_option("--avoid", options->plan.avoid, "Nodes that get nothing")
      ->type_name("NODE,...")
      ->delimiter(',');
  command
      ->add_option("--tensor-parallel", options->plan.most_sharing,
                   "Let up to so many devices of a node share a stage's layers")
      ->type_name("N")
      ->check(CLI::Range(1U, kMostSharing));
  command->add_option("--max-nodes", options->plan.most_nodes, "Use at most so many nodes")
      ->type_name("N")
      ->check(CLI::Range(1, 4096));
  command
      ->add_option("--margin", options->margin_percent,
                   "Percent of all memory that stays free, beside what a process takes on a GPU "
                   "(3.6); 0: neither")
      ->type_name("PERCENT")
      ->check(CLI::Range(0.0, 99.0));
  command->add_option("--keep-free", options->margins, "Memory of one device that stays free")
      ->type_name("DEVICE=SIZE");
  command
      ->add_option("--calibration", options->calibration,
                   "Measured steps and links, or what topo measure --json prints")
      ->type_name("FILE");
  command->add_option("--price", options->prices, "What an hour of a GPU model costs")
      ->type_name("MODEL=PER_HOUR");
  command->add_option("--watts", options->watts, "Power of a GPU model, if not the vendor's")
      ->type_name("MODEL=WATTS");
  auto* explain = command->add_flag("--explain", options->explain,
                                    "Also what the obvious other plans would take");
  auto* compare =
      command->add_option("--compare", options->compare, "Plan for each of these sets of nodes")
          ->type_name("NODE+NODE,...")
          ->delimiter(',');
  auto* what_fits =
      command->add_flag("--what-fits", options->what_fits, "How large batches may become");
  auto* format = command->add_option("--format", options->format, "table, yaml or json");
  format->check(CLI::IsMember({"table", "yaml", "json"}));
  auto* engine =
      command->add_option("--for", options->engine, "In the words of another engine, for serving");
  engine->type_name("accelerate|llama.cpp|vllm")
      ->check(CLI::IsMember({"accelerate", "llama.cpp", "vllm"}));
  auto* output =
      command->add_option("-o,--output", options->output, "Write the plan to a file as well");
  output->type_name("FILE");
  // Each prints something else than a plan.
  for (auto* other : {what_fits, engine, explain, output}) compare->excludes(other);
  for (auto* other : {engine, explain, output}) what_fits->excludes(other);
  for (auto* other : {explain, format, micro_batches}) engine->excludes(other);
  add_connection_options(*command, options->connection);
  cluster->excludes(pool);
  for (const char* name : {"--lab", "--socket", "--address"})
    cluster->excludes(command->get_option(name));
}

}  // namespace causeway::tools
