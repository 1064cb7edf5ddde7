#include "runtime/placement/cost/serving_cost.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

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

constexpr double kEmbeddingBytes = 2;  // Tables at the ends are seldom quantised.

}  // namespace

double decode_seconds(const std::vector<ServingStage>& stages, const std::vector<ServingHop>& hops,
                      const EngineOverheads& engine) {
  check(stages);
  double seconds = 0;
  for (const auto& stage : stages)
    seconds += stage.weight_bytes / (engine.decode_bandwidth * stage.bandwidth_bytes_per_s) +
               stage.layers * engine.layer_s;
  for (const auto& hop : hops)
    seconds += transfer_seconds(hop.link, hop.bytes) + (hop.remote_call ? engine.remote_call_s : 0);
  return seconds;
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
    return std::max(gemm_s, read_s) + widen_s + stage.layers * engine.layer_s;
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
                               std::uint32_t stages, const ServingLoad& load, double gemm_share) {
  std::vector<std::uint32_t> layers;
  for (std::uint32_t i = 0; i < stages; ++i)
    layers.push_back(shape.layers * (i + 1) / stages - shape.layers * i / stages);
  const auto context = load.prompt + load.answer;
  ServingCost cost;
  cost.requests = requests_that_fit(shape, layers, device.memory_bytes, load, context);
  if (cost.requests < 1) return cost;
  const double group = cost.requests / stages;
  const double peak = gemm_share * device.spec_flops_per_s * load.peak_factor;
  const double parameters = static_cast<double>(shape.parameters());
  const double flops = shape.forward_flops(context / 2) / stages;
  const double mean_context =
      static_cast<double>(load.prompt) + 0.5 * static_cast<double>(load.answer);
  const double stream = device.stream_bytes_per_s();
  const double weights_s = load.weight_bytes_per_parameter * parameters / stages / stream;
  const double kv_s =
      group *
      kv_bytes(shape, static_cast<std::uint64_t>(mean_context), 1, load.kv_bytes_per_element) /
      stages / stream;
  // Each answer's token carries its share of the request's prompt along in the same products, which
  // read the weights once; attention reads keys and values beside them.
  const double tokens =
      group * (1 + static_cast<double>(load.prompt) / static_cast<double>(load.answer));
  cost.step_s = std::max(weights_s, tokens * flops / peak) + kv_s + load.iteration_s;
  cost.tokens_per_second = group / cost.step_s;
  return cost;
}

}  // namespace causeway
