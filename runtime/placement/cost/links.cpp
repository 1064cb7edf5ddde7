#include "runtime/placement/cost/links.h"

#include <algorithm>
#include <limits>

namespace causeway {

double half_reduce_seconds(const LinkRate& bus, std::uint32_t ranks, double bytes) noexcept {
  if (ranks < 2) return 0;
  const double steps = ranks - 1.0;
  return steps * bus.latency_s + steps / ranks * bytes / bus.bandwidth_bytes_per_s;
}

double all_reduce_seconds(const LinkRate& bus, std::uint32_t ranks, double bytes) noexcept {
  return 2 * half_reduce_seconds(bus, ranks, bytes);
}

// Progressive filling: all flows rise together until a resource is full or a flow has its limit;
// those stop there, the rest goes on.
std::vector<double> share_bandwidth(const std::vector<Flow>& flows, std::vector<double> capacity) {
  std::vector<double> rate(flows.size(), 0);
  std::vector<bool> fixed(flows.size(), false);
  std::vector<double> crossing(capacity.size(), 0);
  for (const auto& flow : flows)
    for (const auto resource : flow.resources) crossing[resource] += 1;
  for (std::size_t left = flows.size(); left > 0;) {
    double rise = std::numeric_limits<double>::infinity();
    for (std::size_t r = 0; r < capacity.size(); ++r)
      if (crossing[r] > 0) rise = std::min(rise, capacity[r] / crossing[r]);
    for (std::size_t f = 0; f < flows.size(); ++f)
      if (!fixed[f]) rise = std::min(rise, flows[f].limit_bytes_per_s - rate[f]);
    for (std::size_t r = 0; r < capacity.size(); ++r)
      capacity[r] = std::max(0.0, capacity[r] - rise * crossing[r]);
    const auto before = left;
    for (std::size_t f = 0; f < flows.size(); ++f) {
      if (fixed[f]) continue;
      rate[f] += rise;
      constexpr double kRounding = 1e-12;
      const double limit = flows[f].limit_bytes_per_s;
      const bool full = std::ranges::any_of(flows[f].resources, [&](std::size_t r) {
        return capacity[r] <= kRounding * rise * crossing[r];
      });
      if (!full && rate[f] < limit * (1 - kRounding)) continue;
      fixed[f] = true;
      --left;
    }
    for (std::size_t r = 0; r < capacity.size(); ++r) crossing[r] = 0;
    for (std::size_t f = 0; f < flows.size(); ++f)
      if (!fixed[f])
        for (const auto resource : flows[f].resources) crossing[resource] += 1;
    if (left == before) break;  // Only figures that are not finite get here.
  }
  return rate;
}

double staged_ring_bandwidth(std::uint32_t ranks, double lane_bytes_per_s,
                             double root_bytes_per_s) {
  // One hop is two crossings, up and down.
  const std::vector<Flow> hops(ranks, Flow{{0, 0}, lane_bytes_per_s});
  return hops.empty() ? lane_bytes_per_s : share_bandwidth(hops, {root_bytes_per_s}).front();
}

}  // namespace causeway
