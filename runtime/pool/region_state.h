// A region as this process holds it: its extents, and the addresses of those on this node.
//
// Threads: one at a time, as Region.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "allocator/stitched_range.h"
#include "causeway/pool.h"
#include "runtime/pool/session.h"

namespace causeway {

struct Region::State {
  explicit State(std::shared_ptr<Pool::State> owner) : pool(std::move(owner)) {}
  ~State();  // Gives the extents back.
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  // Lends [offset, offset + size) from `device` under the region id `as`, and returns the extents
  // with their segments (empty where they are not on this node).
  struct Lent {
    Extent extent;
    Segment segment;
  };
  // Errors: as the daemon's; nothing stays lent.
  std::vector<Lent> lend(RegionId as, const DeviceName& device, std::uint64_t offset_bytes,
                         std::uint64_t size);
  // Gives back what lies in the range, without an error: the session's end is the net.
  void give_back(RegionId which, const std::string& node, std::uint64_t offset_bytes,
                 std::uint64_t size) const noexcept;
  // One request's worth of it. Returns where the next one starts.
  std::uint64_t lend_some(RegionId as, const DeviceName& device, std::uint64_t at,
                          std::uint64_t end, std::vector<Lent>& result);
  void place(Lent lent);  // Maps it, if it came with a segment, and makes it part of the region.
  void publish();         // Tells the directory.
  void move_extent(const Extent& old, const DeviceName& to);

  void check_range(std::uint64_t offset_bytes, std::uint64_t size) const;
  // Copies the region's bytes at `offset_bytes` into `bytes`, or, if these are const, the other
  // way.
  template <typename Byte>
  void access(std::uint64_t offset_bytes, std::span<Byte> bytes) const;
  // The parts of [offset, offset + count) by extent: calls visit(extent, offset, size) for each.
  template <typename Visit>
  void for_each_part(std::uint64_t offset_bytes, std::uint64_t count, Visit&& visit) const {
    auto next = std::prev(extents.upper_bound(offset_bytes));
    for (const auto end = offset_bytes + count; offset_bytes < end; ++next) {
      const auto& extent = next->second;
      const auto part = std::min(end, extent.offset_bytes + extent.size_bytes) - offset_bytes;
      visit(extent, offset_bytes, part);
      offset_bytes += part;
    }
  }

  // Reserves addresses for `size` bytes: those of `device`, of kind "cuda", or the processor's.
  void reserve(std::uint64_t size, const std::optional<DeviceStatus>& device);
  [[nodiscard]] bool can_map(const DeviceName& device) const;
  [[nodiscard]] std::string whose_addresses() const;  // For messages.
  // Between two addresses of the region or of another, or of the caller: complete when it returns.
  void copy_by_gpu(std::byte* to, const std::byte* from, std::uint64_t size) const;

  // At its end no copy of the region's stream runs, so that the memory may go, also after an error.
  class Settled {
   public:
    explicit Settled(const State& state) : state_(state) {}
    Settled(const Settled&) = delete;
    Settled& operator=(const Settled&) = delete;
    ~Settled();

   private:
    const State& state_;
  };

  // After an error of what writes there, bytes may be on their way still: in a buffer of a node
  // that stands still, or of a process that died. settle.cpp: before anything is written there
  // again, the node is asked to let none of it land. settle() does so, if it is needed; before a
  // mere read only where the node may have renamed the region already.
  void settle(const std::string& node, Access before) const;
  void settle(std::uint64_t offset_bytes, std::uint64_t count, Access before) const;
  void unsettle(const std::string& node) const;
  [[nodiscard]] RegionId name_on(const std::string& node) const;
  struct Unsettled {
    RegionId next_name;
    bool is_asked = false;  // Either name may be the right one.
  };

  std::shared_ptr<Pool::State> pool;
  RegionId id = 0;
  std::uint64_t size_bytes = 0;
  std::string name;
  bool is_published = false;
  std::optional<DeviceStatus> gpu;           // Whose addresses `range` has; empty: the processor's.
  std::shared_ptr<CudaBackend> mapper;       // Of that GPU; null: pool->backend maps.
  mutable std::optional<CudaStream> stream;  // Of that GPU.
  StitchedRange range;
  mutable std::mutex names_mutex;                 // Guards these two.
  mutable std::map<std::string, RegionId> names;  // On nodes that know it by another than `id`.
  mutable std::map<std::string, Unsettled> unsettled;  // By node.
  std::map<std::uint64_t, Extent> extents;  // By offset; they tile the region, granule-rounded.
};

[[nodiscard]] RegionId random_region_id();

}  // namespace causeway
