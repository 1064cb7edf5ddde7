// Plain memory, pinned memory, copies, fills, pools, what an address is.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "tests/cuda_conformance/driver.h"

using namespace causeway::conformance;

namespace {

constexpr std::size_t kSize = 64 << 10;

std::vector<std::uint8_t> pattern(std::size_t size) {
  std::vector<std::uint8_t> bytes(size);
  std::iota(bytes.begin(), bytes.end(), std::uint8_t{3});
  return bytes;
}

template <typename T>
T pointer_attribute(PointerAttribute attribute, DevicePtr at) {
  T value{};
  NEED(api().cuPointerGetAttribute(&value, attribute, at));
  return value;
}

std::uint64_t pool_attribute(Pool pool, PoolAttribute attribute) {
  std::uint64_t value = 0;
  NEED(api().cuMemPoolGetAttribute(pool, attribute, &value));
  return value;
}

constexpr int kHasPools = 115;

}  // namespace

TEST_CASE("memory: allocations that cannot be") {
  const Gpu gpu;
  DevicePtr at = 0;
  std::size_t free = 0;
  std::size_t total = 0;
  ANSWERS(api().cuMemAlloc(&at, 0), kInvalidValue);
  ANSWERS(api().cuMemAlloc(nullptr, 1), kInvalidValue);
  NEED(api().cuMemGetInfo(&free, &total));
  CHECK(free <= total);
  ANSWERS(api().cuMemAlloc(&at, 4 * total), kOutOfMemory);
}

TEST_CASE("memory: what is not an allocation's start is not freed") {
  const Gpu gpu;
  DevicePtr at = 0;
  NEED(api().cuMemAlloc(&at, kSize));
  ANSWERS(api().cuMemFree(at + 256), kInvalidValue);
  NEED(api().cuMemFree(at));
  ANSWERS(api().cuMemFree(at), kInvalidValue);
  int local = 0;
  ANSWERS(api().cuMemFree(reinterpret_cast<DevicePtr>(&local)), kInvalidValue);
}

TEST_CASE("memory: copies to, from and on the device") {
  const Gpu gpu;
  const DeviceBytes one(kSize);
  const DeviceBytes two(kSize);
  const OwnedStream stream;
  const auto bytes = pattern(kSize);
  NEED(api().cuMemcpyHtoD(one.at(), bytes.data(), kSize));
  CHECK(one.read() == bytes);
  NEED(api().cuMemcpyDtoD(two.at(), one.at(), kSize));
  CHECK(two.read() == bytes);
  NEED(api().cuMemsetD8(two.at(), 0, kSize));
  NEED(api().cuMemcpy(two.at(), reinterpret_cast<DevicePtr>(bytes.data()), kSize));
  CHECK(two.read() == bytes);
  const HostBytes host(kSize);
  NEED(api().cuMemcpyDtoHAsync(host.bytes(), one.at(), kSize, stream));
  NEED(api().cuStreamSynchronize(stream));
  CHECK(std::equal(bytes.begin(), bytes.end(), host.bytes()));
  NEED(api().cuMemsetD8Async(one.at(), 9, kSize, stream));
  NEED(api().cuMemcpyAsync(one.at() + 16, host.at(), 16, stream));
  NEED(api().cuMemcpyDtoDAsync(one.at() + 32, one.at() + 16, 16, stream));
  NEED(api().cuStreamSynchronize(stream));
  const auto mixed = one.read();
  CHECK(mixed[15] == 9);
  CHECK(std::equal(bytes.begin(), bytes.begin() + 16, mixed.begin() + 32));
  CHECK(mixed[48] == 9);
}

TEST_CASE("memory: copies between devices by their contexts") {
  const Gpu gpu;
  const DeviceBytes one(kSize);
  const DeviceBytes two(kSize);
  const OwnedStream stream;
  const auto bytes = pattern(kSize);
  NEED(api().cuMemcpyHtoD(one.at(), bytes.data(), kSize));
  NEED(api().cuMemcpyPeer(two.at(), gpu.context(), one.at(), gpu.context(), kSize));
  CHECK(two.read() == bytes);
  NEED(api().cuMemsetD8(two.at(), 0, kSize));
  NEED(api().cuCtxSynchronize());
  NEED(api().cuMemcpyPeerAsync(two.at(), gpu.context(), one.at(), gpu.context(), kSize, stream));
  NEED(api().cuStreamSynchronize(stream));
  CHECK(two.read() == bytes);
}

TEST_CASE("memory: copies that cannot be") {
  const Gpu gpu;
  const DeviceBytes device(4096);
  std::vector<std::uint8_t> host(4096);
  NEED(api().cuMemcpyHtoD(device.at(), host.data(), 0));
  ANSWERS(api().cuMemcpyHtoD(0, host.data(), 16), kInvalidValue);
  ANSWERS(api().cuMemcpyDtoH(host.data(), 0, 16), kInvalidValue);
  std::vector<std::uint8_t> large(std::size_t{64} << 20);
  ANSWERS(api().cuMemcpyHtoD(device.at(), large.data(), large.size()), kInvalidValue);
}

TEST_CASE("memory: fills of one, two and four bytes") {
  const Gpu gpu;
  const DeviceBytes device(64);
  const OwnedStream stream;
  NEED(api().cuMemsetD32(device.at(), 0x01020304, 16));
  NEED(api().cuCtxSynchronize());
  NEED(api().cuMemsetD16Async(device.at() + 4, 0xbbaa, 2, stream));
  NEED(api().cuMemsetD8Async(device.at() + 8, 0xcc, 3, stream));
  NEED(api().cuMemsetD32Async(device.at() + 12, 0xdddddddd, 1, stream));
  NEED(api().cuStreamSynchronize(stream));
  const auto words = device.words();
  CHECK(words[0] == 0x01020304);
  CHECK(words[1] == 0xbbaabbaa);
  CHECK(words[2] == 0x01cccccc);
  CHECK(words[3] == 0xdddddddd);
  CHECK(words[15] == 0x01020304);
  NEED(api().cuMemsetD16(device.at(), 0x1234, 1));
  NEED(api().cuMemsetD8(device.at() + 2, 0x56, 1));
  NEED(api().cuCtxSynchronize());
  CHECK(device.words()[0] == 0x01561234);
  ANSWERS(api().cuMemsetD32(device.at() + 2, 0, 1), kInvalidValue);
  ANSWERS(api().cuMemsetD16(device.at() + 1, 0, 1), kInvalidValue);
  NEED(api().cuMemsetD32(device.at(), 0, 0));
}

TEST_CASE("memory: rectangles") {
  const Gpu gpu;
  constexpr std::size_t kWidth = 100;
  constexpr std::size_t kHeight = 7;
  DevicePtr at = 0;
  std::size_t pitch = 0;
  ANSWERS(api().cuMemAllocPitch(&at, &pitch, kWidth, kHeight, 3), kInvalidValue);
  NEED(api().cuMemAllocPitch(&at, &pitch, kWidth, kHeight, 4));
  CHECK(pitch >= kWidth);
  const auto from = pattern(kWidth * kHeight);
  std::vector<std::uint8_t> to(kWidth * kHeight);
  Copy2d copy;
  copy.from_type = kMemoryHost;
  copy.from_host = from.data();
  copy.from_pitch = kWidth;
  copy.to_type = kMemoryDevice;
  copy.to_device = at;
  copy.to_pitch = pitch;
  copy.width = kWidth;
  copy.height = kHeight;
  NEED(api().cuMemcpy2D(&copy));
  Copy2d back;
  back.from_type = kMemoryDevice;
  back.from_device = at;
  back.from_pitch = pitch;
  back.from_x = 10;
  back.from_y = 2;
  back.to_type = kMemoryHost;
  back.to_host = to.data();
  back.to_pitch = kWidth;
  back.width = 20;
  back.height = 3;
  NEED(api().cuMemcpy2D(&back));
  for (std::size_t row = 0; row < 3; ++row)
    CHECK(std::equal(&to[row * kWidth], &to[row * kWidth] + 20, &from[(row + 2) * kWidth + 10]));
  CHECK(to[20] == 0);
  const OwnedStream stream;
  NEED(api().cuMemcpy2DUnaligned(&back));
  NEED(api().cuMemcpy2DAsync(&back, stream));
  NEED(api().cuStreamSynchronize(stream));
  back.width = pitch + 1;
  ANSWERS(api().cuMemcpy2D(&back), kInvalidValue);
  NEED(api().cuMemFree(at));
}

TEST_CASE("host memory: pinned, and reached by kernels under its own address") {
  const Gpu gpu;
  Code code;
  const HostBytes host(4096);
  DevicePtr at = 0;
  unsigned flags = 0;
  NEED(api().cuMemHostGetDevicePointer(&at, host.bytes(), 0));
  CHECK(at == host.at());
  NEED(api().cuMemHostGetFlags(&flags, host.bytes()));
  CHECK((flags & kHostAllocPortable) != 0);
  NEED(code.fill(nullptr, at, 5, 100));
  NEED(api().cuCtxSynchronize());
  CHECK(host.word(99) == 104);
  void* none = nullptr;
  ANSWERS(api().cuMemHostAlloc(&none, 0, 0), kInvalidValue);
  ANSWERS(api().cuMemHostAlloc(&none, 16, 0x100), kInvalidValue);
  int local = 0;
  ANSWERS(api().cuMemHostGetDevicePointer(&at, &local, 0), kInvalidValue);
}

TEST_CASE("host memory: registered afterwards") {
  const Gpu gpu;
  Code code;
  constexpr std::size_t kPage = 4096;
  std::vector<std::uint32_t> memory(4 * kPage / sizeof(std::uint32_t));
  auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  address = (address + kPage - 1) / kPage * kPage;
  auto* const at = reinterpret_cast<std::uint32_t*>(address);
  ANSWERS(api().cuMemHostRegister(at, 0, 0), kInvalidValue);
  NEED(api().cuMemHostRegister(at, 2 * kPage, 0));
  ANSWERS(api().cuMemHostRegister(at, 2 * kPage, 0), kHostMemoryAlreadyRegistered);
  DevicePtr device = 0;
  NEED(api().cuMemHostGetDevicePointer(&device, at, 0));
  NEED(code.fill(nullptr, device, 7, 10));
  NEED(api().cuCtxSynchronize());
  CHECK(at[9] == 16);
  CHECK(pointer_attribute<unsigned>(kPointerMemoryType, device) == kMemoryHost);
  NEED(api().cuMemHostUnregister(at));
  ANSWERS(api().cuMemHostUnregister(at), kHostMemoryNotRegistered);
}

TEST_CASE("address: what it is") {
  const Gpu gpu;
  const DeviceBytes device(kSize);
  const HostBytes host(kSize);
  CHECK(pointer_attribute<unsigned>(kPointerMemoryType, device.at() + 5) == kMemoryDevice);
  CHECK(pointer_attribute<unsigned>(kPointerMemoryType, host.at() + 5) == kMemoryHost);
  CHECK(pointer_attribute<int>(kPointerDeviceOrdinal, device.at()) == gpu.device());
  CHECK(pointer_attribute<Context>(kPointerContext, device.at()) == gpu.context());
  CHECK(pointer_attribute<DevicePtr>(kPointerDevicePointer, device.at() + 8) == device.at() + 8);
  CHECK(pointer_attribute<void*>(kPointerHostPointer, host.at() + 8) == host.bytes() + 8);
  CHECK(pointer_attribute<DevicePtr>(kPointerRangeStart, device.at() + 8) == device.at());
  CHECK(pointer_attribute<std::size_t>(kPointerRangeSize, device.at() + 8) == kSize);
  CHECK(pointer_attribute<unsigned>(kPointerIsManaged, device.at()) % 256 == 0);
  unsigned long long id = 0;
  NEED(api().cuPointerGetAttribute(&id, kPointerBufferId, device.at()));
  CHECK(id == pointer_attribute<unsigned long long>(kPointerBufferId, device.at() + 100));
  CHECK(id != pointer_attribute<unsigned long long>(kPointerBufferId, host.at()));
  void* host_pointer = nullptr;
  ANSWERS(api().cuPointerGetAttribute(&host_pointer, kPointerHostPointer, device.at()),
          kInvalidValue);
}

TEST_CASE("address: of nobody") {
  const Gpu gpu;
  std::vector<int> local(1000);
  const auto at = reinterpret_cast<DevicePtr>(local.data());
  unsigned type = 77;
  ANSWERS(api().cuPointerGetAttribute(&type, kPointerMemoryType, at), kInvalidValue);
  Context context = gpu.context();
  PointerAttribute which[] = {kPointerMemoryType, kPointerContext};
  void* data[] = {&type, &context};
  NEED(api().cuPointerGetAttributes(2, which, data, at));  // Asked for several it is no error.
  CHECK(type == 0);
  CHECK(context == nullptr);
}

TEST_CASE("address: the allocation around it") {
  const Gpu gpu;
  const DeviceBytes device(kSize);
  DevicePtr base = 0;
  std::size_t size = 0;
  NEED(api().cuMemGetAddressRange(&base, &size, device.at() + 1000));
  CHECK(base == device.at());
  CHECK(size == kSize);
  NEED(api().cuMemGetAddressRange(nullptr, &size, device.at()));
  NEED(api().cuMemGetAddressRange(&base, nullptr, device.at()));
  CHECK(api().cuMemGetAddressRange(&base, &size, 16) != kSuccess);
}

TEST_CASE("pools: memory in the order of a stream") {
  const Gpu gpu;
  SKIP_WITHOUT(attribute(kHasPools) == 1);
  Code code;
  const OwnedStream stream;
  Pool pool = nullptr;
  NEED(api().cuDeviceGetDefaultMemPool(&pool, gpu.device()));
  const auto used = pool_attribute(pool, kPoolUsedCurrent);
  DevicePtr at = 0;
  std::vector<std::uint32_t> words(100);
  NEED(api().cuMemAllocAsync(&at, kSize, stream));
  NEED(code.fill(stream, at, 1, 100));
  NEED(api().cuMemcpyDtoHAsync(words.data(), at, 400, stream));
  CHECK(pool_attribute(pool, kPoolUsedCurrent) >= used + kSize);
  NEED(api().cuMemFreeAsync(at, stream));
  NEED(api().cuStreamSynchronize(stream));
  CHECK(words[99] == 100);
  CHECK(pool_attribute(pool, kPoolUsedCurrent) == used);
  ANSWERS(api().cuMemAllocAsync(&at, 0, stream), kInvalidValue);
  ANSWERS(api().cuMemFreeAsync(16, stream), kInvalidValue);
}

TEST_CASE("pools: one keeps what its threshold says") {
  const Gpu gpu;
  SKIP_WITHOUT(attribute(kHasPools) == 1);
  const OwnedStream stream;
  PoolProps props;
  props.type = kAllocationPinned;
  props.location = {kLocationDevice, gpu.device()};
  Pool pool = nullptr;
  NEED(api().cuMemPoolCreate(&pool, &props));
  CHECK(pool_attribute(pool, kPoolReleaseThreshold) == 0);
  std::uint64_t threshold = ~std::uint64_t{0};
  NEED(api().cuMemPoolSetAttribute(pool, kPoolReleaseThreshold, &threshold));
  CHECK(pool_attribute(pool, kPoolReleaseThreshold) == threshold);
  DevicePtr at = 0;
  NEED(api().cuMemAllocFromPoolAsync(&at, kSize, pool, stream));
  CHECK(pointer_attribute<Pool>(kPointerPool, at) == pool);
  NEED(api().cuMemFreeAsync(at, stream));
  NEED(api().cuStreamSynchronize(stream));
  CHECK(pool_attribute(pool, kPoolUsedCurrent) == 0);
  CHECK(pool_attribute(pool, kPoolUsedHigh) >= kSize);
  CHECK(pool_attribute(pool, kPoolReservedCurrent) >= kSize);
  NEED(api().cuMemPoolTrimTo(pool, 0));
  CHECK(pool_attribute(pool, kPoolReservedCurrent) == 0);
  NEED(api().cuMemPoolDestroy(pool));
}

TEST_CASE("pools: the device's current one") {
  const Gpu gpu;
  SKIP_WITHOUT(attribute(kHasPools) == 1);
  PoolProps props;
  props.type = kAllocationPinned;
  props.location = {kLocationDevice, gpu.device()};
  Pool standard = nullptr;
  Pool own = nullptr;
  Pool current = nullptr;
  NEED(api().cuDeviceGetDefaultMemPool(&standard, gpu.device()));
  NEED(api().cuMemPoolCreate(&own, &props));
  NEED(api().cuDeviceSetMemPool(gpu.device(), own));
  NEED(api().cuDeviceGetMemPool(&current, gpu.device()));
  CHECK(current == own);
  NEED(api().cuMemPoolDestroy(own));  // The standard one takes its place again.
  NEED(api().cuDeviceGetMemPool(&current, gpu.device()));
  CHECK(current == standard);
  CHECK(api().cuMemPoolDestroy(standard) != kSuccess);
  int flags = -1;
  Location place{kLocationDevice, gpu.device()};
  NEED(api().cuMemPoolGetAccess(&flags, standard, &place));
  CHECK(flags == kAccessReadWrite);
}

TEST_CASE("pools: what they gave may be freed for good") {
  const Gpu gpu;
  SKIP_WITHOUT(attribute(kHasPools) == 1);
  const OwnedStream stream;
  DevicePtr at = 0;
  NEED(api().cuMemAllocAsync(&at, kSize, stream));
  NEED(api().cuStreamSynchronize(stream));
  NEED(api().cuMemFree(at));
}
