// The part of cuBLAS's binary interface that is called: own declarations, so that nothing needs its
// headers. Matrices are column-major, alpha and beta in host memory.
//
// Source:  the cuBLAS documentation. Where cublas_v2.h is found, gpt_gpu_abi_test compares.
// Threads: types.
#pragma once

#include "gpu_driver.h"

namespace train_gpt {

using CublasHandle = struct CublasHandleTag*;

}  // namespace train_gpt

// X(name, suffix of the symbol, parameters)
#define TRAIN_GPT_CUBLAS(X)                                                                       \
  X(cublasCreate, _v2, (CublasHandle * handle))                                                   \
  X(cublasDestroy, _v2, (CublasHandle handle))                                                    \
  X(cublasSetStream, _v2, (CublasHandle handle, GpuStream stream))                                \
  X(cublasSgemmStridedBatched, ,                                                                  \
    (CublasHandle handle, int a_operation, int b_operation, int m, int n, int k,                  \
     const float* alpha, const float* a, int a_stride, long long a_next, const float* b,          \
     int b_stride, long long b_next, const float* beta, float* c, int c_stride, long long c_next, \
     int count))
