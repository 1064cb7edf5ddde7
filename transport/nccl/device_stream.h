// What a communicator needs of a device: a queue in which things run one after the other.
//
// Shape:   whoever has a device gives the body (for CUDA: a stream, an event and some memory); one
//          communicator uses it at a time. Addresses are the device's.
// Errors:  each call throws Error (io) if the device refuses, and then the communicator is broken.
// Cost:    no call waits for what is in the queue.
// Threads: the communicator's; make_current() on another, while no other call is made.
#pragma once

#include <cstddef>
#include <span>

namespace causeway {

class DeviceStream {
 public:
  virtual ~DeviceStream() = default;
  DeviceStream() = default;
  DeviceStream(const DeviceStream&) = delete;
  DeviceStream& operator=(const DeviceStream&) = delete;

  // Makes its device the calling thread's: NCCL takes the one that is current.
  virtual void make_current() = 0;
  // The cudaStream_t.
  [[nodiscard]] virtual void* handle() const noexcept = 0;
  // Device memory of at least `size_bytes`, the same at each call that asks for no more; lives as
  // long as the stream.
  [[nodiscard]] virtual std::span<std::byte> scratch(std::size_t size_bytes) = 0;
  // Queues a copy between places of the device's memory that do not overlap.
  virtual void copy(std::span<std::byte> to, std::span<const std::byte> from) = 0;
  // Queues a mark, and forgets the one before.
  virtual void mark() = 0;
  // True once all before the mark has run.
  [[nodiscard]] virtual bool is_reached() = 0;
};

}  // namespace causeway
