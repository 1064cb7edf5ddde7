#include "transport/shm/meet.h"

#include <sched.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "transport/collective/complete.h"
#include "transport/shm/board.h"
#include "transport/shm/host.h"
#include "transport/shm/steps.h"

namespace causeway::shm {

namespace {

namespace asio = boost::asio;
using collective::gather;
using Token = std::array<std::byte, 16>;

struct Card {
  Host host;
  std::int64_t process;
  double link;
};
// What the first rank of a group has made.
struct Offer {
  std::uint64_t is_good = 0;
  std::int64_t fd = -1;
  std::uint64_t slot_bytes = 0;
  Token token{};
};

std::vector<std::vector<int>> by_host(const std::vector<Card>& cards) {
  std::vector<std::vector<int>> groups;
  for (std::size_t r = 0; r < cards.size(); ++r) {
    const auto same = std::ranges::find_if(groups, [&](const std::vector<int>& group) {
      return group.size() < static_cast<std::size_t>(Board::kMaxRanks) &&
             cards[r].host.is_known() &&
             cards[static_cast<std::size_t>(group.front())].host == cards[r].host;
    });
    if (same != groups.end())
      same->push_back(static_cast<int>(r));
    else
      groups.push_back({static_cast<int>(r)});
  }
  // Alone a group keeps the numbers that its ranks have.
  for (auto& group : groups)
    if (groups.size() > 1)
      std::ranges::stable_sort(group, std::ranges::greater{},
                               [&](int r) { return cards[static_cast<std::size_t>(r)].link; });
  return groups;
}

// Slots of all ranks and buffers stay in the cache where they can.
std::size_t suitable_slot_bytes(std::size_t ranks) {
  constexpr std::size_t kAll = std::size_t{4} * 1024 * 1024;
  return std::clamp(kAll / Slots::kBuffers / ranks, std::size_t{64} * 1024,
                    std::size_t{256} * 1024) &
         ~std::size_t{4095};
}

// As long as a wake-up takes, if every rank can have a core to itself.
std::chrono::microseconds suitable_spin(std::size_t ranks) {
  cpu_set_t cores;
  const bool is_known = ::sched_getaffinity(0, sizeof(cores), &cores) == 0;
  const bool is_roomy = is_known && static_cast<std::size_t>(CPU_COUNT(&cores)) >= ranks;
  return std::chrono::microseconds(is_roomy ? 50 : 0);
}

// The token lies where the last slot ends: what comes there later comes after all have read it.
std::span<std::byte> token_of(const SharedSegment& segment) {
  return segment.bytes().last(sizeof(Token));
}

Offer offer_of(std::optional<SharedSegment>& segment, std::size_t slot_bytes, std::size_t ranks) {
  Offer offer{.slot_bytes = slot_bytes};
  try {
    segment.emplace(SharedSegment::create(shm_segment_bytes(slot_bytes, static_cast<int>(ranks))));
    if (::getrandom(offer.token.data(), sizeof(Token), 0) != sizeof(Token)) return offer;
    std::ranges::copy(offer.token, token_of(*segment).begin());
    offer.fd = segment->fd();
    offer.is_good = 1;
  } catch (const Error&) {
    // No memory to share: the others see that there is none.
  }
  return offer;
}

SharedSegment open_offer(const Card& leader, const Offer& offer, std::size_t ranks) {
  // Of others no sum would tell: it may have wrapped around.
  if (offer.slot_bytes < Slots::kLeastBytes || offer.slot_bytes > Slots::kMostBytes)
    throw Error(Errc::protocol, "slots of a size that nobody makes");
  const auto size = shm_segment_bytes(offer.slot_bytes, static_cast<int>(ranks));
  auto segment =
      SharedSegment::open(static_cast<pid_t>(leader.process), static_cast<int>(offer.fd), size);
  if (std::memcmp(token_of(segment).data(), offer.token.data(), sizeof(Token)) != 0)
    throw Error(Errc::protocol, "another segment than was offered");
  return segment;
}

std::vector<UniqueFd> watch_all(const std::vector<Card>& cards, const std::vector<int>& group) {
  std::vector<UniqueFd> processes;
  for (const int r : group) {
    const auto process = static_cast<pid_t>(cards[static_cast<std::size_t>(r)].process);
    processes.push_back(process == ::getpid() ? UniqueFd() : watch(process));
  }
  return processes;
}

}  // namespace

asio::awaitable<Meeting> meet(Communicator& world, Person person, std::vector<int> names,
                              std::size_t slot_bytes, bool shares_memory, Deadline deadline) {
  const Card card{this_host(person.island), ::getpid(), person.link};
  const auto cards = co_await gather(world, card, deadline);
  Meeting meeting{.groups = by_host(cards), .links = {}, .own = std::nullopt};
  for (const auto& each : cards) meeting.links.push_back(each.link);
  if (!shares_memory) co_return meeting;
  const auto& own = *std::ranges::find_if(meeting.groups, [&](const std::vector<int>& group) {
    return std::ranges::find(group, world.rank()) != group.end();
  });
  const auto ranks = own.size();
  const auto leader = static_cast<std::size_t>(own.front());
  slot_bytes = slot_bytes == 0 ? suitable_slot_bytes(ranks)
                               : std::clamp(slot_bytes, Slots::kLeastBytes, Slots::kMostBytes);

  std::optional<SharedSegment> segment;
  Offer offer;
  if (own.front() == world.rank() && ranks > 1) offer = offer_of(segment, slot_bytes, ranks);
  const auto offers = co_await gather(world, offer, deadline);
  std::vector<UniqueFd> processes;
  std::uint8_t is_ready = 0;
  try {
    if (ranks > 1 && offers[leader].is_good != 0) {
      if (!segment) segment.emplace(open_offer(cards[leader], offers[leader], ranks));
      processes = watch_all(cards, own);
      is_ready = 1;
    }
  } catch (const Error&) {
    // Another pid namespace behind the same number, no descriptor left, no pidfd: then not.
  }
  const auto ready = co_await gather(world, is_ready, deadline);
  if (!std::ranges::all_of(own, [&](int r) { return ready[static_cast<std::size_t>(r)] != 0; }))
    co_return meeting;
  segment->close_fd();
  std::vector<int> own_names;
  for (const int r : own) own_names.push_back(names[static_cast<std::size_t>(r)]);
  const auto place = std::ranges::find(own, world.rank()) - own.begin();
  meeting.own.emplace(ShmGroup{std::move(*segment), offers[leader].slot_bytes,
                               static_cast<int>(place), std::move(own_names), std::move(processes),
                               suitable_spin(ranks)});
  co_return meeting;
}

}  // namespace causeway::shm
