// What the CUDA driver of this machine can do with memory, as tried: for people.
//
// Shape:   a line for the driver, or why there is none to use, and one for each GPU by PCI address.
// Errors:  none; a driver that hangs or crashes ends a child process, and a line says so.
// Cost:    the driver's start and a context on each GPU, 0.3 s each; at most `timeout`.
// Threads: any; not in a process that has started a CUDA driver.
#pragma once

#include <chrono>
#include <string>
#include <vector>

namespace causeway {

[[nodiscard]] std::vector<std::string> cuda_report(
    std::chrono::milliseconds timeout = std::chrono::seconds(10));

}  // namespace causeway
