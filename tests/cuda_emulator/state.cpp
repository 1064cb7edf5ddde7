#include "tests/cuda_emulator/state.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstring>
#include <string_view>
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

// Whose description in cuda.h names CUDA_ERROR_INVALID_CONTEXT, of those that know their context by
// a handle. (cuEventQuery and the calls of virtual memory management are not among them.)
bool may_miss_context(std::string_view name) {
  static constexpr std::array<std::string_view, 15> kNames{
      "cuStreamQuery",          "cuStreamSynchronize",    "cuStreamWaitEvent",
      "cuStreamDestroy",        "cuStreamGetCtx",         "cuEventRecord",
      "cuEventRecordWithFlags", "cuEventSynchronize",     "cuEventDestroy",
      "cuEventElapsedTime",     "cuModuleUnload",         "cuModuleGetFunction",
      "cuPointerGetAttribute",  "cuPointerGetAttributes", "cuFuncGetAttribute"};
  return std::ranges::find(kNames, name) != kNames.end();
}

thread_local int per_thread_depth = 0;

// The calling thread's in the current context, with the world's mutex held.
StreamTag* own_default_stream() {
  thread_local std::map<ContextTag*, StreamTag*> own;
  auto* const context = current();
  require(context != nullptr, kInvalidContext);
  auto& w = world();
  auto& stream = own[context];
  if (stream != nullptr && w.streams.contains(stream) && stream->is_thread_default &&
      stream->context == context)
    return stream;
  stream = make_stream(*context, 0, 0).release();
  stream->is_thread_default = true;
  w.streams.insert(stream);
  return stream;
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
  if (config().strict_contexts && may_miss_context(name) && current() == nullptr)
    return kInvalidContext;
  if (needs == Needs::driver) return kSuccess;
  const auto* const context = current();
  if (needs == Needs::context) {
    if (context == nullptr) return kInvalidContext;
    if (context->holders == 0) return kContextIsDestroyed;
  }
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
  std::erase_if(context.ending, [](const Ticket& ticket) { return ticket.is_done(); });
  tickets.insert(tickets.end(), context.ending.begin(), context.ending.end());
  return tickets;
}

std::unique_ptr<StreamTag> make_stream(ContextTag& context, unsigned flags, int priority) {
  auto made = std::make_unique<StreamTag>();
  made->context = &context;
  made->flags = flags;
  made->priority = std::clamp(priority, kGreatestPriority, 0);
  made->id = world().next_id++;
  made->line = Line::start({[&context] { return context.sticky != kSuccess; },
                            [&context] { context.sticky = kIllegalAddress; }});
  return made;
}

PerThreadDefault::PerThreadDefault() { ++per_thread_depth; }
PerThreadDefault::~PerThreadDefault() { --per_thread_depth; }

ContextTag& context_of(const StreamTag* stream) {
  if (stream != nullptr) return *stream->context;
  require(current() != nullptr, kInvalidContext);
  return *current();
}

StreamTag* resolve(Stream stream) {
  const bool is_own =
      stream == kPerThreadDefaultStream || (stream == nullptr && per_thread_depth > 0);
  if (is_own) return own_default_stream();
  if (stream == nullptr || stream == kLegacyDefaultStream) return nullptr;
  require(world().streams.contains(stream), kInvalidHandle);
  return stream;
}

Ticket enqueue(Stream stream, NodeType type, std::function<void()> work) {
  auto& w = world();
  const std::lock_guard lock(w.mutex);
  auto* const target = resolve(stream);
  auto& context = context_of(target);
  report_sticky(context);
  if (target != nullptr && target->capture) {
    add_captured(*target, type, std::move(work));
    return {};
  }
  refuse_while_captured(target);
  std::vector<Ticket> before;
  if (target == nullptr) {
    for (const auto* other : w.streams)
      if (other->context == &context && other->waits_for_default())
        before.push_back({other->line, other->line->last()});
  } else if (target->waits_for_default()) {
    before.push_back({context.default_line, context.default_line->last()});
  }
  const auto& line = target != nullptr ? target->line : context.default_line;
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
  for (const auto* stream : w.streams)
    if (!stream->is_thread_default) add("cuStreamCreate");
  for (std::size_t i = 0; i < w.events.size(); ++i) add("cuEventCreate");
  for (std::size_t i = 0; i < w.modules.size(); ++i) add("cuModuleLoadData");
  for (std::size_t i = 0; i < w.libraries.size(); ++i) add("cuLibraryLoadData");
  for (std::size_t i = 0; i < w.graphs.size(); ++i) add("cuGraphCreate or capture");
  for (std::size_t i = 0; i < w.executables.size(); ++i) add("cuGraphInstantiate");
  for (const auto* pool : w.pools)
    if (!pool->is_destroyed) add("cuMemPoolCreate");
  for (const auto& context : w.made_contexts)
    if (context->holders > 0) add("cuCtxCreate of GPU " + std::to_string(context->device));
  for (const auto& what : w.left_behind) add(what);
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
