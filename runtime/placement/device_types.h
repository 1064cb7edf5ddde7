// Devices that a plan cannot tell apart, collapsed: the planner counts them and never names them.
//
// Shape:   a type is a set of devices where swapping any two leaves every figure as it was: same
//          model, same available bytes, same access to every other device.
// Cost:    O(devices^2).
// Threads: plain values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "causeway/topology.h"

namespace causeway {

struct DeviceType {
  std::vector<DeviceName> devices;  // In the order given.
  std::uint64_t available_bytes;    // Whole granules.
  double seconds_per_flop;
  std::string model;
};

struct DeviceTypes {
  std::vector<DeviceType> types;
  // links[a * types.size() + b]: from a device of a to another of b. nullopt: no known path.
  std::vector<std::optional<Rate>> links;

  [[nodiscard]] const std::optional<Rate>& link(std::size_t a, std::size_t b) const noexcept {
    return links[a * types.size() + b];
  }
};

// Devices with different marks are never of one type. `marks`: one per device, or none.
[[nodiscard]] DeviceTypes collapse_devices(const Topology& topology,
                                           const std::vector<DeviceName>& devices,
                                           const std::vector<std::uint32_t>& marks = {});

}  // namespace causeway
