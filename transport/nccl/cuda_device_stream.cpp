#include "transport/nccl/cuda_device_stream.h"

#include <mutex>
#include <utility>

namespace causeway {

namespace {

// Never freed: freeing memory of a device waits for all of its work, and this may never end.
void leave_to_driver(std::vector<CudaPlainMemory> memory) {
  static std::mutex mutex;
  static auto* const left = new std::vector<std::vector<CudaPlainMemory>>;
  const std::lock_guard lock(mutex);
  left->push_back(std::move(memory));
}

}  // namespace

CudaDeviceStream::CudaDeviceStream(std::shared_ptr<CudaContext> context)
    : context_(std::move(context)), stream_(context_), mark_(context_) {}

CudaDeviceStream::~CudaDeviceStream() {
  if (scratch_.empty()) return;
  bool is_idle = false;
  try {
    is_idle = stream_.is_idle();
  } catch (const Error&) {  // The context is broken: nobody knows what still runs.
  }
  if (!is_idle) leave_to_driver(std::move(scratch_));
}

std::span<std::byte> CudaDeviceStream::scratch(std::size_t size_bytes) {
  if (scratch_.empty() || scratch_.back().bytes().size() < size_bytes)
    scratch_.push_back(CudaPlainMemory::on_device(context_, size_bytes));
  return scratch_.back().bytes();
}

void CudaDeviceStream::copy(std::span<std::byte> to, std::span<const std::byte> from) {
  stream_.copy(to.data(), from.data(), to.size());
}

}  // namespace causeway
