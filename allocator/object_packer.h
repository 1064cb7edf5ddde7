// Packs small objects into chunks, so that a tensor of 1 KiB does not cost a granule of 2 MiB.
//
// Shape:   objects and holes tile the chunks; no object crosses a chunk. Small and large objects
//          have chunks of their own: small ones that outlive their large neighbours would cut up
//          the holes. A chunk without objects goes back to its source, except one, kept so that a
//          lone object does not make chunks come and go.
// Units:   bytes; offsets and sizes are multiples of kObjectAlignmentBytes.
// Errors:  allocate() throws Error: invalid_argument for a size of 0 or above kMaxObjectBytes,
//          and what the source throws when it has no chunk. Nothing has changed then.
// Cost:    those of RangeBooks, and of the source when a chunk comes or goes. Of the chunks' bytes
//          10 to 12% are unused in 256 MiB of objects of 256 B to 1 MiB under churn (log-uniform
//          sizes, chunks of 2 MiB), 6% in 1 GiB.
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
  [[nodiscard]] RangeBooks& books_for(std::uint64_t units) noexcept;
  void add_chunk(RangeBooks& books);

  ChunkSource* source_;
  std::uint64_t chunk_bytes_;
  RangeBooks small_;  // In units of kObjectAlignmentBytes.
  RangeBooks large_;
  std::unordered_set<std::uint64_t> chunks_;  // All that are held, by offset_bytes.
  std::optional<std::uint64_t> kept_;         // The one in neither books.
};

}  // namespace causeway
