// Contexts: primary ones, which a process's libraries share, and others.
#include <mutex>

#include "tests/cuda_emulator/exports.h"
#include "tests/cuda_emulator/state.h"

using namespace causeway::cuda;
namespace em = causeway::emulator;
using em::Needs;
using em::require;
using em::run_call;

namespace {

constexpr unsigned kMostContextFlags = 0xff;

ContextTag& primary_of(Device device) {
  return *em::world().contexts[static_cast<std::size_t>(em::checked_device(device))];
}

// One context begins or ends at a time.
std::mutex& lifetimes() {
  static auto* const made_once = new std::mutex;
  return *made_once;
}

void start_line(ContextTag& context) {
  context.default_line = em::Line::start({[&context] { return context.sticky != kSuccess; },
                                          [&context] { context.sticky = kIllegalAddress; }});
}

// Takes every element of `context` out of a set of the world, and lets `end` finish it.
template <typename Tag, typename End>
std::size_t take_all(std::set<Tag*>& all, const ContextTag& context, End end) {
  std::size_t count = 0;
  for (auto next = all.begin(); next != all.end();) {
    if ((*next)->context != &context) {
      ++next;
      continue;
    }
    auto* const tag = *next;
    next = all.erase(next);
    count += end(*tag) ? 1 : 0;
    delete tag;
  }
  return count;
}

std::size_t close_blocks(const ContextTag& context) {
  auto& blocks = em::world().blocks;
  std::size_t count = 0;
  for (auto next = blocks.begin(); next != blocks.end();) {
    const auto block = next++;
    if (block->second.context != &context || block->second.kind == em::Block::Kind::pooled)
      continue;
    em::close_block(block);
    ++count;
  }
  return count;
}

}  // namespace

namespace causeway::emulator {

void end_context(ContextTag& context, bool tell) {
  for (const auto& ticket : all_work(context)) ticket.wait();
  auto& w = world();
  const std::lock_guard lock(w.mutex);
  const auto count = [&](const char* what, std::size_t number) {
    for (std::size_t i = 0; tell && i < number; ++i)
      w.left_behind.push_back(std::string(what) + ", left in a context that was given back");
  };
  count("cuStreamCreate", take_all(w.streams, context, [](StreamTag& stream) {
          leave_capture(stream);
          stream.line->close();
          return !stream.is_thread_default;
        }));
  count("cuEventCreate", take_all(w.events, context, [](EventTag&) { return true; }));
  count("cuModuleLoadData", take_all(w.modules, context, [&w](ModuleTag& module) {
          for (const auto& function : module.functions) w.functions.erase(function.get());
          return true;
        }));
  for (auto* const library : w.libraries) {
    const auto module = library->modules.find(&context);
    if (module == library->modules.end()) continue;
    for (const auto& function : module->second->functions) w.functions.erase(function.get());
    library->modules.erase(module);
  }
  count("cuMemAlloc or host", close_blocks(context));
  if (context.default_line) context.default_line->close();
  context.default_line = nullptr;
  context.sticky = kSuccess;
  context.peers.clear();
}

}  // namespace causeway::emulator

extern "C" {
namespace causeway::cuda {

Result cuDevicePrimaryCtxRetain(Context* context, Device device) {
  return run_call("cuDevicePrimaryCtxRetain", Needs::driver, [&] {
    require(context != nullptr);
    auto& own = primary_of(device);
    const std::lock_guard lifetime(lifetimes());
    const std::lock_guard lock(em::world().mutex);
    if (own.holders++ == 0) start_line(own);
    *context = &own;
  });
}

Result cuDevicePrimaryCtxRelease_v2(Device device) {
  return run_call("cuDevicePrimaryCtxRelease", Needs::driver, [&] {
    auto& own = primary_of(device);
    const std::lock_guard lifetime(lifetimes());
    {
      const std::lock_guard lock(em::world().mutex);
      require(own.holders > 0, kInvalidContext);
      if (--own.holders > 0) return;
    }
    em::end_context(own, true);
  });
}

Result cuDevicePrimaryCtxGetState(Device device, unsigned* flags, int* active) {
  return run_call("cuDevicePrimaryCtxGetState", Needs::driver, [&] {
    require(flags != nullptr && active != nullptr);
    const auto& own = primary_of(device);
    const std::lock_guard lock(em::world().mutex);
    *flags = own.flags;
    *active = own.holders > 0;
  });
}

Result cuDevicePrimaryCtxSetFlags_v2(Device device, unsigned flags) {
  return run_call("cuDevicePrimaryCtxSetFlags", Needs::driver, [&] {
    require(flags <= kMostContextFlags);
    auto& own = primary_of(device);
    const std::lock_guard lock(em::world().mutex);
    own.flags = flags;
  });
}

// The only way on after an error that has become sticky. Who holds the context still does.
Result cuDevicePrimaryCtxReset_v2(Device device) {
  return run_call("cuDevicePrimaryCtxReset", Needs::nothing, [&] {
    auto& own = primary_of(device);
    const std::lock_guard lifetime(lifetimes());
    em::end_context(own, false);
    const std::lock_guard lock(em::world().mutex);
    if (own.holders > 0) start_line(own);
  });
}

Result cuCtxCreate_v2(Context* context, unsigned flags, Device device) {
  return run_call("cuCtxCreate", Needs::driver, [&] {
    require(context != nullptr && flags <= kMostContextFlags);
    auto made = std::make_unique<ContextTag>();
    made->device = em::checked_device(device);
    made->is_primary = false;
    made->flags = flags;
    made->holders = 1;
    start_line(*made);
    auto& w = em::world();
    const std::lock_guard lock(w.mutex);
    *context = made.get();
    w.made_contexts.push_back(std::move(made));
    em::context_stack().push_back(*context);
  });
}

Result cuCtxDestroy_v2(Context context) {
  return run_call("cuCtxDestroy", Needs::driver, [&] {
    require(context != nullptr);
    {
      const std::lock_guard lock(em::world().mutex);
      require(!context->is_primary && context->holders == 1, kInvalidContext);
      context->holders = 0;
    }
    em::end_context(*context, false);
    auto& stack = em::context_stack();
    if (!stack.empty() && stack.back() == context) stack.pop_back();
  });
}

Result cuCtxGetDevice(Device* device) {
  return run_call("cuCtxGetDevice", Needs::driver, [&] {
    require(em::current() != nullptr, kInvalidContext);
    require(device != nullptr);
    *device = em::current()->device;
  });
}

Result cuCtxGetFlags(unsigned* flags) {
  return run_call("cuCtxGetFlags", Needs::context, [&] {
    require(flags != nullptr);
    *flags = em::current()->flags;
  });
}

Result cuCtxGetApiVersion(Context context, unsigned* version) {
  return run_call("cuCtxGetApiVersion", Needs::driver, [&] {
    require(version != nullptr);
    if (context == nullptr) context = em::current();
    require(context != nullptr && context->holders > 0, kInvalidContext);
    *version = 3020;
  });
}

Result cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  return run_call("cuCtxGetStreamPriorityRange", Needs::context, [&] {
    if (least != nullptr) *least = 0;
    if (greatest != nullptr) *greatest = em::kGreatestPriority;
  });
}

Result cuCtxPushCurrent_v2(Context context) {
  return run_call("cuCtxPushCurrent", Needs::driver, [&] {
    require(context != nullptr && context->holders > 0, kInvalidContext);
    em::context_stack().push_back(context);
  });
}

Result cuCtxPopCurrent_v2(Context* context) {
  return run_call("cuCtxPopCurrent", Needs::driver, [&] {
    auto& stack = em::context_stack();
    require(!stack.empty(), kInvalidContext);
    if (context != nullptr) *context = stack.back();
    stack.pop_back();
  });
}

Result cuCtxSetCurrent(Context context) {
  return run_call("cuCtxSetCurrent", Needs::driver, [&] {
    auto& stack = em::context_stack();
    if (!stack.empty()) stack.pop_back();
    if (context != nullptr) stack.push_back(context);
  });
}

Result cuCtxGetCurrent(Context* context) {
  return run_call("cuCtxGetCurrent", Needs::driver, [&] {
    require(context != nullptr);
    *context = em::current();
  });
}

Result cuCtxSynchronize() {
  return run_call("cuCtxSynchronize", Needs::context, [&] {
    auto& context = *em::current();
    {
      const std::lock_guard lock(em::world().mutex);
      em::refuse_in_capture(context);
    }
    for (const auto& ticket : em::all_work(context)) ticket.wait();
    em::report_sticky(context);
  });
}

Result cuCtxEnablePeerAccess(Context peer, unsigned flags) {
  return run_call("cuCtxEnablePeerAccess", Needs::context, [&] {
    require(flags == 0 && peer != nullptr);
    auto& own = *em::current();
    require(peer->holders > 0 && peer != &own, kInvalidContext);
    require(em::reach(own.device, peer->device), kPeerAccessUnsupported);
    const std::lock_guard lock(em::world().mutex);
    require(own.peers.insert(peer->device).second, kPeerAccessAlreadyEnabled);
  });
}

Result cuCtxDisablePeerAccess(Context peer) {
  return run_call("cuCtxDisablePeerAccess", Needs::context, [&] {
    require(peer != nullptr && peer->holders > 0, kInvalidContext);
    const std::lock_guard lock(em::world().mutex);
    require(em::current()->peers.erase(peer->device) == 1, kPeerAccessNotEnabled);
  });
}

}  // namespace causeway::cuda
}
