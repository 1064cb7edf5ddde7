// A program that a benchmark runs beside itself, and what it says.
//
// Errors:  timed_out past the deadline, with what was read; cancelled by an interrupt.
// Threads: one.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "tools/base/process.h"

namespace causeway::tools {

// Killed and reaped when its owner goes.
class Child {
 public:
  explicit Child(const SpawnOptions& options);
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child();
  [[nodiscard]] bool wait_ended(std::chrono::steady_clock::time_point deadline) const;

 private:
  Process process_;
};

// Reads until the other end closes; `line` is told of each whole one at once.
std::string read_lines(int fd, std::chrono::steady_clock::time_point deadline,
                       const std::function<void(const std::string& line)>& line = {});

// Runs causeway-bench, the program beside this one, and gives each line of its output.
// Errors: not_found if it is not there; io with what it says of itself if it fails; what `line`
// throws.
void run_transport_bench(const std::vector<std::string>& arguments,
                         std::chrono::steady_clock::time_point deadline,
                         const std::function<void(const std::string& line)>& line);

}  // namespace causeway::tools
