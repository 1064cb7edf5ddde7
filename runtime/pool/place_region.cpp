#include "runtime/pool/place_region.h"

#include <fmt/format.h>

#include <algorithm>

namespace causeway {

std::vector<DeviceShare> place_region(const Topology& topology, std::uint64_t size_bytes,
                                      const DeviceName& near, const AllocateOptions& options,
                                      std::uint64_t granule_bytes) {
  for (const auto& device : options.only)
    if (!topology.find(device))
      throw Error(Errc::not_found, fmt::format("the pool has no device '{}'", device.to_string()));
  std::vector<DeviceShare> shares;
  auto left = size_bytes;
  std::uint64_t available = 0;
  std::string asked;
  for (const auto& ranked : topology.rank(near)) {
    if (!options.only.empty() && !std::ranges::count(options.only, ranked.device)) continue;
    const auto* device = topology.find(ranked.device);
    const auto whole = device->available_bytes / granule_bytes * granule_bytes;
    available += whole;
    if (asked.size() < 200) asked += (asked.empty() ? "" : ", ") + ranked.device.to_string();
    const auto take = std::min(left, whole);
    if (take > 0) shares.push_back({ranked.device, take});
    left -= take;
  }
  if (left == 0) return shares;
  throw Error(Errc::out_of_memory,
              fmt::format("region '{}' needs {} ({} bytes), and {} ({} bytes) are available on {}; "
                          "free memory or let more devices take part",
                          options.name, format_bytes(size_bytes), size_bytes,
                          format_bytes(available), available, asked.empty() ? "no device" : asked));
}

}  // namespace causeway
