#include "allocator/cuda/plain_memory.h"

#include <utility>

#include "allocator/cuda/stream.h"

namespace causeway {

using namespace cuda;

CudaPlainMemory CudaPlainMemory::on_device(std::shared_ptr<CudaContext> context,
                                           std::size_t size_bytes) {
  CudaPlainMemory result(std::move(context), false);
  const auto& owner = *result.context_;
  const CudaContext::Current current(owner);
  DevicePtr at = 0;
  owner.driver().check(owner.functions().cuMemAlloc(&at, size_bytes), owner.label(), "cuMemAlloc");
  result.bytes_ = {reinterpret_cast<std::byte*>(at), size_bytes};
  return result;
}

CudaPlainMemory CudaPlainMemory::pinned(std::shared_ptr<CudaContext> context,
                                        std::size_t size_bytes) {
  CudaPlainMemory result(std::move(context), true);
  const auto& owner = *result.context_;
  const CudaContext::Current current(owner);
  void* at = nullptr;
  owner.driver().check(owner.functions().cuMemHostAlloc(&at, size_bytes, kHostAllocPortable),
                       owner.label(), "cuMemHostAlloc");
  result.bytes_ = {static_cast<std::byte*>(at), size_bytes};
  return result;
}

CudaPlainMemory::CudaPlainMemory(CudaPlainMemory&& other) noexcept
    : context_(std::move(other.context_)),
      is_pinned_(other.is_pinned_),
      bytes_(std::exchange(other.bytes_, {})) {}

CudaPlainMemory::~CudaPlainMemory() {
  if (bytes_.empty() || CudaDriver::is_exiting()) return;
  const auto& f = context_->functions();
  const auto free = [&] {
    // A thread that cannot make the context current still has one: the call may do.
    const CudaContext::TryCurrent current(*context_);
    return is_pinned_ ? f.cuMemFreeHost(bytes_.data()) : f.cuMemFree(device_address(bytes_.data()));
  };
  // A second time, since nobody else would.
  if (free() != kSuccess) (void)free();
}

}  // namespace causeway
