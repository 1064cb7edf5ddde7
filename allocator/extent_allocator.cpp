#include "allocator/extent_allocator.h"

#include <bit>

namespace causeway {

std::optional<ExtentAllocator> ExtentAllocator::create(Options options) {
  const auto [capacity_bytes, granule_bytes] = options;
  if (!std::has_single_bit(granule_bytes) || capacity_bytes == 0) return std::nullopt;
  if (capacity_bytes % granule_bytes != 0) return std::nullopt;
  return ExtentAllocator(options);
}

ExtentAllocator::ExtentAllocator(Options options)
    : options_(options), granule_shift_(std::countr_zero(options.granule_bytes)) {
  books_.add_range(0, options.capacity_bytes >> granule_shift_);
}

std::optional<Extent> ExtentAllocator::allocate(std::uint64_t size_bytes) {
  if (size_bytes > options_.capacity_bytes) return std::nullopt;  // So that `+ mask` cannot wrap.
  const auto mask = options_.granule_bytes - 1;
  const auto block = books_.allocate((size_bytes + mask) >> granule_shift_);
  if (!block) return std::nullopt;
  return Extent{block->first << granule_shift_, block->count << granule_shift_};
}

bool ExtentAllocator::release(Extent extent) noexcept {
  const auto mask = options_.granule_bytes - 1;
  if (((extent.offset_bytes | extent.size_bytes) & mask) != 0) return false;
  return books_
      .release({extent.offset_bytes >> granule_shift_, extent.size_bytes >> granule_shift_})
      .has_value();
}

std::uint64_t ExtentAllocator::used_bytes() const noexcept {
  return books_.used() << granule_shift_;
}

std::uint64_t ExtentAllocator::free_bytes() const noexcept {
  return options_.capacity_bytes - used_bytes();
}

std::uint64_t ExtentAllocator::largest_hole_bytes() const noexcept {
  return books_.largest_hole() << granule_shift_;
}

bool ExtentAllocator::check_invariants() const noexcept {
  return books_.total() << granule_shift_ == options_.capacity_bytes && books_.check_invariants();
}

}  // namespace causeway
