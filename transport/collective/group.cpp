#include "transport/collective/group.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>

namespace causeway::collective {

namespace {
// What one lane has at work at a time: large enough for rendezvous at full speed, small enough to
// be combined while it is in the cache and the next one is on its way.
constexpr std::size_t kSliceBytes = 512 * 1024;
}  // namespace

// Tells who failed at what. The first failure is the reason; what a rank that broke for it tells
// the others has the reason only, not the way that the news took.
std::optional<Error> Group::judge(std::optional<Error> failed, const char* way, int peer) {
  if (!failed) return failed;
  constexpr std::string_view kReason = "because of ";
  const std::string_view what = failed->what();
  const int name = names[static_cast<std::size_t>(peer)];
  const auto reason = what.find(kReason);
  const bool is_told = reason != std::string_view::npos;
  const auto hint = failed->code() == Errc::timed_out
                        ? "; does it call the same operation, with the same sizes?"
                        : "";
  const Error error(
      failed->code(),
      fmt::format("{} (operation {}) failed {} rank {}, {}{}{}", name_of(call().kind), sequence(),
                  way, name, is_told ? "" : kReason,
                  is_told ? what.substr(reason) : fmt::format("rank {}: {}", name, what), hint));
  break_with(error);
  return error;
}

// Closing the channels ends what is outstanding on them; the buffers are free when that has ended.
void Group::on_break(const Error& error) {
  for (const auto& channel : peers)
    if (channel) channel->close(error);
}

void Group::send(int to, std::size_t lane, std::span<const std::byte> bytes,
                 const std::shared_ptr<Join>& joined) {
  peers[static_cast<std::size_t>(to)]->send(
      tag(lane), bytes, deadline(),
      [self = shared(), to, joined](std::optional<Error> failed, std::uint64_t) {
        joined->ended(self->judge(std::move(failed), "to", to));
      });
}

void Group::receive(int from, std::size_t lane, Values bytes, const std::shared_ptr<Join>& joined) {
  peers[static_cast<std::size_t>(from)]->receive(
      tag(lane), bytes, deadline(),
      [self = shared(), from, joined, wanted = bytes.size()](std::optional<Error> failed,
                                                             std::uint64_t got) {
        if (!failed && got != wanted)
          failed =
              Error(Errc::out_of_bounds,
                    fmt::format("{} bytes came instead of {}; do all ranks give the same size?",
                                got, wanted));
        joined->ended(self->judge(std::move(failed), "from", from));
      });
}

Step Group::exchange(std::size_t lane, int to, std::span<const std::byte> out, int from,
                     Values in) {
  // Both ends know the sizes: what is empty needs no message.
  const std::size_t count = (in.empty() ? 0U : 1U) + (out.empty() ? 0U : 1U);
  co_await join(count, [&](const std::shared_ptr<Join>& both) {
    if (!in.empty()) receive(from, lane, in, both);
    if (!out.empty()) send(to, lane, out, both);
  });
}

// Each lane is a coroutine of its own: while one combines, the others' bytes are on their way.
Step Group::in_lanes(std::size_t count, std::function<Step(std::size_t lane)> each) {
  if (count == 1) {
    co_await each(0);
    co_return;
  }
  co_await join(count, [&](const std::shared_ptr<Join>& all) {
    for (std::size_t lane = 0; lane < count; ++lane)
      asio::co_spawn(context, each(lane),
                     [all](const std::exception_ptr& error) { all->ended(error_of(error)); });
  });
}

// Calls `each` for slices [first, last) of every share, counted in bytes from a share's begin;
// those of one lane one after the other. Shares differ: the caller cuts both to each.
Step Group::in_slices(
    const Shares& shares, bool is_wide,
    std::function<Step(std::size_t lane, std::size_t first, std::size_t last)> each) {
  const auto longest = shares.longest_bytes();
  const auto value_bytes = shares.value_bytes();
  auto slice = is_wide ? kSliceBytes / static_cast<std::size_t>(size) : kSliceBytes;
  slice = std::max(slice / value_bytes, std::size_t{1}) * value_bytes;
  // All lanes have work, if there is enough for messages that are not small.
  const auto even = (longest / kLanes + value_bytes - 1) / value_bytes * value_bytes;
  slice = std::min(
      slice, std::max(even, std::max(kSmallBytes / value_bytes, std::size_t{1}) * value_bytes));
  const auto slices = std::max((longest + slice - 1) / slice, std::size_t{1});
  const auto lanes = std::min(slices, kLanes);
  co_await in_lanes(lanes, [&](std::size_t lane) -> Step {
    for (auto i = lane; i < slices; i += lanes) {
      co_await each(lane, i * slice, (i + 1) * slice);
    }
  });
}

}  // namespace causeway::collective
