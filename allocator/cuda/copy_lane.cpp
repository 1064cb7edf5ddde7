#include "allocator/cuda/copy_lane.h"

#include <pthread.h>

#include <system_error>
#include <utility>

namespace causeway {

namespace {

Error as_device_failure(const Error& error) { return {Errc::device_failed, error.what()}; }

}  // namespace

CudaCopyLane::CudaCopyLane(std::shared_ptr<CudaContext> context, std::string name)
    : context_(std::move(context)), name_(std::move(name)), stream_(context_) {}

CudaCopyLane::~CudaCopyLane() {
  {
    const std::lock_guard lock(mutex_);
    is_ending_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

std::optional<Error> CudaCopyLane::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

void CudaCopyLane::copy(std::byte* to, const std::byte* from, std::size_t size_bytes, Done done) {
  const std::lock_guard lock(mutex_);
  if (!thread_.joinable()) {
    try {
      thread_ = std::thread([this] { run(); });
    } catch (const std::system_error& error) {
      throw Error(Errc::exhausted, "no thread for " + name_ + ": " + error.what());
    }
    ::pthread_setname_np(thread_.native_handle(), name_.substr(0, 15).c_str());
  }
  auto& entry = entries_.emplace_back();
  entry.done = std::move(done);
  if (failure_)
    entry.error = failure_;
  else
    queue(entry, to, from, size_bytes);
  changed_.notify_all();
}

void CudaCopyLane::queue(Entry& entry, std::byte* to, const std::byte* from,
                         std::size_t size_bytes) {
  try {
    auto event = take_event();
    stream_.copy(to, from, size_bytes);
    entry.is_queued = true;
    stream_.record(event);
    entry.event.emplace(std::move(event));
  } catch (const Error& error) {
    // What has been queued runs: its end is the stream's to tell.
    if (!entry.is_queued) entry.error = as_device_failure(error);
  }
}

CudaEvent CudaCopyLane::take_event() {
  if (spare_.empty()) return CudaEvent(context_);
  auto event = std::move(spare_.back());
  spare_.pop_back();
  return event;
}

void CudaCopyLane::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return is_ending_ || !entries_.empty(); });
    if (entries_.empty()) return;
    auto entry = std::move(entries_.front());
    entries_.pop_front();
    lock.unlock();
    end(std::move(entry));
    lock.lock();
  }
}

void CudaCopyLane::end(Entry entry) {
  if (entry.is_queued) {
    entry.error = wait_for(entry);
    const std::lock_guard lock(mutex_);
    if (entry.error && !failure_) failure_ = entry.error;
    if (entry.event) spare_.push_back(std::move(*entry.event));
  }
  entry.done(std::move(entry.error));
}

// The stream has the last word: a wait for an event may fail for reasons of its own.
std::optional<Error> CudaCopyLane::wait_for(const Entry& entry) noexcept {
  const CudaContext::TryCurrent current(*context_);
  if (entry.event) {
    try {
      entry.event->wait();
      return std::nullopt;
    } catch (const Error&) {
    }
  }
  try {
    stream_.synchronize();
    return std::nullopt;
  } catch (const Error& error) {
    return as_device_failure(error);
  }
}

}  // namespace causeway
