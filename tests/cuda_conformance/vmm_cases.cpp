// Virtual memory management: handles, ranges, mappings, access, descriptors.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "tests/cuda_conformance/driver.h"

using namespace causeway::conformance;

namespace {

constexpr int kPosixFd = 103;

Handle create(const AllocationProp& prop, std::size_t size = granule()) {
  Handle handle = 0;
  NEED(api().cuMemCreate(&handle, size, &prop, 0));
  return handle;
}

unsigned long long access_of(DevicePtr at, Device device = 0) {
  unsigned long long flags = 99;
  const Location place{kLocationDevice, device};
  NEED(api().cuMemGetAccess(&flags, &place, at));
  return flags;
}

std::uint32_t word_at(DevicePtr at) {
  std::uint32_t word = 0;
  NEED(api().cuMemcpyDtoH(&word, at, sizeof word));
  return word;
}

void write_word(DevicePtr at, std::uint32_t word) {
  NEED(api().cuMemsetD32(at, word, 1));
  NEED(api().cuCtxSynchronize());
}

}  // namespace

TEST_CASE("vmm: sizes come in granules") {
  const Gpu gpu;
  SKIP_WITHOUT(has_vmm());
  CHECK(granule() > 0);
  CHECK((granule() & (granule() - 1)) == 0);
  Handle handle = 0;
  DevicePtr at = 0;
  const auto prop = device_memory();
  ANSWERS(api().cuMemCreate(&handle, granule() + 4096, &prop, 0), kInvalidValue);
  ANSWERS(api().cuMemCreate(&handle, 0, &prop, 0), kInvalidValue);
  ANSWERS(api().cuMemCreate(&handle, granule(), nullptr, 0), kInvalidValue);
  ANSWERS(api().cuMemAddressReserve(&at, 0, 0, 0, 0), kInvalidValue);
  ANSWERS(api().cuMemAddressReserve(&at, granule(), 3 * 4096, 0, 0), kInvalidValue);
  std::size_t total = 0;
  NEED(api().cuDeviceTotalMem(&total, 0));
  const auto too_much = (total / granule() + 1) * granule() * 2;
  ANSWERS(api().cuMemCreate(&handle, too_much, &prop, 0), kOutOfMemory);
}

TEST_CASE("vmm: a range has the alignment that was asked for") {
  const Gpu gpu;
  SKIP_WITHOUT(has_vmm());
  DevicePtr at = 0;
  NEED(api().cuMemAddressReserve(&at, granule(), 16 * granule(), 0, 0));
  CHECK(at % (16 * granule()) == 0);
  CHECK(api().cuMemAddressFree(at, 2 * granule()) != kSuccess);
  NEED(api().cuMemAddressFree(at, granule()));
}

TEST_CASE("vmm: a handle says what it is, and is released once") {
  const Gpu gpu;
  SKIP_WITHOUT(has_vmm());
  const auto handle = create(device_memory());
  AllocationProp prop;
  NEED(api().cuMemGetAllocationPropertiesFromHandle(&prop, handle));
  CHECK(prop.type == kAllocationPinned);
  CHECK(prop.location == Location{kLocationDevice, 0});
  NEED(api().cuMemRelease(handle));
  ANSWERS(api().cuMemRelease(handle), kInvalidValue);
}

TEST_CASE("vmm: mappings that cannot be") {
  const Gpu gpu;
  SKIP_WITHOUT(has_vmm());
  const auto size = granule();
  const auto handle = create(device_memory());
  DevicePtr at = 0;
  NEED(api().cuMemAddressReserve(&at, 4 * size, 0, 0, 0));
  ANSWERS(api().cuMemMap(at, 2 * size, 0, handle, 0), kInvalidValue);  // More than it has.
  ANSWERS(api().cuMemMap(at + 4096, size, 0, handle, 0), kInvalidValue);
  ANSWERS(api().cuMemMap(at, size, 0, handle, 1), kInvalidValue);
  NEED(api().cuMemMap(at, size, 0, handle, 0));
  ANSWERS(api().cuMemMap(at, size, 0, handle, 0), kInvalidValue);  // There is one.
  ANSWERS(api().cuMemUnmap(at + size, size), kInvalidValue);       // There is none.
  NEED(api().cuMemUnmap(at, size));
  NEED(api().cuMemRelease(handle));
  NEED(api().cuMemAddressFree(at, 4 * size));
}

TEST_CASE("vmm: a mapping goes as a whole") {
  const Gpu gpu;
  SKIP_WITHOUT(has_vmm());
  Mapped two(2);
  ANSWERS(api().cuMemUnmap(two.at(), granule()), kInvalidValue);
  write_word(two.at() + granule(), 5);
  CHECK(word_at(two.at() + granule()) == 5);
}

TEST_CASE("vmm: access begins with nothing") {
  const Gpu gpu;
  SKIP_WITHOUT(has_vmm());
  Mapped memory(1, Mapped::Grant::none);
  CHECK(access_of(memory.at()) == kAccessNone);
  NEED(grant(memory.at(), memory.size()));
  CHECK(access_of(memory.at()) == kAccessReadWrite);
  write_word(memory.at(), 6);
  CHECK(word_at(memory.at()) == 6);
  ANSWERS(api().cuMemSetAccess(memory.at(), memory.size(), nullptr, 1), kInvalidValue);
}

TEST_CASE("vmm: access needs a mapping for all of the range") {
  const Gpu gpu;
  SKIP_WITHOUT(has_vmm());
  DevicePtr at = 0;
  NEED(api().cuMemAddressReserve(&at, 2 * granule(), 0, 0, 0));
  ANSWERS(grant(at, granule()), kInvalidValue);
  const auto handle = create(device_memory());
  NEED(api().cuMemMap(at, granule(), 0, handle, 0));
  ANSWERS(grant(at, 2 * granule()), kInvalidValue);
  NEED(grant(at, granule()));
  NEED(api().cuMemUnmap(at, granule()));
  NEED(api().cuMemRelease(handle));
  NEED(api().cuMemAddressFree(at, 2 * granule()));
}

TEST_CASE("vmm: one handle at two addresses is the same bytes") {
  const Gpu gpu;
  SKIP_WITHOUT(has_vmm());
  const Mapped one;
  DevicePtr other = 0;
  NEED(api().cuMemAddressReserve(&other, granule(), 0, 0, 0));
  NEED(api().cuMemMap(other, granule(), 0, one.handle(), 0));
  NEED(grant(other, granule()));
  write_word(one.at() + 64, 7);
  CHECK(word_at(other + 64) == 7);
  NEED(api().cuMemUnmap(other, granule()));
  NEED(api().cuMemAddressFree(other, granule()));
}

TEST_CASE("vmm: another handle under the same address is other bytes") {
  const Gpu gpu;
  SKIP_WITHOUT(has_vmm());
  const Mapped two(1);
  const auto first = create(device_memory());
  const auto second = create(device_memory());
  DevicePtr at = 0;
  NEED(api().cuMemAddressReserve(&at, granule(), 0, 0, 0));
  for (const auto handle : {first, second}) {
    NEED(api().cuMemMap(at, granule(), 0, handle, 0));
    NEED(grant(at, granule()));
    write_word(at, handle == first ? 1 : 2);
    NEED(api().cuMemUnmap(at, granule()));
  }
  NEED(api().cuMemMap(at, granule(), 0, first, 0));
  CHECK(access_of(at) == kAccessNone);  // A grant goes with its mapping.
  NEED(grant(at, granule()));
  CHECK(word_at(at) == 1);
  NEED(api().cuMemUnmap(at, granule()));
  NEED(api().cuMemAddressFree(at, granule()));
  NEED(api().cuMemRelease(first));
  NEED(api().cuMemRelease(second));
}

TEST_CASE("vmm: a mapping holds the memory whose handle is gone") {
  const Gpu gpu;
  SKIP_WITHOUT(has_vmm());
  const auto handle = create(device_memory());
  DevicePtr at = 0;
  NEED(api().cuMemAddressReserve(&at, granule(), 0, 0, 0));
  NEED(api().cuMemMap(at, granule(), 0, handle, 0));
  NEED(api().cuMemRelease(handle));
  NEED(grant(at, granule()));
  write_word(at, 8);
  CHECK(word_at(at) == 8);
  Handle again = 0;
  NEED(api().cuMemRetainAllocationHandle(&again, reinterpret_cast<void*>(at + 100)));
  NEED(api().cuMemUnmap(at, granule()));
  NEED(api().cuMemMap(at, granule(), 0, again, 0));
  NEED(grant(at, granule()));
  CHECK(word_at(at) == 8);
  NEED(api().cuMemUnmap(at, granule()));
  NEED(api().cuMemRelease(again));
  NEED(api().cuMemAddressFree(at, granule()));
}

TEST_CASE("vmm: a handle that is retained is released as often") {
  const Gpu gpu;
  SKIP_WITHOUT(has_vmm());
  const Mapped memory;
  Handle again = 0;
  NEED(api().cuMemRetainAllocationHandle(&again, reinterpret_cast<void*>(memory.at())));
  CHECK(again == memory.handle());
  NEED(api().cuMemRelease(again));
  int local = 0;
  ANSWERS(api().cuMemRetainAllocationHandle(&again, &local), kInvalidValue);
}

TEST_CASE("vmm: kernels and fills cross from mapping to mapping") {
  const Gpu gpu;
  SKIP_WITHOUT(has_vmm());
  Code code;
  const auto size = granule();
  const auto first = create(device_memory());
  const auto second = create(device_memory());
  DevicePtr at = 0;
  NEED(api().cuMemAddressReserve(&at, 2 * size, 0, 0, 0));
  NEED(api().cuMemMap(at, size, 0, first, 0));
  NEED(api().cuMemMap(at + size, size, 0, second, 0));
  NEED(grant(at, 2 * size));
  NEED(code.fill(nullptr, at + size - 64, 1, 32));
  NEED(api().cuCtxSynchronize());
  CHECK(word_at(at + size - 4) == 16);
  CHECK(word_at(at + size) == 17);
  NEED(api().cuMemsetD8(at + size - 8, 0xee, 16));
  NEED(api().cuCtxSynchronize());
  CHECK(word_at(at + size + 4) == 0xeeeeeeee);
  NEED(api().cuMemUnmap(at, 2 * size));  // Both at once.
  NEED(api().cuMemRelease(first));
  NEED(api().cuMemRelease(second));
  NEED(api().cuMemAddressFree(at, 2 * size));
}

TEST_CASE("vmm: an address knows its mapping, and has no handle of the old kind") {
  const Gpu gpu;
  SKIP_WITHOUT(has_vmm());
  const Mapped memory;
  DevicePtr base = 0;
  std::size_t size = 0;
  NEED(api().cuMemGetAddressRange(&base, &size, memory.at() + 4096));
  CHECK(base == memory.at());
  CHECK(size == memory.size());
  unsigned type = 0;
  unsigned is_capable = 0;
  NEED(api().cuPointerGetAttribute(&type, kPointerMemoryType, memory.at()));
  CHECK(type == kMemoryDevice);
  NEED(api().cuPointerGetAttribute(&is_capable, kPointerIsIpcCapable, memory.at()));
  CHECK(is_capable % 256 == 0);
  IpcMemHandle handle;
  ANSWERS(api().cuIpcGetMemHandle(&handle, memory.at()), kInvalidValue);
}

TEST_CASE("vmm: a descriptor stands for the memory") {
  const Gpu gpu;
  SKIP_WITHOUT(has_vmm());
  SKIP_WITHOUT(attribute(kPosixFd) == 1);
  const Mapped memory(2, Mapped::Grant::read_write, kHandleTypePosixFd);
  write_word(memory.at() + granule(), 9);
  int fd = -1;
  NEED(api().cuMemExportToShareableHandle(&fd, memory.handle(), kHandleTypePosixFd, 0));
  Handle imported = 0;
  NEED(api().cuMemImportFromShareableHandle(
      &imported, reinterpret_cast<void*>(static_cast<std::intptr_t>(fd)), kHandleTypePosixFd));
  NEED(::close(fd) == 0 ? kSuccess : kUnknown);
  DevicePtr at = 0;
  NEED(api().cuMemAddressReserve(&at, 4 * granule(), 0, 0, 0));
  ANSWERS(api().cuMemMap(at, 3 * granule(), 0, imported, 0), kInvalidValue);  // So a size shows.
  NEED(api().cuMemMap(at, 2 * granule(), 0, imported, 0));
  NEED(grant(at, 2 * granule()));
  CHECK(word_at(at + granule()) == 9);
  NEED(api().cuMemUnmap(at, 2 * granule()));
  NEED(api().cuMemRelease(imported));
  NEED(api().cuMemAddressFree(at, 4 * granule()));
}

TEST_CASE("vmm: what was not made to be exported is not, and no file is memory") {
  const Gpu gpu;
  SKIP_WITHOUT(has_vmm());
  SKIP_WITHOUT(attribute(kPosixFd) == 1);
  const auto handle = create(device_memory());
  int fd = -1;
  const auto exported = api().cuMemExportToShareableHandle(&fd, handle, kHandleTypePosixFd, 0);
  CHECK(exported != kSuccess);
  NEED(api().cuMemRelease(handle));
  const int other = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  Handle imported = 0;
  const auto result = api().cuMemImportFromShareableHandle(
      &imported, reinterpret_cast<void*>(static_cast<std::intptr_t>(other)), kHandleTypePosixFd);
  CHECK(result != kSuccess);
  MESSAGE("export: " << name_of(exported) << ", import of /dev/null: " << name_of(result));
  ::close(other);
}

TEST_CASE("vmm: memory of the host's NUMA node, for the GPU and for the processor") {
  const Gpu gpu;
  SKIP_WITHOUT(has_vmm());
  SKIP_WITHOUT(attribute(kAttributeHostNumaVmm) == 1);
  Code code;
  AllocationProp prop;
  prop.type = kAllocationPinned;
  prop.location = {kLocationHostNuma, std::max(attribute(kAttributeHostNumaId), 0)};
  std::size_t size = 0;
  NEED(api().cuMemGetAllocationGranularity(&size, &prop, kGranularityMinimum));
  const auto handle = create(prop, size);
  DevicePtr at = 0;
  NEED(api().cuMemAddressReserve(&at, size, 0, 0, 0));
  NEED(api().cuMemMap(at, size, 0, handle, 0));
  const AccessDesc both[] = {{{kLocationDevice, 0}, kAccessReadWrite},
                             {prop.location, kAccessReadWrite}};
  NEED(api().cuMemSetAccess(at, size, both, 2));
  NEED(code.fill(nullptr, at, 40, 100));
  NEED(api().cuCtxSynchronize());
  auto* const words = reinterpret_cast<volatile std::uint32_t*>(at);
  CHECK(words[99] == 139);
  words[0] = 77;
  CHECK(word_at(at) == 77);
  unsigned type = 0;
  NEED(api().cuPointerGetAttribute(&type, kPointerMemoryType, at));
  CHECK(type == kMemoryHost);
  NEED(api().cuMemUnmap(at, size));
  NEED(api().cuMemRelease(handle));
  NEED(api().cuMemAddressFree(at, size));
}
