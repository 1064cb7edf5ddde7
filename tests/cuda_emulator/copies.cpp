// Copies and fills: checked when they are queued, done on the stream's thread.
#include <algorithm>
#include <cstring>

#include "tests/cuda_emulator/exports.h"
#include "tests/cuda_emulator/state.h"

using namespace causeway::cuda;
namespace em = causeway::emulator;
using em::Needs;
using em::Place;
using em::require;
using em::run_call;

namespace {

void* pointer(DevicePtr at) { return reinterpret_cast<void*>(at); }
DevicePtr number(const void* at) { return reinterpret_cast<DevicePtr>(at); }

// A rectangle; a plain copy has one row.
struct Shape {
  std::size_t width = 0;
  std::size_t height = 1;
  std::size_t to_pitch = 0;
  std::size_t from_pitch = 0;
  [[nodiscard]] std::size_t extent(std::size_t pitch) const { return (height - 1) * pitch + width; }
};

int device_of(Stream stream) { return em::context_of(em::resolve(stream)).device; }

// `host_to`, `host_from`: that side may be memory which the driver does not know.
em::Ticket queue_copy(DevicePtr to, DevicePtr from, const Shape& shape, Stream stream, bool host_to,
                      bool host_from) {
  if (shape.width == 0 || shape.height == 0) return {};
  const auto& config = em::config();
  em::Found target;
  em::Found source;
  {
    const std::lock_guard lock(em::world().mutex);
    const int own = device_of(stream);
    target = em::find_range(own, to, shape.extent(shape.to_pitch), kAccessReadWrite);
    source = em::find_range(own, from, shape.extent(shape.from_pitch), kAccessRead);
  }
  require(host_to || target.place != Place::nowhere);
  require(host_from || source.place != Place::nowhere);
  const bool on_devices = target.place == Place::device && source.place == Place::device;
  const bool is_peer = on_devices && target.device != source.device;
  const auto rate = !on_devices ? config.host_bytes_per_s
                    : is_peer   ? config.peer_bytes_per_s
                                : config.device_bytes_per_s;
  const bool is_lost = is_peer && !config.peers_work;
  return em::enqueue(stream, kNodeCopy, [=] {
    for (std::size_t row = 0; row < shape.height; ++row) {
      void* const at = pointer(to + row * shape.to_pitch);
      if (is_lost)
        std::memset(at, 0xee, shape.width);
      else
        std::memmove(at, pointer(from + row * shape.from_pitch), shape.width);
    }
    em::pace(shape.width * shape.height, rate);
  });
}

em::Ticket queue_copy(DevicePtr to, DevicePtr from, std::size_t size, Stream stream, bool host_to,
                      bool host_from) {
  return queue_copy(to, from, Shape{size}, stream, host_to, host_from);
}

template <typename Value>
em::Ticket queue_fill(DevicePtr to, Value value, std::size_t count, Stream stream) {
  require(to % sizeof value == 0);
  if (count == 0) return {};
  require(count <= ~std::size_t{0} / sizeof value);
  {
    const std::lock_guard lock(em::world().mutex);
    require(em::find_range(device_of(stream), to, count * sizeof value, kAccessReadWrite).place !=
            Place::nowhere);
  }
  return em::enqueue(stream, kNodeFill,
                     [=] { std::fill_n(static_cast<Value*>(pointer(to)), count, value); });
}

// Whether the driver does not know the memory: copies by it end before they return, but for a
// device that reads it in place.
bool is_pageable(DevicePtr at, std::size_t size) {
  if (em::config().reads_in_place) return false;
  auto& w = em::world();
  const std::lock_guard lock(w.mutex);
  if (size == 0 || em::find_block(at) != w.blocks.end()) return false;
  const auto range = w.reservations.upper_bound(at);
  return range == w.reservations.begin() ||
         at - std::prev(range)->first >= std::prev(range)->second;
}

// One side of a copy in two dimensions, checked as far as the arguments go.
DevicePtr corner(int type, const void* host, DevicePtr device, std::size_t pitch, std::size_t x,
                 std::size_t y, const Copy2d& copy) {
  require(type == kMemoryHost || type == kMemoryDevice || type == kMemoryUnified);
  require(pitch == 0 ? copy.height <= 1 && y == 0 : copy.width + x <= pitch);
  const auto start = type == kMemoryHost ? number(host) : device;
  require(start != 0);
  return start + y * pitch + x;
}

em::Ticket queue_copy2d(const Copy2d* copy, Stream stream, bool& is_plain_host) {
  require(copy != nullptr);
  if (copy->width == 0 || copy->height == 0) return {};
  const auto from = corner(copy->from_type, copy->from_host, copy->from_device, copy->from_pitch,
                           copy->from_x, copy->from_y, *copy);
  const auto to = corner(copy->to_type, copy->to_host, copy->to_device, copy->to_pitch, copy->to_x,
                         copy->to_y, *copy);
  const bool host_from = copy->from_type != kMemoryDevice;
  const bool host_to = copy->to_type != kMemoryDevice;
  const Shape shape{copy->width, copy->height, copy->to_pitch, copy->from_pitch};
  is_plain_host = (host_from && is_pageable(from, shape.extent(shape.from_pitch))) ||
                  (host_to && is_pageable(to, shape.extent(shape.to_pitch)));
  return queue_copy(to, from, shape, stream, host_to, host_from);
}

void check_contexts(Context to, Context from) {
  require(to != nullptr && from != nullptr, kInvalidContext);
  require(to->holders > 0 && from->holders > 0, kInvalidContext);
}

void finish(const em::Ticket& ticket) {
  ticket.wait();
  em::report_sticky(*em::current());
}

// The calling thread waits only where the host has a part in it.
void finish(const em::Ticket& ticket, DevicePtr to, DevicePtr from, std::size_t size) {
  bool is_on_devices = false;
  {
    const std::lock_guard lock(em::world().mutex);
    const int own = em::current()->device;
    is_on_devices = size > 0 && em::find_range(own, to, size, 0).place == Place::device &&
                    em::find_range(own, from, size, 0).place == Place::device;
  }
  if (!is_on_devices) finish(ticket);
}

}  // namespace

extern "C" {
namespace causeway::cuda {

Result cuMemcpyHtoD_v2(DevicePtr to, const void* from, std::size_t size) {
  return run_call("cuMemcpyHtoD", Needs::context,
                  [&] { finish(queue_copy(to, number(from), size, nullptr, false, true)); });
}

Result cuMemcpyDtoH_v2(void* to, DevicePtr from, std::size_t size) {
  return run_call("cuMemcpyDtoH", Needs::context,
                  [&] { finish(queue_copy(number(to), from, size, nullptr, true, false)); });
}

Result cuMemcpyDtoD_v2(DevicePtr to, DevicePtr from, std::size_t size) {
  return run_call("cuMemcpyDtoD", Needs::context, [&] {
    finish(queue_copy(to, from, size, nullptr, false, false), to, from, size);
  });
}

Result cuMemcpy(DevicePtr to, DevicePtr from, std::size_t size) {
  return run_call("cuMemcpy", Needs::context,
                  [&] { finish(queue_copy(to, from, size, nullptr, true, true), to, from, size); });
}

Result cuMemcpyAsync(DevicePtr to, DevicePtr from, std::size_t size, Stream stream) {
  return run_call("cuMemcpyAsync", Needs::context, [&] {
    const auto ticket = queue_copy(to, from, size, stream, true, true);
    if (is_pageable(to, size) || is_pageable(from, size)) ticket.wait();
  });
}

Result cuMemcpyHtoDAsync_v2(DevicePtr to, const void* from, std::size_t size, Stream stream) {
  return run_call("cuMemcpyHtoDAsync", Needs::context, [&] {
    const auto ticket = queue_copy(to, number(from), size, stream, false, true);
    if (is_pageable(number(from), size)) ticket.wait();
  });
}

Result cuMemcpyDtoHAsync_v2(void* to, DevicePtr from, std::size_t size, Stream stream) {
  return run_call("cuMemcpyDtoHAsync", Needs::context, [&] {
    const auto ticket = queue_copy(number(to), from, size, stream, true, false);
    if (is_pageable(number(to), size)) ticket.wait();
  });
}

Result cuMemcpyDtoDAsync_v2(DevicePtr to, DevicePtr from, std::size_t size, Stream stream) {
  return run_call("cuMemcpyDtoDAsync", Needs::context,
                  [&] { (void)queue_copy(to, from, size, stream, false, false); });
}

Result cuMemcpyPeer(DevicePtr to, Context to_context, DevicePtr from, Context from_context,
                    std::size_t size) {
  return run_call("cuMemcpyPeer", Needs::context, [&] {
    check_contexts(to_context, from_context);
    finish(queue_copy(to, from, size, nullptr, false, false), to, from, size);
  });
}

Result cuMemcpyPeerAsync(DevicePtr to, Context to_context, DevicePtr from, Context from_context,
                         std::size_t size, Stream stream) {
  return run_call("cuMemcpyPeerAsync", Needs::context, [&] {
    check_contexts(to_context, from_context);
    (void)queue_copy(to, from, size, stream, false, false);
  });
}

Result cuMemcpy2D_v2(const Copy2d* copy) {
  return run_call("cuMemcpy2D", Needs::context, [&] {
    bool is_plain_host = false;
    finish(queue_copy2d(copy, nullptr, is_plain_host));
  });
}

// Here no pitch is too odd for the other one either.
Result cuMemcpy2DUnaligned_v2(const Copy2d* copy) {
  return run_call("cuMemcpy2DUnaligned", Needs::context, [&] {
    bool is_plain_host = false;
    finish(queue_copy2d(copy, nullptr, is_plain_host));
  });
}

Result cuMemcpy2DAsync_v2(const Copy2d* copy, Stream stream) {
  return run_call("cuMemcpy2DAsync", Needs::context, [&] {
    bool is_plain_host = false;
    const auto ticket = queue_copy2d(copy, stream, is_plain_host);
    if (is_plain_host) ticket.wait();
  });
}

#define CAUSEWAY_FILLS(bits, Value)                                                            \
  Result cuMemsetD##bits##_v2(DevicePtr to, Value value, std::size_t count) {                  \
    return run_call("cuMemsetD" #bits, Needs::context, [&] {                                   \
      finish(queue_fill(to, value, count, nullptr), to, to, count * sizeof value);             \
    });                                                                                        \
  }                                                                                            \
  Result cuMemsetD##bits##Async(DevicePtr to, Value value, std::size_t count, Stream stream) { \
    return run_call("cuMemsetD" #bits "Async", Needs::context,                                 \
                    [&] { (void)queue_fill(to, value, count, stream); });                      \
  }
CAUSEWAY_FILLS(8, unsigned char)
CAUSEWAY_FILLS(16, unsigned short)
CAUSEWAY_FILLS(32, unsigned)

}  // namespace causeway::cuda
}
