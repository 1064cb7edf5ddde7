// Processes that this program starts, and processes that an earlier run of it started.
//
// Shape:   a ProcessId names one process for ever: a pid alone may be another process tomorrow, so
//          the start time goes with it. Signals go through a pidfd after both were checked.
// Errors:  Errc::io if the system refuses; not_found if a program does not exist.
// Threads: spawn() from a single-threaded program, or with care: the child only calls
//          async-signal-safe functions before exec.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tools/base/files.h"

namespace causeway::tools {

struct ProcessId {
  pid_t pid = 0;
  std::uint64_t start_ticks = 0;  // Field 22 of /proc/PID/stat: since boot.

  [[nodiscard]] std::string to_string() const;  // "1234 567890"
  [[nodiscard]] static std::optional<ProcessId> parse(const std::string& text);
  bool operator==(const ProcessId&) const = default;
};

// A running process, ours or not.
class Process {
 public:
  // nullopt if the process is gone, a zombie, or the pid belongs to another by now.
  [[nodiscard]] static std::optional<Process> open(const ProcessId& id);

  [[nodiscard]] const ProcessId& id() const noexcept { return id_; }
  // False if it is gone already.
  bool signal(int number) const;
  // True once it has ended. Waits until `deadline` at most.
  [[nodiscard]] bool wait_ended(std::chrono::steady_clock::time_point deadline) const;
  // Readable once the process has ended: for poll().
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }

 private:
  Process(ProcessId id, UniqueFd fd) noexcept : id_(id), fd_(std::move(fd)) {}
  ProcessId id_;
  UniqueFd fd_;
};

struct SpawnOptions {
  std::vector<std::string> command;  // command[0] is looked up in PATH if it has no slash.
  std::vector<std::pair<std::string, std::string>> environment;  // Added to or replacing our own.
  int stdin_fd = -1;                                             // -1: inherited.
  int stdout_fd = -1;
  int stderr_fd = -1;
  bool new_session = false;      // Own session: no terminal, survives this program.
  bool new_group = false;        // Own process group: signalled as a whole.
  bool die_with_parent = false;  // SIGKILL from the kernel when this program ends, however it ends.
};

// Starts the command. `before_exec` runs here while the child waits: what it records is on disk
// before the child does anything, and if it throws or this program dies the child never starts.
[[nodiscard]] Process spawn(const SpawnOptions& options,
                            const std::function<void(const ProcessId&)>& before_exec = {});

// SIGTERM to all, SIGKILL to those that are left after `patience`; returns when all have ended.
// True if none had to be killed.
bool stop_all(const std::vector<Process>& processes, std::chrono::milliseconds patience);

// Readable once the process has ended. Not valid, and errno says why, if there is none.
[[nodiscard]] UniqueFd open_pidfd(pid_t pid);

// The children of a process, zombies too.
[[nodiscard]] std::vector<pid_t> children_of(pid_t parent);

// Kills every child of this process and theirs, as far as it is their reaper (a subreaper is that
// of all its descendants), and reaps them; but for the children that are `spared`. Returns those
// that it had to leave: of another user by now, or not ended `patience` after they were killed.
std::vector<pid_t> kill_descendants(const std::vector<pid_t>& spared = {},
                                    std::chrono::milliseconds patience = std::chrono::seconds(5));

struct Pipe {
  UniqueFd read_end;
  UniqueFd write_end;
};
[[nodiscard]] Pipe make_pipe();  // Closed on exec.

// The folder of the running executable.
[[nodiscard]] std::string executable_folder();

}  // namespace causeway::tools
