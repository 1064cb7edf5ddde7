// Owners of memory that the driver hands out in one piece, at an address of its choice.
//
// Shape:   on a device, or on the host and pinned: known to every context, so that copies by stream
//          from and to it run while their caller goes on. Move-only; freed at the end.
// Units:   bytes.
// Errors:  those of the driver, with its name for them; out_of_memory.
// Cost:    pinning takes some 100 us per MiB. Freeing either waits for all work of the device.
// Threads: any; the context that is current stays so.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "allocator/cuda/context.h"

namespace causeway {

class CudaPlainMemory {
 public:
  [[nodiscard]] static CudaPlainMemory on_device(std::shared_ptr<CudaContext> context,
                                                 std::size_t size_bytes);
  [[nodiscard]] static CudaPlainMemory pinned(std::shared_ptr<CudaContext> context,
                                              std::size_t size_bytes);
  CudaPlainMemory(CudaPlainMemory&& other) noexcept;
  CudaPlainMemory& operator=(CudaPlainMemory&&) = delete;
  ~CudaPlainMemory();

  // Of a device: addresses that only its copies may use.
  [[nodiscard]] std::span<std::byte> bytes() const noexcept { return bytes_; }

 private:
  CudaPlainMemory(std::shared_ptr<CudaContext> context, bool is_pinned) noexcept
      : context_(std::move(context)), is_pinned_(is_pinned) {}

  std::shared_ptr<CudaContext> context_;
  bool is_pinned_;
  std::span<std::byte> bytes_;
};

}  // namespace causeway
