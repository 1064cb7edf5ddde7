#include "pool_link.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "gpu_compute.h"

namespace train_gpt {

namespace {

std::span<float> as_floats(std::byte* data, std::size_t size_bytes) {
  return {reinterpret_cast<float*>(data), size_bytes / sizeof(float)};
}

std::map<int, causeway::Region> allocate_arenas(causeway::Pool& pool, const causeway::Plan& plan,
                                                const std::vector<int>& own) {
  std::map<int, causeway::Region> arenas;
  for (const int index : own) {
    const auto& stage = plan.stages.at(static_cast<std::size_t>(index));
    if (stage.activation_bytes == 0) continue;
    // Nowhere else: every micro-batch writes and reads it.
    arenas.emplace(index, pool.allocate(stage.activation_bytes,
                                        {.near = stage.device,
                                         .only = {stage.device},
                                         .name = fmt::format("stage {} activations", index)}));
  }
  return arenas;
}

class WorkerSum final : public PendingSum {
 public:
  explicit WorkerSum(causeway::Pending pending) : pending_(std::move(pending)) {}
  void wait() override { pending_.wait(); }

 private:
  causeway::Pending pending_;
};

constexpr causeway::ReduceOptions kSum{.how = causeway::Combine::sum, .in_rank_order = true};

}  // namespace

PoolLink::PoolLink(causeway::Worker& worker, const Part& part) : worker_(&worker) {
  if (worker.stages().empty()) return;
  std::vector<int> replicas, shards;
  const auto& team = worker.team_of_stage(worker.stages().front());
  for (std::size_t i = 0; i < team.size(); ++i) {
    const auto other = Part::of_member(part.of, static_cast<int>(i));
    if (other.shard == part.shard) replicas.push_back(team[i]);
    if (other.replica == part.replica) shards.push_back(team[i]);
  }
  if (replicas.size() > 1) replicas_ = worker.group(replicas);
  if (shards.size() > 1) shards_ = worker.group(shards);
}

std::unique_ptr<PendingSum> PoolLink::start_sum_of_replicas(std::span<float> values) {
  return std::make_unique<WorkerSum>(replicas_.value().start_all_reduce(values, kSum));
}

void PoolLink::sum_of_shards(std::span<float> values) { shards_.value().all_reduce(values, kSum); }

causeway::Plan plan_of_member(const causeway::Plan& plan, const causeway::Topology& topology,
                              std::uint32_t ranks_per_stage, int member) {
  if (member <= 0) return plan;
  std::map<std::string, std::vector<causeway::DeviceName>> spare;  // By node.
  for (const auto& device : topology.devices())
    if (device.name.kind == causeway::DeviceKind::gpu &&
        std::ranges::find(plan.stages, device.name, &causeway::PlanStage::device) ==
            plan.stages.end())
      spare[device.name.node].push_back(device.name);
  std::map<std::string, std::size_t> taken;  // By the stages before.
  auto own = plan;
  for (auto& stage : own.stages) {
    const auto& devices = spare[stage.device.node];
    auto& first = taken[stage.device.node];
    const auto number = first + static_cast<std::size_t>(member) - 1;
    first += ranks_per_stage - 1;
    if (number < devices.size()) stage.device = devices[number];
  }
  return own;
}

PoolStorage::PoolStorage(causeway::Pool& pool, const causeway::ModelSpec& model,
                         const causeway::Plan& plan, const std::vector<int>& own,
                         DeviceChoice choice)
    : arenas_(allocate_arenas(pool, plan, own)),
      model_(causeway::ShardedModel::place(pool, model, plan, own)) {
  for (const int stage : own) choose_compute(plan, stage, choice);
}

void PoolStorage::choose_compute(const causeway::Plan& plan, int stage, DeviceChoice choice) {
  std::set<int> ordinals;  // -1: the processor's memory.
  for (const auto& part : model_.placements())
    if (part.stage == stage) ordinals.insert(part.cuda_ordinal);
  if (const auto arena = arenas_.find(stage); arena != arenas_.end())
    ordinals.insert(arena->second.cuda_ordinal());
  const auto device = plan.stages.at(static_cast<std::size_t>(stage)).device.to_string();
  const auto refuse = [&](const std::string& why) {
    return causeway::Error(causeway::Errc::unsupported, fmt::format("stage {}: {}", stage, why));
  };
  if (ordinals.size() != 1)
    throw refuse(
        fmt::format("its regions near {} have addresses of {} devices, and one computes; "
                    "was a daemon started again meanwhile? Start the job again",
                    device, ordinals.size()));
  const int ordinal = *ordinals.begin();
  if (ordinal < 0 && choice == DeviceChoice::cuda)
    throw refuse(
        fmt::format("--device cuda, and {} is memory of the processor's: start the daemons "
                    "with --gpus cuda, or give --device auto",
                    device));
  if (ordinal >= 0 && choice == DeviceChoice::cpu)
    throw refuse(
        fmt::format("--device cpu, and {} is memory that only the GPU can address: start "
                    "the daemons with --gpus emulated, or give --device auto",
                    device));
  if (ordinal < 0) {
    compute_of_stage_[stage] = &processor<float>();
    return;
  }
  auto& gpu = gpus_[ordinal];
  if (!gpu) gpu = gpu_compute(ordinal);
  compute_of_stage_[stage] = gpu.get();
}

Compute<float>& PoolStorage::compute(int stage) { return *compute_of_stage_.at(stage); }

std::span<float> PoolStorage::tensor(std::string_view name, causeway::StateKind kind) {
  const auto bytes = model_.tensor(name, kind);
  return as_floats(bytes.data(), bytes.size());
}

std::span<float> PoolStorage::gradients(std::string_view first, std::string_view last) {
  const auto begin = tensor(first, causeway::StateKind::gradients);
  const auto end = tensor(last, causeway::StateKind::gradients);
  return {begin.data(), end.data() + end.size()};
}

std::span<float> PoolStorage::arena(int stage) {
  const auto arena = arenas_.find(stage);
  if (arena == arenas_.end()) return {};
  return as_floats(arena->second.data(), arena->second.size_bytes());
}

}  // namespace train_gpt
