#include "runtime/topology/discovery/nvml_calls.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace causeway {

namespace {

using namespace nvml;

enum Function : std::uint8_t {
  kInit,
  kDriverVersion,
  kCudaVersionV2,
  kCudaVersion,
  kCount,
  kHandle,
  kName,
  kUuid,
  kPci,
  kMemory,
  kBar1,
  kCapability,
  kGeneration,
  kGenerationMax,
  kWidth,
  kWidthMax,
  kNumaMemory,
  kLinkState,
  kLinkPci,
  kLinkType,
  kPeerStatus,
  kFabricV,
  kFabric,
  kC2c,
  kFunctions
};

constexpr std::array<NvmlFunction, kFunctions> kTable{{
    {"nvmlInit_v2", "all of NVML"},
    {"nvmlSystemGetDriverVersion", "driver version"},
    {"nvmlSystemGetCudaDriverVersion_v2", nullptr},
    {"nvmlSystemGetCudaDriverVersion", "CUDA version"},
    {"nvmlDeviceGetCount_v2", "all of NVML"},
    {"nvmlDeviceGetHandleByIndex_v2", "all of NVML"},
    {"nvmlDeviceGetName", "GPU names"},
    {"nvmlDeviceGetUUID", "GPU identities"},
    {"nvmlDeviceGetPciInfo_v3", "PCI addresses of GPUs"},
    {"nvmlDeviceGetMemoryInfo", "memory of GPUs"},
    {"nvmlDeviceGetBAR1MemoryInfo", nullptr},  // sysfs
    {"nvmlDeviceGetCudaComputeCapability", "compute capabilities"},
    {"nvmlDeviceGetCurrPcieLinkGeneration", nullptr},  // sysfs
    {"nvmlDeviceGetMaxPcieLinkGeneration", nullptr},
    {"nvmlDeviceGetCurrPcieLinkWidth", nullptr},
    {"nvmlDeviceGetMaxPcieLinkWidth", nullptr},
    {"nvmlDeviceGetNumaNodeId", nullptr},  // Only where GPU memory is a NUMA node.
    {"nvmlDeviceGetNvLinkState", "NVLinks"},
    {"nvmlDeviceGetNvLinkRemotePciInfo_v2", "ends of NVLinks"},
    {"nvmlDeviceGetNvLinkRemoteDeviceType", "kind of device at an NVLink's end"},
    {"nvmlDeviceGetP2PStatus", "granted peer access"},
    {"nvmlDeviceGetGpuFabricInfoV", nullptr},
    {"nvmlDeviceGetGpuFabricInfo", "fabric state"},
    {"nvmlDeviceGetC2cModeInfoV", nullptr},  // Only where GPU and CPU share a package.
}};

// Calls the library by the names in kTable and writes down each call before it is made.
class Caller {
 public:
  Caller(void* library, NvmlReport& report) : report_(report) {
    for (std::size_t i = 0; i < kFunctions; ++i) {
      symbols_[i] = ::dlsym(library, kTable[i].name);
      if (symbols_[i] == nullptr) report.missing |= std::uint64_t{1} << i;
    }
  }

  [[nodiscard]] bool has(Function function) const { return symbols_[function] != nullptr; }

  // nullopt if the library has no such function.
  template <typename Signature, typename... Arguments>
  std::optional<Return> call(Function function, Arguments... arguments) {
    if (!has(function)) return std::nullopt;
    report_.function = function;
    return reinterpret_cast<Signature*>(symbols_[function])(arguments...);
  }

  // The same of a GPU. An error that means the GPU itself is kept.
  template <typename Signature, typename... Arguments>
  bool ask(NvmlGpu& gpu, Function function, Arguments... arguments) {
    const auto result = call<Signature>(function, arguments...);
    if (result && (*result == kGpuIsLost || *result == kResetRequired) && gpu.failure == kSuccess)
      gpu.failure = *result;
    return result == kSuccess;
  }

 private:
  NvmlReport& report_;
  std::array<void*, kFunctions> symbols_{};
};

void fill_unsigned(Caller& caller, NvmlGpu& gpu, Function function, Device device,
                   std::optional<std::uint32_t>& into) {
  unsigned value = 0;
  if (caller.ask<GetUnsigned>(gpu, function, device, &value)) into = value;
}

void fill_links(Caller& caller, NvmlGpu& gpu, Device device) {
  for (unsigned i = 0; i < kMaxLinks; ++i) {
    int enabled = 0;
    const auto result = caller.call<GetLinkState>(kLinkState, device, i, &enabled);
    // "Not supported" of the first link is an answer too: there are none.
    if (i == 0 && result) gpu.is_nvlink_known = *result == kSuccess || *result == kNotSupported;
    if (result != kSuccess) {
      if (i == 0) return;
      continue;
    }
    auto& link = gpu.links[i];
    link.is_active = enabled == kEnabled;
    if (!*link.is_active) continue;
    int type = 0;
    if (caller.ask<GetLinkType>(gpu, kLinkType, device, i, &type)) link.remote_type = type;
    PciInfo remote{};
    if (caller.ask<GetLinkPci>(gpu, kLinkPci, device, i, &remote))
      std::memcpy(link.remote_bus_id.data(), remote.bus_id, sizeof remote.bus_id);
  }
}

void fill_fabric(Caller& caller, NvmlGpu& gpu, Device device) {
  FabricInfoV2 current{};
  current.version = kFabricInfoV2;
  if (caller.ask<GetFabricV>(gpu, kFabricV, device, &current)) {
    gpu.fabric_state = current.state;
    gpu.fabric_status = current.status;
    std::ranges::copy(current.cluster_uuid, gpu.fabric_cluster.begin());
    return;
  }
  FabricInfo old{};
  if (!caller.ask<GetFabric>(gpu, kFabric, device, &old)) return;
  gpu.fabric_state = old.state;
  gpu.fabric_status = old.status;
  std::ranges::copy(old.cluster_uuid, gpu.fabric_cluster.begin());
}

void fill_gpu(Caller& caller, NvmlGpu& gpu, Device device) {
  PciInfo pci{};
  if (caller.ask<GetPci>(gpu, kPci, device, &pci))
    std::memcpy(gpu.bus_id.data(), pci.bus_id, sizeof pci.bus_id);
  (void)caller.ask<GetDeviceText>(gpu, kName, device, gpu.name.data(),
                                  static_cast<unsigned>(gpu.name.size()));
  (void)caller.ask<GetDeviceText>(gpu, kUuid, device, gpu.uuid.data(),
                                  static_cast<unsigned>(gpu.uuid.size()));
  Memory memory{};
  if (caller.ask<GetMemory>(gpu, kMemory, device, &memory)) gpu.memory_bytes = memory.total;
  Bar1Memory bar1{};
  if (caller.ask<GetBar1>(gpu, kBar1, device, &bar1)) gpu.bar1_bytes = bar1.total;
  int major = 0;
  int minor = 0;
  if (caller.ask<GetCapability>(gpu, kCapability, device, &major, &minor) && major > 0 &&
      major < 1000 && minor >= 0 && minor < 10)
    gpu.sm = static_cast<std::uint32_t>(major * 10 + minor);
  fill_unsigned(caller, gpu, kGeneration, device, gpu.generation);
  fill_unsigned(caller, gpu, kGenerationMax, device, gpu.generation_max);
  fill_unsigned(caller, gpu, kWidth, device, gpu.width);
  fill_unsigned(caller, gpu, kWidthMax, device, gpu.width_max);
  fill_unsigned(caller, gpu, kNumaMemory, device, gpu.numa_memory);
  fill_links(caller, gpu, device);
  fill_fabric(caller, gpu, device);
  C2cModeInfo c2c{};
  gpu.has_c2c = caller.ask<GetC2c>(gpu, kC2c, device, &c2c) && c2c.is_enabled != 0;
}

void fill_peers(Caller& caller, NvmlReport& report, const std::array<Device, kMaxNvmlGpus>& gpus) {
  for (std::uint32_t from = 0; from < report.reported(); ++from) {
    report.subject = from;
    for (std::uint32_t to = 0; to < report.reported(); ++to) {
      if (from == to || gpus[from] == nullptr || gpus[to] == nullptr) continue;
      for (const int use : {kPeerRead, kPeerWrite}) {
        int status = 0;
        if (caller.call<GetPeerStatus>(kPeerStatus, gpus[from], gpus[to], use, &status) ==
                kSuccess &&
            status >= 0 && status < 0xff)
          report.peers[from][to][use] = static_cast<std::uint8_t>(status);
      }
    }
  }
}

}  // namespace

void fill_report(const std::string& library, NvmlReport& report) {
  void* handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* reason = ::dlerror();
    std::snprintf(report.error.data(), report.error.size(), "%s", reason != nullptr ? reason : "?");
    report.outcome = NvmlOutcome::no_library;
    return;
  }
  Caller caller(handle, report);
  // A library without one of these is older than any driver of today's GPUs.
  unsigned count = 0;
  for (const auto needed : {kInit, kCount, kHandle})
    if (!caller.has(needed)) {
      std::snprintf(report.error.data(), report.error.size(), "%s is not in it",
                    kTable[needed].name);
      report.outcome = NvmlOutcome::no_library;
      return;
    }
  auto result = caller.call<Init>(kInit);
  if (result == kSuccess) result = caller.call<GetCount>(kCount, &count);
  if (result != kSuccess) {
    report.code = *result;
    report.outcome = NvmlOutcome::no_init;
    return;
  }
  (void)caller.call<GetText>(kDriverVersion, report.driver_version.data(),
                             static_cast<unsigned>(report.driver_version.size()));
  int cuda = 0;
  if (caller.call<GetInt>(kCudaVersionV2, &cuda) == kSuccess ||
      caller.call<GetInt>(kCudaVersion, &cuda) == kSuccess)
    report.cuda_version = cuda;
  report.gpu_count = count;
  std::array<Device, kMaxNvmlGpus> devices{};
  for (std::uint32_t i = 0; i < report.reported(); ++i) {
    auto& gpu = report.gpus[i];
    report.subject = i;
    const auto got = caller.call<GetHandle>(kHandle, i, &devices[i]);
    if (got == kSuccess) {
      fill_gpu(caller, gpu, devices[i]);
    } else {
      gpu.failure = *got;
      devices[i] = nullptr;
    }
    gpu.is_asked = true;
  }
  fill_peers(caller, report, devices);
  report.is_complete = true;
}

const NvmlFunction& nvml_function(std::size_t index) noexcept {
  return kTable[std::min(index, kTable.size() - 1)];
}

std::size_t nvml_function_count() noexcept { return kTable.size(); }

}  // namespace causeway
