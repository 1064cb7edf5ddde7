// cuMemAlloc, pinned host memory, and who may touch what.
#include <sys/mman.h>

#include <algorithm>

#include "tests/cuda_emulator/exports.h"
#include "tests/cuda_emulator/state.h"

using namespace causeway::cuda;
namespace em = causeway::emulator;
using em::Needs;
using em::require;
using em::run_call;

namespace {

constexpr std::uint64_t kPage = 4096;

std::uint64_t round_up(std::uint64_t size_bytes) {
  require(size_bytes <= ~std::uint64_t{0} - kPage, kOutOfMemory);
  return (size_bytes + kPage - 1) / kPage * kPage;
}

// With an inaccessible page behind it.
DevicePtr open_pages(std::uint64_t mapped_bytes, bool is_hidden) {
  const auto at = em::reserve_addresses(mapped_bytes + kPage, kPage);
  if (!em::protect(reinterpret_cast<void*>(at), mapped_bytes, PROT_READ | PROT_WRITE, is_hidden)) {
    em::free_addresses(at, mapped_bytes + kPage);
    throw em::Failure{kOutOfMemory};
  }
  return at;
}

void drop_block(DevicePtr at, em::Block::Kind kind) {
  auto& w = em::world();
  const std::lock_guard lock(w.mutex);
  const auto found = w.blocks.find(at);
  require(found != w.blocks.end() && found->second.kind == kind);
  const auto block = found->second;
  w.blocks.erase(found);
  if (kind == em::Block::Kind::device)
    w.used_bytes[static_cast<std::size_t>(block.device)] -= block.mapped_bytes;
  em::free_addresses(at, block.mapped_bytes + kPage);
}

}  // namespace

namespace causeway::emulator {

Found find_range(int device, DevicePtr at, std::uint64_t size_bytes, int flags) {
  auto& w = world();
  const auto end = at + size_bytes;
  require(size_bytes > 0 && end > at);
  auto block = w.blocks.upper_bound(at);
  if (block != w.blocks.begin() &&
      at < std::prev(block)->first + std::prev(block)->second.mapped_bytes) {
    --block;
    require(end <= block->first + block->second.size_bytes);
    const bool is_host = block->second.kind != Block::Kind::device;
    return {is_host ? Place::host : Place::device, block->second.device};
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
    const auto mapped_bytes = round_up(size);
    const int device = em::current()->device;
    auto& w = em::world();
    const std::lock_guard lock(w.mutex);
    em::take_bytes(device, mapped_bytes);
    *at = open_pages(mapped_bytes, true);
    w.blocks.emplace(*at, em::Block{em::Block::Kind::device, size, mapped_bytes, device});
  });
}

// Waits for all work of the device, as the real one does.
Result cuMemFree_v2(DevicePtr at) {
  return run_call("cuMemFree", Needs::context, [&] {
    for (const auto& ticket : em::all_work(*em::current())) ticket.wait();
    drop_block(at, em::Block::Kind::device);
  });
}

Result cuMemHostAlloc(void** at, std::size_t size, unsigned) {
  return run_call("cuMemHostAlloc", Needs::context, [&] {
    require(at != nullptr && size > 0);
    const auto mapped_bytes = round_up(size);
    auto& w = em::world();
    const std::lock_guard lock(w.mutex);
    const auto start = open_pages(mapped_bytes, false);
    w.blocks.emplace(start, em::Block{em::Block::Kind::pinned, size, mapped_bytes, 0});
    *at = reinterpret_cast<void*>(start);
  });
}

Result cuMemFreeHost(void* at) {
  return run_call("cuMemFreeHost", Needs::context, [&] {
    for (const auto& ticket : em::all_work(*em::current())) ticket.wait();
    drop_block(reinterpret_cast<DevicePtr>(at), em::Block::Kind::pinned);
  });
}

}  // namespace causeway::cuda
}
