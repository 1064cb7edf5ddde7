#include "gpu_compute.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "gpu_driver.h"
#include "gpu_kernels.h"
#include "gpu_products.h"

namespace train_gpt {

namespace {

DevicePtr address(const void* at) noexcept { return reinterpret_cast<DevicePtr>(at); }

template <typename T>
T* pointer(const GpuMemory& memory) noexcept {
  return reinterpret_cast<T*>(memory.at());
}

// Blocks for `count` values where any number will do: enough to fill a GPU, not more than work.
std::size_t blocks_for(std::size_t count) noexcept {
  return std::min<std::size_t>((count + gpu::kThreads - 1) / gpu::kThreads, 4096);
}

std::size_t column_blocks(std::size_t columns) noexcept {
  return (columns + gpu::kSumColumns - 1) / gpu::kSumColumns;
}

template <typename T>
gpu::BatchedMatrix<T> plain(T* data, std::size_t stride, std::size_t outer = 0,
                            std::size_t inner = 0) noexcept {
  return {data, stride, false, outer, inner};
}

// The transpose of what lies there.
template <typename T>
gpu::BatchedMatrix<T> transposed(T* data, std::size_t stride, std::size_t outer = 0,
                                 std::size_t inner = 0) noexcept {
  return {data, stride, true, outer, inner};
}

// Memory that grows to what was asked for last; its contents are not kept.
class Growing {
 public:
  explicit Growing(const GpuDevice& device) : device_(device) {}
  template <typename T>
  [[nodiscard]] T* at_least(std::size_t count) {
    if (!memory_ || memory_->size_bytes() < count * sizeof(T)) {
      memory_.reset();
      memory_.emplace(device_, count * sizeof(T));
    }
    return pointer<T>(*memory_);
  }
  // A copy of the host's values there. It is queued from memory of this object: where a device
  // reads the memory of processes in place (ATS, HMM) that happens only when the copy runs.
  template <typename T>
  [[nodiscard]] const T* holding(std::span<const T> values) {
    device_.synchronize();  // The one before has been read.
    T* at = at_least<T>(values.size());
    const auto bytes = std::as_bytes(values);
    staged_.assign(bytes.begin(), bytes.end());
    device_.copy_in(address(at), staged_.data(), staged_.size());
    return at;
  }

 private:
  const GpuDevice& device_;
  std::vector<std::byte> staged_;
  std::optional<GpuMemory> memory_;  // Goes first, and waits for what uses it.
};

class GpuCompute final : public Compute<float> {
 public:
  explicit GpuCompute(int ordinal)
      : device_(ordinal), kernels_(device_), products_(choose_products(device_, kernels_)) {}

  [[nodiscard]] std::string describe() const override {
    return fmt::format("{} with {}", device_.name(), products_->describe());
  }

  [[nodiscard]] Buffer<float> allocate(std::size_t count) override {
    auto memory = std::make_shared<GpuMemory>(device_, count * sizeof(float));
    float* at = pointer<float>(*memory);
    return {at, [memory = std::move(memory)](float*) mutable { memory.reset(); }};
  }

  [[nodiscard]] View<float> view(std::span<float> values) override {
    auto view = blank(values);
    device_.copy_out(view.host().data(), address(values.data()), values.size_bytes());
    device_.synchronize();
    return view;
  }

  [[nodiscard]] View<float> blank(std::span<float> values) override {
    auto pinned = take_pinned(values.size_bytes());
    const std::span host(static_cast<float*>(pinned->at()), values.size());
    return {host, [this, values, host] { put(host, values); }, std::move(pinned)};
  }

  void clear(std::span<float> values) override {
    device_.clear(address(values.data()), values.size_bytes());
  }

  void linear_forward(std::size_t rows, std::size_t inputs, std::size_t outputs, const float* x,
                      const float* weight, const float* bias, const float* add_to,
                      float* y) override {
    const bool has_base = bias != nullptr || add_to != nullptr;
    if (has_base)
      kernels_.launch<&gpu::fill_rows>(blocks_for(rows * outputs), 1, rows, outputs, bias, add_to,
                                       y);
    multiply(rows, outputs, inputs, plain(x, inputs), transposed(weight, inputs),
             has_base ? 1.0F : 0.0F, plain(y, outputs));
  }

  void linear_backward(std::size_t rows, std::size_t inputs, std::size_t outputs, const float* x,
                       const float* weight, const float* dy, float* dx, float* dweight,
                       float* dbias) override {
    multiply(outputs, inputs, rows, transposed(dy, outputs), plain(x, inputs), 1,
             plain(dweight, inputs));
    multiply(rows, inputs, outputs, plain(dy, outputs), plain(weight, inputs), 0,
             plain(dx, inputs));
    if (dbias != nullptr)
      kernels_.launch<&gpu::add_columns>(column_blocks(outputs), 1, rows, outputs, dy, dbias);
  }

  void norm_forward(std::size_t rows, std::size_t width, const float* x, const float* weight,
                    const float* bias, float* y, float* mean, float* scale) override {
    kernels_.launch<&gpu::norm_rows>(rows, 1, width, x, weight, bias, y, mean, scale);
  }

  void norm_backward(std::size_t rows, std::size_t width, const float* x, const float* weight,
                     const float* mean, const float* scale, const float* dy, float* dx,
                     float* dweight, float* dbias) override {
    kernels_.launch<&gpu::norm_rows_back>(rows, 1, width, x, weight, mean, scale, dy, dx);
    kernels_.launch<&gpu::norm_columns_back>(column_blocks(width), 1, rows, width, x, mean, scale,
                                             dy, dweight, dbias);
  }

  void gelu_forward(std::size_t count, const float* x, float* gate, float* y) override {
    kernels_.launch<&gpu::gelu>(blocks_for(count), 1, count, x, gate, y);
  }

  void gelu_backward(std::size_t count, const float* x, const float* gate, float* dy) override {
    kernels_.launch<&gpu::gelu_back>(blocks_for(count), 1, count, x, gate, dy);
  }

  void attention_forward(const AttentionShape& shape, const float* qkv, float* weights,
                         float* out) override {
    const Heads heads(shape);
    const auto [batch, length, count, head_width] = shape;
    multiply_heads(shape, length, length, head_width, heads.scale, heads.in(qkv),
                   transpose(heads.in(qkv + heads.width)), heads.square(weights));
    kernels_.launch<&gpu::causal_softmax>(batch * count * length, 1, length, weights);
    multiply_heads(shape, length, head_width, length, 1, heads.square<const float>(weights),
                   heads.in(qkv + 2 * heads.width), heads.out(out));
  }

  void attention_backward(const AttentionShape& shape, const float* qkv, const float* weights,
                          const float* dout, float* dqkv, float* scratch) override {
    const Heads heads(shape);
    const auto [batch, length, count, head_width] = shape;
    const auto square = heads.square<const float>(scratch);
    // The values, the weights, and through the softmax the queries and the keys.
    multiply_heads(shape, length, head_width, length, 1, transpose(heads.square(weights)),
                   heads.out(dout), heads.in(dqkv + 2 * heads.width));
    multiply_heads(shape, length, length, head_width, 1, heads.out(dout),
                   transpose(heads.in(qkv + 2 * heads.width)), heads.square(scratch));
    kernels_.launch<&gpu::causal_softmax_back>(batch * count * length, 1, length, heads.scale,
                                               weights, scratch);
    multiply_heads(shape, length, head_width, length, 1, square, heads.in(qkv + heads.width),
                   heads.in(dqkv));
    multiply_heads(shape, length, head_width, length, 1, transpose(square), heads.in(qkv),
                   heads.in(dqkv + heads.width));
  }

  [[nodiscard]] std::size_t attention_scratch(const AttentionShape& shape) const override {
    return shape.batch * shape.heads * shape.length * shape.length;
  }

  void embed(std::span<const unsigned char> tokens, std::size_t length, std::size_t width,
             const float* token_table, const float* position_table, float* y) override {
    kernels_.launch<&gpu::embed_rows>(blocks_for(tokens.size() * width), 1, tokens.size(), length,
                                      width, tokens_.holding(tokens), token_table, position_table,
                                      y);
  }

  void add_row_groups(const RowGroups& groups, std::size_t width, const float* from,
                      float* into) override {
    std::vector<std::uint32_t> all = groups.order;
    all.insert(all.end(), groups.firsts.begin(), groups.firsts.end());
    all.insert(all.end(), groups.numbers.begin(), groups.numbers.end());
    const auto* order = groups_.holding(std::span<const std::uint32_t>(all));
    const auto* firsts = order + groups.order.size();
    kernels_.launch<&gpu::add_group>(groups.numbers.size(), 1, width, order, firsts,
                                     firsts + groups.firsts.size(), from, into);
  }

  double cross_entropy(std::span<const unsigned char> targets, std::size_t classes,
                       const float* logits, double gradient_scale, float* dlogits) override {
    const auto rows = targets.size();
    float* losses = figures_.at_least<float>(rows);
    kernels_.launch<&gpu::cross_entropy_rows>(
        rows, 1, classes, logits, tokens_.holding(targets),
        static_cast<float>(gradient_scale / static_cast<double>(rows)), dlogits, losses);
    const auto seen = view({losses, rows});
    double total = 0;
    for (const auto loss : seen.host()) total += static_cast<double>(loss);
    return total / static_cast<double>(rows);
  }

  void sums_of_squares(std::span<const std::span<const float>> tensors,
                       std::span<double> sums) override {
    const auto count = tensors.size() * gpu::kSquareBlocks;
    auto* partials = figures_.at_least<double>(count);
    for (std::size_t i = 0; i < tensors.size(); ++i)
      kernels_.launch<&gpu::square_sums>(gpu::kSquareBlocks, 1, tensors[i].size(),
                                         tensors[i].data(), partials + i * gpu::kSquareBlocks);
    const auto pinned = take_pinned(count * sizeof(double));
    const auto* host = static_cast<const double*>(pinned->at());
    device_.copy_out(pinned->at(), address(partials), count * sizeof(double));
    device_.synchronize();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      sums[i] = 0;
      for (unsigned part = 0; part < gpu::kSquareBlocks; ++part)
        sums[i] += host[i * gpu::kSquareBlocks + part];
    }
  }

  void adamw(const AdamFactors& factors, std::span<float> weights, std::span<float> gradients,
             std::span<float> m, std::span<float> v) override {
    const gpu::AdamStep step{factors.gradient_scale, factors.beta1,   factors.beta2, factors.m_rate,
                             factors.v_scale,        factors.epsilon, factors.keep};
    kernels_.launch<&gpu::adam>(blocks_for(weights.size()), 1, step, weights.size(), weights.data(),
                                gradients.data(), m.data(), v.data());
  }

 private:
  // Where the matrices of an attention's heads lie: number (b, h) is of sequence b and head h.
  struct Heads {
    explicit Heads(const AttentionShape& shape)
        : width(shape.heads * shape.head_width),
          scale(1 / std::sqrt(static_cast<float>(shape.head_width))),
          shape_(shape) {}
    template <typename T>
    [[nodiscard]] gpu::BatchedMatrix<T> in(T* qkv) const {
      return plain(qkv, 3 * width, shape_.length * 3 * width, shape_.head_width);
    }
    template <typename T>
    [[nodiscard]] gpu::BatchedMatrix<T> out(T* values) const {
      return plain(values, width, shape_.length * width, shape_.head_width);
    }
    template <typename T>
    [[nodiscard]] gpu::BatchedMatrix<T> square(T* values) const {
      const auto size = shape_.length * shape_.length;
      return plain(values, shape_.length, shape_.heads * size, size);
    }
    std::size_t width;
    float scale;

   private:
    AttentionShape shape_;
  };

  template <typename T>
  [[nodiscard]] static gpu::BatchedMatrix<T> transpose(gpu::BatchedMatrix<T> matrix) {
    matrix.is_transposed = !matrix.is_transposed;
    return matrix;
  }

  void multiply(std::size_t m, std::size_t n, std::size_t k, gpu::BatchedMatrix<const float> a,
                gpu::BatchedMatrix<const float> b, float beta, gpu::BatchedMatrix<float> c) {
    products_->multiply({m, n, k, 1, beta, a, b, c, 1, 1});
  }

  void multiply_heads(const AttentionShape& shape, std::size_t m, std::size_t n, std::size_t k,
                      float alpha, gpu::BatchedMatrix<const float> a,
                      gpu::BatchedMatrix<const float> b, gpu::BatchedMatrix<float> c) {
    products_->multiply({m, n, k, alpha, 0, a, b, c, shape.batch, shape.heads});
  }

  void put(std::span<const float> host, std::span<float> values) {
    device_.copy_in(address(values.data()), host.data(), host.size_bytes());
    device_.synchronize();
  }

  // Pinning costs some 100 us a MiB: what is given back serves the next that it is large enough
  // for.
  [[nodiscard]] std::shared_ptr<PinnedMemory> take_pinned(std::size_t size_bytes) {
    const auto fits = std::ranges::find_if(
        free_, [&](const auto& memory) { return memory->size_bytes() >= size_bytes; });
    std::unique_ptr<PinnedMemory> taken;
    if (fits != free_.end()) {
      taken = std::move(*fits);
      free_.erase(fits);
    } else {
      taken = std::make_unique<PinnedMemory>(device_, size_bytes);
    }
    return {taken.release(), [this](PinnedMemory* memory) { free_.emplace_back(memory); }};
  }

  GpuDevice device_;
  GpuKernels kernels_;
  std::unique_ptr<GpuProducts> products_;
  Growing tokens_{device_};
  Growing groups_{device_};
  Growing figures_{device_};
  std::vector<std::unique_ptr<PinnedMemory>> free_;
};

}  // namespace

std::unique_ptr<Compute<float>> gpu_compute(int ordinal) {
  return std::make_unique<GpuCompute>(ordinal);
}

}  // namespace train_gpt
