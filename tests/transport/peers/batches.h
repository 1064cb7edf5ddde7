// What our benches and their peers print, and how many copies they keep under way.
#pragma once

#include <cstdio>

#include "transport/bench/batches.h"

namespace causeway::bench {

inline void print(const char* who, std::size_t size_bytes, int ranks, double seconds) {
  std::printf("%s: %zu bytes, %d ranks: %.6f s, %.3f GB/s\n", who, size_bytes, ranks, seconds,
              static_cast<double>(size_bytes) / seconds / 1e9);
  std::fflush(stdout);
}

// Copies between two processes: as many in flight as ucx_copy_bench has.
constexpr int kMostCopies = 200000;
constexpr int window(std::size_t size_bytes) { return size_bytes <= 64 << 10 ? 32 : 4; }

// A line for table.py.
inline void print_copy(const char* operation, std::size_t size_bytes, double seconds) {
  std::printf("%s %zu %.4f\n", operation, size_bytes,
              static_cast<double>(size_bytes) / seconds / 1e9);
  std::fflush(stdout);
}
inline void print_half_trip(double seconds) { std::printf("half_trip 8 %.3f\n", seconds * 1e6); }

}  // namespace causeway::bench
