// Labs: whole pools on this machine, one daemon per node of a cluster file, emulated devices.
//
// Shape:   a lab is the folder runtime_folder()/labs/NAME with cluster.yaml, token and the files of
//          each daemon (daemon.h). It is up as long as the folder stands.
// Errors:  already_exists if the name is up; not_found, naming the labs there are; parse from the
//          cluster file; what daemon.h throws.
// Threads: one thread; several commands at once take turns by a lock file.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "causeway/cluster.h"
#include "tools/daemon.h"

namespace causeway::tools {

// Cluster files inside this program: `causeway lab up desktop-and-hgx` needs none on disk.
struct BuiltinLab {
  std::string_view name;
  std::string_view yaml;
};
[[nodiscard]] std::span<const BuiltinLab> builtin_labs() noexcept;

// A cluster file, or the name of a built-in lab. A file wins.
[[nodiscard]] ClusterSpec load_cluster(const std::string& name_or_file);

struct Lab {
  std::string name;
  std::string folder;
  ClusterSpec cluster;
  [[nodiscard]] DaemonFiles files(std::string_view node) const;
  [[nodiscard]] std::string token_file() const { return folder + "/token"; }
};

// A lab that is up. Errors: not_found.
[[nodiscard]] Lab open_lab(const std::string& name);

// Starts every daemon and waits until all are ready. On any failure, also an interrupt, what was
// started is stopped again. `progress` is told of each node that is ready. `gpus`: the daemons'
// --gpus.
Lab lab_up(const std::string& name_or_file, const std::optional<std::string>& name,
           const std::string& gpus = "emulated",
           const std::function<void(std::size_t ready, std::size_t all)>& progress = {});

// SIGTERM, then SIGKILL; removes the folder. False if there was no such lab.
bool lab_down(const std::string& name);

struct LabSummary {
  std::string name;
  std::string cluster;  // Empty if its cluster file is gone.
  std::size_t nodes = 0;
  std::size_t alive = 0;
};
[[nodiscard]] std::vector<LabSummary> list_labs();

}  // namespace causeway::tools
