// The GPUs of this node as this process maps their memory.
//
// Shape:   one backend for each GPU that is used, kept as long as this; all of one family, so that
//          memory of several maps into one range. The driver is opened when the first is needed.
// Errors:  unsupported, with the reason and what to do: no driver here, or one that does not show
//          that GPU.
// Cost:    the first use of a GPU starts its context: some 100 ms.
// Threads: any.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "allocator/cuda/cuda_backend.h"
#include "causeway/pool.h"

namespace causeway {

class Gpus {
 public:
  // `device`: of kind "cuda", of this node.
  [[nodiscard]] std::shared_ptr<CudaBackend> backend(const DeviceStatus& device);

 private:
  std::mutex mutex_;  // Guards what follows.
  std::shared_ptr<CudaDriver> driver_;
  std::map<std::string, std::shared_ptr<CudaBackend>> backends_;  // By UUID.
};

}  // namespace causeway
