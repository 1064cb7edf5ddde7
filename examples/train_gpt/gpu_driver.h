// The part of the CUDA driver that the GPU's Compute calls, opened when it is needed: the program
// runs with and without a GPU, and needs no CUDA Toolkit to be built.
//
// Shape:   a GpuDevice is one GPU's primary context with one stream; GpuMemory and PinnedMemory are
//          owners of bytes on it and of host memory that it copies fast.
// Errors:  throw causeway::Error that names the GPU, the call and the driver's word for what went
//          wrong: out_of_memory, unsupported (no driver, or too old for what is asked), else
//          device_failed. A kernel that fails is reported by a later call, most often the next one
//          that waits.
// Threads: one at a time; the GPU's context becomes the thread's.
// Source:  the CUDA driver API reference. Where cuda.h is found, gpt_gpu_abi_test compares.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

namespace train_gpt {

using DevicePtr = std::uint64_t;
using GpuStream = struct GpuStreamTag*;
using GpuContext = struct GpuContextTag*;
using GpuModule = struct GpuModuleTag*;
using GpuFunction = struct GpuFunctionTag*;

// X(name, suffix of the symbol, parameters)
#define TRAIN_GPT_DRIVER(X)                                                                       \
  X(cuInit, , (unsigned flags))                                                                   \
  X(cuDriverGetVersion, , (int* version))                                                         \
  X(cuGetErrorName, , (int result, const char** name))                                            \
  X(cuGetErrorString, , (int result, const char** text))                                          \
  X(cuDeviceGet, , (int* device, int ordinal))                                                    \
  X(cuDeviceGetName, , (char* name, int size, int device))                                        \
  X(cuDevicePrimaryCtxRetain, , (GpuContext * context, int device))                               \
  X(cuDevicePrimaryCtxRelease, _v2, (int device))                                                 \
  X(cuCtxSetCurrent, , (GpuContext context))                                                      \
  X(cuMemAlloc, _v2, (DevicePtr * at, std::size_t size_bytes))                                    \
  X(cuMemFree, _v2, (DevicePtr at))                                                               \
  X(cuMemHostAlloc, , (void** at, std::size_t size_bytes, unsigned flags))                        \
  X(cuMemFreeHost, , (void* at))                                                                  \
  X(cuMemcpyHtoDAsync, _v2,                                                                       \
    (DevicePtr to, const void* from, std::size_t size_bytes, GpuStream stream))                   \
  X(cuMemcpyDtoHAsync, _v2, (void* to, DevicePtr from, std::size_t size_bytes, GpuStream stream)) \
  X(cuMemsetD8Async, , (DevicePtr to, unsigned char value, std::size_t count, GpuStream stream))  \
  X(cuStreamCreate, , (GpuStream * stream, unsigned flags))                                       \
  X(cuStreamDestroy, _v2, (GpuStream stream))                                                     \
  X(cuStreamSynchronize, , (GpuStream stream))                                                    \
  X(cuModuleLoadData, , (GpuModule * module, const void* image))                                  \
  X(cuModuleUnload, , (GpuModule module))                                                         \
  X(cuModuleGetFunction, , (GpuFunction * function, GpuModule module, const char* name))          \
  X(cuLaunchKernel, ,                                                                             \
    (GpuFunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,   \
     unsigned block_y, unsigned block_z, unsigned shared_bytes, GpuStream stream,                 \
     void** parameters, void** extra))

struct GpuFunctions {
#define TRAIN_GPT_MEMBER(name, suffix, parameters) int(*name) parameters = nullptr;
  TRAIN_GPT_DRIVER(TRAIN_GPT_MEMBER)
#undef TRAIN_GPT_MEMBER
};

class GpuDevice {
 public:
  // The driver that CAUSEWAY_CUDA_LIBRARY names, or libcuda.so.1: the one that the pool uses.
  explicit GpuDevice(int ordinal);
  GpuDevice(const GpuDevice&) = delete;
  GpuDevice& operator=(const GpuDevice&) = delete;
  ~GpuDevice();  // Waits for what runs.

  [[nodiscard]] const std::string& name() const noexcept { return name_; }  // "GPU 0 (...)"
  // True for a driver that runs host functions: it takes another image of kernels than a GPU's.
  [[nodiscard]] bool is_emulated() const noexcept { return is_emulated_; }
  [[nodiscard]] int driver_version() const noexcept { return driver_version_; }  // 12040 is 12.4.
  [[nodiscard]] GpuStream stream() const noexcept { return stream_; }

  // The functions, with the context made the thread's. `what` is what failed, "cuMemAlloc".
  [[nodiscard]] const GpuFunctions& use() const;
  void check(int result, const std::string& what) const;

  void copy_in(DevicePtr to, const void* from, std::size_t size_bytes) const;
  void copy_out(void* to, DevicePtr from, std::size_t size_bytes) const;
  void clear(DevicePtr at, std::size_t size_bytes) const;
  void synchronize() const;

 private:
  void open();
  GpuFunctions functions_;
  std::string name_;
  int driver_version_ = 0;
  bool is_emulated_ = false;
  int device_ = -1;
  GpuContext context_ = nullptr;
  GpuStream stream_ = nullptr;
};

class GpuMemory {
 public:
  GpuMemory(const GpuDevice& device, std::size_t size_bytes);
  GpuMemory(const GpuMemory&) = delete;
  GpuMemory& operator=(const GpuMemory&) = delete;
  ~GpuMemory();  // Waits for what runs.
  [[nodiscard]] DevicePtr at() const noexcept { return at_; }
  [[nodiscard]] std::size_t size_bytes() const noexcept { return size_bytes_; }

 private:
  const GpuDevice& device_;
  std::size_t size_bytes_;
  DevicePtr at_ = 0;
};

class PinnedMemory {
 public:
  PinnedMemory(const GpuDevice& device, std::size_t size_bytes);
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;
  ~PinnedMemory();
  [[nodiscard]] void* at() const noexcept { return at_; }
  [[nodiscard]] std::size_t size_bytes() const noexcept { return size_bytes_; }

 private:
  const GpuDevice& device_;
  std::size_t size_bytes_;
  void* at_ = nullptr;
};

// The kernels of gpu_kernels.h on one GPU.
class GpuKernels {
 public:
  explicit GpuKernels(const GpuDevice& device);
  GpuKernels(const GpuKernels&) = delete;
  GpuKernels& operator=(const GpuKernels&) = delete;
  ~GpuKernels();

  // launch<&gpu::gelu>(blocks, batches, arguments...): with the parameters' types.
  template <auto Kernel, typename... Arguments>
  void launch(std::size_t blocks, std::size_t batches, Arguments... arguments) const {
    start(reinterpret_cast<void (*)()>(Kernel), blocks, batches, Kernel, arguments...);
  }

 private:
  template <typename... Parameters>
  void start(void (*kernel)(), std::size_t blocks, std::size_t batches, void (*)(Parameters...),
             std::type_identity_t<Parameters>... parameters) const {
    void* pointers[] = {&parameters...};
    run(kernel, blocks, batches, pointers);
  }
  void run(void (*kernel)(), std::size_t blocks, std::size_t batches, void** parameters) const;
  const GpuDevice& device_;
  GpuModule module_ = nullptr;
  struct Entry {
    void (*kernel)();
    const char* name;
    GpuFunction function;
  };
  std::vector<Entry> entries_;
};

}  // namespace train_gpt
