// Processes of a job as threads of one test: Link by queues in memory, Storage on the heap.
//
// Shape:   a Room is the job; each thread has one FakeLink. A thread that ends by an exception
//          fails the room, and the others get peer_lost, as they would from a Worker.
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
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "pipeline.h"

namespace train_gpt {

inline constexpr std::chrono::seconds kDeadline{60};

class Room {
 public:
  explicit Room(std::vector<int> rank_of_stage, int world)
      : rank_of_stage_(std::move(rank_of_stage)), world_(world) {}

  [[nodiscard]] int world() const { return world_; }
  [[nodiscard]] int rank_of_stage(int stage) const {
    return rank_of_stage_.at(static_cast<std::size_t>(stage));
  }

  void put(std::tuple<int, int, std::uint32_t> key, std::span<const std::byte> message) {
    const std::lock_guard lock(mutex_);
    boxes_[key].emplace_back(message.begin(), message.end());
    changed_.notify_all();
  }

  void take(std::tuple<int, int, std::uint32_t> key, std::span<std::byte> target) {
    std::unique_lock lock(mutex_);
    auto& box = boxes_[key];
    wait(lock, [&] { return !box.empty(); });
    const auto message = std::move(box.front());
    box.pop_front();
    if (message.size() != target.size())
      throw causeway::Error(causeway::Errc::out_of_bounds, "a message of another size");
    std::memcpy(target.data(), message.data(), message.size());
  }

  // Every rank gives its bytes; the last one to come applies `combine` to all, by rank.
  using Combine = std::function<std::vector<std::byte>(const std::vector<std::vector<std::byte>>&)>;
  std::vector<std::byte> meet(int rank, std::span<const std::byte> mine, const Combine& combine) {
    std::unique_lock lock(mutex_);
    const auto round = round_;
    if (given_.empty()) given_.resize(static_cast<std::size_t>(world_));
    given_[static_cast<std::size_t>(rank)].assign(mine.begin(), mine.end());
    if (++arrived_ == world_) {
      result_ = combine(given_);
      given_.clear();
      arrived_ = 0;
      ++round_;
      changed_.notify_all();
    }
    wait(lock, [&] { return round_ != round; });
    return result_;  // Nobody starts the next round's end before all of this one have come back.
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

  std::vector<int> rank_of_stage_;
  int world_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::tuple<int, int, std::uint32_t>, std::deque<std::vector<std::byte>>> boxes_;
  std::vector<std::vector<std::byte>> given_;
  std::vector<std::byte> result_;
  int arrived_ = 0;
  std::uint64_t round_ = 0;
  bool failed_ = false;
};

class FakeLink final : public Link {
 public:
  FakeLink(Room& room, int rank) : room_(&room), rank_(rank) {}
  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int world() const override { return room_->world(); }
  [[nodiscard]] int rank_of_stage(int stage) const override { return room_->rank_of_stage(stage); }
  void send(int from, int to, std::uint32_t tag, std::span<const std::byte> message) override {
    room_->put({from, to, tag}, message);
  }
  void receive(int from, int to, std::uint32_t tag, std::span<std::byte> message) override {
    room_->take({from, to, tag}, message);
  }
  void barrier() override {
    room_->meet(rank_, {}, [](const auto&) { return std::vector<std::byte>{}; });
  }
  void all_reduce_sum(std::span<double> values) override {
    const auto sum = [&values](const std::vector<std::vector<std::byte>>& all) {
      std::vector<double> total(values.size(), 0);
      for (const auto& one : all)
        for (std::size_t i = 0; i < total.size(); ++i) {
          double value = 0;
          std::memcpy(&value, one.data() + i * sizeof(double), sizeof(double));
          total[i] += value;
        }
      const auto bytes = std::as_bytes(std::span(total));
      return std::vector<std::byte>(bytes.begin(), bytes.end());
    };
    const auto result = room_->meet(rank_, std::as_bytes(values), sum);
    std::memcpy(values.data(), result.data(), values.size_bytes());
  }
  void broadcast(int root, std::span<std::byte> bytes) override {
    const auto result = room_->meet(
        rank_, bytes, [root](const auto& all) { return all.at(static_cast<std::size_t>(root)); });
    std::memcpy(bytes.data(), result.data(), bytes.size());
  }

 private:
  Room* room_;
  int rank_;
};

// Every arena is as large as the plan says and no larger, for AddressSanitizer to see.
class HeapStorage final : public Storage {
 public:
  HeapStorage(const GptConfig& config, const std::vector<StageRange>& stages)
      : config_(config), stages_(stages) {
    for (const auto& layer : describe(config).layers)
      for (const auto& tensor : layer.tensors) {
        std::size_t count = 1;
        for (const auto extent : tensor.shape) count *= extent;
        counts_[tensor.name] = count;
      }
  }
  [[nodiscard]] std::span<float> tensor(std::string_view name, causeway::StateKind kind) override {
    const auto count = counts_.at(std::string(name));
    auto& values = tensors_[{std::string(name), kind}];
    values.resize(kind == causeway::StateKind::optimizer ? 2 * count : count);
    return values;
  }
  [[nodiscard]] std::span<float> arena(int stage) override {
    auto& values = arenas_[stage];
    values.resize(arena_bytes(config_, stages_, static_cast<std::size_t>(stage)) / sizeof(float) -
                  missing_floats);
    return values;
  }
  std::size_t missing_floats = 0;  // Makes every arena too small.

 private:
  GptConfig config_;
  std::vector<StageRange> stages_;
  std::map<std::string, std::size_t> counts_;
  std::map<std::pair<std::string, causeway::StateKind>, std::vector<float>> tensors_;
  std::map<int, std::vector<float>> arenas_;
};

// A job of one thread per rank. Throws what its first failing thread threw: the lowest rank whose
// error is its own, not the loss of another.
class FakeJob {
 public:
  GptConfig config;
  std::vector<StageRange> stages;
  std::vector<int> rank_of_stage;  // By stage.
  int world;

  struct Process {
    int rank;
    std::vector<int> own;
    Link& link;
    HeapStorage& storage;
    Pipeline& pipeline;
  };

  void run(const std::function<void(Process&)>& body) const {
    Room room(rank_of_stage, world);
    std::vector<std::exception_ptr> errors(static_cast<std::size_t>(world));
    std::vector<std::thread> threads;
    for (int rank = 0; rank < world; ++rank)
      threads.emplace_back([&, rank] {
        try {
          FakeLink link(room, rank);
          HeapStorage storage(config, stages);
          std::vector<int> own;
          for (std::size_t i = 0; i < stages.size(); ++i)
            if (rank_of_stage[i] == rank) own.push_back(static_cast<int>(i));
          Pipeline pipeline(config, stages, own, storage, link);
          Process process{rank, own, link, storage, pipeline};
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

// `count` stages over the layers of `config`, as even as can be, dealt to `world` ranks in order.
inline FakeJob make_job(const GptConfig& config, std::size_t count, int world) {
  FakeJob job{config, {}, {}, world};
  for (std::size_t i = 0; i < count; ++i) {
    job.stages.push_back({config.layers() * i / count, config.layers() * (i + 1) / count});
    job.rank_of_stage.push_back(static_cast<int>(i * static_cast<std::size_t>(world) / count));
  }
  return job;
}

}  // namespace train_gpt
