// Runs one part in a process of its own, with a limit on its time and on what it may say.
//
// Shape:   the last line of its output that is JSON is its result; exit code 77: absent.
// Errors:  none: how it went is in the result. A process that not even SIGKILL ends (it waits for
//          a driver that hangs) is given up after some seconds more.
// Threads: one; the process is the reaper of all that its parts leave behind.
#pragma once

#include <boost/json.hpp>
#include <chrono>
#include <string>
#include <vector>

namespace causeway::gpu {

struct Part {
  std::string name;
  std::vector<std::string> command;
  std::chrono::seconds limit;
  bool by_case = false;  // A doctest program; each of its cases is to have a process of its own.
};

// {"result": "passed" | "failed" | "timed_out" | "absent" | "not_started", "seconds", "limit_s",
//  "data", "error", "stderr"}
[[nodiscard]] boost::json::object run_part(const Part& part);
// The same for a part by cases, of which none sees what another did to its process or to its
// context of the driver. A case has a third of the part's time at most, or 5 s. "data" is
// {"passed", "failed", "cases": [a result with "name" each]}.
[[nodiscard]] boost::json::object run_cases(const Part& part);
[[nodiscard]] boost::json::object not_started(const Part& part);

}  // namespace causeway::gpu
