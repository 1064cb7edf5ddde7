// The two seams of the training over the pool: messages by a Worker, bytes in pool regions.
//
// Shape:   who computes a stage follows from where its regions are: a GPU for memory of that GPU,
//          the processor for the rest.
// Errors:  what Pool, Worker and ShardedModel throw; out_of_memory if an arena does not fit;
//          unsupported if a stage lies where `choice` forbids, or on two devices.
// Threads: one thread.
#pragma once

#include <map>
#include <memory>
#include <optional>

#include "causeway/group.h"
#include "causeway/plan.h"
#include "causeway/pool.h"
#include "causeway/sharded_model.h"
#include "causeway/worker.h"
#include "link.h"
#include "pipeline.h"

namespace train_gpt {

class PoolLink final : public Link {
 public:
  // Every process of the job makes one, at the same place.
  PoolLink(causeway::Worker& worker, const Part& part);

  [[nodiscard]] int rank() const override { return worker_->rank(); }
  [[nodiscard]] int world() const override { return worker_->world(); }
  [[nodiscard]] int first_rank_of_stage(int stage) const override {
    return worker_->team_of_stage(stage).front();
  }
  void send(int from_stage, int to_stage, std::uint32_t tag,
            std::span<const std::byte> message) override {
    worker_->send_bytes(from_stage, to_stage, tag, message);
  }
  void receive(int from_stage, int to_stage, std::uint32_t tag,
               std::span<std::byte> message) override {
    worker_->receive_bytes(from_stage, to_stage, tag, message);
  }
  void barrier() override { worker_->barrier(); }
  void all_reduce_sum(std::span<double> values) override { worker_->all_reduce_sum(values); }
  void broadcast(int root, std::span<std::byte> bytes) override { worker_->broadcast(root, bytes); }
  [[nodiscard]] std::unique_ptr<PendingSum> start_sum_of_replicas(std::span<float> values) override;
  void sum_of_shards(std::span<float> values) override;

 private:
  causeway::Worker* worker_;
  std::optional<causeway::Group> replicas_;  // None where there is one, or no stage.
  std::optional<causeway::Group> shards_;
};

// `plan` for a process that is number `member` of a stage's: the first has the stage's device, the
// others those that no stage uses on that node, in order, and the stage's where there are no more.
[[nodiscard]] causeway::Plan plan_of_member(const causeway::Plan& plan,
                                            const causeway::Topology& topology,
                                            std::uint32_t ranks_per_stage, int member);

// Who may compute.
enum class DeviceChoice : std::uint8_t { any, cpu, cuda };

class PoolStorage final : public Storage {
 public:
  // Places the stages `own` of the plan; their devices must be on this node.
  PoolStorage(causeway::Pool& pool, const causeway::ModelSpec& model, const causeway::Plan& plan,
              const std::vector<int>& own, DeviceChoice choice = DeviceChoice::any);

  [[nodiscard]] Compute<float>& compute(int stage) override;
  [[nodiscard]] std::span<float> tensor(std::string_view name, causeway::StateKind kind) override;
  [[nodiscard]] std::span<float> gradients(std::string_view first, std::string_view last) override;
  [[nodiscard]] std::span<float> arena(int stage) override;

  [[nodiscard]] const causeway::ShardedModel& model() const noexcept { return model_; }
  [[nodiscard]] const std::map<int, causeway::Region>& arenas() const noexcept { return arenas_; }

 private:
  void choose_compute(const causeway::Plan& plan, int stage, DeviceChoice choice);

  std::map<int, causeway::Region> arenas_;  // By stage; none where nothing is kept.
  causeway::ShardedModel model_;
  std::map<int, std::unique_ptr<Compute<float>>> gpus_;  // By ordinal; go before the regions.
  std::map<int, Compute<float>*> compute_of_stage_;
};

}  // namespace train_gpt
