// The driver under test and the first GPU of it, as the cases see them.
//
// Shape:   every function of the driver that the suite knows, looked up through cuGetProcAddress in
//          CAUSEWAY_CUDA_LIBRARY or libcuda.so.1; one that the driver lacks is null, and a case
//          that needs it says that it skipped. Nothing of ours lies between the cases and the
//          driver.
// Errors:  the constructor ends the process with code 2 where no driver or no GPU can be had.
// Threads: any; gpu() makes the primary context of GPU 0 the calling thread's.
#pragma once

#include <doctest/doctest.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "tests/cuda_emulator/api.h"

namespace causeway::conformance {

using namespace cuda;

struct Api {
#define CAUSEWAY_CUDA_MEMBER(name, suffix, version, parameters) Result(*name) parameters = nullptr;
  CAUSEWAY_CUDA_FUNCTIONS(CAUSEWAY_CUDA_MEMBER)
  CAUSEWAY_EMULATOR_FUNCTIONS(CAUSEWAY_CUDA_MEMBER)
#undef CAUSEWAY_CUDA_MEMBER
  Result (*cuCtxCreate)(Context* context, unsigned flags, Device device) = nullptr;
  GetProcAddressV2 cuGetProcAddress = nullptr;
};

[[nodiscard]] const Api& api();
[[nodiscard]] bool is_software_driver();
[[nodiscard]] int driver_version();

// "CUDA_ERROR_INVALID_VALUE"; a number if the driver has no name for it.
[[nodiscard]] std::string name_of(Result result);

// Ends the case unless a call succeeded.
void need(Result result, const char* call);
#define NEED(call) causeway::conformance::need((call), #call)
// What a call answers, by name.
#define ANSWERS(call, expected) \
  CHECK(causeway::conformance::name_of(call) == causeway::conformance::name_of(expected))
// Ends the case, said aloud, where the driver or the card lacks something.
#define SKIP_WITHOUT(condition)                \
  if (!(condition)) {                          \
    MESSAGE("skipped: it has no " #condition); \
    return;                                    \
  }

[[nodiscard]] int attribute(int number, Device device = 0);

// The primary context of a GPU, current for the life of this object; synchronised at its end.
class Gpu {
 public:
  explicit Gpu(Device device = 0);
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;
  ~Gpu();
  [[nodiscard]] Device device() const { return device_; }
  [[nodiscard]] Context context() const { return context_; }

 private:
  Device device_;
  Context context_ = nullptr;
};

// Plain memory of the device.
class DeviceBytes {
 public:
  explicit DeviceBytes(std::size_t size) : size_(size) { NEED(api().cuMemAlloc(&at_, size)); }
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;
  ~DeviceBytes() { (void)api().cuMemFree(at_); }
  [[nodiscard]] DevicePtr at() const { return at_; }
  [[nodiscard]] std::vector<std::uint8_t> read() const;
  [[nodiscard]] std::vector<std::uint32_t> words() const;

 private:
  std::size_t size_;
  DevicePtr at_ = 0;
};

// Pinned memory of the host, zeroed.
class HostBytes {
 public:
  explicit HostBytes(std::size_t size);
  HostBytes(const HostBytes&) = delete;
  HostBytes& operator=(const HostBytes&) = delete;
  ~HostBytes() { (void)api().cuMemFreeHost(at_); }
  [[nodiscard]] std::uint8_t* bytes() const { return static_cast<std::uint8_t*>(at_); }
  // Words that a kernel may look at, or change, at the same time.
  [[nodiscard]] std::uint32_t word(std::size_t i) const { return ref(i).load(); }
  void set(std::size_t i, std::uint32_t value) const { ref(i).store(value); }
  [[nodiscard]] DevicePtr at() const { return reinterpret_cast<DevicePtr>(at_); }

 private:
  [[nodiscard]] std::atomic_ref<std::uint32_t> ref(std::size_t i) const {
    return std::atomic_ref(static_cast<std::uint32_t*>(at_)[i]);
  }
  void* at_ = nullptr;
};

class OwnedStream {
 public:
  explicit OwnedStream(unsigned flags = kStreamNonBlocking) {
    NEED(api().cuStreamCreate(&stream_, flags));
  }
  OwnedStream(const OwnedStream&) = delete;
  OwnedStream& operator=(const OwnedStream&) = delete;
  ~OwnedStream() { (void)api().cuStreamDestroy(stream_); }
  operator Stream() const { return stream_; }  // NOLINT: it is one, for every call.

 private:
  Stream stream_ = nullptr;
};

class OwnedEvent {
 public:
  explicit OwnedEvent(unsigned flags = 0) { NEED(api().cuEventCreate(&event_, flags)); }
  OwnedEvent(const OwnedEvent&) = delete;
  OwnedEvent& operator=(const OwnedEvent&) = delete;
  ~OwnedEvent() { (void)api().cuEventDestroy(event_); }
  operator Event() const { return event_; }  // NOLINT

 private:
  Event event_ = nullptr;
};

// The suite's kernels (kernels.h), loaded.
class Code {
 public:
  Code();
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
  ~Code() { (void)api().cuModuleUnload(module_); }
  [[nodiscard]] Function operator[](const char* name) const { return functions_.at(name); }
  [[nodiscard]] Module module() const { return module_; }

  [[nodiscard]] Result fill(Stream stream, DevicePtr out, std::uint32_t first, std::uint32_t count);
  [[nodiscard]] Result touch(Stream stream, DevicePtr at);
  [[nodiscard]] Result wait_flag(Stream stream, DevicePtr flag, DevicePtr out);

 private:
  Module module_ = nullptr;
  std::map<std::string, Function> functions_;  // Looked up at once: a late look-up may wait.
};

// A stream that stands still until released: work queued behind it has certainly not run.
class Gate {
 public:
  explicit Gate(Code& code, Stream stream);
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;
  ~Gate() {
    open();
    (void)api().cuStreamSynchronize(stream_);
  }
  void open() { flag_.set(0, 1); }

 private:
  Stream stream_;
  HostBytes flag_{8};
};

// One allocation of the driver's virtual memory management, mapped and granted to GPU 0.
class Mapped {
 public:
  enum class Grant { none, read_write };
  explicit Mapped(std::size_t granules = 1, Grant grant = Grant::read_write, int handle_types = 0);
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;
  ~Mapped();
  void unmap();
  [[nodiscard]] DevicePtr at() const { return at_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] Handle handle() const { return handle_; }

 private:
  std::size_t size_ = 0;
  DevicePtr at_ = 0;
  Handle handle_ = 0;
  bool is_mapped_ = false;
};

// In a thread of its own, which begins without a context.
template <typename Body>
void elsewhere(Body body) {
  std::exception_ptr thrown;
  std::thread([&] {
    try {
      body();
    } catch (...) {
      thrown = std::current_exception();
    }
  }).join();
  if (thrown) std::rethrow_exception(thrown);
}

[[nodiscard]] AllocationProp device_memory(int handle_types = 0, Device device = 0);
[[nodiscard]] std::size_t granule();
[[nodiscard]] bool has_vmm();
[[nodiscard]] Result grant(DevicePtr at, std::size_t size, int flags = kAccessReadWrite,
                           Device device = 0);

}  // namespace causeway::conformance
