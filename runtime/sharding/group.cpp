#include "causeway/group.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <utility>

#include "runtime/sharding/group_state.h"
#include "transport/collective/call.h"

// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

namespace causeway {

namespace {

using collective::Call;

// What an operation's end tells the thread that waits for it.
struct Result {
  std::mutex mutex;
  std::condition_variable changed;
  bool has_ended = false;
  std::optional<Errc> code;
  std::string text;

  void end(const std::optional<Error>& failed) {
    const std::lock_guard lock(mutex);
    has_ended = true;
    if (failed) {
      code = failed->code();
      text = failed->what();
    }
    changed.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return has_ended; });
  }
};

DataType data_type(DType type) {
  switch (type) {
    case DType::f64:
      return DataType::f64;
    case DType::f32:
      return DataType::f32;
    case DType::f16:
      return DataType::f16;
    case DType::bf16:
      return DataType::bf16;
    case DType::i64:
      return DataType::i64;
    case DType::i32:
      return DataType::i32;
    default:
      throw Error(Errc::invalid_argument,
                  fmt::format("{} values are not combined; use F64, F32, F16, BF16, I64 or I32",
                              to_string(type)));
  }
}

ReduceOp reduce_op(Combine how) noexcept {
  switch (how) {
    case Combine::avg:
      return ReduceOp::avg;
    case Combine::max:
      return ReduceOp::max;
    case Combine::min:
      return ReduceOp::min;
    case Combine::sum:
      break;
  }
  return ReduceOp::sum;
}

Reduction reduction(DType type, const ReduceOptions& options) {
  return {data_type(type), reduce_op(options.how), options.in_rank_order};
}

// Of whole values: the communicator refuses a rest, so that the call counts.
Shares equal_shares(std::span<const std::byte> values, std::size_t value_bytes, int ranks) {
  return Shares::equal(values.size() / value_bytes * value_bytes, value_bytes, ranks);
}

// Channels say that they ended before it is known why: who waits asks for the reason.
bool is_second_hand(Errc code) noexcept { return code == Errc::peer_lost || code == Errc::closed; }

}  // namespace

Group::State::State(std::shared_ptr<MeshIo> mesh, std::uint32_t communicator,
                    std::vector<int> members, std::chrono::milliseconds limit)
    : io(std::move(mesh)),
      number(communicator),
      ranks(std::move(members)),
      timeout(limit),
      rank(static_cast<int>(std::ranges::find(ranks, io->own_rank) - ranks.begin())) {}

Group::State::~State() {
  io->pool->io.run_on([this] { io->communicators.erase(number); });
}

struct Pending::State {
  std::shared_ptr<Group::State> group;
  std::shared_ptr<Result> result = std::make_shared<Result>();
  bool is_refused = false;  // For what this call alone has wrong; nothing is broken.
  bool is_over = false;     // wait() has returned or thrown.

  using Start = std::function<void(Communicator&, Deadline, Communicator::Done)>;
  static Pending start(std::shared_ptr<Group::State> group, const collective::Call& call,
                       std::chrono::milliseconds timeout, Start begin);
  [[nodiscard]] Error reason() const;
};

Pending Pending::State::start(std::shared_ptr<Group::State> group, const collective::Call& call,
                              std::chrono::milliseconds timeout, Start begin) {
  group->io->check();
  const auto deadline = std::chrono::steady_clock::now() +
                        (timeout > std::chrono::milliseconds(0) ? timeout : group->timeout);
  auto state = std::make_unique<State>();
  state->group = std::move(group);
  state->is_refused = !call.refused_for.empty();
  // Who waits for the result keeps the mesh. A callback that did could be the last to do so, on the
  // thread that the mesh's pool would then join.
  auto& context = state->group->io->pool->io.context();
  boost::asio::post(context, [io = std::weak_ptr(state->group->io), result = state->result,
                              number = state->group->number, deadline, begin = std::move(begin),
                              is_refused = state->is_refused] {
    auto* const mesh = io.lock().get();
    const auto done = [io, result, is_refused](std::optional<Error> failed) {
      if (const auto alive = failed ? io.lock() : nullptr) {
        failed = alive->with_node(*failed);
        if (!is_refused && !is_second_hand(failed->code())) alive->lose(*failed);
      }
      result->end(failed);
    };
    try {
      begin(mesh->communicator(number), deadline, done);
    } catch (const Error& error) {
      result->end(error);
    }
  });
  return Pending(std::move(state));
}

// The first reason of all, if this operation's is that or follows from it.
Error Pending::State::reason() const {
  const Error own(*result->code, result->text);
  if (is_refused && own.code() == Errc::invalid_argument) return own;
  auto& io = *group->io;
  if (const auto lost = io.loss_behind(own)) return *lost;
  io.pool->io.run_on([&] { io.lose(own); });
  return own;
}

Pending::Pending(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
Pending::Pending(Pending&&) noexcept = default;

Pending& Pending::operator=(Pending&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}

Pending::~Pending() {
  if (!state_ || state_->is_over) return;
  if (!is_done()) {
    auto& io = *state_->group->io;
    io.pool->io.run_on([&] {
      const auto communicator = io.communicators.find(state_->group->number);
      if (communicator != io.communicators.end() && !state_->result->has_ended)
        communicator->second->abort({Errc::cancelled, "an operation was dropped before its end"});
    });
  }
  state_->result->wait();
}

bool Pending::is_done() const {
  if (!state_ || state_->is_over) return true;
  const std::lock_guard lock(state_->result->mutex);
  return state_->result->has_ended;
}

void Pending::wait() {
  if (!state_ || std::exchange(state_->is_over, true)) return;
  state_->result->wait();
  if (state_->result->code) throw Error(state_->reason());
}

Group::Group(std::shared_ptr<State> state) noexcept : state_(std::move(state)) {}
Group::Group(Group&&) noexcept = default;
Group& Group::operator=(Group&&) noexcept = default;
Group::~Group() = default;

int Group::rank() const noexcept { return state_->rank; }
int Group::size() const noexcept { return static_cast<int>(state_->ranks.size()); }
const std::vector<int>& Group::ranks() const noexcept { return state_->ranks; }

Pending Group::start_barrier(Timeout timeout) {
  return Pending::State::start(state_, Call::barrier(), timeout,
                               [](Communicator& all, Deadline deadline, Communicator::Done done) {
                                 all.barrier(deadline, std::move(done));
                               });
}

Pending Group::start_broadcast(std::span<std::byte> bytes, int root, Timeout timeout) {
  return Pending::State::start(state_, Call::broadcast(bytes.size(), root, size()), timeout,
                               [=](Communicator& all, Deadline deadline, Communicator::Done done) {
                                 all.broadcast(bytes, root, deadline, std::move(done));
                               });
}

Pending Group::start_all_reduce(std::span<std::byte> values, DType type, ReduceOptions options) {
  const auto how = reduction(type, options);
  return Pending::State::start(state_, Call::all_reduce(values.size(), how), options.timeout,
                               [=](Communicator& all, Deadline deadline, Communicator::Done done) {
                                 all.all_reduce(values, how, deadline, std::move(done));
                               });
}

Pending Group::start_reduce_scatter(std::span<std::byte> values, DType type,
                                    ReduceOptions options) {
  const auto how = reduction(type, options);
  const auto shares = equal_shares(values, size_of(how.type), size());
  return Pending::State::start(state_, Call::reduce_scatter(values.size(), shares, how, size()),
                               options.timeout,
                               [=](Communicator& all, Deadline deadline, Communicator::Done done) {
                                 all.reduce_scatter(values, shares, how, deadline, std::move(done));
                               });
}

Pending Group::start_all_gather(std::span<std::byte> values, DType type, Timeout timeout) {
  const auto shares = equal_shares(values, size_of(type), size());
  return Pending::State::start(state_, Call::all_gather(values.size(), shares, size()), timeout,
                               [=](Communicator& all, Deadline deadline, Communicator::Done done) {
                                 all.all_gather(values, shares, deadline, std::move(done));
                               });
}

Pending Group::start_all_to_all(std::span<std::byte> values, DType type, Timeout timeout) {
  const auto value_bytes = size_of(type);
  return Pending::State::start(state_, Call::all_to_all(values.size(), value_bytes, size()),
                               timeout,
                               [=](Communicator& all, Deadline deadline, Communicator::Done done) {
                                 all.all_to_all(values, value_bytes, deadline, std::move(done));
                               });
}

}  // namespace causeway
