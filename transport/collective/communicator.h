// Operations that all ranks of a group do together.
//
// Shape:   every rank calls the same operations, in the same order, with the same sizes, types and
//          roots; they run one after the other. Values are in place: `values` is cut into one share
//          per rank, equal ones unless the call has Shares.
// Units:   sizes in bytes; ranks from 0.
// Errors:  each operation completes once: with nullopt, or with the Error that ended it: peer_lost
//          with the rank; timed_out at the deadline, also if a rank does not call it, or calls
//          something else; closed if another rank failed first, with that one's reason; cancelled.
//          A failed operation leaves its values undefined and the communicator broken: every later
//          one fails with the same error. invalid_argument (a size that is no whole number of
//          values, a rank that is not there) breaks nothing here and counts as a call.
//          Values must live until the completion; afterwards nothing touches them.
// Cost:    bytes each way, n ranks, b = values.size(): all_reduce 2 b (n-1)/n, reduce_scatter,
//          all_gather and all_to_all b (n-1)/n, broadcast 2 b (n-1)/n or, if small, b per level of
//          a tree; small all_reduce b (n-1) at one latency. Scratch memory: at most
//          8 MiB, in shared memory 4 MiB or 192 KiB per rank (meet.h).
// Threads: the transport's, as channel.h.
// Source:  rings: Patarasuk and Yuan, JPDC 2009; broadcast by scatter and all-gather: van de Geijn,
//          1994; barrier by dissemination: Hensgen, Finkel and Manber, 1988.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "transport/channel.h"
#include "transport/collective/reduction.h"
#include "transport/collective/shares.h"

namespace causeway {

struct SharedCounters {
  std::uint64_t bytes = 0;
  std::uint64_t operations = 0;
};

class Communicator {
 public:
  using Done = std::function<void(std::optional<Error>)>;

  virtual ~Communicator() = default;  // Ends what is outstanding with cancelled.
  Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  [[nodiscard]] virtual int rank() const noexcept = 0;
  [[nodiscard]] virtual int size() const noexcept = 0;

  // Nobody is through before all have come.
  virtual void barrier(Deadline deadline, Done done) = 0;
  // Rank `root`'s bytes to all.
  virtual void broadcast(std::span<std::byte> bytes, int root, Deadline deadline, Done done) = 0;
  // Every rank gets the same bits.
  virtual void all_reduce(std::span<std::byte> values, Reduction how, Deadline deadline,
                          Done done) = 0;
  // Own share: combined; the others: undefined.
  virtual void reduce_scatter(std::span<std::byte> values, const Shares& shares, Reduction how,
                              Deadline deadline, Done done) = 0;
  // Every rank's own share to all.
  virtual void all_gather(std::span<std::byte> values, const Shares& shares, Deadline deadline,
                          Done done) = 0;
  // Share j of rank i becomes share i of rank j. `values` is a multiple of size() values.
  virtual void all_to_all(std::span<std::byte> values, std::size_t value_bytes, Deadline deadline,
                          Done done) = 0;

  // The same ranks for a thread that may wait: its calls come from any one thread but the
  // transport's, do their work on it and call `done` before they return, which saves the hand-over
  // between threads. Null if this body has none. It may outlive this one: its calls fail then.
  // See run_and_wait() in blocking.h.
  [[nodiscard]] virtual std::shared_ptr<Communicator> in_place() { return nullptr; }

  // What this rank has given to others through memory that they share, in which no channel sees it.
  [[nodiscard]] virtual SharedCounters shared() const noexcept { return {}; }

  // Ends what is outstanding, and all that comes, with `reason`: when the owner learns that a rank
  // is gone of which no operation here has heard. Idempotent.
  virtual void abort(Error reason) = 0;
};

// Over one channel to each other rank, whatever carries it: peers[r] is rank r's, peers[rank] null.
// Other messages may use the channels beside it: the low 30 bits of `tag` are used here. After a
// failure, an abort() or an end in mid-operation the channels are closed, so that nothing writes to
// the values any more. `names` are what messages call the ranks, if they have other numbers in a
// larger group.
// Errors: invalid_argument for a rank that is not there or a missing channel.
[[nodiscard]] std::unique_ptr<Communicator> make_channel_communicator(
    boost::asio::io_context& context, int rank, std::vector<std::shared_ptr<Channel>> peers,
    std::uint64_t tag, std::vector<int> names = {});

}  // namespace causeway
