// Copies by one stream, in order, whose ends are told without a wait of the caller.
//
// Shape:   a stream, and one thread that waits for the copies' events in their order. Not a host
//          function of the driver: that one never runs once the context is broken, and an end that
//          is never told would hold its memory for ever.
// Units:   bytes.
// Errors:  `done` gets the driver's name for what went wrong (device_failed). What the driver
// refuses
//          ends that copy alone. Where the stream itself can no more be waited for, the context is
//          broken: all copies end with that error, the later ones too, and nobody may reuse what
//          they had touched.
// Cost:    a copy's start 5 us and its event 1 us, on the calling thread; its end is told some 20
// us
//          after it. A thread, from the first copy on, which sleeps.
// Threads: copy() on any; `done` on the lane's own, once, never inside copy(). The destructor waits
//          for what is under way.
// Source:  CUDA driver API reference, cuLaunchHostFunc, on what an error does to host functions.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "allocator/cuda/stream.h"

namespace causeway {

class CudaCopyLane {
 public:
  using Done = std::function<void(std::optional<Error> error)>;

  // `name` as shown by ps -L: at most 15 bytes.
  CudaCopyLane(std::shared_ptr<CudaContext> context, std::string name);
  ~CudaCopyLane();
  CudaCopyLane(const CudaCopyLane&) = delete;
  CudaCopyLane& operator=(const CudaCopyLane&) = delete;

  // Between any two addresses that the device knows: its own, a peer's of its island, pinned host
  // memory. Both stay until `done`.
  void copy(std::byte* to, const std::byte* from, std::size_t size_bytes, Done done);

  // Set once the context is broken.
  [[nodiscard]] std::optional<Error> failure() const;

 private:
  struct Entry {
    std::optional<CudaEvent> event;  // None: the stream alone can tell.
    bool is_queued = false;
    std::optional<Error> error;
    Done done;
  };
  void queue(Entry& entry, std::byte* to, const std::byte* from, std::size_t size_bytes);
  [[nodiscard]] CudaEvent take_event();
  void run();
  void end(Entry entry);
  [[nodiscard]] std::optional<Error> wait_for(const Entry& entry) noexcept;

  const std::shared_ptr<CudaContext> context_;
  const std::string name_;
  mutable std::mutex mutex_;
  CudaStream stream_;
  std::condition_variable changed_;
  std::deque<Entry> entries_;
  std::vector<CudaEvent> spare_;
  std::optional<Error> failure_;
  bool is_ending_ = false;
  std::thread thread_;
};

}  // namespace causeway
