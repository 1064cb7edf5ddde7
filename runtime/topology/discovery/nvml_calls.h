// What the child process does: loads the library and fills the report.
//
// Threads: one, of a process that has no other.
#pragma once

#include <string>

#include "runtime/topology/discovery/nvml.h"

namespace causeway {

void fill_report(const std::string& library, NvmlReport& report);

struct NvmlFunction {
  const char* name;
  const char* fact;  // What is unknown without it; nullptr if another function gives it.
};
[[nodiscard]] const NvmlFunction& nvml_function(std::size_t index) noexcept;
[[nodiscard]] std::size_t nvml_function_count() noexcept;

}  // namespace causeway
