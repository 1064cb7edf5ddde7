// Whose request is served next: what a worker has in service is bounded, and shared out fairly.
//
// Shape:   a job runs at once while there is room for its bytes; else it queues with its tenant's
//          others, and tenants take turns by bytes (deficit round robin). While several tenants are
//          there, none has more than its part of kShared in service: on a connection each, bytes
//          move as fast as there are connections, so turns alone would favour whoever has many.
//          A peer that stops in mid-service is found by stalled().
// Units:   bytes in service: of jobs that have run and have not left.
// Cost:    logarithmic in tenants and owners per job, and a step per MiB of it.
// Threads: the worker's. Jobs run inside enter() and leave(), which may be called from jobs.
// Source:  Shreedhar and Varghese, "Efficient fair queuing using deficit round-robin", 1996.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <utility>
#include <vector>

namespace causeway::ucx {

class Turnstile {
 public:
  using Owner = const void*;
  using Tenant = std::uint64_t;
  struct Job {
    Owner owner;
    Tenant tenant;
    std::uint64_t size_bytes;
    std::function<void()> run;   // In service from here to leave().
    std::function<void()> drop;  // Instead of run, if its owner goes first or withdraws it.
    std::uint64_t id = 0;        // Among its owner's, for withdraw().
  };

  static constexpr std::uint64_t kShared = 8 << 20;  // Enough to keep a network busy.
  static constexpr std::uint64_t kLeast = 2 << 20;   // A tenant's part, however many there are.

  // `most_bytes`: of all tenants together. One alone has half of it.
  explicit Turnstile(std::uint64_t most_bytes) : most_bytes_(most_bytes) {}

  void enter(Job job);
  void leave(Owner owner, Tenant tenant, std::uint64_t size_bytes);
  // False: it does not wait.
  bool withdraw(Owner owner, Tenant tenant, std::uint64_t id);
  // Who has had something in service since before `then`, with nothing of it leaving, while others
  // wait.
  [[nodiscard]] std::vector<Owner> stalled(std::chrono::steady_clock::time_point then) const;
  // Its jobs never run, and what it has in service counts no more.
  void forget(Owner owner);

  [[nodiscard]] std::uint64_t in_service_bytes() const noexcept { return in_service_bytes_; }
  [[nodiscard]] std::size_t waiting() const noexcept { return waiting_; }

 private:
  struct Line {  // The jobs of one tenant that wait.
    Tenant tenant;
    std::uint64_t deficit_bytes = 0;
    std::deque<Job> jobs{};
  };
  struct Account {
    std::uint64_t in_service_bytes = 0;
    std::list<Line>::iterator line;  // lines_.end(): nothing waits.
  };
  void serve();
  [[nodiscard]] bool has_room(const Job& job) const noexcept;
  Account& account_of(Tenant tenant);
  void settle(Tenant tenant, std::uint64_t size_bytes);
  void end_if_empty(std::list<Line>::iterator line);
  void run(Job job);

  const std::uint64_t most_bytes_;
  std::uint64_t in_service_bytes_ = 0;
  std::size_t waiting_ = 0;
  std::list<Line> lines_;               // The first one's turn it is.
  std::map<Tenant, Account> accounts_;  // Of those who have something in service or waiting.
  struct Service {
    std::uint64_t bytes = 0;
    std::chrono::steady_clock::time_point moved_at{};  // When something last came or left.
  };
  std::map<std::pair<Owner, Tenant>, Service> in_service_;
  bool is_serving_ = false;
};

}  // namespace causeway::ucx
