// Owners of a stream and of an event.
//
// Shape:   a stream of its own, which does not wait for the process's default stream; an event that
//          marks a place in it. Work is queued in order and runs while the caller goes on.
// Units:   bytes.
// Errors:  io and the like with the driver's name for it. A queued piece of work that fails is
//          reported by a later call; an illegal address ends the device's context for good.
// Cost:    a stream some 10 us, a record 1 us, a copy's start 5 us.
// Threads: one at a time. The destructor waits for nothing: destroy a stream only once what it uses
//          may go, or synchronize() first.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "allocator/cuda/context.h"

namespace causeway {

class CudaEvent {
 public:
  explicit CudaEvent(std::shared_ptr<CudaContext> context, bool with_timing = false);
  CudaEvent(CudaEvent&& other) noexcept;
  CudaEvent& operator=(CudaEvent&&) = delete;
  ~CudaEvent();

  [[nodiscard]] cuda::Event handle() const noexcept { return event_; }
  [[nodiscard]] bool is_reached() const;  // True, too, if it was never recorded.
  void wait() const;                      // The calling thread sleeps; it does not spin.
  // Between two events with timing, both reached.
  [[nodiscard]] double seconds_since(const CudaEvent& start) const;

 private:
  std::shared_ptr<CudaContext> context_;
  cuda::Event event_ = nullptr;
};

class CudaStream {
 public:
  explicit CudaStream(std::shared_ptr<CudaContext> context);
  CudaStream(CudaStream&& other) noexcept;
  CudaStream& operator=(CudaStream&&) = delete;
  ~CudaStream();

  [[nodiscard]] cuda::Stream handle() const noexcept { return stream_; }
  [[nodiscard]] const CudaContext& context() const noexcept { return *context_; }

  // Between any two addresses that the device knows: its own, a peer's, pinned host memory.
  void copy(std::byte* to, const std::byte* from, std::size_t size_bytes);
  // From and to memory of the host, pinned or not, which must stay until the copy has run: the
  // driver may stage what is not pinned before this returns, and where the device reads it in place
  // (ATS, HMM) it does not.
  void copy_in(std::byte* to_device, const void* from_host, std::size_t size_bytes);
  void copy_out(void* to_host, const std::byte* from_device, std::size_t size_bytes);
  void fill(std::byte* to, unsigned char value, std::size_t size_bytes);
  void record(const CudaEvent& event);
  void wait_for(const CudaEvent& event);  // What is queued after this runs after the event.
  [[nodiscard]] bool is_idle() const;
  void synchronize() const;  // Blocks the calling thread.

 private:
  std::shared_ptr<CudaContext> context_;
  cuda::Stream stream_ = nullptr;
};

[[nodiscard]] inline cuda::DevicePtr device_address(const std::byte* at) noexcept {
  return reinterpret_cast<cuda::DevicePtr>(at);
}

}  // namespace causeway
