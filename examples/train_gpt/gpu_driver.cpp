#include "gpu_driver.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>

#include "causeway/error.h"
#include "gpu_image.h"
#include "gpu_kernels.h"

namespace train_gpt {

namespace {

using causeway::Errc;
using causeway::Error;

constexpr int kOutOfMemory = 2;
constexpr int kNoBinaryForGpu = 209;
constexpr int kInvalidPtx = 218;
constexpr int kUnsupportedPtxVersion = 222;
constexpr int kNotFound = 500;
constexpr int kIllegalAddress = 700;
constexpr int kLaunchFailed = 719;
constexpr unsigned kStreamNonBlocking = 1;
constexpr unsigned kHostAllocPortable = 1;

Errc code_of(int result) noexcept {
  switch (result) {
    case kOutOfMemory:
      return Errc::out_of_memory;
    case kNoBinaryForGpu:
    case kInvalidPtx:
    case kUnsupportedPtxVersion:
    case kNotFound:
      return Errc::unsupported;
    default:
      return Errc::device_failed;
  }
}

std::string advice(int result) {
  switch (result) {
    case kOutOfMemory:
      return "; give fewer --micro-batch or more stages, or free the GPU";
    case kNoBinaryForGpu:
    case kInvalidPtx:
    case kUnsupportedPtxVersion:
    case kNotFound:
      return fmt::format(
          "; the kernels want {}: update the driver, or train on the processor "
          "(causewayd --gpus emulated)",
          kernel_requirements());
    case kIllegalAddress:
    case kLaunchFailed:
      return "; every later call of this process on that GPU fails: start it again from a "
             "checkpoint";
    default:
      return "";
  }
}

}  // namespace

GpuDevice::GpuDevice(int ordinal) : name_(fmt::format("GPU {}", ordinal)) {
  open();
  auto& f = functions_;
  check(f.cuInit(0), "cuInit");
  check(f.cuDriverGetVersion(&driver_version_), "cuDriverGetVersion");
  check(f.cuDeviceGet(&device_, ordinal), "cuDeviceGet");
  std::array<char, 256> text{};
  check(f.cuDeviceGetName(text.data(), static_cast<int>(text.size() - 1), device_),
        "cuDeviceGetName");
  name_ += fmt::format(" ({})", text.data());
  check(f.cuDevicePrimaryCtxRetain(&context_, device_), "cuDevicePrimaryCtxRetain");
  try {
    check(use().cuStreamCreate(&stream_, kStreamNonBlocking), "cuStreamCreate");
  } catch (...) {
    (void)f.cuDevicePrimaryCtxRelease(device_);
    throw;
  }
}

GpuDevice::~GpuDevice() {
  const auto& f = functions_;
  (void)f.cuCtxSetCurrent(context_);
  (void)f.cuStreamSynchronize(stream_);
  (void)f.cuStreamDestroy(stream_);
  (void)f.cuCtxSetCurrent(nullptr);
  (void)f.cuDevicePrimaryCtxRelease(device_);
}

// Symbols by name: they keep their signatures in every libcuda.so.1. The library stays open, since
// the pool has it, too.
void GpuDevice::open() {
  const char* named = std::getenv("CAUSEWAY_CUDA_LIBRARY");
  const std::string file = named != nullptr && *named != '\0' ? named : "libcuda.so.1";
  void* library = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = ::dlerror();
    throw Error(Errc::unsupported,
                fmt::format("no CUDA driver: {}; install NVIDIA's, or train on the processor "
                            "(causewayd --gpus emulated)",
                            reason != nullptr ? reason : file));
  }
  const auto find = [&](const char* symbol, auto& into) {
    void* at = ::dlsym(library, symbol);
    if (at == nullptr)
      throw Error(Errc::unsupported,
                  fmt::format("{} has no function {}; update the driver", file, symbol));
    into = reinterpret_cast<std::remove_reference_t<decltype(into)>>(at);
  };
#define TRAIN_GPT_FIND(name, suffix, parameters) find(#name #suffix, functions_.name);
  TRAIN_GPT_DRIVER(TRAIN_GPT_FIND)
#undef TRAIN_GPT_FIND
  is_emulated_ = ::dlsym(library, "causeway_cuda_held") != nullptr;
}

const GpuFunctions& GpuDevice::use() const {
  check(functions_.cuCtxSetCurrent(context_), "cuCtxSetCurrent");
  return functions_;
}

void GpuDevice::check(int result, const std::string& what) const {
  if (result == 0) return;
  const char* name = nullptr;
  const char* text = nullptr;
  if (functions_.cuGetErrorName(result, &name) != 0) name = nullptr;
  if (functions_.cuGetErrorString(result, &text) != 0) text = nullptr;
  throw Error(code_of(result),
              fmt::format("{}: {} failed: {} ({}){}", name_, what,
                          name != nullptr ? std::string(name) : fmt::format("error {}", result),
                          text != nullptr ? text : "unknown to this driver", advice(result)));
}

void GpuDevice::copy_in(DevicePtr to, const void* from, std::size_t size_bytes) const {
  if (size_bytes == 0) return;
  check(use().cuMemcpyHtoDAsync(to, from, size_bytes, stream_), "cuMemcpyHtoDAsync");
}

void GpuDevice::copy_out(void* to, DevicePtr from, std::size_t size_bytes) const {
  if (size_bytes == 0) return;
  check(use().cuMemcpyDtoHAsync(to, from, size_bytes, stream_), "cuMemcpyDtoHAsync");
}

void GpuDevice::clear(DevicePtr at, std::size_t size_bytes) const {
  if (size_bytes == 0) return;
  check(use().cuMemsetD8Async(at, 0, size_bytes, stream_), "cuMemsetD8Async");
}

void GpuDevice::synchronize() const {
  const auto& f = use();
  const auto result = f.cuStreamSynchronize(stream_);
  if (result == 0) return;
  (void)f.cuStreamSynchronize(stream_);  // What is queued may still use memory that goes next.
  check(result, "cuStreamSynchronize");
}

GpuMemory::GpuMemory(const GpuDevice& device, std::size_t size_bytes)
    : device_(device), size_bytes_(size_bytes) {
  device.check(device.use().cuMemAlloc(&at_, std::max<std::size_t>(size_bytes, 1)),
               fmt::format("cuMemAlloc of {} bytes", size_bytes));
}

GpuMemory::~GpuMemory() {
  try {
    const auto& f = device_.use();
    (void)f.cuStreamSynchronize(device_.stream());
    (void)f.cuMemFree(at_);
  } catch (const Error&) {  // The driver takes it back when the process ends.
  }
}

PinnedMemory::PinnedMemory(const GpuDevice& device, std::size_t size_bytes)
    : device_(device), size_bytes_(size_bytes) {
  device.check(
      device.use().cuMemHostAlloc(&at_, std::max<std::size_t>(size_bytes, 1), kHostAllocPortable),
      fmt::format("cuMemHostAlloc of {} bytes", size_bytes));
}

PinnedMemory::~PinnedMemory() {
  try {
    (void)device_.use().cuMemFreeHost(at_);
  } catch (const Error&) {
  }
}

GpuKernels::GpuKernels(const GpuDevice& device) : device_(device) {
  const auto& f = device.use();
  device.check(f.cuModuleLoadData(&module_, device.is_emulated() ? host_image() : ptx()),
               "cuModuleLoadData of the kernels");
  try {
#define TRAIN_GPT_ENTRY(kernel) \
  entries_.push_back({reinterpret_cast<void (*)()>(&gpu::kernel), #kernel, nullptr});
    TRAIN_GPT_KERNELS(TRAIN_GPT_ENTRY)
#undef TRAIN_GPT_ENTRY
    for (auto& entry : entries_)
      device.check(f.cuModuleGetFunction(&entry.function, module_, entry.name),
                   fmt::format("cuModuleGetFunction of {}", entry.name));
  } catch (...) {
    (void)f.cuModuleUnload(module_);
    throw;
  }
}

GpuKernels::~GpuKernels() {
  try {
    const auto& f = device_.use();
    (void)f.cuStreamSynchronize(device_.stream());
    (void)f.cuModuleUnload(module_);
  } catch (const Error&) {
  }
}

void GpuKernels::run(void (*kernel)(), std::size_t blocks, std::size_t batches,
                     void** parameters) const {
  if (blocks == 0 || batches == 0) return;
  constexpr std::size_t kMostBlocks = 0x7fffffff, kMostBatches = 65535;
  const auto& entry = *std::ranges::find(entries_, kernel, &Entry::kernel);
  if (blocks > kMostBlocks)
    throw Error(Errc::invalid_argument,
                fmt::format("{}: {} wants {} blocks, a grid has {}; give a smaller --micro-batch",
                            device_.name(), entry.name, blocks, kMostBlocks));
  device_.check(
      device_.use().cuLaunchKernel(entry.function, static_cast<unsigned>(blocks),
                                   static_cast<unsigned>(std::min(batches, kMostBatches)), 1,
                                   gpu::kThreads, 1, 1, 0, device_.stream(), parameters, nullptr),
      fmt::format("cuLaunchKernel of {}", entry.name));
}

}  // namespace train_gpt
