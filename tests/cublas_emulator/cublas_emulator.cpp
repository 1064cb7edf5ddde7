// A libcublas.so.12 on the software driver: what train_gpt calls, written from the documentation's
// formulas and not from the caller, so that a wrong order of arguments gives wrong figures.
//
// Shape:   op(A) is m x k, op(B) is k x n, C is m x n; all by columns: element (i, j) of a matrix X
//          is at X[i + j * ldx]. Works on the stream, as the real one does.
// Errors:  the real one's codes for what the documentation forbids.
// Threads: as a stream.
#include <memory>

#include "tests/cuda_emulator/exports.h"

namespace {

using causeway::cuda::Stream;

constexpr int kSuccess = 0;
constexpr int kNotInitialized = 1;
constexpr int kInvalidValue = 7;
constexpr int kExecutionFailed = 13;

struct Handle {
  Stream stream = nullptr;
};

struct Operand {
  const float* data;
  long long ld;
  long long stride;
  bool is_transposed;
  [[nodiscard]] float at(long long batch, long long row, long long column) const {
    return data[batch * stride + (is_transposed ? column + row * ld : row + column * ld)];
  }
};

struct Work {
  long long m, n, k, batches;
  float alpha, beta;
  Operand a, b;
  float* c;
  long long ldc, stride_c;
  void run() const {
    for (long long batch = 0; batch < batches; ++batch)
      for (long long column = 0; column < n; ++column)
        for (long long row = 0; row < m; ++row) {
          float sum = 0;
          for (long long i = 0; i < k; ++i) sum += a.at(batch, row, i) * b.at(batch, i, column);
          float& to = c[batch * stride_c + row + column * ldc];
          to = alpha * sum + (beta == 0 ? 0 : beta * to);
        }
  }
};

}  // namespace

extern "C" {

int cublasCreate_v2(Handle** handle) {
  if (handle == nullptr) return kInvalidValue;
#ifdef CAUSEWAY_REFUSING_CUBLAS  // As one that is newer than its driver.
  return kNotInitialized;
#else
  *handle = new Handle;
  return kSuccess;
#endif
}

int cublasDestroy_v2(Handle* handle) {
  if (handle == nullptr) return kNotInitialized;
  delete handle;
  return kSuccess;
}

int cublasSetStream_v2(Handle* handle, Stream stream) {
  if (handle == nullptr) return kNotInitialized;
  handle->stream = stream;
  return kSuccess;
}

int cublasSgemmStridedBatched(Handle* handle, int transa, int transb, int m, int n, int k,
                              const float* alpha, const float* a, int lda, long long stride_a,
                              const float* b, int ldb, long long stride_b, const float* beta,
                              float* c, int ldc, long long stride_c, int batch_count) {
  if (handle == nullptr) return kNotInitialized;
  const auto at_least_one = [](int value) { return value > 1 ? value : 1; };
  if (m < 0 || n < 0 || k < 0 || batch_count < 0 || transa < 0 || transa > 1 || transb < 0 ||
      transb > 1 || lda < at_least_one(transa == 0 ? m : k) ||
      ldb < at_least_one(transb == 0 ? k : n) || ldc < at_least_one(m) || alpha == nullptr ||
      beta == nullptr)
    return kInvalidValue;
  auto work = std::make_unique<Work>(Work{m,
                                          n,
                                          k,
                                          batch_count,
                                          *alpha,
                                          *beta,
                                          {a, lda, stride_a, transa == 1},
                                          {b, ldb, stride_b, transb == 1},
                                          c,
                                          ldc,
                                          stride_c});
  const auto result = causeway::cuda::cuLaunchHostFunc(
      handle->stream,
      [](void* data) {
        const std::unique_ptr<Work> own(static_cast<Work*>(data));
        own->run();
      },
      work.get());
  if (result != causeway::cuda::kSuccess) return kExecutionFailed;
  (void)work.release();
  return kSuccess;
}
}
