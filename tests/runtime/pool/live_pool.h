// A pool of real daemons for tests: starts causewayd processes, waits until they serve, ends them.
//
// Shape:   LivePool owns a private folder, one process per node of the cluster text, and their
//          sockets. Process is any child; its destructor kills and reaps it, and if the test
//          itself dies first, the kernel kills it.
// Errors:  throws std::runtime_error if a daemon is not ready within 20 s, with its last words.
// Threads: one, which lives as long as the processes that it starts.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "causeway/pool.h"
#include "tools/base/process.h"

namespace causeway::test {

class Process {
 public:
  Process() = default;
  // `output` names a file for both streams; empty: inherited.
  explicit Process(std::vector<std::string> arguments,
                   const std::map<std::string, std::string>& environment = {},
                   const std::string& output = "");
  Process(Process&& other) noexcept;
  Process& operator=(Process&& other) noexcept;
  ~Process();

  [[nodiscard]] const tools::ProcessId& id() const { return process_->id(); }
  [[nodiscard]] bool is_running();
  void signal(int number) const;
  // The exit code, or minus the signal. Errors: runtime_error if it does not end in time.
  int wait(std::chrono::milliseconds limit);

 private:
  std::optional<tools::Process> process_;  // Empty once reaped.
  int status_ = 0;
};

class LivePool {
 public:
  // `options`: more of causewayd's. `environment`: the daemons'.
  explicit LivePool(const std::string& cluster_yaml, const std::vector<std::string>& nodes,
                    std::vector<std::string> options = {"--gpus", "emulated"},
                    std::map<std::string, std::string> environment = {});
  ~LivePool();

  // Again, after kill(); `listen` for a control address of its own choice.
  void start(const std::string& node, const std::string& listen = "127.0.0.1:0");
  void kill(const std::string& node);
  [[nodiscard]] Process& daemon(const std::string& node) { return daemons_[node]; }
  [[nodiscard]] std::string socket(const std::string& node) const;
  [[nodiscard]] std::string control(const std::string& node) const;  // HOST:PORT
  [[nodiscard]] std::string data(const std::string& node) const;
  [[nodiscard]] std::string token() const { return token_; }
  [[nodiscard]] Pool connect(const std::string& node) const;
  [[nodiscard]] std::uint64_t used_bytes() const;  // Of all nodes that answer.
  [[nodiscard]] const std::string& folder() const { return folder_; }

 private:
  [[nodiscard]] std::string state_value(const std::string& node, const std::string& field) const;

  std::string folder_;
  std::string token_;
  std::vector<std::string> nodes_;
  std::vector<std::string> options_;
  std::map<std::string, std::string> environment_;
  std::map<std::string, Process> daemons_;
};

// Asks again until `condition` holds; false if it did not within `limit`.
[[nodiscard]] bool eventually(const std::function<bool()>& condition,
                              std::chrono::milliseconds limit = std::chrono::seconds(5));

}  // namespace causeway::test
