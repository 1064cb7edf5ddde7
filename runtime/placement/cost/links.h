// What bytes take over links: alpha-beta, collectives, and flows that share a path.
//
// Shape:   a link is a bandwidth and a latency; unknown links are not described, never 0.
// Units:   bytes, seconds, bytes per second; "bus" bandwidth of a collective is what nccl-tests
// call
//          so: bytes on each rank's wire per second.
// Threads: plain functions.
// Source:  ring all-reduce moves 2 (n - 1) / n of the buffer: Patarasuk and Yuan, "Bandwidth
// optimal
//          all-reduce algorithms for clusters of workstations", 2009. Sharing is max-min fair:
//          Bertsekas and Gallager, "Data Networks", 6.5.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace causeway {

struct LinkRate {
  double bandwidth_bytes_per_s;
  double latency_s = 0;
};

[[nodiscard]] inline double transfer_seconds(const LinkRate& link, double bytes) noexcept {
  return link.latency_s + bytes / link.bandwidth_bytes_per_s;
}

// Every rank ends with the sum of all ranks' `bytes`. One rank: nothing to do, 0.
[[nodiscard]] double all_reduce_seconds(const LinkRate& bus, std::uint32_t ranks,
                                        double bytes) noexcept;
// Half of it: a reduce-scatter, or an all-gather, of `bytes` in all.
[[nodiscard]] double half_reduce_seconds(const LinkRate& bus, std::uint32_t ranks,
                                         double bytes) noexcept;

// A stream of bytes at one time with others. It crosses resources (a root complex, a host's memory,
// a network card) by index and would go at `limit_bytes_per_s` alone.
struct Flow {
  std::vector<std::size_t> resources;
  double limit_bytes_per_s;
};

// The bandwidth of each flow when all go at once and those that meet in a resource divide it
// fairly. `capacity_bytes_per_s` is per resource. O(flows * resources).
[[nodiscard]] std::vector<double> share_bandwidth(const std::vector<Flow>& flows,
                                                  std::vector<double> capacity_bytes_per_s);

// Bus bandwidth of a ring over `ranks` GPUs that cannot see each other: each of its hops is staged
// through the host, so it goes up and comes down, and all of them cross the same root complex.
[[nodiscard]] double staged_ring_bandwidth(std::uint32_t ranks, double lane_bytes_per_s,
                                           double root_bytes_per_s);

}  // namespace causeway
