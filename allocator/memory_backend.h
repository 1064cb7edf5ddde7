// One device's memory as the operating system or the driver gives it: reserve addresses, create
// physical memory, map it, grant access, export it to another process, import it from one.
//
// Shape:   a Segment is physical memory, a Reservation a range of addresses. A segment is mapped
//          whole, at any granule of a reservation, and as often as one likes: all mappings show the
//          same bytes. A mapping grants nothing until set_access(). Segments of one family() map
//          into reservations of every backend of that family (several devices, one address range).
// Units:   bytes; sizes and offsets are multiples of granule_bytes().
// Errors:  throws Error: invalid_argument (not a multiple of the granule, a range that is taken, or
//          a part of a mapping), out_of_bounds (outside of the reservation), out_of_memory (with
//          needed and available bytes), unsupported (a segment of another family), exhausted (file
//          descriptors or mappings), protocol (an imported descriptor that is not what it is said
//          to be), io. A call that throws has changed nothing; set_access() over several mappings
//          may have reached some.
// Cost:    a few system or driver calls each; none touches the bytes. Fresh memory reads as zero.
// Threads: create, import_segment, reserve and export_segment from any thread; one reservation
//          from one thread at a time. A backend outlives its segments and reservations.
// Source:  the CUDA virtual memory management API (cuMemCreate, cuMemAddressReserve, cuMemMap,
//          cuMemSetAccess, cuMemExportToShareableHandle), CUDA driver API reference.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "allocator/unique_fd.h"

namespace causeway {

class MemoryBackend;

enum class Protection : std::uint8_t { none, read, read_write };

// Physical memory. Its destructor gives it back to the device; bytes that are still mapped, here or
// in another process, live until the last mapping goes.
class Segment {
 public:
  Segment() noexcept = default;  // Holds nothing; size 0.
  Segment(Segment&& other) noexcept;
  Segment& operator=(Segment&& other) noexcept;
  ~Segment();

  [[nodiscard]] std::uint64_t size_bytes() const noexcept { return size_bytes_; }
  [[nodiscard]] explicit operator bool() const noexcept { return backend_ != nullptr; }

 private:
  friend class MemoryBackend;
  // Created memory counts against its backend's capacity; imported memory is counted by its owner.
  enum class Origin : std::uint8_t { created, imported };
  void reset() noexcept;
  Segment(MemoryBackend& backend, std::uint64_t handle, std::uint64_t size_bytes, Origin origin)
      : backend_(&backend), handle_(handle), size_bytes_(size_bytes), origin_(origin) {}

  MemoryBackend* backend_ = nullptr;
  std::uint64_t handle_ = 0;  // Host: a file descriptor. CUDA: a CUmemGenericAllocationHandle.
  std::uint64_t size_bytes_ = 0;
  Origin origin_ = Origin::imported;
};

// A range of addresses. Its destructor unmaps what is mapped there and frees the range.
class Reservation {
 public:
  Reservation() noexcept = default;  // Holds nothing; size 0.
  Reservation(Reservation&& other) noexcept;
  Reservation& operator=(Reservation&& other) noexcept;
  ~Reservation();

  // Aligned to granule_bytes(). For a GPU: an address of the device.
  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::uint64_t size_bytes() const noexcept { return size_bytes_; }
  [[nodiscard]] MemoryBackend* backend() const noexcept { return backend_; }
  [[nodiscard]] explicit operator bool() const noexcept { return backend_ != nullptr; }

 private:
  friend class MemoryBackend;
  Reservation(MemoryBackend& backend, std::byte* data, std::uint64_t size_bytes)
      : backend_(&backend), data_(data), size_bytes_(size_bytes) {}
  void reset() noexcept;

  MemoryBackend* backend_ = nullptr;
  std::byte* data_ = nullptr;
  std::uint64_t size_bytes_ = 0;
  std::map<std::uint64_t, std::uint64_t> mapped_;  // Size of each mapping, by offset.
};

// The public calls check their arguments once for all bodies; a body overrides the do_ calls.
class MemoryBackend {
 public:
  MemoryBackend() = default;
  virtual ~MemoryBackend() = default;
  MemoryBackend(const MemoryBackend&) = delete;
  MemoryBackend& operator=(const MemoryBackend&) = delete;

  [[nodiscard]] virtual const std::string& name() const noexcept = 0;  // For messages.
  // Which segments may be mapped beside each other: "host" or "cuda".
  [[nodiscard]] virtual const char* family() const noexcept = 0;
  [[nodiscard]] virtual std::uint64_t granule_bytes() const noexcept = 0;
  [[nodiscard]] virtual std::uint64_t capacity_bytes() const noexcept = 0;
  // What create() has lent and not got back. Importing does not count.
  [[nodiscard]] virtual std::uint64_t used_bytes() const noexcept = 0;

  // `size_bytes` rounded up to whole granules. Errors: invalid_argument where that overflows.
  [[nodiscard]] std::uint64_t round_up(std::uint64_t size_bytes) const;

  [[nodiscard]] Segment create(std::uint64_t size_bytes);
  [[nodiscard]] Reservation reserve(std::uint64_t size_bytes);

  // Maps all of `segment` at `offset_bytes`, without access. The range must be unmapped.
  void map(Reservation& reservation, std::uint64_t offset_bytes, const Segment& segment);

  // The range must be one or more whole mappings, end to end. Afterwards it is reserved only.
  void unmap(Reservation& reservation, std::uint64_t offset_bytes, std::uint64_t size_bytes);

  // Sets what this backend's device may do there. The range: as for unmap().
  void set_access(Reservation& reservation, std::uint64_t offset_bytes, std::uint64_t size_bytes,
                  Protection protection);

  // Puts `segment` in the place of the one mapping at `offset_bytes`, of the same size, and grants
  // `protection`. The host does it in one step: a reader sees the old or the new bytes and never a
  // fault. CUDA needs unmap, map and set_access: nothing may use the range meanwhile.
  void remap(Reservation& reservation, std::uint64_t offset_bytes, const Segment& segment,
             Protection protection);

  // A descriptor for another process; close-on-exec. The memory lives while anybody holds one.
  [[nodiscard]] UniqueFd export_segment(const Segment& segment);

  // Takes the descriptor of an exported segment of this family, from any process. Trusts nothing:
  // kind, size and seals are checked, so that no peer can take bytes away under a mapping.
  [[nodiscard]] Segment import_segment(UniqueFd fd, std::uint64_t size_bytes);

 protected:
  // Arguments are checked; each throws and has changed nothing, or succeeds.
  [[nodiscard]] virtual std::uint64_t do_create(std::uint64_t size_bytes) = 0;
  virtual void do_destroy(std::uint64_t handle, std::uint64_t size_bytes,
                          bool created) noexcept = 0;
  [[nodiscard]] virtual std::byte* do_reserve(std::uint64_t size_bytes) = 0;
  virtual void do_free(std::byte* data, std::uint64_t size_bytes) noexcept = 0;
  virtual void do_map(std::byte* at, std::uint64_t size_bytes, std::uint64_t handle) = 0;
  virtual void do_unmap(std::byte* at, std::uint64_t size_bytes) = 0;
  virtual void do_set_access(std::byte* at, std::uint64_t size_bytes, Protection protection) = 0;
  virtual void do_remap(std::byte* at, std::uint64_t size_bytes, std::uint64_t handle,
                        Protection protection) = 0;
  [[nodiscard]] virtual UniqueFd do_export(std::uint64_t handle) = 0;
  [[nodiscard]] virtual std::uint64_t do_import(UniqueFd fd, std::uint64_t size_bytes) = 0;

 private:
  friend class Segment;
  friend class Reservation;
  void release_range(const Reservation& reservation) noexcept;
  void check_size(std::uint64_t size_bytes) const;
  void check_range(const Reservation& reservation, std::uint64_t offset_bytes,
                   std::uint64_t size_bytes) const;
  void check_mapped(const Reservation& reservation, std::uint64_t offset_bytes,
                    std::uint64_t size_bytes) const;
  void check_segment(const Segment& segment) const;
};

}  // namespace causeway
