#include "layers.h"

#include <algorithm>
#include <numeric>

#include "config.h"

namespace train_gpt {

namespace {

// The sum over all shards of what each has of [rows, width].
template <typename T>
void sum_shards(const Dims& dims, const Shard<T>& shard, T* values) {
  if (dims.shards > 1) shard.sum({values, dims.rows() * dims.width});
}

// What leads out of heads or inner columns: y = x weight^T + bias + add_to, summed over the shards.
// The first one adds what all have.
template <typename T>
void linear_out(const Dims& dims, const Shard<T>& shard, std::size_t inputs, const T* x,
                const T* weight, const T* bias, const T* add_to, T* y) {
  const bool is_first = shard.index == 0;
  linear_forward<T>(dims.rows(), inputs, dims.width, x, weight, is_first ? bias : nullptr,
                    is_first ? add_to : nullptr, y);
  sum_shards(dims, shard, y);
}

// What backward needs of a block beside its input: everything but the output.
template <typename T>
void block_inner(const Dims& dims, Weights<T> weights, const T* x, Workspace<T>& work,
                 const Shard<T>& shard) {
  const auto rows = dims.rows();
  const auto width = dims.width;
  const auto inner = kMlpFactor * dims.own_width();
  norm_forward(rows, width, x, weights[kNorm1Weight], weights[kNorm1Bias], work.norm1, work.stats,
               work.stats + rows);
  linear_forward<T>(rows, width, 3 * dims.own_width(), work.norm1, weights[kQkvWeight],
                    weights[kQkvBias], nullptr, work.qkv);
  attention_forward(dims.attention(), work.qkv, work.weights, work.mixed);
  linear_out<T>(dims, shard, dims.own_width(), work.mixed, weights[kOutWeight], weights[kOutBias],
                x, work.middle);
  norm_forward(rows, width, work.middle, weights[kNorm2Weight], weights[kNorm2Bias], work.norm2,
               work.stats + 2 * rows, work.stats + 3 * rows);
  linear_forward<T>(rows, width, inner, work.norm2, weights[kUpWeight], weights[kUpBias], nullptr,
                    work.up);
  gelu_forward(rows * inner, work.up, work.gate, work.active);
}

}  // namespace

template <typename T>
Workspace<T>::Workspace(const Dims& largest) {
  const auto rows = largest.rows();
  const auto row = rows * largest.width;
  const auto own = rows * largest.own_width();
  const auto square = largest.length * largest.length;
  const struct {
    T** part;
    std::size_t count;
  } parts[] = {{&norm1, row},
               {&qkv, 3 * own},
               {&weights, largest.batch * largest.heads / largest.shards * square},
               {&mixed, own},
               {&middle, row},
               {&norm2, row},
               {&up, kMlpFactor * own},
               {&gate, kMlpFactor * own},
               {&active, kMlpFactor * own},
               {&stats, 4 * rows},
               {&d_wide, kMlpFactor * own},
               {&d_row, row},
               {&scratch, square},
               {&logits, rows * kVocabulary}};
  std::size_t total = 0;
  for (const auto& part : parts) total += part.count;
  memory_.resize(total);
  T* at = memory_.data();
  for (const auto& part : parts) {
    *part.part = at;
    at += part.count;
  }
}

template <typename T>
void embed_forward(const Dims& dims, Weights<T> weights, Tokens tokens, T* y) {
  const auto width = dims.width;
  for (std::size_t row = 0; row < dims.rows(); ++row) {
    const T* token = weights[kTokenTable] + tokens[row] * width;
    const T* position = weights[kPositionTable] + row % dims.length * width;
    for (std::size_t i = 0; i < width; ++i) y[row * width + i] = token[i] + position[i];
  }
}

template <typename T>
void embed_backward(const Dims& dims, Gradients<T> gradients, Tokens tokens, const T* dy) {
  const auto width = dims.width;
  std::vector<std::size_t> rows(dims.rows());
  std::iota(rows.begin(), rows.end(), std::size_t{0});
  // Rows of one token, then of one position, side by side.
  const auto add = [&](auto number_of, T* table) {
    std::ranges::stable_sort(rows, {}, number_of);
    for (std::size_t first = 0, last = 0; first < rows.size(); first = last) {
      const std::size_t number = number_of(rows[first]);
      while (last < rows.size() && number_of(rows[last]) == number) ++last;
      add_rows<T>(std::span(rows).subspan(first, last - first), width, dy, table + number * width);
    }
  };
  add([&](std::size_t row) -> std::size_t { return tokens[row]; }, gradients[kTokenTable]);
  std::ranges::sort(rows);
  add([&](std::size_t row) { return row % dims.length; }, gradients[kPositionTable]);
}

template <typename T>
void block_forward(const Dims& dims, Weights<T> weights, const T* x, T* y, Workspace<T>& work,
                   const Shard<T>& shard) {
  block_inner(dims, weights, x, work, shard);
  linear_out<T>(dims, shard, kMlpFactor * dims.own_width(), work.active, weights[kDownWeight],
                weights[kDownBias], work.middle, y);
}

template <typename T>
void block_backward(const Dims& dims, Weights<T> weights, Gradients<T> gradients, const T* x, T* d,
                    Workspace<T>& work, const Shard<T>& shard) {
  block_inner(dims, weights, x, work, shard);
  const auto rows = dims.rows();
  const auto width = dims.width;
  const auto own = dims.own_width();
  const auto inner = kMlpFactor * own;

  linear_backward(rows, inner, width, work.active, weights[kDownWeight], d, work.d_wide,
                  gradients[kDownWeight], gradients[kDownBias]);
  gelu_backward(rows * inner, work.up, work.gate, work.d_wide);
  linear_backward(rows, width, inner, work.norm2, weights[kUpWeight], work.d_wide, work.d_row,
                  gradients[kUpWeight], gradients[kUpBias]);
  sum_shards(dims, shard, work.d_row);
  norm_backward(rows, width, work.middle, weights[kNorm2Weight], work.stats + 2 * rows,
                work.stats + 3 * rows, work.d_row, d, gradients[kNorm2Weight],
                gradients[kNorm2Bias]);

  linear_backward(rows, own, width, work.mixed, weights[kOutWeight], d, work.d_row,
                  gradients[kOutWeight], gradients[kOutBias]);
  attention_backward(dims.attention(), work.qkv, work.weights, work.d_row, work.d_wide,
                     work.scratch);
  linear_backward(rows, width, 3 * own, work.norm1, weights[kQkvWeight], work.d_wide, work.d_row,
                  gradients[kQkvWeight], gradients[kQkvBias]);
  sum_shards(dims, shard, work.d_row);
  norm_backward(rows, width, x, weights[kNorm1Weight], work.stats, work.stats + rows, work.d_row, d,
                gradients[kNorm1Weight], gradients[kNorm1Bias]);
}

template <typename T>
void head_logits(const Dims& dims, Weights<T> weights, const T* x, Workspace<T>& work) {
  const auto rows = dims.rows();
  norm_forward(rows, dims.width, x, weights[kFinalNormWeight], weights[kFinalNormBias], work.norm1,
               work.stats, work.stats + rows);
  linear_forward<T>(rows, dims.width, kVocabulary, work.norm1, weights[kHeadWeight], nullptr,
                    nullptr, work.logits);
}

template <typename T>
double head_loss(const Dims& dims, Weights<T> weights, const T* x, Tokens targets,
                 Workspace<T>& work) {
  head_logits(dims, weights, x, work);
  return cross_entropy<T>(dims.rows(), kVocabulary, work.logits, targets.data(), 1, nullptr);
}

template <typename T>
double head_backward(const Dims& dims, Weights<T> weights, Gradients<T> gradients, const T* x,
                     Tokens targets, double scale, T* d, Workspace<T>& work) {
  const auto rows = dims.rows();
  const auto count = rows * dims.width;
  head_logits(dims, weights, x, work);
  const auto loss =
      cross_entropy(rows, kVocabulary, work.logits, targets.data(), scale, work.logits);
  linear_backward<T>(rows, dims.width, kVocabulary, work.norm1, weights[kHeadWeight], work.logits,
                     work.d_row, gradients[kHeadWeight], nullptr);
  std::fill(d, d + count, T{0});
  norm_backward(rows, dims.width, x, weights[kFinalNormWeight], work.stats, work.stats + rows,
                work.d_row, d, gradients[kFinalNormWeight], gradients[kFinalNormBias]);
  return loss;
}

#define TRAIN_GPT_INSTANTIATE(T)                                                            \
  template class Workspace<T>;                                                              \
  template void embed_forward<T>(const Dims&, Weights<T>, Tokens, T*);                      \
  template void embed_backward<T>(const Dims&, Gradients<T>, Tokens, const T*);             \
  template void block_forward<T>(const Dims&, Weights<T>, const T*, T*, Workspace<T>&,      \
                                 const Shard<T>&);                                          \
  template void block_backward<T>(const Dims&, Weights<T>, Gradients<T>, const T*, T*,      \
                                  Workspace<T>&, const Shard<T>&);                          \
  template void head_logits<T>(const Dims&, Weights<T>, const T*, Workspace<T>&);           \
  template double head_loss<T>(const Dims&, Weights<T>, const T*, Tokens, Workspace<T>&);   \
  template double head_backward<T>(const Dims&, Weights<T>, Gradients<T>, const T*, Tokens, \
                                   double, T*, Workspace<T>&)
TRAIN_GPT_INSTANTIATE(float);
TRAIN_GPT_INSTANTIATE(double);
#undef TRAIN_GPT_INSTANTIATE

}  // namespace train_gpt
