#include "cpu_compute.h"

#include <cblas.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace train_gpt {

namespace {

constexpr double kNormEpsilon = 1e-5;
constexpr double kGeluScale = 1.5957691216057308;  // 2 sqrt(2 / pi)
constexpr double kGeluCubic = 0.044715;

enum class Side { plain, transposed };

CBLAS_TRANSPOSE blas(Side side) { return side == Side::plain ? CblasNoTrans : CblasTrans; }

// A view of a row-major matrix inside a wider one.
template <typename T>
struct Matrix {
  T* data;
  std::size_t stride;
};

// c[m, n] = alpha a b + beta c, with inner dimension k.
void gemm(Side a_side, Side b_side, std::size_t m, std::size_t n, std::size_t k, float alpha,
          Matrix<const float> a, Matrix<const float> b, float beta, Matrix<float> c) {
  cblas_sgemm(CblasRowMajor, blas(a_side), blas(b_side), static_cast<blasint>(m),
              static_cast<blasint>(n), static_cast<blasint>(k), alpha, a.data,
              static_cast<blasint>(a.stride), b.data, static_cast<blasint>(b.stride), beta, c.data,
              static_cast<blasint>(c.stride));
}

void gemm(Side a_side, Side b_side, std::size_t m, std::size_t n, std::size_t k, double alpha,
          Matrix<const double> a, Matrix<const double> b, double beta, Matrix<double> c) {
  cblas_dgemm(CblasRowMajor, blas(a_side), blas(b_side), static_cast<blasint>(m),
              static_cast<blasint>(n), static_cast<blasint>(k), alpha, a.data,
              static_cast<blasint>(a.stride), b.data, static_cast<blasint>(b.stride), beta, c.data,
              static_cast<blasint>(c.stride));
}

// Row `row` of causal scores becomes weights: softmax over [0, row], 0 behind it.
template <typename T>
void causal_softmax(std::size_t row, std::size_t length, T* scores) {
  const auto top = *std::max_element(scores, scores + row + 1);
  T sum = 0;
  for (std::size_t i = 0; i <= row; ++i) {
    scores[i] = std::exp(scores[i] - top);
    sum += scores[i];
  }
  const auto inverse = 1 / sum;
  for (std::size_t i = 0; i <= row; ++i) scores[i] *= inverse;
  std::fill(scores + row + 1, scores + length, T{0});
}

// The gradient of a softmax row, in place: d_i = w_i (d_i - sum_j w_j d_j), times `scale`.
template <typename T>
void causal_softmax_backward(std::size_t row, std::size_t length, const T* weights, T scale, T* d) {
  T dot = 0;
  for (std::size_t i = 0; i <= row; ++i) dot += weights[i] * d[i];
  for (std::size_t i = 0; i <= row; ++i) d[i] = weights[i] * (d[i] - dot) * scale;
  std::fill(d + row + 1, d + length, T{0});
}

// into[i] += value(0, i) + value(1, i) + ..., a few columns at a time.
template <typename T, typename Value>
void add_sums(std::size_t rows, std::size_t columns, T* into, Value value) {
  constexpr std::size_t kColumns = 64;
  for (std::size_t first = 0; first < columns; first += kColumns) {
    const auto count = std::min(kColumns, columns - first);
    std::array<T, kColumns> sums{};
    for (std::size_t row = 0; row < rows; ++row)
      for (std::size_t i = 0; i < count; ++i) sums[i] += value(row, first + i);
    for (std::size_t i = 0; i < count; ++i) into[first + i] += sums[i];
  }
}

// into += dy^T x, of which BLAS alone would add parts: how many, depends on the machine.
template <typename T>
void add_product(std::size_t rows, std::size_t inputs, std::size_t outputs, const T* x, const T* dy,
                 T* into) {
  constexpr std::size_t kPanel = 64;
  std::vector<T> panel(std::min(kPanel, outputs) * inputs);
  for (std::size_t first = 0; first < outputs; first += kPanel) {
    const auto count = std::min(kPanel, outputs - first);
    gemm(Side::transposed, Side::plain, count, inputs, rows, T{1}, {dy + first, outputs},
         {x, inputs}, T{0}, {panel.data(), inputs});
    T* to = into + first * inputs;
    for (std::size_t i = 0; i < count * inputs; ++i) to[i] += panel[i];
  }
}

template <typename T>
class CpuCompute final : public Compute<T> {
 public:
  [[nodiscard]] std::string describe() const override { return "the processor"; }

  [[nodiscard]] Buffer<T> allocate(std::size_t count) override {
    return {new T[count](), [](T* values) { delete[] values; }};
  }
  [[nodiscard]] View<T> view(std::span<T> values) override { return {values, {}, {}}; }
  [[nodiscard]] View<T> blank(std::span<T> values) override { return {values, {}, {}}; }
  void clear(std::span<T> values) override { std::ranges::fill(values, T{0}); }

  [[nodiscard]] std::size_t attention_scratch(const AttentionShape& shape) const override {
    return shape.length * shape.length;
  }

  void linear_forward(std::size_t rows, std::size_t inputs, std::size_t outputs, const T* x,
                      const T* weight, const T* bias, const T* add_to, T* y) override {
    for (std::size_t row = 0; row < rows; ++row) {
      T* to = y + row * outputs;
      const T* from = add_to == nullptr ? nullptr : add_to + row * outputs;
      for (std::size_t i = 0; i < outputs; ++i)
        to[i] = (bias == nullptr ? T{0} : bias[i]) + (from == nullptr ? T{0} : from[i]);
    }
    gemm(Side::plain, Side::transposed, rows, outputs, inputs, T{1}, {x, inputs}, {weight, inputs},
         T{1}, {y, outputs});
  }

  void linear_backward(std::size_t rows, std::size_t inputs, std::size_t outputs, const T* x,
                       const T* weight, const T* dy, T* dx, T* dweight, T* dbias) override {
    add_product(rows, inputs, outputs, x, dy, dweight);
    gemm(Side::plain, Side::plain, rows, inputs, outputs, T{1}, {dy, outputs}, {weight, inputs},
         T{0}, {dx, inputs});
    if (dbias == nullptr) return;
    add_sums<T>(rows, outputs, dbias,
                [=](std::size_t row, std::size_t i) { return dy[row * outputs + i]; });
  }

  void norm_forward(std::size_t rows, std::size_t width, const T* x, const T* weight, const T* bias,
                    T* y, T* mean, T* scale) override {
    for (std::size_t row = 0; row < rows; ++row) {
      const T* in = x + row * width;
      T* out = y + row * width;
      T sum = 0;
      for (std::size_t i = 0; i < width; ++i) sum += in[i];
      const auto middle = sum / static_cast<T>(width);
      T squares = 0;
      for (std::size_t i = 0; i < width; ++i) squares += (in[i] - middle) * (in[i] - middle);
      const auto inverse = 1 / std::sqrt(squares / static_cast<T>(width) + T(kNormEpsilon));
      for (std::size_t i = 0; i < width; ++i)
        out[i] = (in[i] - middle) * inverse * weight[i] + bias[i];
      mean[row] = middle;
      scale[row] = inverse;
    }
  }

  void norm_backward(std::size_t rows, std::size_t width, const T* x, const T* weight,
                     const T* mean, const T* scale, const T* dy, T* dx, T* dweight,
                     T* dbias) override {
    for (std::size_t row = 0; row < rows; ++row) {
      const T* in = x + row * width;
      const T* d = dy + row * width;
      T* to = dx + row * width;
      T sum = 0;
      T dot = 0;
      for (std::size_t i = 0; i < width; ++i) {
        const auto normal = (in[i] - mean[row]) * scale[row];
        const auto through = d[i] * weight[i];
        sum += through;
        dot += through * normal;
      }
      sum /= static_cast<T>(width);
      dot /= static_cast<T>(width);
      for (std::size_t i = 0; i < width; ++i) {
        const auto normal = (in[i] - mean[row]) * scale[row];
        to[i] += (d[i] * weight[i] - sum - normal * dot) * scale[row];
      }
    }
    add_sums<T>(rows, width, dweight, [=](std::size_t row, std::size_t i) {
      return dy[row * width + i] * ((x[row * width + i] - mean[row]) * scale[row]);
    });
    add_sums<T>(rows, width, dbias,
                [=](std::size_t row, std::size_t i) { return dy[row * width + i]; });
  }

  void embed(std::span<const unsigned char> tokens, std::size_t length, std::size_t width,
             const T* token_table, const T* position_table, T* y) override {
    for (std::size_t row = 0; row < tokens.size(); ++row) {
      const T* token = token_table + tokens[row] * width;
      const T* position = position_table + row % length * width;
      for (std::size_t i = 0; i < width; ++i) y[row * width + i] = token[i] + position[i];
    }
  }

  void add_row_groups(const RowGroups& groups, std::size_t width, const T* from, T* into) override {
    for (std::size_t group = 0; group < groups.numbers.size(); ++group) {
      const auto first = groups.firsts[group];
      const auto* rows = groups.order.data() + first;
      add_sums<T>(groups.firsts[group + 1] - first, width, into + groups.numbers[group] * width,
                  [=](std::size_t row, std::size_t i) { return from[rows[row] * width + i]; });
    }
  }

  void gelu_forward(std::size_t count, const T* x, T* gate, T* y) override {
    for (std::size_t i = 0; i < count; ++i) {
      const auto inner = T(kGeluScale) * x[i] * (1 + T(kGeluCubic) * x[i] * x[i]);
      gate[i] = 1 / (1 + std::exp(-inner));
      y[i] = x[i] * gate[i];
    }
  }

  void gelu_backward(std::size_t count, const T* x, const T* gate, T* dy) override {
    for (std::size_t i = 0; i < count; ++i) {
      const auto slope = T(kGeluScale) * (1 + 3 * T(kGeluCubic) * x[i] * x[i]);
      dy[i] *= gate[i] + x[i] * gate[i] * (1 - gate[i]) * slope;
    }
  }

  void attention_forward(const AttentionShape& shape, const T* qkv, T* weights, T* out) override {
    const auto [batch, length, heads, head_width] = shape;
    const auto width = heads * head_width;
    const auto scale = 1 / std::sqrt(static_cast<T>(head_width));
    for (std::size_t pair = 0; pair < batch * heads; ++pair) {
      const auto first_row = pair / heads * length;
      const auto column = pair % heads * head_width;
      const T* q = qkv + first_row * 3 * width + column;
      T* w = weights + pair * length * length;
      gemm(Side::plain, Side::transposed, length, length, head_width, scale, {q, 3 * width},
           {q + width, 3 * width}, T{0}, {w, length});
      for (std::size_t row = 0; row < length; ++row) causal_softmax(row, length, w + row * length);
      gemm(Side::plain, Side::plain, length, head_width, length, T{1}, {w, length},
           {q + 2 * width, 3 * width}, T{0}, {out + first_row * width + column, width});
    }
  }

  void attention_backward(const AttentionShape& shape, const T* qkv, const T* weights,
                          const T* dout, T* dqkv, T* scratch) override {
    const auto [batch, length, heads, head_width] = shape;
    const auto width = heads * head_width;
    const auto scale = 1 / std::sqrt(static_cast<T>(head_width));
    for (std::size_t pair = 0; pair < batch * heads; ++pair) {
      const auto first_row = pair / heads * length;
      const auto column = pair % heads * head_width;
      const T* q = qkv + first_row * 3 * width + column;
      T* dq = dqkv + first_row * 3 * width + column;
      const T* w = weights + pair * length * length;
      const Matrix<const T> d{dout + first_row * width + column, width};
      // The values, the weights, and through the softmax the queries and the keys.
      gemm(Side::transposed, Side::plain, length, head_width, length, T{1}, {w, length}, d, T{0},
           {dq + 2 * width, 3 * width});
      gemm(Side::plain, Side::transposed, length, length, head_width, T{1}, d,
           {q + 2 * width, 3 * width}, T{0}, {scratch, length});
      for (std::size_t row = 0; row < length; ++row)
        causal_softmax_backward(row, length, w + row * length, scale, scratch + row * length);
      gemm(Side::plain, Side::plain, length, head_width, length, T{1}, {scratch, length},
           {q + width, 3 * width}, T{0}, {dq, 3 * width});
      gemm(Side::transposed, Side::plain, length, head_width, length, T{1}, {scratch, length},
           {q, 3 * width}, T{0}, {dq + width, 3 * width});
    }
  }

  double cross_entropy(std::span<const unsigned char> targets, std::size_t classes, const T* logits,
                       double gradient_scale, T* dlogits) override {
    const auto rows = targets.size();
    double total = 0;
    const auto factor = static_cast<T>(gradient_scale / static_cast<double>(rows));
    for (std::size_t row = 0; row < rows; ++row) {
      const T* in = logits + row * classes;
      const auto target = targets[row];
      const auto top = *std::max_element(in, in + classes);
      const auto score = static_cast<double>(in[target] - top);
      double sum = 0;
      for (std::size_t i = 0; i < classes; ++i) sum += static_cast<double>(std::exp(in[i] - top));
      total += std::log(sum) - score;
      if (dlogits == nullptr) continue;
      T* d = dlogits + row * classes;
      const auto inverse = static_cast<T>(1 / sum);
      for (std::size_t i = 0; i < classes; ++i)
        d[i] = (std::exp(in[i] - top) * inverse - (i == target ? T{1} : T{0})) * factor;
    }
    return total / static_cast<double>(rows);
  }

  void sums_of_squares(std::span<const std::span<const T>> tensors,
                       std::span<double> sums) override {
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      double sum = 0;
      for (const auto value : tensors[i])
        sum += static_cast<double>(value) * static_cast<double>(value);
      sums[i] = sum;
    }
  }

  void adamw(const AdamFactors& factors, std::span<T> weights, std::span<T> gradients,
             std::span<T> m, std::span<T> v) override {
    const T b1 = factors.beta1, b2 = factors.beta2;
    T* __restrict w = weights.data();
    T* __restrict g = gradients.data();
    T* __restrict first = m.data();
    T* __restrict second = v.data();
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const auto gradient = g[i] * factors.gradient_scale;
      first[i] = b1 * first[i] + (1 - b1) * gradient;
      second[i] = b2 * second[i] + (1 - b2) * gradient * gradient;
      w[i] = factors.keep * w[i] -
             factors.m_rate * first[i] / (std::sqrt(second[i] * factors.v_scale) + factors.epsilon);
      g[i] = 0;
    }
  }
};

}  // namespace

void set_blas_threads(int count) { openblas_set_num_threads(count); }

template <typename T>
Compute<T>& processor() {
  static CpuCompute<T> body;
  return body;
}

template Compute<float>& processor<float>();
template Compute<double>& processor<double>();

}  // namespace train_gpt
