// Carries operations from any thread to a transport's thread and waits for them there.
//
// Shape:   an IoThread owns an io_context and the one thread that runs it; run_on() executes a
//          function there and returns what it returned; wait_for() starts an asynchronous operation
//          there and waits for its completion.
// Errors:  what the function or the operation threw or completed with is thrown to the caller.
// Cost:    two thread hand-overs, 10 to 50 us. Callers with much to move submit batches.
// Threads: any thread but the IoThread's own (that would wait for itself; it throws internal).
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "transport/channel.h"

namespace causeway {

class IoThread {
 public:
  explicit IoThread(std::string name);  // As shown by ps -L: at most 15 bytes.
  ~IoThread();                          // Runs what is posted, then stops and joins.
  IoThread(const IoThread&) = delete;
  IoThread& operator=(const IoThread&) = delete;

  [[nodiscard]] boost::asio::io_context& context() noexcept;

  void run_on(const std::function<void()>& function);

  // `start` runs on the thread and must arrange for `done` to be called once, there.
  // Returns the completion's byte count.
  std::uint64_t wait_for(const std::function<void(Completion done)>& start);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace causeway
