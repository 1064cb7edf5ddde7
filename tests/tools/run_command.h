// Runs a program for a test: its output, its exit code, and a bound on its time.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tools/base/process.h"

namespace causeway::test {

struct CommandResult {
  int exit_code = -1;  // 128 + N if signal N ended it.
  std::string out;
  std::string err;
};

// A program that runs while the test does other things; killed when this goes.
class RunningCommand {
 public:
  explicit RunningCommand(std::vector<std::string> command,
                          std::vector<std::pair<std::string, std::string>> environment = {});
  RunningCommand(const RunningCommand&) = delete;
  RunningCommand& operator=(const RunningCommand&) = delete;
  ~RunningCommand();
  [[nodiscard]] const tools::Process& process() const { return *process_; }
  // Reads standard output or error until `text` appears in it. False if it ended or `limit` passed.
  bool wait_output(const std::string& text, std::chrono::seconds limit);
  // Waits for its end; kills it at the limit (exit code 137 then).
  CommandResult finish(std::chrono::seconds limit);

 private:
  void pump(std::chrono::milliseconds wait);
  tools::UniqueFd out_;
  tools::UniqueFd err_;
  std::optional<tools::Process> process_;
  bool reaped_ = false;
  CommandResult result_;
};

[[nodiscard]] CommandResult run_command(
    std::vector<std::string> command,
    std::vector<std::pair<std::string, std::string>> environment = {},
    std::chrono::seconds limit = std::chrono::seconds(60));

// A folder of its own under /tmp, removed at the end; short, since sockets lie in it.
class TemporaryFolder {
 public:
  TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder();
  [[nodiscard]] const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

// Running processes whose command line holds `text`, but not this one.
[[nodiscard]] std::vector<int> processes_with(const std::string& text);
// Waits until there are none. False at the limit.
[[nodiscard]] bool wait_no_process_with(const std::string& text, std::chrono::seconds limit);

}  // namespace causeway::test
