// Which ranks can share memory, and the memory that they then share.
//
// Shape:   all ranks call it together; a Communicator over any channels carries what they tell
//          each other. Ranks of one host, user and pid namespace, and of one `island`, share a
//          segment if every one of them can map it and watch the others; if not, they are as if
//          on hosts of their own, and all ranks know that.
// Errors:  those of `world`. That memory cannot be shared is no error.
// Cost:    three small all-gathers; a segment is made and mapped (up to 16 MiB).
// Threads: the io_context's.
#pragma once

#include <optional>
#include <vector>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/awaitable.hpp>
#include <utility>

#include "transport/shm/shm_communicator.h"

namespace causeway::shm {

struct Meeting {
  std::vector<std::vector<int>> groups;  // All ranks: those that share memory, together; in order.
  std::optional<ShmGroup> own;           // This rank's, if it is not alone.
};

// `slot_bytes` 0: what suits the number of ranks.
[[nodiscard]] boost::asio::awaitable<Meeting> meet(Communicator& world, std::uint64_t island,
                                                   std::size_t slot_bytes, Deadline deadline);

}  // namespace causeway::shm
