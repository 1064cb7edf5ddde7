// Declares every exported function under its symbol.
#pragma once

#include "tests/cuda_emulator/api.h"

extern "C" {
#define CAUSEWAY_CUDA_DECLARE(name, suffix, version, parameters) \
  causeway::cuda::Result CAUSEWAY_CUDA_SYMBOL(name, suffix) parameters;
#define CAUSEWAY_CUDA_SYMBOL(name, suffix) name##suffix
namespace causeway::cuda {
CAUSEWAY_CUDA_FUNCTIONS(CAUSEWAY_CUDA_DECLARE)
CAUSEWAY_EMULATOR_FUNCTIONS(CAUSEWAY_CUDA_DECLARE)
CAUSEWAY_EMULATOR_VERSIONED_FUNCTIONS(CAUSEWAY_CUDA_DECLARE)
Result cuGetProcAddress(const char* name, void** into, int version, std::uint64_t flags);
Result cuGetProcAddress_v2(const char* name, void** into, int version, std::uint64_t flags,
                           int* status);
}  // namespace causeway::cuda
}
