// A stream's queue of work and the thread that does it.
//
// Shape:   a Line is one thread and the pieces of work it was given, in order; a Ticket is a place
//          in a line. A piece that touches what it may not ends there, and the line's owner hears
//          of it; the pieces after it are skipped.
// Threads: any may add and wait. A line's thread is detached and ends when the line is closed and
//          empty: a process may exit in the middle of a kernel, as with the real driver.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

namespace causeway::emulator {

class Line {
 public:
  // `broken` says whether pieces are still to be run; `fault` hears of one that was cut off.
  struct Owner {
    std::function<bool()> broken;
    std::function<void()> fault;
  };

  static std::shared_ptr<Line> start(Owner owner);

  std::uint64_t add(std::function<void()> work);  // Returns its number, from 1.
  void close();
  void wait(std::uint64_t number);
  [[nodiscard]] bool is_done(std::uint64_t number);
  [[nodiscard]] std::uint64_t last();  // The number of the piece that was added last; 0: none.

 private:
  explicit Line(Owner owner) : owner_(std::move(owner)) {}
  void run();

  Owner owner_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> waiting_;
  std::uint64_t added_ = 0;
  std::uint64_t done_ = 0;
  bool closed_ = false;
};

struct Ticket {
  std::shared_ptr<Line> line;
  std::uint64_t number = 0;
  void wait() const {
    if (line) line->wait(number);
  }
  [[nodiscard]] bool is_done() const { return !line || line->is_done(number); }
};

// From the driver's start on: faults of lines' threads come back here, others go where they went.
void catch_faults();
// True on a line's thread.
[[nodiscard]] bool is_on_line() noexcept;

// The protection key of devices' memory, which only lines' threads may touch; -1: none to be had.
void make_device_key();
[[nodiscard]] int device_key() noexcept;
// mprotect() with that key or none. A kernel without protection keys knows not even key 0.
[[nodiscard]] bool protect(void* at, std::size_t size_bytes, int protection, bool is_hidden);

}  // namespace causeway::emulator
