#include "allocator/range_books.h"

#include <algorithm>
#include <bit>
#include <new>
#include <utility>

namespace causeway {

namespace {

constexpr unsigned kSubBits = 6;
constexpr unsigned kSubs = 1U << kSubBits;
constexpr unsigned kTops = 64 - kSubBits + 1;
constexpr int kLookedAt = 8;  // Holes of a class, for one that fits closely.

// Counts below kSubs have a class each; above, each power of two is cut into kSubs classes.
unsigned class_of(std::uint64_t count) noexcept {
  if (count < kSubs) return static_cast<unsigned>(count);
  const unsigned top = static_cast<unsigned>(std::bit_width(count)) - kSubBits;
  return top * kSubs + static_cast<unsigned>((count >> (top - 1)) & (kSubs - 1));
}

// The lowest class whose holes all have `count` units or more.
unsigned class_above(std::uint64_t count) noexcept {
  if (count < kSubs) return static_cast<unsigned>(count);
  const unsigned shift = static_cast<unsigned>(std::bit_width(count)) - kSubBits - 1;
  const bool lowest_of_class = (count & ((std::uint64_t{1} << shift) - 1)) == 0;
  return class_of(count) + (lowest_of_class ? 0 : 1);
}

}  // namespace

RangeBooks::RangeBooks() : heads_(kTops * kSubs, kNone), sub_(kTops, 0), slots_(16, kNone) {}

void RangeBooks::add_range(std::uint64_t first, std::uint64_t count) {
  make_room();
  const Index index = take_node();
  nodes_[index] = {first, count, kNone, kNone, kNone, kNone};
  link_hole(index);
  total_ += count;
}

void RangeBooks::remove_range(const Hole& hole) noexcept {
  unlink_hole(hole.node);
  give_node(hole.node);
  total_ -= hole.block.count;
}

std::optional<RangeBooks::Block> RangeBooks::allocate(std::uint64_t count) {
  if (count == 0) return std::nullopt;
  const Index index = find_hole(count);
  if (index == kNone) return std::nullopt;
  make_room();  // The only step that may throw, so it goes first.
  unlink_hole(index);
  const auto rest = nodes_[index].count - count;
  if (rest > 0) {
    const Index rest_index = take_node();
    Node& node = nodes_[index];
    nodes_[rest_index] = {node.first + count, rest, index, node.next, kNone, kNone};
    if (node.next != kNone) nodes_[node.next].prev = rest_index;
    node.next = rest_index;
    node.count = count;
    link_hole(rest_index);
  }
  Node& node = nodes_[index];
  node.prev_free = kLive;
  slots_[find_slot(node.first)] = index;
  ++live_;
  used_ += count;
  return Block{node.first, count};
}

std::optional<RangeBooks::Hole> RangeBooks::release(Block block) noexcept {
  const auto slot = find_slot(block.first);
  Index index = slots_[slot];
  if (index == kNone || nodes_[index].count != block.count) return std::nullopt;
  erase_slot(slot);
  --live_;
  used_ -= block.count;
  const Index next = nodes_[index].next;
  if (next != kNone && nodes_[next].prev_free != kLive) {
    unlink_hole(next);
    absorb_next(index);
  }
  const Index prev = nodes_[index].prev;
  if (prev != kNone && nodes_[prev].prev_free != kLive) {
    unlink_hole(prev);
    absorb_next(prev);
    index = prev;
  }
  link_hole(index);
  const Node& node = nodes_[index];
  return Hole{{node.first, node.count}, node.prev == kNone && node.next == kNone, index};
}

std::uint64_t RangeBooks::largest_hole() const noexcept {
  if (top_ == 0) return 0;
  const unsigned top = static_cast<unsigned>(std::bit_width(top_)) - 1;
  const unsigned sub = static_cast<unsigned>(std::bit_width(sub_[top])) - 1;
  std::uint64_t largest = 0;
  for (Index i = heads_[top * kSubs + sub]; i != kNone; i = nodes_[i].next_free)
    largest = std::max(largest, nodes_[i].count);
  return largest;
}

RangeBooks::Index RangeBooks::find_hole(std::uint64_t count) const noexcept {
  const Index own = heads_[class_of(count)];
  Index index = closest_of_first(own, count);
  if (index == kNone) index = closest_of_first(first_of_class_from(class_above(count)), count);
  if (index != kNone) return index;
  for (index = own; index != kNone && nodes_[index].count < count;) index = nodes_[index].next_free;
  return index;
}

RangeBooks::Index RangeBooks::closest_of_first(Index head, std::uint64_t count) const noexcept {
  Index closest = kNone;
  for (int i = 0; i < kLookedAt && head != kNone; ++i, head = nodes_[head].next_free) {
    const auto size = nodes_[head].count;
    if (size < count || (closest != kNone && size >= nodes_[closest].count)) continue;
    closest = head;
    if (size == count) break;
  }
  return closest;
}

RangeBooks::Index RangeBooks::first_of_class_from(unsigned size_class) const noexcept {
  unsigned top = size_class / kSubs;
  if (top >= kTops) return kNone;
  auto subs = sub_[top] & (~std::uint64_t{0} << (size_class % kSubs));
  if (subs == 0) {
    const auto tops = top_ & (~std::uint64_t{1} << top);  // Above `top`.
    if (tops == 0) return kNone;
    top = static_cast<unsigned>(std::countr_zero(tops));
    subs = sub_[top];
  }
  return heads_[top * kSubs + static_cast<unsigned>(std::countr_zero(subs))];
}

void RangeBooks::make_room() {
  if (2 * (live_ + 1) > slots_.size()) grow_slots();
  if (spare_ != kNone) return;
  if (nodes_.size() >= kUnused) throw std::bad_alloc();
  nodes_.push_back({0, 0, kNone, kNone, kUnused, kNone});
  spare_ = static_cast<Index>(nodes_.size() - 1);
}

RangeBooks::Index RangeBooks::take_node() noexcept {
  return std::exchange(spare_, nodes_[spare_].next_free);
}

void RangeBooks::give_node(Index index) noexcept {
  nodes_[index].prev_free = kUnused;
  nodes_[index].next_free = std::exchange(spare_, index);
}

void RangeBooks::link_hole(Index index) noexcept {
  const unsigned size_class = class_of(nodes_[index].count);
  Index& head = heads_[size_class];
  nodes_[index].prev_free = kNone;
  nodes_[index].next_free = head;
  if (head != kNone) nodes_[head].prev_free = index;
  head = index;
  sub_[size_class / kSubs] |= std::uint64_t{1} << (size_class % kSubs);
  top_ |= std::uint64_t{1} << (size_class / kSubs);
}

void RangeBooks::unlink_hole(Index index) noexcept {
  const Node& node = nodes_[index];
  if (node.next_free != kNone) nodes_[node.next_free].prev_free = node.prev_free;
  if (node.prev_free != kNone) {
    nodes_[node.prev_free].next_free = node.next_free;
    return;
  }
  const unsigned size_class = class_of(node.count);
  heads_[size_class] = node.next_free;
  if (node.next_free != kNone) return;
  auto& subs = sub_[size_class / kSubs];
  subs &= ~(std::uint64_t{1} << (size_class % kSubs));
  if (subs == 0) top_ &= ~(std::uint64_t{1} << (size_class / kSubs));
}

void RangeBooks::absorb_next(Index index) noexcept {
  Node& node = nodes_[index];
  const Index next = node.next;
  node.count += nodes_[next].count;
  node.next = nodes_[next].next;
  if (node.next != kNone) nodes_[node.next].prev = index;
  give_node(next);
}

// The slot where the search for `first` starts: Fibonacci hashing (Knuth, TAOCP 3, 6.4).
std::size_t RangeBooks::slot_of(std::uint64_t first) const noexcept {
  const int bits = std::countr_zero(slots_.size());
  return static_cast<std::size_t>((first * 0x9e3779b97f4a7c15U) >> (64 - bits));
}

// The slot that holds `first`, or the empty one where it would go.
std::size_t RangeBooks::find_slot(std::uint64_t first) const noexcept {
  auto slot = slot_of(first);
  while (slots_[slot] != kNone && nodes_[slots_[slot]].first != first)
    slot = (slot + 1) & (slots_.size() - 1);
  return slot;
}

void RangeBooks::grow_slots() {
  std::vector<Index> old(2 * slots_.size(), kNone);
  old.swap(slots_);
  for (const Index index : old)
    if (index != kNone) slots_[find_slot(nodes_[index].first)] = index;
}

// Moves later entries of the same run back, so that no search stops short of them.
void RangeBooks::erase_slot(std::size_t slot) noexcept {
  const auto mask = slots_.size() - 1;
  auto gap = slot;
  for (auto at = (gap + 1) & mask; slots_[at] != kNone; at = (at + 1) & mask) {
    const auto home = slot_of(nodes_[slots_[at]].first);
    if (((at - home) & mask) < ((at - gap) & mask)) continue;  // Its search starts after the gap.
    slots_[gap] = slots_[at];
    gap = at;
  }
  slots_[gap] = kNone;
}

bool RangeBooks::check_invariants() const noexcept {
  std::uint64_t total = 0;
  std::uint64_t used = 0;
  std::size_t blocks = 0;
  std::size_t live = 0;
  for (Index start = 0; start < nodes_.size(); ++start) {
    if (nodes_[start].prev_free == kUnused || nodes_[start].prev != kNone) continue;
    auto at = nodes_[start].first;
    bool after_hole = false;
    for (Index i = start, prev = kNone; i != kNone; prev = i, i = nodes_[i].next) {
      const Node& node = nodes_[i];
      const bool is_live = node.prev_free == kLive;
      if (node.prev != prev || node.first != at || node.count == 0) return false;
      if (node.prev_free == kUnused || (after_hole && !is_live)) return false;
      if (is_live && slots_[find_slot(node.first)] != i) return false;
      at += node.count;
      total += node.count;
      used += is_live ? node.count : 0;
      live += is_live ? 1 : 0;
      ++blocks;
      after_hole = !is_live;
    }
  }
  std::size_t in_slots = 0;
  for (const Index index : slots_) in_slots += index != kNone ? 1 : 0;
  std::size_t spare = 0;
  for (Index i = spare_; i != kNone; i = nodes_[i].next_free) {
    if (nodes_[i].prev_free != kUnused) return false;
    ++spare;
  }
  std::size_t holes = 0;
  for (const Index head : heads_)
    for (Index i = head; i != kNone; i = nodes_[i].next_free) ++holes;
  return total == total_ && used == used_ && live == live_ && in_slots == live_ &&
         blocks + spare == nodes_.size() && holes == blocks - live && check_lists();
}

bool RangeBooks::check_lists() const noexcept {
  for (unsigned size_class = 0; size_class < heads_.size(); ++size_class) {
    const bool marked = (sub_[size_class / kSubs] >> (size_class % kSubs) & 1) != 0;
    if (marked != (heads_[size_class] != kNone)) return false;
    Index prev = kNone;
    for (Index i = heads_[size_class]; i != kNone; prev = i, i = nodes_[i].next_free)
      if (nodes_[i].prev_free != prev || class_of(nodes_[i].count) != size_class) return false;
  }
  for (unsigned top = 0; top < kTops; ++top)
    if ((top_ >> top & 1) != (sub_[top] != 0 ? 1U : 0U)) return false;
  return true;
}

}  // namespace causeway
