// What of a worker lives on the io thread: channels to the other ranks, the communicators over
// them, and the first loss.
//
// Shape:   one per WorkerMesh, shared with callbacks and groups, which may outlive it by a moment.
// Errors:  the first one that reaches lose() is the reason that every later call gets.
// Threads: the io thread's; what both threads use is under the mutex.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "runtime/pool/session.h"
#include "transport/channel.h"
#include "transport/collective/communicator.h"

namespace causeway {

struct MeshIo : DataService, std::enable_shared_from_this<MeshIo> {
  // A stage that no plan has: where a message's tag has the stage that sends, a communicator's has
  // this, and then its number.
  static constexpr std::uint32_t kCollectiveStage = (1U << 20) - 1;
  static constexpr std::uint32_t kMaxCommunicators = 1U << 12;
  static constexpr std::uint64_t tag_of(std::uint32_t communicator) noexcept {
    return std::uint64_t{kCollectiveStage} << 44 | std::uint64_t{communicator} << 32;
  }

  MeshIo(std::shared_ptr<Pool::State> owner, int rank, int size)
      : pool(std::move(owner)), own_rank(rank), world(size) {}

  void admit(const Hello& hello) override;
  PinnedMemory pin(const Hello& hello, const RemoteAddress&, std::uint64_t, Access) override;

  void add(int rank, std::shared_ptr<Channel> channel);
  void closed(int rank, const Error& error);
  // Ends what waits: a receive's channel is closed, so that its buffer is let go, and so are those
  // of communicators.
  void lose(const Error& error);
  void check();  // Throws what was lost.
  // Why a channel has ended, which is known a moment after its end. Waits: not on the io thread.
  [[nodiscard]] std::optional<Error> loss_behind(const Error& error);

  // A communicator of `ranks`, of which this is one, in this order; all of them make it together.
  // The number names it at all. Waits: not on the io thread.
  void add_communicator(std::uint32_t number, const std::vector<int>& ranks, Deadline deadline);
  // Errors: closed once the worker has left.
  [[nodiscard]] Communicator& communicator(std::uint32_t number);
  void drop_communicator(std::uint32_t number);
  void leave();

  [[nodiscard]] std::string name_of(int rank) const;        // "rank 1 on b"
  [[nodiscard]] Error with_node(const Error& error) const;  // Of the rank that it is because of.

 private:
  void start_communicator(std::uint32_t number, const std::vector<int>& ranks, Deadline deadline,
                          Communicator::Done done);

 public:
  struct Sent {
    std::uint64_t bytes = 0;
    std::uint64_t messages = 0;
  };
  // To ranks of this node by collectives that leave bytes in memory for all of them.
  [[nodiscard]] Sent given() const;
  // What carries the messages to a rank: "shm" or "ucx".
  [[nodiscard]] const char* carrier(int rank) const;

  std::shared_ptr<Pool::State> pool;
  const int own_rank;
  const int world;
  std::string key;
  // On the io thread:
  std::unique_ptr<Transport> transport;
  std::map<int, std::shared_ptr<Channel>> channels;
  std::map<int, std::string> nodes;
  std::set<int> admitted;
  std::set<int> given_up;  // Closed by this side.
  std::map<std::uint32_t, std::unique_ptr<Communicator>> communicators;
  std::map<int, Sent> sent;  // In collectives, by rank.
  Sent given_before;         // By communicators that are gone.
  std::optional<int> waiting_for;
  bool ending = false;
  // Shared with the worker's thread:
  std::mutex mutex;
  std::condition_variable changed;
  int connected = 0;
  std::uint64_t buffered_bytes = 0;
  std::optional<Error> lost;
};

}  // namespace causeway
