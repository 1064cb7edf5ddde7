#include "transport/collective/turns.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>

namespace causeway::collective {

void Turns::add(Call call, Deadline deadline, std::function<Step()> run, Communicator::Done done) {
  // A refused call takes its turn all the same: the other ranks count their calls, too.
  if (!call.refused_for.empty()) run = [error = call.refusal()]() -> Step { throw Error(error); };
  Operation operation{std::move(call), deadline, std::move(run), std::move(done)};
  if (is_running_) {
    operation.timer = std::make_unique<asio::steady_timer>(context, deadline);
    operation.timer->async_wait([self = shared_from_this(), kind = operation.call.kind](
                                    const boost::system::error_code& cancelled) {
      if (!cancelled) self->break_with(missed_turn(kind));
    });
  }
  waiting_.push_back(std::move(operation));
  if (std::exchange(is_running_, true)) return;
  asio::post(context, [self = shared_from_this()] { self->run_next(); });  // Never inside the call.
}

void Turns::run_next() {
  is_running_ = !waiting_.empty();
  if (!is_running_) return;
  ++sequence_;
  waiting_.front().timer.reset();
  asio::co_spawn(
      context,
      // The parameter keeps this alive in the coroutine; a capture would not live long enough.
      [](std::shared_ptr<Turns> self) -> Step {
        if (self->broken_) throw Error(*self->broken_);
        co_await self->waiting_.front().run();
      }(shared_from_this()),
      [self = shared_from_this()](const std::exception_ptr& error) { self->finished(error); });
}

void Turns::finished(const std::exception_ptr& error) {
  auto operation = std::move(waiting_.front());
  waiting_.pop_front();
  auto failed = error_of(error);
  if (failed) {
    if (operation.call.refused_for.empty()) break_with(*failed);
    if (broken_) failed = broken_;
  }
  run_next();
  operation.done(std::move(failed));
}

void Turns::break_with(const Error& error) {
  if (broken_) return;
  broken_ = error;
  on_break(error);
}

void Turns::leave() {
  const Error gone(Errc::cancelled, "the communicator is gone");
  if (!waiting_.empty()) return break_with(gone);
  broken_ = gone;  // What carries it may have other uses.
}

std::optional<Error> error_of(const std::exception_ptr& thrown) {
  if (!thrown) return std::nullopt;
  try {
    std::rethrow_exception(thrown);
  } catch (const Error& error) {
    return error;
  } catch (const std::exception& error) {
    return Error(Errc::internal, error.what());
  }
}

}  // namespace causeway::collective
