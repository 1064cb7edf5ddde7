// The test's own executable as another program: the driver serves no process that was only forked.
//
// Shape:   `test --program NAME`; main() of program_main.h hands NAME to run_program(). kFd is the
//          descriptor that the program was given, if any.
// Errors:  a program that is still there at Child's deadline is killed.
// Threads: start_program() from a process that may have threads: the child only executes.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <string>

#include "tests/conformance/child_process.h"

namespace causeway::test {

inline constexpr int kFd = 100;
inline constexpr int kCaught = 3;     // The driver refused, or said so later, with the right error.
inline constexpr int kNotCaught = 4;  // The mistake went through.
inline constexpr int kWrongError = 5;

inline Child start_program(const std::string& name, const std::string& driver_config = {},
                           int fd = -1) {
  return Child::start([&] {
    if (fd >= 0) ::dup2(fd, kFd);
    ::setenv("CAUSEWAY_CUDA_EMULATOR", driver_config.c_str(), 1);
    ::execl("/proc/self/exe", "program", "--program", name.c_str(), nullptr);
    return kChildThrew;
  });
}

inline int run_to_end(const std::string& name, const std::string& driver_config = {}, int fd = -1) {
  return start_program(name, driver_config, fd).wait();
}

}  // namespace causeway::test
