// What the books cost: allocate plus release with many extents live, and what packing wastes.
// Targets: under 1 us at 100,000 live extents; under 12% unused.
#include <benchmark/benchmark.h>

#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "allocator/extent_allocator.h"
#include "allocator/object_packer.h"

using causeway::Extent;
using causeway::ExtentAllocator;

namespace {

constexpr std::uint64_t kGranule = 2 * 1024 * 1024;

// Replaces a random one of state.range(0) extents of 1 to 64 granules each time.
void allocate_and_release(benchmark::State& state) {
  std::mt19937_64 random(1);
  const auto count = static_cast<std::size_t>(state.range(0));
  auto allocator = ExtentAllocator::create({count * 48 * kGranule, kGranule}).value();
  std::vector<Extent> held;
  while (held.size() < count)
    held.push_back(allocator.allocate((1 + random() % 64) * kGranule).value());
  // Draws are made ahead: the generator is not what is measured.
  std::vector<std::pair<std::size_t, std::uint64_t>> draws(1 << 16);
  for (auto& draw : draws) draw = {random() % count, (1 + random() % 64) * kGranule};
  std::size_t i = 0;
  for (auto _ : state) {
    const auto& [victim, size_bytes] = draws[i++ % draws.size()];
    if (!allocator.release(held[victim])) state.SkipWithError("a live extent was refused");
    const auto extent = allocator.allocate(size_bytes);
    if (!extent) {
      state.SkipWithError("the device is full");
      break;
    }
    held[victim] = *extent;
  }
  state.counters["used_percent"] = 100.0 * static_cast<double>(allocator.used_bytes()) /
                                   static_cast<double>(allocator.capacity_bytes());
}
BENCHMARK(allocate_and_release)->Arg(1000)->Arg(10000)->Arg(100000)->Arg(1000000);

// The hard case: full up to the first refusal, sizes of many classes, so that only holes of the
// wanted class may be left and are walked. Refusals count as calls.
void allocate_when_full(benchmark::State& state) {
  std::mt19937_64 random(1);
  const auto capacity_bytes = static_cast<std::uint64_t>(state.range(0)) * 512 * kGranule;
  auto allocator = ExtentAllocator::create({capacity_bytes, kGranule}).value();
  std::vector<Extent> held;
  const auto draw = [&] { return (1 + random() % 1024) * kGranule; };
  while (const auto extent = allocator.allocate(draw())) held.push_back(*extent);
  std::uint64_t refused = 0;
  for (auto _ : state) {
    std::swap(held[random() % held.size()], held.back());
    if (!allocator.release(held.back())) state.SkipWithError("a live extent was refused");
    held.pop_back();
    for (int i = 0; i < 2; ++i) {
      if (const auto extent = allocator.allocate(draw()))
        held.push_back(*extent);
      else
        ++refused;
    }
  }
  state.counters["used_percent"] = 100.0 * static_cast<double>(allocator.used_bytes()) /
                                   static_cast<double>(allocator.capacity_bytes());
  state.counters["refused_percent"] =
      50.0 * static_cast<double>(refused) / static_cast<double>(state.iterations());
}
BENCHMARK(allocate_when_full)->Arg(10000)->Arg(100000);

class CountingSource : public causeway::ChunkSource {
 public:
  std::uint64_t acquire_chunk(std::uint64_t size_bytes) override {
    return std::exchange(next_, next_ + size_bytes);
  }
  void release_chunk(Extent) noexcept override {}

 private:
  std::uint64_t next_ = 0;
};

// Objects of 256 B to 1 MiB, log-uniform, range(0) MiB of them live; one is replaced each time.
void pack_objects(benchmark::State& state) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> exponent(8.0, 20.0);
  std::vector<std::uint64_t> sizes(1 << 16);
  for (auto& size_bytes : sizes)
    size_bytes = static_cast<std::uint64_t>(std::exp2(exponent(random)));
  std::vector<std::size_t> victims(1 << 16);
  for (auto& victim : victims) victim = random();
  const auto target_bytes = static_cast<std::uint64_t>(state.range(0)) << 20;
  CountingSource source;
  causeway::ObjectPacker packer(source, 2 * 1024 * 1024);
  std::vector<std::pair<Extent, std::uint64_t>> held;
  std::uint64_t live_bytes = 0;
  std::size_t drawn = 0;
  double waste_sum = 0;
  for (auto _ : state) {
    while (live_bytes < target_bytes) {
      const auto size_bytes = sizes[drawn++ % sizes.size()];
      held.emplace_back(packer.allocate(size_bytes), size_bytes);
      live_bytes += size_bytes;
    }
    waste_sum += 1.0 - static_cast<double>(live_bytes) / static_cast<double>(packer.held_bytes());
    std::swap(held[victims[drawn % victims.size()] % held.size()], held.back());
    live_bytes -= held.back().second;
    if (!packer.release(held.back().first)) state.SkipWithError("a live object was refused");
    held.pop_back();
  }
  state.counters["waste_percent"] = 100.0 * waste_sum / static_cast<double>(state.iterations());
}
BENCHMARK(pack_objects)->Arg(256)->Arg(1024)->Iterations(50000);

}  // namespace

BENCHMARK_MAIN();
