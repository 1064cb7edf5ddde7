// Runs a function in a child process that may hang or crash, such as one that calls a driver.
//
// Shape:   what the function writes into a SharedReport is seen here, also if the child came to a
//          bad end. The child ends with the call, or with the time limit.
// Errors:  none: a ChildEnd says how it went.
// Cost:    one fork() and the function's time.
// Threads: any. The child has the calling thread alone and keeps no descriptor of the caller's but
//          those of NVIDIA's driver; the caller sees a SIGCHLD. A process that uses a CUDA driver
//          cannot ask it in such a child.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <new>

namespace causeway {

struct ChildEnd {
  enum class How : std::uint8_t {
    by_itself,  // As far as can be told: a caller that ignores SIGCHLD learns nothing of a crash.
    timed_out,
    crashed,   // By signal `code`.
    no_child,  // `code` is an errno.
  };
  How how = How::by_itself;
  int code = 0;
};

// `name`: what the child is called, 15 characters at most.
[[nodiscard]] ChildEnd run_guarded(const char* name, const std::function<void()>& function,
                                   std::chrono::milliseconds timeout);
// The limit is asked for again once it is over: what the child has found may have raised it.
[[nodiscard]] ChildEnd run_guarded(const char* name, const std::function<void()>& function,
                                   const std::function<std::chrono::milliseconds()>& timeout);

// Zeroed memory that a child shares.
class SharedPages {
 public:
  explicit SharedPages(std::size_t size_bytes);
  SharedPages(const SharedPages&) = delete;
  SharedPages& operator=(const SharedPages&) = delete;
  ~SharedPages();
  [[nodiscard]] void* get() const noexcept { return at_; }  // Null if there is no memory.

 private:
  std::size_t size_bytes_;
  void* at_;
};

// One T of plain fields in such memory.
template <typename T>
class SharedReport {
 public:
  SharedReport() : pages_(sizeof(T)) {
    if (pages_.get() != nullptr) report_ = ::new (pages_.get()) T{};
  }
  [[nodiscard]] T* get() const noexcept { return report_; }  // Null if there is no memory.

 private:
  SharedPages pages_;
  T* report_ = nullptr;
};

}  // namespace causeway
