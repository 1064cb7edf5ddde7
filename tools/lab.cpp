#include "tools/lab.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "causeway/error.h"
#include "causeway/pool.h"
#include "tools/base/interrupt.h"

namespace causeway::tools {

namespace fs = std::filesystem;

namespace {

constexpr std::chrono::seconds kTurnPatience{60};

std::string labs_folder() {
  auto folder = runtime_folder() + "/labs";
  make_private_folder(folder);
  return folder;
}

// Lab names become folder names.
void check_name(const std::string& name) {
  if (!is_node_name(name) || name.size() > 40)
    throw Error(Errc::invalid_argument,
                fmt::format("lab name '{}' is not 1 to 40 of [a-z0-9.-] starting with a letter or "
                            "digit; choose one with --name",
                            name));
}

// The pid files tell what was started, also where the cluster file is gone.
std::vector<DaemonFiles> daemons_in(const std::string& folder) {
  std::vector<DaemonFiles> result;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error))
    if (entry.path().extension() == ".pid") result.push_back({folder, entry.path().stem()});
  return result;
}

void take_down(const std::string& folder) {
  std::vector<Process> running;
  for (const auto& files : daemons_in(folder))
    if (auto daemon = find_daemon(files)) running.push_back(std::move(*daemon));
  stop_all(running, kStopPatience);
  std::error_code error;
  fs::remove_all(folder, error);
  if (error) throw Error(Errc::io, "cannot remove " + folder + ": " + error.message());
}

// Takes the lab down again unless it was kept.
class HalfLab {
 public:
  explicit HalfLab(std::string folder) : folder_(std::move(folder)) {}
  HalfLab(const HalfLab&) = delete;
  HalfLab& operator=(const HalfLab&) = delete;
  ~HalfLab() {
    if (folder_.empty()) return;
    try {
      take_down(folder_);
    } catch (const std::exception&) {  // The failure that led here is the one to report.
    }
  }
  void keep() noexcept { folder_.clear(); }

 private:
  std::string folder_;
};

void check_socket_paths(const Lab& lab) {
  for (const auto& node : lab.cluster.nodes) {
    const auto path = lab.files(node.name).socket();
    if (path.size() >= sizeof(sockaddr_un::sun_path))
      throw Error(Errc::invalid_argument,
                  fmt::format("socket path {} has {} characters; the system allows {}: choose a "
                              "shorter --name, or set XDG_RUNTIME_DIR to a shorter folder",
                              path, path.size(), sizeof(sockaddr_un::sun_path) - 1));
  }
}

// Every daemon says it is ready; the pool must agree that all are in it.
void wait_joined(const Lab& lab, std::chrono::steady_clock::time_point deadline) {
  PoolOptions options;
  options.socket_path = lab.files(lab.cluster.nodes.front().name).socket();
  auto pool = Pool::connect(options);
  for (;;) {
    const auto status = pool.status();
    const auto alive = std::ranges::count_if(status.nodes, &NodeStatus::alive);
    if (static_cast<std::size_t>(alive) == lab.cluster.nodes.size()) return;
    throw_if_interrupted();
    if (std::chrono::steady_clock::now() > deadline)
      throw Error(Errc::timed_out, fmt::format("{} of {} nodes of lab {} joined the pool in time",
                                               alive, lab.cluster.nodes.size(), lab.name));
    ::usleep(20000);
  }
}

}  // namespace

ClusterSpec load_cluster(const std::string& name_or_file) {
  std::error_code error;
  if (fs::exists(name_or_file, error)) return ClusterSpec::from_file(name_or_file);
  for (const auto& lab : builtin_labs())
    if (lab.name == name_or_file)
      return ClusterSpec::from_yaml(lab.yaml, fmt::format("built-in lab {}", lab.name));
  std::vector<std::string_view> names;
  for (const auto& lab : builtin_labs()) names.push_back(lab.name);
  throw Error(Errc::not_found, fmt::format("there is no cluster file '{}', nor a built-in lab of "
                                           "that name (there are: {})",
                                           name_or_file, fmt::join(names, ", ")));
}

DaemonFiles Lab::files(std::string_view node) const { return {folder, std::string(node)}; }

Lab open_lab(const std::string& name) {
  check_name(name);
  Lab lab{name, labs_folder() + "/" + name, {}};
  if (!fs::exists(lab.folder + "/cluster.yaml")) {
    std::vector<std::string> names;
    for (const auto& summary : list_labs()) names.push_back(summary.name);
    throw Error(
        Errc::not_found,
        fmt::format("there is no lab '{}' ({}); start one with: causeway lab up "
                    "desktop-and-hgx --name {}",
                    name,
                    names.empty() ? "none is up" : fmt::format("up: {}", fmt::join(names, ", ")),
                    name));
  }
  lab.cluster = ClusterSpec::from_file(lab.folder + "/cluster.yaml");
  return lab;
}

Lab lab_up(const std::string& name_or_file, const std::optional<std::string>& name,
           const std::string& gpus, const std::function<void(std::size_t, std::size_t)>& progress) {
  auto cluster = load_cluster(name_or_file);
  Lab lab{name.value_or(cluster.name), "", std::move(cluster)};
  check_name(lab.name);
  const auto root = labs_folder();
  lab.folder = root + "/" + lab.name;
  check_socket_paths(lab);
  const FileLock turn(root + "/.lock", kTurnPatience);
  for (const auto& files : daemons_in(lab.folder))
    if (find_daemon(files))
      throw Error(Errc::already_exists,
                  fmt::format("lab {0} is up already; use it with --lab {0}, end it with: causeway "
                              "lab down {0}",
                              lab.name));
  take_down(lab.folder);  // What a killed lab left behind.
  HalfLab half(lab.folder);
  make_private_folder(lab.folder);
  write_private_file(lab.folder + "/cluster.yaml", lab.cluster.to_yaml());
  write_private_file(lab.token_file(), random_hex(32) + "\n");
  const auto deadline = std::chrono::steady_clock::now() + ready_patience(gpus);
  std::string directory;
  std::vector<Process> started;
  std::size_t ready = 0;
  const auto start = [&](const NodeSpec& node) {
    std::vector<std::string> arguments = {"--cluster",    lab.folder + "/cluster.yaml",
                                          "--node",       node.name,
                                          "--token-file", lab.token_file(),
                                          "--gpus",       gpus};
    if (!directory.empty()) arguments.insert(arguments.end(), {"--join", directory});
    started.push_back(start_daemon(lab.files(node.name), std::move(arguments)));
  };
  const auto await = [&](std::size_t i) {
    const auto state = wait_ready(started[i], lab.files(lab.cluster.nodes[i].name), deadline);
    if (progress) progress(++ready, lab.cluster.nodes.size());
    return state;
  };
  const auto& nodes = lab.cluster.nodes;
  start(nodes.front());  // The first serves the directory; the others need its address.
  directory = await(0).control_address;
  for (std::size_t i = 1; i < nodes.size(); ++i) start(nodes[i]);
  for (std::size_t i = 1; i < nodes.size(); ++i) (void)await(i);
  wait_joined(lab, deadline);
  throw_if_interrupted();
  half.keep();
  return lab;
}

bool lab_down(const std::string& name) {
  check_name(name);
  const auto root = labs_folder();
  const FileLock turn(root + "/.lock", kTurnPatience);
  const auto folder = root + "/" + name;
  std::error_code error;
  if (!fs::exists(folder, error)) return false;
  take_down(folder);
  return true;
}

std::vector<LabSummary> list_labs() {
  std::vector<LabSummary> result;
  for (const auto& entry : fs::directory_iterator(labs_folder())) {
    if (!entry.is_directory()) continue;
    LabSummary summary;
    summary.name = entry.path().filename();
    const auto folder = entry.path().string();
    try {
      const auto cluster = ClusterSpec::from_file(folder + "/cluster.yaml");
      summary.cluster = cluster.name;
      summary.nodes = cluster.nodes.size();
    } catch (const Error&) {  // Half removed; it can still be taken down by its name.
      summary.nodes = daemons_in(folder).size();
    }
    for (const auto& files : daemons_in(folder)) summary.alive += find_daemon(files) ? 1 : 0;
    result.push_back(std::move(summary));
  }
  std::ranges::sort(result, {}, &LabSummary::name);
  return result;
}

}  // namespace causeway::tools
