// Packs small objects into chunks, so that a tensor of 1 KiB does not cost a granule of 2 MiB.
//
// Shape:   objects and holes tile the chunks; no object crosses a chunk; a chunk without objects
//          goes back to its source, except one, kept so that a lone object does not make chunks
//          come and go.
// Units:   bytes; offsets and sizes are multiples of kObjectAlignmentBytes.
// Errors:  allocate() throws Error: invalid_argument for a size of 0 or above kMaxObjectBytes,
//          and what the source throws when it has no chunk. Nothing has changed then.
// Cost:    those of RangeBooks, and of the source when a chunk comes or goes.
// Threads: no thread, no lock; one owner.
#pragma once

#include <cstdint>
#include <optional>
#include <unordered_set>

#include "allocator/extent_allocator.h"
#include "allocator/range_books.h"

namespace causeway {

inline constexpr std::uint64_t kObjectAlignmentBytes = 256;
inline constexpr std::uint64_t kMaxObjectBytes = 1024 * 1024;

// Where chunks come from: a DeviceMemory, or a test.
class ChunkSource {
 public:
  virtual ~ChunkSource() = default;
  // The offset of a fresh chunk: a multiple of kObjectAlignmentBytes, apart from all other chunks.
  [[nodiscard]] virtual std::uint64_t acquire_chunk(std::uint64_t size_bytes) = 0;
  virtual void release_chunk(Extent chunk) noexcept = 0;
};

class ObjectPacker {
 public:
  // `source` outlives the packer. Errors: invalid_argument unless chunk_bytes is a multiple of
  // kObjectAlignmentBytes and at least kMaxObjectBytes.
  ObjectPacker(ChunkSource& source, std::uint64_t chunk_bytes);
  ~ObjectPacker();  // Gives all chunks back, with whatever is in them.
  ObjectPacker(const ObjectPacker&) = delete;
  ObjectPacker& operator=(const ObjectPacker&) = delete;

  // The object's place and its size, rounded up.
  [[nodiscard]] Extent allocate(std::uint64_t size_bytes);

  // Errors: false, and nothing changed, unless `object` is live exactly as allocate() returned it.
  [[nodiscard]] bool release(Extent object) noexcept;

  [[nodiscard]] std::uint64_t used_bytes() const noexcept;  // Of live objects, rounded up.
  [[nodiscard]] std::uint64_t held_bytes() const noexcept;  // Of chunks.
  [[nodiscard]] bool check_invariants() const noexcept;     // O(objects): for tests.

 private:
  void add_chunk();

  ChunkSource* source_;
  std::uint64_t chunk_bytes_;
  RangeBooks books_;                          // In units of kObjectAlignmentBytes.
  std::unordered_set<std::uint64_t> chunks_;  // By offset_bytes.
  std::optional<RangeBooks::Hole> kept_;      // The chunk without objects that is kept.
};

}  // namespace causeway
