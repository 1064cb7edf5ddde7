// Collectives of processes on one host, over slots of memory that they share.
//
// Shape:   a Communicator whose operations run on a thread of its own, so that a rank which waits
//          or combines keeps no other transfer of the process waiting. Reductions are always in
//          rank order and rounded once: `in_rank_order` costs nothing.
// Errors:  as Communicator; ranks that call different operations hear invalid_argument at once. A
//          rank whose process ends is peer_lost for all others within milliseconds (pidfd).
// Cost:    kBuffers slots per rank of shared memory; per operation two hand-overs between threads
//          (5 to 20 us each) and a meeting per chunk (steps.h, board.h).
// Threads: the io_context's, as channel.h.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "allocator/unique_fd.h"
#include "transport/collective/communicator.h"
#include "transport/shm/shared_segment.h"

namespace causeway {

struct ShmGroup {
  shm::SharedSegment segment;  // Of shm_segment_bytes(); the same for all.
  std::size_t slot_bytes;
  int rank;                           // Here.
  std::vector<int> names;             // By rank: what messages call it.
  std::vector<UniqueFd> processes;    // By rank: a pidfd, or none: that rank's end goes unnoticed.
  std::chrono::microseconds spin{0};  // Before a rank that waits sleeps. For cores that are free.
};

[[nodiscard]] std::size_t shm_segment_bytes(std::size_t slot_bytes, int ranks) noexcept;

// Errors: exhausted (no thread to be had).
[[nodiscard]] std::unique_ptr<Communicator> make_shm_communicator(boost::asio::io_context& context,
                                                                  ShmGroup group);

}  // namespace causeway
