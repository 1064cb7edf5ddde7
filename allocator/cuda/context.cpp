#include "allocator/cuda/context.h"

#include <fmt/format.h>

#include <utility>

namespace causeway {

using namespace cuda;

CudaContext::CudaContext(std::shared_ptr<CudaDriver> driver, int ordinal)
    : driver_(std::move(driver)), ordinal_(ordinal), label_(fmt::format("GPU {}", ordinal)) {}

std::shared_ptr<CudaContext> CudaContext::retain(std::shared_ptr<CudaDriver> driver, int ordinal) {
  const int count = driver->device_count();
  if (ordinal < 0 || ordinal >= count)
    throw Error(Errc::not_found,
                fmt::format("there is no GPU {}: the driver shows {}", ordinal, count));
  const std::shared_ptr<CudaContext> result(new CudaContext(std::move(driver), ordinal));
  const auto& f = result->functions();
  result->driver_->check(f.cuDeviceGet(&result->device_, ordinal), result->label_, "cuDeviceGet");
  result->driver_->check(f.cuDevicePrimaryCtxRetain(&result->context_, result->device_),
                         result->label_, "cuDevicePrimaryCtxRetain");
  return result;
}

CudaContext::~CudaContext() {
  if (context_ == nullptr || CudaDriver::is_exiting()) return;
  // A second time, since the driver keeps the context for as long as it is not told.
  if (functions().cuDevicePrimaryCtxRelease(device_) != kSuccess)
    (void)functions().cuDevicePrimaryCtxRelease(device_);
}

void CudaContext::make_current() const {
  driver_->check(functions().cuCtxSetCurrent(context_), label_, "cuCtxSetCurrent");
}

CudaContext::Current::Current(const CudaContext& context) : context_(context) {
  context.driver_->check(context.functions().cuCtxPushCurrent(context.context_), context.label_,
                         "cuCtxPushCurrent");
}

CudaContext::Current::~Current() {
  Context popped = nullptr;
  if (context_.functions().cuCtxPopCurrent(&popped) != kSuccess)
    (void)context_.functions().cuCtxPopCurrent(&popped);
}

CudaContext::TryCurrent::~TryCurrent() {
  Context popped = nullptr;
  if (is_current_ && context_.functions().cuCtxPopCurrent(&popped) != kSuccess)
    (void)context_.functions().cuCtxPopCurrent(&popped);
}

}  // namespace causeway
