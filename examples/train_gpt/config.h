// The shape of the model and of one training step, and its description for the planner.
//
// Shape:   layer 0 embeds, layers 1 to `blocks` are transformer blocks, the last is the final norm
//          with the output head. One description holds for any number of stages.
// Units:   counts; describe() gives bytes and floating point operations per micro-batch.
// Errors:  validate() throws Errc::invalid_argument naming the option and the accepted values.
// Threads: plain values.
// Source:  pre-norm decoder: Radford et al., "Language models are unsupervised multitask
//          learners", 2019.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "causeway/model.h"

namespace train_gpt {

inline constexpr std::size_t kVocabulary = 256;  // Bytes.
inline constexpr std::size_t kMlpFactor = 4;

// The order of a layer's tensors in its description and in LayerTensors (layers.h).
enum EmbedTensor : std::size_t { kTokenTable, kPositionTable, kEmbedTensors };
enum BlockTensor : std::size_t {
  kNorm1Weight,
  kNorm1Bias,
  kQkvWeight,
  kQkvBias,
  kOutWeight,
  kOutBias,
  kNorm2Weight,
  kNorm2Bias,
  kUpWeight,
  kUpBias,
  kDownWeight,
  kDownBias,
  kBlockTensors
};
enum HeadTensor : std::size_t { kFinalNormWeight, kFinalNormBias, kHeadWeight, kHeadTensors };

enum class LayerKind : std::uint8_t { embed, block, head };

struct GptConfig {
  std::uint32_t blocks = 52;
  std::uint32_t width = 104;
  std::uint32_t heads = 4;
  std::uint32_t context = 64;       // Tokens of one sequence.
  std::uint32_t micro_batch = 2;    // Sequences of one micro-batch.
  std::uint32_t micro_batches = 4;  // Micro-batches of one step.

  void validate() const;
  [[nodiscard]] std::size_t layers() const noexcept { return std::size_t{blocks} + 2; }
  [[nodiscard]] LayerKind kind(std::size_t layer) const noexcept;
  [[nodiscard]] std::size_t tokens_per_micro_batch() const noexcept {
    return std::size_t{context} * micro_batch;
  }
  bool operator==(const GptConfig&) const = default;
};

// Bytes that forward keeps of one micro-batch until backward: a layer's input, from which backward
// computes the rest again. The embedding keeps nothing: its input follows from the seed.
[[nodiscard]] std::size_t kept_bytes(const GptConfig& config, std::size_t layer) noexcept;

[[nodiscard]] causeway::ModelSpec describe(const GptConfig& config);

}  // namespace train_gpt
