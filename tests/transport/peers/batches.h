// How our benches' peers measure: batches of operations that begin at a barrier.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

namespace causeway::bench {

// The median over `rounds` of seconds per operation. batch(times) meets the other ranks, does the
// operation `times` times and returns; agree(n) gives all ranks rank 0's n; reset() makes the
// values small again, since sums of sums end at infinity.
template <typename Batch, typename Agree, typename Reset>
double median_seconds(int rounds, const Batch& batch, const Agree& agree, const Reset& reset,
                      int most = 60) {
  constexpr double kSampleSeconds = 0.2;
  const auto seconds = [&](int times) {
    const auto start = std::chrono::steady_clock::now();
    batch(times);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / times;
  };
  reset();
  const int times = agree(std::clamp(static_cast<int>(kSampleSeconds / seconds(3)), 1, most));
  std::vector<double> samples;
  for (int round = 0; round < rounds; ++round) {
    reset();
    samples.push_back(seconds(times));
  }
  std::sort(samples.begin(), samples.end());
  return samples[samples.size() / 2];
}

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
