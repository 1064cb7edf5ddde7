// Whether bytes of a device cross the network's library as they are, or by slots.
//
// Shape:   pure. Direct only where the library takes memory of devices and puts the bytes in their
//          place itself, as in a rendezvous: what comes unasked lies in a buffer of the library,
//          from where the processor would have to move it.
// Threads: any.
#pragma once

#include <cstdint>

namespace causeway {

enum class DeviceWay : std::uint8_t { direct, staged };

[[nodiscard]] constexpr DeviceWay choose_device_way(bool library_takes_devices,
                                                    bool is_rendezvous) noexcept {
  return library_takes_devices && is_rendezvous ? DeviceWay::direct : DeviceWay::staged;
}

}  // namespace causeway
