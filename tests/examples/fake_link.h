// Processes of a job as threads of one test: Link by queues in memory, Storage on the heap.
//
// Shape:   a Room is the job; each thread has one FakeLink. Consecutive threads share the stages of
//          one process of a job that is not parallel. A thread that ends by an exception fails the
//          room, and the others get peer_lost, as they would from a Worker.
// Errors:  timed_out after kDeadline, so a pipeline that waits for itself fails its test.
// Threads: the Room is shared under its lock; FakeLink and HeapStorage belong to one thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "far_compute.h"
#include "gpu_compute.h"
#include "pipeline.h"

namespace train_gpt {

inline constexpr std::chrono::seconds kDeadline{60};

class Room {
 public:
  using Message = std::tuple<int, int, std::uint32_t, int>;  // From, to, tag, member.

  Room(std::vector<int> team_of_stage, int teams, const Parallel& parallel = {})
      : team_of_stage_(std::move(team_of_stage)), teams_(teams), parallel_(parallel) {}

  [[nodiscard]] int team_size() const { return static_cast<int>(parallel_.ranks_per_stage()); }
  [[nodiscard]] int world() const { return teams_ * team_size(); }
  [[nodiscard]] int first_rank_of_stage(int stage) const {
    return team_of_stage_.at(static_cast<std::size_t>(stage)) * team_size();
  }
  [[nodiscard]] Part part_of(int rank) const {
    return Part::of_member(parallel_, rank % team_size());
  }

  void put(Message key, std::span<const std::byte> message) {
    const std::lock_guard lock(mutex_);
    boxes_[key].emplace_back(message.begin(), message.end());
    changed_.notify_all();
  }

  void take(Message key, std::span<std::byte> target) {
    std::unique_lock lock(mutex_);
    auto& box = boxes_[key];
    wait(lock, [&] { return !box.empty(); });
    const auto message = std::move(box.front());
    box.pop_front();
    if (message.size() != target.size())
      throw causeway::Error(causeway::Errc::out_of_bounds, "a message of another size");
    std::memcpy(target.data(), message.data(), message.size());
  }

  // Each of `ranks` gives its bytes; the last one to come applies `combine` to all, by rank.
  using Combine = std::function<std::vector<std::byte>(const std::vector<std::vector<std::byte>>&)>;
  std::vector<std::byte> meet(const std::vector<int>& ranks, int rank,
                              std::span<const std::byte> mine, const Combine& combine) {
    std::unique_lock lock(mutex_);
    auto& meeting = meetings_[ranks];
    const auto round = meeting.round;
    meeting.given[rank].assign(mine.begin(), mine.end());
    if (meeting.given.size() == ranks.size()) {
      std::vector<std::vector<std::byte>> given;
      for (auto& [_, bytes] : meeting.given) given.push_back(std::move(bytes));
      meeting.result = combine(given);
      meeting.given.clear();
      ++meeting.round;
      changed_.notify_all();
    }
    wait(lock, [&] { return meeting.round != round; });
    return meeting.result;  // No next round ends before all of this one have come back.
  }

  void fail() {
    const std::lock_guard lock(mutex_);
    failed_ = true;
    changed_.notify_all();
  }

 private:
  template <typename Condition>
  void wait(std::unique_lock<std::mutex>& lock, Condition condition) {
    if (!changed_.wait_for(lock, kDeadline, [&] { return condition() || failed_; }))
      throw causeway::Error(causeway::Errc::timed_out, "nothing came");
    if (!condition())
      throw causeway::Error(causeway::Errc::peer_lost, "a thread of the room ended");
  }

  struct Meeting {
    std::map<int, std::vector<std::byte>> given;
    std::vector<std::byte> result;
    std::uint64_t round = 0;
  };

  std::vector<int> team_of_stage_;
  int teams_;
  Parallel parallel_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<Message, std::deque<std::vector<std::byte>>> boxes_;
  std::map<std::vector<int>, Meeting> meetings_;
  bool failed_ = false;
};

class FakeLink final : public Link {
 public:
  FakeLink(Room& room, int rank) : room_(&room), rank_(rank) {}
  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int world() const override { return room_->world(); }
  [[nodiscard]] int first_rank_of_stage(int stage) const override {
    return room_->first_rank_of_stage(stage);
  }
  void send(int from, int to, std::uint32_t tag, std::span<const std::byte> message) override {
    room_->put({from, to, tag, rank_ % room_->team_size()}, message);
  }
  void receive(int from, int to, std::uint32_t tag, std::span<std::byte> message) override {
    room_->take({from, to, tag, rank_ % room_->team_size()}, message);
  }
  void barrier() override {
    room_->meet(everyone(), rank_, {}, [](const auto&) { return std::vector<std::byte>{}; });
  }
  void all_reduce_sum(std::span<double> values) override { sum(everyone(), values); }
  void broadcast(int root, std::span<std::byte> bytes) override {
    const auto result = room_->meet(everyone(), rank_, bytes, [root](const auto& all) {
      return all.at(static_cast<std::size_t>(root));
    });
    std::memcpy(bytes.data(), result.data(), bytes.size());
  }
  // Waits at the end alone: what a pipeline does between must not change the values.
  [[nodiscard]] std::unique_ptr<PendingSum> start_sum_of_replicas(
      std::span<float> values) override {
    class Sum final : public PendingSum {
     public:
      Sum(FakeLink& link, std::span<float> values) : link_(&link), values_(values) {}
      void wait() override {
        link_->sum(link_->team(
                       [](const Part& own, const Part& other) { return own.shard == other.shard; }),
                   values_);
      }

     private:
      FakeLink* link_;
      std::span<float> values_;
    };
    return std::make_unique<Sum>(*this, values);
  }
  void sum_of_shards(std::span<float> values) override {
    sum(team([](const Part& own, const Part& other) { return own.replica == other.replica; }),
        values);
  }

 private:
  [[nodiscard]] std::vector<int> everyone() const {
    std::vector<int> ranks(static_cast<std::size_t>(world()));
    std::iota(ranks.begin(), ranks.end(), 0);
    return ranks;
  }
  template <typename Which>
  [[nodiscard]] std::vector<int> team(Which which) const {
    std::vector<int> ranks;
    const int size = room_->team_size(), first = rank_ / size * size;
    for (int rank = first; rank < first + size; ++rank)
      if (which(room_->part_of(rank_), room_->part_of(rank))) ranks.push_back(rank);
    return ranks;
  }
  template <typename T>
  void sum(const std::vector<int>& ranks, std::span<T> values) {
    const auto add = [&values](const std::vector<std::vector<std::byte>>& all) {
      std::vector<T> total(values.size(), 0);
      for (const auto& one : all)
        for (std::size_t i = 0; i < total.size(); ++i) {
          T value = 0;
          std::memcpy(&value, one.data() + i * sizeof(T), sizeof(T));
          total[i] += value;
        }
      const auto bytes = std::as_bytes(std::span(total));
      return std::vector<std::byte>(bytes.begin(), bytes.end());
    };
    const auto result = room_->meet(ranks, rank_, std::as_bytes(values), add);
    std::memcpy(values.data(), result.data(), values.size_bytes());
  }

  Room* room_;
  int rank_;
};

// Every arena is as large as the plan says and no larger, for AddressSanitizer to see.
class HeapStorage final : public Storage {
 public:
  // The GPU that has a stage, as a number; -1: the processor; kFar: that, as a FarCompute.
  static constexpr int kFar = 1000;
  using GpuOfStage = std::function<int(int stage)>;

  HeapStorage(const GptConfig& config, const std::vector<StageRange>& stages,
              const Parallel& parallel = {}, GpuOfStage gpu_of_stage = {})
      : config_(config), stages_(stages), gpu_of_stage_(std::move(gpu_of_stage)) {
    config_.micro_batches /= parallel.data;
    const auto model = describe_shard(config, parallel.tensor);
    for (std::size_t layer = 0; layer < model.layers.size(); ++layer) {
      std::size_t first = 0;
      for (const auto& tensor : model.layers[layer].tensors) {
        std::size_t count = 1;
        for (const auto extent : tensor.shape) count *= extent;
        places_[tensor.name] = {layer, first, count};
        first += count;
      }
      gradient_floats_.push_back(first);
    }
  }
  [[nodiscard]] Compute<float>& compute(int stage) override {
    const int ordinal = gpu_of_stage_ ? gpu_of_stage_(stage) : -1;
    if (ordinal < 0) return processor<float>();
    auto& gpu = gpus_[ordinal];
    if (!gpu && ordinal == kFar) gpu = std::make_unique<FarCompute>();
    if (!gpu) gpu = gpu_compute(ordinal);
    return *gpu;
  }
  [[nodiscard]] std::span<float> tensor(std::string_view name, causeway::StateKind kind) override {
    const auto& place = places_.at(std::string(name));
    if (kind == causeway::StateKind::gradients)
      return gradients_of(place.layer).subspan(place.first, place.count);
    return values(tensors_[{std::string(name), kind}], stage_of(place.layer),
                  kind == causeway::StateKind::optimizer ? 2 * place.count : place.count);
  }
  [[nodiscard]] std::span<float> gradients(std::string_view first, std::string_view) override {
    return gradients_of(places_.at(std::string(first)).layer);
  }
  [[nodiscard]] std::span<float> arena(int stage) override {
    return values(arenas_[stage], stage,
                  arena_bytes(config_, stages_, static_cast<std::size_t>(stage)) / sizeof(float) -
                      missing_floats);
  }
  std::size_t missing_floats = 0;  // Makes every arena too small.

 private:
  struct Place {
    std::size_t layer;
    std::size_t first;  // Of the layer's gradients.
    std::size_t count;
  };
  [[nodiscard]] int stage_of(std::size_t layer) const {
    int stage = 0;
    while (stages_[static_cast<std::size_t>(stage)].end_layer <= layer) ++stage;
    return stage;
  }
  std::span<float> gradients_of(std::size_t layer) {
    return values(gradients_[layer], stage_of(layer), gradient_floats_[layer]);
  }
  std::span<float> values(Buffer<float>& buffer, int stage, std::size_t count) {
    if (!buffer) {
      buffer = compute(stage).allocate(count);
      compute(stage).clear({buffer.get(), count});
    }
    return {buffer.get(), count};
  }

  GptConfig config_;
  std::vector<StageRange> stages_;
  GpuOfStage gpu_of_stage_;
  std::map<int, std::unique_ptr<Compute<float>>> gpus_;
  std::map<std::string, Place> places_;
  std::vector<std::size_t> gradient_floats_;        // By layer.
  std::map<std::size_t, Buffer<float>> gradients_;  // By layer.
  std::map<std::pair<std::string, causeway::StateKind>, Buffer<float>> tensors_;
  std::map<int, Buffer<float>> arenas_;
};

// A job of one thread per rank. Throws what its first failing thread threw: the lowest rank whose
// error is its own, not the loss of another.
class FakeJob {
 public:
  GptConfig config;
  std::vector<StageRange> stages;
  std::vector<int> rank_of_stage;  // By stage; a team's number where `parallel` makes teams.
  int world;
  Parallel parallel{};
  std::function<int(int rank, int stage)> gpu{};  // As HeapStorage::GpuOfStage.

  struct Process {
    int rank;
    Part part;
    std::vector<int> own;
    Link& link;
    HeapStorage& storage;
    Pipeline& pipeline;
  };

  void run(const std::function<void(Process&)>& body) const {
    Room room(rank_of_stage, world, parallel);
    std::vector<std::exception_ptr> errors(static_cast<std::size_t>(room.world()));
    std::vector<std::thread> threads;
    for (int rank = 0; rank < room.world(); ++rank)
      threads.emplace_back([&, rank] {
        try {
          FakeLink link(room, rank);
          HeapStorage storage(config, stages, parallel,
                              [&](int stage) { return gpu ? gpu(rank, stage) : -1; });
          std::vector<int> own;
          for (std::size_t i = 0; i < stages.size(); ++i)
            if (rank_of_stage[i] == rank / room.team_size()) own.push_back(static_cast<int>(i));
          const auto part = room.part_of(rank);
          Pipeline pipeline(config, stages, own, storage, link, part);
          Process process{rank, part, own, link, storage, pipeline};
          body(process);
        } catch (...) {
          errors[static_cast<std::size_t>(rank)] = std::current_exception();
          room.fail();
        }
      });
    for (auto& thread : threads) thread.join();
    std::exception_ptr lost;
    for (const auto& error : errors) {
      if (!error) continue;
      try {
        std::rethrow_exception(error);
      } catch (const causeway::Error& known) {
        if (known.code() != causeway::Errc::peer_lost) throw;
        lost = error;
      }
    }
    if (lost) std::rethrow_exception(lost);
  }
};

// `count` stages over the layers of `config`, as even as can be, dealt to `world` ranks (or teams
// of them) in order.
inline FakeJob make_job(const GptConfig& config, std::size_t count, int world,
                        const Parallel& parallel = {}) {
  FakeJob job{config, {}, {}, world, parallel};
  for (std::size_t i = 0; i < count; ++i) {
    job.stages.push_back({config.layers() * i / count, config.layers() * (i + 1) / count});
    job.rank_of_stage.push_back(static_cast<int>(i * static_cast<std::size_t>(world) / count));
  }
  return job;
}

}  // namespace train_gpt
