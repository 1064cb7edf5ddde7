// cuMemAlloc, pinned and registered host memory, and who may touch what.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <limits>

#include "tests/cuda_emulator/exports.h"
#include "tests/cuda_emulator/state.h"

using namespace causeway::cuda;
namespace em = causeway::emulator;
using em::Block;
using em::Needs;
using em::require;
using em::run_call;

namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kPitch = 512;
constexpr std::uint64_t kFilled = std::uint64_t{64} << 20;
constexpr unsigned kHostFlags = 7;       // Portable, mapped, write-combined.
constexpr unsigned kRegisterFlags = 15;  // Portable, mapped, memory of a device, read-only.

void* pointer(DevicePtr at) { return reinterpret_cast<void*>(at); }

// With an inaccessible page behind it.
DevicePtr open_pages(std::uint64_t mapped_bytes, int file, std::uint64_t offset, bool is_hidden) {
  const auto at = em::reserve_addresses(mapped_bytes + kPage, kPage);
  const bool is_mapped = file < 0 || ::mmap(pointer(at), mapped_bytes, PROT_NONE,
                                            MAP_SHARED | MAP_FIXED | MAP_NORESERVE, file,
                                            static_cast<off_t>(offset)) != MAP_FAILED;
  if (!is_mapped || !em::protect(pointer(at), mapped_bytes, PROT_READ | PROT_WRITE, is_hidden)) {
    em::free_addresses(at, mapped_bytes + kPage);
    throw em::Failure{kOutOfMemory};
  }
  return at;
}

// Fresh memory holds what somebody left there: nothing that reads as zero by chance.
void fill_with_rubbish(int file, std::uint64_t offset, std::uint64_t size_bytes) {
  static const auto* const rubbish = new std::vector<char>(1 << 16, '\xa5');
  const auto end = offset + std::min(size_bytes, kFilled);
  for (auto at = offset; at < end; at += rubbish->size())
    require(::pwrite(file, rubbish->data(), std::min<std::uint64_t>(rubbish->size(), end - at),
                     static_cast<off_t>(at)) > 0,
            kOutOfMemory);
}

em::DeviceFile& file_of(int device) {
  auto& file = em::world().files[static_cast<std::size_t>(device)];
  if (!file.file) {
    const auto name = "cuda-emulator-plain:" + std::to_string(device);
    file.file.reset(::memfd_create(name.c_str(), MFD_CLOEXEC));
    require(static_cast<bool>(file.file), kOperatingSystem);
  }
  return file;
}

DevicePtr allocate(std::uint64_t size_bytes, std::uint64_t mapped_bytes) {
  const int device = em::current()->device;
  em::take_bytes(device, mapped_bytes);
  try {
    Block block;
    block.kind = Block::Kind::device;
    block.size_bytes = size_bytes;
    block.mapped_bytes = mapped_bytes;
    block.device = device;
    return em::open_block(block);
  } catch (...) {
    em::world().used_bytes[static_cast<std::size_t>(device)] -= mapped_bytes;
    throw;
  }
}

void* allocate_host(std::uint64_t size_bytes, unsigned flags) {
  require(size_bytes > 0 && flags <= kHostFlags);
  const std::lock_guard lock(em::world().mutex);
  em::refuse_unsafe();
  Block block;
  block.kind = Block::Kind::pinned;
  block.size_bytes = size_bytes;
  block.mapped_bytes = em::whole_pages(size_bytes);
  block.device = em::current()->device;
  block.flags = flags;
  return pointer(em::open_block(block));
}

void wait_for_all_work() {
  {
    const std::lock_guard lock(em::world().mutex);
    em::refuse_unsafe();
    em::refuse_in_capture(*em::current());
  }
  for (const auto& ticket : em::all_work(*em::current())) ticket.wait();
}

std::map<DevicePtr, Block>::iterator host_block(void* at) {
  const auto block = em::find_block(reinterpret_cast<DevicePtr>(at));
  require(block != em::world().blocks.end() && block->second.is_host());
  return block;
}

}  // namespace

namespace causeway::emulator {

std::uint64_t whole_pages(std::uint64_t size_bytes) {
  require(size_bytes <= ~std::uint64_t{0} - kPage, kOutOfMemory);
  return (size_bytes + kPage - 1) / kPage * kPage;
}

DevicePtr open_block(Block block) {
  auto& w = world();
  block.context = current();
  block.id = w.next_id++;
  int file = -1;
  if (!block.is_host()) {
    auto& own = file_of(block.device);
    block.offset = own.end;
    const auto end = own.end + block.mapped_bytes;
    require(::ftruncate(own.file.get(), static_cast<off_t>(end)) == 0, kOutOfMemory);
    own.end = end;
    file = own.file.get();
    fill_with_rubbish(file, block.offset, block.mapped_bytes);
  }
  const auto at = open_pages(block.mapped_bytes, file, block.offset, !block.is_host());
  w.blocks.emplace(at, block);
  return at;
}

void close_block(std::map<DevicePtr, Block>::iterator found) {
  auto& w = world();
  const auto at = found->first;
  const auto block = found->second;
  w.blocks.erase(found);
  if (block.kind == Block::Kind::registered) return;
  free_addresses(at, block.mapped_bytes + kPage);
  if (block.kind == Block::Kind::device || block.kind == Block::Kind::pooled)
    ::fallocate(w.files[static_cast<std::size_t>(block.device)].file.get(),
                FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(block.offset),
                static_cast<off_t>(block.mapped_bytes));
  if (block.kind == Block::Kind::device)
    w.used_bytes[static_cast<std::size_t>(block.device)] -= block.mapped_bytes;
}

std::map<DevicePtr, Block>::iterator find_block(DevicePtr at) {
  auto& blocks = world().blocks;
  auto block = blocks.upper_bound(at);
  if (block == blocks.begin()) return blocks.end();
  --block;
  return at < block->first + block->second.mapped_bytes ? block : blocks.end();
}

Found find_range(int device, DevicePtr at, std::uint64_t size_bytes, int flags) {
  auto& w = world();
  const auto end = at + size_bytes;
  require(size_bytes > 0 && end > at);
  if (const auto block = find_block(at); block != w.blocks.end()) {
    require(end <= block->first + block->second.size_bytes && !block->second.is_leaving);
    return {block->second.is_host() ? Place::host : Place::device, block->second.device};
  }
  const auto range = w.reservations.upper_bound(at);
  if (range == w.reservations.begin() || at >= std::prev(range)->first + std::prev(range)->second)
    return {};
  Found found;
  auto mapping = w.mappings.upper_bound(at);
  require(mapping != w.mappings.begin());
  for (--mapping; at < end; ++mapping) {
    require(mapping != w.mappings.end() && mapping->first <= at &&
            at < mapping->first + mapping->second.size_bytes);
    const auto access = mapping->second.access.find(device);
    require(access != mapping->second.access.end() && (access->second & flags) == flags);
    const auto& place = mapping->second.memory->prop.location;
    found = {place.type == kLocationDevice ? Place::device : Place::host, place.id};
    at = mapping->first + mapping->second.size_bytes;
  }
  return found;
}

}  // namespace causeway::emulator

extern "C" {
namespace causeway::cuda {

Result cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
  return run_call("cuMemGetInfo", Needs::context, [&] {
    require(free != nullptr && total != nullptr);
    auto& w = em::world();
    const std::lock_guard lock(w.mutex);
    const auto device = static_cast<std::size_t>(em::current()->device);
    *total = em::config().devices[device].memory_bytes;
    *free = *total - w.used_bytes[device];
  });
}

Result cuMemAlloc_v2(DevicePtr* at, std::size_t size) {
  return run_call("cuMemAlloc", Needs::context, [&] {
    require(at != nullptr && size > 0);
    const std::lock_guard lock(em::world().mutex);
    em::refuse_unsafe();
    *at = allocate(size, em::whole_pages(size));
  });
}

Result cuMemAllocPitch_v2(DevicePtr* at, std::size_t* pitch, std::size_t width, std::size_t height,
                          unsigned element) {
  return run_call("cuMemAllocPitch", Needs::context, [&] {
    require(at != nullptr && pitch != nullptr && width > 0 && height > 0);
    require(element == 4 || element == 8 || element == 16);
    require(width <= std::numeric_limits<std::uint32_t>::max());
    const auto row = (width + kPitch - 1) / kPitch * kPitch;
    require(height <= ~std::uint64_t{0} / row, kOutOfMemory);
    const std::lock_guard lock(em::world().mutex);
    em::refuse_unsafe();
    *at = allocate(row * height, em::whole_pages(row * height));
    *pitch = row;
  });
}

// Waits for all work of the device, as the real one does.
Result cuMemFree_v2(DevicePtr at) {
  return run_call("cuMemFree", Needs::context, [&] {
    wait_for_all_work();
    auto& w = em::world();
    const std::lock_guard lock(w.mutex);
    const auto block = w.blocks.find(at);
    require(block != w.blocks.end() && !block->second.is_leaving);
    if (block->second.kind == Block::Kind::pooled) return em::free_pooled(block);
    require(block->second.kind == Block::Kind::device);
    em::close_block(block);
  });
}

Result cuMemHostAlloc(void** at, std::size_t size, unsigned flags) {
  return run_call("cuMemHostAlloc", Needs::context, [&] {
    require(at != nullptr);
    *at = allocate_host(size, flags);
  });
}

Result cuMemAllocHost_v2(void** at, std::size_t size) {
  return run_call("cuMemAllocHost", Needs::context, [&] {
    require(at != nullptr);
    *at = allocate_host(size, 0);
  });
}

Result cuMemFreeHost(void* at) {
  return run_call("cuMemFreeHost", Needs::context, [&] {
    wait_for_all_work();
    auto& w = em::world();
    const std::lock_guard lock(w.mutex);
    const auto block = w.blocks.find(reinterpret_cast<DevicePtr>(at));
    require(block != w.blocks.end() && block->second.kind == Block::Kind::pinned);
    em::close_block(block);
  });
}

Result cuMemHostRegister_v2(void* at, std::size_t size, unsigned flags) {
  return run_call("cuMemHostRegister", Needs::context, [&] {
    require(at != nullptr && size > 0 && flags <= kRegisterFlags);
    const auto start = reinterpret_cast<DevicePtr>(at);
    require(start + size > start);
    auto& w = em::world();
    const std::lock_guard lock(w.mutex);
    em::refuse_unsafe();
    const auto next = w.blocks.lower_bound(start);
    const bool is_free = (next == w.blocks.end() || next->first >= start + size) &&
                         em::find_block(start) == w.blocks.end();
    require(is_free, kHostMemoryAlreadyRegistered);
    Block block;
    block.kind = Block::Kind::registered;
    block.size_bytes = block.mapped_bytes = size;
    block.device = em::current()->device;
    block.context = em::current();
    block.flags = flags;
    block.id = w.next_id++;
    w.blocks.emplace(start, block);
  });
}

Result cuMemHostUnregister(void* at) {
  return run_call("cuMemHostUnregister", Needs::context, [&] {
    require(at != nullptr);
    wait_for_all_work();
    auto& w = em::world();
    const std::lock_guard lock(w.mutex);
    const auto block = w.blocks.find(reinterpret_cast<DevicePtr>(at));
    require(block != w.blocks.end() && block->second.kind == Block::Kind::registered,
            kHostMemoryNotRegistered);
    em::close_block(block);
  });
}

Result cuMemHostGetDevicePointer_v2(DevicePtr* to, void* at, unsigned flags) {
  return run_call("cuMemHostGetDevicePointer", Needs::context, [&] {
    require(to != nullptr && at != nullptr && flags == 0);
    const std::lock_guard lock(em::world().mutex);
    (void)host_block(at);
    *to = reinterpret_cast<DevicePtr>(at);
  });
}

Result cuMemHostGetFlags(unsigned* flags, void* at) {
  return run_call("cuMemHostGetFlags", Needs::context, [&] {
    constexpr unsigned kMapped = 2;  // All of it is, with unified addresses.
    require(flags != nullptr && at != nullptr);
    const std::lock_guard lock(em::world().mutex);
    const auto block = host_block(at);
    require(block->second.kind == Block::Kind::pinned);
    *flags = block->second.flags | kMapped;
  });
}

}  // namespace causeway::cuda
}
