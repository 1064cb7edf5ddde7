// A model and devices as a chain problem: the figures that the search needs, and what it must keep
// to.
//
// Shape:   option i is a device of type i; behind these come the groups of devices of one node that
//          may share a stage. A pinned device is a type of its own, and shares nothing.
// Units:   seconds, bytes, watts, price per second.
// Errors:  invalid_argument for a pin past the last layer or on a device that is not used, and for
//          a price or watts that are missing where the objective needs them.
// Threads: problem() refers to this object, which must stay where it is.
#pragma once

#include <optional>
#include <vector>

#include "causeway/plan.h"
#include "runtime/placement/chain_search.h"
#include "runtime/placement/device_types.h"
#include "runtime/placement/stage_memory.h"

namespace causeway {

// `topology` with the margins off what is available. Errors: invalid_argument, not_found.
[[nodiscard]] Topology with_margins(const Topology& topology, const PlanOptions& options);

class PlanProblem {
 public:
  // `count` devices of a type, each with `share` of the stage.
  struct Members {
    std::size_t type;
    std::uint16_t count;
    double share;
  };
  using Group = std::vector<Members>;

  PlanProblem(const ModelSpec& model, const Topology& topology,
              const std::vector<DeviceName>& devices, const PlanOptions& options);
  PlanProblem(const PlanProblem&) = delete;
  PlanProblem& operator=(const PlanProblem&) = delete;

  [[nodiscard]] const ChainProblem& problem() const noexcept { return problem_; }
  [[nodiscard]] const DeviceTypes& types() const noexcept { return types_; }
  [[nodiscard]] const StageSizer& sizes() const noexcept { return sizes_; }
  [[nodiscard]] const Group& group(std::size_t option) const { return groups_[option]; }
  // Of a micro-batch, without sends: forward and backward, or one token when serving. Of a group:
  // its slowest part, and the all-reduces between its devices.
  [[nodiscard]] double compute_seconds(const Group& group, std::uint32_t first,
                                       std::uint32_t end) const;
  // From the devices of one stage to those of the next. kImpossible: no known path.
  [[nodiscard]] double send_seconds(const Group& from, const Group& to,
                                    std::uint32_t boundary) const;
  // The slowest path between two of its devices; nothing for one device, or without a path.
  [[nodiscard]] std::optional<Rate> link_within(const Group& group) const;

 private:
  struct ServingRates {  // Of a type, as programs reach them.
    double flops_per_s;
    double read_bytes_per_s;
    double unpacked_per_s;  // Quantised values.
  };
  [[nodiscard]] static ServingRates serving_rates_of(const std::string& model);
  void add_groups(std::uint32_t most);
  void add_group(Group group);
  [[nodiscard]] double seconds_of(std::size_t type, double share, std::uint32_t first,
                                  std::uint32_t end) const;
  [[nodiscard]] double stage_seconds(std::size_t option, std::uint32_t first, std::uint32_t end,
                                     std::uint32_t behind) const;
  void set_rates(const PlanOptions& options);

  StageSizer sizes_;
  DeviceTypes types_;
  std::vector<Group> groups_;              // By option.
  std::vector<double> work_before_;        // Per layer boundary: training FLOPs of layers [0, i).
  std::vector<std::uint64_t> send_bytes_;  // Per layer: what it hands on, one way.
  std::vector<double> sent_before_{0};     // Of layers [0, i).
  std::vector<std::vector<std::uint32_t>> pinned_;  // Per type: layers it must hold.
  std::vector<std::uint32_t> all_pinned_;
  std::vector<double> forward_before_;  // FLOPs; the same of bytes that one token reads.
  std::vector<double> read_before_;
  std::vector<double> quantised_before_;                     // Values that one token takes apart.
  std::vector<std::optional<CalibratedDevice>> calibrated_;  // Per type.
  std::vector<ServingRates> serving_rates_;
  std::uint32_t micro_batches_;
  bool serving_;
  ChainProblem problem_;
};

}  // namespace causeway
