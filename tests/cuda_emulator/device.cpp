// Devices and their primary contexts.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/cuda_emulator/control.h"
#include "tests/cuda_emulator/exports.h"
#include "tests/cuda_emulator/state.h"

using namespace causeway::cuda;
namespace em = causeway::emulator;
using em::Needs;
using em::require;
using em::run_call;

namespace {

void report_leaks() {
  if (em::world().pid != ::getpid()) return;
  static std::array<char, 4096> text;
  const auto held = causeway_cuda_held(text.data(), text.size());
  if (held == 0) return;
  std::fprintf(stderr, "cuda emulator: %lu held at exit:\n%s", held, text.data());
  std::fflush(nullptr);
  ::_exit(97);
}

void copy_text(char* to, int size, const std::string& text) {
  require(to != nullptr && size > 0);
  const auto bytes = std::min<std::size_t>(text.size(), static_cast<std::size_t>(size) - 1);
  std::memcpy(to, text.data(), bytes);
  to[bytes] = '\0';
}

int attribute_of(const em::DeviceConfig& device, DeviceAttribute attribute, Device index) {
  constexpr DeviceAttribute kMaxThreads = 1, kProcessors = 16, kBus = 33, kPciDevice = 34,
                            kCopyEngines = 40, kUnified = 41, kDomain = 50, kCooperative = 95,
                            kPools = 115;
  const auto& config = em::config();
  switch (attribute) {
    case kMaxThreads:
      return 1024;
    case kProcessors:
      return 16;
    case kBus:
      return 0x10 + index;
    case kPciDevice:
    case kDomain:
      return 0;
    case kCopyEngines:
      return 2;
    case kUnified:
    case kCooperative:
    case kPools:
      return 1;
    case kAttributeComputeMajor:
      return device.sm / 10;
    case kAttributeComputeMinor:
      return device.sm % 10;
    case kAttributeVmm:
      return config.vmm ? 1 : 0;
    case kAttributePosixFd:
      return config.vmm && config.posix_fd ? 1 : 0;
    case kAttributeHostNumaId:
      return device.numa;
    case kAttributeHostNumaVmm:
      return config.vmm && config.host_numa_vmm ? 1 : 0;
    default:
      return 0;
  }
}

const em::DeviceConfig& config_of(Device device) {
  return em::config().devices[static_cast<std::size_t>(em::checked_device(device))];
}

ContextTag& context_of(Device device) {
  return *em::world().contexts[static_cast<std::size_t>(em::checked_device(device))];
}

// What a context that nobody holds any more leaves: its streams end, its allocations go.
void deactivate(ContextTag& context) {
  for (const auto& ticket : em::all_work(context)) ticket.wait();
  auto& w = em::world();
  const std::lock_guard lock(w.mutex);
  if (context.default_line) context.default_line->close();
  context.default_line = nullptr;
  context.sticky = kSuccess;
  context.peers.clear();
}

}  // namespace

extern "C" {
namespace causeway::cuda {

Result cuInit(unsigned flags) {
  return run_call("cuInit", Needs::driver, [&] {
    require(flags == 0);
    auto& w = em::world();
    const std::lock_guard lock(w.mutex);
    if (w.pid == ::getpid()) return;
    require(w.pid == 0, kNotInitialized);  // A child of a process that uses the driver.
    require(em::config().init_result == kSuccess, em::config().init_result);
    require(!em::config().devices.empty(), kNoDevice);
    for (std::size_t i = 0; i < em::config().devices.size(); ++i) {
      w.contexts.push_back(std::make_unique<ContextTag>());
      w.contexts.back()->device = static_cast<int>(i);
    }
    w.used_bytes.resize(em::config().devices.size());
    em::make_device_key();
    em::catch_faults();
    if (em::config().check_leaks) std::atexit(report_leaks);
    w.pid = ::getpid();
  });
}

Result cuDriverGetVersion(int* version) {
  return run_call("cuDriverGetVersion", Needs::nothing, [&] {
    require(version != nullptr);
    *version = em::config().version;
  });
}

Result cuDeviceGet(Device* device, int ordinal) {
  return run_call("cuDeviceGet", Needs::driver, [&] {
    require(device != nullptr);
    *device = em::checked_device(ordinal);
  });
}

Result cuDeviceGetCount(int* count) {
  return run_call("cuDeviceGetCount", Needs::driver, [&] {
    require(count != nullptr);
    *count = static_cast<int>(em::config().devices.size());
  });
}

Result cuDeviceGetName(char* name, int size, Device device) {
  return run_call("cuDeviceGetName", Needs::driver,
                  [&] { copy_text(name, size, config_of(device).name); });
}

Result cuDeviceGetPCIBusId(char* id, int size, Device device) {
  return run_call("cuDeviceGetPCIBusId", Needs::driver, [&] {
    std::array<char, 16> text{};
    std::snprintf(text.data(), text.size(), "0000:%02X:00.0", 0x10 + em::checked_device(device));
    copy_text(id, size, text.data());
  });
}

Result cuDeviceGetUuid_v2(Uuid* uuid, Device device) {
  return run_call("cuDeviceGetUuid", Needs::driver, [&] {
    require(uuid != nullptr);
    *uuid = {};
    uuid->bytes[0] = 0xe0;
    uuid->bytes[15] = static_cast<unsigned char>(em::checked_device(device));
  });
}

Result cuDeviceTotalMem_v2(std::size_t* bytes, Device device) {
  return run_call("cuDeviceTotalMem", Needs::driver, [&] {
    require(bytes != nullptr);
    *bytes = config_of(device).memory_bytes;
  });
}

Result cuDeviceGetAttribute(int* value, DeviceAttribute attribute, Device device) {
  return run_call("cuDeviceGetAttribute", Needs::driver, [&] {
    require(value != nullptr && attribute > 0);
    *value = attribute_of(config_of(device), attribute, device);
  });
}

Result cuDeviceCanAccessPeer(int* can, Device device, Device peer) {
  return run_call("cuDeviceCanAccessPeer", Needs::driver, [&] {
    require(can != nullptr);
    *can = em::checked_device(device) != em::checked_device(peer) && em::reach(device, peer);
  });
}

Result cuDeviceGetP2PAttribute(int* value, int attribute, Device from, Device to) {
  return run_call("cuDeviceGetP2PAttribute", Needs::driver, [&] {
    constexpr int kAccessSupported = 2;
    require(value != nullptr && attribute > 0);
    require(em::checked_device(from) != em::checked_device(to), kInvalidDevice);
    *value = attribute == kAccessSupported && em::reach(from, to) ? 1 : 0;
  });
}

Result cuDevicePrimaryCtxRetain(Context* context, Device device) {
  return run_call("cuDevicePrimaryCtxRetain", Needs::driver, [&] {
    require(context != nullptr);
    auto& own = context_of(device);
    const std::lock_guard lock(em::world().mutex);
    if (own.holders++ == 0)
      own.default_line = em::Line::start(
          {[&own] { return own.sticky != kSuccess; }, [&own] { own.sticky = kIllegalAddress; }});
    *context = &own;
  });
}

Result cuDevicePrimaryCtxRelease_v2(Device device) {
  return run_call("cuDevicePrimaryCtxRelease", Needs::driver, [&] {
    auto& own = context_of(device);
    {
      const std::lock_guard lock(em::world().mutex);
      require(own.holders > 0, kInvalidContext);
      if (--own.holders > 0) return;
    }
    deactivate(own);
  });
}

Result cuDevicePrimaryCtxGetState(Device device, unsigned* flags, int* active) {
  return run_call("cuDevicePrimaryCtxGetState", Needs::driver, [&] {
    require(flags != nullptr && active != nullptr);
    const std::lock_guard lock(em::world().mutex);
    *flags = 0;
    *active = context_of(device).holders > 0;
  });
}

// The only way on after an error that has become sticky.
Result cuDevicePrimaryCtxReset_v2(Device device) {
  return run_call("cuDevicePrimaryCtxReset", Needs::nothing, [&] {
    auto& own = context_of(device);
    for (const auto& ticket : em::all_work(own)) ticket.wait();
    own.sticky = kSuccess;
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

}  // namespace causeway::cuda
}
