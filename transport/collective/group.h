// The ranks of one communicator over channels: whose turn it is, messages, and what a failure does.
//
// Shape:   an Operation runs as a coroutine when those before it have ended; it moves values by
//          exchange() and by join() over send() and receive(), in lanes. What each operation does
//          is in algorithms.cpp; the public face is channel_communicator.cpp.
// Errors:  the first failure of any message breaks the group: its channels are closed, so that
// every
//          operation in flight ends and no buffer is touched any more.
// Threads: the io_context's.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "transport/channel.h"
#include "transport/collective/call.h"
#include "transport/collective/communicator.h"

namespace causeway::collective {

namespace asio = boost::asio;
using Step = asio::awaitable<void>;
using Values = std::span<std::byte>;

// Up to here a message's own cost is above that of its bytes: one round with all others beats a
// ring.
constexpr std::size_t kSmallBytes = 16 * 1024;
constexpr std::size_t kLanes = 4;

// Resumes a coroutine when `left` things have ended, however they did.
struct Join {
  std::size_t left;
  std::optional<Error> error;
  std::function<void(std::exception_ptr)> resume{};

  void ended(std::optional<Error> failed) {
    if (failed && !error) error = std::move(failed);
    if (--left > 0) return;
    std::exchange(resume, {})(error ? std::make_exception_ptr(*error) : nullptr);
  }
};

// Starts `count` things by start(join) and waits for all of them.
template <typename Start>
Step join(std::size_t count, Start start) {
  if (count == 0) co_return;
  co_await asio::async_initiate<const asio::use_awaitable_t<>, void(std::exception_ptr)>(
      [count, &start](auto handler) {
        const auto all = std::make_shared<Join>(Join{count, std::nullopt});
        all->resume = [shared = std::make_shared<decltype(handler)>(std::move(handler))](
                          std::exception_ptr error) { std::move (*shared)(std::move(error)); };
        start(all);
      },
      asio::use_awaitable);
}

// What outlives the communicator until its last channel operation has ended.
struct Group : std::enable_shared_from_this<Group> {
  struct Operation {
    // Tags have its fingerprint, so that ranks that call something else, or with other sizes, do
    // not take each other's bytes.
    Call call;
    Deadline deadline;
    std::function<Step()> run;  // Throws what the call is refused for.
    Communicator::Done done;
    std::unique_ptr<asio::steady_timer> timer{};  // While it waits for its turn.
  };

  Group(asio::io_context& io, int own, std::vector<std::shared_ptr<Channel>> channels,
        std::uint64_t first_tag, std::vector<int> names_of_ranks)
      : context(io),
        rank(own),
        size(static_cast<int>(channels.size())),
        peers(std::move(channels)),
        names(std::move(names_of_ranks)),
        tag_space(first_tag & ~std::uint64_t{0xffffffff}) {}

  int at(int offset) const noexcept { return ((rank + offset) % size + size) % size; }
  std::uint64_t tag(std::size_t lane) const noexcept {
    return tag_space | (std::uint64_t{sequence & 0xfff} << 20) |
           (std::uint64_t{waiting.front().call.fingerprint & 0xffff} << 4) | lane;
  }

  void enqueue(Operation operation);
  void run_next();
  void finished(const std::exception_ptr& error);
  void break_with(const Error& error);
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

  asio::io_context& context;
  const int rank;
  const int size;
  const std::vector<std::shared_ptr<Channel>> peers;
  const std::vector<int> names;  // Of ranks, in messages.
  const std::uint64_t tag_space;
  std::deque<Operation> waiting;  // The first one runs.
  bool is_running = false;
  std::uint32_t sequence = 0;
  std::uint32_t broadcasts = 0;
  std::optional<Error> broken;
};

}  // namespace causeway::collective
