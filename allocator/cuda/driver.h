// libcuda.so.1, opened when it is needed and never linked: one binary runs with and without a GPU.
//
// Shape:   functions() are valid for the rest of the process. Each was looked up through
//          cuGetProcAddress at the version whose signature abi.h declares.
// Errors:  open() throws unsupported: no driver, one older than 11.4, one without a function, or
//          one that does not start. The message gives the driver's reason and says what to do.
//          error() keeps the driver's name for what went wrong.
// Threads: any, once opened. Not after fork(): the driver answers a child with "not initialised".
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "allocator/cuda/abi.h"
#include "allocator/error.h"

namespace causeway {

class CudaDriver {
 public:
  // `path`: a library's name or file; empty: what CAUSEWAY_CUDA_LIBRARY says, or libcuda.so.1.
  [[nodiscard]] static std::shared_ptr<CudaDriver> open(const std::string& path = {});

  [[nodiscard]] const cuda::Functions& functions() const noexcept { return functions_; }
  [[nodiscard]] int version() const noexcept { return version_; }  // 12040 is 12.4.
  [[nodiscard]] int device_count() const;

  struct DeviceFacts {
    std::string name;
    std::string bus_id;  // "0000:10:00.0"
    std::string uuid;    // "GPU-e0000000-0000-0000-0000-000000000000"
    std::uint64_t total_bytes = 0;
  };
  // Errors: not_found if there is no such GPU.
  [[nodiscard]] DeviceFacts describe(int ordinal) const;
  // Processes may count the same GPUs differently: by their UUIDs they find each other's.
  [[nodiscard]] std::optional<int> find_device(const std::string& uuid) const;

  // "desktop/gpu0: cuMemCreate failed: CUDA_ERROR_OUT_OF_MEMORY (out of memory)", with the code
  // that fits `result`.
  [[nodiscard]] Error error(const std::string& what, cuda::Result result) const;
  void check(cuda::Result result, const std::string& subject, const char* call) const {
    if (result != cuda::kSuccess) throw failure(result, subject, call);
  }

  // True once the process exits: the driver may be gone before our last objects, so that their
  // destructors call nothing. It takes everything back itself.
  [[nodiscard]] static bool is_exiting() noexcept;

 private:
  CudaDriver() = default;
  [[nodiscard]] Error failure(cuda::Result result, const std::string& subject,
                              const char* call) const;
  void load(void* library, const std::string& file);
  cuda::Functions functions_;
  int version_ = 0;
};

[[nodiscard]] std::string cuda_version_text(int version);  // "12.4"

}  // namespace causeway
