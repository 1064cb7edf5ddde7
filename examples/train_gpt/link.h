// What the training needs of other processes, as a seam: production uses a causeway::Worker
// (pool_link.h), tests use queues in memory.
//
// Shape:   messages go from stage to stage, between processes with the same part of theirs; their
//          order is kept per (from, to, tag). send() copies and does not wait for the receiver.
//          Sums have the order of the processes, so that the bits depend on nothing else.
// Errors:  throws causeway::Error: peer_lost, timed_out.
// Threads: one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace train_gpt {

// A sum that was started. Its values are left alone until wait() returns.
class PendingSum {
 public:
  PendingSum() = default;
  PendingSum(const PendingSum&) = delete;
  PendingSum& operator=(const PendingSum&) = delete;
  virtual ~PendingSum() = default;
  virtual void wait() = 0;
};

class Link {
 public:
  Link() = default;
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;
  virtual ~Link() = default;

  [[nodiscard]] virtual int rank() const = 0;
  [[nodiscard]] virtual int world() const = 0;
  [[nodiscard]] virtual int first_rank_of_stage(int stage) const = 0;

  virtual void send(int from_stage, int to_stage, std::uint32_t tag,
                    std::span<const std::byte> message) = 0;
  virtual void receive(int from_stage, int to_stage, std::uint32_t tag,
                       std::span<std::byte> message) = 0;
  virtual void barrier() = 0;
  virtual void all_reduce_sum(std::span<double> values) = 0;
  virtual void broadcast(int root, std::span<std::byte> bytes) = 0;
  // Over the replicas of the own part, and over the shards of the own replica (parallel.h).
  [[nodiscard]] virtual std::unique_ptr<PendingSum> start_sum_of_replicas(
      std::span<float> values) = 0;
  virtual void sum_of_shards(std::span<float> values) = 0;
};

}  // namespace train_gpt
