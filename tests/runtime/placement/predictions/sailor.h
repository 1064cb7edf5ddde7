// Plans of the Sailor artifact: predicted from its per-layer profiles and link fits, held against
// the seconds and bytes that were measured.
//
// Shape:   a plan is a pipeline of stages; each stage is replicas of a group of tensor parallel
//          devices, all of one node. Replicas may be of different cards: the slowest sets the pace.
// Units:   seconds, bytes; a link's fit is GB/s over log2 of the message in MiB.
// Errors:  std::runtime_error or Boost.JSON's for files that are not such.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "runtime/placement/cost/runtime_memory.h"

namespace causeway::predictions {

struct SailorGroup {
  std::string gpu;
  std::uint32_t tensor_parallel = 1;
};

struct SailorStage {
  std::vector<SailorGroup> replicas;
  std::vector<std::uint32_t> layers;
};

struct SailorPlan {
  std::string id;     // "clariden/N16_D4"
  std::string group;  // Plans that answer the same question: cluster, nodes, batch.
  std::vector<SailorStage> stages;
  std::uint32_t micro_batch = 1;
  std::uint32_t global_batch = 1;
  double measured_s = 0;
  double measured_bytes = 0;
};

struct SailorData {
  // Forward, backward, update: by GPU, micro-batch, tensor parallel degree and layer.
  struct Layer {
    double forward_s, backward_s, update_s;
  };
  std::map<std::string, std::map<std::uint32_t, std::map<std::uint32_t, std::vector<Layer>>>>
      profiles;
  struct LinkFit {
    double a, b, c, most_bytes_per_s;
    [[nodiscard]] double bytes_per_s(double message_bytes) const;
  };
  std::map<std::string, std::map<std::uint32_t, LinkFit>> networks;  // By GPU and flows.
  std::vector<SailorPlan> plans;
};

[[nodiscard]] SailorData read_sailor(const std::string& folder);

// Nothing in it is fitted: profiles, link fits, and what is sent.
[[nodiscard]] double predict_seconds(const SailorData& data, const SailorPlan& plan);

// What the files do not say of memory, fitted to the plans in odd places of the list (1, 3, ...).
struct SailorMemory {
  // Of the nodes whose cards NVLink joins: NCCL's buffers for the groups of a Megatron-LM job.
  double communicator_bytes = 3.93e9;
  double fragmentation = kFragmentation;
  // Where a card older than Ampere takes part, kernels are not fused and logits are gathered.
  double score_bytes = 12.1;   // Kept per score,
  double logit_bytes = 7.46;  // and per token and word, on each rank.
};
[[nodiscard]] SailorMemory fit_memory(const SailorData& data);
[[nodiscard]] double predict_bytes(const SailorPlan& plan, const SailorMemory& memory = {});

}  // namespace causeway::predictions
