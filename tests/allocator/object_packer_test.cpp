// Goal:   small objects never overlap, chunks come and go with them, and little is wasted.
// Method: edges by hand; seeded churn with every object checked against its neighbours; the waste
// of
//         a mix of 256 B to 1 MiB is measured and held below 12%.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "allocator/object_packer.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <iterator>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "allocator/error.h"

using causeway::Extent;
using causeway::kMaxObjectBytes;
using causeway::kObjectAlignmentBytes;
using causeway::ObjectPacker;

namespace {

constexpr std::uint64_t kChunk = 2 * 1024 * 1024;

class CountingSource : public causeway::ChunkSource {
 public:
  std::uint64_t acquire_chunk(std::uint64_t size_bytes) override {
    if (refuse) throw causeway::Error(causeway::Errc::out_of_memory, "test: no chunk");
    // Chunks lie end to end, the hard case: nothing may merge across.
    const auto offset_bytes = next;
    next += size_bytes;
    held.insert(offset_bytes);
    return offset_bytes;
  }
  void release_chunk(Extent chunk) noexcept override {
    CHECK(chunk.size_bytes == kChunk);
    CHECK(held.erase(chunk.offset_bytes) == 1);
  }
  bool refuse = false;
  std::uint64_t next = 0;
  std::set<std::uint64_t> held;
};

struct Object {
  Extent extent;
  std::uint64_t requested_bytes;
};

// Log-uniform: as many tensors between 256 B and 512 B as between 512 KiB and 1 MiB.
std::uint64_t draw_size(std::mt19937_64& random) {
  std::uniform_real_distribution<double> exponent(8.0, 20.0);
  return static_cast<std::uint64_t>(std::exp2(exponent(random)));
}

void check_apart(std::map<std::uint64_t, std::uint64_t>& live, Extent extent) {
  const auto [entry, is_new] = live.emplace(extent.offset_bytes, extent.size_bytes);
  REQUIRE(is_new);
  REQUIRE(extent.offset_bytes % kObjectAlignmentBytes == 0);
  REQUIRE(extent.offset_bytes / kChunk == (extent.offset_bytes + extent.size_bytes - 1) / kChunk);
  if (entry != live.begin())
    REQUIRE(std::prev(entry)->first + std::prev(entry)->second <= extent.offset_bytes);
  if (std::next(entry) != live.end())
    REQUIRE(extent.offset_bytes + extent.size_bytes <= std::next(entry)->first);
}

// Fills to target_bytes, then replaces random objects; returns the mean waste during the churn.
double churn(std::uint64_t seed, std::uint64_t target_bytes, int steps) {
  std::mt19937_64 random(seed);
  CountingSource source;
  ObjectPacker packer(source, kChunk);
  std::vector<Object> objects;
  std::map<std::uint64_t, std::uint64_t> live;
  std::uint64_t requested_bytes = 0;
  double waste_sum = 0;
  int samples = 0;
  for (int step = 0; step < steps; ++step) {
    INFO("seed=", seed, " step=", step);
    while (requested_bytes < target_bytes) {
      const auto size_bytes = draw_size(random);
      const auto extent = packer.allocate(size_bytes);
      REQUIRE(extent.size_bytes >= size_bytes);
      REQUIRE(extent.size_bytes < size_bytes + kObjectAlignmentBytes);

      check_apart(live, extent);
      objects.push_back({extent, size_bytes});
      requested_bytes += size_bytes;
    }
    waste_sum += 1.0 - static_cast<double>(requested_bytes) /
                           static_cast<double>(source.held.size() * kChunk);
    ++samples;
    std::swap(objects[random() % objects.size()], objects.back());
    const auto object = objects.back();
    objects.pop_back();
    REQUIRE(packer.release(object.extent));
    REQUIRE_FALSE(packer.release(object.extent));
    live.erase(object.extent.offset_bytes);
    requested_bytes -= object.requested_bytes;
    if (step % 500 == 0) REQUIRE(packer.check_invariants());
    REQUIRE(packer.held_bytes() == source.held.size() * kChunk);
  }
  for (const auto& object : objects) REQUIRE(packer.release(object.extent));
  CHECK(packer.used_bytes() == 0);
  CHECK(source.held.size() == 1);  // The one that is kept.
  return waste_sum / samples;
}

}  // namespace

TEST_CASE("a mix of 256 B to 1 MiB with churn wastes under 12%") {
  std::vector<std::uint64_t> seeds = {1, 2, 3, 4, 5};
  if (const char* seed = std::getenv("CAUSEWAY_TEST_SEED")) seeds = {std::stoull(seed)};
  for (const auto seed : seeds) {
    const auto waste = churn(seed, 256ULL << 20, 20000);
    MESSAGE("seed=" << seed << " mean waste=" << waste * 100 << "%");
    CHECK(waste < 0.12);
  }
}

TEST_CASE("objects that no chunk takes are refused") {
  CountingSource source;
  ObjectPacker packer(source, kChunk);
  for (const auto size_bytes : {std::uint64_t{0}, kMaxObjectBytes + 1, ~std::uint64_t{0}})
    CHECK_THROWS_AS((void)packer.allocate(size_bytes), causeway::Error);
  CHECK(source.held.empty());
  CHECK(packer.allocate(1).size_bytes == kObjectAlignmentBytes);
  CHECK(packer.allocate(kMaxObjectBytes).size_bytes == kMaxObjectBytes);
  CHECK(source.held.size() == 2);  // Small and large objects are apart.
}

TEST_CASE("a chunk must hold the largest object") {
  CountingSource source;
  for (const auto bytes : {std::uint64_t{0}, kMaxObjectBytes - 256, kMaxObjectBytes + 1})
    CHECK_THROWS_AS(ObjectPacker(source, bytes), causeway::Error);
}

TEST_CASE("a source without chunks leaves the packer as it was") {
  CountingSource source;
  ObjectPacker packer(source, kChunk);
  source.refuse = true;
  CHECK_THROWS_AS((void)packer.allocate(1000), causeway::Error);
  CHECK(packer.held_bytes() == 0);
  CHECK(packer.check_invariants());
  source.refuse = false;
  CHECK(packer.release(packer.allocate(1000)));
}

TEST_CASE("one empty chunk is kept, more go back, and the kept one is used again") {
  CountingSource source;
  ObjectPacker packer(source, kChunk);
  std::vector<Extent> objects;
  for (int i = 0; i < 6; ++i) objects.push_back(packer.allocate(kMaxObjectBytes));
  CHECK(source.held.size() == 3);
  for (const auto& object : objects) CHECK(packer.release(object));
  CHECK(source.held.size() == 1);
  objects.clear();
  for (int i = 0; i < 2; ++i) objects.push_back(packer.allocate(kMaxObjectBytes));
  CHECK(source.held.size() == 1);
  for (int i = 0; i < 2; ++i) objects.push_back(packer.allocate(kMaxObjectBytes));
  for (const auto& object : objects) CHECK(packer.release(object));
  CHECK(source.held.size() == 1);  // The kept chunk was in use, so one was kept again.
  CHECK(packer.check_invariants());
}

TEST_CASE("a wrong release changes nothing") {
  CountingSource source;
  ObjectPacker packer(source, kChunk);
  const auto object = packer.allocate(1000);
  for (const auto bad : {Extent{object.offset_bytes, 512},
                         {object.offset_bytes + 256, 768},
                         {object.offset_bytes + 1, 1024},
                         {object.offset_bytes, 1000},
                         {kChunk, 1024}})
    CHECK_FALSE(packer.release(bad));
  CHECK(packer.release(object));
  CHECK_FALSE(packer.release(object));
}

TEST_CASE("a packer that goes gives back all chunks, also with objects in them") {
  CountingSource source;
  {
    ObjectPacker packer(source, kChunk);
    for (int i = 0; i < 100; ++i) (void)packer.allocate(100000);
    CHECK(source.held.size() > 3);
  }
  CHECK(source.held.empty());
}
