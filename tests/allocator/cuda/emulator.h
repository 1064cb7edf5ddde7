// The software driver as a test opens it, whatever driver the machine has, and its own calls.
//
// Shape:   needs CAUSEWAY_CUDA_EMULATOR_FILE of the build.
// Threads: any.
#pragma once

#include <dlfcn.h>

#include <stdexcept>
#include <string>

#include "allocator/cuda/driver.h"
#include "tests/cuda_emulator/control.h"

namespace causeway::test {

// A function of the software driver by its symbol.
template <typename Function>
Function* emulator_function(const char* symbol) {
  static void* const library = ::dlopen(CAUSEWAY_CUDA_EMULATOR_FILE, RTLD_NOW | RTLD_LOCAL);
  void* const at = library != nullptr ? ::dlsym(library, symbol) : nullptr;
  if (at == nullptr) throw std::runtime_error(std::string("the software driver has no ") + symbol);
  return reinterpret_cast<Function*>(at);
}

#define CAUSEWAY_EMULATOR(call) causeway::test::emulator_function<decltype(call)>(#call)

inline std::shared_ptr<CudaDriver> open_emulator() {
  return CudaDriver::open(CAUSEWAY_CUDA_EMULATOR_FILE);
}

}  // namespace causeway::test
