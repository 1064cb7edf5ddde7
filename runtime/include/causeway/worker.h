// One process of a job that runs over a plan: its stages, and messages to the others.
//
// Shape:   `world` processes join one job by name; each learns which stages are its own: the ranks
//          that joined from a node, in order, form teams of ranks_per_stage, and the stages on the
//          node's devices are dealt out, in order, to its teams. Member i of a stage's team talks
//          to member i of another's. Sends go from process to process, never through a daemon.
// Errors:  peer_lost names the rank and node that died, within 2 s, from every call that waits for
//          it and from every later one; unsupported, at once, for bytes in memory of a GPU that
//          the processor cannot reach; timed_out after options.timeout; invalid_argument if a
//          stage has no process on its node, a node's ranks are no whole teams, or two processes
//          claim one rank.
// Cost:    send and receive at the link's speed plus 10 to 50 us; collectives as group.h.
// Threads: one thread at a time per Worker; its groups may be on others.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "causeway/group.h"
#include "causeway/plan.h"
#include "causeway/pool.h"

namespace causeway {

struct WorkerOptions {
  std::string group{};  // Empty: $CAUSEWAY_GROUP, else "default".
  int rank = -1;   // -1: CAUSEWAY_RANK, SLURM_PROCID, OMPI_COMM_WORLD_RANK, PMI_RANK, RANK; else 0.
  int world = -1;  // -1: the matching size variable; else 1.
  int ranks_per_stage = 1;  // Replicas and parts of a stage: data times tensor parallelism.
  std::chrono::milliseconds timeout{60000};  // Of joining and of each call.
};

class Worker {
 public:
  // Waits for all ranks.
  [[nodiscard]] static Worker join(Pool& pool, const Plan& plan, WorkerOptions options = {});
  Worker(Worker&&) noexcept;
  Worker& operator=(Worker&&) noexcept;
  ~Worker();

  [[nodiscard]] int rank() const noexcept;
  [[nodiscard]] int world() const noexcept;
  [[nodiscard]] const std::vector<int>& stages() const noexcept;  // Indices into plan.stages.
  // The ranks that hold `stage`, in order; ranks_per_stage of them.
  [[nodiscard]] const std::vector<int>& team_of_stage(int stage) const;
  // This rank's place in its team. -1 if it holds no stage.
  [[nodiscard]] int member() const noexcept;
  // Who holds `stage` among those that this rank talks to.
  [[nodiscard]] int rank_of_stage(int stage) const;

  // Message `tag` (below 2^24) from stage to stage. Order is kept per (from, to, tag). A message to
  // a stage of the same process is copied. receive() wants the exact size: out_of_bounds otherwise.
  void send_bytes(int from_stage, int to_stage, std::uint32_t tag,
                  std::span<const std::byte> message);
  void receive_bytes(int from_stage, int to_stage, std::uint32_t tag, std::span<std::byte> message);

  template <typename T>
  requires std::is_trivially_copyable_v<T>
  void send(int from_stage, int to_stage, std::uint32_t tag, std::span<const T> message) {
    send_bytes(from_stage, to_stage, tag, std::as_bytes(message));
  }
  template <typename T>
  requires std::is_trivially_copyable_v<T>
  void receive(int from_stage, int to_stage, std::uint32_t tag, std::span<T> message) {
    receive_bytes(from_stage, to_stage, tag, std::as_writable_bytes(message));
  }

  // A group of `ranks`, in this order. Each of them, and no other rank, calls it with the same
  // list; two ranks make the groups that both are in, in the same order. Errors: invalid_argument
  // if a rank is named twice or this one is not there, or, naming rank and node, if another gives
  // another list; timed_out naming a rank that makes no group: after these two no more groups can
  // be made. exhausted after 4094 groups. Cost: two messages to each member.
  [[nodiscard]] Group group(const std::vector<int>& ranks);
  // Every rank calls it and gets the group of those that give the same `colour`, in the order of
  // their keys, then of their ranks.
  [[nodiscard]] Group split(int colour, int key = 0);

  void barrier();
  // Every rank gives the same number of values and gets the sum, in the same bits.
  void all_reduce_sum(std::span<float> values);
  void all_reduce_sum(std::span<double> values);
  // Rank `root`'s bytes to all; every rank gives the same size.
  void broadcast(int root, std::span<std::byte> bytes);

  // What this process sent, by route.
  struct Traffic {
    std::string from_node;
    std::string to_node;
    std::string transport;   // "ucx", "shm" (memory that processes of a node share) or "local"
    std::uint64_t bytes;     // Of a collective by shared memory: what is left there for the others.
    std::uint64_t messages;  // And operations of these.
  };
  [[nodiscard]] std::vector<Traffic> traffic() const;

 private:
  struct State;
  explicit Worker(std::unique_ptr<State> state) noexcept;
  std::unique_ptr<State> state_;
};

}  // namespace causeway
