// How benches measure: batches of operations that begin at a barrier.
//
// Shape:   knows no floor, so that programs over other libraries measure in the same way.
// Units:   seconds.
// Errors:  those of the functions given.
// Threads: one.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <vector>

namespace causeway::bench {

// The median over `rounds` of seconds per operation. batch(times) meets the other ranks, does the
// operation `times` times and returns; agree(n) gives all ranks rank 0's n; reset() makes the
// values small again, since sums of sums end at infinity.
template <typename Batch, typename Agree, typename Reset>
double median_seconds(int rounds, const Batch& batch, const Agree& agree, const Reset& reset,
                      int most = 60, double sample_seconds = 0.2) {
  const auto seconds = [&](int times) {
    const auto start = std::chrono::steady_clock::now();
    batch(times);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / times;
  };
  reset();
  const int times = agree(std::clamp(static_cast<int>(sample_seconds / seconds(3)), 1, most));
  std::vector<double> samples;
  for (int round = 0; round < rounds; ++round) {
    reset();
    samples.push_back(seconds(times));
  }
  std::sort(samples.begin(), samples.end());
  return samples[samples.size() / 2];
}

}  // namespace causeway::bench
