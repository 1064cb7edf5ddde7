#include "allocator/cuda/stream.h"

#include <utility>

namespace causeway {

using namespace cuda;

namespace {

void check(const CudaContext& context, Result result, const char* call) {
  context.driver().check(result, context.label(), call);
}

}  // namespace

CudaEvent::CudaEvent(std::shared_ptr<CudaContext> context, bool with_timing)
    : context_(std::move(context)) {
  const CudaContext::Current current(*context_);
  check(*context_,
        context_->functions().cuEventCreate(
            &event_, kEventBlockingSync | (with_timing ? 0 : kEventDisableTiming)),
        "cuEventCreate");
}

CudaEvent::CudaEvent(CudaEvent&& other) noexcept
    : context_(std::move(other.context_)), event_(std::exchange(other.event_, nullptr)) {}

CudaEvent::~CudaEvent() {
  if (event_ == nullptr || CudaDriver::is_exiting()) return;
  const CudaContext::TryCurrent current(*context_);
  if (context_->functions().cuEventDestroy(event_) != kSuccess)
    (void)context_->functions().cuEventDestroy(event_);
}

bool CudaEvent::is_reached() const {
  const CudaContext::Current current(*context_);
  const auto result = context_->functions().cuEventQuery(event_);
  if (result == kNotReady) return false;
  check(*context_, result, "cuEventQuery");
  return true;
}

void CudaEvent::wait() const {
  const CudaContext::Current current(*context_);
  check(*context_, context_->functions().cuEventSynchronize(event_), "cuEventSynchronize");
}

double CudaEvent::seconds_since(const CudaEvent& start) const {
  const CudaContext::Current current(*context_);
  float milliseconds = 0;
  check(*context_, context_->functions().cuEventElapsedTime(&milliseconds, start.event_, event_),
        "cuEventElapsedTime");
  return static_cast<double>(milliseconds) / 1000;
}

CudaStream::CudaStream(std::shared_ptr<CudaContext> context) : context_(std::move(context)) {
  const CudaContext::Current current(*context_);
  check(*context_, context_->functions().cuStreamCreate(&stream_, kStreamNonBlocking),
        "cuStreamCreate");
}

CudaStream::CudaStream(CudaStream&& other) noexcept
    : context_(std::move(other.context_)), stream_(std::exchange(other.stream_, nullptr)) {}

CudaStream::~CudaStream() {
  if (stream_ == nullptr || CudaDriver::is_exiting()) return;
  const CudaContext::TryCurrent current(*context_);
  if (context_->functions().cuStreamDestroy(stream_) != kSuccess)
    (void)context_->functions().cuStreamDestroy(stream_);
}

void CudaStream::copy(std::byte* to, const std::byte* from, std::size_t size_bytes) {
  const CudaContext::Current current(*context_);
  check(*context_,
        context_->functions().cuMemcpyAsync(device_address(to), device_address(from), size_bytes,
                                            stream_),
        "cuMemcpyAsync");
}

void CudaStream::copy_in(std::byte* to_device, const void* from_host, std::size_t size_bytes) {
  const CudaContext::Current current(*context_);
  check(*context_,
        context_->functions().cuMemcpyHtoDAsync(device_address(to_device), from_host, size_bytes,
                                                stream_),
        "cuMemcpyHtoDAsync");
}

void CudaStream::copy_out(void* to_host, const std::byte* from_device, std::size_t size_bytes) {
  const CudaContext::Current current(*context_);
  check(*context_,
        context_->functions().cuMemcpyDtoHAsync(to_host, device_address(from_device), size_bytes,
                                                stream_),
        "cuMemcpyDtoHAsync");
}

void CudaStream::fill(std::byte* to, unsigned char value, std::size_t size_bytes) {
  const CudaContext::Current current(*context_);
  check(*context_,
        context_->functions().cuMemsetD8Async(device_address(to), value, size_bytes, stream_),
        "cuMemsetD8Async");
}

void CudaStream::record(const CudaEvent& event) {
  const CudaContext::Current current(*context_);
  check(*context_, context_->functions().cuEventRecord(event.handle(), stream_), "cuEventRecord");
}

void CudaStream::wait_for(const CudaEvent& event) {
  const CudaContext::Current current(*context_);
  check(*context_, context_->functions().cuStreamWaitEvent(stream_, event.handle(), 0),
        "cuStreamWaitEvent");
}

bool CudaStream::is_idle() const {
  const CudaContext::Current current(*context_);
  const auto result = context_->functions().cuStreamQuery(stream_);
  if (result == kNotReady) return false;
  check(*context_, result, "cuStreamQuery");
  return true;
}

void CudaStream::synchronize() const {
  const CudaContext::Current current(*context_);
  check(*context_, context_->functions().cuStreamSynchronize(stream_), "cuStreamSynchronize");
}

}  // namespace causeway
