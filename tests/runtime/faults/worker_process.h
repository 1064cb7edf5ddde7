// A worker of the fault campaign as its parent sees it: a process that is told a word and answers
// with one.
//
// Threads: one.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "tools/base/process.h"
#include "worker.h"

namespace causeway::test {

class WorkerProcess {
 public:
  explicit WorkerProcess(const WorkerOptions& options);
  ~WorkerProcess();  // Kills and reaps it.
  WorkerProcess(const WorkerProcess&) = delete;
  WorkerProcess& operator=(const WorkerProcess&) = delete;

  void say(const std::string& command) const;
  // True once the line `word` has come, with whatever stood behind it in `rest`. False if it has
  // not until `deadline`, or the process ended. Lines "wrong ..." are kept.
  bool hears(const std::string& word, std::chrono::steady_clock::time_point deadline,
             std::string* rest = nullptr);
  void signal(int number) const;
  void kill();
  [[nodiscard]] bool is_killed() const { return is_killed_; }
  // The exit status; nullopt if it does not end in time.
  [[nodiscard]] std::optional<int> wait(std::chrono::steady_clock::time_point deadline);
  [[nodiscard]] pid_t pid() const { return process_->id().pid; }

  std::vector<std::string> wrong;
  bool has_ended_work = false;

 private:
  std::optional<tools::Process> process_;  // Empty once reaped.
  tools::UniqueFd in_;
  tools::UniqueFd out_;
  std::string buffer_;
  bool is_killed_ = false;
};

}  // namespace causeway::test
