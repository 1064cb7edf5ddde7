// cuGetProcAddress: every function, with the versions of its signatures and their twins for the
// default stream of each thread.
#include <algorithm>
#include <array>
#include <span>
#include <string_view>

#include "tests/cuda_emulator/exports.h"
#include "tests/cuda_emulator/state.h"

using namespace causeway::cuda;
namespace em = causeway::emulator;

namespace {

struct Entry {
  std::string_view name;
  int version;
  void* at;
  void* per_thread;
};

// The same call with the thread's own default stream for a null one.
template <auto kFunction>
struct Twin;
template <typename... Parameters, Result (*kFunction)(Parameters...)>
struct Twin<kFunction> {
  static Result call(Parameters... parameters) {
    const em::PerThreadDefault scope;
    return kFunction(parameters...);
  }
};

// Which calls have one: whatever uses a stream, named or not.
constexpr auto kWithTwins = std::to_array<std::string_view>({"cuEventRecord",
                                                             "cuEventRecordWithFlags",
                                                             "cuGraphLaunch",
                                                             "cuLaunchCooperativeKernel",
                                                             "cuLaunchHostFunc",
                                                             "cuLaunchKernel",
                                                             "cuLaunchKernelEx",
                                                             "cuMemAllocAsync",
                                                             "cuMemAllocFromPoolAsync",
                                                             "cuMemFreeAsync",
                                                             "cuMemcpy",
                                                             "cuMemcpy2D",
                                                             "cuMemcpy2DAsync",
                                                             "cuMemcpy2DUnaligned",
                                                             "cuMemcpyAsync",
                                                             "cuMemcpyDtoD",
                                                             "cuMemcpyDtoDAsync",
                                                             "cuMemcpyDtoH",
                                                             "cuMemcpyDtoHAsync",
                                                             "cuMemcpyHtoD",
                                                             "cuMemcpyHtoDAsync",
                                                             "cuMemcpyPeer",
                                                             "cuMemcpyPeerAsync",
                                                             "cuMemsetD16",
                                                             "cuMemsetD16Async",
                                                             "cuMemsetD32",
                                                             "cuMemsetD32Async",
                                                             "cuMemsetD8",
                                                             "cuMemsetD8Async",
                                                             "cuStreamBeginCapture",
                                                             "cuStreamEndCapture",
                                                             "cuStreamGetCaptureInfo",
                                                             "cuStreamGetCtx",
                                                             "cuStreamGetFlags",
                                                             "cuStreamGetId",
                                                             "cuStreamGetPriority",
                                                             "cuStreamIsCapturing",
                                                             "cuStreamQuery",
                                                             "cuStreamSynchronize",
                                                             "cuStreamWaitEvent",
                                                             "cuStreamWaitValue32",
                                                             "cuStreamWaitValue64",
                                                             "cuStreamWriteValue32",
                                                             "cuStreamWriteValue64"});

#define CAUSEWAY_CUDA_ENTRY(name, suffix, version, parameters)                   \
  {#name, version, reinterpret_cast<void*>(&CAUSEWAY_CUDA_SYMBOL(name, suffix)), \
   reinterpret_cast<void*>(&Twin<&CAUSEWAY_CUDA_SYMBOL(name, suffix)>::call)},

std::span<const Entry> entries() {
  static const Entry table[] = {
      CAUSEWAY_CUDA_FUNCTIONS(CAUSEWAY_CUDA_ENTRY)      //
      CAUSEWAY_EMULATOR_FUNCTIONS(CAUSEWAY_CUDA_ENTRY)  //
      CAUSEWAY_EMULATOR_VERSIONED_FUNCTIONS(CAUSEWAY_CUDA_ENTRY){
          "cuGraphInstantiate", 12000, reinterpret_cast<void*>(&cuGraphInstantiateWithFlags),
          nullptr},
      {"cuGetProcAddress", 11030, reinterpret_cast<void*>(&cuGetProcAddress), nullptr},
      {"cuGetProcAddress", 12000, reinterpret_cast<void*>(&cuGetProcAddress_v2), nullptr},
  };
  return table;
}

// The newest function of that name that is no newer than what the caller was written for.
Result look_up(const char* name, void** into, int version, std::uint64_t flags, int& status) {
  *into = nullptr;
  const Entry* best = nullptr;
  bool is_known = false;
  for (const auto& entry : entries()) {
    if (entry.name != name || entry.version > em::config().version) continue;
    is_known = true;
    if (entry.version <= version && (best == nullptr || entry.version > best->version))
      best = &entry;
  }
  status = best != nullptr ? 0 : is_known ? 2 : 1;
  if (best == nullptr) return kNotFound;
  const bool has_twin = std::ranges::find(kWithTwins, best->name) != kWithTwins.end();
  *into = flags == kPerThreadStream && has_twin ? best->per_thread : best->at;
  return kSuccess;
}

}  // namespace

extern "C" {
namespace causeway::cuda {

Result cuGetProcAddress(const char* name, void** into, int version, std::uint64_t flags) {
  if (name == nullptr || into == nullptr || flags > kPerThreadStream) return kInvalidValue;
  int status = 0;
  return look_up(name, into, version, flags, status);
}

// This one reports by `status` and succeeds where the name is unknown.
Result cuGetProcAddress_v2(const char* name, void** into, int version, std::uint64_t flags,
                           int* status) {
  if (name == nullptr || into == nullptr || flags > kPerThreadStream) return kInvalidValue;
  int own = 0;
  const auto result = look_up(name, into, version, flags, status != nullptr ? *status : own);
  return status != nullptr ? kSuccess : result;
}

// The runtime library asks for private tables; programs of the driver's interface do not.
Result cuGetExportTable(const void** table, const Uuid*) {
  if (table != nullptr) *table = nullptr;
  return kNotFound;
}

}  // namespace causeway::cuda
}
