// The arithmetic of a transformer on plain row-major arrays, forward and backward by hand.
//
// Shape:   T is float or double. Matrices are rows x columns without padding; a weight is
//          [outputs, inputs]. Gradients of weights are summed over the rows, then added once to
//          what is there: so what a call adds does not depend on it.
// Errors:  none; sizes are the caller's promise.
// Cost:    linear_* run in OpenBLAS; the rest is linear in its arguments.
// Threads: pure functions. The order of summation is fixed, so equal input gives equal bits.
#pragma once

#include <cstddef>
#include <span>

namespace train_gpt {

// Threads that OpenBLAS may use in this process.
void set_blas_threads(int count);

// y = x weight^T + base, where base is one row for all rows or, with `add_to` set, also add_to.
template <typename T>
void linear_forward(std::size_t rows, std::size_t inputs, std::size_t outputs, const T* x,
                    const T* weight, const T* bias, const T* add_to, T* y);

// dx = dy weight; dweight += dy^T x; dbias += column sums of dy. `bias` and `dbias` may be null.
template <typename T>
void linear_backward(std::size_t rows, std::size_t inputs, std::size_t outputs, const T* x,
                     const T* weight, const T* dy, T* dx, T* dweight, T* dbias);

// Keeps the mean and the reciprocal deviation of each row for backward.
template <typename T>
void norm_forward(std::size_t rows, std::size_t width, const T* x, const T* weight, const T* bias,
                  T* y, T* mean, T* scale);

// dx += the gradient through the norm.
template <typename T>
void norm_backward(std::size_t rows, std::size_t width, const T* x, const T* weight, const T* mean,
                   const T* scale, const T* dy, T* dx, T* dweight, T* dbias);

// into += the sum of those `rows` of `from`.
template <typename T>
void add_rows(std::span<const std::size_t> rows, std::size_t width, const T* from, T* into);

// GELU by the logistic form of its tanh approximation; keeps the gate for backward.
template <typename T>
void gelu_forward(std::size_t count, const T* x, T* gate, T* y);
// dy becomes dx in place.
template <typename T>
void gelu_backward(std::size_t count, const T* x, const T* gate, T* dy);

struct AttentionShape {
  std::size_t batch;
  std::size_t length;
  std::size_t heads;
  std::size_t head_width;
};

// Causal attention. qkv is [batch * length, 3 * heads * head_width]; weights keeps
// [batch, heads, length, length]; out is [batch * length, heads * head_width].
template <typename T>
void attention_forward(const AttentionShape& shape, const T* qkv, T* weights, T* out);
// `scratch` holds length * length values.
template <typename T>
void attention_backward(const AttentionShape& shape, const T* qkv, const T* weights, const T* dout,
                        T* dqkv, T* scratch);

// Mean cross entropy in nats of the rows of `logits` against `targets`. With `dlogits` set (it may
// be `logits`) writes the gradient times `gradient_scale`.
template <typename T>
double cross_entropy(std::size_t rows, std::size_t classes, const T* logits,
                     const unsigned char* targets, double gradient_scale, T* dlogits);

}  // namespace train_gpt
