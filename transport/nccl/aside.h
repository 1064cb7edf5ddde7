// Calls that may block, or never return, on threads of their own.
//
// Shape:   one thread per call. They are few: a communicator's begin and its end.
// Errors:  exhausted (no thread to be had).
// Cost:    a thread, as long as the call takes.
// Threads: any. The destructor waits for what runs, but not for ever: what has not returned then is
//          left behind, so a call owns all that it touches.
#pragma once

#include <chrono>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

namespace causeway::nccl {

class Aside {
 public:
  explicit Aside(std::chrono::milliseconds patience) : patience_(patience) {}
  ~Aside();
  Aside(const Aside&) = delete;
  Aside& operator=(const Aside&) = delete;

  // `name` as shown by ps -L: at most 15 bytes. `call` does not throw.
  void run(const std::string& name, std::function<void()> call);

 private:
  struct Ended;
  struct Running {
    std::thread thread;
    std::shared_ptr<Ended> ended;
  };
  const std::chrono::milliseconds patience_;
  std::mutex mutex_;
  std::list<Running> running_;
};

}  // namespace causeway::nccl
