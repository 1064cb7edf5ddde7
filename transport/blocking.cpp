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

// A promise dies unfulfilled when its operation was destroyed with the thread's queue.
template <typename T>
T get(std::future<T>& result, const std::string& name) {
  try {
    return result.get();
  } catch (const std::future_error&) {
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
  auto promise = std::make_shared<std::promise<void>>();
  auto result = promise->get_future();
  boost::asio::post(state_->context, [&function, promise = std::move(promise)] {
    try {
      function();
      promise->set_value();
    } catch (...) {
      promise->set_exception(std::current_exception());
    }
  });
  get(result, state_->name);
}

std::uint64_t IoThread::wait_for(const std::function<void(Completion done)>& start) {
  state_->refuse_own_thread("wait_for()");
  auto promise = std::make_shared<std::promise<std::uint64_t>>();
  auto result = promise->get_future();
  boost::asio::post(state_->context, [&start, promise = std::move(promise)] {
    try {
      start([promise](std::optional<Error> error, std::uint64_t bytes) {
        if (error)
          promise->set_exception(std::make_exception_ptr(std::move(*error)));
        else
          promise->set_value(bytes);
      });
    } catch (...) {
      promise->set_exception(std::current_exception());
    }
  });
  return get(result, state_->name);
}

}  // namespace causeway
