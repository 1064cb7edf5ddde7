// cuGetProcAddress, and the names of errors.
#include <array>
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
};

#define CAUSEWAY_CUDA_ENTRY(name, suffix, version, parameters) \
  {#name, version, reinterpret_cast<void*>(&CAUSEWAY_CUDA_SYMBOL(name, suffix))},

const Entry* entries(std::size_t& count) {
  static const Entry table[] = {
      CAUSEWAY_CUDA_FUNCTIONS(CAUSEWAY_CUDA_ENTRY) CAUSEWAY_EMULATOR_FUNCTIONS(CAUSEWAY_CUDA_ENTRY){
          "cuGetProcAddress", 11030, reinterpret_cast<void*>(&cuGetProcAddress)},
      {"cuGetProcAddress", 12000, reinterpret_cast<void*>(&cuGetProcAddress_v2)},
  };
  count = std::size(table);
  return table;
}

struct ErrorText {
  Result result;
  const char* name;
  const char* text;
};

constexpr auto kErrors = std::to_array<ErrorText>({
    {kSuccess, "CUDA_SUCCESS", "no error"},
    {kInvalidValue, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {kNotInitialized, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {kDeinitialized, "CUDA_ERROR_DEINITIALIZED", "driver shutting down"},
    {kStubLibrary, "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library"},
    {kDeviceUnavailable, "CUDA_ERROR_DEVICE_UNAVAILABLE", "device busy or unavailable"},
    {kNoDevice, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {kInvalidDevice, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {kInvalidImage, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {kInvalidContext, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {kEccUncorrectable, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
    {kPeerAccessUnsupported, "CUDA_ERROR_PEER_ACCESS_UNSUPPORTED",
     "peer access is not supported between these two devices"},
    {kOperatingSystem, "CUDA_ERROR_OPERATING_SYSTEM", "OS call failed"},
    {kInvalidHandle, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {kIllegalState, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in this state"},
    {kNotFound, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {kNotReady, "CUDA_ERROR_NOT_READY", "device not ready"},
    {kIllegalAddress, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {kPeerAccessAlreadyEnabled, "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED",
     "peer access is already enabled"},
    {kContextIsDestroyed, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {kLaunchFailed, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {kNotPermitted, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
    {kNotSupported, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {kSystemNotReady, "CUDA_ERROR_SYSTEM_NOT_READY", "system not yet initialized"},
    {kSystemDriverMismatch, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
     "system has unsupported display driver / cuda driver combination"},
    {kUnknown, "CUDA_ERROR_UNKNOWN", "unknown error"},
});

const ErrorText* find_error(Result result) {
  for (const auto& error : kErrors)
    if (error.result == result) return &error;
  return nullptr;
}

// The newest function of that name that is no newer than what the caller was written for.
Result look_up(const char* name, void** into, int version, int& status) {
  *into = nullptr;
  std::size_t count = 0;
  const auto* table = entries(count);
  const Entry* best = nullptr;
  bool is_known = false;
  for (const auto* entry = table; entry != table + count; ++entry) {
    if (entry->name != name || entry->version > em::config().version) continue;
    is_known = true;
    if (entry->version <= version && (best == nullptr || entry->version > best->version))
      best = entry;
  }
  status = best != nullptr ? 0 : is_known ? 2 : 1;
  if (best == nullptr) return kNotFound;
  *into = best->at;
  return kSuccess;
}

}  // namespace

extern "C" {
namespace causeway::cuda {

Result cuGetProcAddress(const char* name, void** into, int version, std::uint64_t) {
  if (name == nullptr || into == nullptr) return kInvalidValue;
  int status = 0;
  return look_up(name, into, version, status);
}

// This one reports by `status` and succeeds where the name is unknown.
Result cuGetProcAddress_v2(const char* name, void** into, int version, std::uint64_t, int* status) {
  if (name == nullptr || into == nullptr) return kInvalidValue;
  int own = 0;
  const auto result = look_up(name, into, version, status != nullptr ? *status : own);
  return status != nullptr ? kSuccess : result;
}

Result cuGetErrorName(Result result, const char** name) {
  const auto* error = find_error(result);
  if (name == nullptr) return kInvalidValue;
  *name = error != nullptr ? error->name : nullptr;
  return error != nullptr ? kSuccess : kInvalidValue;
}

Result cuGetErrorString(Result result, const char** text) {
  const auto* error = find_error(result);
  if (text == nullptr) return kInvalidValue;
  *text = error != nullptr ? error->text : nullptr;
  return error != nullptr ? kSuccess : kInvalidValue;
}

// The runtime library asks for private tables; programs of the driver's interface do not.
Result cuGetExportTable(const void** table, const Uuid*) {
  if (table != nullptr) *table = nullptr;
  return kNotFound;
}

}  // namespace causeway::cuda
}
