// The processor as if it were a device: its memory has addresses at which nobody else finds it. Who
// touches it but through the Compute ends with SIGSEGV, on any machine.
//
// Threads: as Compute.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cpu_compute.h"

namespace train_gpt {

class FarCompute final : public Compute<float> {
 public:
  [[nodiscard]] std::string describe() const override { return "the processor, far away"; }

  [[nodiscard]] Buffer<float> allocate(std::size_t count) override {
    auto memory = std::make_shared<std::vector<float>>(count);
    float* at = far(memory->data());
    return {at, [memory = std::move(memory)](float*) mutable { memory.reset(); }};
  }
  [[nodiscard]] View<float> view(std::span<float> values) override {
    const auto own = near(values);
    return copy(values, std::vector<float>(own.begin(), own.end()));
  }
  [[nodiscard]] View<float> blank(std::span<float> values) override {
    return copy(values, std::vector<float>(values.size(), -1e9F));
  }
  void clear(std::span<float> values) override { cpu_.clear(near(values)); }

  void linear_forward(std::size_t rows, std::size_t inputs, std::size_t outputs, const float* x,
                      const float* weight, const float* bias, const float* add_to,
                      float* y) override {
    cpu_.linear_forward(rows, inputs, outputs, near(x), near(weight), near(bias), near(add_to),
                        near(y));
  }
  void linear_backward(std::size_t rows, std::size_t inputs, std::size_t outputs, const float* x,
                       const float* weight, const float* dy, float* dx, float* dweight,
                       float* dbias) override {
    cpu_.linear_backward(rows, inputs, outputs, near(x), near(weight), near(dy), near(dx),
                         near(dweight), near(dbias));
  }
  void norm_forward(std::size_t rows, std::size_t width, const float* x, const float* weight,
                    const float* bias, float* y, float* mean, float* scale) override {
    cpu_.norm_forward(rows, width, near(x), near(weight), near(bias), near(y), near(mean),
                      near(scale));
  }
  void norm_backward(std::size_t rows, std::size_t width, const float* x, const float* weight,
                     const float* mean, const float* scale, const float* dy, float* dx,
                     float* dweight, float* dbias) override {
    cpu_.norm_backward(rows, width, near(x), near(weight), near(mean), near(scale), near(dy),
                       near(dx), near(dweight), near(dbias));
  }
  void gelu_forward(std::size_t count, const float* x, float* gate, float* y) override {
    cpu_.gelu_forward(count, near(x), near(gate), near(y));
  }
  void gelu_backward(std::size_t count, const float* x, const float* gate, float* dy) override {
    cpu_.gelu_backward(count, near(x), near(gate), near(dy));
  }
  void attention_forward(const AttentionShape& shape, const float* qkv, float* weights,
                         float* out) override {
    cpu_.attention_forward(shape, near(qkv), near(weights), near(out));
  }
  void attention_backward(const AttentionShape& shape, const float* qkv, const float* weights,
                          const float* dout, float* dqkv, float* scratch) override {
    cpu_.attention_backward(shape, near(qkv), near(weights), near(dout), near(dqkv), near(scratch));
  }
  [[nodiscard]] std::size_t attention_scratch(const AttentionShape& shape) const override {
    return cpu_.attention_scratch(shape);
  }
  void embed(std::span<const unsigned char> tokens, std::size_t length, std::size_t width,
             const float* token_table, const float* position_table, float* y) override {
    cpu_.embed(tokens, length, width, near(token_table), near(position_table), near(y));
  }
  void add_row_groups(const RowGroups& groups, std::size_t width, const float* from,
                      float* into) override {
    cpu_.add_row_groups(groups, width, near(from), near(into));
  }
  double cross_entropy(std::span<const unsigned char> targets, std::size_t classes,
                       const float* logits, double gradient_scale, float* dlogits) override {
    return cpu_.cross_entropy(targets, classes, near(logits), gradient_scale, near(dlogits));
  }
  void sums_of_squares(std::span<const std::span<const float>> tensors,
                       std::span<double> sums) override {
    std::vector<std::span<const float>> own;
    for (const auto tensor : tensors) own.push_back(near(tensor));
    cpu_.sums_of_squares(own, sums);
  }
  void adamw(const AdamFactors& factors, std::span<float> weights, std::span<float> gradients,
             std::span<float> m, std::span<float> v) override {
    cpu_.adamw(factors, near(weights), near(gradients), near(m), near(v));
  }

 private:
  static constexpr std::uintptr_t kAway = std::uintptr_t{1} << 62;  // No processor maps that.

  [[nodiscard]] static float* far(float* at) {
    return reinterpret_cast<float*>(reinterpret_cast<std::uintptr_t>(at) + kAway);
  }
  template <typename T>
  [[nodiscard]] static T* near(T* at) {
    return at == nullptr ? at : reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(at) - kAway);
  }
  template <typename T>
  [[nodiscard]] static std::span<T> near(std::span<T> values) {
    return {near(values.data()), values.size()};
  }
  [[nodiscard]] static View<float> copy(std::span<float> values, std::vector<float> contents) {
    auto host = std::make_shared<std::vector<float>>(std::move(contents));
    const std::span<float> seen(*host);
    return {seen, [seen, values] { std::ranges::copy(seen, near(values).begin()); },
            std::move(host)};
  }

  Compute<float>& cpu_ = processor<float>();
};

}  // namespace train_gpt
