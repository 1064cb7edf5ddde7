#include "runtime/pool/gpu_addresses.h"

#include <fmt/format.h>

#include "causeway/error.h"

namespace causeway {

void GpuAddresses::add(const std::byte* at, std::uint64_t size_bytes, const DeviceName& device) {
  const std::lock_guard lock(mutex_);
  ranges_.insert_or_assign(at, Range{at + size_bytes, device});
  count_ = ranges_.size();
}

void GpuAddresses::remove(const std::byte* at, std::uint64_t size_bytes) noexcept {
  if (count_ == 0) return;
  const std::lock_guard lock(mutex_);
  ranges_.erase(ranges_.lower_bound(at), ranges_.lower_bound(at + size_bytes));
  count_ = ranges_.size();
}

void GpuAddresses::require_host(std::span<const std::byte> bytes) const {
  if (count_ == 0 || bytes.empty()) return;
  const std::lock_guard lock(mutex_);
  auto next = ranges_.lower_bound(bytes.data() + bytes.size());
  if (next == ranges_.begin() || std::prev(next)->second.end <= bytes.data()) return;
  throw Error(Errc::unsupported,
              fmt::format("{} bytes at {} are memory of {}, where the processor cannot reach them; "
                          "read() them into host memory, or copy them by the GPU, and hand over "
                          "that",
                          bytes.size(), fmt::ptr(bytes.data()),
                          std::prev(next)->second.device.to_string()));
}

}  // namespace causeway
