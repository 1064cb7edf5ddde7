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

std::shared_ptr<Communicator> find_in_place(MeshIo& io, std::uint32_t number) {
  std::shared_ptr<Communicator> found;
  io.pool->io.run_on([&] { found = io.communicator(number).in_place(); });
  return found;
}

// One operation, whoever waits for it.
struct Request {
  std::span<const std::byte> values;
  Call call;
  std::chrono::milliseconds timeout;
  std::function<void(Communicator&, Deadline, Communicator::Done)> begin;
};

Request barrier_request(std::chrono::milliseconds timeout) {
  return {{}, Call::barrier(), timeout, [](Communicator& all, Deadline deadline, auto done) {
            all.barrier(deadline, std::move(done));
          }};
}

Request broadcast_request(int ranks, std::span<std::byte> bytes, int root,
                          std::chrono::milliseconds timeout) {
  return {bytes, Call::broadcast(bytes.size(), root, ranks), timeout,
          [=](Communicator& all, Deadline deadline, auto done) {
            all.broadcast(bytes, root, deadline, std::move(done));
          }};
}

Request all_reduce_request(std::span<std::byte> values, DType type, const ReduceOptions& options) {
  const auto how = reduction(type, options);
  return {values, Call::all_reduce(values.size(), how), options.timeout,
          [=](Communicator& all, Deadline deadline, auto done) {
            all.all_reduce(values, how, deadline, std::move(done));
          }};
}

Request reduce_scatter_request(int ranks, std::span<std::byte> values, DType type,
                               const ReduceOptions& options) {
  const auto how = reduction(type, options);
  const auto shares = equal_shares(values, size_of(how.type), ranks);
  return {values, Call::reduce_scatter(values.size(), shares, how, ranks), options.timeout,
          [=](Communicator& all, Deadline deadline, auto done) {
            all.reduce_scatter(values, shares, how, deadline, std::move(done));
          }};
}

Request all_gather_request(int ranks, std::span<std::byte> values, DType type,
                           std::chrono::milliseconds timeout) {
  const auto shares = equal_shares(values, size_of(type), ranks);
  return {values, Call::all_gather(values.size(), shares, ranks), timeout,
          [=](Communicator& all, Deadline deadline, auto done) {
            all.all_gather(values, shares, deadline, std::move(done));
          }};
}

Request all_to_all_request(int ranks, std::span<std::byte> values, DType type,
                           std::chrono::milliseconds timeout) {
  const auto value_bytes = size_of(type);
  return {values, Call::all_to_all(values.size(), value_bytes, ranks), timeout,
          [=](Communicator& all, Deadline deadline, auto done) {
            all.all_to_all(values, value_bytes, deadline, std::move(done));
          }};
}

}  // namespace

Group::State::State(std::shared_ptr<MeshIo> mesh, std::uint32_t communicator,
                    std::vector<int> members, std::chrono::milliseconds limit)
    : io(std::move(mesh)),
      number(communicator),
      ranks(std::move(members)),
      timeout(limit),
      rank(static_cast<int>(std::ranges::find(ranks, io->own_rank) - ranks.begin())),
      in_place(find_in_place(*io, number)) {}

Group::State::~State() {
  io->pool->io.run_on([this] { io->drop_communicator(number); });
}

struct Pending::State {
  std::shared_ptr<Group::State> group;
  std::shared_ptr<Result> result = std::make_shared<Result>();
  bool is_refused = false;  // For what this call alone has wrong; nothing is broken.
  bool is_over = false;     // wait() has returned or thrown.

  static std::unique_ptr<State> make(std::shared_ptr<Group::State> group, const Request& request);
  static Pending start(std::shared_ptr<Group::State> group, Request request);
  static void run(const std::shared_ptr<Group::State>& group, Request request);
  [[nodiscard]] Error reason() const;
};

namespace {

Deadline deadline_of(const Request& request, std::chrono::milliseconds timeout) {
  return std::chrono::steady_clock::now() +
         (request.timeout > std::chrono::milliseconds(0) ? request.timeout : timeout);
}

// On the io thread: what the mesh makes of a failure.
std::optional<Error> judge(MeshIo& mesh, std::optional<Error> failed, bool is_refused) {
  if (!failed) return failed;
  failed = mesh.with_node(*failed);
  if (!is_refused && !is_second_hand(failed->code())) mesh.lose(*failed);
  return failed;
}

}  // namespace

std::unique_ptr<Pending::State> Pending::State::make(std::shared_ptr<Group::State> group,
                                                     const Request& request) {
  group->io->check();
  group->io->pool->gpu_addresses.require_host(request.values);
  auto state = std::make_unique<State>();
  state->group = std::move(group);
  state->is_refused = !request.call.refused_for.empty();
  return state;
}

Pending Pending::State::start(std::shared_ptr<Group::State> group, Request request) {
  auto state = make(std::move(group), request);
  // Who waits for the result keeps the mesh. A callback that did could be the last to do so, on the
  // thread that the mesh's pool would then join.
  const auto& members = *state->group;
  ++*members.on_their_way;
  boost::asio::post(
      members.io->pool->io.context(),
      [io = std::weak_ptr(members.io), result = state->result, number = members.number,
       deadline = deadline_of(request, members.timeout), begin = std::move(request.begin),
       is_refused = state->is_refused, on_their_way = members.on_their_way] {
        auto* const mesh = io.lock().get();
        const auto done = [io, result, is_refused](std::optional<Error> failed) {
          if (const auto alive = failed ? io.lock() : nullptr)
            failed = judge(*alive, std::move(failed), is_refused);
          result->end(failed);
        };
        try {
          begin(mesh->communicator(number), deadline, done);
        } catch (const Error& error) {
          result->end(error);
        }
        --*on_their_way;
      });
  return Pending(std::move(state));
}

void Pending::State::run(const std::shared_ptr<Group::State>& group, Request request) {
  if (group->in_place == nullptr || *group->on_their_way > 0)
    return start(group, std::move(request)).wait();
  const auto state = make(group, request);
  std::optional<Error> failed;
  request.begin(*group->in_place, deadline_of(request, group->timeout),
                [&failed](std::optional<Error> error) { failed = std::move(error); });
  if (!failed) return;
  auto& io = *group->io;
  io.pool->io.run_on([&] {
    static_cast<void>(io.communicator(group->number));  // Closed is the reason, if it is gone.
    state->result->end(judge(io, std::move(failed), state->is_refused));
  });
  throw Error(state->reason());
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
  return Pending::State::start(state_, barrier_request(timeout));
}
void Group::barrier(Timeout timeout) { Pending::State::run(state_, barrier_request(timeout)); }

Pending Group::start_broadcast(std::span<std::byte> bytes, int root, Timeout timeout) {
  return Pending::State::start(state_, broadcast_request(size(), bytes, root, timeout));
}
void Group::broadcast(std::span<std::byte> bytes, int root, Timeout timeout) {
  Pending::State::run(state_, broadcast_request(size(), bytes, root, timeout));
}

Pending Group::start_all_reduce(std::span<std::byte> values, DType type, ReduceOptions options) {
  return Pending::State::start(state_, all_reduce_request(values, type, options));
}
void Group::all_reduce(std::span<std::byte> values, DType type, ReduceOptions options) {
  Pending::State::run(state_, all_reduce_request(values, type, options));
}

Pending Group::start_reduce_scatter(std::span<std::byte> values, DType type,
                                    ReduceOptions options) {
  return Pending::State::start(state_, reduce_scatter_request(size(), values, type, options));
}
void Group::reduce_scatter(std::span<std::byte> values, DType type, ReduceOptions options) {
  Pending::State::run(state_, reduce_scatter_request(size(), values, type, options));
}

Pending Group::start_all_gather(std::span<std::byte> values, DType type, Timeout timeout) {
  return Pending::State::start(state_, all_gather_request(size(), values, type, timeout));
}
void Group::all_gather(std::span<std::byte> values, DType type, Timeout timeout) {
  Pending::State::run(state_, all_gather_request(size(), values, type, timeout));
}

Pending Group::start_all_to_all(std::span<std::byte> values, DType type, Timeout timeout) {
  return Pending::State::start(state_, all_to_all_request(size(), values, type, timeout));
}
void Group::all_to_all(std::span<std::byte> values, DType type, Timeout timeout) {
  Pending::State::run(state_, all_to_all_request(size(), values, type, timeout));
}

}  // namespace causeway
