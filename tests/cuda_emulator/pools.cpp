// Memory in the order of a stream, and the pools that it comes from.
//
// A pool keeps what was freed up to its threshold; addresses are fresh each time. What is freed
// cannot be touched any more from the moment that its stream gets there.
#include <algorithm>
#include <cstring>

#include "tests/cuda_emulator/exports.h"
#include "tests/cuda_emulator/state.h"

using namespace causeway::cuda;
namespace em = causeway::emulator;
using em::Block;
using em::Needs;
using em::require;
using em::run_call;

namespace {

std::uint64_t& used_bytes(int device) {
  return em::world().used_bytes[static_cast<std::size_t>(device)];
}

Pool checked(Pool pool) {
  auto& w = em::world();
  const bool is_default =
      std::ranges::any_of(w.default_pools, [pool](const auto& each) { return each.get() == pool; });
  require(is_default || (w.pools.contains(pool) && !pool->is_destroyed));
  return pool;
}

// Gives the device back what the pool keeps beyond `keep`, its allocations counted in.
void trim(PoolTag& pool, std::uint64_t keep_bytes) {
  const auto held = pool.used_bytes + pool.cached_bytes;
  const auto release = std::min(pool.cached_bytes, held - std::min(held, keep_bytes));
  pool.cached_bytes -= release;
  used_bytes(pool.device) -= release;
}

void bury_if_empty(Pool pool) {
  if (!pool->is_destroyed || pool->used_bytes > 0) return;
  trim(*pool, 0);
  em::world().pools.erase(pool);
  delete pool;
}

DevicePtr allocate(PoolTag& pool, std::uint64_t size_bytes) {
  require(size_bytes > 0);
  const auto mapped_bytes = em::whole_pages(size_bytes);
  const auto cached = std::min(pool.cached_bytes, mapped_bytes);
  em::take_bytes(pool.device, mapped_bytes - cached);
  Block block;
  block.kind = Block::Kind::pooled;
  block.size_bytes = size_bytes;
  block.mapped_bytes = mapped_bytes;
  block.device = pool.device;
  block.pool = &pool;
  try {
    const auto at = em::open_block(block);
    pool.cached_bytes -= cached;
    pool.used_bytes += mapped_bytes;
    pool.used_high = std::max(pool.used_high, pool.used_bytes);
    pool.reserved_high = std::max(pool.reserved_high, pool.used_bytes + pool.cached_bytes);
    return at;
  } catch (...) {
    used_bytes(pool.device) -= mapped_bytes - cached;
    throw;
  }
}

// `pool` null: the stream's device's. No memory nodes in graphs: a captured stream is refused.
DevicePtr allocate_on(Stream stream, Pool pool, std::uint64_t size_bytes) {
  auto& w = em::world();
  const std::lock_guard lock(w.mutex);
  const auto* const target = em::resolve(stream);
  em::report_sticky(em::context_of(target));
  require(target == nullptr || !target->capture, kNotSupported);
  const auto device = static_cast<std::size_t>(em::context_of(target).device);
  return allocate(pool != nullptr ? *checked(pool) : *w.current_pools[device], size_bytes);
}

void free_when_reached(DevicePtr at) {
  auto& w = em::world();
  const std::lock_guard lock(w.mutex);
  const auto block = w.blocks.find(at);
  if (block == w.blocks.end()) return;  // Its context went first.
  block->second.kind == Block::Kind::pooled ? em::free_pooled(block) : em::close_block(block);
}

void check_location(const Location& location) {
  require(location.type == kLocationDevice);
  (void)em::checked_device(location.id);
}

}  // namespace

namespace causeway::emulator {

void free_pooled(std::map<DevicePtr, Block>::iterator block) {
  const auto pool = block->second.pool;
  const auto bytes = block->second.mapped_bytes;
  close_block(block);
  pool->used_bytes -= bytes;
  pool->cached_bytes += bytes;
  trim(*pool, pool->release_threshold);
  bury_if_empty(pool);
}

}  // namespace causeway::emulator

extern "C" {
namespace causeway::cuda {

Result cuDeviceGetDefaultMemPool(Pool* pool, Device device) {
  return run_call("cuDeviceGetDefaultMemPool", Needs::driver, [&] {
    require(pool != nullptr);
    *pool = em::world().default_pools[static_cast<std::size_t>(em::checked_device(device))].get();
  });
}

Result cuDeviceGetMemPool(Pool* pool, Device device) {
  return run_call("cuDeviceGetMemPool", Needs::driver, [&] {
    require(pool != nullptr);
    const std::lock_guard lock(em::world().mutex);
    *pool = em::world().current_pools[static_cast<std::size_t>(em::checked_device(device))];
  });
}

Result cuDeviceSetMemPool(Device device, Pool pool) {
  return run_call("cuDeviceSetMemPool", Needs::driver, [&] {
    const auto index = static_cast<std::size_t>(em::checked_device(device));
    const std::lock_guard lock(em::world().mutex);
    require(checked(pool)->device == device);
    em::world().current_pools[index] = pool;
  });
}

Result cuMemPoolCreate(Pool* pool, const PoolProps* props) {
  return run_call("cuMemPoolCreate", Needs::healthy, [&] {
    require(pool != nullptr && props != nullptr && props->type == kAllocationPinned);
    require(props->handle_types == 0 || props->handle_types == kHandleTypePosixFd);
    check_location(props->location);
    auto made = std::make_unique<PoolTag>();
    made->device = props->location.id;
    const std::lock_guard lock(em::world().mutex);
    em::world().pools.insert(made.get());
    *pool = made.release();
  });
}

Result cuMemPoolDestroy(Pool pool) {
  return run_call("cuMemPoolDestroy", Needs::healthy, [&] {
    auto& w = em::world();
    const std::lock_guard lock(w.mutex);
    require(w.pools.contains(pool) && !pool->is_destroyed);
    auto& current = w.current_pools[static_cast<std::size_t>(pool->device)];
    if (current == pool) current = w.default_pools[static_cast<std::size_t>(pool->device)].get();
    pool->is_destroyed = true;
    bury_if_empty(pool);
  });
}

Result cuMemPoolTrimTo(Pool pool, std::size_t keep) {
  return run_call("cuMemPoolTrimTo", Needs::healthy, [&] {
    const std::lock_guard lock(em::world().mutex);
    trim(*checked(pool), keep);
  });
}

Result cuMemPoolSetAttribute(Pool pool, PoolAttribute attribute, void* value) {
  return run_call("cuMemPoolSetAttribute", Needs::healthy, [&] {
    require(value != nullptr);
    const std::lock_guard lock(em::world().mutex);
    auto& own = *checked(pool);
    std::uint64_t number = 0;
    if (attribute >= kPoolReuseFollowEvents && attribute <= kPoolReuseInternal) {
      std::memcpy(&own.reuse[attribute - kPoolReuseFollowEvents], value, sizeof(int));
      return;
    }
    std::memcpy(&number, value, sizeof number);
    if (attribute == kPoolReleaseThreshold) {
      own.release_threshold = number;
      return;
    }
    require(attribute == kPoolReservedHigh || attribute == kPoolUsedHigh);
    require(number == 0);  // The marks can only be reset.
    (attribute == kPoolUsedHigh ? own.used_high : own.reserved_high) =
        attribute == kPoolUsedHigh ? own.used_bytes : own.used_bytes + own.cached_bytes;
  });
}

Result cuMemPoolGetAttribute(Pool pool, PoolAttribute attribute, void* value) {
  return run_call("cuMemPoolGetAttribute", Needs::healthy, [&] {
    require(value != nullptr);
    const std::lock_guard lock(em::world().mutex);
    const auto& own = *checked(pool);
    if (attribute >= kPoolReuseFollowEvents && attribute <= kPoolReuseInternal) {
      std::memcpy(value, &own.reuse[attribute - kPoolReuseFollowEvents], sizeof(int));
      return;
    }
    require(attribute >= kPoolReleaseThreshold && attribute <= kPoolUsedHigh);
    const std::uint64_t numbers[] = {own.release_threshold, own.used_bytes + own.cached_bytes,
                                     own.reserved_high, own.used_bytes, own.used_high};
    std::memcpy(value, &numbers[attribute - kPoolReleaseThreshold], sizeof numbers[0]);
  });
}

Result cuMemPoolSetAccess(Pool pool, const AccessDesc* access, std::size_t count) {
  return run_call("cuMemPoolSetAccess", Needs::healthy, [&] {
    require(access != nullptr && count > 0);
    const std::lock_guard lock(em::world().mutex);
    auto& own = *checked(pool);
    for (std::size_t i = 0; i < count; ++i) {
      check_location(access[i].location);
      const int peer = access[i].location.id;
      require(access[i].flags == kAccessReadWrite || access[i].flags == kAccessNone);
      require(access[i].flags != kAccessNone || peer != own.device);  // Its own stays.
      require(em::reach(own.device, peer), kInvalidDevice);
    }
    for (std::size_t i = 0; i < count; ++i)
      if (access[i].flags == kAccessReadWrite)
        own.peers.insert(access[i].location.id);
      else
        own.peers.erase(access[i].location.id);
  });
}

Result cuMemPoolGetAccess(int* flags, Pool pool, Location* location) {
  return run_call("cuMemPoolGetAccess", Needs::healthy, [&] {
    require(flags != nullptr && location != nullptr);
    check_location(*location);
    const std::lock_guard lock(em::world().mutex);
    const auto& own = *checked(pool);
    const bool may = location->id == own.device || own.peers.contains(location->id);
    *flags = may ? kAccessReadWrite : kAccessNone;
  });
}

Result cuMemAllocAsync(DevicePtr* at, std::size_t size, Stream stream) {
  return run_call("cuMemAllocAsync", Needs::context, [&] {
    require(at != nullptr);
    *at = allocate_on(stream, nullptr, size);
  });
}

Result cuMemAllocFromPoolAsync(DevicePtr* at, std::size_t size, Pool pool, Stream stream) {
  return run_call("cuMemAllocFromPoolAsync", Needs::context, [&] {
    require(at != nullptr && pool != nullptr);
    *at = allocate_on(stream, pool, size);
  });
}

Result cuMemFreeAsync(DevicePtr at, Stream stream) {
  return run_call("cuMemFreeAsync", Needs::context, [&] {
    {
      auto& w = em::world();
      const std::lock_guard lock(w.mutex);
      const auto* const target = em::resolve(stream);
      require(target == nullptr || !target->capture, kNotSupported);
      const auto block = w.blocks.find(at);
      require(block != w.blocks.end() && !block->second.is_leaving);
      const auto kind = block->second.kind;
      require(kind == Block::Kind::pooled || kind == Block::Kind::device);
      block->second.is_leaving = true;
    }
    (void)em::enqueue(stream, kNodeEmpty, [at] { free_when_reached(at); });
  });
}

}  // namespace causeway::cuda
}
