// One address range stitched from segments of several devices. A piece can move to another device
// under the same address, with its bytes intact.
//
// Shape:   non-overlapping pieces at granule offsets; what no piece covers is reserved and faults.
// Units:   bytes; offsets and piece sizes are multiples of the backend's granule.
// Errors:  those of MemoryBackend; not_found where no piece starts at the offset. A call that
// throws
//          has changed nothing: the old mapping, its access and its bytes are in place.
// Cost:    place, swap and remove: two system or driver calls. replace: those and one copy.
// Threads: one at a time for the calls. Other threads may load and store all along, with one
//          exception: nobody may store to the moving piece during replace(). Such a store faults
//          rather than being lost, unless the device grants no read-only access.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "allocator/memory_backend.h"

namespace causeway {

class StitchedRange {
 public:
  // Copies between two mapped addresses. On the host: memcpy; for GPUs the caller brings a copy by
  // the driver, complete when the function returns. May throw.
  using Copy = std::function<void(std::byte* to, const std::byte* from, std::uint64_t size_bytes)>;

  StitchedRange() noexcept = default;  // Holds nothing; size 0.
  // Reserves size_bytes, rounded up to whole granules, of addresses of `backend`'s device.
  StitchedRange(std::shared_ptr<MemoryBackend> backend, std::uint64_t size_bytes);
  StitchedRange(StitchedRange&&) noexcept = default;
  StitchedRange& operator=(StitchedRange&&) noexcept;
  ~StitchedRange() = default;

  [[nodiscard]] std::byte* data() const noexcept { return reservation_.data(); }
  [[nodiscard]] std::uint64_t size_bytes() const noexcept { return reservation_.size_bytes(); }
  // True if pieces cover [offset, offset + size).
  [[nodiscard]] bool covers(std::uint64_t offset_bytes, std::uint64_t size_bytes) const noexcept;

  // Maps `segment`, created or imported, by any backend of the family, readable and writable.
  void place(std::uint64_t offset_bytes, Segment segment);

  // Puts `segment`, of the same size, in the place of the piece at `offset_bytes`, after copying
  // its bytes there, and gives the old segment back to its device.
  void replace(std::uint64_t offset_bytes, Segment segment, const Copy& copy = {});

  // The same where somebody else has copied the bytes already (the owners' daemons). Returns the
  // old segment: drop it when nobody needs its bytes.
  [[nodiscard]] Segment swap(std::uint64_t offset_bytes, Segment segment);

  // Unmaps the piece at `offset_bytes` and returns it; the addresses stay reserved.
  [[nodiscard]] Segment remove(std::uint64_t offset_bytes);

 private:
  using Pieces = std::map<std::uint64_t, Segment>;  // By offset; map order is address order.
  void stop_stores(std::uint64_t offset_bytes, std::uint64_t size_bytes);
  Pieces::iterator find(std::uint64_t offset_bytes);
  void check_not_empty() const;
  void check_same_size(const Segment& segment, const Pieces::value_type& piece) const;

  std::shared_ptr<MemoryBackend> backend_;
  Reservation reservation_;
  Pieces pieces_;
};

}  // namespace causeway
