// What computes a stage, as a seam: memory, and the arithmetic of a transformer on it, forward and
// backward by hand. One body is the processor (cpu_compute.h), one a GPU (gpu_compute.h).
//
// Shape:   T is float or double. Pointers and spans are of the body's own memory unless named host
//          memory; only allocate() and views turn one into the other. Matrices are row-major, rows
//          x columns without padding; a weight is [outputs, inputs]. Gradients of weights are
//          summed over the rows, then added once to what is there: so what a call adds does not
//          depend on it.
// Errors:  sizes are the caller's promise. The processor has none; a GPU throws Error naming
//          itself, the call and the driver's reason, at the latest from a call that waits for it.
// Cost:    a GPU works through its calls in order while the caller goes on; what gives host memory
//          or a figure waits for all of them.
// Threads: one at a time. The order of summation is fixed, so that equal input gives equal bits on
//          the same body; bodies differ by rounding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace train_gpt {

struct AttentionShape {
  std::size_t batch;
  std::size_t length;
  std::size_t heads;
  std::size_t head_width;
};

// The factors of one AdamW update (optimizer.h).
struct AdamFactors {
  float gradient_scale;
  float beta1, beta2;
  float m_rate;   // The rate, with m's correction.
  float v_scale;  // v's correction.
  float epsilon;
  float keep;  // What decay leaves of a weight.
};

// Rows to be added up: group g are the rows order[firsts[g]] to order[firsts[g + 1] - 1], and their
// sum belongs to row numbers[g] of a table. No number comes twice. In host memory.
struct RowGroups {
  std::vector<std::uint32_t> order;
  std::vector<std::uint32_t> firsts;
  std::vector<std::uint32_t> numbers;
};

template <typename T>
using Buffer = std::unique_ptr<T[], std::function<void(T*)>>;

// A body's values where the host can touch them: they themselves, or a copy of them.
template <typename T>
class View {
 public:
  View(std::span<T> host, std::function<void()> put, std::shared_ptr<void> owner)
      : host_(host), put_(std::move(put)), owner_(std::move(owner)) {}
  [[nodiscard]] std::span<T> host() const noexcept { return host_; }
  // The host's values become the body's.
  void put() const {
    if (put_) put_();
  }

 private:
  std::span<T> host_;
  std::function<void()> put_;
  std::shared_ptr<void> owner_;
};

template <typename T>
class Compute {
 public:
  Compute() = default;
  Compute(const Compute&) = delete;
  Compute& operator=(const Compute&) = delete;
  virtual ~Compute() = default;

  [[nodiscard]] virtual std::string describe() const = 0;  // "the processor"

  // `count` values, undefined, that must not outlive this.
  [[nodiscard]] virtual Buffer<T> allocate(std::size_t count) = 0;
  // With the values, or for a caller that fills all of it and calls put().
  [[nodiscard]] virtual View<T> view(std::span<T> values) = 0;
  [[nodiscard]] virtual View<T> blank(std::span<T> values) = 0;
  virtual void clear(std::span<T> values) = 0;  // Zeros.

  // y = x weight^T + base, where base is one row for all rows or, with `add_to` set, also add_to.
  virtual void linear_forward(std::size_t rows, std::size_t inputs, std::size_t outputs, const T* x,
                              const T* weight, const T* bias, const T* add_to, T* y) = 0;
  // dx = dy weight; dweight += dy^T x; dbias += column sums of dy. `dbias` may be null.
  virtual void linear_backward(std::size_t rows, std::size_t inputs, std::size_t outputs,
                               const T* x, const T* weight, const T* dy, T* dx, T* dweight,
                               T* dbias) = 0;

  // Keeps the mean and the reciprocal deviation of each row for backward.
  virtual void norm_forward(std::size_t rows, std::size_t width, const T* x, const T* weight,
                            const T* bias, T* y, T* mean, T* scale) = 0;
  // dx += the gradient through the norm.
  virtual void norm_backward(std::size_t rows, std::size_t width, const T* x, const T* weight,
                             const T* mean, const T* scale, const T* dy, T* dx, T* dweight,
                             T* dbias) = 0;

  // GELU by the logistic form of its tanh approximation; keeps the gate for backward.
  virtual void gelu_forward(std::size_t count, const T* x, T* gate, T* y) = 0;
  // dy becomes dx in place.
  virtual void gelu_backward(std::size_t count, const T* x, const T* gate, T* dy) = 0;

  // Causal attention. qkv is [batch * length, 3 * heads * head_width]; weights keeps
  // [batch, heads, length, length]; out is [batch * length, heads * head_width].
  virtual void attention_forward(const AttentionShape& shape, const T* qkv, T* weights, T* out) = 0;
  // `scratch` holds attention_scratch() values.
  virtual void attention_backward(const AttentionShape& shape, const T* qkv, const T* weights,
                                  const T* dout, T* dqkv, T* scratch) = 0;
  [[nodiscard]] virtual std::size_t attention_scratch(const AttentionShape& shape) const = 0;

  // Row r of y = row tokens[r] of one table + row r % length of the other. `tokens` in host memory.
  virtual void embed(std::span<const unsigned char> tokens, std::size_t length, std::size_t width,
                     const T* token_table, const T* position_table, T* y) = 0;
  // into += the sums of rows of `from`.
  virtual void add_row_groups(const RowGroups& groups, std::size_t width, const T* from,
                              T* into) = 0;

  // Mean cross entropy in nats of the rows of `logits` against `targets`, in host memory. With
  // `dlogits` set (it may be `logits`) writes the gradient times `gradient_scale`.
  virtual double cross_entropy(std::span<const unsigned char> targets, std::size_t classes,
                               const T* logits, double gradient_scale, T* dlogits) = 0;

  // sums[i] = the sum of the squares of tensor i; `sums` in host memory.
  virtual void sums_of_squares(std::span<const std::span<const T>> tensors,
                               std::span<double> sums) = 0;
  // One update; the gradients are 0 afterwards.
  virtual void adamw(const AdamFactors& factors, std::span<T> weights, std::span<T> gradients,
                     std::span<T> m, std::span<T> v) = 0;
};

}  // namespace train_gpt
