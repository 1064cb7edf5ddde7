// The memory of one device of a daemon: lends bytes that are mapped here and can be exported.
//
// Shape:   one address window of the device's capacity. A loan is an extent of it with a segment of
//          its own mapped there, so that a borrower's descriptor reaches its own bytes and no
//          other.
// Units:   bytes; loans are rounded up to whole granules, the capacity down.
// Errors:  Error: out_of_memory names the device, needed and available bytes; invalid_argument for
//          a size of 0; what the backend throws. A call that throws has lent nothing.
// Cost:    the books (below 1 us) and five to eight system calls a loan; bytes come zeroed and cost
//          memory when touched.
// Threads: any; one lock per device, held over the books and the mapping. A Loan is used by one
//          thread at a time and may outlive its DeviceMemory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "allocator/extent_allocator.h"
#include "allocator/memory_backend.h"

namespace causeway {

class Loan {
 public:
  Loan() noexcept = default;  // Holds nothing; size 0.
  Loan(Loan&& other) noexcept;
  Loan& operator=(Loan&& other) noexcept;
  ~Loan();  // Unmaps the bytes and returns the extent.

  [[nodiscard]] Extent extent() const noexcept { return extent_; }  // Within the device's window.
  [[nodiscard]] std::uint64_t size_bytes() const noexcept { return extent_.size_bytes; }
  // Readable and writable while the loan lives. For a GPU: addresses of the device.
  [[nodiscard]] std::span<std::byte> bytes() const noexcept;
  // For MemoryBackend::import_segment(fd, size_bytes()) in another process.
  [[nodiscard]] UniqueFd export_fd() const;
  [[nodiscard]] explicit operator bool() const noexcept { return device_ != nullptr; }

 private:
  friend class DeviceMemory;
  struct Device;
  Loan(std::shared_ptr<Device> device, Extent extent, Segment segment) noexcept;
  void reset() noexcept;

  std::shared_ptr<Device> device_;
  Extent extent_{0, 0};
  Segment segment_;
};

class DeviceMemory {
 public:
  // Errors: invalid_argument if the backend's capacity is below one granule; what reserve() throws.
  explicit DeviceMemory(std::shared_ptr<MemoryBackend> backend);

  // One contiguous loan of at least size_bytes.
  // Errors: out_of_memory, also if enough is free but in pieces; the text says which.
  [[nodiscard]] Loan lend(std::uint64_t size_bytes);

  // Loans of together at least size_bytes, as few as the holes allow; one where one will do.
  // Errors: out_of_memory only if fewer than size_bytes are free. All or nothing.
  [[nodiscard]] std::vector<Loan> lend_pieces(std::uint64_t size_bytes);

  [[nodiscard]] const std::string& name() const noexcept;
  [[nodiscard]] std::uint64_t granule_bytes() const noexcept;
  [[nodiscard]] std::uint64_t capacity_bytes() const noexcept;
  [[nodiscard]] std::uint64_t used_bytes() const;
  [[nodiscard]] std::uint64_t available_bytes() const;

 private:
  std::shared_ptr<Loan::Device> device_;
};

}  // namespace causeway
