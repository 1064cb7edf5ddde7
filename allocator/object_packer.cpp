#include "allocator/object_packer.h"

#include <fmt/format.h>

#include "allocator/error.h"

namespace causeway {

namespace {
constexpr std::uint64_t kUnit = kObjectAlignmentBytes;
// Simulated for this mix: 64 KiB wastes least among 8 KiB to 512 KiB, and two kinds of chunk less
// than one or three.
constexpr std::uint64_t kSmallUnits = 64 * 1024 / kUnit;
}  // namespace

ObjectPacker::ObjectPacker(ChunkSource& source, std::uint64_t chunk_bytes)
    : source_(&source), chunk_bytes_(chunk_bytes) {
  if (chunk_bytes % kUnit != 0 || chunk_bytes < kMaxObjectBytes)
    throw Error(Errc::invalid_argument,
                fmt::format("a chunk of {} bytes is not a multiple of {} of {} bytes or more",
                            chunk_bytes, kUnit, kMaxObjectBytes));
}

ObjectPacker::~ObjectPacker() {
  for (const auto offset_bytes : chunks_) source_->release_chunk({offset_bytes, chunk_bytes_});
}

Extent ObjectPacker::allocate(std::uint64_t size_bytes) {
  if (size_bytes == 0 || size_bytes > kMaxObjectBytes)
    throw Error(Errc::invalid_argument,
                fmt::format("an object of {} bytes cannot be packed: 1 to {} bytes can; larger ones"
                            " are extents of their own",
                            size_bytes, kMaxObjectBytes));
  const auto units = (size_bytes + kUnit - 1) / kUnit;
  auto& books = books_for(units);
  auto block = books.allocate(units);
  if (!block) {
    add_chunk(books);
    block = books.allocate(units);
  }
  return {block->first * kUnit, block->count * kUnit};
}

void ObjectPacker::add_chunk(RangeBooks& books) {
  if (!kept_) {
    const auto offset_bytes = source_->acquire_chunk(chunk_bytes_);
    try {
      chunks_.insert(offset_bytes);
    } catch (...) {
      source_->release_chunk({offset_bytes, chunk_bytes_});
      throw;
    }
    kept_ = offset_bytes;
  }
  books.add_range(*kept_ / kUnit, chunk_bytes_ / kUnit);
  kept_.reset();
}

bool ObjectPacker::release(Extent object) noexcept {
  if (object.offset_bytes % kUnit != 0 || object.size_bytes % kUnit != 0) return false;
  const auto units = object.size_bytes / kUnit;
  auto& books = books_for(units);
  const auto hole = books.release({object.offset_bytes / kUnit, units});
  if (!hole) return false;
  if (!hole->whole_range) return true;
  books.remove_range(*hole);
  const auto offset_bytes = hole->block.first * kUnit;
  if (!kept_) {
    kept_ = offset_bytes;
  } else {
    chunks_.erase(offset_bytes);
    source_->release_chunk({offset_bytes, chunk_bytes_});
  }
  return true;
}

RangeBooks& ObjectPacker::books_for(std::uint64_t units) noexcept {
  return units < kSmallUnits ? small_ : large_;
}

std::uint64_t ObjectPacker::used_bytes() const noexcept {
  return (small_.used() + large_.used()) * kUnit;
}

std::uint64_t ObjectPacker::held_bytes() const noexcept { return chunks_.size() * chunk_bytes_; }

bool ObjectPacker::check_invariants() const noexcept {
  const auto in_books = (small_.total() + large_.total()) * kUnit;
  return small_.check_invariants() && large_.check_invariants() &&
         held_bytes() == in_books + (kept_ ? chunk_bytes_ : 0);
}

}  // namespace causeway
