// The driver's start, and devices.
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

// What every emulated device has in common, by the driver's numbers.
constexpr auto kCommonAttributes = std::to_array<std::pair<DeviceAttribute, int>>({
    {1, em::kMostThreads},  // Threads of a block, and each of its dimensions.
    {2, em::kMostBlock[0]},
    {3, em::kMostBlock[1]},
    {4, em::kMostBlock[2]},
    {5, em::kMostGrid[0]},
    {6, em::kMostGrid[1]},
    {7, em::kMostGrid[2]},
    {8, em::kMostShared},
    {10, 32},  // Warp.
    {11, 0x7fffffff},
    {12, 65536},
    {16, em::kProcessors},
    {19, 1},  // Maps host memory.
    {31, 1},  // Concurrent kernels.
    {39, em::kThreadsPerProcessor},
    {40, 2},  // Copy engines.
    {41, 1},  // Unified addresses.
    {78, 1},  // Priorities.
    {91, 1},  // Registered memory at the host's address.
    {92, 1},  // Waits for values.
    {93, 1},
    {94, 1},
    {95, 1},  // Cooperative launches.
    {97, em::kMostShared},
    {99, 1},  // Registers host memory.
    {106, em::kBlocksPerProcessor},
    {115, 1},  // Pools.
    {119, kHandleTypePosixFd},
    {122, 1},
    {123, 1},
});

int attribute_of(const em::DeviceConfig& device, DeviceAttribute attribute, Device index) {
  constexpr DeviceAttribute kBus = 33, kCluster = 120;
  const auto& config = em::config();
  switch (attribute) {
    case kBus:
      return 0x10 + index;
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
    case kCluster:
      return device.sm >= 90 ? 1 : 0;
    default:
      break;
  }
  for (const auto& [known, value] : kCommonAttributes)
    if (known == attribute) return value;
  return 0;
}

const em::DeviceConfig& config_of(Device device) {
  return em::config().devices[static_cast<std::size_t>(em::checked_device(device))];
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
      w.default_pools.push_back(std::make_unique<PoolTag>());
      w.default_pools.back()->device = static_cast<int>(i);
      w.default_pools.back()->is_default = true;
      w.current_pools.push_back(w.default_pools.back().get());
    }
    w.used_bytes.resize(em::config().devices.size());
    w.files.resize(em::config().devices.size());
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
    // How near, access, native atomics, access to arrays.
    constexpr int kRank = 1, kAccessSupported = 2, kLast = 4;
    require(value != nullptr && attribute >= kRank && attribute <= kLast);
    require(em::checked_device(from) != em::checked_device(to), kInvalidDevice);
    *value = attribute == kAccessSupported && em::reach(from, to) ? 1 : 0;
  });
}

}  // namespace causeway::cuda
}
