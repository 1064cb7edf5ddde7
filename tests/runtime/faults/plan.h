// What happens in one run of the fault campaign, drawn from its seed.
//
// Shape:   two workers at most, and one or two faults at moments after these have begun. A fault
//          that lasts ends when the work has.
// Threads: plain values.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace causeway::test {

enum class FaultKind : std::uint8_t {
  kill_daemon,
  kill_worker,
  pause_daemon,  // SIGSTOP, and SIGCONT in time.
  stop_daemon,   // SIGSTOP that lasts.
  pause_worker,
  stop_worker,
  blink,      // A link that is cut for a moment.
  cut,        // A link that is cut for longer than a peer is waited for.
  lose_card,  // The second of a node's two, which carries data only: nobody may feel it.
  disk_full,
  log_unread,
  garbage_data,
  garbage_control,
  garbage_admitted,
};
inline constexpr int kFaultKinds = 14;

[[nodiscard]] const char* to_string(FaultKind kind);

struct Fault {
  FaultKind kind{};
  char node = 'a';
  int worker = 0;
  bool is_silent = false;  // Of a cut.
  std::chrono::milliseconds at{};
  std::optional<std::chrono::milliseconds> lasts{};  // Empty: until the work has ended.

  [[nodiscard]] bool hits_worker() const;
  // Whether calls that have to do with the node, or of the worker, may fail.
  [[nodiscard]] bool is_felt() const;
  // Whether what the node holds may be lost.
  [[nodiscard]] bool loses_node() const;
  [[nodiscard]] std::string to_string() const;
};

struct Plan {
  struct Worker {
    char home = 'a';
    bool is_local = false;  // By its unix socket, and mapped then.
  };
  std::uint64_t seed = 0;
  std::chrono::milliseconds work_time{};
  std::vector<Worker> workers;
  std::vector<Fault> faults;

  // `can_cut`: links and disks can be had. A plan without faults warms up.
  [[nodiscard]] static Plan draw(std::uint64_t seed, bool can_cut);
  [[nodiscard]] static Plan without_faults(std::uint64_t seed);
  [[nodiscard]] std::string may_fail(int worker) const;
  [[nodiscard]] std::string may_be_gone() const;
  [[nodiscard]] std::string to_string() const;
};

}  // namespace causeway::test
