// Whose turn it is: the operations of a communicator, as coroutines, one after the other.
//
// Shape:   an Operation runs when those before it have ended. The first failure breaks all: it and
//          every later operation end with that error. A call that is refused takes its turn and
//          breaks nothing.
// Errors:  an operation whose turn has not come at its deadline ends with timed_out, and with it
//          what it waited for.
// Threads: the io_context's.
#pragma once

#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "transport/collective/call.h"
#include "transport/collective/communicator.h"

namespace causeway::collective {

namespace asio = boost::asio;
using Step = asio::awaitable<void>;
using Values = std::span<std::byte>;

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

// What outlives the communicator until all that it has started has ended.
class Turns : public std::enable_shared_from_this<Turns> {
 public:
  explicit Turns(asio::io_context& io) : context(io) {}
  virtual ~Turns() = default;
  Turns(const Turns&) = delete;
  Turns& operator=(const Turns&) = delete;

  // `run` is called in the call's turn and may use what `this` has.
  void add(Call call, Deadline deadline, std::function<Step()> run, Communicator::Done done);
  void break_with(const Error& error);
  // The communicator goes: what is outstanding ends with cancelled.
  void leave();

 protected:
  // Ends what the operation in turn has started: nothing touches its values after that.
  virtual void on_break(const Error& error) = 0;
  // Says more about what broke this: the operation in turn ends with it, and all later ones.
  void broke_with(const Error& error) { broken_ = error; }
  [[nodiscard]] const std::optional<Error>& broken() const noexcept { return broken_; }
  [[nodiscard]] const Call& call() const noexcept { return waiting_.front().call; }
  [[nodiscard]] Deadline deadline() const noexcept { return waiting_.front().deadline; }
  [[nodiscard]] std::uint32_t sequence() const noexcept { return sequence_; }

  asio::io_context& context;

 private:
  struct Operation {
    Call call;
    Deadline deadline;
    std::function<Step()> run;  // Throws what the call is refused for.
    Communicator::Done done;
    std::unique_ptr<asio::steady_timer> timer{};  // While it waits for its turn.
  };
  void run_next();
  void finished(const std::exception_ptr& error);

  std::deque<Operation> waiting_;  // The first one runs.
  bool is_running_ = false;
  std::uint32_t sequence_ = 0;
  std::optional<Error> broken_;
};

// What a coroutine ended with.
[[nodiscard]] std::optional<Error> error_of(const std::exception_ptr& thrown);

}  // namespace causeway::collective
