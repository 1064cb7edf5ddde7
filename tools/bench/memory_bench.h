// Measures how fast the cores of one NUMA node copy from its memory into that of another.
//
// Shape:   one thread a core, each bound to it, with buffers of its own larger than a cache; memory
//          is bound to its NUMA node by mbind(), and where the kernel does not allow that, placed
//          by first touch if the node has cores. Every buffer is compared at the end.
// Units:   bytes copied per second: each is read once and written once.
// Errors:  unsupported if threads or memory cannot be put where they should be; out_of_memory;
//          internal if the bytes that arrived differ; cancelled by an interrupt.
// Threads: one measurement at a time; its threads end before it returns.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace causeway::tools {

struct NumaPlace {
  std::uint32_t numa = 0;
  std::string cpus;  // "0-23,48-71"; empty: memory alone.
};

struct MemoryCopyOptions {
  std::chrono::duration<double> time{0.3};
  std::uint64_t buffer_bytes = std::uint64_t{64} << 20;  // Of each thread, on either side.
  std::size_t max_threads = 64;
};

struct MemoryCopy {
  double bytes_per_s = 0;
  std::size_t threads = 0;
};

// The cores of `from` copy from memory of `from` to memory of `to`.
[[nodiscard]] MemoryCopy measure_memory_copy(const NumaPlace& from, const NumaPlace& to,
                                             const MemoryCopyOptions& options = {});

// The cores of a list like "0-2,5" that this process may use. Errors: parse for another text.
[[nodiscard]] std::vector<std::size_t> usable_cores(std::string_view list);

}  // namespace causeway::tools
