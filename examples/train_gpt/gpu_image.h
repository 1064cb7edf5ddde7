// The kernels as what a driver loads: PTX for NVIDIA's, a table of host functions for the software
// driver of tests/cuda_emulator.
//
// Threads: constants.
#pragma once

#include <string>

namespace train_gpt {

[[nodiscard]] const char* ptx() noexcept;  // gpu_kernels.ptx, ends with a 0.
[[nodiscard]] const void* host_image() noexcept;
// "a GPU of sm_70 and a driver for CUDA 11.7, or newer": what the PTX names.
[[nodiscard]] std::string kernel_requirements();

}  // namespace train_gpt
