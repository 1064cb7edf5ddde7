// A GPU as a Compute: the kernels of gpu_kernels.h, matrix products by cuBLAS where it is there.
//
// Shape:   pointers are addresses of the GPU: of its own allocate(), or of pool regions whose
//          cuda_ordinal() it has. Views are copies in pinned memory, which is kept for the next.
// Errors:  as compute.h and gpu_driver.h.
// Cost:    a call of Compute is one to five launches, some 5 us each (an estimate); the start is
//          the context's and the compilation of the kernels.
// Threads: one at a time.
#pragma once

#include <memory>

#include "compute.h"

namespace train_gpt {

// `ordinal` as cuDeviceGet() counts.
[[nodiscard]] std::unique_ptr<Compute<float>> gpu_compute(int ordinal);

}  // namespace train_gpt
