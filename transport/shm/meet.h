// Which ranks can share memory, and the memory that they then share.
//
// Shape:   all ranks call it together; a Communicator over any channels carries what they tell
//          each other. Ranks of one host, user and pid namespace that name the same `island` are a
//          group; if there are several, with the best `link` first. It shares a segment if each of
//          its ranks can map it and watch the others.
// Errors:  those of `world`. That memory cannot be shared is no error.
// Cost:    three small all-gathers; a segment is made and mapped (4 MiB; above 21 ranks 192 KiB
//          for each).
// Threads: the io_context's.
#pragma once

#include <optional>
#include <vector>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/awaitable.hpp>
#include <utility>

#include "transport/shm/shm_communicator.h"

namespace causeway::shm {

struct Person {
  std::uint64_t island = 0;  // Groups are parts of islands.
  double link = 0;           // What this rank's way to other islands carries; 0: unknown.
};
struct Meeting {
  std::vector<std::vector<int>> groups;  // All ranks.
  std::vector<double> links;             // By rank.
  std::optional<ShmGroup> own;           // Of this rank's group, if it shares memory.
};

// `slot_bytes` 0: what suits the number of ranks; others are brought to what Slots can work with.
[[nodiscard]] boost::asio::awaitable<Meeting> meet(Communicator& world, Person own,
                                                   std::vector<int> names, std::size_t slot_bytes,
                                                   bool shares_memory, Deadline deadline);

}  // namespace causeway::shm
