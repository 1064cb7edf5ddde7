// What serving a transformer takes: tokens one at a time (decode), prompts (prefill), and both
// together under load; and the memory of its keys and values.
//
// Shape:   layers in consecutive stages, each on one device or on a few that share every layer.
// Units:   seconds, bytes, tokens.
// Errors:  invalid_argument for no stages or a stage without bandwidth.
// Threads: plain functions.
// Source:  decode reads every weight once per token; the constants are fits to public llama.cpp and
//          TensorRT-LLM figures: docs/planner.md.
#pragma once

#include <cstdint>
#include <vector>

#include "causeway/transformer_shape.h"
#include "runtime/placement/cost/device_rates.h"
#include "runtime/placement/cost/links.h"

namespace causeway {

// What an engine adds to the hardware's time.
struct EngineOverheads {
  double decode_bandwidth = 0.91;          // Share of the memory's specification.
  double unpack_per_cycle = 20;            // Quantised weights that a multiprocessor takes apart.
  double layer_s = 0.078e-3;               // Launches of one layer's kernels for one token.
  double prefill_gemm = 0.843;             // Share of the peak in products of half precision.
  double dequantise_bytes = 10.8;          // Memory traffic per quantised weight and micro-batch.
  std::uint32_t prompt_batch = 2048;       // Tokens that go through the stages together,
  std::uint32_t prompt_micro_batch = 512;  // in pieces of so many.
  double remote_call_s = 0.8e-3;           // Software around a stage behind a network, per token.
};

struct ServingStage {
  double weight_bytes;  // That a token reads.
  std::uint32_t layers;
  double bandwidth_bytes_per_s;  // Of the memory, by specification.
  double flops_per_s = 0;      // Peak, or what power allows over the engine's share of it; 0: more
                               // than is needed.
  double flops_per_token = 0;  // Forward.
  double parameters = 0;       // Of quantised weights.
  bool quantised = false;
  double multiprocessor_hz = 0;     // For taking weights apart; 0: no limit.
  double pass_bytes_per_token = 0;  // Of prefill, over activations: prompt_pass_bytes().
};

// One hop from a stage to the next, or to a client that runs none.
struct ServingHop {
  LinkRate link;
  double bytes = 0;  // Per token.
  bool remote_call = false;
};

// One token for each of `batch` sequences. Reading the weights and taking quantised ones apart
// share the same instructions, so the longer hides the shorter in part (their squares add);
// products take over where the batch is large.
[[nodiscard]] double decode_seconds(const std::vector<ServingStage>& stages,
                                    const std::vector<ServingHop>& hops,
                                    const EngineOverheads& engine = {}, double batch = 1);

// Memory traffic of one layer and prompt token beside weights and scores, where activations are
// kept in 32 bits and each product converts its input and its result, as llama.cpp does. It grows
// with the memory's speed, not with the products'.
[[nodiscard]] double prompt_pass_bytes(const TransformerShape& shape) noexcept;

// A prompt of `tokens`: batches of prompt_batch, each a pipeline of micro-batches over the stages.
[[nodiscard]] double prefill_seconds(const std::vector<ServingStage>& stages, std::uint64_t tokens,
                                     const EngineOverheads& engine = {});

// Keys and values of `batch` contexts of `context` tokens, all layers.
[[nodiscard]] double kv_bytes(const TransformerShape& shape, std::uint64_t context,
                              std::uint64_t batch, double bytes_per_element) noexcept;

struct ServingLoad {
  std::uint64_t prompt = 1000;  // Tokens of a request,
  std::uint64_t answer = 1000;  // and of what it gets back.
  double weight_bytes_per_parameter = 2;
  double kv_bytes_per_element = 2;
  double peak_factor = 1;     // Peak of the weights' precision over bf16's: fp8 2, fp4 4.
  double memory_share = 0.9;  // Of the memory left beside the weights, for keys and values.
  std::uint32_t most_requests = 2048;  // That an engine batches.
  double iteration_s = 5e-3;           // Scheduler and sampling, per step of a group.
};

struct ServingCost {
  double requests = 0;           // At one time.
  double tokens_per_second = 0;  // Answers.
  double step_s = 0;             // One token for each request of a group.
};

struct ServingLayout {
  std::uint32_t stages = 1;
  std::uint32_t tensor_parallel = 1;  // Devices of a stage: each holds its part of every layer.
  LinkRate tensor{1e12};              // Bus bandwidth of an all-reduce over them.
};

// Steady state of a pipeline, layers shared out evenly: as many groups of requests as stages, so
// that every device is busy. The slowest stage sets the pace: the last has the head, whose weights
// and products stay in 16 bits.
[[nodiscard]] ServingCost serving_throughput(const TransformerShape& shape,
                                             const DeviceRates& device, const ServingLayout& layout,
                                             const ServingLoad& load, double gemm_share);

// Requests of `context` tokens whose keys and values fit beside the weights where room is least:
// what decides between two cuts of the same model. Layers per stage in order.
[[nodiscard]] double requests_that_fit(const TransformerShape& shape,
                                       const std::vector<std::uint32_t>& layers,
                                       double memory_bytes, const ServingLoad& load,
                                       std::uint64_t context);

}  // namespace causeway
