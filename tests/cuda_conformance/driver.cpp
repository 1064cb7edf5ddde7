#include "tests/cuda_conformance/driver.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "tests/cuda_conformance/kernels.h"

namespace causeway::conformance {

namespace {

struct Loaded {
  Api api;
  bool is_software = false;
  int version = 0;
};

[[noreturn]] void give_up(const std::string& why) {
  std::fprintf(stderr, "no driver to test: %s\n", why.c_str());
  std::exit(2);
}

Loaded load() {
  const char* named = std::getenv("CAUSEWAY_CUDA_LIBRARY");
  const std::string file = named != nullptr && *named != '\0' ? named : "libcuda.so.1";
  ::setenv("CUDA_MODULE_LOADING", "EAGER", 0);  // No look-up waits for a kernel that spins.
  void* const library = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) give_up(::dlerror());
  Loaded loaded;
  loaded.is_software = ::dlsym(library, "causeway_cuda_fail") != nullptr;
  auto& all = loaded.api;
  all.cuGetProcAddress =
      reinterpret_cast<GetProcAddressV2>(::dlsym(library, "cuGetProcAddress_v2"));
  if (all.cuGetProcAddress == nullptr) give_up(file + " is older than CUDA 12");
  const auto find = [&](const char* name, int version) {
    void* at = nullptr;
    int status = 0;
    const auto result = all.cuGetProcAddress(name, &at, version, kLegacyStream, &status);
    return result == kSuccess ? at : nullptr;
  };
#define CAUSEWAY_CUDA_FIND(name, suffix, version, parameters) \
  all.name = reinterpret_cast<Result(*) parameters>(find(#name, version));
  CAUSEWAY_CUDA_FUNCTIONS(CAUSEWAY_CUDA_FIND)
  CAUSEWAY_EMULATOR_FUNCTIONS(CAUSEWAY_CUDA_FIND)
#undef CAUSEWAY_CUDA_FIND
  all.cuCtxCreate =
      reinterpret_cast<Result (*)(Context*, unsigned, Device)>(find("cuCtxCreate", 3020));
  if (const auto result = all.cuInit(0); result != kSuccess)
    give_up("cuInit answers " + std::to_string(result));
  if (all.cuDriverGetVersion(&loaded.version) != kSuccess) give_up("cuDriverGetVersion");
  int count = 0;
  if (all.cuDeviceGetCount(&count) != kSuccess || count == 0) give_up("it shows no GPU");
  return loaded;
}

const Loaded& loaded() {
  static const auto* const once = new Loaded(load());
  return *once;
}

}  // namespace

const Api& api() { return loaded().api; }
bool is_software_driver() { return loaded().is_software; }
int driver_version() { return loaded().version; }

std::string name_of(Result result) {
  const char* name = nullptr;
  if (api().cuGetErrorName(result, &name) == kSuccess && name != nullptr) return name;
  return std::to_string(result);
}

void need(Result result, const char* call) {
  if (result == kSuccess) return;
  const auto text = std::string(call) + " answers " + name_of(result);
  if (doctest::is_running_in_test) FAIL(text);
  std::fprintf(stderr, "%s\n", text.c_str());
  throw std::runtime_error(text);
}

int attribute(int number, Device device) {
  int value = 0;
  NEED(api().cuDeviceGetAttribute(&value, number, device));
  return value;
}

namespace {

// Keeps a context from one case to the next: a card takes some tenths of a second for each anew.
void keep_first_context() {
  static const bool is_kept = [] {
    Context context = nullptr;
    NEED(api().cuDevicePrimaryCtxRetain(&context, 0));
    return std::atexit([] { (void)api().cuDevicePrimaryCtxRelease(0); }) == 0;
  }();
  (void)is_kept;
}

}  // namespace

Gpu::Gpu(Device device) : device_(device) {
  keep_first_context();
  NEED(api().cuDevicePrimaryCtxRetain(&context_, device));
  NEED(api().cuCtxPushCurrent(context_));
}

Gpu::~Gpu() {
  (void)api().cuCtxSynchronize();
  (void)api().cuCtxPopCurrent(nullptr);
  (void)api().cuDevicePrimaryCtxRelease(device_);
}

std::vector<std::uint8_t> DeviceBytes::read() const {
  std::vector<std::uint8_t> bytes(size_);
  NEED(api().cuMemcpyDtoH(bytes.data(), at_, size_));
  return bytes;
}

std::vector<std::uint32_t> DeviceBytes::words() const {
  std::vector<std::uint32_t> words(size_ / sizeof(std::uint32_t));
  NEED(api().cuMemcpyDtoH(words.data(), at_, words.size() * sizeof(std::uint32_t)));
  return words;
}

HostBytes::HostBytes(std::size_t size) {
  NEED(api().cuMemHostAlloc(&at_, size, kHostAllocPortable));
  std::fill_n(bytes(), size, std::uint8_t{0});
}

Code::Code() {
  NEED(api().cuModuleLoadData(&module_, kernel_image(is_software_driver())));
  for (const char* name : {"fill", "follow", "touch", "wait_flag", "mixed", "read_all"})
    NEED(api().cuModuleGetFunction(&functions_[name], module_, name));
}

Result Code::fill(Stream stream, DevicePtr out, std::uint32_t first, std::uint32_t count) {
  constexpr unsigned kBlock = 64;
  void* parameters[] = {&out, &first, &count};
  return api().cuLaunchKernel((*this)["fill"], (count + kBlock - 1) / kBlock, 1, 1, kBlock, 1, 1, 0,
                              stream, parameters, nullptr);
}

Result Code::touch(Stream stream, DevicePtr at) {
  void* parameters[] = {&at};
  return api().cuLaunchKernel((*this)["touch"], 1, 1, 1, 1, 1, 1, 0, stream, parameters, nullptr);
}

Result Code::wait_flag(Stream stream, DevicePtr flag, DevicePtr out) {
  void* parameters[] = {&flag, &out};
  return api().cuLaunchKernel((*this)["wait_flag"], 1, 1, 1, 1, 1, 1, 0, stream, parameters,
                              nullptr);
}

Gate::Gate(Code& code, Stream stream) : stream_(stream) {
  NEED(code.wait_flag(stream, flag_.at(), flag_.at() + 4));
}

AllocationProp device_memory(int handle_types, Device device) {
  AllocationProp prop;
  prop.type = kAllocationPinned;
  prop.handle_types = handle_types;
  prop.location = {kLocationDevice, device};
  return prop;
}

std::size_t granule() {
  const auto prop = device_memory();
  std::size_t size = 0;
  NEED(api().cuMemGetAllocationGranularity(&size, &prop, kGranularityMinimum));
  return size;
}

bool has_vmm() { return attribute(kAttributeVmm) == 1; }

Result grant(DevicePtr at, std::size_t size, int flags, Device device) {
  const AccessDesc desc{{kLocationDevice, device}, flags};
  return api().cuMemSetAccess(at, size, &desc, 1);
}

Mapped::Mapped(std::size_t granules, Grant grant_kind, int handle_types)
    : size_(granules * granule()) {
  const auto prop = device_memory(handle_types);
  NEED(api().cuMemAddressReserve(&at_, size_, 0, 0, 0));
  NEED(api().cuMemCreate(&handle_, size_, &prop, 0));
  NEED(api().cuMemMap(at_, size_, 0, handle_, 0));
  is_mapped_ = true;
  if (grant_kind == Grant::read_write) NEED(grant(at_, size_));
}

void Mapped::unmap() {
  is_mapped_ = false;
  NEED(api().cuMemUnmap(at_, size_));
}

Mapped::~Mapped() {
  if (is_mapped_) (void)api().cuMemUnmap(at_, size_);
  (void)api().cuMemRelease(handle_);
  (void)api().cuMemAddressFree(at_, size_);
}

}  // namespace causeway::conformance
