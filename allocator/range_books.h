// The books behind ExtentAllocator and ObjectPacker: which units of some ranges are lent.
//
// Shape:   live blocks and holes tile each range exactly; no two holes of a range are neighbours;
//          blocks of different ranges never merge.
// Units:   whatever the caller counts in (granules, 256-byte steps).
// Errors:  each call has one way to fail and returns it. add_range() and allocate() use host
// memory:
//          std::bad_alloc passes through them, and nothing has changed.
// Cost:    O(1): two-level free lists, found by bitmaps; a hash table from offset to block. Where
// no
//          hole of a larger class is left, allocate() walks the holes of the wanted class (sizes
//          within 1/32 of each other), so that a hole that fits is always found.
// Threads: no thread, no lock.
// Source:  Masmano, Ripoll, Crespo, Real, "TLSF: a New Dynamic Memory Allocator for Real-Time
//          Systems", ECRTS 2004.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

namespace causeway {

class RangeBooks {
 public:
  struct Block {
    std::uint64_t first;
    std::uint64_t count;
    bool operator==(const Block&) const = default;
  };
  // What a release left behind: the hole, and whether it is all of its range.
  struct Hole {
    Block block;
    bool whole_range;
  };

  RangeBooks();

  // Adds a hole of `count` > 0 units at `first`. Ranges never overlap and end below 2^64.
  void add_range(std::uint64_t first, std::uint64_t count);

  // Takes back a range that release() reported as whole. False, and nothing changed, otherwise.
  [[nodiscard]] bool remove_range(std::uint64_t first) noexcept;

  // Lends the head of a hole that fits closely. nullopt if count is 0 or no hole is large enough.
  [[nodiscard]] std::optional<Block> allocate(std::uint64_t count);

  // nullopt, and nothing changed, unless `block` is live exactly as allocate() returned it.
  [[nodiscard]] std::optional<Hole> release(Block block) noexcept;

  [[nodiscard]] std::uint64_t total() const noexcept { return total_; }
  [[nodiscard]] std::uint64_t used() const noexcept { return used_; }
  [[nodiscard]] std::uint64_t largest_hole() const noexcept;
  [[nodiscard]] bool check_invariants() const noexcept;

 private:
  std::uint64_t total_ = 0;
  std::uint64_t used_ = 0;
};

}  // namespace causeway
