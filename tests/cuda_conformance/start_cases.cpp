// The driver's start: look-ups, errors, devices, contexts.
#include "tests/cuda_conformance/driver.h"

using namespace causeway::conformance;

namespace {

void* look_up(const char* name, int version, std::uint64_t flags = kLegacyStream) {
  void* at = nullptr;
  int status = 0;
  (void)api().cuGetProcAddress(name, &at, version, flags, &status);
  CHECK((status == 0) == (at != nullptr));
  return at;
}

}  // namespace

TEST_CASE("start: errors have names and texts") {
  const char* text = nullptr;
  CHECK(name_of(kInvalidValue) == "CUDA_ERROR_INVALID_VALUE");
  CHECK(name_of(kCaptureImplicit) == "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT");
  NEED(api().cuGetErrorString(kOutOfMemory, &text));
  CHECK(std::string(text) == "out of memory");
  ANSWERS(api().cuGetErrorName(123456, &text), kInvalidValue);
  CHECK(text == nullptr);
  ANSWERS(api().cuGetErrorString(123456, &text), kInvalidValue);
}

TEST_CASE("start: a look-up gives the signature that the caller was written for") {
  CHECK(look_up("cuNoSuchFunction", 12000) == nullptr);
  CHECK(look_up("cuLaunchKernelEx", 11050) == nullptr);  // Newer than the caller.
  CHECK(look_up("cuLaunchKernelEx", 11060) != nullptr);
  CHECK(look_up("cuGetProcAddress", 12000) == reinterpret_cast<void*>(api().cuGetProcAddress));
  CHECK(look_up("cuGetProcAddress", 11030) != look_up("cuGetProcAddress", 12000));
  SKIP_WITHOUT(driver_version() >= 12030);
  CHECK(look_up("cuStreamGetCaptureInfo", 11030) != look_up("cuStreamGetCaptureInfo", 12030));
}

TEST_CASE("start: a look-up knows the twins for a thread's own default stream") {
  CHECK(look_up("cuMemcpyAsync", 12000, kPerThreadStream) != look_up("cuMemcpyAsync", 12000));
  CHECK(look_up("cuLaunchKernel", 12000, kPerThreadStream) != look_up("cuLaunchKernel", 12000));
  CHECK(look_up("cuMemAlloc", 12000, kPerThreadStream) == look_up("cuMemAlloc", 12000));
  CHECK(look_up("cuMemCreate", 12000, kPerThreadStream) == look_up("cuMemCreate", 12000));
}

TEST_CASE("start: devices") {
  int count = 0;
  Device device = -1;
  std::size_t bytes = 0;
  int value = 0;
  NEED(api().cuDeviceGetCount(&count));
  NEED(api().cuDeviceGet(&device, 0));
  NEED(api().cuDeviceTotalMem(&bytes, device));
  CHECK(bytes > 0);
  ANSWERS(api().cuDeviceGet(&device, count), kInvalidDevice);
  ANSWERS(api().cuDeviceGet(&device, -1), kInvalidDevice);
  ANSWERS(api().cuDeviceGet(nullptr, 0), kInvalidValue);
  ANSWERS(api().cuDeviceGetAttribute(&value, kAttributeComputeMajor, count), kInvalidDevice);
  ANSWERS(api().cuDeviceGetAttribute(nullptr, kAttributeComputeMajor, 0), kInvalidValue);
  CHECK(attribute(kAttributeComputeMajor) >= 5);
  char name[8] = "xxxxxxx";
  NEED(api().cuDeviceGetName(name, 4, 0));
  CHECK(name[3] == '\0');  // Cut to fit.
}

TEST_CASE("start: an export table that nobody has") {
  const void* table = &table;
  const Uuid none{};
  CHECK(api().cuGetExportTable(&table, &none) != kSuccess);
}

TEST_CASE("context: without one there is nothing to allocate in") {
  elsewhere([] {
    Context context = reinterpret_cast<Context>(&context);
    DevicePtr at = 0;
    Device device = 0;
    NEED(api().cuCtxGetCurrent(&context));
    CHECK(context == nullptr);
    ANSWERS(api().cuMemAlloc(&at, 4096), kInvalidContext);
    ANSWERS(api().cuCtxGetDevice(&device), kInvalidContext);
    ANSWERS(api().cuCtxSynchronize(), kInvalidContext);
    ANSWERS(api().cuCtxPopCurrent(nullptr), kInvalidContext);
  });
}

TEST_CASE("context: a stack for each thread") {
  const Gpu gpu;
  Context current = nullptr;
  NEED(api().cuCtxGetCurrent(&current));
  CHECK(current == gpu.context());
  NEED(api().cuCtxPushCurrent(gpu.context()));
  NEED(api().cuCtxPopCurrent(&current));
  CHECK(current == gpu.context());
  NEED(api().cuCtxGetCurrent(&current));
  CHECK(current == gpu.context());
  elsewhere([&] {
    Context other = nullptr;
    NEED(api().cuCtxSetCurrent(gpu.context()));
    NEED(api().cuCtxGetCurrent(&other));
    CHECK(other == gpu.context());
    NEED(api().cuCtxSetCurrent(nullptr));
    NEED(api().cuCtxGetCurrent(&other));
    CHECK(other == nullptr);
  });
}

TEST_CASE("context: the primary one is shared, and active while held") {
  const Gpu gpu;
  Context again = nullptr;
  unsigned flags = 0;
  int active = 0;
  NEED(api().cuDevicePrimaryCtxRetain(&again, gpu.device()));
  CHECK(again == gpu.context());
  NEED(api().cuDevicePrimaryCtxRelease(gpu.device()));
  NEED(api().cuDevicePrimaryCtxGetState(gpu.device(), &flags, &active));
  CHECK(active == 1);
  CHECK(api().cuCtxDestroy(gpu.context()) != kSuccess);
}

TEST_CASE("context: one of one's own takes what was made in it along") {
  const Gpu gpu;
  Context own = nullptr;
  Context current = nullptr;
  DevicePtr at = 0;
  Device device = -1;
  NEED(api().cuCtxCreate(&own, 0, gpu.device()));
  NEED(api().cuCtxGetCurrent(&current));
  CHECK(current == own);
  NEED(api().cuCtxGetDevice(&device));
  CHECK(device == gpu.device());
  NEED(api().cuMemAlloc(&at, 1 << 20));
  NEED(api().cuCtxDestroy(own));
  NEED(api().cuCtxGetCurrent(&current));
  CHECK(current == gpu.context());
  ANSWERS(api().cuMemFree(at), kInvalidValue);
}

TEST_CASE("context: one that was destroyed under another thread says so") {
  const Gpu gpu;
  Context own = nullptr;
  NEED(api().cuCtxCreate(&own, 0, gpu.device()));
  elsewhere([&] {
    NEED(api().cuCtxSetCurrent(own));
    elsewhere([&] { NEED(api().cuCtxDestroy(own)); });
    ANSWERS(api().cuCtxSynchronize(), kContextIsDestroyed);
    NEED(api().cuCtxSetCurrent(nullptr));
  });
  NEED(api().cuCtxPopCurrent(nullptr));
}

TEST_CASE("context: priorities of streams") {
  const Gpu gpu;
  int least = 1;
  int greatest = 1;
  NEED(api().cuCtxGetStreamPriorityRange(&least, &greatest));
  CHECK(least == 0);
  CHECK(greatest <= least);
  for (const auto& [asked, given] :
       {std::pair{least + 5, least}, {greatest - 5, greatest}, {greatest, greatest}}) {
    Stream stream = nullptr;
    int priority = 1;
    unsigned flags = 0;
    NEED(api().cuStreamCreateWithPriority(&stream, kStreamNonBlocking, asked));
    NEED(api().cuStreamGetPriority(stream, &priority));
    NEED(api().cuStreamGetFlags(stream, &flags));
    CHECK(priority == given);
    CHECK(flags == kStreamNonBlocking);
    NEED(api().cuStreamDestroy(stream));
  }
}

TEST_CASE("context: peers") {
  int count = 0;
  NEED(api().cuDeviceGetCount(&count));
  int can = 1;
  NEED(api().cuDeviceCanAccessPeer(&can, 0, 0));
  CHECK(can == 0);
  ANSWERS(api().cuDeviceCanAccessPeer(&can, 0, count), kInvalidDevice);
  SKIP_WITHOUT(count > 1);
  NEED(api().cuDeviceCanAccessPeer(&can, 0, 1));
  int attribute_value = -1;
  constexpr int kAccessSupported = 2;
  NEED(api().cuDeviceGetP2PAttribute(&attribute_value, kAccessSupported, 0, 1));
  CHECK(attribute_value == can);
  const Gpu other(1);
  const Gpu gpu(0);
  if (can == 0) {
    ANSWERS(api().cuCtxEnablePeerAccess(other.context(), 0), kPeerAccessUnsupported);
    return;
  }
  NEED(api().cuCtxEnablePeerAccess(other.context(), 0));
  ANSWERS(api().cuCtxEnablePeerAccess(other.context(), 0), kPeerAccessAlreadyEnabled);
  NEED(api().cuCtxDisablePeerAccess(other.context()));
  ANSWERS(api().cuCtxDisablePeerAccess(other.context()), kPeerAccessNotEnabled);
}
