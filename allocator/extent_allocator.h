// Books for one device segment: lends out byte ranges ("extents") and takes them back.
// It never touches the memory; the caller adds offset_bytes to the segment's base address.
//
// Shape:   live extents and holes tile [0, capacity_bytes) exactly; no two holes are neighbours.
// Units:   bytes; every offset and size is a multiple of granule_bytes.
// Errors:  each call has one way to fail and returns it; none logs. Only allocate() and create()
//          use host memory: std::bad_alloc passes through them, and nothing has changed.
// Cost:    those of RangeBooks: O(1), except where only holes of the wanted size class are left.
// Threads: no thread, no lock. One owner; others post to its thread or hold its lock.
#pragma once

#include <cstdint>
#include <optional>

#include "allocator/range_books.h"

namespace causeway {

// The range [offset_bytes, offset_bytes + size_bytes) of a device. A plain value: owns nothing.
struct Extent {
  std::uint64_t offset_bytes;
  std::uint64_t size_bytes;
  bool operator==(const Extent&) const = default;
};

class ExtentAllocator {
 public:
  struct Options {
    std::uint64_t capacity_bytes;  // A positive multiple of granule_bytes.
    std::uint64_t granule_bytes;   // A power of two: the backend's.
  };

  // Errors: nullopt if `options` break the rules beside their fields.
  [[nodiscard]] static std::optional<ExtentAllocator> create(Options options);

  ExtentAllocator(ExtentAllocator&&) = default;  // Not copyable: one device, one set of books.
  ExtentAllocator& operator=(ExtentAllocator&&) = default;

  // Lends size_bytes, rounded up to whole granules, from a hole that fits closely.
  // Errors: nullopt, and nothing changed, if size_bytes is 0 or no hole is large enough.
  [[nodiscard]] std::optional<Extent> allocate(std::uint64_t size_bytes);

  // Takes `extent` back and merges it with the holes beside it. Needs no memory, so cannot throw.
  // Errors: false, and nothing changed, unless `extent` is live exactly as allocate() returned it.
  [[nodiscard]] bool release(Extent extent) noexcept;

  [[nodiscard]] std::uint64_t capacity_bytes() const noexcept { return options_.capacity_bytes; }
  [[nodiscard]] std::uint64_t granule_bytes() const noexcept { return options_.granule_bytes; }
  [[nodiscard]] std::uint64_t used_bytes() const noexcept;
  [[nodiscard]] std::uint64_t free_bytes() const noexcept;
  // What allocate() can lend at most. O(holes of the largest size class).
  [[nodiscard]] std::uint64_t largest_hole_bytes() const noexcept;

  // True if the Shape and Units lines above hold. O(extents): for tests and debug builds.
  [[nodiscard]] bool check_invariants() const noexcept;

 private:
  explicit ExtentAllocator(Options options);

  Options options_;
  int granule_shift_;
  RangeBooks books_;  // In granules.
};

}  // namespace causeway
