#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <deque>
#include <utility>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "transport/collective/communicator.h"

namespace causeway {

namespace asio = boost::asio;

std::size_t share_begin(std::size_t size_bytes, std::size_t value_bytes, int rank,
                        int ranks) noexcept {
  const std::size_t count = size_bytes / value_bytes;
  const auto n = static_cast<std::size_t>(ranks);
  const auto r = static_cast<std::size_t>(rank);
  return (count / n * r + std::min(count % n, r)) * value_bytes;
}

std::span<std::byte> share_of(std::span<std::byte> values, std::size_t value_bytes, int rank,
                              int ranks) noexcept {
  const auto first = share_begin(values.size(), value_bytes, rank, ranks);
  return values.subspan(first, share_begin(values.size(), value_bytes, rank + 1, ranks) - first);
}

namespace {

using Step = asio::awaitable<void>;
using Values = std::span<std::byte>;

// Up to here a message's own cost is above that of its bytes: one round with all others beats a
// ring.
constexpr std::size_t kSmallBytes = 16 * 1024;
// What one lane has at work at a time: large enough for rendezvous at full speed, small enough to
// be combined while it is in the cache and the next one is on its way.
constexpr std::size_t kSliceBytes = 512 * 1024;
constexpr std::size_t kLanes = 4;

constexpr std::uint32_t kMaxAhead = 64;

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
  enum class Kind : std::uint8_t {
    barrier,
    broadcast,
    all_reduce,
    reduce_scatter,
    all_gather,
    all_to_all
  };
  static std::string_view name_of(Kind kind) noexcept {
    constexpr std::array kNames = {"barrier",        "broadcast",  "all_reduce",
                                   "reduce_scatter", "all_gather", "all_to_all"};
    return kNames.at(static_cast<std::size_t>(kind));
  }
  struct Operation {
    Kind kind;
    // Of all that ranks must agree about. Tags have it, so that ranks that call something else, or
    // with other sizes, do not take each other's bytes.
    std::uint32_t fingerprint;
    Deadline deadline;
    std::function<Step()> run;  // Throws what the call is refused for.
    Communicator::Done done;
    bool is_refused = false;
    std::unique_ptr<asio::steady_timer> timer{};  // While it waits for its turn.
  };

  Group(asio::io_context& io, int own, std::vector<std::shared_ptr<Channel>> channels,
        std::uint64_t first_tag)
      : context(io),
        rank(own),
        size(static_cast<int>(channels.size())),
        peers(std::move(channels)),
        tag_space(first_tag & ~std::uint64_t{0xffffffff}) {}

  int at(int offset) const noexcept { return ((rank + offset) % size + size) % size; }
  Values share(Values values, std::size_t value_bytes, int index) const noexcept {
    return share_of(values, value_bytes, index, size);
  }
  std::uint64_t tag(std::size_t lane) const noexcept {
    return tag_space | (std::uint64_t{sequence & 0xfff} << 20) |
           (std::uint64_t{waiting.front().fingerprint & 0xffff} << 4) | lane;
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
  Step in_slices(Values values, std::size_t value_bytes, bool is_wide,
                 std::function<Step(std::size_t lane, std::size_t first, std::size_t last)> each);

  Step barrier();
  Step broadcast(Values bytes, int root);
  Step broadcast_by_tree(Values bytes, int root);
  Step scatter(Values bytes, int root);
  Step gather_small(Values values, std::size_t value_bytes);
  Step reduce_ring(Values values, Reduction how);
  Step reduce_in_order(Values values, Reduction how);
  Step reduce_small(Values values, Reduction how);
  Step reduce_scatter(Values values, Reduction how);
  Step all_gather(Values values, std::size_t value_bytes);
  Step all_reduce(Values values, Reduction how);
  Step all_to_all(Values values);

  asio::io_context& context;
  const int rank;
  const int size;
  const std::vector<std::shared_ptr<Channel>> peers;
  const std::uint64_t tag_space;
  std::deque<Operation> waiting;  // The first one runs.
  bool is_running = false;
  std::uint32_t sequence = 0;
  std::uint32_t broadcasts = 0;
  std::optional<Error> broken;
};

void Group::enqueue(Operation operation) {
  if (is_running) {
    operation.timer = std::make_unique<asio::steady_timer>(context, operation.deadline);
    operation.timer->async_wait([self = shared_from_this(), kind = operation.kind](
                                    const boost::system::error_code& cancelled) {
      if (!cancelled)
        self->break_with(Error(
            Errc::timed_out,
            fmt::format("{}: the operation before it did not end in its time", name_of(kind))));
    });
  }
  waiting.push_back(std::move(operation));
  if (std::exchange(is_running, true)) return;
  asio::post(context, [self = shared_from_this()] { self->run_next(); });  // Never inside the call.
}

void Group::run_next() {
  is_running = !waiting.empty();
  if (!is_running) return;
  ++sequence;
  waiting.front().timer.reset();
  asio::co_spawn(
      context,
      // The parameter keeps the group in the coroutine; a capture would not live long enough.
      [](std::shared_ptr<Group> self) -> Step {
        if (self->broken) throw Error(*self->broken);
        // Alone there is nothing to do: values are in place, and their own average.
        if (self->size > 1 || self->waiting.front().is_refused)
          co_await self->waiting.front().run();
      }(shared_from_this()),
      [self = shared_from_this()](const std::exception_ptr& error) { self->finished(error); });
}

void Group::finished(const std::exception_ptr& error) {
  auto operation = std::move(waiting.front());
  waiting.pop_front();
  std::optional<Error> failed;
  if (error) {
    try {
      std::rethrow_exception(error);
    } catch (const Error& e) {
      failed = e;
    } catch (const std::exception& e) {
      failed = Error(Errc::internal, e.what());
    }
    if (!operation.is_refused) break_with(*failed);
    if (broken) failed = broken;
  }
  run_next();
  operation.done(std::move(failed));
}

// Tells who failed at what. The first failure is the reason; what a rank that broke for it tells
// the others has the reason only, not the way that the news took.
std::optional<Error> Group::judge(std::optional<Error> failed, const char* way, int peer) {
  if (!failed) return failed;
  constexpr std::string_view kReason = "because of ";
  const std::string_view what = failed->what();
  const auto reason = what.find(kReason);
  const bool is_told = reason != std::string_view::npos;
  const auto hint = failed->code() == Errc::timed_out
                        ? "; does it call the same operation, with the same sizes?"
                        : "";
  const Error error(
      failed->code(),
      fmt::format("{} (operation {}) failed {} rank {}, {}{}{}", name_of(waiting.front().kind),
                  sequence, way, peer, is_told ? "" : kReason,
                  is_told ? what.substr(reason) : fmt::format("rank {}: {}", peer, what), hint));
  break_with(error);
  return error;
}

// Closing the channels ends what is outstanding on them; the buffers are free when that has ended.
void Group::break_with(const Error& error) {
  if (broken) return;
  broken = error;
  for (const auto& channel : peers)
    if (channel) channel->close(error);
}

void Group::send(int to, std::size_t lane, std::span<const std::byte> bytes,
                 const std::shared_ptr<Join>& joined) {
  peers[static_cast<std::size_t>(to)]->send(
      tag(lane), bytes, waiting.front().deadline,
      [self = shared_from_this(), to, joined](std::optional<Error> failed, std::uint64_t) {
        joined->ended(self->judge(std::move(failed), "to", to));
      });
}

void Group::receive(int from, std::size_t lane, Values bytes, const std::shared_ptr<Join>& joined) {
  peers[static_cast<std::size_t>(from)]->receive(
      tag(lane), bytes, waiting.front().deadline,
      [self = shared_from_this(), from, joined, wanted = bytes.size()](std::optional<Error> failed,
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
  co_await join(2, [&](const std::shared_ptr<Join>& both) {
    receive(from, lane, in, both);
    send(to, lane, out, both);
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
      asio::co_spawn(context, each(lane), [all](const std::exception_ptr& error) {
        std::optional<Error> failed;
        try {
          if (error) std::rethrow_exception(error);
        } catch (const Error& e) {
          failed = e;
        } catch (const std::exception& e) {
          failed = Error(Errc::internal, e.what());
        }
        all->ended(std::move(failed));
      });
  });
}

// Calls `each` for slices [first, last) of every share, counted in bytes from a share's begin;
// those of one lane one after the other. Shares differ by one value at most: the caller cuts
// `last`.
Step Group::in_slices(
    Values values, std::size_t value_bytes, bool is_wide,
    std::function<Step(std::size_t lane, std::size_t first, std::size_t last)> each) {
  const auto longest = share(values, value_bytes, 0).size();
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

namespace {
Values cut(Values share, std::size_t first, std::size_t last) {
  first = std::min(first, share.size());
  return share.subspan(first, std::min(last, share.size()) - first);
}
}  // namespace

Step Group::barrier() {
  // After round k a rank has heard, directly or not, of 2^(k+1) ranks.
  for (int distance = 1; distance < size; distance *= 2) {
    std::byte out{}, in{};
    co_await exchange(0, at(distance), {&out, 1}, at(-distance), {&in, 1});
  }
}

Step Group::broadcast(Values bytes, int root) {
  // All others answer each other. A root alone could be far ahead of a slow rank, whose channel
  // bounds what has come and is not yet asked for.
  if (++broadcasts % kMaxAhead == 0) co_await barrier();
  if (size == 2 || bytes.size() <= kSmallBytes * static_cast<std::size_t>(size)) {
    co_await broadcast_by_tree(bytes, root);
  } else {
    co_await scatter(bytes, root);
    co_await all_gather(bytes, 1);
  }
}

// A binomial tree over ranks counted from the root.
Step Group::broadcast_by_tree(Values bytes, int root) {
  const int place = at(-root);
  int reach = 1;
  while (reach < size) reach *= 2;
  for (; reach > 1; reach /= 2) {
    const int half = reach / 2;
    const bool gives = place % reach == 0 && place + half < size;
    const bool takes = place % reach == half;
    if (!gives && !takes) continue;
    co_await join(1, [&](const std::shared_ptr<Join>& one) {
      if (gives)
        send((place + half + root) % size, 0, bytes, one);
      else
        receive((place - half + root) % size, 0, bytes, one);
    });
  }
}

Step Group::scatter(Values bytes, int root) {
  const auto others = static_cast<std::size_t>(rank == root ? size - 1 : 1);
  co_await join(others, [&](const std::shared_ptr<Join>& all) {
    if (rank != root) return receive(root, kLanes, share(bytes, 1, rank), all);
    for (int i = 1; i < size; ++i) send(at(i), kLanes, share(bytes, 1, at(i)), all);
  });
}

// One round: own share to all, theirs from all.
Step Group::gather_small(Values values, std::size_t value_bytes) {
  co_await join(static_cast<std::size_t>(2 * (size - 1)), [&](const std::shared_ptr<Join>& all) {
    for (int i = 1; i < size; ++i) {
      receive(at(-i), 0, share(values, value_bytes, at(-i)), all);
      send(at(i), 0, share(values, value_bytes, rank), all);
    }
  });
}

Step Group::all_gather(Values values, std::size_t value_bytes) {
  if (values.size() <= kSmallBytes * static_cast<std::size_t>(size)) {
    co_await gather_small(values, value_bytes);
    co_return;
  }
  co_await in_slices(values, value_bytes, false,
                     [&](std::size_t lane, std::size_t first, std::size_t last) -> Step {
                       for (int step = 0; step < size - 1; ++step)
                         co_await exchange(
                             lane, at(1), cut(share(values, value_bytes, at(-step)), first, last),
                             at(-1), cut(share(values, value_bytes, at(-1 - step)), first, last));
                     });
}

// Share c starts at the rank right of c and gathers the others' values on its way round to c.
Step Group::reduce_ring(Values values, Reduction how) {
  const auto value_bytes = size_of(how.type);
  co_await in_slices(
      values, value_bytes, false,
      [&](std::size_t lane, std::size_t first, std::size_t last) -> Step {
        std::vector<std::byte> arrived(cut(share(values, value_bytes, 0), first, last).size());
        for (int i = 0; i < size; ++i)
          prepare(how, cut(share(values, value_bytes, i), first, last), size);
        for (int step = 0; step < size - 1; ++step) {
          const auto target = cut(share(values, value_bytes, at(-2 - step)), first, last);
          const auto in = std::span(arrived).first(target.size());
          co_await exchange(
              lane, at(1), cut(share(values, value_bytes, at(-1 - step)), first, last), at(-1), in);
          combine(how, target, in);
        }
        finish(how, cut(share(values, value_bytes, rank), first, last), size);
      });
}

// As many bytes as a ring, but every share goes to its owner directly, who has all at once.
Step Group::reduce_in_order(Values values, Reduction how) {
  const auto value_bytes = size_of(how.type);
  const auto own = share(values, value_bytes, rank);
  co_await in_slices(
      values, value_bytes, true,
      [&](std::size_t lane, std::size_t first, std::size_t last) -> Step {
        const auto target = cut(own, first, last);
        const auto n = static_cast<std::size_t>(size);
        std::vector<std::byte> arrived(target.size() * n);
        std::vector<std::span<const std::byte>> parts(n);
        co_await join(2 * (n - 1), [&](const std::shared_ptr<Join>& all) {
          for (int i = 1; i < size; ++i) {
            const auto from = static_cast<std::size_t>(at(-i));
            const auto in = std::span(arrived).subspan(from * target.size(), target.size());
            parts[from] = in;
            receive(at(-i), lane, in, all);
            send(at(i), lane, cut(share(values, value_bytes, at(i)), first, last), all);
          }
        });
        parts[static_cast<std::size_t>(rank)] = target;
        combine_in_order(how, target, parts);
      });
}

// One round: all values to all, and everyone combines them in the same order.
Step Group::reduce_small(Values values, Reduction how) {
  const auto n = static_cast<std::size_t>(size);
  std::vector<std::byte> arrived(values.size() * n);
  std::vector<std::span<const std::byte>> parts(n);
  co_await join(2 * (n - 1), [&](const std::shared_ptr<Join>& all) {
    for (int i = 1; i < size; ++i) {
      const auto from = static_cast<std::size_t>(at(-i));
      const auto in = std::span(arrived).subspan(from * values.size(), values.size());
      parts[from] = in;
      receive(at(-i), 0, in, all);
      send(at(i), 0, values, all);
    }
  });
  parts[static_cast<std::size_t>(rank)] = values;
  combine_in_order(how, values, parts);
}

Step Group::reduce_scatter(Values values, Reduction how) {
  if (how.in_rank_order || values.size() <= kSmallBytes * static_cast<std::size_t>(size))
    co_await reduce_in_order(values, how);
  else
    co_await reduce_ring(values, how);
}

Step Group::all_reduce(Values values, Reduction how) {
  if (values.size() * static_cast<std::size_t>(size - 1) <= kSmallBytes) {
    co_await reduce_small(values, how);
  } else {
    co_await reduce_scatter(values, how);
    co_await all_gather(values, size_of(how.type));
  }
}

// In round k the ranks whose sum is k exchange: in place, since each pair has its own shares. These
// are equal, so that they may be cut anywhere.
Step Group::all_to_all(Values values) {
  co_await in_slices(values, 1, false,
                     [&](std::size_t lane, std::size_t first, std::size_t last) -> Step {
                       std::vector<std::byte> arrived(cut(share(values, 1, 0), first, last).size());
                       for (int round = 0; round < size; ++round) {
                         const int other = (round - rank + size) % size;
                         if (other == rank) continue;
                         const auto mine = cut(share(values, 1, other), first, last);
                         co_await exchange(lane, other, mine, other, arrived);
                         std::ranges::copy(arrived, mine.begin());
                       }
                     });
}

class ChannelCommunicator final : public Communicator {
  using Kind = Group::Kind;
  using Operation = Group::Operation;

 public:
  explicit ChannelCommunicator(std::shared_ptr<Group> group) : group_(std::move(group)) {}
  ~ChannelCommunicator() override {
    const Error gone(Errc::cancelled, "the communicator is gone");
    if (group_->waiting.empty())
      group_->broken = gone;  // The channels may have other uses.
    else
      group_->break_with(gone);
  }

  [[nodiscard]] int rank() const noexcept override { return group_->rank; }
  [[nodiscard]] int size() const noexcept override { return group_->size; }

  void barrier(Deadline deadline, Done done) override {
    add({.kind = Kind::barrier,
         .fingerprint = fingerprint({0}),
         .deadline = deadline,
         .run = [group = group_.get()] { return group->barrier(); },
         .done = std::move(done)});
  }
  void broadcast(Values bytes, int root, Deadline deadline, Done done) override {
    Operation operation{
        .kind = Kind::broadcast,
        .fingerprint = fingerprint({1, bytes.size(), static_cast<std::size_t>(root)}),
        .deadline = deadline,
        .run = [group = group_.get(), bytes, root] { return group->broadcast(bytes, root); },
        .done = std::move(done)};
    if (root < 0 || root >= size())
      refuse(operation, fmt::format("there is no rank {} among {}", root, size()));
    add(std::move(operation));
  }
  void all_reduce(Values values, Reduction how, Deadline deadline, Done done) override {
    add_checked(
        values, size_of(how.type), 1,
        {.kind = Kind::all_reduce,
         .fingerprint = fingerprint_of(2, values, how),
         .deadline = deadline,
         .run = [group = group_.get(), values, how] { return group->all_reduce(values, how); },
         .done = std::move(done)});
  }
  void reduce_scatter(Values values, Reduction how, Deadline deadline, Done done) override {
    add_checked(
        values, size_of(how.type), 1,
        {.kind = Kind::reduce_scatter,
         .fingerprint = fingerprint_of(3, values, how),
         .deadline = deadline,
         .run = [group = group_.get(), values, how] { return group->reduce_scatter(values, how); },
         .done = std::move(done)});
  }
  void all_gather(Values values, std::size_t value_bytes, Deadline deadline, Done done) override {
    add_checked(values, value_bytes, 1,
                {.kind = Kind::all_gather,
                 .fingerprint = fingerprint({4, values.size(), value_bytes}),
                 .deadline = deadline,
                 .run = [group = group_.get(), values,
                         value_bytes] { return group->all_gather(values, value_bytes); },
                 .done = std::move(done)});
  }
  void all_to_all(Values values, std::size_t value_bytes, Deadline deadline, Done done) override {
    add_checked(values, value_bytes, size(),
                {.kind = Kind::all_to_all,
                 .fingerprint = fingerprint({5, values.size()}),
                 .deadline = deadline,
                 .run = [group = group_.get(), values] { return group->all_to_all(values); },
                 .done = std::move(done)});
  }

  void abort(Error reason) override { group_->break_with(reason); }

 private:
  // FNV-1a.
  static std::uint32_t fingerprint(std::initializer_list<std::size_t> facts) noexcept {
    std::uint64_t hash = 0xcbf29ce484222325;
    for (auto fact : facts)
      for (std::size_t i = 0; i < sizeof(fact); ++i, fact >>= 8)
        hash = (hash ^ (fact & 0xff)) * 0x100000001b3;
    return static_cast<std::uint32_t>(hash ^ (hash >> 32) ^ (hash >> 16));
  }
  static std::uint32_t fingerprint_of(std::size_t kind, Values values,
                                      const Reduction& how) noexcept {
    return fingerprint({kind, values.size(), static_cast<std::size_t>(how.type),
                        static_cast<std::size_t>(how.op), how.in_rank_order ? 1U : 0U});
  }

  // It takes its turn all the same: the other ranks count their calls, too.
  static void refuse(Operation& operation, const std::string& why) {
    operation.is_refused = true;
    operation.run =
        [error = Error(Errc::invalid_argument, fmt::format("{}: {}", Group::name_of(operation.kind),
                                                           why))]() -> Step { throw Error(error); };
  }
  void add_checked(Values values, std::size_t value_bytes, int parts, Operation operation) {
    if (value_bytes == 0 || values.size() % (value_bytes * static_cast<std::size_t>(parts)) != 0)
      refuse(operation, fmt::format("{} bytes are no multiple of {} values of {} bytes",
                                    values.size(), parts, value_bytes));
    add(std::move(operation));
  }
  void add(Operation operation) { group_->enqueue(std::move(operation)); }

  const std::shared_ptr<Group> group_;
};

}  // namespace

std::unique_ptr<Communicator> make_channel_communicator(asio::io_context& context, int rank,
                                                        std::vector<std::shared_ptr<Channel>> peers,
                                                        std::uint64_t tag) {
  const auto size = static_cast<int>(peers.size());
  if (rank < 0 || rank >= size)
    throw Error(Errc::invalid_argument, fmt::format("there is no rank {} among {}", rank, size));
  for (int i = 0; i < size; ++i)
    if ((peers[static_cast<std::size_t>(i)] == nullptr) != (i == rank))
      throw Error(Errc::invalid_argument,
                  fmt::format("rank {}: every other rank has a channel, and it has none", i));
  return std::make_unique<ChannelCommunicator>(
      std::make_shared<Group>(context, rank, std::move(peers), tag));
}

}  // namespace causeway
