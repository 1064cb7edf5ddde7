#include "runtime/placement/cost/training_cost.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace causeway {

namespace {

constexpr double kBackward = 2;       // Of forward's work.
constexpr double kScoreBytes = 11;    // Written and read per score where attention is not fused.
constexpr double kLogitTraffic = 24;  // Bytes per token and word: softmax and loss, both ways.
// Bytes per parameter of an update: gradients set to zero (4), their norm (4) and clipping (8),
// Adam over weights, gradients and two moments in 32 bits (28), new weights in 16 bits (6).
constexpr double kUpdateTraffic = 50;
constexpr double kHostUpdateTraffic = 30;  // One pass, there.
constexpr double kAccumulateTraffic = 8;   // An fp32 gradient read and written per micro-batch.

void require(bool holds, const char* field, double value) {
  if (!holds)
    throw Error(Errc::invalid_argument,
                fmt::format("training setup: {} is {}, which makes no sense here", field, value));
}

void check(const TransformerShape& shape, const TrainingSetup& setup) {
  shape.validate();
  require(setup.sequence > 0, "sequence", static_cast<double>(setup.sequence));
  require(setup.micro_batch > 0, "micro_batch", setup.micro_batch);
  require(setup.micro_batches > 0, "micro_batches", setup.micro_batches);
  require(setup.tensor_parallel > 0, "tensor_parallel", setup.tensor_parallel);
  require(setup.pipeline > 0 && setup.pipeline <= shape.layers, "pipeline", setup.pipeline);
  require(setup.interleave > 0, "interleave", setup.interleave);
  require(setup.data_parallel > 0, "data_parallel", setup.data_parallel);
  require(setup.zero <= 3, "zero", setup.zero);
  require(setup.recomputed_layers >= 0 && setup.recomputed_layers <= 1, "recomputed_layers",
          setup.recomputed_layers);
  require(setup.offloaded_activations >= 0 && setup.offloaded_activations <= 1,
          "offloaded_activations", setup.offloaded_activations);
}

// One direction of one layer and micro-batch on one device, in seconds.
struct LayerCost {
  double gemm_s = 0;
  double scores_s = 0;  // Of gemm_s and elementwise_s, what selective recomputation repeats.
  double elementwise_s = 0;
  double tensor_s = 0;
};

double tokens_of(const TrainingSetup& setup) {
  return static_cast<double>(setup.sequence) * setup.micro_batch;
}

LayerCost forward_cost(const TransformerShape& shape, const TrainingSetup& setup,
                       std::uint32_t layer, const DeviceRates& device, const TrainingLinks& links) {
  const double t = setup.tensor_parallel;
  const double tokens = tokens_of(setup);
  const double weights = 2.0 * static_cast<double>(shape.active_parameters(layer));
  double scores = shape.layer_flops(layer, setup.sequence) - weights;
  if (setup.flash_attention) scores /= 2;
  const double feed = shape.feed_per_token(shape.has_experts(layer));
  // Bytes per token, in 16 bits. On all ranks alike unless the sequence is split: two norms that
  // read and write (8 h), two sums of bias, dropout and residual that read two, write one and a
  // mask (14 h). On a rank's own columns: queries, keys and values put in order, the activation
  // function.
  const double common = 22.0 * shape.hidden / (setup.sequence_parallel ? t : 1);
  const double columns = (4.0 * static_cast<double>(shape.query_width() + 2 * shape.kv_width()) +
                          (shape.gated_feed ? 6.0 : 4.0) * feed) /
                         t;
  // Products in 8 bits: their inputs are read in 16 and written in 8 first.
  const double casts =
      setup.weight_product_speed > 1
          ? 3.0 * (3.0 * shape.hidden + static_cast<double>(shape.query_width()) + feed) / t
          : 0;
  const double score_bytes =
      setup.flash_attention
          ? 0
          : kScoreBytes * shape.heads * static_cast<double>(shape.kept_tokens(setup.sequence)) / t;
  const double stream = device.stream_bytes_per_s() / device.achieved.elementwise;
  LayerCost cost;
  cost.gemm_s =
      tokens * (weights / setup.weight_product_speed + scores) / t / device.gemm_flops_per_s();
  cost.scores_s = tokens * (scores / t / device.gemm_flops_per_s() + score_bytes / stream);
  cost.elementwise_s = tokens * (common + columns + casts + score_bytes) / stream;
  if (!setup.hide_tensor_traffic)
    cost.tensor_s =
        2 * all_reduce_seconds(links.tensor, setup.tensor_parallel, 2.0 * tokens * shape.hidden);
  return cost;
}

// What backward's exchanges add. Beside the products of the weights' gradients run all-reduces, or
// of a split sequence the reduce-scatters; its all-gathers come before anything else can go on.
double backward_tensor_seconds(const TrainingSetup& setup, const LayerCost& forward) {
  if (!setup.hide_backward_tensor_traffic) return forward.tensor_s;
  const double hideable = setup.sequence_parallel ? forward.tensor_s / 2 : forward.tensor_s;
  return forward.tensor_s - hideable + std::max(0.0, hideable - forward.gemm_s);
}

// Both directions of all layers of a stage, and what is run again.
struct StageCost {
  double gemm_s = 0;
  double elementwise_s = 0;
  double tensor_s = 0;
  [[nodiscard]] double seconds() const noexcept { return gemm_s + elementwise_s + tensor_s; }
};

StageCost stage_cost(const TransformerShape& shape, const TrainingSetup& setup,
                     const DeviceRates& device, const TrainingLinks& links) {
  StageCost stage;
  for (std::uint32_t layer = 0; layer < shape.layers; ++layer) {
    const auto forward = forward_cost(shape, setup, layer, device, links);
    const double runs = setup.recompute == Recompute::full ? setup.recomputed_layers : 0;
    stage.gemm_s += forward.gemm_s * (1 + kBackward + runs);
    stage.elementwise_s += forward.elementwise_s * (1 + kBackward + runs);
    stage.tensor_s += forward.tensor_s * (1 + runs) + backward_tensor_seconds(setup, forward);
    // Fused attention computes its scores again in any case.
    if (setup.recompute == Recompute::selective || setup.flash_attention)
      stage.gemm_s += forward.scores_s;
    stage.elementwise_s += kAccumulateTraffic * static_cast<double>(shape.layer_parameters(layer)) /
                           setup.tensor_parallel / device.stream_bytes_per_s();
  }
  stage.gemm_s /= setup.pipeline;
  stage.elementwise_s /= setup.pipeline;
  stage.tensor_s /= setup.pipeline;
  return stage;
}

double stage_parameters(const TransformerShape& shape, const TrainingSetup& setup) {
  double layers = 0;
  for (std::uint32_t layer = 0; layer < shape.layers; ++layer)
    layers += static_cast<double>(shape.layer_parameters(layer));
  const double ends = setup.pipeline == 1 ? static_cast<double>(shape.embedding_parameters()) *
                                                (shape.tied_embeddings ? 0 : 1)
                                          : 0;
  return (layers / setup.pipeline + ends + static_cast<double>(shape.head_parameters())) /
         setup.tensor_parallel;
}

// Gradients leave while the last micro-batch runs backward, weights come while the first runs
// forward; ZeRO-3 gathers every micro-batch, twice.
double data_seconds(const TrainingSetup& setup, const TrainingLinks& links, double parameters,
                    double micro_batch_s) {
  const auto n = setup.data_parallel;
  const double reduce = half_reduce_seconds(links.data, n, setup.gradient_bytes * parameters);
  const double gather = half_reduce_seconds(links.data, n, setup.sent_weight_bytes * parameters);
  const double forward_s = micro_batch_s / 3;
  const double backward_s = micro_batch_s - forward_s;
  if (setup.zero < 3) {
    if (!setup.hide_data_traffic) return reduce + gather;
    return std::max(0.0, reduce - backward_s) + std::max(0.0, gather - forward_s);
  }
  const double exposed = setup.hide_data_traffic ? std::max(0.0, gather - forward_s) +
                                                       std::max(0.0, gather + reduce - backward_s)
                                                 : 2 * gather + reduce;
  return exposed * setup.micro_batches;
}

double optimizer_share(const TrainingSetup& setup) {
  return setup.zero >= 1 ? 1.0 / setup.data_parallel : 1.0;
}

// A micro-batch's traffic with the tier that holds what is offloaded, both ways over one link and
// one memory: weights come for forward and again for backward, activations leave and come back,
// gradients leave to be added up there.
double host_seconds(const TrainingSetup& setup, const TrainingLinks& links, double parameters,
                    double own, double activation_bytes) {
  const double activations = 2 * setup.offloaded_activations * activation_bytes;
  const double weights = setup.offload_weights ? 2 * setup.sent_weight_bytes * parameters : 0;
  const double gradients =
      setup.offload_optimizer && setup.micro_batches > 1 ? setup.gradient_bytes * own : 0;
  return (weights + activations + gradients) / links.host.bandwidth_bytes_per_s;
}

}  // namespace

StepCost training_step(const TransformerShape& shape, const TrainingSetup& setup,
                       const DeviceRates& device, const TrainingLinks& links) {
  check(shape, setup);
  const double t = setup.tensor_parallel;
  const double tokens = tokens_of(setup);
  const auto stage = stage_cost(shape, setup, device, links);
  const double head_gemm_s = 3 * tokens * shape.head_flops() / t / device.gemm_flops_per_s();
  const double head_stream_s =
      kLogitTraffic * tokens * shape.vocabulary / t / device.stream_bytes_per_s();
  const double send_s =
      setup.pipeline > 1
          ? 2 * transfer_seconds(links.pipeline,
                                 2.0 * tokens * shape.hidden / (setup.sequence_parallel ? t : 1))
          : 0;
  const double layers_s = stage.seconds();
  const double bottleneck_s = layers_s + head_gemm_s + head_stream_s;
  const double m = setup.micro_batches;

  StepCost cost;
  cost.gemm_s = m * (stage.gemm_s + head_gemm_s);
  cost.elementwise_s = m * (stage.elementwise_s + head_stream_s);
  cost.tensor_s = m * stage.tensor_s;
  // Sends overlap with the work of other micro-batches; the one that fills the pipeline does not.
  cost.pipeline_s = send_s * (setup.pipeline - 1);
  cost.bubble_s = (setup.pipeline - 1) * layers_s / setup.interleave;
  const double parameters = stage_parameters(shape, setup);
  if (setup.data_parallel > 1) cost.data_s = data_seconds(setup, links, parameters, bottleneck_s);
  const double own = parameters * optimizer_share(setup);
  if (setup.offload_optimizer) {
    // The last gradients go out and new weights come back when there is no work to hide them.
    cost.offload_s =
        (setup.gradient_bytes + setup.sent_weight_bytes) * own / links.host.bandwidth_bytes_per_s;
    cost.optimizer_s = kHostUpdateTraffic * own / links.host_update_bytes_per_s;
  } else {
    cost.optimizer_s = kUpdateTraffic * own / device.stream_bytes_per_s();
  }
  const double layer_bytes = layer_activation_bytes(shape, setup) * shape.layers / setup.pipeline;
  cost.offload_s +=
      m * std::max(0.0, host_seconds(setup, links, parameters, own, layer_bytes) - bottleneck_s);
  cost.seconds = cost.gemm_s + cost.elementwise_s + cost.tensor_s + cost.pipeline_s +
                 cost.bubble_s + cost.data_s + cost.optimizer_s + cost.offload_s;
  cost.model_flops = 3 * shape.forward_flops(setup.sequence) * tokens * m * setup.data_parallel;
  return cost;
}

// Kept bytes per token. Inputs of products and norms are there on all ranks alike (8 h: two norms,
// two inputs; 10 h with dropout's masks), a rank's own columns are queries, keys, values, their
// result, and the feed-forward part's: 24 h for the GPT form, as in the paper.
double layer_activation_bytes(const TransformerShape& shape, const TrainingSetup& setup) noexcept {
  const double t = setup.tensor_parallel;
  const double common =
      (setup.dropout ? 10.0 : 8.0) * shape.hidden / (setup.sequence_parallel ? t : 1);
  const double feed = shape.feed_per_token(shape.experts != 0);
  const double columns = 4.0 * static_cast<double>(shape.query_width() + shape.kv_width()) +
                         (shape.gated_feed ? 8.0 : 4.0) * feed;
  const double scores = setup.flash_attention || setup.recompute == Recompute::selective
                            ? 0
                            : setup.score_bytes * shape.heads *
                                  static_cast<double>(shape.kept_tokens(setup.sequence));
  const double all = common + (columns + scores) / t;
  if (setup.recompute != Recompute::full) return tokens_of(setup) * all;
  const double input = 2.0 * shape.hidden / (setup.sequence_parallel ? t : 1);
  return tokens_of(setup) * (setup.recomputed_layers * input + (1 - setup.recomputed_layers) * all);
}

MemoryCost stage_training_memory(const TransformerShape& shape, const TrainingSetup& setup,
                                 std::uint32_t stage, std::uint32_t first, std::uint32_t end,
                                 const MemoryAllowance& allowance) {
  check(shape, setup);
  require(stage < setup.pipeline, "stage", stage);
  require(first <= end && end <= shape.layers, "end", end);
  const double t = setup.tensor_parallel;
  const double dp = setup.data_parallel;
  const double tokens = tokens_of(setup);
  const bool last = stage + 1 == setup.pipeline;
  double parameters = 0;
  for (auto layer = first; layer < end; ++layer)
    parameters += static_cast<double>(shape.layer_parameters(layer));
  if (stage == 0) parameters += static_cast<double>(shape.embedding_parameters());
  if (last && !(shape.tied_embeddings && setup.pipeline == 1))
    parameters += static_cast<double>(shape.head_parameters());
  parameters /= t;

  MemoryCost memory;
  if (!setup.offload_weights)
    memory.weights = setup.weight_bytes * parameters / (setup.zero >= 3 ? dp : 1);
  if (!setup.offload_optimizer) {
    memory.gradients = setup.kept_gradient_bytes * parameters / (setup.zero >= 2 ? dp : 1);
    memory.optimizer = setup.optimizer_bytes * parameters * optimizer_share(setup);
  }
  const double in_flight = std::min(setup.micro_batches, setup.pipeline - stage);
  const double ahead =
      setup.interleave > 1 && setup.pipeline > 1
          ? 1 + (setup.pipeline - 1.0) / (setup.pipeline * static_cast<double>(setup.interleave))
          : 1;
  memory.activations = layer_activation_bytes(shape, setup) * (end - first) * in_flight * ahead *
                       (1 - setup.offloaded_activations);
  if (last)
    memory.logits = setup.logit_bytes * tokens * shape.vocabulary / (setup.gathered_logits ? 1 : t);
  if (setup.recompute == Recompute::full) {
    auto once = setup;
    once.recompute = Recompute::none;
    memory.workspace = std::max(0.0, layer_activation_bytes(shape, once) - memory.logits);
  }
  if ((setup.zero >= 3 || setup.offload_weights) && end > first)  // One in use, one on its way.
    memory.workspace +=
        2 * setup.sent_weight_bytes * static_cast<double>(shape.layer_parameters(first)) / t;
  memory.runtime = allowance.runtime_bytes;
  memory.margin = allowance.margin * memory.bytes();
  return memory;
}

MemoryCost training_memory(const TransformerShape& shape, const TrainingSetup& setup,
                           const MemoryAllowance& allowance) {
  check(shape, setup);
  MemoryCost most;
  for (std::uint32_t stage = 0; stage < setup.pipeline; ++stage) {
    const auto first =
        static_cast<std::uint32_t>(std::uint64_t{shape.layers} * stage / setup.pipeline);
    const auto end =
        static_cast<std::uint32_t>(std::uint64_t{shape.layers} * (stage + 1) / setup.pipeline);
    const auto memory = stage_training_memory(shape, setup, stage, first, end, allowance);
    if (memory.bytes() > most.bytes()) most = memory;
  }
  return most;
}

}  // namespace causeway
