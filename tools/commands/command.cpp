#include "tools/commands/command.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <cmath>

#include "causeway/gpu_catalogue.h"
#include "tools/lab.h"

namespace causeway::tools {

int exit_code(Errc code) noexcept {
  switch (code) {
    case Errc::out_of_memory:
      return kExitOutOfMemory;
    case Errc::peer_lost:
      return kExitUnreachable;
    default:
      return kExitError;
  }
}

CLI::App* add_command(CLI::App& parent, Shell& shell, const std::string& name,
                      const std::string& description, const std::string& example,
                      std::function<int()> run, const std::string& exit_codes) {
  auto* command = parent.add_subcommand(name, description);
  command->add_flag("--json", shell.json, "Print JSON");
  command->footer("Example:\n  " + example + "\n\n" + exit_codes);
  command->callback([&shell, run = std::move(run)]() { shell.run = run; });
  return command;
}

void add_gpus_option(CLI::App& command, std::string& mode) {
  command
      .add_option("--gpus", mode,
                  "What the GPUs of the cluster file are: memory of the card (cuda), host memory "
                  "that stands for it (emulated), or the card's where it can be had (auto)")
      ->type_name("MODE")
      ->check(CLI::IsMember({"auto", "cuda", "emulated"}))
      ->capture_default_str();
}

void add_connection_options(CLI::App& command, Connection& connection) {
  auto* lab =
      command.add_option("--lab", connection.lab, "The pool of this lab")->type_name("NAME");
  auto* socket = command.add_option("--socket", connection.socket, "Unix socket of a daemon")
                     ->type_name("PATH");
  auto* address = command.add_option("--address", connection.address, "A daemon elsewhere")
                      ->type_name("HOST:PORT");
  command
      .add_option("--token-file", connection.token_file,
                  "The pool's token, for --address (else $CAUSEWAY_TOKEN)")
      ->type_name("FILE")
      ->needs(address);
  lab->excludes(socket)->excludes(address);
  socket->excludes(address);
}

PoolOptions pool_options(const Connection& connection) {
  PoolOptions options;
  options.client_name = "causeway[" + std::to_string(::getpid()) + "]";
  options.socket_path = connection.socket;
  options.address = connection.address;
  if (!connection.token_file.empty()) options.token = load_token(connection.token_file);
  if (!connection.lab.empty()) {
    const auto lab = open_lab(connection.lab);
    options.socket_path = lab.files(lab.cluster.nodes.front().name).socket();
  }
  return options;
}

Pool connect_pool(const Connection& connection) {
  const auto options = pool_options(connection);
  try {
    return Pool::connect(options);
  } catch (const Error& error) {
    switch (error.code()) {
      case Errc::io:
      case Errc::not_found:
      case Errc::peer_lost:
      case Errc::timed_out:
      case Errc::closed:
        throw Error(Errc::peer_lost, fmt::format("{} (start a daemon with: causeway up, or a whole "
                                                 "pool with: causeway lab up desktop-and-hgx)",
                                                 error.what()));
      default:
        throw;
    }
  }
}

std::vector<DeviceName> parse_devices(const std::vector<std::string>& names) {
  std::vector<DeviceName> devices;
  for (const auto& name : names) devices.push_back(DeviceName::parse(name));
  return devices;
}

std::string model_title(const std::string& model) {
  if (model == "host") return "host memory";
  const auto* known = find_gpu_model(model);
  return known != nullptr ? std::string(known->title) : model;
}

std::string format_rate(double bytes_per_s) {
  if (!(bytes_per_s >= 0) || bytes_per_s > 1e18) return "unknown";
  return format_bytes(static_cast<std::uint64_t>(bytes_per_s)) + "/s";
}

std::string format_seconds(double seconds) {
  if (seconds >= 1) return fmt::format("{:.3g} s", seconds);
  if (seconds >= 1e-3) return fmt::format("{:.3g} ms", seconds * 1e3);
  if (seconds >= 1e-6) return fmt::format("{:.3g} us", seconds * 1e6);
  return fmt::format("{:.3g} ns", seconds * 1e9);
}

std::string json_string(const std::string& text) {
  return boost::json::serialize(boost::json::string(text));
}

}  // namespace causeway::tools
