// What `causeway bench` measures of the transport alone, each by processes of its own.
//
// Shape:   a program beside `causeway`, which starts it: it sees the transport and no pool. Each
//          function prints one JSON object a line as soon as a figure is there.
// Units:   bytes, seconds.
// Errors:  throws Error; a process that fails is told on standard error.
// Threads: call from a program that has one thread: processes are forked.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "transport/collective/reduction.h"

namespace causeway::bench {

struct LatencyBench {
  std::vector<std::size_t> sizes;
  std::size_t concurrency = 1;  // Messages that go to and fro at once.
  double seconds = 1;           // Of each size.
  bool shares_memory = false;   // Messages through it, not over TCP.
};
// Half round trips: {"size_bytes","trips","p50_s","p90_s","p99_s","p999_s","max_s"}
[[nodiscard]] bool measure_latency(const LatencyBench& options);

struct CollectiveBench {
  enum class Operation : std::uint8_t {
    all_reduce,
    reduce_scatter,
    all_gather,
    broadcast,
    all_to_all,
    barrier
  };
  Operation operation = Operation::all_reduce;
  Reduction how{};
  std::size_t ranks = 2;
  std::vector<std::size_t> sizes;
  int rounds = 5;
  double seconds = 1;         // Of each size.
  bool shares_memory = true;  // Else over TCP.
};
// Results are compared once per size. `memcpy_s` is what every rank takes, all at once, to copy as
// many bytes as the operation must move: {"size_bytes","seconds","moved_share","memcpy_s"}
[[nodiscard]] bool measure_collective(const CollectiveBench& options);

struct ConnectionsBench {
  std::size_t count = 1000;
  std::size_t concurrency = 1;  // Being opened at once.
};
// A line for each tenth of `count`, after every channel has answered a message:
// {"held","open_p50_s","open_p99_s","open_per_s","answer_s","server_bytes","client_bytes",
// "server_descriptors","descriptor_limit"}, and {"refused"} with the reason, if one could not be
// opened: then that is all that can be held.
[[nodiscard]] bool measure_connections(const ConnectionsBench& options);

// What the transport chooses for copies to a node at `addresses`, and what the environment says to
// that: {"rails":[{"address","interface"}],"part_bytes","window_bytes","eager_bytes","environment":
// [...]}
void print_settings(const std::string& addresses);

}  // namespace causeway::bench
