#include "transport/collective/make_communicator.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/co_spawn.hpp>

#include "transport/collective/complete.h"
#include "transport/collective/hierarchical_communicator.h"
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

constexpr std::size_t kMostLanes = 4;  // Where nobody knows what links carry.

// Over the channels to `members`, which this rank is one of. `use` tells its tags apart.
std::unique_ptr<Communicator> among(const Ranks& ranks, const std::vector<int>& members,
                                    std::uint64_t use) {
  std::vector<std::shared_ptr<Channel>> peers;
  std::vector<int> names;
  for (const int r : members) {
    peers.push_back(ranks.peers[static_cast<std::size_t>(r)]);
    names.push_back(ranks.options.names[static_cast<std::size_t>(r)]);
  }
  const auto own = std::ranges::find(members, ranks.rank) - members.begin();
  return make_channel_communicator(ranks.context, static_cast<int>(own), std::move(peers),
                                   ranks.options.tag | use << 30, std::move(names));
}

// How many ranks of each group lead a lane: as many as the group with the fewest links has.
std::size_t count_lanes(const shm::Meeting& meeting) {
  const bool is_known = std::ranges::any_of(meeting.links, [](double link) { return link > 0; });
  auto lanes = is_known ? meeting.links.size() : kMostLanes;
  for (const auto& group : meeting.groups) {
    const auto links = std::ranges::count_if(
        group, [&](int r) { return !is_known || meeting.links[static_cast<std::size_t>(r)] > 0; });
    lanes = std::min(lanes, static_cast<std::size_t>(std::max(links, std::ptrdiff_t{1})));
  }
  return lanes;
}

// Bytes per second of a lane while all lanes are busy: all-reduces that grow until one takes long
// enough to tell.
asio::awaitable<double> measure(Communicator& lane, Deadline deadline) {
  constexpr auto kEnough = std::chrono::milliseconds(20);
  constexpr std::size_t kMost = std::size_t{16} << 20;
  std::vector<std::byte> values;
  for (std::size_t size = 64 * 1024;; size *= 4) {
    values.assign(size, std::byte{});
    co_await collective::complete(lane,
                                  [&](Communicator& c, auto done) { c.barrier(deadline, done); });
    const auto begin = std::chrono::steady_clock::now();
    co_await collective::complete(lane, [&](Communicator& c, auto done) {
      c.all_reduce(values, {DataType::i32}, deadline, done);
    });
    const auto time = std::chrono::steady_clock::now() - begin;
    // One rank decides for all.
    auto is_enough = static_cast<std::byte>(time >= kEnough || size >= kMost);
    co_await collective::complete(lane, [&](Communicator& c, auto done) {
      c.broadcast({&is_enough, 1}, 0, deadline, done);
    });
    if (is_enough != std::byte{})
      co_return static_cast<double>(size) / std::chrono::duration<double>(time).count();
  }
}

// By lane: what the slowest of its leaders says.
asio::awaitable<std::vector<double>> weigh(const Ranks& ranks, const shm::Meeting& meeting,
                                           std::size_t lanes, IslandRanks& parts) {
  auto rates = meeting.links;
  if (ranks.options.measures_links && lanes > 1) {
    auto own = rates[static_cast<std::size_t>(ranks.rank)];
    if (parts.lane) own = co_await measure(*parts.lane, ranks.deadline);
    rates = co_await collective::gather(*parts.flat, own, ranks.deadline);
  }
  std::vector<double> weights;
  for (std::size_t l = 0; l < lanes; ++l) {
    double least = std::numeric_limits<double>::infinity();
    for (const auto& group : meeting.groups)
      least = std::min(least, rates[static_cast<std::size_t>(group[l])]);
    weights.push_back(least);
  }
  if (std::ranges::all_of(weights, [](double w) { return w <= 0; }))
    std::ranges::fill(weights, 1.0);
  co_return weights;
}

asio::awaitable<std::unique_ptr<Communicator>> join_islands(const Ranks& ranks,
                                                            shm::Meeting meeting,
                                                            std::unique_ptr<Communicator> flat) {
  IslandRanks parts;
  parts.flat = std::move(flat);
  parts.island_of.resize(ranks.peers.size());
  parts.inner_rank_of.resize(ranks.peers.size());
  for (std::size_t g = 0; g < meeting.groups.size(); ++g)
    for (std::size_t i = 0; i < meeting.groups[g].size(); ++i) {
      const auto r = static_cast<std::size_t>(meeting.groups[g][i]);
      parts.island_of[r] = static_cast<int>(g);
      parts.inner_rank_of[r] = static_cast<int>(i);
    }
  const auto own = static_cast<std::size_t>(ranks.rank);
  const auto& group = meeting.groups[static_cast<std::size_t>(parts.island_of[own])];
  if (meeting.own)
    parts.inner = make_shm_communicator(ranks.context, std::move(*meeting.own));
  else if (group.size() > 1)
    parts.inner = among(ranks, group, 1);
  const auto lanes = count_lanes(meeting);
  const auto place = static_cast<std::size_t>(parts.inner_rank_of[own]);
  if (place < lanes) {
    std::vector<int> leaders;
    for (const auto& each : meeting.groups) leaders.push_back(each[place]);
    parts.lane = among(ranks, leaders, 2);
  }
  parts.weights = co_await weigh(ranks, meeting, lanes, parts);
  parts.weights.resize(group.size());
  co_return make_hierarchical_communicator(ranks.context, std::move(parts));
}

asio::awaitable<std::unique_ptr<Communicator>> make(Ranks ranks) {
  if (ranks.options.names.empty()) {
    ranks.options.names.resize(ranks.peers.size());
    std::iota(ranks.options.names.begin(), ranks.options.names.end(), 0);
  }
  ranks.options.tag &= ~std::uint64_t{0xffffffff};
  auto flat = make_channel_communicator(ranks.context, ranks.rank, ranks.peers, ranks.options.tag,
                                        ranks.options.names);
  if (flat->size() == 1) co_return flat;
  auto meeting = co_await shm::meet(*flat, {ranks.options.island, ranks.options.link_bytes_per_s},
                                    ranks.options.names, ranks.options.slot_bytes,
                                    ranks.options.shares_memory, ranks.deadline);
  if (meeting.groups.size() == 1) {
    if (!meeting.own) co_return flat;
    co_return make_shm_communicator(ranks.context, std::move(*meeting.own));
  }
  if (!ranks.options.has_islands || meeting.groups.size() == ranks.peers.size()) co_return flat;
  co_return co_await join_islands(ranks, std::move(meeting), std::move(flat));
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
