// causeway up and down: the daemon of a real machine, in the background.
#include <fmt/format.h>
#include <unistd.h>

#include <memory>

#include "tools/base/files.h"
#include "tools/commands/command.h"
#include "tools/daemon.h"

namespace causeway::tools {

namespace {

struct UpOptions {
  std::string cluster;
  std::string node;
  std::string contribute;
  std::string listen;
  std::string data_listen;
  std::string join;
  std::string token_file;
  std::string gpus = "auto";
};

constexpr std::chrono::seconds kTurnPatience{60};

DaemonFiles default_files() { return {runtime_folder(), "causeway"}; }
std::string lock_path() { return runtime_folder() + "/.lock"; }

void print_state(const DaemonState& state, const Process& daemon, bool json) {
  if (json) {
    fmt::print("{{\"node\":{},\"pid\":{},\"control\":{},\"data\":{},\"socket\":{}}}\n",
               json_string(state.node), daemon.id().pid, json_string(state.control_address),
               json_string(state.data_address), json_string(state.socket_path));
    return;
  }
  fmt::print("node {} is up (pid {})\n  control  {}\n  data     {}\n  socket   {}\n", state.node,
             daemon.id().pid, state.control_address, state.data_address, state.socket_path);
}

int run_up(const UpOptions& options, bool json) {
  const FileLock turn(lock_path(), kTurnPatience);
  const auto files = default_files();
  if (const auto running = find_daemon(files))
    throw Error(
        Errc::already_exists,
        fmt::format("a daemon of this user runs already (pid {}); end it with: causeway down",
                    running->id().pid));
  remove_daemon_files(files);
  const auto token = options.token_file.empty() ? files.folder + "/token" : options.token_file;
  std::vector<std::string> arguments = {"--token-file", token};
  const std::pair<const char*, const std::string&> passed[] = {
      {"--cluster", options.cluster},
      {"--node", options.node},
      {"--contribute", options.contribute},
      {"--listen", options.listen},
      {"--data-listen", options.data_listen},
      {"--join", options.join},
      {"--gpus", options.gpus}};
  for (const auto& [name, value] : passed)
    if (!value.empty()) arguments.insert(arguments.end(), {name, value});
  const auto daemon = start_daemon(files, std::move(arguments));
  try {
    const auto state =
        wait_ready(daemon, files, std::chrono::steady_clock::now() + ready_patience(options.gpus));
    print_state(state, daemon, json);
  } catch (...) {
    std::vector<Process> started;
    if (auto again = Process::open(daemon.id())) started.push_back(std::move(*again));
    stop_all(started, kStopPatience);
    remove_daemon_files(files);
    throw;
  }
  return kExitOk;
}

int run_down(bool json) {
  const FileLock turn(lock_path(), kTurnPatience);
  const auto files = default_files();
  std::vector<Process> running;
  if (auto daemon = find_daemon(files)) running.push_back(std::move(*daemon));
  const bool polite = stop_all(running, kStopPatience);
  remove_daemon_files(files);
  if (json)
    fmt::print("{{\"stopped\":{},\"killed\":{}}}\n", !running.empty(), !polite);
  else if (running.empty())
    fmt::print("no daemon was up\n");
  else
    fmt::print("stopped{}\n", polite ? "" : " (it did not end within 5 s and was killed)");
  return kExitOk;
}

}  // namespace

void add_up(CLI::App& app, Shell& shell) {
  auto options = std::make_shared<UpOptions>();
  auto* command = add_command(app, shell, "up", "Start this machine's daemon in the background",
                              "causeway up --contribute host0=8GiB",
                              [options, &shell]() { return run_up(*options, shell.json); });
  auto* cluster = command->add_option("--cluster", options->cluster, "Cluster file with this node");
  cluster->type_name("FILE");
  command->add_option("--node", options->node, "This node's name in the cluster file")
      ->type_name("NAME");
  command
      ->add_option("--contribute", options->contribute,
                   "Memory to lend, without a cluster file: host0=8GiB,host1=8GiB "
                   "(default: half of this machine's)")
      ->type_name("DEVICE=BYTES,...")
      ->excludes(cluster);
  command->add_option("--listen", options->listen, "Control plane address (default 127.0.0.1:0)")
      ->type_name("HOST:PORT");
  command
      ->add_option("--data-listen", options->data_listen,
                   "Data plane address; once for each network card that carries it")
      ->type_name("HOST:PORT")
      ->multi_option_policy(CLI::MultiOptionPolicy::Join)
      ->delimiter(',');
  add_gpus_option(*command, options->gpus);
  command->add_option("--join", options->join, "Control address of the pool's directory node")
      ->type_name("HOST:PORT");
  command->add_option("--token-file", options->token_file, "The pool's token; made if absent")
      ->type_name("FILE");
}

void add_down(CLI::App& app, Shell& shell) {
  add_command(app, shell, "down", "Stop the daemon that `causeway up` started", "causeway down",
              [&shell]() { return run_down(shell.json); });
}

}  // namespace causeway::tools
