// Streams, what waits in them, and events.
#include <atomic>
#include <chrono>
#include <thread>
#include <type_traits>

#include "tests/cuda_emulator/exports.h"
#include "tests/cuda_emulator/state.h"

using namespace causeway::cuda;
namespace em = causeway::emulator;
using em::Needs;
using em::require;
using em::run_call;

namespace {

constexpr unsigned kEventInterprocess = 4;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// What a stream has queued so far, and its context. Nobody may ask while it is captured.
std::pair<em::Ticket, ContextTag*> end_of(Stream stream) {
  const std::lock_guard lock(em::world().mutex);
  const auto* const own = em::resolve(stream);
  auto& context = em::context_of(own);
  em::refuse_while_captured(own);
  const auto& line = own != nullptr ? own->line : context.default_line;
  return {{line, line->last()}, &context};
}

// An event as it is to be asked or waited for.
EventTag copy_of(Event event, bool is_unsafe = false) {
  auto& w = em::world();
  const std::lock_guard lock(w.mutex);
  require(w.events.contains(event), kInvalidHandle);
  if (event->capture) {
    em::break_capture(event->capture);
    throw em::Failure{kCapturedEvent};
  }
  if (is_unsafe) em::refuse_unsafe();
  return *event;
}

Stream open_stream(unsigned flags, int priority) {
  require(flags <= kStreamNonBlocking);
  auto& w = em::world();
  const std::lock_guard lock(w.mutex);
  auto made = em::make_stream(*em::current(), flags, priority);
  w.streams.insert(made.get());
  return made.release();
}

void record(Event event, Stream stream) {
  auto& w = em::world();
  {
    const std::lock_guard lock(w.mutex);
    require(w.events.contains(event), kInvalidHandle);
    const auto* const own = em::resolve(stream);
    require(event->context == &em::context_of(own), kInvalidHandle);
    if (own != nullptr && own->capture) {
      event->capture = own->capture;
      event->ends = own->ends;
      event->ticket = {};
      event->reached_at_s = nullptr;
      return;
    }
  }
  const auto reached = std::make_shared<std::atomic<double>>(-1.0);
  const auto ticket = em::enqueue(stream, kNodeEmpty, [reached] { *reached = now_s(); });
  const std::lock_guard lock(w.mutex);
  require(w.events.contains(event), kInvalidHandle);
  event->capture = nullptr;
  event->ticket = ticket;
  event->reached_at_s = reached;
}

template <typename Value>
bool is_met(Value found, Value value, unsigned condition) {
  switch (condition) {
    case kWaitGreaterOrEqual:
      return static_cast<std::make_signed_t<Value>>(found - value) >= 0;
    case kWaitEqual:
      return found == value;
    case kWaitAnd:
      return (found & value) != 0;
    default:
      return ~(found | value) != 0;
  }
}

// The address is one that the stream's device may use; it is looked at only when its turn comes.
template <typename Value>
Value* value_at(Stream stream, DevicePtr at, int access) {
  require(at % sizeof(Value) == 0);
  const std::lock_guard lock(em::world().mutex);
  const int device = em::context_of(em::resolve(stream)).device;
  require(em::find_range(device, at, sizeof(Value), access).place != em::Place::nowhere);
  return reinterpret_cast<Value*>(at);
}

template <typename Value>
void wait_value(Stream stream, DevicePtr at, Value value, unsigned flags) {
  const auto condition = flags & ~kWaitFlush;
  require(condition <= kWaitNor);
  require((flags & kWaitFlush) == 0, kNotSupported);  // As the device's attribute says.
  auto* const place = value_at<Value>(stream, at, kAccessRead);
  (void)em::enqueue(stream, kNodeValue, [=] {
    constexpr auto kPause = std::chrono::microseconds(20);
    while (!is_met(std::atomic_ref(*place).load(), value, condition))
      std::this_thread::sleep_for(kPause);
  });
}

template <typename Value>
void write_value(Stream stream, DevicePtr at, Value value, unsigned flags) {
  require(flags <= 1);
  auto* const place = value_at<Value>(stream, at, kAccessReadWrite);
  (void)em::enqueue(stream, kNodeValue, [=] { std::atomic_ref(*place).store(value); });
}

}  // namespace

extern "C" {
namespace causeway::cuda {

Result cuStreamCreate(Stream* stream, unsigned flags) {
  return run_call("cuStreamCreate", Needs::context, [&] {
    require(stream != nullptr);
    *stream = open_stream(flags, 0);
  });
}

// A priority out of range is brought into it.
Result cuStreamCreateWithPriority(Stream* stream, unsigned flags, int priority) {
  return run_call("cuStreamCreateWithPriority", Needs::context, [&] {
    require(stream != nullptr);
    *stream = open_stream(flags, priority);
  });
}

// Returns at once; what is queued still runs.
Result cuStreamDestroy_v2(Stream stream) {
  return run_call("cuStreamDestroy", Needs::driver, [&] {
    const std::lock_guard lock(em::world().mutex);
    const auto found = em::world().streams.find(stream);
    require(found != em::world().streams.end() && !stream->is_thread_default, kInvalidHandle);
    em::world().streams.erase(found);
    em::leave_capture(*stream);
    stream->context->ending.push_back({stream->line, stream->line->last()});
    stream->line->close();
    delete stream;
  });
}

Result cuStreamGetPriority(Stream stream, int* priority) {
  return run_call("cuStreamGetPriority", Needs::context, [&] {
    require(priority != nullptr);
    const std::lock_guard lock(em::world().mutex);
    const auto* const own = em::resolve(stream);
    *priority = own != nullptr ? own->priority : 0;
  });
}

Result cuStreamGetFlags(Stream stream, unsigned* flags) {
  return run_call("cuStreamGetFlags", Needs::context, [&] {
    require(flags != nullptr);
    const std::lock_guard lock(em::world().mutex);
    const auto* const own = em::resolve(stream);
    *flags = own != nullptr ? own->flags : 0;
  });
}

Result cuStreamGetCtx(Stream stream, Context* context) {
  return run_call("cuStreamGetCtx", Needs::healthy, [&] {
    require(context != nullptr);
    const std::lock_guard lock(em::world().mutex);
    *context = &em::context_of(em::resolve(stream));
  });
}

Result cuStreamGetId(Stream stream, unsigned long long* id) {
  return run_call("cuStreamGetId", Needs::healthy, [&] {
    require(id != nullptr);
    const std::lock_guard lock(em::world().mutex);
    const auto* const own = em::resolve(stream);
    *id = own != nullptr ? own->id : 0;
  });
}

Result cuStreamSynchronize(Stream stream) {
  return run_call("cuStreamSynchronize", Needs::healthy, [&] {
    const auto [ticket, context] = end_of(stream);
    ticket.wait();
    em::report_sticky(*context);
  });
}

Result cuStreamQuery(Stream stream) {
  return run_call("cuStreamQuery", Needs::healthy, [&] {
    const auto [ticket, context] = end_of(stream);
    em::report_sticky(*context);
    require(ticket.is_done(), kNotReady);
    em::report_sticky(*context);
  });
}

Result cuStreamWaitEvent(Stream stream, Event event, unsigned) {
  return run_call("cuStreamWaitEvent", Needs::healthy, [&] {
    em::Ticket ticket;
    {
      auto& w = em::world();
      const std::lock_guard lock(w.mutex);
      require(w.events.contains(event), kInvalidHandle);
      auto* const own = em::resolve(stream);
      if (event->capture || (own != nullptr && own->capture)) return em::wait_captured(own, *event);
      ticket = event->ticket;
    }
    (void)em::enqueue(stream, kNodeEmpty, [ticket] { ticket.wait(); });
  });
}

Result cuStreamWaitValue32_v2(Stream stream, DevicePtr at, std::uint32_t value, unsigned flags) {
  return run_call("cuStreamWaitValue32", Needs::context,
                  [&] { wait_value(stream, at, value, flags); });
}

Result cuStreamWaitValue64_v2(Stream stream, DevicePtr at, std::uint64_t value, unsigned flags) {
  return run_call("cuStreamWaitValue64", Needs::context,
                  [&] { wait_value(stream, at, value, flags); });
}

Result cuStreamWriteValue32_v2(Stream stream, DevicePtr at, std::uint32_t value, unsigned flags) {
  return run_call("cuStreamWriteValue32", Needs::context,
                  [&] { write_value(stream, at, value, flags); });
}

Result cuStreamWriteValue64_v2(Stream stream, DevicePtr at, std::uint64_t value, unsigned flags) {
  return run_call("cuStreamWriteValue64", Needs::context,
                  [&] { write_value(stream, at, value, flags); });
}

Result cuLaunchHostFunc(Stream stream, HostFunction function, void* data) {
  return run_call("cuLaunchHostFunc", Needs::context, [&] {
    require(function != nullptr);
    (void)em::enqueue(stream, kNodeHost, [=] { function(data); });
  });
}

Result cuEventCreate(Event* event, unsigned flags) {
  return run_call("cuEventCreate", Needs::context, [&] {
    // Events of several processes are not there: the device's attribute says so.
    require((flags & kEventInterprocess) == 0, kNotSupported);
    require(event != nullptr && flags <= (kEventBlockingSync | kEventDisableTiming));
    auto made = std::make_unique<EventTag>();
    made->context = em::current();
    made->with_timing = (flags & kEventDisableTiming) == 0;
    const std::lock_guard lock(em::world().mutex);
    em::world().events.insert(made.get());
    *event = made.release();
  });
}

Result cuEventDestroy_v2(Event event) {
  return run_call("cuEventDestroy", Needs::driver, [&] {
    const std::lock_guard lock(em::world().mutex);
    require(em::world().events.erase(event) == 1, kInvalidHandle);
    delete event;
  });
}

Result cuEventRecord(Event event, Stream stream) {
  return run_call("cuEventRecord", Needs::healthy, [&] { record(event, stream); });
}

// Records of the outside world within a capture are not there.
Result cuEventRecordWithFlags(Event event, Stream stream, unsigned flags) {
  return run_call("cuEventRecordWithFlags", Needs::healthy, [&] {
    require(flags <= 1);
    require(flags == 0, kNotSupported);
    record(event, stream);
  });
}

Result cuEventQuery(Event event) {
  return run_call("cuEventQuery", Needs::healthy, [&] {
    const auto copy = copy_of(event, true);
    require(copy.ticket.is_done(), kNotReady);
    em::report_sticky(*copy.context);
  });
}

Result cuEventSynchronize(Event event) {
  return run_call("cuEventSynchronize", Needs::healthy, [&] {
    const auto copy = copy_of(event, true);
    copy.ticket.wait();
    em::report_sticky(*copy.context);
  });
}

Result cuEventElapsedTime(float* milliseconds, Event start, Event end) {
  return run_call("cuEventElapsedTime", Needs::healthy, [&] {
    require(milliseconds != nullptr);
    const auto from = copy_of(start);
    const auto to = copy_of(end);
    require(from.with_timing && to.with_timing && from.reached_at_s && to.reached_at_s,
            kInvalidHandle);
    require(from.ticket.is_done() && to.ticket.is_done(), kNotReady);
    *milliseconds = static_cast<float>((*to.reached_at_s - *from.reached_at_s) * 1000);
  });
}

}  // namespace causeway::cuda
}
