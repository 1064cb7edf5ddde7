#include "transport/collective/make_communicator.h"

#include <utility>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/co_spawn.hpp>

#include "transport/collective/turns.h"
#include "transport/shm/meet.h"

namespace causeway {

namespace {

namespace asio = boost::asio;

struct Ranks {
  asio::io_context& context;
  int rank;
  std::vector<std::shared_ptr<Channel>> peers;
  CommunicatorOptions options;
  Deadline deadline;
};

asio::awaitable<std::unique_ptr<Communicator>> make(Ranks ranks) {
  auto flat = make_channel_communicator(ranks.context, ranks.rank, ranks.peers, ranks.options.tag,
                                        ranks.options.names);
  if (flat->size() == 1 || !ranks.options.shares_memory) co_return flat;
  auto meeting = co_await shm::meet(*flat, 0, ranks.options.slot_bytes, ranks.deadline);
  if (meeting.groups.size() > 1) co_return flat;
  co_return make_shm_communicator(ranks.context, std::move(*meeting.own));
}

}  // namespace

void make_communicator(asio::io_context& context, int rank,
                       std::vector<std::shared_ptr<Channel>> peers, CommunicatorOptions options,
                       Deadline deadline, MadeCommunicator done) {
  asio::co_spawn(context, make({context, rank, std::move(peers), std::move(options), deadline}),
                 [done = std::move(done)](const std::exception_ptr& thrown,
                                          std::unique_ptr<Communicator> made) {
                   done(collective::error_of(thrown), std::move(made));
                 });
}

}  // namespace causeway
