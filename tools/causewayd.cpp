// The daemon of one node. Runs in the foreground until SIGTERM or SIGINT; `causeway up` and
// `causeway lab up` put it in the background.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <sstream>

#include "causeway/cluster.h"
#include "causeway/error.h"
#include "causeway/node.h"
#include "causeway/topology_discovery.h"
#include "tools/base/files.h"
#include "tools/base/log.h"

namespace {

using causeway::ClusterSpec;
using causeway::Errc;
using causeway::Error;

enum ExitCode : int { kExitError = 1, kExitUsage = 2, kExitUnreachable = 4 };

struct Options {
  std::string cluster;
  std::string node;
  std::vector<std::string> contribute;
  std::string token_file;
  std::string gpus = "auto";
  double gpu_seconds = 10;
  causeway::NodeOptions daemon;
};

// The host's name as a node name: lower case, other characters as '-'.
std::string host_node_name() {
  std::array<char, 256> buffer{};
  ::gethostname(buffer.data(), buffer.size() - 1);
  std::string name = buffer.data();
  for (char& c : name) {
    c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    const bool plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '-';
    if (!plain) c = '-';
  }
  const auto first = name.find_first_not_of(".-");
  name = first == std::string::npos ? "node" : name.substr(first, 63);
  return name;
}

// "host0=8GiB" items as a cluster of one node.
ClusterSpec cluster_of_this_machine(std::vector<std::string> items, const std::string& node) {
  if (items.empty()) {
    const auto pages = ::sysconf(_SC_PHYS_PAGES);
    const auto page_bytes = ::sysconf(_SC_PAGESIZE);
    items.push_back(fmt::format("host0={}", pages / 2 * page_bytes));
  }
  std::string devices;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const auto& item = items[i];
    const auto expected = fmt::format("host{}=", i);
    if (!item.starts_with(expected))
      throw Error(Errc::invalid_argument,
                  fmt::format("--contribute item {} is '{}'; expected {}BYTES, for example {}8GiB",
                              i + 1, item, expected, expected));
    const auto bytes = causeway::parse_bytes(item.substr(expected.size()));
    devices += fmt::format("      - {{host: {}}}\n", bytes);
  }
  return ClusterSpec::from_yaml(
      fmt::format("name: {0}\nnodes:\n  - name: {0}\n    devices:\n{1}", node, devices),
      "--contribute");
}

void complete(Options& options) {
  options.daemon.gpus = options.gpus == "cuda"       ? causeway::GpuMode::cuda
                        : options.gpus == "emulated" ? causeway::GpuMode::emulated
                                                     : causeway::GpuMode::automatic;
  options.daemon.gpu_probe_time =
      std::chrono::milliseconds(static_cast<std::int64_t>(options.gpu_seconds * 1000));
  options.daemon.node = options.node.empty() ? host_node_name() : options.node;
  options.daemon.cluster = options.cluster.empty()
                               ? cluster_of_this_machine(options.contribute, options.daemon.node)
                               : ClusterSpec::from_file(options.cluster);
  // A cluster file describes its node itself, which in a lab is no machine at all.
  if (options.cluster.empty())
    options.daemon.machine = causeway::discover({.node = options.daemon.node});
  if (options.token_file.empty()) options.token_file = causeway::tools::runtime_folder() + "/token";
  options.daemon.token = causeway::tools::load_or_create_token(options.token_file);
  if (options.daemon.socket_path.empty())
    options.daemon.socket_path = causeway::tools::runtime_folder() + "/causeway.sock";
}

void add_gpu_options(CLI::App& app, Options& options) {
  app.add_option("--gpus", options.gpus,
                 "What the GPUs of the cluster file are: memory of the card (cuda), host memory "
                 "that stands for it (emulated), or the card's where it can be had (auto)")
      ->type_name("MODE")
      ->check(CLI::IsMember({"auto", "cuda", "emulated"}))
      ->capture_default_str();
  app.add_option("--gpu-time", options.gpu_seconds,
                 "How long the CUDA driver may take at the start, for each GPU of the machine, to "
                 "show what it can do")
      ->type_name("SECONDS")
      ->check(CLI::Range(0.1, 600.0))
      ->capture_default_str();
}

int report(const std::string& message, int code) {
  fmt::print(stderr, "causewayd: {}\n", message);
  return code;
}

int run(int argc, char** argv) {
  CLI::App app{"Lends this node's memory to the pool. Runs until SIGTERM."};
  app.name("causewayd");
  app.set_version_flag("--version", "causewayd " CAUSEWAY_VERSION);
  app.footer(
      "Example:\n  causewayd --contribute host0=8GiB --listen 127.0.0.1:7070\n\n"
      "Exit codes: 0 stopped in order, 1 error, 2 usage, 4 the pool to join is unreachable.");
  Options options;
  auto* cluster = app.add_option("--cluster", options.cluster, "Cluster file with this node");
  cluster->type_name("FILE");
  app.add_option("--node", options.node, "This node's name (default: the host's name)")
      ->type_name("NAME");
  app.add_option("--contribute", options.contribute,
                 "Memory to lend, without a cluster file (default: half of this machine's)")
      ->type_name("hostN=BYTES,...")
      ->delimiter(',')
      ->excludes(cluster);
  app.add_option("--listen", options.daemon.control_listen, "Control plane")
      ->type_name("HOST:PORT")
      ->capture_default_str();
  app.add_option("--data-listen", options.daemon.data_listen,
                 "Data plane; once for each network card that carries it")
      ->type_name("HOST:PORT")
      ->multi_option_policy(CLI::MultiOptionPolicy::Join)
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--socket", options.daemon.socket_path, "Unix socket for this machine's clients")
      ->type_name("PATH");
  app.add_option("--token-file", options.token_file,
                 "The pool's token, private; a random one is made if the file is absent")
      ->type_name("FILE");
  app.add_option("--join", options.daemon.directory,
                 "Control address of the directory's node (default: serve the directory)")
      ->type_name("HOST:PORT");
  add_gpu_options(app, options);
  app.add_option("--state-file", options.daemon.state_file, "Written as JSON once ready")
      ->type_name("FILE");
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return report(std::string(error.what()) + " (see --help)", kExitUsage);
  }
  try {
    causeway::tools::log_without_waiting();
    complete(options);
    causeway::run_node(options.daemon);
    return 0;
  } catch (const Error& error) {
    const bool unreachable = error.code() == Errc::peer_lost || error.code() == Errc::timed_out;
    return report(error.what(), unreachable ? kExitUnreachable : kExitError);
  } catch (const std::exception& error) {
    return report(error.what(), kExitError);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  return run(argc, argv);
}
