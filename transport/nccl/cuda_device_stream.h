// DeviceStream on a GPU: a stream of its own in the device's primary context, which is the one that
// NCCL uses, too.
//
// Errors:  each call throws Error with the driver's name for it.
// Cost:    scratch() of more than before allocates, some 100 us, and keeps what it gave before,
//          which may be in use.
// Threads: as DeviceStream. The destructor waits for nothing: scratch memory of a stream on which
//          something still runs, or hangs, is left to the driver until the process ends.
#pragma once

#include <memory>
#include <vector>

#include "allocator/cuda/plain_memory.h"
#include "allocator/cuda/stream.h"
#include "transport/nccl/device_stream.h"

namespace causeway {

class CudaDeviceStream final : public DeviceStream {
 public:
  explicit CudaDeviceStream(std::shared_ptr<CudaContext> context);
  ~CudaDeviceStream() override;

  void make_current() override { context_->make_current(); }
  [[nodiscard]] void* handle() const noexcept override { return stream_.handle(); }
  [[nodiscard]] std::span<std::byte> scratch(std::size_t size_bytes) override;
  void copy(std::span<std::byte> to, std::span<const std::byte> from) override;
  void mark() override { stream_.record(mark_); }
  [[nodiscard]] bool is_reached() override { return mark_.is_reached(); }

 private:
  std::shared_ptr<CudaContext> context_;
  std::vector<CudaPlainMemory> scratch_;  // The last is the largest.
  CudaStream stream_;
  CudaEvent mark_;
};

}  // namespace causeway
