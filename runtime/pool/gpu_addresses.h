// Which addresses of this process are a GPU's memory, which the processor cannot touch: so that who
// hands them to a call that would is told, and not ended by SIGSEGV.
//
// Shape:   ranges that do not overlap, each with the device whose memory is mapped there.
// Errors:  require_host() throws unsupported naming the device and what to do.
// Cost:    require_host() takes a load as long as there are none, else a lock and O(log n).
// Threads: any.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>

#include "causeway/device_name.h"

namespace causeway {

class GpuAddresses {
 public:
  // In the place of what begins there.
  void add(const std::byte* at, std::uint64_t size_bytes, const DeviceName& device);
  void remove(const std::byte* at, std::uint64_t size_bytes) noexcept;
  void require_host(std::span<const std::byte> bytes) const;

 private:
  struct Range {
    const std::byte* end;
    DeviceName device;
  };
  mutable std::mutex mutex_;  // Guards ranges_.
  std::map<const std::byte*, Range> ranges_;
  std::atomic<std::size_t> count_ = 0;
};

}  // namespace causeway
