// What a training step of a transformer takes, and what memory it needs, by formulas.
//
// Shape:   every replica runs `micro_batches` micro-batches through `pipeline` stages of
//          layers / pipeline alike layers; a stage is `tensor_parallel` devices.
// Units:   seconds, bytes, sequences and tokens; sizes of parameters in bytes per parameter.
// Errors:  invalid_argument naming the field where a setup makes no sense.
// Threads: plain functions.
// Source:  activations and tensor parallelism: Korthikanti et al., 2022. Pipeline: Narayanan et
// al.,
//          SC 2021. ZeRO: Rajbhandari et al., SC 2020.
#pragma once

#include <cstdint>

#include "causeway/transformer_shape.h"
#include "runtime/placement/cost/device_rates.h"
#include "runtime/placement/cost/links.h"
#include "runtime/placement/cost/runtime_memory.h"

namespace causeway {

enum class Recompute : std::uint8_t {
  none,
  selective,  // The attention's scores only.
  full,       // Every layer runs forward again; only its input is kept.
};

struct TrainingSetup {
  std::uint64_t sequence = 0;       // Tokens.
  std::uint32_t micro_batch = 1;    // Sequences.
  std::uint32_t micro_batches = 1;  // Of one replica, per step.
  std::uint32_t tensor_parallel = 1;
  bool sequence_parallel = false;
  std::uint32_t pipeline = 1;
  std::uint32_t interleave = 1;  // Chunks of layers per stage.
  std::uint32_t data_parallel = 1;
  std::uint32_t zero = 0;  // What data parallel ranks share: 1 optimizer, 2 gradients, 3 weights.

  Recompute recompute = Recompute::none;
  double recomputed_layers = 1;  // Their share, where recompute is full: 0.5 is every second.
  bool flash_attention = true;   // Scores are never written; with a causal mask half are computed.
  bool hide_tensor_traffic = false;  // Products are cut in pieces that overlap with it.
  // Backward's all-reduces run beside the products that give the weights' gradients.
  bool hide_backward_tensor_traffic = false;
  bool hide_data_traffic = true;  // Gradients leave while the last micro-batch runs backward.

  bool dropout = false;  // Keeps masks, and its input, at two places of a layer.

  double score_bytes = 5;           // Kept per score where attention is neither fused nor repeated.
  bool gathered_logits = false;     // Every rank of a stage keeps all words' logits.
  double weight_product_speed = 1;  // Of the layers' products over those in 16 bits: fp8 2.

  double weight_bytes = 2;
  double sent_weight_bytes = 2;  // As ranks gather them,
  double gradient_bytes = 2;     // and as gradients are sent.
  double optimizer_bytes = 12;   // fp32 weights and Adam's two moments.
  double kept_gradient_bytes = 4;
  double logit_bytes = 10;  // Kept per token and word: bf16, fp32 and the loss's gradient.

  // What lies on another tier (host memory) and crosses `host` each step.
  bool offload_optimizer = false;    // With the gradients that feed it.
  bool offload_weights = false;      // Each layer's come for forward and again for backward.
  double offloaded_activations = 0;  // Share that goes there after forward and comes back.
};

struct TrainingLinks {
  LinkRate tensor{1e12};    // Bus bandwidth of an all-reduce over one stage's devices.
  LinkRate pipeline{1e12};  // From a device to its fellow on the next stage.
  LinkRate data{1e12};      // Bus bandwidth over the replicas.
  LinkRate host{25e9};      // To the tier that takes what is offloaded.
  double host_update_bytes_per_s = 50e9;  // Memory traffic of an optimizer that runs there.
};

// Of one step on the busiest stage. What runs behind something else is not in the sum.
struct StepCost {
  double gemm_s = 0;         // Matrix products, recomputed ones too.
  double elementwise_s = 0;  // Passes over activations, gradient accumulation.
  double tensor_s = 0;       // All-reduces that nothing hides.
  double pipeline_s = 0;     // Sends between stages.
  double bubble_s = 0;       // Waiting for the pipeline to fill and drain.
  double data_s = 0;         // Gradients and gathered weights that nothing hides.
  double optimizer_s = 0;
  double offload_s = 0;
  double seconds = 0;      // All of it.
  double model_flops = 0;  // Of the whole step over all devices, without recomputation.
};

// Per device, of the stage that needs most.
struct MemoryCost {
  double weights = 0;
  double gradients = 0;
  double optimizer = 0;
  double activations = 0;
  double logits = 0;
  double workspace = 0;  // Gathered or fetched weights; what one layer needs while it runs again,
                         // beyond what the logits have left by then.
  double runtime = 0;    // Context, communicators, library workspaces: runtime_memory.h.
  double margin = 0;     // Kept free on purpose.
  [[nodiscard]] double bytes() const noexcept {
    return weights + gradients + optimizer + activations + logits + workspace + runtime + margin;
  }
};

[[nodiscard]] StepCost training_step(const TransformerShape& shape, const TrainingSetup& setup,
                                     const DeviceRates& device, const TrainingLinks& links);

// Activations of one layer and micro-batch, per device.
[[nodiscard]] double layer_activation_bytes(const TransformerShape& shape,
                                            const TrainingSetup& setup) noexcept;

struct MemoryAllowance {
  double runtime_bytes = kContextBytes + kHopperWorkspaceBytes;
  double margin = kFragmentation;  // Of all that is counted.
};

// `stage` of setup.pipeline, from 0; layers [first, end) of the shape lie on it.
[[nodiscard]] MemoryCost stage_training_memory(const TransformerShape& shape,
                                               const TrainingSetup& setup, std::uint32_t stage,
                                               std::uint32_t first, std::uint32_t end,
                                               const MemoryAllowance& allowance = {});
// The stage that needs most, layers shared out evenly.
[[nodiscard]] MemoryCost training_memory(const TransformerShape& shape, const TrainingSetup& setup,
                                         const MemoryAllowance& allowance = {});

// A pipeline of stages that take `stage_s` per micro-batch, sends included: the step without what
// follows it. step = m max + (sum - max) / v.
struct PipelineTime {
  double bottleneck_s = 0;
  double sum_s = 0;
  [[nodiscard]] double step_seconds(std::uint32_t micro_batches,
                                    std::uint32_t interleave = 1) const noexcept {
    return micro_batches * bottleneck_s + (sum_s - bottleneck_s) / interleave;
  }
};

}  // namespace causeway
