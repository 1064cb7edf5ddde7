#include "allocator/cuda/driver.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <array>
#include <atomic>
#include <cstdlib>

namespace causeway {

namespace {

using namespace cuda;

std::atomic<bool> exiting{false};

constexpr const char* kAdvice =
    "install NVIDIA's driver, or name another library in CAUSEWAY_CUDA_LIBRARY";

std::string library_file(const std::string& path) {
  if (!path.empty()) return path;
  const char* named = std::getenv("CAUSEWAY_CUDA_LIBRARY");
  return named != nullptr && *named != '\0' ? named : "libcuda.so.1";
}

// cuGetProcAddress in the form that this driver has.
class Lookup {
 public:
  Lookup(void* library, const std::string& file)
      : file_(file),
        current_(reinterpret_cast<GetProcAddressV2>(::dlsym(library, "cuGetProcAddress_v2"))),
        old_(reinterpret_cast<GetProcAddress>(::dlsym(library, "cuGetProcAddress"))) {
    if (current_ == nullptr && old_ == nullptr)
      throw Error(Errc::unsupported,
                  fmt::format("{} has no cuGetProcAddress: CUDA {} or newer is needed; {}", file,
                              cuda_version_text(kLeastVersion), kAdvice));
  }

  template <typename Function>
  void find(const char* name, int version, Function& into) const {
    void* at = nullptr;
    int status = 0;
    const auto result = current_ != nullptr ? current_(name, &at, version, kLegacyStream, &status)
                                            : old_(name, &at, version, kLegacyStream);
    if (result != kSuccess || at == nullptr)
      throw Error(Errc::unsupported, fmt::format("{} has no function {} of CUDA {}; {}", file_,
                                                 name, cuda_version_text(version), kAdvice));
    into = reinterpret_cast<Function>(at);
  }

 private:
  const std::string& file_;
  GetProcAddressV2 current_;
  GetProcAddress old_;
};

Errc code_of(Result result) noexcept {
  switch (result) {
    case kInvalidValue:
      return Errc::invalid_argument;
    case kOutOfMemory:
      return Errc::out_of_memory;
    case kNoDevice:
    case kInvalidDevice:
    case kNotFound:
      return Errc::not_found;
    case kDeviceUnavailable:
      return Errc::exhausted;
    case kEccUncorrectable:
      return Errc::corrupted;
    case kNotPermitted:
      return Errc::permission_denied;
    case kDeinitialized:
      return Errc::closed;
    case kStubLibrary:
    case kPeerAccessUnsupported:
    case kNotSupported:
    case kSystemNotReady:
    case kSystemDriverMismatch:
      return Errc::unsupported;
    default:
      return Errc::io;
  }
}

// What to do about it, where the driver's own words do not say.
const char* advice(Result result) noexcept {
  switch (result) {
    case kNotInitialized:
      return "; a process that was forked after CUDA had started cannot use it: start the program "
             "anew with exec";
    case kStubLibrary:
      return "; this is the Toolkit's stub: put NVIDIA's driver first in the library path";
    case kEccUncorrectable:
    case kIllegalAddress:
    case kLaunchFailed:
      return "; every later call of this process on that device fails: end the process";
    case kSystemDriverMismatch:
      return "; the library and the loaded kernel module are of different versions: restart";
    default:
      return "";
  }
}

}  // namespace

std::shared_ptr<CudaDriver> CudaDriver::open(const std::string& path) {
  const auto file = library_file(path);
  void* library = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = ::dlerror();
    throw Error(Errc::unsupported,
                fmt::format("no CUDA driver: {}; {}", reason != nullptr ? reason : file, kAdvice));
  }
  const std::shared_ptr<CudaDriver> driver(new CudaDriver);
  driver->load(library, file);
  const auto started = driver->functions_.cuInit(0);
  if (started != kSuccess)
    throw Error(Errc::unsupported, driver->error(file + ": cuInit", started).what());
  // After the library's own, so that it runs before them.
  static const int registered = std::atexit([] { exiting = true; });
  (void)registered;
  return driver;
}

void CudaDriver::load(void* library, const std::string& file) {
  const Lookup lookup(library, file);
  auto& f = functions_;
  lookup.find("cuDriverGetVersion", 2020, f.cuDriverGetVersion);
  if (f.cuDriverGetVersion(&version_) != kSuccess || version_ < kLeastVersion)
    throw Error(
        Errc::unsupported,
        fmt::format("{} is a driver for CUDA {}: {} or newer is needed; {}", file,
                    cuda_version_text(version_), cuda_version_text(kLeastVersion), kAdvice));
#define CAUSEWAY_CUDA_FIND(name, suffix, version, parameters) lookup.find(#name, version, f.name);
  CAUSEWAY_CUDA_FUNCTIONS(CAUSEWAY_CUDA_FIND)
#undef CAUSEWAY_CUDA_FIND
}

int CudaDriver::device_count() const {
  int count = 0;
  check(functions_.cuDeviceGetCount(&count), "CUDA", "cuDeviceGetCount");
  return count;
}

CudaDriver::DeviceFacts CudaDriver::describe(int ordinal) const {
  const auto label = fmt::format("GPU {}", ordinal);
  Device device = 0;
  check(functions_.cuDeviceGet(&device, ordinal), label, "cuDeviceGet");
  std::array<char, 256> text{};
  const auto size = static_cast<int>(text.size() - 1);
  DeviceFacts facts;
  check(functions_.cuDeviceGetName(text.data(), size, device), label, "cuDeviceGetName");
  facts.name = text.data();
  check(functions_.cuDeviceGetPCIBusId(text.data(), size, device), label, "cuDeviceGetPCIBusId");
  facts.bus_id = text.data();
  std::size_t total_bytes = 0;
  check(functions_.cuDeviceTotalMem(&total_bytes, device), label, "cuDeviceTotalMem");
  facts.total_bytes = total_bytes;
  Uuid uuid{};
  check(functions_.cuDeviceGetUuid(&uuid, device), label, "cuDeviceGetUuid");
  facts.uuid = "GPU";
  for (std::size_t i = 0; i < sizeof uuid.bytes; ++i) {
    if (i == 0 || i == 4 || i == 6 || i == 8 || i == 10) facts.uuid += '-';
    facts.uuid += fmt::format("{:02x}", uuid.bytes[i]);
  }
  return facts;
}

std::optional<int> CudaDriver::find_device(const std::string& uuid) const {
  for (int ordinal = 0; ordinal < device_count(); ++ordinal)
    if (describe(ordinal).uuid == uuid) return ordinal;
  return std::nullopt;
}

Error CudaDriver::error(const std::string& what, Result result) const {
  const char* name = nullptr;
  const char* text = nullptr;
  if (functions_.cuGetErrorName(result, &name) != kSuccess) name = nullptr;
  if (functions_.cuGetErrorString(result, &text) != kSuccess) text = nullptr;
  return {code_of(result),
          fmt::format("{} failed: {} ({}){}", what,
                      name != nullptr ? std::string(name) : fmt::format("CUDA error {}", result),
                      text != nullptr ? text : "unknown to this driver", advice(result))};
}

Error CudaDriver::failure(Result result, const std::string& subject, const char* call) const {
  return error(subject + ": " + call, result);
}

bool CudaDriver::is_exiting() noexcept { return exiting; }

std::string cuda_version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

}  // namespace causeway
