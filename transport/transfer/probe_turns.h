// One slice of a probe at a time in a process's thread: two would measure each other.
//
// Shape:   a service of the io_context. Who gets no turn is called when it is free again, in order;
//          a slice that has had no answer for kSliceLimit loses its turn.
// Cost:    constant.
// Threads: the io_context's.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <utility>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

namespace causeway {

constexpr auto kSliceLimit = std::chrono::milliseconds(100);  // Then nothing waits for a slice.

class ProbeTurns : public boost::asio::execution_context::service {
 public:
  using Clock = std::chrono::steady_clock;
  using Turn = std::uint64_t;
  static inline boost::asio::execution_context::id id;

  explicit ProbeTurns(boost::asio::io_context& context)
      : boost::asio::execution_context::service(context), context_(context), limit_(context) {}

  // 0: it is another one's, and `when_free` will be called, not inside of the call.
  [[nodiscard]] Turn take(std::function<void()> when_free) {
    if (current_ != 0 && Clock::now() - taken_at_ < kSliceLimit) {
      waiting_.push_back(std::move(when_free));
      watch_limit();
      return 0;
    }
    taken_at_ = Clock::now();
    return current_ = next_++;
  }
  void give_back(Turn turn) {
    if (turn != current_) return;  // It took so long that another one has it.
    current_ = 0;
    if (!waiting_.empty()) boost::asio::post(context_, [this] { call_next(); });
  }

 private:
  void shutdown() override { waiting_.clear(); }
  // Nobody else would tell those who wait.
  void watch_limit() {
    if (std::exchange(is_watching_, true)) return;
    limit_.expires_at(taken_at_ + kSliceLimit);
    limit_.async_wait([this](const boost::system::error_code& stopped) {
      is_watching_ = false;
      if (stopped || waiting_.empty()) return;
      if (Clock::now() - taken_at_ >= kSliceLimit) current_ = 0;
      if (current_ != 0) return watch_limit();  // A later one's.
      call_next();
    });
  }
  void call_next() {  // Until one has taken it.
    while (current_ == 0 && !waiting_.empty()) {
      const auto when_free = std::move(waiting_.front());
      waiting_.pop_front();
      when_free();
    }
  }

  boost::asio::io_context& context_;
  Turn current_ = 0;
  Turn next_ = 1;
  Clock::time_point taken_at_{};
  boost::asio::steady_timer limit_;
  bool is_watching_ = false;
  std::deque<std::function<void()>> waiting_;
};

}  // namespace causeway
