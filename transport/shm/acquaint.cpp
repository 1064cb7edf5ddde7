#include "transport/shm/acquaint.h"

#include <fmt/format.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>

#include "transport/collective/turns.h"
#include "transport/shm/host.h"

namespace causeway::shm {

namespace {

namespace asio = boost::asio;
using collective::Join;

// Both ends are of one version, or speak of sizes that are not each other's.
constexpr std::uint64_t kAcquaintanceTag = ~std::uint64_t{0};
using Secret = std::array<std::byte, 16>;

struct Card {
  Host host;
  std::int64_t process;
  std::uint64_t has_room;
};
struct Offer {  // Of the segment, by the connecting end.
  std::uint64_t is_good = 0;
  std::int64_t fd = -1;
  std::uint64_t ring_bytes = 0;
  std::int64_t bell = -1;
  Secret shown{};  // What lies in the segment, before what is not said.
};
struct Answer {
  std::uint64_t is_good = 0;
  std::int64_t bell = -1;
  Secret found{};  // What lies behind it.
};
struct Verdict {
  std::uint64_t is_good = 0;
};

// Says `own` and hears what the peer says; either may be nothing.
template <typename Own, typename Theirs>
asio::awaitable<void> exchange(Channel& channel, const Own* own, Theirs* theirs,
                               Deadline deadline) {
  std::uint64_t got = sizeof(Theirs);
  const std::size_t count = (own != nullptr ? 1U : 0U) + (theirs != nullptr ? 1U : 0U);
  co_await collective::join(count, [&](const std::shared_ptr<Join>& both) {
    if (theirs != nullptr)
      channel.receive(kAcquaintanceTag, std::as_writable_bytes(std::span(theirs, 1)), deadline,
                      [both, &got](std::optional<Error> error, std::uint64_t bytes) {
                        got = bytes;
                        both->ended(std::move(error));
                      });
    if (own != nullptr)
      channel.send(
          kAcquaintanceTag, std::as_bytes(std::span(own, 1)), deadline,
          [both](std::optional<Error> error, std::uint64_t) { both->ended(std::move(error)); });
  });
  if (got != sizeof(Theirs))
    throw Error(
        Errc::protocol,
        fmt::format("{} says {} bytes about itself where {} belong; is it of another version?",
                    channel.peer_name(), got, sizeof(Theirs)));
}

template <typename Own>
asio::awaitable<void> say(Channel& channel, const Own& own, Deadline deadline) {
  return exchange<Own, Own>(channel, &own, nullptr, deadline);
}
template <typename Theirs>
asio::awaitable<void> hear(Channel& channel, Theirs& theirs, Deadline deadline) {
  return exchange<Theirs, Theirs>(channel, nullptr, &theirs, deadline);
}

UniqueFd watch_peer(const Card& card) {
  const auto process = static_cast<pid_t>(card.process);
  return process == ::getpid() ? UniqueFd() : watch(process);
}

Secret secret(const SharedSegment& segment, std::size_t place) {
  Secret value;
  std::ranges::copy(Wire::secret_of(segment).subspan(place * sizeof(Secret), sizeof(Secret)),
                    value.begin());
  return value;
}

SharedSegment make_segment(const Introduction& introduction) {
  auto segment = SharedSegment::create(Wire::segment_bytes(introduction.ring_bytes));
  const auto place = Wire::secret_of(segment).first(2 * sizeof(Secret));
  if (::getrandom(place.data(), place.size(), 0) != static_cast<ssize_t>(place.size()))
    throw system_error("no random numbers for a secret", errno);
  return segment;
}

SharedSegment open_segment(const Card& card, const Offer& offer) {
  if (!std::has_single_bit(offer.ring_bytes) || offer.ring_bytes < Ring::kLeastBytes ||
      offer.ring_bytes > Ring::kMostBytes)
    throw Error(Errc::protocol, "rings of a size that nobody makes");
  auto segment = SharedSegment::open(static_cast<pid_t>(card.process), static_cast<int>(offer.fd),
                                     Wire::segment_bytes(offer.ring_bytes));
  if (secret(segment, 0) != offer.shown)
    throw Error(Errc::protocol, "another segment than was offered");
  return segment;
}

Acquaintance made(const Channel& channel, SharedSegment segment, std::size_t ring_bytes,
                  bool is_first, UniqueFd bell, UniqueFd process) {
  return {{.segment = std::move(segment),
           .ring_bytes = ring_bytes,
           .is_first = is_first,
           .bell = std::move(bell),
           .peer = channel.peer_name(),
           .broken = {},
           .place = {}},
          std::move(process)};
}

asio::awaitable<std::optional<Acquaintance>> offer_segment(const Port& port, Channel& channel,
                                                           const Card& peer,
                                                           const Introduction& introduction) {
  std::optional<SharedSegment> segment;
  UniqueFd process, bell;
  Offer offer{.ring_bytes = introduction.ring_bytes, .bell = port.bell()};
  try {
    process = watch_peer(peer);
    segment.emplace(make_segment(introduction));
    offer.fd = segment->fd();
    offer.shown = secret(*segment, 0);
    offer.is_good = 1;
  } catch (const Error&) {
    // No memory, no descriptor, another pid namespace behind the same number: the peer hears of it.
  }
  co_await say(channel, offer, introduction.deadline);
  if (offer.is_good == 0) co_return std::nullopt;
  Answer answer;
  co_await hear(channel, answer, introduction.deadline);
  if (answer.is_good == 0) co_return std::nullopt;
  Verdict verdict;
  try {
    if (answer.found != secret(*segment, 1))
      throw Error(Errc::protocol, "it has not seen the segment");
    bell = open_pipe(static_cast<pid_t>(peer.process), static_cast<int>(answer.bell));
    verdict.is_good = 1;
  } catch (const Error&) {
  }
  co_await say(channel, verdict, introduction.deadline);
  if (verdict.is_good == 0) co_return std::nullopt;
  segment->close_fd();
  co_return made(channel, std::move(*segment), introduction.ring_bytes, true, std::move(bell),
                 std::move(process));
}

asio::awaitable<std::optional<Acquaintance>> take_segment(const Port& port, Channel& channel,
                                                          const Card& peer, Deadline deadline) {
  Offer offer;
  co_await hear(channel, offer, deadline);
  if (offer.is_good == 0) co_return std::nullopt;
  std::optional<SharedSegment> segment;
  UniqueFd process, bell;
  Answer answer{.bell = port.bell()};
  try {
    process = watch_peer(peer);
    segment.emplace(open_segment(peer, offer));
    bell = open_pipe(static_cast<pid_t>(peer.process), static_cast<int>(offer.bell));
    segment->close_fd();
    answer.found = secret(*segment, 1);
    answer.is_good = 1;
  } catch (const Error&) {
  }
  co_await say(channel, answer, deadline);
  if (answer.is_good == 0) co_return std::nullopt;
  Verdict verdict;
  co_await hear(channel, verdict, deadline);
  if (verdict.is_good == 0) co_return std::nullopt;
  co_return made(channel, std::move(*segment), offer.ring_bytes, false, std::move(bell),
                 std::move(process));
}

}  // namespace

asio::awaitable<std::optional<Acquaintance>> acquaint(std::shared_ptr<Port> port,
                                                      std::shared_ptr<Channel> channel,
                                                      Introduction introduction) {
  const Card own{this_host(introduction.island), ::getpid(), introduction.has_room ? 1U : 0U};
  Card theirs{};
  co_await exchange(*channel, &own, &theirs, introduction.deadline);
  if (!own.host.is_known() || own.host != theirs.host || own.has_room == 0 || theirs.has_room == 0)
    co_return std::nullopt;
  if (introduction.connecting)
    co_return co_await offer_segment(*port, *channel, theirs, introduction);
  co_return co_await take_segment(*port, *channel, theirs, introduction.deadline);
}

}  // namespace causeway::shm
