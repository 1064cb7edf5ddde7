#include "transport/device/loop_gate.h"

#include <boost/asio/post.hpp>

namespace causeway {

LoopGate::Errand::Errand(boost::asio::io_context& loop)
    : gate_(boost::asio::use_service<LoopGate>(loop)), work_(loop.get_executor()) {
  const std::lock_guard lock(gate_.mutex_);
  ++gate_.out_;
}

void LoopGate::Errand::deliver(std::function<void()> function) {
  const std::lock_guard lock(gate_.mutex_);
  boost::asio::post(work_->get_executor(), std::move(function));
  work_.reset();
  --gate_.out_;
  gate_.changed_.notify_all();  // With the lock: the gate goes as soon as it is free.
}

void LoopGate::shutdown() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return out_ == 0; });
}

}  // namespace causeway
