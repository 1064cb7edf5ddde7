// The daemons of the fault campaign, which die and come back, and what they hold open.
//
// Shape:   nodes a, b and c, one gpu of 64 MiB each; a serves the directory. The logs of a and b
//          lie on a small file system that can be filled, and c writes its own into a pipe that can
//          be left unread.
// Errors:  std::runtime_error if a daemon does not come up, with its last words.
// Threads: one.
#pragma once

#include <atomic>
#include <map>
#include <optional>
#include <string>
#include <thread>

#include "allocator/unique_fd.h"
#include "network.h"
#include "tools/base/process.h"

namespace causeway::test {

inline constexpr const char* kNodes = "abc";

class Daemons {
 public:
  explicit Daemons(Network& network);
  ~Daemons();

  void start(char node);
  void kill(char node);  // SIGKILL, and reaped.
  // SIGTERM. Errors: what went wrong, such as leaks that a sanitizer reports; empty if nothing.
  [[nodiscard]] std::string stop(char node);
  [[nodiscard]] bool is_running(char node);
  // What became of a daemon that ended by itself, once; empty if none did.
  [[nodiscard]] std::string take_own_end(char node);
  void signal(char node, int number) const;

  [[nodiscard]] std::string socket(char node) const;
  [[nodiscard]] std::string control(char node) const;  // HOST:PORT
  [[nodiscard]] std::string data(char node) const;     // With commas between.
  [[nodiscard]] static std::string token();
  [[nodiscard]] std::string log_tail(char node) const;

  // Of the process: open descriptors, and memory that is its own.
  [[nodiscard]] pid_t pid(char node) const;  // -1 if it does not run.
  [[nodiscard]] int descriptors(char node) const;
  [[nodiscard]] std::int64_t memory_kib(char node) const;

  [[nodiscard]] bool can_fill_disk() const { return has_disk_; }
  void fill_disk();
  void empty_disk();
  void read_log_pipe(bool is_read);  // If not, it is filled to the brim, too.

 private:
  [[nodiscard]] std::string state_value(char node, const std::string& field) const;
  [[nodiscard]] std::string path(char node, const char* suffix) const;
  void drain(const std::stop_token& stop);

  Network& network_;
  std::string folder_;
  bool has_disk_ = false;
  std::map<char, tools::Process> processes_;
  std::map<char, int> own_ends_;           // Their status, of those that nobody killed or stopped.
  std::map<char, std::string> addresses_;  // Where a node that comes back is again.
  tools::Pipe log_pipe_;
  std::atomic<bool> is_read_ = true;
  std::jthread reader_;
};

[[nodiscard]] int descriptors_of(pid_t process);
[[nodiscard]] std::int64_t memory_kib_of(pid_t process);

}  // namespace causeway::test
