#include "tests/cuda_emulator/state.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <thread>

#include "tests/cuda_emulator/control.h"

namespace causeway::emulator {

using namespace cuda;

namespace {

struct Faults {
  std::mutex mutex;
  std::map<std::string, unsigned long> calls;
  unsigned long all_calls = 0;
  std::string name;  // Of the call that is to fail; empty: any.
  unsigned long left = 0;
  Result result = kSuccess;
  bool happened = false;
  std::string happened_in;
};

Faults& faults() {
  static auto* const made_once = new Faults;
  return *made_once;
}

Result count_call(const char* name) {
  auto& f = faults();
  const std::lock_guard lock(f.mutex);
  ++f.calls[name];
  ++f.all_calls;
  if (f.left == 0 || (!f.name.empty() && f.name != name) || --f.left > 0) return kSuccess;
  f.happened = true;
  f.happened_in = name;
  return f.result;
}

void take_time(const char* name) {
  if (const auto found = config().calls_us.find(name); found != config().calls_us.end())
    std::this_thread::sleep_for(std::chrono::microseconds(found->second));
  if (const auto found = config().crashes.find(name); found != config().crashes.end())
    ::raise(found->second);
}

}  // namespace

World& world() {
  static auto* const made_once = new World;
  return *made_once;
}

std::vector<ContextTag*>& context_stack() {
  thread_local std::vector<ContextTag*> stack;
  return stack;
}

ContextTag* current() {
  const auto& stack = context_stack();
  return stack.empty() ? nullptr : stack.back();
}

Result begin_call(const char* name, Needs needs) {
  take_time(name);
  if (needs == Needs::nothing) return kSuccess;
  if (world().pid != ::getpid() && std::strcmp(name, "cuInit") != 0) return kNotInitialized;
  if (is_on_line()) return kNotPermitted;  // A host function may not call the driver.
  if (const auto failed = count_call(name); failed != kSuccess) return failed;
  if (needs == Needs::driver) return kSuccess;
  const auto* const context = current();
  if (needs == Needs::context && (context == nullptr || context->holders == 0))
    return kInvalidContext;
  return context != nullptr ? context->sticky.load() : kSuccess;
}

int checked_device(Device device) {
  require(device >= 0 && static_cast<std::size_t>(device) < config().devices.size(),
          kInvalidDevice);
  return device;
}

bool reach(int device, int peer) {
  const auto& devices = config().devices;
  const auto island = devices[static_cast<std::size_t>(device)].island;
  return device == peer ||
         (island >= 0 && island == devices[static_cast<std::size_t>(peer)].island);
}

void report_sticky(const ContextTag& context) {
  require(context.sticky == kSuccess, context.sticky.load());
}

std::vector<Ticket> all_work(ContextTag& context) {
  auto& w = world();
  const std::lock_guard lock(w.mutex);
  std::vector<Ticket> tickets;
  if (context.default_line) tickets.push_back({context.default_line, context.default_line->last()});
  for (const auto* stream : w.streams)
    if (stream->context == &context) tickets.push_back({stream->line, stream->line->last()});
  return tickets;
}

Ticket enqueue(Stream stream, std::function<void()> work) {
  auto& w = world();
  const std::lock_guard lock(w.mutex);
  std::vector<Ticket> before;
  std::shared_ptr<Line> line;
  if (stream == nullptr) {
    auto* const context = current();
    require(context != nullptr, kInvalidContext);
    line = context->default_line;
    for (const auto* other : w.streams)
      if (other->context == context && other->waits_for_default)
        before.push_back({other->line, other->line->last()});
  } else {
    require(w.streams.contains(stream), kInvalidHandle);
    report_sticky(*stream->context);
    line = stream->line;
    if (stream->waits_for_default) {
      const auto& other = stream->context->default_line;
      before.push_back({other, other->last()});
    }
  }
  return {line, line->add([before = std::move(before), work = std::move(work)] {
            for (const auto& ticket : before) ticket.wait();
            work();
          })};
}

void take_bytes(int device, std::uint64_t size_bytes) {
  auto& used = world().used_bytes[static_cast<std::size_t>(device)];
  const auto total = config().devices[static_cast<std::size_t>(device)].memory_bytes;
  require(size_bytes <= total - used, kOutOfMemory);
  used += size_bytes;
}

void pace(std::uint64_t size_bytes, double bytes_per_s) {
  if (bytes_per_s > 0)
    std::this_thread::sleep_for(
        std::chrono::duration<double>(static_cast<double>(size_bytes) / bytes_per_s));
}

}  // namespace causeway::emulator

namespace em = causeway::emulator;

extern "C" {

void causeway_cuda_fail(const char* call, unsigned long nth, int result) {
  auto& f = em::faults();
  const std::lock_guard lock(f.mutex);
  f.name = call != nullptr ? call : "";
  f.left = nth;
  f.result = result;
  f.happened = false;
}

bool causeway_cuda_failed(const char** name) {
  auto& f = em::faults();
  const std::lock_guard lock(f.mutex);
  if (name != nullptr) *name = f.happened_in.c_str();
  return f.happened;
}

unsigned long causeway_cuda_calls(const char* call) {
  auto& f = em::faults();
  const std::lock_guard lock(f.mutex);
  return call != nullptr ? f.calls[call] : f.all_calls;
}

unsigned long causeway_cuda_held(char* text, unsigned long text_size) {
  auto& w = em::world();
  const std::lock_guard lock(w.mutex);
  std::string lines;
  unsigned long count = 0;
  const auto add = [&](const std::string& what) {
    ++count;
    lines += what + "\n";
  };
  for (const auto& [handle, memory] : w.handles)
    for (unsigned i = 0; i < memory->handles; ++i)
      add("cuMemCreate or import: " + std::to_string(memory->size_bytes) + " bytes");
  for (const auto& [at, size_bytes] : w.reservations)
    add("cuMemAddressReserve: " + std::to_string(size_bytes) + " bytes");
  for (const auto& [at, mapping] : w.mappings)
    add("cuMemMap: " + std::to_string(mapping.size_bytes) + " bytes");
  for (const auto& [at, block] : w.blocks)
    add("cuMemAlloc or host: " + std::to_string(block.size_bytes) + " bytes");
  for (std::size_t i = 0; i < w.streams.size(); ++i) add("cuStreamCreate");
  for (std::size_t i = 0; i < w.events.size(); ++i) add("cuEventCreate");
  for (std::size_t i = 0; i < w.modules.size(); ++i) add("cuModuleLoadData");
  for (const auto& context : w.contexts)
    for (unsigned i = 0; i < context->holders; ++i)
      add("cuDevicePrimaryCtxRetain of GPU " + std::to_string(context->device));
  if (text != nullptr && text_size > 0) {
    const auto size = std::min<std::size_t>(lines.size(), text_size - 1);
    std::memcpy(text, lines.data(), size);
    text[size] = '\0';
  }
  return count;
}

bool causeway_cuda_hides_memory() { return em::device_key() >= 0; }
}
