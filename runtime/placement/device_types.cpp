#include "runtime/placement/device_types.h"

#include <unordered_map>

#include "causeway/gpu_catalogue.h"

namespace causeway {

namespace {

constexpr double kEfficiency = 0.4;      // Of the peak, as training reaches it.
constexpr double kHostFlopsPerS = 1e12;  // A server's cores, far below any GPU of the catalogue.

using Matrix = std::vector<std::optional<Rate>>;

bool same(const std::optional<Rate>& a, const std::optional<Rate>& b) {
  if (!a || !b) return !a && !b;
  return a->bandwidth_bytes_per_s == b->bandwidth_bytes_per_s && a->latency_s == b->latency_s;
}

// True if swapping devices a and b leaves the matrix as it was.
bool twins(const Matrix& access, std::size_t n, std::size_t a, std::size_t b) {
  if (!same(access[a * n + b], access[b * n + a])) return false;
  for (std::size_t c = 0; c < n; ++c) {
    if (c == a || c == b) continue;
    if (!same(access[a * n + c], access[b * n + c])) return false;
    if (!same(access[c * n + a], access[c * n + b])) return false;
  }
  return true;
}

Matrix access_matrix(const Topology& topology, const std::vector<DeviceName>& devices) {
  std::unordered_map<DeviceName, std::size_t> index;
  for (std::size_t i = 0; i < devices.size(); ++i) index.emplace(devices[i], i);
  Matrix access(devices.size() * devices.size());
  for (std::size_t i = 0; i < devices.size(); ++i)
    for (const auto& ranked : topology.rank(devices[i]))
      if (const auto at = index.find(ranked.device); at != index.end())
        access[i * devices.size() + at->second] = ranked.cost.rate;
  return access;
}

double seconds_per_flop(const TopologyDevice& device) {
  const auto* gpu = find_gpu_model(device.model);
  return 1 / (kEfficiency * (gpu != nullptr ? gpu->flops_per_s : kHostFlopsPerS));
}

}  // namespace

DeviceTypes collapse_devices(const Topology& topology, const std::vector<DeviceName>& devices,
                             const std::vector<std::uint32_t>& marks) {
  const auto mark = [&](std::size_t device) { return marks.empty() ? 0 : marks[device]; };
  const auto n = devices.size();
  const auto access = access_matrix(topology, devices);
  DeviceTypes result;
  std::vector<std::vector<std::size_t>> members;  // Per type, indices into `devices`.
  for (std::size_t i = 0; i < n; ++i) {
    const auto& device = *topology.find(devices[i]);
    const auto available_bytes = device.available_bytes / kDeviceGranuleBytes * kDeviceGranuleBytes;
    std::size_t type = 0;
    // Being twins is transitive (swaps compose), so one member stands for its type.
    while (type < members.size() &&
           !(result.types[type].model == device.model && mark(members[type].front()) == mark(i) &&
             result.types[type].available_bytes == available_bytes &&
             twins(access, n, members[type].front(), i)))
      ++type;
    if (type == members.size()) {
      result.types.push_back({{}, available_bytes, seconds_per_flop(device), device.model});
      members.emplace_back();
    }
    members[type].push_back(i);
    result.types[type].devices.push_back(devices[i]);
  }
  for (const auto& from : members)
    for (const auto& to : members) {
      const auto other = &from != &to ? to.front() : to.back();
      const bool alone = &from == &to && to.size() < 2;
      result.links.push_back(alone ? std::nullopt : access[from.front() * n + other]);
    }
  return result;
}

}  // namespace causeway
