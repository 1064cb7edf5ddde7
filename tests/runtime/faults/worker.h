// The processes of the fault campaign that hold regions and work on them, there to be killed and
// stopped.
//
// Shape:   run_worker() is such a process. It connects, says "ready", waits for "go", lets two
//          threads copy, read, write, free and allocate for a while, and says "ended"; at
//          "verify NODES" it reads back all that it holds, and at "quit" it gives it back and says
//          what it has counted. What may not be is said as "wrong ...", at once.
// Errors:  a call may fail only if a node in `may_fail` has to do with it.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace causeway::test {

struct WorkerOptions {
  std::string target;  // "unix:PATH" or a control address.
  std::string token;
  std::uint64_t seed = 0;
  std::chrono::milliseconds timeout{};
  std::chrono::milliseconds work_time{};
  std::string may_fail;  // The nodes' letters; '*' among them: all, since this process is hit.

  [[nodiscard]] std::vector<std::string> to_arguments() const;
  [[nodiscard]] static WorkerOptions from_arguments(const std::vector<std::string>& arguments);
};

// How much later than its deadline a call may end: half a second for a buffer that UCX holds
// (transport/README.md), and the rest for a machine that does other things, too.
[[nodiscard]] std::chrono::milliseconds slack();

int run_worker(const WorkerOptions& options);

}  // namespace causeway::test
