// Measures copies between two devices of the pool, and what the machine could do at best.
//
// Shape:   for each size several rounds; a round measures push, pull and the limit one after the
//          other, so that all see the same minute. Figures are medians over the rounds. All pieces
//          of a point use the same `size` bytes on either side, as ucx_perftest does. With a
//          concurrency of n, n threads copy between regions of their own; rates are of all.
// Units:   bytes, seconds, bytes per second.
// Errors:  out_of_memory if a device cannot hold `size`; internal if the bytes that arrived differ;
//          timed_out past the deadline.
// Threads: one thread; it starts others with a concurrency above 1.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "causeway/pool.h"

namespace causeway::tools {

struct CopyBenchOptions {
  DeviceName from;
  DeviceName to;
  std::vector<std::uint64_t> sizes_bytes;
  int rounds = 5;
  std::chrono::duration<double> point_time{1.0};  // Of all rounds of one figure together.
  bool compare = true;                            // Measure the limit as well.
  bool push = true;                               // The directions.
  bool pull = true;
  std::size_t concurrency = 1;
  // Past it the next step is not begun. A step ends at PoolOptions::timeout at the latest.
  std::optional<std::chrono::steady_clock::time_point> deadline = {};
};

struct CopyPoint {
  std::uint64_t size_bytes = 0;
  bool mapped = false;          // Both on this node: access is load and store.
  double push_bytes_per_s = 0;  // The source's node writes. When mapped: a copy by the daemon.
  double pull_bytes_per_s = 0;  // The target's node reads. 0: a direction that was not asked for.
  std::optional<double> limit_bytes_per_s;  // ucx_perftest tag_bw, or memcpy when mapped.
  double mapped_bytes_per_s = 0;  // When mapped: memcpy between the two regions by this process.
};

struct CopyBenchResult {
  std::string route;       // As the pool names it.
  std::string limit_name;  // "ucx_perftest tag_bw", "memcpy", or why there is none.
  std::vector<CopyPoint> points;
};

[[nodiscard]] CopyBenchResult bench_copy(
    Pool& pool, const CopyBenchOptions& options,
    const std::function<void(const std::string&)>& progress = {});

[[nodiscard]] double median(std::vector<double> values);

}  // namespace causeway::tools
