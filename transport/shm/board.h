// Where the ranks of one host meet: counters, calls and the reason of a failure, in shared memory.
//
// Shape:   meet() returns when all ranks have come, as often as they like. Whoever fails says why
//          by fail(): every rank's meet() then throws that reason, for ever. How often this rank
//          has met is turn(): the same number for all in between.
// Errors:  meet() throws peer_lost, timed_out (with the ranks that have not come), or closed with
//          the first reason of another rank; invalid_argument if the ranks call different things.
// Cost:    one atomic addition and, for all but the last, a spin or one sleep on a futex.
// Threads: meet() from one thread; fail() and is_broken() from any.
//          Trust: a process that maps the board can spoil the values and the meetings of its
//          group. Only what this rank counts itself decides where it reads and writes.
// Source:  central barrier: Mellor-Crummey and Scott, ACM TOCS 1991; futex(2).
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "allocator/error.h"
#include "transport/channel.h"
#include "transport/collective/call.h"

namespace causeway::shm {

class Board {
 public:
  static constexpr int kMaxRanks = 256;
  static constexpr std::size_t kBytes = std::size_t{32} * 1024;

  // `memory`: kBytes that were zero, the same for all ranks. `names` are the ranks' in messages.
  // Spins for up to `spin` before it sleeps.
  Board(std::span<std::byte> memory, int rank, std::vector<int> names,
        std::chrono::microseconds spin);

  // `call`, if given, must be the same for all ranks: it is this rank's `sequence`-th.
  void meet(Deadline deadline, const collective::Call* call = nullptr, std::uint64_t sequence = 0);
  [[nodiscard]] std::uint64_t turn() const noexcept { return turn_; }

  // Ends all ranks' meetings. The first reason counts. `about` is the rank that is to blame.
  void fail(const Error& reason, int about) noexcept;
  [[nodiscard]] bool is_broken() const noexcept;
  [[nodiscard]] Error reason() const;  // Of a broken one, as this rank should hear it.

 private:
  struct Shared;
  void wait(std::uint32_t until, Deadline deadline);
  void compare_calls(const collective::Call& own, std::uint64_t sequence) const;
  [[nodiscard]] std::string missing() const;

  Shared& shared_;
  const int rank_;
  const std::vector<int> names_;
  const std::chrono::nanoseconds most_spin_;
  std::chrono::nanoseconds spin_;
  std::uint64_t turn_ = 0;
};

}  // namespace causeway::shm
