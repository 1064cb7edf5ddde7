// The stages of one process: forward, backward and update of a step, and text from the model.
//
// Shape:   stage i runs layers [first, end). Weights, gradients, Adam state and kept activations
//          live where Storage says, and its Compute works there; temporaries of one layer live in
//          the Compute's memory.
// Errors:  invalid_argument if the stages do not tile the model, an arena is too small, or the loss
//          is no longer a number; what the Link throws passes through.
// Cost:    one all-reduce of a double per tensor and step beside the stage-to-stage messages; over
//          replicas, one of each layer's gradients, while the layers before it run backward; over
//          shards, five of a micro-batch's activations per block.
// Threads: one thread.
// Notes:   the loss does not depend on the number of stages: micro-batches are added in order, and
//          the gradient norm is summed tensor by tensor, in the order of the model. Replicas that
//          are not exact add their own micro-batches first, and shards their columns: the same but
//          for rounding.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "causeway/sharded_model.h"
#include "config.h"
#include "corpus.h"
#include "layers.h"
#include "link.h"
#include "optimizer.h"
#include "parallel.h"
#include "schedule.h"

namespace train_gpt {

// Where the bytes of a stage live, and who computes there: all of its spans are of that one's
// memory.
class Storage {
 public:
  Storage() = default;
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  virtual ~Storage() = default;

  [[nodiscard]] virtual Compute<float>& compute(int stage) = 0;
  // Optimizer state is Adam's m, then v.
  [[nodiscard]] virtual std::span<float> tensor(std::string_view name,
                                                causeway::StateKind kind) = 0;
  // The gradients of consecutive tensors of one layer, with what lies between them.
  [[nodiscard]] virtual std::span<float> gradients(std::string_view first,
                                                   std::string_view last) = 0;
  // For the activations that `stage` keeps.
  [[nodiscard]] virtual std::span<float> arena(int stage) = 0;
};

struct StageRange {
  std::size_t first_layer;
  std::size_t end_layer;
};

// Bytes of activations that stage `stage` keeps at most.
[[nodiscard]] std::size_t arena_bytes(const GptConfig& config,
                                      const std::vector<StageRange>& stages, std::size_t stage);

// A tensor that this process holds, or its shard of one.
struct OwnTensor {
  causeway::TensorSpec spec;  // Of the whole tensor.
  Cut cut;                    // Where the values below are in it.
  std::size_t index;          // In the order of the model.
  int stage;
  Compute<float>* compute;  // In whose memory the following are.
  std::span<float> weights;
  std::span<float> gradients;
  std::span<float> m;
  std::span<float> v;
};

struct StepReport {
  double loss;
  double gradient_norm;
  bool stop;  // Some process asked to stop; all processes see it in the same step.
};

class Pipeline {
 public:
  Pipeline(const GptConfig& config, std::vector<StageRange> stages, const std::vector<int>& own,
           Storage& storage, Link& link, const Part& part = {});

  void initialize(std::uint64_t seed);
  // Step `step` counts from 0. Every process calls it with the same arguments but for `stop`.
  StepReport step(const Corpus& corpus, std::uint64_t seed, std::uint64_t step,
                  const OptimizerOptions& options, bool stop = false);
  // `count` bytes that follow `prompt`; every process calls it and gets the same.
  // Ends early if the process of the last stage sees `*stop` set.
  [[nodiscard]] std::string sample(std::string_view prompt, std::size_t count, std::uint64_t seed,
                                   double temperature, const std::atomic<bool>* stop = nullptr);

  [[nodiscard]] std::span<const OwnTensor> tensors() const noexcept { return tensors_; }

 private:
  struct Layer {
    LayerKind kind;
    std::vector<const float*> weights;
    std::vector<float*> gradients;
    std::span<float> all_gradients;  // With what lies between them.
    std::size_t kept_offset;         // Floats from the start of a slot of the arena.
    // Of the gradients, on its way over the replicas, in the view.
    std::optional<View<float>> summed{};
    std::unique_ptr<PendingSum> sum{};
  };
  // Temporaries of the stages that one Compute works on.
  struct Scratch {
    Workspace<float> work;
    Buffer<float> passed_on;  // A stage's output on its way, or an activation of sample().
    Buffer<float> gradient;   // Of the activations, on its way back.
  };
  struct Stage {
    int index;
    Compute<float>* compute;
    Scratch* scratch;
    std::vector<Layer> layers;
    std::size_t slot_floats;  // Kept of one micro-batch.
    std::size_t slots;
    std::span<float> arena;
  };

  void add_stage(const causeway::ModelSpec& model, int index, Storage& storage);
  [[nodiscard]] float* kept(Stage& stage, std::uint32_t micro_batch, std::size_t layer) const;
  void forward(Stage& stage, std::uint32_t micro_batch, const Batch& batch);
  double backward(Stage& stage, std::uint32_t micro_batch, const Batch& batch);
  void send(int from, int to, std::uint32_t tag, Compute<float>& compute, std::span<float> values);
  void receive(int from, int to, std::uint32_t tag, Compute<float>& compute,
               std::span<float> values);
  [[nodiscard]] Scratch& scratch_of(Compute<float>& compute);
  [[nodiscard]] std::span<float> passed_on(const Stage& stage, const Dims& dims) const noexcept {
    return {stage.scratch->passed_on.get(), dims.rows() * dims.width};
  }
  [[nodiscard]] std::span<float> gradient(const Stage& stage) const noexcept {
    return {stage.scratch->gradient.get(), dims_.rows() * dims_.width};
  }
  static void start_sum(Stage& stage, Layer& layer, Link& link);
  static void finish_sum(Layer& layer);
  void add_norms(std::span<double> sums) const;
  void sample_stage(Stage& stage, const Dims& dims, Tokens tokens);
  [[nodiscard]] Stage& own_stage(std::uint32_t index);
  [[nodiscard]] bool is_last(const Stage& stage) const noexcept {
    return stage.index + 1 == static_cast<int>(ranges_.size());
  }

  GptConfig config_;
  Part part_;
  std::uint32_t micro_batches_;  // Of this replica.
  Dims dims_;
  Shard<float> shard_;
  std::vector<StageRange> ranges_;
  Link* link_;
  std::vector<Stage> stages_;
  std::vector<OwnTensor> tensors_;
  std::vector<Operation> order_;
  std::size_t model_tensors_ = 0;
  std::map<Compute<float>*, Scratch> scratch_;
};

}  // namespace train_gpt
