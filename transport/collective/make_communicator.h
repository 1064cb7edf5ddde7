// The communicator that suits where the ranks are.
//
// Shape:   ranks that share a host's memory use slots in it; ranks that do not, channels. Where
//          both are among them, or islands are given, the hierarchical form: inside each island
//          first, between islands over several links at once, each with its part of the bytes.
//          All ranks call it together.
// Errors:  invalid_argument; those of the channels; timed_out.
// Cost:    some small messages; with several islands a measurement of the links between them.
// Threads: the io_context's.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "transport/collective/communicator.h"

namespace causeway {

struct CommunicatorOptions {
  std::uint64_t tag = 0;        // Its low 32 bits are used here.
  std::vector<int> names{};     // By rank: what messages call it; none: its number.
  bool shares_memory = true;    // Where it can. The same for all ranks.
  std::size_t slot_bytes = 0;   // Of shared memory, 4 KiB or more; 0: what suits.
  bool has_islands = true;      // False: one flat ring. The same for all ranks.
  std::uint64_t island = 0;     // This rank's: ranks of one host and island are together.
  double link_bytes_per_s = 0;  // What this rank's way to other islands carries; 0: unknown.
  // Measures what the links between islands carry together, some 100 ms. Else what ranks say
  // counts. The same for all ranks.
  bool measures_links = true;
};

using MadeCommunicator = std::function<void(std::optional<Error>, std::unique_ptr<Communicator>)>;

// `peers`: as make_channel_communicator().
void make_communicator(boost::asio::io_context& context, int rank,
                       std::vector<std::shared_ptr<Channel>> peers, CommunicatorOptions options,
                       Deadline deadline, MadeCommunicator done);

}  // namespace causeway
