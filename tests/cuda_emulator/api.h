// What the software driver exports: the functions of allocator/cuda/abi.h, and these.
//
// Source:  the CUDA driver API reference; compared with cuda.h by cuda_abi_test.cpp.
// Threads: declarations.
#pragma once

#include "allocator/cuda/abi.h"

namespace causeway::cuda {

using Module = struct ModuleTag*;
using Function = struct FunctionTag*;
using HostFunction = void (*)(void* data);

}  // namespace causeway::cuda

// X as in CAUSEWAY_CUDA_FUNCTIONS.
#define CAUSEWAY_EMULATOR_FUNCTIONS(X)                                                            \
  X(cuGetExportTable, , 3000, (const void** table, const Uuid* id))                               \
  X(cuDeviceGetP2PAttribute, , 8000, (int* value, int attribute, Device from, Device to))         \
  X(cuDevicePrimaryCtxGetState, , 7000, (Device device, unsigned* flags, int* active))            \
  X(cuDevicePrimaryCtxReset, _v2, 11000, (Device device))                                         \
  X(cuCtxGetCurrent, , 4000, (Context * context))                                                 \
  X(cuCtxEnablePeerAccess, , 4000, (Context peer, unsigned flags))                                \
  X(cuMemcpy, , 4000, (DevicePtr to, DevicePtr from, std::size_t size))                           \
  X(cuMemcpyDtoD, _v2, 3020, (DevicePtr to, DevicePtr from, std::size_t size))                    \
  X(cuMemsetD8, _v2, 3020, (DevicePtr to, unsigned char value, std::size_t count))                \
  X(cuLaunchHostFunc, , 10000, (Stream stream, HostFunction function, void* data))                \
  X(cuModuleLoadData, , 2000, (Module * module, const void* image))                               \
  X(cuModuleUnload, , 2000, (Module module))                                                      \
  X(cuModuleGetFunction, , 2000, (Function * function, Module module, const char* name))          \
  X(cuFuncGetParamInfo, , 12040,                                                                  \
    (Function function, std::size_t index, std::size_t * offset, std::size_t * size))             \
  X(cuLaunchKernel, , 4000,                                                                       \
    (Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,      \
     unsigned block_y, unsigned block_z, unsigned shared_bytes, Stream stream, void** parameters, \
     void** extra))
