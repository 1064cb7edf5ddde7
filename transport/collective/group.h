// The ranks of one communicator over channels: messages, and what a failure does.
//
// Shape:   operations move values by exchange() and by join() over send() and receive(), in lanes.
//          What each one does is in algorithms.cpp; the public face is channel_communicator.cpp.
// Errors:  the first failure of any message breaks the group: its channels are closed, so that
//          every operation in flight ends and no buffer is touched any more.
// Threads: the io_context's.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "transport/channel.h"
#include "transport/collective/turns.h"

namespace causeway::collective {

// Up to here a message's own cost is above that of its bytes: one round with all others beats a
// ring.
constexpr std::size_t kSmallBytes = 16 * 1024;
constexpr std::size_t kLanes = 4;

struct Group final : Turns {
  Group(asio::io_context& io, int own, std::vector<std::shared_ptr<Channel>> channels,
        std::uint64_t first_tag, std::vector<int> names_of_ranks)
      : Turns(io),
        rank(own),
        size(static_cast<int>(channels.size())),
        peers(std::move(channels)),
        names(std::move(names_of_ranks)),
        tag_space(first_tag & ~kTagBits) {}

  // A channel that carries several communicators of the same two ranks tells them apart by the
  // rest.
  static constexpr std::uint64_t kTagBits = 0x3fffffff;

  int at(int offset) const noexcept { return ((rank + offset) % size + size) % size; }
  std::uint64_t tag(std::size_t lane) const noexcept {
    return tag_space | (std::uint64_t{sequence() & 0x3ff} << 20) |
           (std::uint64_t{call().fingerprint & 0xffff} << 4) | lane;
  }

  void on_break(const Error& error) override;
  std::shared_ptr<Group> shared() { return std::static_pointer_cast<Group>(shared_from_this()); }
  std::optional<Error> judge(std::optional<Error> failed, const char* way, int peer);

  void send(int to, std::size_t lane, std::span<const std::byte> bytes,
            const std::shared_ptr<Join>& joined);
  void receive(int from, std::size_t lane, Values bytes, const std::shared_ptr<Join>& joined);
  Step exchange(std::size_t lane, int to, std::span<const std::byte> out, int from, Values in);
  Step in_lanes(std::size_t count, std::function<Step(std::size_t lane)> each);
  Step in_slices(const Shares& shares, bool is_wide,
                 std::function<Step(std::size_t lane, std::size_t first, std::size_t last)> each);

  Step barrier();
  Step broadcast(Values bytes, int root);
  Step broadcast_by_tree(Values bytes, int root);
  Step scatter(Values bytes, const Shares& shares, int root);
  Step gather_small(Values values, const Shares& shares);
  Step reduce_ring(Values values, const Shares& shares, Reduction how);
  Step combine_all(std::size_t lane, Reduction how, Values target,
                   std::function<Values(int to)> out);
  Step reduce_in_order(Values values, const Shares& shares, Reduction how);
  Step reduce_small(Values values, Reduction how);
  Step reduce_scatter(Values values, const Shares& shares, Reduction how);
  Step all_gather(Values values, const Shares& shares);
  Step all_reduce(Values values, Reduction how);
  Step all_to_all(Values values);

  const int rank;
  const int size;
  const std::vector<std::shared_ptr<Channel>> peers;
  const std::vector<int> names;  // Of ranks, in messages.
  const std::uint64_t tag_space;
  std::uint32_t broadcasts = 0;
};

}  // namespace causeway::collective
