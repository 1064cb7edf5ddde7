#include "runtime/pool/gpus.h"

#include <fmt/format.h>

namespace causeway {

std::shared_ptr<CudaBackend> Gpus::backend(const DeviceStatus& device) {
  const std::lock_guard lock(mutex_);
  if (const auto known = backends_.find(device.uuid); known != backends_.end())
    return known->second;
  const auto name = device.name.to_string();
  try {
    if (!driver_) driver_ = CudaDriver::open();
  } catch (const Error& error) {
    throw Error(error.code(),
                fmt::format("{} is memory of a GPU, and this process cannot map it: {}", name,
                            error.what()));
  }
  const auto ordinal = driver_->find_device(device.uuid);
  if (!ordinal)
    throw Error(Errc::unsupported,
                fmt::format("{} is memory of {}, which the CUDA driver does not show to this "
                            "process; see its CUDA_VISIBLE_DEVICES",
                            name, device.uuid));
  auto backend = std::make_shared<CudaBackend>(CudaContext::retain(driver_, *ordinal),
                                               CudaBackend::Options{.name = name});
  return backends_[device.uuid] = std::move(backend);
}

}  // namespace causeway
