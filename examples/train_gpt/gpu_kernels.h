// The kernels of the GPU's Compute, which gpu_kernels.cu defines, and their names.
//
// Shape:   what each computes says compute.h. `blocks` of kThreads threads; where a kernel is "by
//          row", block i of the grid's first dimension has row i. Pointers are device addresses.
// Errors:  none; sizes are the caller's promise.
// Threads: kernels of one stream run one after the other. No atomics: equal input, equal bits.
#pragma once

#include "gpu_block.h"

namespace train_gpt::gpu {

// Element (i, j) is at data[i * stride + j], or, transposed, at data[j * stride + i]. In a batch of
// outer x inner matrices, number (o, i) begins o * outer + i * inner further on.
template <typename T>
struct BatchedMatrix {
  T* data;
  size_t stride;
  bool is_transposed;
  size_t outer;
  size_t inner;
};

// c = alpha a b + beta c for each of outer x inner; a is [m, k], b is [k, n]. c is not transposed.
// With beta 0, c is not read.
struct Product {
  size_t m, n, k;
  float alpha, beta;
  BatchedMatrix<const float> a;
  BatchedMatrix<const float> b;
  BatchedMatrix<float> c;
  size_t outer, inner;
};

constexpr unsigned kTile = 64;          // A block of multiply() has a tile of kTile x kTile of c.
constexpr unsigned kSumColumns = 32;    // A block that adds up columns has so many of them.
constexpr unsigned kSquareBlocks = 32;  // Of one tensor.
constexpr float kNormEpsilon = 1e-5F;

// As adamw() wants them (compute.h).
struct AdamStep {
  float gradient_scale, beta1, beta2, m_rate, v_scale, epsilon, keep;
};

// Blocks: tiles of c; batches: any number up to outer x inner.
GPU_KERNEL multiply(Product product);
// y = bias + add_to, either of which may be null. Blocks: any number.
GPU_KERNEL fill_rows(size_t rows, size_t columns, const float* bias, const float* add_to, float* y);
// into += column sums. Blocks: kSumColumns columns each.
GPU_KERNEL add_columns(size_t rows, size_t columns, const float* values, float* into);
// By row.
GPU_KERNEL norm_rows(size_t width, const float* x, const float* weight, const float* bias, float* y,
                     float* mean, float* scale);
GPU_KERNEL norm_rows_back(size_t width, const float* x, const float* weight, const float* mean,
                          const float* scale, const float* dy, float* dx);
// Blocks: kSumColumns columns each.
GPU_KERNEL norm_columns_back(size_t rows, size_t width, const float* x, const float* mean,
                             const float* scale, const float* dy, float* dweight, float* dbias);
// Blocks: any number.
GPU_KERNEL gelu(size_t count, const float* x, float* gate, float* y);
GPU_KERNEL gelu_back(size_t count, const float* x, const float* gate, float* dy);
// By row of length x length matrices: row r keeps its columns up to r, behind them are zeros.
GPU_KERNEL causal_softmax(size_t length, float* scores);
GPU_KERNEL causal_softmax_back(size_t length, float scale, const float* weights, float* d);
// Blocks: any number.
GPU_KERNEL embed_rows(size_t rows, size_t length, size_t width, const unsigned char* tokens,
                      const float* token_table, const float* position_table, float* y);
// Block g: group g.
GPU_KERNEL add_group(size_t width, const unsigned* order, const unsigned* firsts,
                     const unsigned* numbers, const float* from, float* into);
// By row; `dlogits` may be null, or `logits`.
GPU_KERNEL cross_entropy_rows(size_t classes, const float* logits, const unsigned char* targets,
                              float factor, float* dlogits, float* losses);
// Block b: partials[b] = its part of the squares. kSquareBlocks blocks.
GPU_KERNEL square_sums(size_t count, const float* values, double* partials);
// Blocks: any number.
GPU_KERNEL adam(AdamStep step, size_t count, float* weights, float* gradients, float* m, float* v);

#define TRAIN_GPT_KERNELS(X) \
  X(multiply)                \
  X(fill_rows)               \
  X(add_columns)             \
  X(norm_rows)               \
  X(norm_rows_back)          \
  X(norm_columns_back)       \
  X(gelu)                    \
  X(gelu_back)               \
  X(causal_softmax)          \
  X(causal_softmax_back)     \
  X(embed_rows)              \
  X(add_group)               \
  X(cross_entropy_rows)      \
  X(square_sums)             \
  X(adam)

}  // namespace train_gpt::gpu
