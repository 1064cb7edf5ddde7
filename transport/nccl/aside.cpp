#include "transport/nccl/aside.h"

#include <pthread.h>

#include <condition_variable>
#include <system_error>

#include "allocator/error.h"

namespace causeway::nccl {

struct Aside::Ended {
  std::mutex mutex;
  std::condition_variable changed;
  bool is = false;

  bool wait_until(std::chrono::steady_clock::time_point limit) {
    std::unique_lock lock(mutex);
    return changed.wait_until(lock, limit, [this] { return is; });
  }
};

Aside::~Aside() {
  const auto limit = std::chrono::steady_clock::now() + patience_;
  for (auto& each : running_) {
    if (each.ended->wait_until(limit))
      each.thread.join();
    else
      each.thread.detach();
  }
}

void Aside::run(const std::string& name, std::function<void()> call) {
  const std::lock_guard lock(mutex_);
  std::erase_if(running_, [](Running& each) {
    if (!each.ended->wait_until({})) return false;
    each.thread.join();
    return true;
  });
  const auto ended = std::make_shared<Ended>();
  auto& place = running_.emplace_back(Running{std::thread(), ended});
  try {
    place.thread = std::thread([call = std::move(call), ended]() mutable {
      call();
      call = nullptr;  // What it owns goes here, before the thread counts as ended.
      const std::lock_guard done(ended->mutex);
      ended->is = true;
      ended->changed.notify_all();
    });
  } catch (const std::system_error& error) {
    running_.pop_back();
    throw Error(Errc::exhausted, "no thread for " + name + ": " + error.what());
  }
  ::pthread_setname_np(place.thread.native_handle(), name.substr(0, 15).c_str());
}

}  // namespace causeway::nccl
