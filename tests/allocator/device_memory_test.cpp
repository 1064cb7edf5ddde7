// Goal:   what a device lends is whole, zeroed, its borrower's alone, and comes back, whatever
// fails. Method: edges by hand; every call of the backend made to fail in turn; seeded lending with
// each
//         loan's bytes marked and checked.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "allocator/device_memory.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "allocator/error.h"
#include "tests/allocator/faulty_host_backend.h"

using causeway::DeviceMemory;
using causeway::Errc;
using causeway::HostBackend;
using causeway::Loan;
using causeway::test::FaultyHostBackend;

namespace {

constexpr auto kGranule = causeway::kHostGranuleBytes;

DeviceMemory make(std::uint64_t granules) {
  return DeviceMemory(
      std::make_shared<HostBackend>(HostBackend::Options{"desktop/gpu1", granules * kGranule}));
}

bool is_filled_with(std::span<const std::byte> bytes, int value) {
  return bytes[0] == std::byte(value) &&
         std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

void fill(const Loan& loan, int value) { std::ranges::fill(loan.bytes(), std::byte(value)); }

std::uint64_t total(const std::vector<Loan>& loans) {
  std::uint64_t sum = 0;
  for (const auto& loan : loans) sum += loan.size_bytes();
  return sum;
}

std::string text_of_out_of_memory(const std::function<void()>& call) {
  try {
    call();
  } catch (const causeway::Error& error) {
    CHECK(error.code() == Errc::out_of_memory);
    return error.what();
  }
  return "no error";
}

// 0..7 granules with every second one free.
std::vector<Loan> fragment(DeviceMemory& device) {
  std::vector<Loan> all;
  for (int i = 0; i < 8; ++i) all.push_back(device.lend(kGranule));
  std::vector<Loan> held;
  for (auto& loan : all)
    if (loan.extent().offset_bytes / kGranule % 2 == 1) held.push_back(std::move(loan));
  return held;
}

}  // namespace

TEST_CASE("a loan is zeroed, writable and its own; its bytes come back") {
  auto device = make(4);
  CHECK(device.name() == "desktop/gpu1");
  CHECK(device.capacity_bytes() == 4 * kGranule);
  {
    const auto one = device.lend(1);
    const auto two = device.lend(2 * kGranule);
    CHECK(one.size_bytes() == kGranule);
    CHECK(device.used_bytes() == 3 * kGranule);
    CHECK(device.available_bytes() == kGranule);
    CHECK(is_filled_with(one.bytes(), 0));
    CHECK(is_filled_with(two.bytes(), 0));
    fill(one, 1);
    fill(two, 2);
    CHECK(is_filled_with(one.bytes(), 1));
    CHECK(is_filled_with(two.bytes(), 2));
  }
  CHECK(device.used_bytes() == 0);
  CHECK(is_filled_with(device.lend(4 * kGranule).bytes(), 0));  // Nothing of the last borrower.
}

TEST_CASE("a loan's descriptor reaches its bytes in another address space") {
  auto device = make(2);
  const auto loan = device.lend(2 * kGranule);
  fill(loan, 5);
  HostBackend client({"client"});
  const auto segment = client.import_segment(loan.export_fd(), loan.size_bytes());
  auto range = client.reserve(segment.size_bytes());
  client.map(range, 0, segment);
  client.set_access(range, 0, segment.size_bytes(), causeway::Protection::read_write);
  CHECK(range.data()[0] == std::byte{5});
  range.data()[1] = std::byte{6};
  CHECK(loan.bytes()[1] == std::byte{6});
}

TEST_CASE("a full device says what was needed and what there is, and changes nothing") {
  auto device = make(3);
  const auto held = device.lend(2 * kGranule);
  const auto text = text_of_out_of_memory([&] { (void)device.lend(kGranule + 1); });
  CHECK(text == "desktop/gpu1: 65537 bytes needed, 65536 bytes available of 196608");
  CHECK(text_of_out_of_memory([&] {
          (void)device.lend_pieces(~std::uint64_t{0});
        }).starts_with("desktop/gpu1: 18446744073709551615 bytes needed"));
  CHECK(device.used_bytes() == 2 * kGranule);
  CHECK_THROWS_AS((void)device.lend(0), causeway::Error);
  CHECK_THROWS_AS((void)device.lend_pieces(0), causeway::Error);
}

TEST_CASE("free bytes in pieces are lent as pieces, few and exact") {
  auto device = make(8);
  const auto held = fragment(device);
  REQUIRE(held.size() == 4);
  CHECK(text_of_out_of_memory([&] {
          (void)device.lend(2 * kGranule);
        }).ends_with("; the largest free piece has 65536 bytes"));
  {
    const auto pieces = device.lend_pieces(3 * kGranule - 5);
    CHECK(pieces.size() == 3);
    CHECK(total(pieces) == 3 * kGranule);
    for (const auto& piece : pieces) CHECK(is_filled_with(piece.bytes(), 0));
    CHECK(text_of_out_of_memory([&] { (void)device.lend_pieces(2 * kGranule); }) ==
          "desktop/gpu1: 131072 bytes needed, 65536 bytes available of 524288");
  }
  CHECK(device.available_bytes() == 4 * kGranule);
  CHECK(device.lend_pieces(4 * kGranule).size() == 4);
}

TEST_CASE("one piece where one will do") {
  auto device = make(8);
  CHECK(device.lend_pieces(8 * kGranule).size() == 1);
  CHECK(device.lend_pieces(1).size() == 1);
}

TEST_CASE("the capacity is rounded down to whole granules, and one at least is needed") {
  DeviceMemory device(
      std::make_shared<HostBackend>(HostBackend::Options{"test/gpu0", 3 * kGranule - 1}));
  CHECK(device.capacity_bytes() == 2 * kGranule);
  CHECK_THROWS_AS(
      DeviceMemory(std::make_shared<HostBackend>(HostBackend::Options{"test/gpu0", kGranule - 1})),
      causeway::Error);
}

TEST_CASE("a loan moves, and may outlive its device") {
  Loan kept;
  CHECK_FALSE(kept);
  CHECK(kept.bytes().empty());
  CHECK_THROWS_AS((void)kept.export_fd(), causeway::Error);
  {
    auto device = make(2);
    auto loan = device.lend(kGranule);
    kept = device.lend(kGranule);
    kept = std::move(loan);  // Gives the first one back.
    CHECK(device.used_bytes() == kGranule);
    CHECK_FALSE(loan);  // NOLINT: a moved-from loan is empty, and that is what is tested.
    fill(kept, 9);
  }
  CHECK(is_filled_with(kept.bytes(), 9));
}

TEST_CASE("whichever call of the backend fails, nothing stays lent") {
  for (int n = 1;; ++n) {
    INFO("n=", n);
    const auto backend =
        std::make_shared<FaultyHostBackend>(HostBackend::Options{"test/gpu0", 8 * kGranule});
    DeviceMemory device(backend);
    const auto held = fragment(device);
    backend->arm(n);
    bool threw = false;
    try {
      (void)device.lend_pieces(3 * kGranule);
    } catch (const causeway::Error& error) {
      CHECK(error.code() == Errc::io);
      threw = true;
    }
    const bool out_of_points = backend->disarm();
    if (!out_of_points && !threw) continue;  // An unmap of the give-back failed: the next test.
    CHECK(device.used_bytes() == 4 * kGranule);
    CHECK(backend->used_bytes() == 4 * kGranule);
    CHECK(device.lend_pieces(4 * kGranule).size() == 4);
    if (out_of_points) {
      CHECK(n == 13);  // Three pieces, four calls each: create, map, set_access and unmap.
      break;
    }
  }
}

TEST_CASE("addresses that cannot be unmapped are never lent again") {
  const auto backend =
      std::make_shared<FaultyHostBackend>(HostBackend::Options{"test/gpu0", 2 * kGranule});
  DeviceMemory device(backend);
  backend->fail_unmaps = true;
  { const auto loan = device.lend(kGranule); }
  backend->fail_unmaps = false;
  CHECK(device.used_bytes() == kGranule);
  const auto other = device.lend(kGranule);
  fill(other, 1);
  CHECK_THROWS_AS((void)device.lend(kGranule), causeway::Error);
}

TEST_CASE("random lending keeps every borrower's bytes apart") {
  std::uint64_t first_seed = 1;
  std::uint64_t last_seed = 20;
  if (const char* seed = std::getenv("CAUSEWAY_TEST_SEED"))
    first_seed = last_seed = std::stoull(seed);
  for (auto seed = first_seed; seed <= last_seed; ++seed) {
    std::mt19937_64 random(seed);
    auto device = make(40);
    std::vector<std::pair<Loan, int>> held;
    for (int step = 0; step < 150; ++step) {
      INFO("seed=", seed, " step=", step);
      if (random() % 2 == 0) {
        const auto available_bytes = device.available_bytes();
        const auto size_bytes = 1 + random() % (8 * kGranule);
        try {
          for (auto& loan : device.lend_pieces(size_bytes)) {
            REQUIRE(is_filled_with(loan.bytes(), 0));
            const int mark = 1 + static_cast<int>(random() % 255);
            fill(loan, mark);
            held.emplace_back(std::move(loan), mark);
          }
          REQUIRE(size_bytes <= available_bytes);
        } catch (const causeway::Error&) {
          REQUIRE(size_bytes > available_bytes);
        }
      } else if (!held.empty()) {
        std::swap(held[random() % held.size()], held.back());
        REQUIRE(is_filled_with(held.back().first.bytes(), held.back().second));
        held.pop_back();
      }
      std::uint64_t used_bytes = 0;
      for (const auto& [loan, mark] : held) used_bytes += loan.size_bytes();
      REQUIRE(device.used_bytes() == used_bytes);
    }
    for (const auto& [loan, mark] : held) REQUIRE(is_filled_with(loan.bytes(), mark));
  }
}

TEST_CASE("threads lend and give back at once") {
  auto device = make(16);
  std::vector<std::thread> threads;
  std::vector<int> spoilt(4);
  for (std::size_t t = 0; t < spoilt.size(); ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 100; ++i) {
        try {
          const auto loans = device.lend_pieces((1 + static_cast<std::uint64_t>(i) % 5) * kGranule);
          for (const auto& loan : loans) {
            if (!is_filled_with(loan.bytes().first(64), 0)) ++spoilt[t];
            std::ranges::fill(loan.bytes().first(64), std::byte(1 + t));
            if (!is_filled_with(loan.bytes().first(64), static_cast<int>(1 + t))) ++spoilt[t];
          }
        } catch (const causeway::Error& error) {
          if (error.code() != Errc::out_of_memory) ++spoilt[t];
        }
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK((spoilt == std::vector<int>(4)));
  CHECK(device.used_bytes() == 0);
}
