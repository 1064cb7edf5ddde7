#include "runtime/placement/cost/serving_cost.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "causeway/model_architecture.h"
#include "runtime/placement/cost/training_cost.h"

namespace causeway {

namespace {

void check(const std::vector<ServingStage>& stages) {
  if (stages.empty()) throw Error(Errc::invalid_argument, "serving cost of no stages; name one");
  for (std::size_t i = 0; i < stages.size(); ++i)
    if (!(stages[i].bandwidth_bytes_per_s > 0))
      throw Error(Errc::invalid_argument,
                  fmt::format("serving cost: stage {} has a memory bandwidth of {}", i,
                              stages[i].bandwidth_bytes_per_s));
}

// Of a layer's parameters, those that `tokens` are expected to meet: all but experts that none of
// them is routed to.
double parameters_read(const TransformerShape& shape, std::uint32_t layer, double tokens) {
  const auto all = static_cast<double>(shape.layer_parameters(layer));
  if (!shape.has_experts(layer) || shape.experts_per_token >= shape.experts) return all;
  const double idle = all - static_cast<double>(shape.active_parameters(layer));
  const double one = idle / (shape.experts - shape.experts_per_token);
  const double met = expected_experts(shape.experts, shape.experts_per_token,
                                      static_cast<std::uint64_t>(std::max(1.0, tokens)));
  return all - (shape.experts - met) * one;
}

constexpr double kEmbeddingBytes = 2;  // Tables at the ends are seldom quantised.

}  // namespace

double decode_seconds(const std::vector<ServingStage>& stages, const std::vector<ServingHop>& hops,
                      const EngineOverheads& engine, double batch) {
  check(stages);
  double seconds = 0;
  for (const auto& stage : stages) {
    const double read_s =
        stage.weight_bytes / (engine.decode_bandwidth * stage.bandwidth_bytes_per_s);
    const double unpack_s =
        stage.quantised && stage.multiprocessor_hz > 0
            ? stage.parameters / (engine.unpack_per_cycle * stage.multiprocessor_hz)
            : 0;
    const double gemm_s = stage.flops_per_s > 0 ? batch * stage.flops_per_token /
                                                      (engine.prefill_gemm * stage.flops_per_s)
                                                : 0;
    seconds += std::max(std::hypot(read_s, unpack_s), gemm_s) + stage.layers * engine.layer_s;
  }
  for (const auto& hop : hops)
    seconds += transfer_seconds(hop.link, hop.bytes) + (hop.remote_call ? engine.remote_call_s : 0);
  return seconds;
}

double prompt_pass_bytes(const TransformerShape& shape) noexcept {
  constexpr double kConvertIn = 6 + 2;       // Read in 32 bits, written in 16, read by the product.
  constexpr double kConvertOut = 2 + 2 + 4;  // Written in 16 bits, read, written in 32.
  constexpr double kWide = 4;
  const double h = shape.hidden;
  const auto q = static_cast<double>(shape.query_width());
  const auto kv = static_cast<double>(shape.kv_width());
  const double feed = shape.feed_per_token(shape.experts != 0);
  const double up = shape.gated_feed ? 2 : 1;
  const double inputs = 3 * h + q + up * h + feed;
  const double outputs = q + 2 * kv + h + up * feed + h;
  const double activation = (shape.gated_feed ? 5 : 2) * kWide * feed;
  const double norms = 2 * 4 * kWide * h;  // Scaled, then multiplied by the weights.
  const double sums = 2 * 3 * kWide * h;
  const double turned = 2 * kWide * (q + kv) + 6 * 2 * kv;  // Rotation; the cache, in 16 bits.
  return kConvertIn * inputs + kConvertOut * outputs + activation + norms + sums + turned;
}

double prefill_seconds(const std::vector<ServingStage>& stages, std::uint64_t tokens,
                       const EngineOverheads& engine) {
  check(stages);
  // Of one micro-batch of `width` tokens: compute, or reading the weights, whichever is longer;
  // quantised weights are written out in half precision first.
  const auto stage_seconds = [&](const ServingStage& stage, double width) {
    const double gemm_s = width * stage.flops_per_token / (engine.prefill_gemm * stage.flops_per_s);
    const double read_s = stage.weight_bytes / stage.bandwidth_bytes_per_s;
    const double widen_s =
        stage.quantised ? engine.dequantise_bytes * stage.parameters / stage.bandwidth_bytes_per_s
                        : 0;
    const double pass_s = width * stage.pass_bytes_per_token /
                          (engine.decode_bandwidth * stage.bandwidth_bytes_per_s);
    return std::max(gemm_s, read_s) + pass_s + widen_s + stage.layers * engine.layer_s;
  };
  double seconds = 0;
  for (std::uint64_t at = 0; at < tokens; at += engine.prompt_batch) {
    const auto batch = std::min<std::uint64_t>(engine.prompt_batch, tokens - at);
    const auto pieces = (batch + engine.prompt_micro_batch - 1) / engine.prompt_micro_batch;
    PipelineTime time;
    for (const auto& stage : stages) {
      const double stage_s =
          stage_seconds(stage, static_cast<double>(batch) / static_cast<double>(pieces));
      time.bottleneck_s = std::max(time.bottleneck_s, stage_s);
      time.sum_s += stage_s;
    }
    seconds += time.step_seconds(static_cast<std::uint32_t>(pieces));
  }
  return seconds;
}

double kv_bytes(const TransformerShape& shape, std::uint64_t context, std::uint64_t batch,
                double bytes_per_element) noexcept {
  return bytes_per_element * static_cast<double>(shape.kv_elements()) * shape.layers *
         static_cast<double>(shape.kept_tokens(context)) * static_cast<double>(batch);
}

double requests_that_fit(const TransformerShape& shape, const std::vector<std::uint32_t>& layers,
                         double memory_bytes, const ServingLoad& load, std::uint64_t context) {
  double fewest = load.most_requests;
  std::uint32_t layer = 0;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    double weights = 0;
    for (std::uint32_t k = 0; k < layers[i]; ++k)
      weights +=
          load.weight_bytes_per_parameter * static_cast<double>(shape.layer_parameters(layer++));
    if (i == 0) weights += kEmbeddingBytes * static_cast<double>(shape.embedding_parameters());
    if (i + 1 == layers.size())
      weights += kEmbeddingBytes * static_cast<double>(shape.head_parameters());
    const double room = load.memory_share * memory_bytes - weights;
    const double per_request =
        kv_bytes(shape, context, 1, load.kv_bytes_per_element) / shape.layers * layers[i];
    if (layers[i] > 0) fewest = std::min(fewest, std::max(0.0, room / per_request));
  }
  return fewest;
}

ServingCost serving_throughput(const TransformerShape& shape, const DeviceRates& device,
                               const ServingLayout& layout, const ServingLoad& load,
                               double gemm_share) {
  const double t = layout.tensor_parallel;
  std::vector<std::uint32_t> layers;
  for (std::uint32_t i = 0; i < layout.stages; ++i)
    layers.push_back(shape.layers * (i + 1) / layout.stages - shape.layers * i / layout.stages);
  const auto context = load.prompt + load.answer;
  ServingCost cost;
  cost.requests = requests_that_fit(shape, layers, t * device.memory_bytes, load, context);
  if (cost.requests < 1) return cost;
  const double group = cost.requests / layout.stages;
  // Each answer's token carries its share of the request's prompt along in the same products, which
  // read the weights once; attention reads keys and values beside them.
  const double tokens =
      group * (1 + static_cast<double>(load.prompt) / static_cast<double>(load.answer));
  const double stream = t * device.stream_bytes_per_s();
  const double peak = t * device.sustained(gemm_share);
  const auto mean_context = load.prompt + load.answer / 2;
  std::uint32_t layer = 0;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    double weights = 0;
    double flops = 0;
    for (std::uint32_t k = 0; k < layers[i]; ++k, ++layer) {
      weights += load.weight_bytes_per_parameter * parameters_read(shape, layer, tokens);
      flops += shape.layer_flops(layer, context / 2);
    }
    const double kv_s = group * kv_bytes(shape, mean_context, 1, load.kv_bytes_per_element) /
                        shape.layers * layers[i] / stream;
    const double reduce_s =
        2.0 * layers[i] *
        all_reduce_seconds(layout.tensor, layout.tensor_parallel, 2.0 * tokens * shape.hidden);
    double stage_s =
        std::max(weights / stream, tokens * flops / (load.peak_factor * peak)) + kv_s + reduce_s;
    if (i + 1 == layers.size())  // Words are chosen for answers only.
      stage_s += std::max(kEmbeddingBytes * static_cast<double>(shape.head_parameters()) / stream,
                          group * shape.head_flops() / peak);
    cost.step_s = std::max(cost.step_s, stage_s + load.iteration_s);
  }
  cost.tokens_per_second = group / cost.step_s;
  return cost;
}

}  // namespace causeway
