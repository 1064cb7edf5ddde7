// The state of a run on disk: one safetensors file per stage in a folder per step.
//
//   DIR/step-50/stage-03-of-10.safetensors    weights "NAME", Adam state "NAME.adam_m", ".adam_v"
//   DIR/latest -> step-50
//
// Shape:   a folder step-N is complete or absent: it is written as step-N.tmp and renamed. Reading
//          looks tensors up by name in all files, and they are whole, so a run may go on with
//          other stages, replicas and shards.
// Errors:  not_found if there is no checkpoint; parse naming the file and what is wrong with it if
//          it is damaged, incomplete or of another model; io from the system.
// Threads: one thread.
// Notes:   DIR must be the same folder for all processes; save_checkpoint() says so if it is not.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "causeway/safetensors.h"
#include "config.h"
#include "link.h"
#include "pipeline.h"

namespace train_gpt {

struct CheckpointInfo {
  GptConfig config;
  std::uint64_t seed = 0;
  std::uint64_t step = 0;  // Steps done; the next one has this index.
  double learning_rate = 0;
  bool operator==(const CheckpointInfo&) const = default;
};

// Every process of the run calls it. Replaces a folder of the same step. The first replica writes;
// of several shards the first, which gathers the others' parts in its own memory, as it does with
// what lies on a GPU.
void save_checkpoint(Link& link, const std::filesystem::path& root, const CheckpointInfo& info,
                     const std::vector<int>& own_stages, std::size_t stages,
                     std::span<const OwnTensor> tensors, const Part& part = {});

class Checkpoint {
 public:
  // `path` is a root with `latest` or a folder of one step.
  [[nodiscard]] static Checkpoint open(const std::filesystem::path& path);

  [[nodiscard]] const CheckpointInfo& info() const noexcept { return info_; }
  [[nodiscard]] const std::filesystem::path& folder() const noexcept { return folder_; }
  // Weights, m and v; gradients become 0.
  void load(const OwnTensor& tensor) const;

 private:
  Checkpoint() = default;
  void load_part(const std::string& name, const causeway::TensorSpec& like, const Cut& cut,
                 std::span<float> target) const;

  std::filesystem::path folder_;
  CheckpointInfo info_;
  std::vector<std::pair<std::string, causeway::SafetensorsFile>> files_;
  std::map<std::string, std::size_t> file_of_tensor_;
};

}  // namespace train_gpt
