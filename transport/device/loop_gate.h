// How another thread hands something to an event loop that may be destroyed meanwhile.
//
// Shape:   a service of the io_context. An Errand is work of that loop from its begin on, so run()
//          does not return before it is delivered, and the loop's destructor waits for it: so an
//          errand is only for what is sure to end, as a copy of a device is.
// Threads: begin() on the loop's thread or before it runs; deliver() on any.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>

namespace causeway {

class LoopGate final : public boost::asio::execution_context::service {
 public:
  using key_type = LoopGate;  // Boost looks services up by it.
  static inline boost::asio::execution_context::id id;

  class Errand {
   public:
    explicit Errand(boost::asio::io_context& loop);
    Errand(const Errand&) = delete;
    Errand& operator=(const Errand&) = delete;

    // Once. `function` runs, and is destroyed, on the loop's thread.
    void deliver(std::function<void()> function);

   private:
    LoopGate& gate_;
    std::optional<boost::asio::executor_work_guard<boost::asio::io_context::executor_type>> work_;
  };
  [[nodiscard]] static std::shared_ptr<Errand> begin(boost::asio::io_context& loop) {
    return std::make_shared<Errand>(loop);
  }

  explicit LoopGate(boost::asio::execution_context& loop) : service(loop) {}

 private:
  void shutdown() override;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t out_ = 0;
};

}  // namespace causeway
