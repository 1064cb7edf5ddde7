// Decides which devices lend the bytes of a region.
//
// Shape:   the devices nearest to `near` first, each filled before the next is touched; shares are
//          whole granules and sum to size_bytes.
// Units:   bytes; size_bytes is a multiple of granule_bytes.
// Errors:  out_of_memory with needed and available bytes and the devices that were allowed;
//          not_found for a device the topology does not have.
// Cost:    O(devices log devices).
// Threads: a pure function.
#pragma once

#include <cstdint>
#include <vector>

#include "causeway/pool.h"
#include "causeway/topology.h"

namespace causeway {

struct DeviceShare {
  DeviceName device;
  std::uint64_t size_bytes;
};

[[nodiscard]] std::vector<DeviceShare> place_region(const Topology& topology,
                                                    std::uint64_t size_bytes,
                                                    const DeviceName& near,
                                                    const AllocateOptions& options,
                                                    std::uint64_t granule_bytes);

}  // namespace causeway
