// causeway lab: a whole pool on this machine with emulated devices.
#include "tools/lab.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "causeway/plan.h"
#include "tools/base/terminal.h"
#include "tools/commands/command.h"
#include "tools/job.h"

namespace causeway::tools {

namespace {

struct UpOptions {
  std::string source;
  std::string name;
  std::string gpus = "emulated";
};

struct RunOptions {
  std::string lab;
  std::string plan;
  bool per_node = false;
  int ranks_per_stage = 1;
  std::vector<std::string> command;
};

void print_lab(const Lab& lab, bool json) {
  if (json) {
    std::string nodes;
    for (const auto& node : lab.cluster.nodes)
      nodes += fmt::format("{}{{\"name\":{},\"socket\":{},\"log\":{}}}", nodes.empty() ? "" : ",",
                           json_string(node.name), json_string(lab.files(node.name).socket()),
                           json_string(lab.files(node.name).log()));
    fmt::print("{{\"lab\":{},\"cluster\":{},\"nodes\":[{}]}}\n", json_string(lab.name),
               json_string(lab.cluster.name), nodes);
    return;
  }
  std::size_t devices = 0;
  std::uint64_t capacity = 0;
  for (const auto& node : lab.cluster.nodes)
    for (const auto& device : node.devices) {
      ++devices;
      capacity += device.capacity_bytes;
    }
  fmt::print(
      "lab {0} is up: {1} node{2}, {3} devices, {4}\n"
      "  look at it   causeway status --lab {0}\n"
      "  end it       causeway lab down {0}\n",
      lab.name, lab.cluster.nodes.size(), lab.cluster.nodes.size() == 1 ? "" : "s", devices,
      format_bytes(capacity));
}

int run_up(const UpOptions& options, bool json) {
  const bool show = is_terminal(2) && !json;
  const auto progress = [show](std::size_t ready, std::size_t all) {
    if (!show) return;
    fmt::print(stderr, "\r{} {}/{} daemons ready{}",
               bar(static_cast<double>(ready) / static_cast<double>(all), 16), ready, all,
               ready == all ? "\r\033[K" : "");
    std::fflush(stderr);
  };
  const auto name = options.name.empty() ? std::nullopt : std::optional(options.name);
  print_lab(lab_up(options.source, name, options.gpus, progress), json);
  return kExitOk;
}

int run_down(const std::string& name, bool json) {
  const bool existed = lab_down(name);
  if (json)
    fmt::print("{{\"lab\":{},\"existed\":{}}}\n", json_string(name), existed);
  else
    fmt::print("lab {} {}\n", name, existed ? "is down" : "was not up");
  return kExitOk;
}

int run_list(bool json) {
  const auto labs = list_labs();
  if (json) {
    std::string items;
    for (const auto& lab : labs)
      items += fmt::format("{}{{\"lab\":{},\"cluster\":{},\"nodes\":{},\"alive\":{}}}",
                           items.empty() ? "" : ",", json_string(lab.name),
                           json_string(lab.cluster), lab.nodes, lab.alive);
    std::string names;
    for (const auto& lab : builtin_labs())
      names += fmt::format("{}\"{}\"", names.empty() ? "" : ",", lab.name);
    fmt::print("{{\"labs\":[{}],\"builtin\":[{}]}}\n", items, names);
    return kExitOk;
  }
  Table table({{"LAB"}, {"CLUSTER", false, true}, {"DAEMONS"}});
  for (const auto& lab : labs)
    table.add({{lab.name},
               {lab.cluster},
               {fmt::format("{} of {} alive", lab.alive, lab.nodes),
                lab.alive == lab.nodes ? Colour::green : Colour::red}});
  fmt::print("{}", table.empty() ? "no lab is up\n" : table.to_string());
  fmt::print("\nBuilt in, for `causeway lab up`:\n");
  for (const auto& lab : builtin_labs()) fmt::print("  {}\n", lab.name);
  return kExitOk;
}

std::vector<std::string> nodes_for(const Lab& lab, const RunOptions& options) {
  std::vector<std::string> nodes;
  if (options.plan.empty()) {
    for (const auto& node : lab.cluster.nodes) nodes.push_back(node.name);
    return nodes;
  }
  const auto plan = Plan::from_file(options.plan);
  for (std::size_t i = 0; i < plan.stages.size(); ++i) {
    const auto& node = plan.stages[i].device.node;
    if (lab.cluster.find_node(node) == nullptr)
      throw Error(Errc::invalid_argument,
                  fmt::format("stage {} of {} is on {}, but lab {} has no node {}: make the plan "
                              "with: causeway plan MODEL --lab {}",
                              i, options.plan, plan.stages[i].device.to_string(), lab.name, node,
                              lab.name));
    if (!options.per_node || std::ranges::find(nodes, node) == nodes.end()) nodes.push_back(node);
  }
  return nodes;
}

int run_run(const RunOptions& options) {
  const auto lab = open_lab(options.lab);
  std::vector<RankPlace> ranks;
  for (const auto& node : nodes_for(lab, options))
    for (int i = 0; i < options.ranks_per_stage; ++i)
      ranks.push_back({node, lab.files(node).socket()});
  return run_job(ranks, options.command);
}

void add_lab_run(CLI::App& lab, Shell& shell) {
  auto options = std::make_shared<RunOptions>();
  auto* command = add_command(
      lab, shell, "run", "Run a job in a lab, some processes per plan stage or per node",
      "causeway lab run desktop-and-hgx --plan plan.yaml -- train_gpt --plan plan.yaml --steps 50\n"
      "  causeway lab run desktop-and-hgx --plan plan.yaml --ranks-per-stage 2 -- \\\n"
      "      train_gpt --plan plan.yaml --data-parallel 2",
      [options]() { return run_run(*options); });
  command->footer(command->get_footer() +
                  "\nThe job's own exit code comes through; 128 + N if signal N ended it.");
  command->add_option("LAB", options->lab, "A lab that is up")->required();
  command->add_option("--plan", options->plan, "One process per stage of this plan, on its node")
      ->type_name("FILE");
  command->add_flag("--per-node", options->per_node,
                    "One process per node (the default without a plan)");
  command
      ->add_option("--ranks-per-stage", options->ranks_per_stage,
                   "So many, with consecutive ranks, where there would be one: for replicas and "
                   "shards")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("COMMAND", options->command, "After --: the command and its arguments")
      ->required();
}

}  // namespace

void add_lab(CLI::App& app, Shell& shell) {
  auto* lab = app.add_subcommand("lab", "A whole pool on this machine with emulated devices");
  lab->require_subcommand(1);
  lab->footer(std::string("Example:\n  causeway lab up desktop-and-hgx\n\n") + kExitCodesText);

  auto up_options = std::make_shared<UpOptions>();
  auto* up = add_command(*lab, shell, "up", "Start one daemon per node of a cluster file",
                         "causeway lab up desktop-and-hgx --name trial",
                         [up_options, &shell]() { return run_up(*up_options, shell.json); });
  up->add_option("NAME_OR_FILE", up_options->source,
                 "A built-in lab (see lab list) or cluster file")
      ->required();
  up->add_option("--name", up_options->name, "What to call it (default: the cluster's name)");
  add_gpus_option(*up, up_options->gpus);

  auto down_name = std::make_shared<std::string>();
  auto* down = add_command(*lab, shell, "down", "Stop a lab's daemons and remove what they left",
                           "causeway lab down desktop-and-hgx",
                           [down_name, &shell]() { return run_down(*down_name, shell.json); });
  down->add_option("NAME", *down_name, "The lab")->required();

  add_command(*lab, shell, "list", "The labs that are up, and the built-in ones",
              "causeway lab list", [&shell]() { return run_list(shell.json); });
  add_lab_run(*lab, shell);
}

}  // namespace causeway::tools
