// Matrix products on a GPU: by cuBLAS where it can be had, else by the own kernel.
//
// Shape:   row-major, as gpu::Product says; in the order of the device's stream.
// Errors:  as gpu_driver.h; cublas_products() throws unsupported with the reason where there is no
//          cuBLAS that works here.
// Threads: as GpuDevice.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gpu_driver.h"
#include "gpu_kernels.h"

namespace train_gpt {

class GpuProducts {
 public:
  GpuProducts() = default;
  GpuProducts(const GpuProducts&) = delete;
  GpuProducts& operator=(const GpuProducts&) = delete;
  virtual ~GpuProducts() = default;
  [[nodiscard]] virtual std::string describe()
      const = 0;  // "cuBLAS (libcublas.so.12)", "own products"
  virtual void multiply(const gpu::Product& product) = 0;
};

[[nodiscard]] std::unique_ptr<GpuProducts> tiled_products(const GpuDevice& device,
                                                          const GpuKernels& kernels);
// By the first of these names or files that opens and starts here: a cuBLAS newer than the driver
// does not. By default those of CUDA 13, 12 and 11.
[[nodiscard]] std::unique_ptr<GpuProducts> cublas_products(
    const GpuDevice& device, const std::vector<std::string>& libraries = {
                                 "libcublas.so.13", "libcublas.so.12", "libcublas.so.11"});
// What TRAIN_GPT_CUBLAS says, "off" or a library, which then must work; else cuBLAS if it is there.
// The software driver gets the own kernel unless a library is named.
[[nodiscard]] std::unique_ptr<GpuProducts> choose_products(const GpuDevice& device,
                                                           const GpuKernels& kernels);

}  // namespace train_gpt
