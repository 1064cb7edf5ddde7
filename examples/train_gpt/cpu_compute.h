// The processor as a Compute: plain arrays, matrix products by OpenBLAS.
//
// Cost:    products run in OpenBLAS, the rest is linear in its arguments; views are free.
// Threads: any: it holds nothing.
#pragma once

#include "compute.h"

namespace train_gpt {

// Threads that OpenBLAS may use in this process.
void set_blas_threads(int count);

// T is float or double.
template <typename T>
[[nodiscard]] Compute<T>& processor();

}  // namespace train_gpt
