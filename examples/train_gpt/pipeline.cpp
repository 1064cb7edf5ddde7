#include "pipeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "random.h"

namespace train_gpt {

namespace {

using causeway::Errc;
using causeway::Error;
using causeway::StateKind;

// Message tags: the kind above, the micro-batch below.
constexpr std::uint32_t kForwardTag = 0;
constexpr std::uint32_t kBackwardTag = 1U << 16;
constexpr std::uint32_t kSampleTag = 2U << 16;

// Slots of the vector that a step sums over all processes: this, then a loss for each micro-batch,
// then a square for each tensor. One process gives a slot, so the sum has its bits.
constexpr std::size_t kStopSlot = 0;
constexpr std::size_t kLossSlots = 1;

void require_tiling(const std::vector<StageRange>& stages, std::size_t layers) {
  std::size_t at = 0;
  for (std::size_t i = 0; i < stages.size(); ++i) {
    const auto& stage = stages[i];
    if (stage.first_layer != at || stage.end_layer <= at || stage.end_layer > layers)
      throw Error(
          Errc::invalid_argument,
          fmt::format("stage {} holds layers {} to {} where layer {} of {} comes next; make "
                      "the plan from this model",
                      i, stage.first_layer, stage.end_layer, at, layers));
    at = stage.end_layer;
  }
  if (at != layers)
    throw Error(
        Errc::invalid_argument,
        fmt::format("the plan ends at layer {} of {}; make it from this model", at, layers));
}

// One byte after the softmax of `logits` at `temperature`.
unsigned char draw(const float* logits, double temperature, double uniform) {
  const auto top = static_cast<double>(*std::max_element(logits, logits + kVocabulary));
  std::array<double, kVocabulary> weights{};
  double sum = 0;
  for (std::size_t i = 0; i < kVocabulary; ++i) {
    weights[i] = std::exp((static_cast<double>(logits[i]) - top) / temperature);
    sum += weights[i];
  }
  auto left = uniform * sum;
  for (std::size_t i = 0; i < kVocabulary; ++i) {
    left -= weights[i];
    if (left < 0) return static_cast<unsigned char>(i);
  }
  return static_cast<unsigned char>(std::ranges::max_element(weights) - weights.begin());
}

}  // namespace

std::size_t arena_bytes(const GptConfig& config, const std::vector<StageRange>& stages,
                        std::size_t stage) {
  std::size_t slot = 0;
  for (auto layer = stages[stage].first_layer; layer < stages[stage].end_layer; ++layer)
    slot += kept_bytes(config, layer);
  return slot * in_flight(static_cast<std::uint32_t>(stage),
                          static_cast<std::uint32_t>(stages.size()), config.micro_batches);
}

Pipeline::Pipeline(const GptConfig& config, std::vector<StageRange> stages,
                   const std::vector<int>& own, Storage& storage, Link& link, const Part& part)
    : config_(config),
      part_(part),
      micro_batches_(config.micro_batches / part.of.data),
      dims_{config.micro_batch, config.context, config.width, config.heads, part.of.tensor},
      shard_{part.shard, [&link](std::span<float> values) { link.sum_of_shards(values); }},
      ranges_(std::move(stages)),
      link_(&link) {
  require_tiling(ranges_, config.layers());
  part.of.validate(config);
  const auto model = describe(config);
  for (const auto& layer : model.layers) model_tensors_ += layer.tensors.size();
  std::vector<std::uint32_t> indices;
  for (const int stage : own) {
    add_stage(model, stage, storage);
    indices.push_back(static_cast<std::uint32_t>(stage));
  }
  order_ = process_schedule(indices, static_cast<std::uint32_t>(ranges_.size()), micro_batches_);
}

void Pipeline::add_stage(const causeway::ModelSpec& model, int index, Storage& storage) {
  const auto number = static_cast<std::size_t>(index);
  const auto range = ranges_.at(number);
  auto& compute = storage.compute(index);
  Stage stage{index, &compute, &scratch_of(compute), {}, 0, 0, storage.arena(index)};
  stage.slots = in_flight(static_cast<std::uint32_t>(index),
                          static_cast<std::uint32_t>(ranges_.size()), micro_batches_);
  auto of_replica = config_;
  of_replica.micro_batches = micro_batches_;
  const auto need = arena_bytes(of_replica, ranges_, number);
  if (stage.arena.size_bytes() < need)
    throw Error(Errc::invalid_argument,
                fmt::format("stage {} keeps {} bytes of activations, its plan gives it {}; make "
                            "the plan from this model and --micro-batches {}",
                            index, need, stage.arena.size_bytes(), config_.micro_batches));
  std::size_t first_tensor = 0;
  for (std::size_t i = 0; i < range.first_layer; ++i)
    first_tensor += model.layers[i].tensors.size();
  for (auto i = range.first_layer; i < range.end_layer; ++i) {
    const auto& specs = model.layers[i].tensors;
    Layer layer{config_.kind(i),
                {},
                {},
                storage.gradients(specs.front().name, specs.back().name),
                stage.slot_floats};
    for (const auto& spec : specs) {
      const auto state = storage.tensor(spec.name, StateKind::optimizer);
      OwnTensor tensor{spec,
                       cut_of(spec, part_.of.tensor, part_.shard),
                       first_tensor++,
                       index,
                       stage.compute,
                       storage.tensor(spec.name, StateKind::weights),
                       storage.tensor(spec.name, StateKind::gradients),
                       state.first(state.size() / 2),
                       state.last(state.size() / 2)};
      layer.weights.push_back(tensor.weights.data());
      layer.gradients.push_back(tensor.gradients.data());
      tensors_.push_back(std::move(tensor));
    }
    stage.slot_floats += kept_bytes(config_, i) / sizeof(float);
    stage.layers.push_back(std::move(layer));
  }
  stages_.push_back(std::move(stage));
}

void Pipeline::initialize(std::uint64_t seed) {
  std::vector<float> whole;
  for (auto& tensor : tensors_) {
    whole.resize(tensor.cut.whole_size());
    train_gpt::initialize(tensor.spec, config_.blocks, seed, whole);
    const auto weights = tensor.compute->blank(tensor.weights);
    tensor.cut.take(whole, weights.host());
    weights.put();
    for (const auto values : {tensor.gradients, tensor.m, tensor.v}) tensor.compute->clear(values);
  }
}

Pipeline::Stage& Pipeline::own_stage(std::uint32_t index) {
  return *std::ranges::find(stages_, static_cast<int>(index), &Stage::index);
}

float* Pipeline::kept(Stage& stage, std::uint32_t micro_batch, std::size_t layer) const {
  return stage.arena.data() + micro_batch % stage.slots * stage.slot_floats +
         stage.layers[layer].kept_offset;
}

Pipeline::Scratch& Pipeline::scratch_of(Compute<float>& compute) {
  const auto found = scratch_.find(&compute);
  if (found != scratch_.end()) return found->second;
  const auto count = dims_.rows() * dims_.width;
  return scratch_
      .emplace(&compute, Scratch{Workspace<float>(dims_, compute), compute.allocate(count),
                                 compute.allocate(count)})
      .first->second;
}

void Pipeline::send(int from, int to, std::uint32_t tag, Compute<float>& compute,
                    std::span<float> values) {
  const auto view = compute.view(values);
  link_->send(from, to, tag, std::as_bytes(view.host()));
}

void Pipeline::receive(int from, int to, std::uint32_t tag, Compute<float>& compute,
                       std::span<float> values) {
  const auto view = compute.blank(values);
  link_->receive(from, to, tag, std::as_writable_bytes(view.host()));
  view.put();
}

void Pipeline::forward(Stage& stage, std::uint32_t micro_batch, const Batch& batch) {
  const auto output = passed_on(stage, dims_);
  auto& work = stage.scratch->work;
  if (stage.index > 0)
    receive(stage.index - 1, stage.index, kForwardTag + micro_batch, *stage.compute,
            {kept(stage, micro_batch, 0), output.size()});
  for (std::size_t i = 0; i < stage.layers.size(); ++i) {
    const auto& layer = stage.layers[i];
    float* y = i + 1 < stage.layers.size() ? kept(stage, micro_batch, i + 1) : output.data();
    if (layer.kind == LayerKind::embed)
      embed_forward<float>(dims_, layer.weights, batch.inputs, y, work);
    else if (layer.kind == LayerKind::block)
      block_forward<float>(dims_, layer.weights, kept(stage, micro_batch, i), y, work, shard_);
    // The head does all its work in backward(), which follows at once on the last stage.
  }
  if (!is_last(stage))
    send(stage.index, stage.index + 1, kForwardTag + micro_batch, *stage.compute, output);
}

double Pipeline::backward(Stage& stage, std::uint32_t micro_batch, const Batch& batch) {
  double loss = 0;
  const auto d = gradient(stage);
  auto& work = stage.scratch->work;
  if (!is_last(stage))
    receive(stage.index + 1, stage.index, kBackwardTag + micro_batch, *stage.compute, d);
  for (auto i = stage.layers.size(); i-- > 0;) {
    auto& layer = stage.layers[i];
    if (layer.sum) {
      finish_sum(layer);
      // The first replica adds to the sum so far, the others to nothing.
      if (part_.replica > 0) stage.compute->clear(layer.all_gradients);
    }
    if (layer.kind == LayerKind::embed)
      embed_backward<float>(dims_, layer.gradients, batch.inputs, d.data(), work);
    else if (layer.kind == LayerKind::block)
      block_backward<float>(dims_, layer.weights, layer.gradients, kept(stage, micro_batch, i),
                            d.data(), work, shard_);
    else
      loss =
          head_backward<float>(dims_, layer.weights, layer.gradients, kept(stage, micro_batch, i),
                               batch.targets, 1.0 / config_.micro_batches, d.data(), work);
    if (part_.of.data > 1 && (part_.of.exact || micro_batch + 1 == micro_batches_))
      start_sum(stage, layer, *link_);
  }
  if (stage.index > 0)
    send(stage.index, stage.index - 1, kBackwardTag + micro_batch, *stage.compute, d);
  return loss;
}

void Pipeline::start_sum(Stage& stage, Layer& layer, Link& link) {
  layer.summed = stage.compute->view(layer.all_gradients);
  layer.sum = link.start_sum_of_replicas(layer.summed->host());
}

void Pipeline::finish_sum(Layer& layer) {
  layer.sum->wait();
  layer.sum.reset();
  layer.summed->put();
  layer.summed.reset();
}

StepReport Pipeline::step(const Corpus& corpus, std::uint64_t seed, std::uint64_t step,
                          const OptimizerOptions& options, bool stop) {
  std::vector<double> sums(kLossSlots + config_.micro_batches + model_tensors_, 0);
  const auto losses = std::span(sums).subspan(kLossSlots, config_.micro_batches);
  const auto norms = std::span(sums).last(model_tensors_);
  for (const auto& operation : order_) {
    auto& stage = own_stage(operation.stage);
    const auto number = part_.replica + part_.of.data * operation.micro_batch;
    const auto batch = corpus.batch(seed, step, number);
    if (operation.phase == Phase::forward) {
      forward(stage, operation.micro_batch, batch);
    } else {
      const auto loss = backward(stage, operation.micro_batch, batch);
      if (part_.shard == 0) losses[number] += loss / config_.micro_batches;
    }
  }
  for (auto& stage : stages_)
    for (auto& layer : stage.layers)
      if (layer.sum) finish_sum(layer);
  sums[kStopSlot] = stop ? 1 : 0;
  add_norms(norms);
  link_->all_reduce_sum(sums);

  double loss = 0, squares = 0;
  for (const auto each : losses) loss += each;
  for (const auto each : norms) squares += each;
  const StepReport report{loss, std::sqrt(squares), sums[kStopSlot] > 0};
  if (!std::isfinite(report.loss) || !std::isfinite(report.gradient_norm))
    throw Error(Errc::invalid_argument,
                fmt::format("step {}: loss {} with gradient norm {}; give a smaller --lr", step + 1,
                            report.loss, report.gradient_norm));
  const auto scale =
      report.gradient_norm > options.clip_norm ? options.clip_norm / report.gradient_norm : 1.0;
  const auto decaying = adam_factors(options, step, scale, true);
  const auto lasting = adam_factors(options, step, scale, false);
  for (auto& tensor : tensors_)
    tensor.compute->adamw(tensor.spec.shape.size() > 1 ? decaying : lasting, tensor.weights,
                          tensor.gradients, tensor.m, tensor.v);
  return report;
}

// All replicas have the same gradients by now, and all shards those that are not cut.
void Pipeline::add_norms(std::span<double> sums) const {
  if (part_.replica > 0) return;
  for (const auto& stage : stages_) {
    std::vector<std::span<const float>> gradients;
    std::vector<std::size_t> numbers;
    for (const auto& tensor : tensors_) {
      if (tensor.stage != stage.index || (part_.shard > 0 && tensor.cut.is_whole())) continue;
      gradients.emplace_back(tensor.gradients);
      numbers.push_back(tensor.index);
    }
    std::vector<double> squares(gradients.size());
    stage.compute->sums_of_squares(gradients, squares);
    for (std::size_t i = 0; i < squares.size(); ++i) sums[numbers[i]] = squares[i];
  }
}

void Pipeline::sample_stage(Stage& stage, const Dims& dims, Tokens tokens) {
  const auto activation = passed_on(stage, dims);
  auto& work = stage.scratch->work;
  if (stage.index > 0)
    receive(stage.index - 1, stage.index, kSampleTag, *stage.compute, activation);
  for (auto& layer : stage.layers) {
    if (layer.kind == LayerKind::embed)
      embed_forward<float>(dims, layer.weights, tokens, activation.data(), work);
    else if (layer.kind == LayerKind::block)
      block_forward<float>(dims, layer.weights, activation.data(), activation.data(), work, shard_);
    else
      head_logits<float>(dims, layer.weights, activation.data(), work);
  }
  if (!is_last(stage)) send(stage.index, stage.index + 1, kSampleTag, *stage.compute, activation);
}

std::string Pipeline::sample(std::string_view prompt, std::size_t count, std::uint64_t seed,
                             double temperature, const std::atomic<bool>* stop) {
  const auto root = link_->first_rank_of_stage(static_cast<int>(ranges_.size()) - 1);
  std::string text(prompt.empty() ? "\n" : prompt);
  const auto start = text.size();
  Random random(mix_all({seed, hash_of("sample")}));
  while (text.size() < start + count) {
    const auto length = std::min<std::size_t>(text.size(), config_.context);
    const auto window = text.substr(text.size() - length);
    const Dims dims{1, length, dims_.width, dims_.heads, dims_.shards};
    for (auto& stage : stages_)
      sample_stage(stage, dims,
                   {reinterpret_cast<const unsigned char*>(window.data()), window.size()});
    const auto uniform = random.uniform();
    std::array<unsigned char, 2> next{};  // The byte, and whether to end here.
    if (root == link_->rank()) {
      const auto& last = own_stage(static_cast<std::uint32_t>(ranges_.size()) - 1);
      float* row = last.scratch->work.logits + (length - 1) * kVocabulary;
      next = {draw(last.compute->view({row, kVocabulary}).host().data(), temperature, uniform),
              static_cast<unsigned char>(stop != nullptr && stop->load())};
    }
    link_->broadcast(root, std::as_writable_bytes(std::span(next)));
    text.push_back(static_cast<char>(next[0]));
    if (next[1] != 0) break;
  }
  return text.substr(start);
}

}  // namespace train_gpt
