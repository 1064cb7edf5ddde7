// Collectives over islands: inside each one first, then between them by several links at once.
//
// Shape:   ranks of an island share an inner communicator. Islands meet on lanes: lane l joins one
//          rank of every island, its leaders, over a link of its own. An all-reduce is an inner
//          reduce-scatter that gives each leader the share of its lane, an all-reduce on every
//          lane, and an inner all-gather; chunks follow each other. Shares are in proportion to
//          what the lanes carry. All-reduce, broadcast and barrier go this way; the others, and
//          reductions in rank order, by a flat communicator of all ranks.
// Errors:  as Communicator; a failure inside, on a lane, or on the flat one breaks all.
// Cost:    between islands, k islands, b bytes: 2 b (k-1)/k each way, over all lanes together.
// Threads: the io_context's.
// Source:  an all-reduce as reduce-scatters and all-gathers by level: Cho et al., "BlueConnect",
//          MLSys 2019.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "transport/collective/communicator.h"

namespace causeway {

struct IslandRanks {
  std::unique_ptr<Communicator> flat;   // All ranks.
  std::unique_ptr<Communicator> inner;  // Of this island, leaders first; null: alone in it.
  std::unique_ptr<Communicator> lane;   // Of the lane with this rank's inner number, or null.
  std::vector<double> weights;          // By inner rank: its lane's part; 0: it leads none.
  std::vector<int> island_of;           // By rank.
  std::vector<int> inner_rank_of;       // By rank.
};

[[nodiscard]] std::unique_ptr<Communicator> make_hierarchical_communicator(
    boost::asio::io_context& context, IslandRanks ranks);

}  // namespace causeway
