#include "tests/cuda_emulator/work.h"

#include <pthread.h>
#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <csetjmp>
#include <csignal>
#include <thread>

#include "tests/cuda_emulator/config.h"

namespace causeway::emulator {

namespace {

thread_local bool on_line = false;
thread_local volatile sig_atomic_t guarded = 0;
thread_local sigjmp_buf way_out;
std::atomic<int> key{-1};
struct sigaction old_segv {};
struct sigaction old_bus {};

void open_device_memory() {
  if (key >= 0) ::pkey_set(key, 0);
}

void pass_on(int number, siginfo_t* info, void* context) {
  const auto& old = number == SIGSEGV ? old_segv : old_bus;
  if ((old.sa_flags & SA_SIGINFO) != 0 && old.sa_sigaction != nullptr)
    return old.sa_sigaction(number, info, context);
  if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN) return old.sa_handler(number);
  std::signal(number, SIG_DFL);  // The access happens again and ends the process.
}

void on_fault(int number, siginfo_t* info, void* context) {
  if (guarded == 0) return pass_on(number, info, context);
  guarded = 0;
  siglongjmp(way_out, 1);
}

// False if the piece was cut off.
bool run_guarded(const std::function<void()>& work) {
  if (sigsetjmp(way_out, 1) != 0) {
    open_device_memory();  // A signal closes it.
    return false;
  }
  guarded = 1;
  work();
  guarded = 0;
  return true;
}

}  // namespace

void catch_faults() {
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
  ::sigaction(SIGSEGV, &action, &old_segv);
  ::sigaction(SIGBUS, &action, &old_bus);
}

bool is_on_line() noexcept { return on_line; }

void make_device_key() {
  if (config().hide_memory) key = ::pkey_alloc(0, PKEY_DISABLE_ACCESS);
}

int device_key() noexcept { return key; }

bool protect(void* at, std::size_t size_bytes, int protection, bool is_hidden) {
  if (key < 0) return ::mprotect(at, size_bytes, protection) == 0;
  return ::pkey_mprotect(at, size_bytes, protection, is_hidden ? key.load() : 0) == 0;
}

std::shared_ptr<Line> Line::start(Owner owner) {
  std::shared_ptr<Line> line(new Line(std::move(owner)));
  std::thread([line] {
    ::pthread_setname_np(::pthread_self(), "cuda-stream");
    line->run();
  }).detach();
  return line;
}

std::uint64_t Line::add(std::function<void()> work) {
  const std::lock_guard lock(mutex_);
  waiting_.push_back(std::move(work));
  changed_.notify_all();
  return ++added_;
}

void Line::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

void Line::wait(std::uint64_t number) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return done_ >= number; });
}

bool Line::is_done(std::uint64_t number) {
  const std::lock_guard lock(mutex_);
  return done_ >= number;
}

std::uint64_t Line::last() {
  const std::lock_guard lock(mutex_);
  return added_;
}

void Line::run() {
  on_line = true;
  open_device_memory();
  for (;;) {
    std::function<void()> work;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return closed_ || !waiting_.empty(); });
      if (waiting_.empty()) return;
      work = std::move(waiting_.front());
      waiting_.pop_front();
    }
    if (config().stream_delay_us > 0)
      std::this_thread::sleep_for(std::chrono::microseconds(config().stream_delay_us));
    if (!owner_.broken() && !run_guarded(work)) owner_.fault();
    work = nullptr;
    const std::lock_guard lock(mutex_);
    ++done_;
    changed_.notify_all();
  }
}

}  // namespace causeway::emulator
