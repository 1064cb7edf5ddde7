// What is measured of a GPU: each part is one run of gpu_bench and one object of the results.
//
// Shape:   a part opens the driver itself (CAUSEWAY_CUDA_LIBRARY or libcuda.so.1) and uses GPU 0 of
//          it. What it says of bytes it has compared.
// Units:   bytes, GB/s (1e9 bytes), microseconds; medians over `rounds`.
// Errors:  Absent: something that the part needs is not on this machine, which is no failure.
//          Anything else that is thrown is one.
// Threads: one part in a process.
#pragma once

#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "allocator/cuda/plain_memory.h"
#include "allocator/cuda/stream.h"

namespace causeway::gpu {

namespace json = boost::json;
using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

struct Amount {
  std::uint64_t most_bytes;  // Of one piece of memory.
  int rounds;
};

struct Absent : std::runtime_error {
  using std::runtime_error::runtime_error;
};

json::object measure_card(const Amount& amount);
json::object measure_probe(const Amount& amount);
json::object measure_vmm(const Amount& amount);
json::object measure_copies(const Amount& amount);
json::object measure_zero_copy(const Amount& amount);
json::object measure_move(const Amount& amount);
json::object measure_staged(const Amount& amount);
json::object measure_ucx(const Amount& amount);
json::object measure_nccl(const Amount& amount);
json::object measure_train_gpt(const Amount& amount);
// Whether the driver is tests/cuda_emulator.
[[nodiscard]] bool is_software_driver();
int serve_staged(std::uint64_t size_bytes);  // The other process of measure_staged().

inline std::shared_ptr<CudaContext> first_gpu() {
  return CudaContext::retain(CudaDriver::open(), 0);
}

template <typename Body>
double seconds_of(Body body) {
  const auto start = Clock::now();
  body();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

inline double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::ranges::nth_element(values, middle);
  return *middle;
}

// Of `rounds` runs, the first of which does not count.
template <typename Body>
double median_seconds(int rounds, Body body) {
  std::vector<double> times;
  for (int i = 0; i <= rounds; ++i) {
    const auto time = seconds_of(body);
    if (i > 0) times.push_back(time);
  }
  return median(std::move(times));
}

inline double gb_per_s(std::uint64_t bytes, double seconds) {
  return static_cast<double>(bytes) / seconds / 1e9;
}

inline void require(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what);
}

// Words that differ from place to place.
inline std::vector<std::byte> pattern(std::uint64_t size_bytes, unsigned seed) {
  std::vector<std::byte> bytes(size_bytes);
  for (std::uint64_t i = 0; i < size_bytes; ++i)
    bytes[i] = static_cast<std::byte>((i * 131 + (i >> 12) + seed) & 0xff);
  return bytes;
}

}  // namespace causeway::gpu
