#include "transport/blocking.h"

#include <pthread.h>

#include <utility>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <exception>
#include <future>
#include <thread>

namespace causeway {

struct IoThread::State {
  std::string name;
  boost::asio::io_context context{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work{
      context.get_executor()};
  std::thread thread;

  void refuse_own_thread(const char* what) const {
    if (std::this_thread::get_id() != thread.get_id()) return;
    throw Error(Errc::internal, std::string(what) + " on thread '" + name +
                                    "' itself would wait for itself; call the function directly");
  }
};

namespace {

// What the thread hands to the one who waits. Errors cross as a code and a text, not as objects:
// copies of one exception share their text, and its last owner should not be left to chance.
struct Outcome {
  std::optional<Errc> code;
  std::string text;
  std::exception_ptr foreign;  // Anything that is no Error.
  std::uint64_t bytes = 0;

  void set_error(const Error& error) {
    code = error.code();
    text = error.what();
  }
  void set_current_exception() {
    try {
      throw;
    } catch (const Error& error) {
      set_error(error);
    } catch (...) {
      foreign = std::current_exception();
    }
  }
};

using OutcomePromise = std::shared_ptr<std::promise<Outcome>>;

std::uint64_t get(std::future<Outcome>& result, const std::string& name) {
  try {
    auto outcome = result.get();
    if (outcome.code) throw Error(*outcome.code, outcome.text);
    if (outcome.foreign) std::rethrow_exception(std::move(outcome.foreign));
    return outcome.bytes;
  } catch (const std::future_error&) {
    // A promise dies unfulfilled when its operation was destroyed with the thread's queue.
    throw Error(Errc::cancelled, "the operation on thread '" + name + "' was dropped unfinished");
  }
}

}  // namespace

IoThread::IoThread(std::string name) : state_(std::make_unique<State>()) {
  if (name.empty() || name.size() > 15)
    throw Error(Errc::invalid_argument, "thread name '" + name + "' has " +
                                            std::to_string(name.size()) +
                                            " bytes; the kernel takes 1 to 15");
  state_->name = std::move(name);
  state_->thread = std::thread([state = state_.get()] {
    pthread_setname_np(pthread_self(), state->name.c_str());
    state->context.run();
  });
}

IoThread::~IoThread() {
  // What was posted before this runs first: the queue is in order.
  boost::asio::post(state_->context, [state = state_.get()] {
    state->work.reset();
    state->context.stop();
  });
  state_->thread.join();
}

boost::asio::io_context& IoThread::context() noexcept { return state_->context; }

void IoThread::run_on(const std::function<void()>& function) {
  state_->refuse_own_thread("run_on()");
  const OutcomePromise promise = std::make_shared<std::promise<Outcome>>();
  auto result = promise->get_future();
  boost::asio::post(state_->context, [&function, promise] {
    Outcome outcome;
    try {
      function();
    } catch (...) {
      outcome.set_current_exception();
    }
    promise->set_value(std::move(outcome));
  });
  get(result, state_->name);
}

std::uint64_t IoThread::wait_for(const std::function<void(Completion done)>& start) {
  state_->refuse_own_thread("wait_for()");
  OutcomePromise promise = std::make_shared<std::promise<Outcome>>();
  auto result = promise->get_future();
  boost::asio::post(state_->context, [&start, promise = std::move(promise)] {
    try {
      start([promise](const std::optional<Error>& error, std::uint64_t bytes) {
        Outcome outcome;
        outcome.bytes = bytes;
        if (error) outcome.set_error(*error);
        promise->set_value(std::move(outcome));
      });
    } catch (...) {
      Outcome outcome;
      outcome.set_current_exception();
      promise->set_value(std::move(outcome));
    }
  });
  return get(result, state_->name);
}

}  // namespace causeway
