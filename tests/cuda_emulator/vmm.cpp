// Virtual memory management: a handle is a memfd, a reservation an inaccessible mapping, and the
// kernel's page protection what set_access() grants.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <deque>
#include <optional>
#include <vector>

#include "tests/cuda_emulator/exports.h"
#include "tests/cuda_emulator/state.h"

using namespace causeway::cuda;
namespace em = causeway::emulator;
using em::Needs;
using em::require;
using em::run_call;

namespace {

constexpr std::uint64_t kGranule = std::uint64_t{2} << 20;
constexpr std::uint64_t kMostAddresses = std::uint64_t{1} << 46;
constexpr std::uint64_t kFilled = std::uint64_t{64} << 20;
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
constexpr const char* kFileFormat = "cuda-emulator:%d:%d:%d";  // Kind and id of place, handles.

void* address(DevicePtr at) { return reinterpret_cast<void*>(at); }

void check_prop(const AllocationProp* prop) {
  const auto& config = em::config();
  require(prop != nullptr && prop->type == kAllocationPinned);
  require(config.vmm, kNotSupported);
  require(prop->handle_types == 0 || prop->handle_types == kHandleTypePosixFd);
  require(prop->handle_types == 0 || config.posix_fd, kNotSupported);
  if (prop->location.type == kLocationDevice) {
    (void)em::checked_device(prop->location.id);
    return;
  }
  require(prop->location.type == kLocationHostNuma);
  require(config.host_numa_vmm, kNotSupported);
  const bool is_there = std::ranges::any_of(config.devices, [&](const em::DeviceConfig& device) {
    return std::max(device.numa, 0) == prop->location.id;
  });
  require(is_there, kInvalidDevice);
}

bool is_aligned(std::uint64_t value) { return value % kGranule == 0; }

// Fresh memory holds what somebody left there: nothing that reads as zero by chance.
void fill_with_rubbish(int file, std::uint64_t size_bytes) {
  static const auto* const rubbish = new std::vector<char>(1 << 20, '\xa5');
  for (std::uint64_t at = 0; at < std::min(size_bytes, kFilled); at += rubbish->size())
    require(::pwrite(file, rubbish->data(), rubbish->size(), static_cast<off_t>(at)) > 0,
            kOutOfMemory);
}

std::shared_ptr<em::Physical> make_physical(std::uint64_t size_bytes, const AllocationProp& prop) {
  auto memory = std::make_shared<em::Physical>();
  std::array<char, 64> name{};
  std::snprintf(name.data(), name.size(), kFileFormat, prop.location.type, prop.location.id,
                prop.handle_types);
  memory->file.reset(::memfd_create(name.data(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  require(static_cast<bool>(memory->file), kOperatingSystem);
  require(::ftruncate(memory->file.get(), static_cast<off_t>(size_bytes)) == 0, kOutOfMemory);
  require(::fcntl(memory->file.get(), F_ADD_SEALS, kSeals) == 0, kOperatingSystem);
  fill_with_rubbish(memory->file.get(), size_bytes);
  memory->size_bytes = size_bytes;
  memory->prop = prop;
  return memory;
}

std::shared_ptr<em::Physical> memory_of(Handle handle) {
  const auto& handles = em::world().handles;
  const auto found = handles.find(handle);
  require(found != handles.end());
  return found->second;
}

// The device has the bytes again once neither a handle nor a mapping is left.
void give_back(const std::shared_ptr<em::Physical>& memory) {
  auto& w = em::world();
  const bool is_mapped = std::ranges::any_of(
      w.mappings, [&](const auto& entry) { return entry.second.memory == memory; });
  if (memory->handles > 0 || is_mapped || memory->is_imported) return;
  if (memory->prop.location.type == kLocationDevice)
    w.used_bytes[static_cast<std::size_t>(memory->prop.location.id)] -= memory->size_bytes;
}

Handle add_handle(const std::shared_ptr<em::Physical>& memory) {
  auto& w = em::world();
  for (const auto& [handle, known] : w.handles)
    if (known == memory) return ++memory->handles, handle;
  const auto handle = w.next_handle++;
  w.handles.emplace(handle, memory);
  memory->handles = 1;
  return handle;
}

// The mappings that tile [at, at + size) exactly. Throws kInvalidValue where they do not.
std::vector<std::map<DevicePtr, em::Mapping>::iterator> whole_mappings(DevicePtr at,
                                                                       std::uint64_t size_bytes) {
  auto& mappings = em::world().mappings;
  std::vector<std::map<DevicePtr, em::Mapping>::iterator> found;
  const auto end = at + size_bytes;
  require(size_bytes > 0 && is_aligned(at) && is_aligned(size_bytes) && end > at);
  for (auto next = mappings.find(at); at < end; ++next) {
    require(next != mappings.end() && next->first == at);
    at += next->second.size_bytes;
    found.push_back(next);
  }
  require(at == end);
  return found;
}

void protect(DevicePtr at, const em::Mapping& mapping) {
  int flags = 0;
  for (const auto& [who, access] : mapping.access) flags |= access;
  const auto processor = mapping.access.find(em::kProcessor);
  const bool is_hidden = processor == mapping.access.end() || processor->second == 0;
  const int protection =
      ((flags & kAccessRead) != 0 ? PROT_READ : 0) | (flags == kAccessReadWrite ? PROT_WRITE : 0);
  require(em::protect(address(at), mapping.size_bytes, protection, is_hidden), kOperatingSystem);
}

void check_desc(const AccessDesc& desc, const em::Mapping& mapping) {
  require(desc.flags == kAccessNone || desc.flags == kAccessRead || desc.flags == kAccessReadWrite);
  require(desc.flags != kAccessRead || em::config().read_only, kNotSupported);
  const auto& place = mapping.memory->prop.location;
  if (desc.location.type == kLocationHostNuma) return require(place.type == kLocationHostNuma);
  require(desc.location.type == kLocationDevice);
  const int device = em::checked_device(desc.location.id);
  require(place.type != kLocationDevice || em::reach(device, place.id), kInvalidDevice);
}

// Whether a reservation holds memory of both kinds, on a driver that does not bear it.
void check_mix(DevicePtr at) {
  if (em::config().mixed_ranges) return;
  auto& w = em::world();
  const auto range = std::prev(w.reservations.upper_bound(at));
  std::optional<int> kind;
  for (const auto& [start, mapping] : w.mappings) {
    if (start < range->first || start >= range->first + range->second) continue;
    const auto own = mapping.memory->prop.location.type;
    require(!kind || *kind == own, kNotSupported);
    kind = own;
  }
}

// Addresses that were freed stay inaccessible for long: who still uses them is caught.
void keep_closed(DevicePtr at, std::uint64_t size_bytes) {
  static auto* const closed = new std::deque<std::pair<DevicePtr, std::uint64_t>>;
  static std::uint64_t closed_bytes = 0;
  constexpr std::uint64_t kMostClosed = std::uint64_t{1} << 40;
  closed->emplace_back(at, size_bytes);
  closed_bytes += size_bytes;
  while (closed_bytes > kMostClosed) {
    const auto [old_at, old_bytes] = closed->front();
    closed->pop_front();
    closed_bytes -= old_bytes;
    ::munmap(address(old_at), old_bytes);
  }
}

void close_pages(DevicePtr at, std::uint64_t size_bytes) {
  require(::mmap(address(at), size_bytes, PROT_NONE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED,
          kOperatingSystem);
}

}  // namespace

namespace causeway::emulator {

DevicePtr reserve_addresses(std::uint64_t size_bytes, std::uint64_t alignment) {
  require(size_bytes <= kMostAddresses, kOutOfMemory);
  const auto padded = size_bytes + alignment;
  void* at = ::mmap(nullptr, padded, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  require(at != MAP_FAILED, kOutOfMemory);
  const auto start = reinterpret_cast<DevicePtr>(at);
  const auto aligned = (start + alignment - 1) / alignment * alignment;
  if (aligned > start) ::munmap(at, aligned - start);
  if (aligned < start + alignment)
    ::munmap(address(aligned + size_bytes), start + alignment - aligned);
  return aligned;
}

void free_addresses(DevicePtr at, std::uint64_t size_bytes) {
  close_pages(at, size_bytes);
  keep_closed(at, size_bytes);
}

}  // namespace causeway::emulator

extern "C" {
namespace causeway::cuda {

Result cuMemGetAllocationGranularity(std::size_t* granularity, const AllocationProp* prop, int) {
  return run_call("cuMemGetAllocationGranularity", Needs::healthy, [&] {
    require(granularity != nullptr);
    check_prop(prop);
    *granularity = kGranule;
  });
}

Result cuMemCreate(Handle* handle, std::size_t size, const AllocationProp* prop,
                   unsigned long long flags) {
  return run_call("cuMemCreate", Needs::healthy, [&] {
    require(handle != nullptr && flags == 0 && size > 0 && is_aligned(size));
    check_prop(prop);
    const std::lock_guard lock(em::world().mutex);
    const bool is_device = prop->location.type == kLocationDevice;
    if (is_device) em::take_bytes(prop->location.id, size);
    try {
      *handle = add_handle(make_physical(size, *prop));
    } catch (...) {
      if (is_device) em::world().used_bytes[static_cast<std::size_t>(prop->location.id)] -= size;
      throw;
    }
  });
}

Result cuMemRelease(Handle handle) {
  return run_call("cuMemRelease", Needs::healthy, [&] {
    auto& w = em::world();
    const std::lock_guard lock(w.mutex);
    const auto memory = memory_of(handle);
    if (--memory->handles > 0) return;
    w.handles.erase(handle);
    give_back(memory);
  });
}

Result cuMemAddressReserve(DevicePtr* at, std::size_t size, std::size_t alignment, DevicePtr,
                           unsigned long long flags) {
  return run_call("cuMemAddressReserve", Needs::healthy, [&] {
    require(at != nullptr && flags == 0 && size > 0 && is_aligned(size));
    require((alignment & (alignment - 1)) == 0);
    auto& w = em::world();
    const std::lock_guard lock(w.mutex);
    *at = em::reserve_addresses(size, std::max<std::uint64_t>(alignment, kGranule));
    w.reservations.emplace(*at, size);
  });
}

Result cuMemAddressFree(DevicePtr at, std::size_t size) {
  return run_call("cuMemAddressFree", Needs::healthy, [&] {
    auto& w = em::world();
    const std::lock_guard lock(w.mutex);
    const auto range = w.reservations.find(at);
    require(range != w.reservations.end() && range->second == size);
    const auto mapping = w.mappings.lower_bound(at);
    require(mapping == w.mappings.end() || mapping->first >= at + size);
    em::free_addresses(at, size);
    w.reservations.erase(range);
  });
}

Result cuMemMap(DevicePtr at, std::size_t size, std::size_t offset, Handle handle,
                unsigned long long flags) {
  return run_call("cuMemMap", Needs::healthy, [&] {
    auto& w = em::world();
    const std::lock_guard lock(w.mutex);
    const auto memory = memory_of(handle);
    require(flags == 0 && offset == 0 && size > 0 && is_aligned(size) && is_aligned(at));
    require(size <= memory->size_bytes);
    auto range = w.reservations.upper_bound(at);
    require(range != w.reservations.begin());
    --range;
    require(at - range->first <= range->second && size <= range->second - (at - range->first));
    const auto next = w.mappings.lower_bound(at);
    require(next == w.mappings.end() || next->first >= at + size);
    require(next == w.mappings.begin() ||
            std::prev(next)->first + std::prev(next)->second.size_bytes <= at);
    w.mappings.emplace_hint(next, at, em::Mapping{size, memory, {}});
    if (::mmap(address(at), size, PROT_NONE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE,
               memory->file.get(), 0) == MAP_FAILED) {
      w.mappings.erase(at);
      throw em::Failure{kOutOfMemory};
    }
  });
}

// Waits for nothing: what still runs there faults.
Result cuMemUnmap(DevicePtr at, std::size_t size) {
  return run_call("cuMemUnmap", Needs::healthy, [&] {
    auto& w = em::world();
    const std::lock_guard lock(w.mutex);
    const auto found = whole_mappings(at, size);
    close_pages(at, size);
    for (const auto& mapping : found) {
      const auto memory = mapping->second.memory;
      w.mappings.erase(mapping);
      give_back(memory);
    }
  });
}

Result cuMemSetAccess(DevicePtr at, std::size_t size, const AccessDesc* desc, std::size_t count) {
  return run_call("cuMemSetAccess", Needs::healthy, [&] {
    require(desc != nullptr && count > 0);
    const std::lock_guard lock(em::world().mutex);
    const auto found = whole_mappings(at, size);
    check_mix(at);
    for (const auto& mapping : found)
      for (std::size_t i = 0; i < count; ++i) check_desc(desc[i], mapping->second);
    for (const auto& mapping : found) {
      for (std::size_t i = 0; i < count; ++i)
        mapping->second.access[desc[i].location.type == kLocationDevice ? desc[i].location.id
                                                                        : em::kProcessor] =
            desc[i].flags;
      protect(mapping->first, mapping->second);
    }
  });
}

Result cuMemGetAccess(unsigned long long* flags, const Location* location, DevicePtr at) {
  return run_call("cuMemGetAccess", Needs::healthy, [&] {
    require(flags != nullptr && location != nullptr);
    auto& w = em::world();
    const std::lock_guard lock(w.mutex);
    const auto next = w.mappings.upper_bound(at);
    require(next != w.mappings.begin());
    const auto& [start, mapping] = *std::prev(next);
    require(at < start + mapping.size_bytes);
    const auto who = location->type == kLocationDevice ? location->id : em::kProcessor;
    const auto found = mapping.access.find(who);
    *flags = found != mapping.access.end() ? static_cast<unsigned long long>(found->second) : 0;
  });
}

Result cuMemGetAllocationPropertiesFromHandle(AllocationProp* prop, Handle handle) {
  return run_call("cuMemGetAllocationPropertiesFromHandle", Needs::healthy, [&] {
    require(prop != nullptr);
    const std::lock_guard lock(em::world().mutex);
    *prop = memory_of(handle)->prop;
  });
}

Result cuMemRetainAllocationHandle(Handle* handle, void* at) {
  return run_call("cuMemRetainAllocationHandle", Needs::healthy, [&] {
    require(handle != nullptr);
    auto& w = em::world();
    const std::lock_guard lock(w.mutex);
    const auto next = w.mappings.upper_bound(reinterpret_cast<DevicePtr>(at));
    require(next != w.mappings.begin());
    const auto& [start, mapping] = *std::prev(next);
    require(reinterpret_cast<DevicePtr>(at) < start + mapping.size_bytes);
    *handle = add_handle(mapping.memory);
  });
}

Result cuMemExportToShareableHandle(void* shareable, Handle handle, int type,
                                    unsigned long long flags) {
  return run_call("cuMemExportToShareableHandle", Needs::healthy, [&] {
    require(shareable != nullptr && flags == 0 && type == kHandleTypePosixFd);
    const std::lock_guard lock(em::world().mutex);
    const auto memory = memory_of(handle);
    require((memory->prop.handle_types & kHandleTypePosixFd) != 0, kNotPermitted);
    const int fd = ::dup(memory->file.get());  // Not close-on-exec: the caller's business.
    require(fd >= 0, kOperatingSystem);
    std::memcpy(shareable, &fd, sizeof fd);
  });
}

Result cuMemImportFromShareableHandle(Handle* handle, void* shareable, int type) {
  return run_call("cuMemImportFromShareableHandle", Needs::healthy, [&] {
    require(handle != nullptr && type == kHandleTypePosixFd);
    const auto given = static_cast<int>(reinterpret_cast<std::intptr_t>(shareable));
    auto memory = std::make_shared<em::Physical>();
    memory->file.reset(::fcntl(given, F_DUPFD_CLOEXEC, 0));
    require(static_cast<bool>(memory->file));
    // What the kernel's module knows of a descriptor of its own, the name says of ours.
    std::array<char, 128> name{};
    const auto link = fmt::format("/proc/self/fd/{}", memory->file.get());
    require(::readlink(link.c_str(), name.data(), name.size() - 1) > 0);
    auto& prop = memory->prop;
    prop.type = kAllocationPinned;
    const std::string format = std::string("/memfd:") + kFileFormat;
    require(std::sscanf(name.data(), format.c_str(), &prop.location.type, &prop.location.id,
                        &prop.handle_types) == 3);
    require((::fcntl(memory->file.get(), F_GET_SEALS) & kSeals) == kSeals);
    struct stat status = {};
    require(::fstat(memory->file.get(), &status) == 0, kOperatingSystem);
    memory->size_bytes = static_cast<std::uint64_t>(status.st_size);
    memory->is_imported = true;
    const std::lock_guard lock(em::world().mutex);
    *handle = add_handle(memory);
  });
}

}  // namespace causeway::cuda
}
