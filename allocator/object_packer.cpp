#include "allocator/object_packer.h"

#include <fmt/format.h>

#include "allocator/error.h"

namespace causeway {

namespace {
constexpr std::uint64_t kUnit = kObjectAlignmentBytes;
}

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
  auto block = books_.allocate(units);
  if (!block) {
    add_chunk();
    block = books_.allocate(units);
  }
  if (kept_ && block->first == kept_->block.first) kept_.reset();
  return {block->first * kUnit, block->count * kUnit};
}

void ObjectPacker::add_chunk() {
  const auto offset_bytes = source_->acquire_chunk(chunk_bytes_);
  try {
    chunks_.insert(offset_bytes);
    books_.add_range(offset_bytes / kUnit, chunk_bytes_ / kUnit);
  } catch (...) {
    chunks_.erase(offset_bytes);
    source_->release_chunk({offset_bytes, chunk_bytes_});
    throw;
  }
}

bool ObjectPacker::release(Extent object) noexcept {
  if (object.offset_bytes % kUnit != 0 || object.size_bytes % kUnit != 0) return false;
  const auto hole = books_.release({object.offset_bytes / kUnit, object.size_bytes / kUnit});
  if (!hole) return false;
  if (!hole->whole_range) return true;
  if (!kept_) {
    kept_ = hole;
    return true;
  }
  books_.remove_range(*hole);
  const auto offset_bytes = hole->block.first * kUnit;
  chunks_.erase(offset_bytes);
  source_->release_chunk({offset_bytes, chunk_bytes_});
  return true;
}

std::uint64_t ObjectPacker::used_bytes() const noexcept { return books_.used() * kUnit; }

std::uint64_t ObjectPacker::held_bytes() const noexcept { return books_.total() * kUnit; }

bool ObjectPacker::check_invariants() const noexcept {
  return books_.check_invariants() && held_bytes() == chunks_.size() * chunk_bytes_;
}

}  // namespace causeway
