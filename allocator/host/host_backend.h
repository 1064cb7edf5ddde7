// Host memory as a device: a NUMA node of the host, or an emulated GPU.
//
// Shape:   a segment is a memfd of its own, sealed against shrinking and growing; a reservation is
//          an inaccessible mapping; map is mmap over it. `grep causeway /proc/PID/maps` shows them.
// Units:   bytes; kHostGranuleBytes.
// Errors:  those of MemoryBackend. The capacity limits what may be lent; pages appear when touched,
//          so an emulated device of 80 GiB costs what its users write.
// Cost:    create 3 system calls (5 with a NUMA node), map, unmap and set_access 1.
// Threads: those of MemoryBackend.
// Source:  memfd_create(2), fcntl(2) on file sealing, mbind(2).
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>

#include "allocator/memory_backend.h"

namespace causeway {

inline constexpr std::uint64_t kHostGranuleBytes = 64 * 1024;

class HostBackend : public MemoryBackend {
 public:
  struct Options {
    std::string name;                  // "desktop/gpu0": for messages and /proc.
    std::uint64_t capacity_bytes = 0;  // 0: this process only imports.
    // Prefer the memory of this node. Where the system does not let us choose (no NUMA, a
    // container's filter), the memory comes from anywhere and binds_numa_node() says so.
    std::optional<unsigned> numa_node = std::nullopt;
  };

  // Errors: invalid_argument if the name is too long for /proc or there is no such NUMA node.
  explicit HostBackend(Options options);

  [[nodiscard]] const std::string& name() const noexcept override { return options_.name; }
  [[nodiscard]] const char* family() const noexcept override { return "host"; }
  [[nodiscard]] std::uint64_t granule_bytes() const noexcept override { return kHostGranuleBytes; }
  [[nodiscard]] std::uint64_t capacity_bytes() const noexcept override {
    return options_.capacity_bytes;
  }
  [[nodiscard]] std::uint64_t used_bytes() const noexcept override { return used_bytes_.load(); }
  [[nodiscard]] bool binds_numa_node() const noexcept { return binds_numa_node_; }

 protected:
  std::uint64_t do_create(std::uint64_t size_bytes) override;
  void do_destroy(std::uint64_t handle, std::uint64_t size_bytes, bool created) noexcept override;
  std::byte* do_reserve(std::uint64_t size_bytes) override;
  void do_free(std::byte* data, std::uint64_t size_bytes) noexcept override;
  void do_map(std::byte* at, std::uint64_t size_bytes, std::uint64_t handle) override;
  void do_unmap(std::byte* at, std::uint64_t size_bytes) override;
  void do_set_access(std::byte* at, std::uint64_t size_bytes, Protection protection) override;
  void do_remap(std::byte* at, std::uint64_t size_bytes, std::uint64_t handle,
                Protection protection) override;
  UniqueFd do_export(std::uint64_t handle) override;
  std::uint64_t do_import(UniqueFd fd, std::uint64_t size_bytes) override;

 private:
  void take_capacity(std::uint64_t size_bytes);
  void map_file(std::byte* at, std::uint64_t size_bytes, std::uint64_t handle,
                Protection protection) const;
  [[nodiscard]] UniqueFd create_file(std::uint64_t size_bytes) const;
  // False if the system does not let us choose. Errors: invalid_argument if there is no such node.
  [[nodiscard]] bool prefer_numa_node(int fd, std::uint64_t size_bytes) const;

  Options options_;
  bool binds_numa_node_ = false;
  std::atomic<std::uint64_t> used_bytes_{0};
};

}  // namespace causeway
