// Copies and fills: checked when they are queued, done on the stream's thread.
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

// `host_to`, `host_from`: that side may be memory which the driver does not know.
em::Ticket queue_copy(DevicePtr to, DevicePtr from, std::size_t size, Stream stream, bool host_to,
                      bool host_from) {
  if (size == 0) return {};
  const auto& config = em::config();
  const int device = stream != nullptr ? 0 : em::current()->device;
  em::Found target;
  em::Found source;
  {
    const std::lock_guard lock(em::world().mutex);
    require(stream == nullptr || em::world().streams.contains(stream), kInvalidHandle);
    const int own = stream != nullptr ? stream->context->device : device;
    target = em::find_range(own, to, size, kAccessReadWrite);
    source = em::find_range(own, from, size, kAccessRead);
  }
  require(host_to || target.place != Place::nowhere);
  require(host_from || source.place != Place::nowhere);
  const bool on_devices = target.place == Place::device && source.place == Place::device;
  const bool is_peer = on_devices && target.device != source.device;
  const auto rate = !on_devices ? config.host_bytes_per_s
                    : is_peer   ? config.peer_bytes_per_s
                                : config.device_bytes_per_s;
  const bool is_lost = is_peer && !config.peers_work;
  return em::enqueue(stream, [=] {
    if (is_lost)
      std::memset(pointer(to), 0xee, size);
    else
      std::memmove(pointer(to), pointer(from), size);
    em::pace(size, rate);
  });
}

em::Ticket queue_fill(DevicePtr to, unsigned char value, std::size_t size, Stream stream) {
  if (size == 0) return {};
  {
    const std::lock_guard lock(em::world().mutex);
    require(stream == nullptr || em::world().streams.contains(stream), kInvalidHandle);
    const int own = stream != nullptr ? stream->context->device : em::current()->device;
    require(em::find_range(own, to, size, kAccessReadWrite).place != Place::nowhere);
  }
  return em::enqueue(stream, [=] { std::memset(pointer(to), value, size); });
}

void finish(const em::Ticket& ticket) {
  ticket.wait();
  em::report_sticky(*em::current());
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
  return run_call("cuMemcpyDtoD", Needs::context,
                  [&] { finish(queue_copy(to, from, size, nullptr, false, false)); });
}

Result cuMemcpy(DevicePtr to, DevicePtr from, std::size_t size) {
  return run_call("cuMemcpy", Needs::context,
                  [&] { finish(queue_copy(to, from, size, nullptr, true, true)); });
}

Result cuMemcpyAsync(DevicePtr to, DevicePtr from, std::size_t size, Stream stream) {
  return run_call("cuMemcpyAsync", Needs::context,
                  [&] { (void)queue_copy(to, from, size, stream, true, true); });
}

// From and to pageable memory the call is as good as synchronous.
Result cuMemcpyHtoDAsync_v2(DevicePtr to, const void* from, std::size_t size, Stream stream) {
  return run_call("cuMemcpyHtoDAsync", Needs::context, [&] {
    const auto ticket = queue_copy(to, number(from), size, stream, false, true);
    std::unique_lock lock(em::world().mutex);
    const bool is_known =
        size == 0 || em::find_range(0, number(from), size, 0).place != Place::nowhere;
    lock.unlock();
    if (!is_known) ticket.wait();
  });
}

Result cuMemcpyDtoHAsync_v2(void* to, DevicePtr from, std::size_t size, Stream stream) {
  return run_call("cuMemcpyDtoHAsync", Needs::context,
                  [&] { (void)queue_copy(number(to), from, size, stream, true, false); });
}

Result cuMemcpyDtoDAsync_v2(DevicePtr to, DevicePtr from, std::size_t size, Stream stream) {
  return run_call("cuMemcpyDtoDAsync", Needs::context,
                  [&] { (void)queue_copy(to, from, size, stream, false, false); });
}

Result cuMemsetD8_v2(DevicePtr to, unsigned char value, std::size_t count) {
  return run_call("cuMemsetD8", Needs::context,
                  [&] { finish(queue_fill(to, value, count, nullptr)); });
}

Result cuMemsetD8Async(DevicePtr to, unsigned char value, std::size_t size, Stream stream) {
  return run_call("cuMemsetD8Async", Needs::context,
                  [&] { (void)queue_fill(to, value, size, stream); });
}

}  // namespace causeway::cuda
}
