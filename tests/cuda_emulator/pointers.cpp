// What an address is: attributes, ranges.
#include <algorithm>
#include <cstring>
#include <optional>

#include "tests/cuda_emulator/exports.h"
#include "tests/cuda_emulator/state.h"

using namespace causeway::cuda;
namespace em = causeway::emulator;
using em::Block;
using em::Needs;
using em::require;
using em::run_call;

namespace {

// What the driver knows of an address: a block, a mapping, or a reservation alone.
struct Known {
  bool is_mapped = false;
  bool is_host = false;
  bool processor_may = false;
  DevicePtr start = 0;  // Of the allocation or mapping.
  std::uint64_t size_bytes = 0;
  DevicePtr range = 0;  // Of the addresses that it may grow in.
  std::uint64_t range_bytes = 0;
  int device = 0;
  ContextTag* context = nullptr;
  const Block* block = nullptr;
  const em::Mapping* mapping = nullptr;
};

std::optional<Known> known_block(DevicePtr at) {
  const auto found = em::find_block(at);
  if (found == em::world().blocks.end() || found->second.is_leaving) return std::nullopt;
  const auto& block = found->second;
  Known known;
  known.is_mapped = true;
  known.is_host = known.processor_may = block.is_host();
  known.start = known.range = found->first;
  known.size_bytes = known.range_bytes = block.size_bytes;
  known.device = block.device;
  known.context = block.context;
  known.block = &block;
  return known;
}

std::optional<Known> known_mapping(DevicePtr at) {
  auto& w = em::world();
  auto range = w.reservations.upper_bound(at);
  if (range == w.reservations.begin()) return std::nullopt;
  --range;
  if (at - range->first >= range->second) return std::nullopt;
  Known known;
  known.range = range->first;
  known.range_bytes = range->second;
  auto next = w.mappings.upper_bound(at);
  if (next == w.mappings.begin()) return known;
  --next;
  const auto& mapping = next->second;
  if (at - next->first >= mapping.size_bytes) return known;
  const auto& place = mapping.memory->prop.location;
  const auto processor = mapping.access.find(em::kProcessor);
  known.is_mapped = true;
  known.is_host = place.type != kLocationDevice;
  known.processor_may = processor != mapping.access.end() && processor->second != 0;
  known.start = next->first;
  known.size_bytes = mapping.size_bytes;
  known.device = known.is_host ? 0 : place.id;
  known.mapping = &mapping;
  return known;
}

std::optional<Known> find(DevicePtr at) {
  auto known = known_block(at);
  return known ? known : known_mapping(at);
}

template <typename T>
void put(void* data, const T& value) {
  std::memcpy(data, &value, sizeof value);
}

unsigned access_of_current(const Known& known) {
  const auto* const context = em::current();
  if (known.mapping == nullptr) return known.is_mapped ? kAccessReadWrite : kAccessNone;
  const auto found = known.mapping->access.find(context != nullptr ? context->device : 0);
  return found != known.mapping->access.end() ? static_cast<unsigned>(found->second) : kAccessNone;
}

// Into `data`, which has the attribute's own type; nothing known: the null value of it.
void get_attribute(void* data, PointerAttribute attribute, DevicePtr at, const Known* known) {
  const Known none;
  const auto& k = known != nullptr ? *known : none;
  const bool is_known = known != nullptr && (known->is_mapped || known->mapping != nullptr);
  switch (attribute) {
    case kPointerContext:
      return put(data, k.context);
    case kPointerMemoryType:
      return put(data,
                 !is_known ? 0u : static_cast<unsigned>(k.is_host ? kMemoryHost : kMemoryDevice));
    case kPointerDevicePointer:
      return put(data, is_known ? at : DevicePtr{0});
    case kPointerHostPointer:
      return put(data, is_known && k.processor_may ? at : DevicePtr{0});
    case kPointerSyncMemops:
    case kPointerIsManaged:
    case kPointerIsRdmaCapable:
      return put(data, false);
    case kPointerBufferId:
      return put(data, k.block != nullptr ? k.block->id : k.start / 2);
    case kPointerDeviceOrdinal:
      return put(data, known != nullptr ? k.device : -2);
    case kPointerIsIpcCapable:
      return put(data, k.block != nullptr && k.block->kind == Block::Kind::device);
    case kPointerRangeStart:
      return put(data, k.range);
    case kPointerRangeSize:
      return put(data, k.range_bytes);
    case kPointerMapped:
      return put(data, k.is_mapped);
    case kPointerHandleTypes:
      return put(data, k.mapping != nullptr
                           ? static_cast<std::uint64_t>(k.mapping->memory->prop.handle_types)
                           : std::uint64_t{0});
    case kPointerAccessFlags:
      return put(data, access_of_current(k));
    case kPointerPool:
      return put(data, k.block != nullptr ? k.block->pool : nullptr);
    case kPointerMappingSize:
      return put(data, k.size_bytes);
    case kPointerMappingBase:
      return put(data, k.start);
  }
  throw em::Failure{kInvalidValue};
}

}  // namespace

extern "C" {
namespace causeway::cuda {

Result cuPointerGetAttribute(void* data, PointerAttribute attribute, DevicePtr at) {
  return run_call("cuPointerGetAttribute", Needs::healthy, [&] {
    require(data != nullptr);
    const std::lock_guard lock(em::world().mutex);
    const auto known = find(at);
    require(known.has_value());
    if (attribute == kPointerMemoryType || attribute == kPointerDevicePointer ||
        attribute == kPointerContext)
      require(known->is_mapped);
    if (attribute == kPointerHostPointer) require(known->processor_may);
    get_attribute(data, attribute, at, &*known);
  });
}

// Of an address that is nobody's it says so, and succeeds.
Result cuPointerGetAttributes(unsigned count, PointerAttribute* attributes, void** data,
                              DevicePtr at) {
  return run_call("cuPointerGetAttributes", Needs::healthy, [&] {
    require(count > 0 && attributes != nullptr && data != nullptr);
    const std::lock_guard lock(em::world().mutex);
    const auto known = find(at);
    for (unsigned i = 0; i < count; ++i) {
      require(data[i] != nullptr);
      get_attribute(data[i], attributes[i], at, known ? &*known : nullptr);
    }
  });
}

// Of memory that a handle backs: the mapping, which need not be all of the allocation.
Result cuMemGetAddressRange_v2(DevicePtr* base, std::size_t* size, DevicePtr at) {
  return run_call("cuMemGetAddressRange", Needs::context, [&] {
    const std::lock_guard lock(em::world().mutex);
    const auto known = find(at);
    require(known && known->is_mapped, kNotFound);
    if (base != nullptr) *base = known->start;
    if (size != nullptr) *size = known->size_bytes;
  });
}

}  // namespace causeway::cuda
}
