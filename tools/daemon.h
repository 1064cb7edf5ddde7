// Daemons in the background: started, awaited, found again by a later command, stopped.
//
// Shape:   a daemon is a set of files FOLDER/STEM.{pid,json,sock,log} in a private folder. The pid
//          file holds pid and start time, so a recycled pid is never signalled; it is written
//          before the daemon runs its first instruction, so none is ever lost.
// Errors:  io, not_found (no causewayd); internal if it ends before it is ready, with the last
//          lines of its log; timed_out; cancelled on SIGINT or SIGTERM (see interrupt.h).
// Threads: one thread.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "tools/base/process.h"

namespace causeway::tools {

struct DaemonFiles {
  std::string folder;
  std::string stem;
  [[nodiscard]] std::string pid() const { return folder + "/" + stem + ".pid"; }
  [[nodiscard]] std::string state() const { return folder + "/" + stem + ".json"; }
  [[nodiscard]] std::string socket() const { return folder + "/" + stem + ".sock"; }
  [[nodiscard]] std::string log() const { return folder + "/" + stem + ".log"; }
};

// What a daemon says of itself once it is ready (NodeOptions::state_file).
struct DaemonState {
  std::string node;
  std::string control_address;
  std::string data_address;
  std::string socket_path;
};

// The program beside this one. Errors: not_found.
[[nodiscard]] std::string daemon_program();

// Starts causewayd with `arguments` beside the --socket and --state-file that follow from `files`,
// in its own session, with its log in files.log().
[[nodiscard]] Process start_daemon(const DaemonFiles& files, std::vector<std::string> arguments);

// Waits until the daemon has written its state file.
[[nodiscard]] DaemonState wait_ready(const Process& daemon, const DaemonFiles& files,
                                     std::chrono::steady_clock::time_point deadline);

// The daemon of an earlier command, if it still runs.
[[nodiscard]] std::optional<Process> find_daemon(const DaemonFiles& files);
// nullopt if there is no state file, or it is not whole.
[[nodiscard]] std::optional<DaemonState> read_daemon_state(const DaemonFiles& files);

// Removes what the daemon left: pid, state, socket, log.
void remove_daemon_files(const DaemonFiles& files);

inline constexpr std::chrono::seconds kReadyPatience{20};
// With `gpus` as --gpus says: more by what a daemon gives the driver for each GPU of this machine.
[[nodiscard]] std::chrono::seconds ready_patience(const std::string& gpus);
inline constexpr std::chrono::seconds kStopPatience{5};

}  // namespace causeway::tools
