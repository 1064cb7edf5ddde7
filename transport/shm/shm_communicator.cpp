#include "transport/shm/shm_communicator.h"

#include <fmt/format.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <future>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

#include "transport/collective/call.h"
#include "transport/shm/board.h"
#include "transport/shm/steps.h"

namespace causeway {

namespace asio = boost::asio;
using collective::Call;
using shm::Board;
using shm::Slots;
using shm::Steps;
using shm::Values;

std::size_t shm_segment_bytes(std::size_t slot_bytes, int ranks) noexcept {
  return Board::kBytes + Slots::total_bytes(slot_bytes, ranks);
}

namespace {

// Shared by the communicator, its thread and what waits in the io_context.
struct Group : std::enable_shared_from_this<Group> {
  struct Operation {
    Call call;
    Deadline deadline;
    std::function<Steps()> steps;
    Communicator::Done done;
    std::uint64_t sequence = 0;
    std::unique_ptr<asio::steady_timer> timer{};
  };

  Group(asio::io_context& io, ShmGroup given)
      : context(io),
        group(std::move(given)),
        board(group.segment.bytes().first(Board::kBytes), group.rank, group.names, group.spin),
        slots(group.segment.bytes().subspan(Board::kBytes), group.slot_bytes,
              static_cast<int>(group.names.size())) {}

  void watch();
  void enqueue(Operation operation);
  std::optional<Error> run_in_place(Operation operation);
  void stop();
  void expire(std::uint64_t number);
  void work();  // The thread.
  std::optional<Error> run(const Operation& operation);
  void count(std::uint64_t bytes) noexcept {
    given_bytes += bytes;
    ++given_times;
  }
  void run(const Steps& steps, const Operation& operation);
  void finish(Operation operation, std::optional<Error> error);
  void break_with(const Error& error);
  std::optional<Error> broken();

  asio::io_context& context;
  ShmGroup group;
  Board board;  // meet(): the thread's.
  const Slots slots;
  std::vector<std::unique_ptr<asio::posix::stream_descriptor>> watched;  // The io_context's.

  std::atomic<std::uint64_t> given_bytes{0};
  std::atomic<std::uint64_t> given_times{0};

  std::mutex mutex;  // Of what follows.
  std::condition_variable changed;
  std::deque<Operation> waiting;
  bool is_in_place = false;  // A caller's thread has the turn.
  bool is_stopping = false;
  std::uint64_t sequence = 0;      // Of calls.
  std::optional<Error> own_error;  // Why this rank broke the group: said as it is.
};

// A pidfd is readable when its process has ended.
void Group::watch() {
  for (std::size_t r = 0; r < group.processes.size(); ++r) {
    if (!group.processes[r] || static_cast<int>(r) == group.rank) continue;
    auto& descriptor =
        *watched.emplace_back(std::make_unique<asio::posix::stream_descriptor>(context));
    descriptor.assign(group.processes[r].get());
    static_cast<void>(group.processes[r].release());  // Only now: assign() may throw.
    descriptor.async_wait(asio::posix::descriptor_base::wait_read,
                          [weak = weak_from_this(), r](const boost::system::error_code& error) {
                            const auto self = weak.lock();
                            if (error || !self) return;
                            self->board.fail(Error(Errc::peer_lost, "its process has ended"),
                                             static_cast<int>(r));
                          });
  }
}

void Group::enqueue(Operation operation) {
  operation.timer = std::make_unique<asio::steady_timer>(context, operation.deadline);
  {
    const std::lock_guard lock(mutex);
    if (is_stopping) return finish(std::move(operation), own_error);
    operation.sequence = ++sequence;
    operation.timer->async_wait([weak = weak_from_this(), number = operation.sequence](
                                    const boost::system::error_code& cancelled) {
      const auto self = weak.lock();
      if (!cancelled && self) self->expire(number);
    });
    waiting.push_back(std::move(operation));
  }
  changed.notify_all();
}

std::optional<Error> Group::run_in_place(Operation operation) {
  std::unique_lock lock(mutex);
  if (is_stopping) return own_error;
  if (is_in_place || !waiting.empty()) {
    lock.unlock();
    // The communicator, or the io_context, may be gone before either gets to it.
    auto queued = std::make_shared<Operation>(std::move(operation));
    auto ended = std::make_shared<std::promise<std::optional<Error>>>();
    auto result = ended->get_future();
    queued->done = [ended = std::move(ended)](std::optional<Error> error) {
      ended->set_value(std::move(error));
    };
    asio::post(context, [self = shared_from_this(), queued = std::move(queued)] {
      self->enqueue(std::move(*queued));
    });
    try {
      return result.get();
    } catch (const std::future_error&) {
      return Error(Errc::cancelled, "the operation was dropped unfinished");
    }
  }
  is_in_place = true;
  operation.sequence = ++sequence;
  lock.unlock();
  auto error = run(operation);
  lock.lock();
  is_in_place = false;
  if (!waiting.empty() || is_stopping) changed.notify_all();
  return error;
}

// An operation whose turn has not come ends in time, too, and with it what it waits for. The one
// whose turn it is sees its deadline itself.
void Group::expire(std::uint64_t number) {
  Call::Kind kind{};
  {
    const std::lock_guard lock(mutex);
    const auto found = std::ranges::find(waiting, number, &Operation::sequence);
    if (found == waiting.end() || (found == waiting.begin() && !is_in_place)) return;
    kind = found->call.kind;
  }
  break_with(collective::missed_turn(kind));
}

void Group::work() {
  ::pthread_setname_np(::pthread_self(), "causeway-shm");
  for (;;) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [this] { return is_stopping || (!waiting.empty() && !is_in_place); });
    if (is_stopping) return;
    // It stays in the queue until it has ended: expire() and the destructor look for it there.
    const auto& operation = waiting.front();
    lock.unlock();
    auto error = run(operation);
    lock.lock();
    auto ended = std::move(waiting.front());
    waiting.pop_front();
    lock.unlock();
    finish(std::move(ended), std::move(error));
  }
}

std::optional<Error> Group::run(const Operation& operation) {
  if (auto error = broken()) return error;
  const auto& call = operation.call;
  if (!call.refused_for.empty()) return call.refusal();
  try {
    run(operation.steps(), operation);
    return std::nullopt;
  } catch (const Error& error) {
    const std::string_view what = error.what();
    break_with(Error(error.code(), fmt::format("{} (operation {}) failed{}{}", name_of(call.kind),
                                               operation.sequence,
                                               what.starts_with("because") ? " " : ": ", what)));
  } catch (const std::exception& error) {
    break_with(Error(Errc::internal, error.what()));
  }
  return broken();
}

void Group::run(const Steps& steps, const Operation& operation) {
  // Stage s of chunk c is done in round c + s. No meeting follows the last round: the next
  // operation begins in it, with another buffer.
  const std::size_t stages = 1 + (steps.combine ? 1U : 0U) + (steps.take ? 1U : 0U);
  const auto first = board.turn();
  const auto does = [&](const Steps::Stage& stage, std::size_t round, std::size_t behind) {
    if (round < behind || round - behind >= steps.count) return;
    stage(round - behind, first + round - behind);
  };
  for (std::size_t round = 0;; ++round) {
    if (steps.take) does(steps.take, round, stages - 1);
    if (steps.combine) does(steps.combine, round, 1);
    does(steps.put, round, 0);
    if (round == steps.count + stages - 2) return;
    board.meet(operation.deadline, round == 0 ? &operation.call : nullptr, operation.sequence);
  }
}

void Group::finish(Operation operation, std::optional<Error> error) {
  asio::post(context, [operation = std::make_shared<Operation>(std::move(operation)),
                       error = std::move(error)]() mutable {
    operation->timer.reset();
    operation->done(std::move(error));
  });
}

void Group::break_with(const Error& error) {
  {
    const std::lock_guard lock(mutex);
    if (!own_error) own_error = error;
  }
  board.fail(error, group.rank);
}

void Group::stop() {
  // The others can do nothing without this rank, and should not have to wait to find out.
  break_with(Error(Errc::cancelled, "the communicator is gone"));
  std::unique_lock lock(mutex);
  is_stopping = true;
  changed.notify_all();
  changed.wait(lock, [this] { return !is_in_place; });
}

std::optional<Error> Group::broken() {
  const std::lock_guard lock(mutex);
  if (!own_error && board.is_broken()) own_error = board.reason();
  return own_error;
}

// What an operation does, whoever runs it.
class Face : public Communicator {
 public:
  explicit Face(Group& group) : group_(group) {}
  [[nodiscard]] int rank() const noexcept override { return group_.group.rank; }
  [[nodiscard]] int size() const noexcept override { return group_.slots.ranks(); }

  void barrier(Deadline deadline, Done done) override {
    add(Call::barrier(), deadline, std::move(done), [this] {
      group_.count(0);
      return shm::barrier_steps();
    });
  }
  void broadcast(Values bytes, int root, Deadline deadline, Done done) override {
    add(Call::broadcast(bytes.size(), root, size()), deadline, std::move(done), [=, this] {
      group_.count(root == rank() ? bytes.size() : 0);
      return shm::broadcast_steps(group_.slots, rank(), bytes, root);
    });
  }
  void all_reduce(Values values, Reduction how, Deadline deadline, Done done) override {
    add(Call::all_reduce(values.size(), how), deadline, std::move(done), [=, this] {
      group_.count(values.size());
      return shm::all_reduce_steps(group_.slots, rank(), values, how);
    });
  }
  void reduce_scatter(Values values, const Shares& shares, Reduction how, Deadline deadline,
                      Done done) override {
    add(Call::reduce_scatter(values.size(), shares, how, size()), deadline, std::move(done),
        [=, this] {
          group_.count(values.size() - shares.of(values, rank()).size());
          return shm::reduce_scatter_steps(group_.slots, rank(), values, shares, how);
        });
  }
  void all_gather(Values values, const Shares& shares, Deadline deadline, Done done) override {
    add(Call::all_gather(values.size(), shares, size()), deadline, std::move(done), [=, this] {
      group_.count(shares.of(values, rank()).size());
      return shm::all_gather_steps(group_.slots, rank(), values, shares);
    });
  }
  void all_to_all(Values values, std::size_t value_bytes, Deadline deadline, Done done) override {
    add(Call::all_to_all(values.size(), value_bytes, size()), deadline, std::move(done), [=, this] {
      group_.count(values.size() - values.size() / static_cast<std::size_t>(size()));
      return shm::all_to_all_steps(group_.slots, rank(), values);
    });
  }
  void abort(Error reason) override { group_.break_with(reason); }
  [[nodiscard]] SharedCounters shared() const noexcept override {
    return {group_.given_bytes, group_.given_times};
  }

 protected:
  virtual void add(Call call, Deadline deadline, Done done, std::function<Steps()> steps) = 0;
  Group& group_;
};

class InPlace final : public Face {
 public:
  explicit InPlace(std::shared_ptr<Group> group) : Face(*group), kept_(std::move(group)) {}

 private:
  void add(Call call, Deadline deadline, Done done, std::function<Steps()> steps) override {
    done(group_.run_in_place({std::move(call), deadline, std::move(steps), {}}));
  }
  const std::shared_ptr<Group> kept_;
};

class ShmCommunicator final : public Face {
 public:
  explicit ShmCommunicator(std::shared_ptr<Group> group)
      : Face(*group), kept_(std::move(group)), in_place_(std::make_shared<InPlace>(kept_)) {
    kept_->watch();
    try {
      thread_ = std::thread([group = kept_.get()] { group->work(); });
    } catch (const std::system_error& error) {
      throw Error(Errc::exhausted,
                  fmt::format("no thread for collectives: {}; raise `ulimit -u`", error.what()));
    }
  }
  ~ShmCommunicator() override {
    kept_->stop();
    thread_.join();
    for (auto& operation : kept_->waiting) kept_->finish(std::move(operation), kept_->own_error);
    kept_->waiting.clear();
    kept_->watched.clear();
  }
  [[nodiscard]] std::shared_ptr<Communicator> in_place() override { return in_place_; }

 private:
  void add(Call call, Deadline deadline, Done done, std::function<Steps()> steps) override {
    // The io_context has work until the end, though nothing of it waits there.
    auto kept = [done = std::move(done), work = asio::make_work_guard(kept_->context)](
                    std::optional<Error> error) { done(std::move(error)); };
    kept_->enqueue({std::move(call), deadline, std::move(steps), std::move(kept)});
  }

  const std::shared_ptr<Group> kept_;
  const std::shared_ptr<InPlace> in_place_;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<Communicator> make_shm_communicator(asio::io_context& context, ShmGroup group) {
  return std::make_unique<ShmCommunicator>(std::make_shared<Group>(context, std::move(group)));
}

}  // namespace causeway
