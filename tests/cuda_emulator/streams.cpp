// Streams, events, host functions, kernels.
#include <algorithm>
#include <chrono>
#include <cstring>

#include "tests/cuda_emulator/exports.h"
#include "tests/cuda_emulator/state.h"

using namespace causeway::cuda;
namespace em = causeway::emulator;
using em::Needs;
using em::require;
using em::run_call;

namespace {

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// What a stream has queued so far, and its context.
std::pair<em::Ticket, ContextTag*> end_of(Stream stream) {
  auto& w = em::world();
  const std::lock_guard lock(w.mutex);
  auto* const context = stream != nullptr ? nullptr : em::current();
  require(stream == nullptr ? context != nullptr : w.streams.contains(stream), kInvalidHandle);
  const auto& line = stream != nullptr ? stream->line : context->default_line;
  return {{line, line->last()}, stream != nullptr ? stream->context : context};
}

EventTag copy_of(Event event) {
  auto& w = em::world();
  const std::lock_guard lock(w.mutex);
  require(w.events.contains(event), kInvalidHandle);
  return *event;
}

// The values of a launch's parameters, which the caller may change once the call is over.
struct Arguments {
  std::vector<std::vector<unsigned char>> values;
  std::vector<void*> pointers;
};

std::shared_ptr<Arguments> copy_arguments(const em::KernelEntry& entry, void** parameters) {
  auto result = std::make_shared<Arguments>();
  for (std::size_t i = 0; i < entry.parameter_count; ++i) {
    require(parameters != nullptr && parameters[i] != nullptr);
    const auto* const from = static_cast<const unsigned char*>(parameters[i]);
    result->values.emplace_back(from, from + entry.parameter_sizes[i]);
  }
  for (auto& value : result->values) result->pointers.push_back(value.data());
  return result;
}

void run_grid(const em::KernelEntry& entry, em::KernelThread thread, void* const* parameters) {
  auto& [gx, gy, gz] = thread.block_index;
  auto& [x, y, z] = thread.thread_index;
  for (gz = 0; gz < thread.grid[2]; ++gz)
    for (gy = 0; gy < thread.grid[1]; ++gy)
      for (gx = 0; gx < thread.grid[0]; ++gx)
        for (z = 0; z < thread.block[2]; ++z)
          for (y = 0; y < thread.block[1]; ++y)
            for (x = 0; x < thread.block[0]; ++x) entry.body(thread, parameters);
}

}  // namespace

extern "C" {
namespace causeway::cuda {

Result cuStreamCreate(Stream* stream, unsigned flags) {
  return run_call("cuStreamCreate", Needs::context, [&] {
    require(stream != nullptr && flags <= kStreamNonBlocking);
    auto* const context = em::current();
    auto made = std::make_unique<StreamTag>();
    made->context = context;
    made->waits_for_default = flags != kStreamNonBlocking;
    made->line = em::Line::start({[context] { return context->sticky != kSuccess; },
                                  [context] { context->sticky = kIllegalAddress; }});
    const std::lock_guard lock(em::world().mutex);
    em::world().streams.insert(made.get());
    *stream = made.release();
  });
}

// Returns at once; what is queued still runs.
Result cuStreamDestroy_v2(Stream stream) {
  return run_call("cuStreamDestroy", Needs::driver, [&] {
    const std::lock_guard lock(em::world().mutex);
    require(em::world().streams.erase(stream) == 1, kInvalidHandle);
    stream->line->close();
    delete stream;
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
    const auto ticket = copy_of(event).ticket;
    (void)em::enqueue(stream, [ticket] { ticket.wait(); });
  });
}

Result cuLaunchHostFunc(Stream stream, HostFunction function, void* data) {
  return run_call("cuLaunchHostFunc", Needs::context, [&] {
    require(function != nullptr);
    (void)em::enqueue(stream, [=] { function(data); });
  });
}

Result cuEventCreate(Event* event, unsigned flags) {
  return run_call("cuEventCreate", Needs::context, [&] {
    require(event != nullptr);
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
  return run_call("cuEventRecord", Needs::healthy, [&] {
    (void)copy_of(event);
    const auto reached = std::make_shared<std::atomic<double>>(-1.0);
    const auto ticket = em::enqueue(stream, [reached] { *reached = now_s(); });
    const std::lock_guard lock(em::world().mutex);
    require(em::world().events.contains(event), kInvalidHandle);
    event->ticket = ticket;
    event->reached_at_s = reached;
  });
}

Result cuEventQuery(Event event) {
  return run_call("cuEventQuery", Needs::healthy, [&] {
    const auto copy = copy_of(event);
    require(copy.ticket.is_done(), kNotReady);
    em::report_sticky(*copy.context);
  });
}

Result cuEventSynchronize(Event event) {
  return run_call("cuEventSynchronize", Needs::healthy, [&] {
    const auto copy = copy_of(event);
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

Result cuModuleLoadData(Module* module, const void* image) {
  return run_call("cuModuleLoadData", Needs::context, [&] {
    require(module != nullptr && image != nullptr);
    const auto* const own = static_cast<const em::KernelImage*>(image);
    require(own->magic == em::kImageMagic, kInvalidImage);
    auto made = std::make_unique<ModuleTag>();
    for (std::size_t i = 0; i < own->count; ++i) {
      made->functions.push_back(std::make_unique<FunctionTag>());
      made->functions.back()->entry = &own->kernels[i];
    }
    const std::lock_guard lock(em::world().mutex);
    em::world().modules.insert(made.get());
    *module = made.release();
  });
}

Result cuModuleUnload(Module module) {
  return run_call("cuModuleUnload", Needs::healthy, [&] {
    const std::lock_guard lock(em::world().mutex);
    require(em::world().modules.erase(module) == 1, kInvalidHandle);
    delete module;
  });
}

Result cuModuleGetFunction(Function* function, Module module, const char* name) {
  return run_call("cuModuleGetFunction", Needs::healthy, [&] {
    require(function != nullptr && name != nullptr);
    const std::lock_guard lock(em::world().mutex);
    require(em::world().modules.contains(module), kInvalidHandle);
    const auto found = std::ranges::find_if(module->functions, [name](const auto& each) {
      return std::strcmp(each->entry->name, name) == 0;
    });
    require(found != module->functions.end(), kNotFound);
    *function = found->get();
  });
}

Result cuFuncGetParamInfo(Function function, std::size_t index, std::size_t* offset,
                          std::size_t* size) {
  return run_call("cuFuncGetParamInfo", Needs::healthy, [&] {
    require(function != nullptr && offset != nullptr);
    require(index < function->entry->parameter_count);
    std::size_t at = 0;
    for (std::size_t i = 0;; ++i) {
      const auto bytes = function->entry->parameter_sizes[i];
      const auto alignment = std::min<std::size_t>(std::max<std::size_t>(bytes, 1), 8);
      at = (at + alignment - 1) / alignment * alignment;
      if (i == index) break;
      at += bytes;
    }
    *offset = at;
    if (size != nullptr) *size = function->entry->parameter_sizes[index];
  });
}

Result cuLaunchKernel(Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                      unsigned block_x, unsigned block_y, unsigned block_z, unsigned, Stream stream,
                      void** parameters, void** extra) {
  return run_call("cuLaunchKernel", Needs::context, [&] {
    require(function != nullptr, kInvalidHandle);
    require(extra == nullptr, kNotSupported);
    const em::KernelThread thread{
        {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, {0, 0, 0}, {0, 0, 0}};
    require(grid_x > 0 && grid_y > 0 && grid_z > 0 && block_x > 0 && block_y > 0 && block_z > 0);
    const auto* const entry = function->entry;
    const auto arguments = copy_arguments(*entry, parameters);
    (void)em::enqueue(stream, [entry, thread, arguments] {
      run_grid(*entry, thread, arguments->pointers.data());
    });
  });
}

}  // namespace causeway::cuda
}
