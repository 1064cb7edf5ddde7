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
//          within 1/64 of each other), so that a hole that fits is always found.
// Threads: no thread, no lock.
// Source:  Masmano, Ripoll, Crespo, Real, "TLSF: a New Dynamic Memory Allocator for Real-Time
//          Systems", ECRTS 2004.
#pragma once

#include <cstddef>
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
  // The hole that a release left behind, and whether it is all of its range.
  struct Hole {
    Block block;
    bool whole_range;
    std::uint32_t node;  // For remove_range().
  };

  RangeBooks();

  // Adds a hole of `count` > 0 units at `first`. Ranges never overlap and end below 2^64.
  void add_range(std::uint64_t first, std::uint64_t count);

  // Forgets the range of a hole that release() has just reported as whole.
  void remove_range(const Hole& hole) noexcept;

  // Lends the head of a hole that fits closely. nullopt if count is 0 or no hole is large enough.
  [[nodiscard]] std::optional<Block> allocate(std::uint64_t count);

  // nullopt, and nothing changed, unless `block` is live exactly as allocate() returned it.
  [[nodiscard]] std::optional<Hole> release(Block block) noexcept;

  [[nodiscard]] std::uint64_t total() const noexcept { return total_; }
  [[nodiscard]] std::uint64_t used() const noexcept { return used_; }
  [[nodiscard]] std::uint64_t largest_hole() const noexcept;
  [[nodiscard]] bool check_invariants() const noexcept;

 private:
  using Index = std::uint32_t;  // Into nodes_.
  static constexpr Index kNone = 0xffffffff;
  static constexpr Index kLive = 0xfffffffe;    // As prev_free: the block is lent.
  static constexpr Index kUnused = 0xfffffffd;  // As prev_free: the node is in spare_.

  struct Node {
    std::uint64_t first;
    std::uint64_t count;
    Index prev;  // The neighbours by address, kNone at the ends of the range.
    Index next;
    Index prev_free;  // The neighbours in the list of the size class.
    Index next_free;
  };

  [[nodiscard]] Index find_hole(std::uint64_t count) const noexcept;
  [[nodiscard]] Index closest_of_first(Index head, std::uint64_t count) const noexcept;
  [[nodiscard]] Index first_of_class_from(unsigned size_class) const noexcept;
  void make_room();  // Afterwards one node and one slot can be taken without host memory.
  Index take_node() noexcept;
  void give_node(Index index) noexcept;
  void link_hole(Index index) noexcept;
  void unlink_hole(Index index) noexcept;
  void absorb_next(Index index) noexcept;

  [[nodiscard]] std::size_t slot_of(std::uint64_t first) const noexcept;
  [[nodiscard]] std::size_t find_slot(std::uint64_t first) const noexcept;
  void grow_slots();
  void erase_slot(std::size_t slot) noexcept;
  [[nodiscard]] bool check_lists() const noexcept;

  std::vector<Node> nodes_;
  Index spare_ = kNone;             // Nodes in no range, chained by next_free.
  std::vector<Index> heads_;        // The holes of each size class.
  std::vector<std::uint64_t> sub_;  // Bit s of sub_[f]: heads_[f * 64 + s] is not empty.
  std::uint64_t top_ = 0;           // Bit f: sub_[f] is not 0.
  std::vector<Index> slots_;        // Open addressing with linear probing: live blocks by first.
  std::size_t live_ = 0;
  std::uint64_t total_ = 0;
  std::uint64_t used_ = 0;
};

}  // namespace causeway
