// Plans of the Sailor artifact: predicted from its per-layer profiles and link fits, held against
// the seconds and bytes that were measured.
//
// Shape:   a plan is a pipeline of stages; each stage is replicas of a group of tensor parallel
//          devices, all of one node.
// Units:   seconds, bytes; a link's fit is GB/s over log2 of the message in MiB.
// Errors:  std::runtime_error or Boost.JSON's for files that are not such.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace causeway::predictions {

struct SailorStage {
  std::string gpu;
  std::uint32_t tensor_parallel = 1;
  std::uint32_t replicas = 1;
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

// What a send between stages takes over what the link's fit says: 1 if nothing is in its way.
inline constexpr double kSendFactor = 1.5;

[[nodiscard]] double predict_seconds(const SailorData& data, const SailorPlan& plan,
                                     double send_factor = kSendFactor);

// The factor that fits the plans in odd places of the list (1, 3, ...) best.
[[nodiscard]] double fit_send_factor(const SailorData& data);

// Memory that is no tensor of the job: context, communicators, library workspaces.
inline constexpr double kSailorRuntimeBytes = 4.4e9;
[[nodiscard]] double predict_bytes(const SailorPlan& plan,
                                   double runtime_bytes = kSailorRuntimeBytes);

}  // namespace causeway::predictions
