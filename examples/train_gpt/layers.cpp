#include "layers.h"

#include <algorithm>
#include <numeric>

#include "config.h"

namespace train_gpt {

namespace {

// The sum over all shards of what each has of [rows, width].
template <typename T>
void sum_shards(const Dims& dims, const Shard<T>& shard, T* values, Workspace<T>& work) {
  if (dims.shards == 1) return;
  const auto view = work.compute().view({values, dims.rows() * dims.width});
  shard.sum(view.host());
  view.put();
}

// What leads out of heads or inner columns: y = x weight^T + bias + add_to, summed over the shards.
// The first one adds what all have.
template <typename T>
void linear_out(const Dims& dims, const Shard<T>& shard, std::size_t inputs, const T* x,
                const T* weight, const T* bias, const T* add_to, T* y, Workspace<T>& work) {
  const bool is_first = shard.index == 0;
  work.compute().linear_forward(dims.rows(), inputs, dims.width, x, weight,
                                is_first ? bias : nullptr, is_first ? add_to : nullptr, y);
  sum_shards(dims, shard, y, work);
}

// What backward needs of a block beside its input: everything but the output.
template <typename T>
void block_inner(const Dims& dims, Weights<T> weights, const T* x, Workspace<T>& work,
                 const Shard<T>& shard) {
  const auto rows = dims.rows();
  auto& compute = work.compute();
  const auto width = dims.width;
  const auto inner = kMlpFactor * dims.own_width();
  compute.norm_forward(rows, width, x, weights[kNorm1Weight], weights[kNorm1Bias], work.norm1,
                       work.stats, work.stats + rows);
  compute.linear_forward(rows, width, 3 * dims.own_width(), work.norm1, weights[kQkvWeight],
                         weights[kQkvBias], nullptr, work.qkv);
  compute.attention_forward(dims.attention(), work.qkv, work.weights, work.mixed);
  linear_out<T>(dims, shard, dims.own_width(), work.mixed, weights[kOutWeight], weights[kOutBias],
                x, work.middle, work);
  compute.norm_forward(rows, width, work.middle, weights[kNorm2Weight], weights[kNorm2Bias],
                       work.norm2, work.stats + 2 * rows, work.stats + 3 * rows);
  compute.linear_forward(rows, width, inner, work.norm2, weights[kUpWeight], weights[kUpBias],
                         nullptr, work.up);
  compute.gelu_forward(rows * inner, work.up, work.gate, work.active);
}

// The rows side by side that have the same number, in their order.
template <typename NumberOf>
RowGroups group_rows(std::uint32_t rows, NumberOf number_of) {
  RowGroups groups;
  groups.order.resize(rows);
  std::iota(groups.order.begin(), groups.order.end(), std::uint32_t{0});
  std::ranges::stable_sort(groups.order, {}, number_of);
  for (std::uint32_t i = 0; i < rows; ++i) {
    const auto number = number_of(groups.order[i]);
    if (i > 0 && number == groups.numbers.back()) continue;
    groups.numbers.push_back(number);
    groups.firsts.push_back(i);
  }
  groups.firsts.push_back(rows);
  return groups;
}

}  // namespace

template <typename T>
Workspace<T>::Workspace(const Dims& largest, Compute<T>& compute) : compute_(&compute) {
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
               {&scratch, compute.attention_scratch(largest.attention())},
               {&logits, rows * kVocabulary}};
  std::size_t total = 0;
  for (const auto& part : parts) total += part.count;
  memory_ = compute.allocate(total);
  T* at = memory_.get();
  for (const auto& part : parts) {
    *part.part = at;
    at += part.count;
  }
}

template <typename T>
void embed_forward(const Dims& dims, Weights<T> weights, Tokens tokens, T* y, Workspace<T>& work) {
  work.compute().embed(tokens.first(dims.rows()), dims.length, dims.width, weights[kTokenTable],
                       weights[kPositionTable], y);
}

template <typename T>
void embed_backward(const Dims& dims, Gradients<T> gradients, Tokens tokens, const T* dy,
                    Workspace<T>& work) {
  const auto rows = static_cast<std::uint32_t>(dims.rows());
  const auto add = [&](auto number_of, T* table) {
    work.compute().add_row_groups(group_rows(rows, number_of), dims.width, dy, table);
  };
  add([&](std::uint32_t row) -> std::uint32_t { return tokens[row]; }, gradients[kTokenTable]);
  add([&](std::uint32_t row) { return row % static_cast<std::uint32_t>(dims.length); },
      gradients[kPositionTable]);
}

template <typename T>
void block_forward(const Dims& dims, Weights<T> weights, const T* x, T* y, Workspace<T>& work,
                   const Shard<T>& shard) {
  block_inner(dims, weights, x, work, shard);
  linear_out<T>(dims, shard, kMlpFactor * dims.own_width(), work.active, weights[kDownWeight],
                weights[kDownBias], work.middle, y, work);
}

template <typename T>
void block_backward(const Dims& dims, Weights<T> weights, Gradients<T> gradients, const T* x, T* d,
                    Workspace<T>& work, const Shard<T>& shard) {
  block_inner(dims, weights, x, work, shard);
  auto& compute = work.compute();
  const auto rows = dims.rows();
  const auto width = dims.width;
  const auto own = dims.own_width();
  const auto inner = kMlpFactor * own;

  compute.linear_backward(rows, inner, width, work.active, weights[kDownWeight], d, work.d_wide,
                          gradients[kDownWeight], gradients[kDownBias]);
  compute.gelu_backward(rows * inner, work.up, work.gate, work.d_wide);
  compute.linear_backward(rows, width, inner, work.norm2, weights[kUpWeight], work.d_wide,
                          work.d_row, gradients[kUpWeight], gradients[kUpBias]);
  sum_shards(dims, shard, work.d_row, work);
  compute.norm_backward(rows, width, work.middle, weights[kNorm2Weight], work.stats + 2 * rows,
                        work.stats + 3 * rows, work.d_row, d, gradients[kNorm2Weight],
                        gradients[kNorm2Bias]);

  compute.linear_backward(rows, own, width, work.mixed, weights[kOutWeight], d, work.d_row,
                          gradients[kOutWeight], gradients[kOutBias]);
  compute.attention_backward(dims.attention(), work.qkv, work.weights, work.d_row, work.d_wide,
                             work.scratch);
  compute.linear_backward(rows, width, 3 * own, work.norm1, weights[kQkvWeight], work.d_wide,
                          work.d_row, gradients[kQkvWeight], gradients[kQkvBias]);
  sum_shards(dims, shard, work.d_row, work);
  compute.norm_backward(rows, width, x, weights[kNorm1Weight], work.stats, work.stats + rows,
                        work.d_row, d, gradients[kNorm1Weight], gradients[kNorm1Bias]);
}

template <typename T>
void head_logits(const Dims& dims, Weights<T> weights, const T* x, Workspace<T>& work) {
  auto& compute = work.compute();
  const auto rows = dims.rows();
  compute.norm_forward(rows, dims.width, x, weights[kFinalNormWeight], weights[kFinalNormBias],
                       work.norm1, work.stats, work.stats + rows);
  compute.linear_forward(rows, dims.width, kVocabulary, work.norm1, weights[kHeadWeight], nullptr,
                         nullptr, work.logits);
}

template <typename T>
double head_loss(const Dims& dims, Weights<T> weights, const T* x, Tokens targets,
                 Workspace<T>& work) {
  head_logits(dims, weights, x, work);
  return work.compute().cross_entropy(targets.first(dims.rows()), kVocabulary, work.logits, 1,
                                      nullptr);
}

template <typename T>
double head_backward(const Dims& dims, Weights<T> weights, Gradients<T> gradients, const T* x,
                     Tokens targets, double scale, T* d, Workspace<T>& work) {
  const auto rows = dims.rows();
  auto& compute = work.compute();
  head_logits(dims, weights, x, work);
  const auto loss =
      compute.cross_entropy(targets.first(rows), kVocabulary, work.logits, scale, work.logits);
  compute.linear_backward(rows, dims.width, kVocabulary, work.norm1, weights[kHeadWeight],
                          work.logits, work.d_row, gradients[kHeadWeight], nullptr);
  compute.clear({d, rows * dims.width});
  compute.norm_backward(rows, dims.width, x, weights[kFinalNormWeight], work.stats,
                        work.stats + rows, work.d_row, d, gradients[kFinalNormWeight],
                        gradients[kFinalNormBias]);
  return loss;
}

#define TRAIN_GPT_INSTANTIATE(T)                                                               \
  template class Workspace<T>;                                                                 \
  template void embed_forward<T>(const Dims&, Weights<T>, Tokens, T*, Workspace<T>&);          \
  template void embed_backward<T>(const Dims&, Gradients<T>, Tokens, const T*, Workspace<T>&); \
  template void block_forward<T>(const Dims&, Weights<T>, const T*, T*, Workspace<T>&,         \
                                 const Shard<T>&);                                             \
  template void block_backward<T>(const Dims&, Weights<T>, Gradients<T>, const T*, T*,         \
                                  Workspace<T>&, const Shard<T>&);                             \
  template void head_logits<T>(const Dims&, Weights<T>, const T*, Workspace<T>&);              \
  template double head_loss<T>(const Dims&, Weights<T>, const T*, Tokens, Workspace<T>&);      \
  template double head_backward<T>(const Dims&, Weights<T>, Gradients<T>, const T*, Tokens,    \
                                   double, T*, Workspace<T>&)
TRAIN_GPT_INSTANTIATE(float);
TRAIN_GPT_INSTANTIATE(double);
#undef TRAIN_GPT_INSTANTIATE

}  // namespace train_gpt
