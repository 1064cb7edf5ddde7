// What every body of MemoryBackend must do. Include it in one test file of the body and say
//   CAUSEWAY_MEMORY_BACKEND_SUITE(Body);
// where Body is a type with these static functions:
//   std::unique_ptr<MemoryBackend> make(granules)     a device with that capacity
//   void store(to, bytes), load(bytes, from)          move bytes to and from mapped addresses
//   int run_in_child(function), Child start(function) run in another process
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <csignal>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "allocator/error.h"
#include "allocator/memory_backend.h"
#include "tests/conformance/child_process.h"

namespace causeway::test {

// The code with which `call` throws; internal if it does not.
template <typename Call>
Errc code_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  return Errc::internal;
}

template <typename Body>
struct BackendFixture {
  explicit BackendFixture(std::uint64_t granules)
      : backend(Body::make(granules)), granule(backend->granule_bytes()) {}

  // A reservation with `segment` mapped at its start.
  Reservation mapped(const Segment& segment, Protection protection = Protection::read_write) {
    auto range = backend->reserve(segment.size_bytes());
    backend->map(range, 0, segment);
    backend->set_access(range, 0, segment.size_bytes(), protection);
    return range;
  }

  static void store(std::byte* to, std::uint8_t value) {
    const std::byte byte{value};
    Body::store(to, {&byte, 1});
  }
  static int load(const std::byte* from) {
    std::byte byte{};
    Body::load({&byte, 1}, from);
    return static_cast<int>(byte);
  }
  // Exit codes of the child: 0 if the access came through, -SIGSEGV if it did not.
  static int try_store(std::byte* to) {
    return Body::run_in_child([&] { return store(to, 1), 0; });
  }
  static int try_load(const std::byte* from) {
    return Body::run_in_child([&] {
      const volatile int loaded = load(from);  // Volatile: the load must happen.
      return loaded < 0 ? 1 : 0;
    });
  }

  std::unique_ptr<MemoryBackend> backend;
  std::uint64_t granule;
};

TEST_CASE_TEMPLATE_DEFINE("backend: fresh memory reads as zero and keeps what is written", Body,
                          backend_zero) {
  BackendFixture<Body> f(4);
  const auto segment = f.backend->create(2 * f.granule);
  CHECK(segment.size_bytes() == 2 * f.granule);
  const auto range = f.mapped(segment);
  std::vector<std::byte> bytes(2 * f.granule, std::byte{1});
  Body::load(bytes, range.data());
  CHECK(std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0}; }));
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7 / 3);
  Body::store(range.data(), bytes);
  std::vector<std::byte> back(bytes.size());
  Body::load(back, range.data());
  CHECK((back == bytes));
}

TEST_CASE_TEMPLATE_DEFINE("backend: two mappings of a segment show the same bytes", Body,
                          backend_alias) {
  BackendFixture<Body> f(1);
  auto segment = f.backend->create(f.granule);
  const auto one = f.mapped(segment);
  const auto two = f.mapped(segment);
  CHECK(one.data() != two.data());
  f.store(one.data() + 5, 55);
  CHECK(f.load(two.data() + 5) == 55);
  segment = Segment();  // The mappings keep the bytes.
  f.store(two.data() + 6, 66);
  CHECK(f.load(one.data() + 5) == 55);
  CHECK(f.load(one.data() + 6) == 66);
}

TEST_CASE_TEMPLATE_DEFINE("backend: nothing is accessible that was not granted", Body,
                          backend_access) {
  BackendFixture<Body> f(2);
  const auto segment = f.backend->create(f.granule);
  auto range = f.backend->reserve(2 * f.granule);
  auto* const at = range.data();
  CHECK(reinterpret_cast<std::uintptr_t>(at) % f.granule == 0);
  CHECK(f.try_load(at) == -SIGSEGV);  // Reserved.
  f.backend->map(range, 0, segment);
  CHECK(f.try_load(at) == -SIGSEGV);  // Mapped.
  f.backend->set_access(range, 0, f.granule, Protection::read);
  CHECK(f.try_load(at) == 0);
  CHECK(f.try_store(at) == -SIGSEGV);
  f.backend->set_access(range, 0, f.granule, Protection::read_write);
  CHECK(f.try_store(at) == 0);
  CHECK(f.load(at) == 1);                         // The child's store: memory is shared.
  CHECK(f.try_load(at + f.granule) == -SIGSEGV);  // Its neighbour is reserved only.
  f.backend->set_access(range, 0, f.granule, Protection::none);
  CHECK(f.try_load(at) == -SIGSEGV);
  f.backend->unmap(range, 0, f.granule);
  CHECK(f.try_load(at) == -SIGSEGV);
  f.backend->map(range, f.granule, segment);  // Elsewhere, with its bytes.
  f.backend->set_access(range, f.granule, f.granule, Protection::read);
  CHECK(f.load(at + f.granule) == 1);
}

TEST_CASE_TEMPLATE_DEFINE("backend: remap exchanges the bytes under an address", Body,
                          backend_remap) {
  BackendFixture<Body> f(5);
  const auto old_segment = f.backend->create(f.granule);
  const auto new_segment = f.backend->create(f.granule);
  const auto large = f.backend->create(2 * f.granule);
  const auto view = f.mapped(new_segment);
  f.store(view.data(), 22);
  auto range = f.backend->reserve(2 * f.granule);
  CHECK(code_of([&] { f.backend->remap(range, 0, new_segment, Protection::read); }) ==
        Errc::invalid_argument);  // Nothing is mapped there.
  f.backend->map(range, 0, old_segment);
  f.backend->map(range, f.granule, old_segment);
  f.backend->set_access(range, 0, 2 * f.granule, Protection::read_write);
  f.store(range.data(), 11);
  CHECK(code_of([&] { f.backend->remap(range, 0, large, Protection::read); }) ==
        Errc::invalid_argument);  // Two mappings.
  CHECK(f.load(range.data()) == 11);
  f.backend->remap(range, 0, new_segment, Protection::read);
  CHECK(f.load(range.data()) == 22);
  CHECK(f.try_store(range.data()) == -SIGSEGV);
  CHECK(f.load(range.data() + f.granule) == 11);
}

TEST_CASE_TEMPLATE_DEFINE("backend: wrong sizes and ranges are refused", Body, backend_arguments) {
  BackendFixture<Body> f(8);
  auto& b = *f.backend;
  const auto g = f.granule;
  const auto bad = Errc::invalid_argument;
  for (const auto size_bytes : {std::uint64_t{0}, std::uint64_t{1}, g - 1, g + 1}) {
    CHECK(code_of([&] { (void)b.create(size_bytes); }) == bad);
    CHECK(code_of([&] { (void)b.reserve(size_bytes); }) == bad);
  }
  CHECK(b.round_up(0) == 0);
  CHECK(b.round_up(1) == g);
  CHECK(b.round_up(g) == g);
  CHECK(code_of([&] { (void)b.round_up(~std::uint64_t{0}); }) == bad);

  const auto segment = b.create(2 * g);
  auto range = b.reserve(4 * g);
  CHECK(code_of([&] { b.map(range, 1, segment); }) == bad);
  CHECK(code_of([&] { b.map(range, 3 * g, segment); }) == Errc::out_of_bounds);
  CHECK(code_of([&] { b.map(range, 0 - g, segment); }) == Errc::out_of_bounds);
  CHECK(code_of([&] { b.map(range, 0, Segment()); }) == bad);
  b.map(range, g, segment);
  for (const auto offset_bytes : {std::uint64_t{0}, g, 2 * g})  // All three touch [g, 3g).
    CHECK(code_of([&] { b.map(range, offset_bytes, segment); }) == bad);
  const std::pair<std::uint64_t, std::uint64_t> parts[] = {{g, g},     {2 * g, g}, {0, 2 * g},
                                                           {0, 4 * g}, {g, 3 * g}, {g, 0}};
  for (const auto& part : parts) {
    const auto offset_bytes = part.first;  // clang 14 does not capture structured bindings.
    const auto size_bytes = part.second;
    CHECK(code_of([&] { b.unmap(range, offset_bytes, size_bytes); }) == bad);
    CHECK(code_of([&] { b.set_access(range, offset_bytes, size_bytes, Protection::read); }) == bad);
  }
  b.set_access(range, g, 2 * g, Protection::read);
  CHECK(f.load(range.data() + g) == 0);  // The refusals left the mapping alone.

  const auto other = Body::make(1);
  auto elsewhere = other->reserve(2 * g);
  CHECK(code_of([&] { b.map(elsewhere, 0, segment); }) == bad);
  Reservation empty;
  CHECK(code_of([&] { b.map(empty, 0, segment); }) == bad);
  CHECK(code_of([&] { (void)b.export_segment(Segment()); }) == bad);
  CHECK(code_of([&] { (void)b.import_segment(UniqueFd(), g); }) == bad);
  other->map(elsewhere, 0, segment);  // Another device's segment, same family: welcome.
}

TEST_CASE_TEMPLATE_DEFINE("backend: several mappings are unmapped as one range", Body,
                          backend_ranges) {
  BackendFixture<Body> f(3);
  const auto one = f.backend->create(f.granule);
  const auto two = f.backend->create(2 * f.granule);
  auto range = f.backend->reserve(3 * f.granule);
  f.backend->map(range, 0, one);
  f.backend->map(range, f.granule, two);
  f.backend->set_access(range, 0, 3 * f.granule, Protection::read_write);
  f.store(range.data() + 2 * f.granule, 9);
  f.backend->unmap(range, 0, 3 * f.granule);
  CHECK(f.try_load(range.data()) == -SIGSEGV);
  f.backend->map(range, 0, two);
  f.backend->set_access(range, 0, 2 * f.granule, Protection::read);
  CHECK(f.load(range.data() + f.granule) == 9);
}

TEST_CASE_TEMPLATE_DEFINE("backend: the capacity is kept, and comes back", Body, backend_capacity) {
  BackendFixture<Body> f(4);
  CHECK(f.backend->capacity_bytes() == 4 * f.granule);
  auto most = f.backend->create(3 * f.granule);
  CHECK(f.backend->used_bytes() == 3 * f.granule);
  try {
    (void)f.backend->create(2 * f.granule);
    FAIL("lent more than there is");
  } catch (const Error& error) {
    CHECK(error.code() == Errc::out_of_memory);
    const std::string text = error.what();
    CHECK(text.find(f.backend->name()) != std::string::npos);
    CHECK(text.find(std::to_string(2 * f.granule) + " bytes needed") != std::string::npos);
    CHECK(text.find(std::to_string(f.granule) + " bytes available") != std::string::npos);
  }
  CHECK(f.backend->used_bytes() == 3 * f.granule);
  auto imported = f.backend->import_segment(f.backend->export_segment(most), most.size_bytes());
  CHECK(f.backend->used_bytes() == 3 * f.granule);  // Not counted twice.
  most = Segment();
  CHECK(f.backend->used_bytes() == 0);
  imported = Segment();
  CHECK(f.backend->used_bytes() == 0);
  CHECK(f.backend->create(4 * f.granule));
}

TEST_CASE_TEMPLATE_DEFINE("backend: threads together lend no more than there is", Body,
                          backend_threads) {
  BackendFixture<Body> f(16);
  std::vector<std::vector<Segment>> held(4);
  std::vector<std::thread> threads;
  for (auto& mine : held)
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        try {
          mine.push_back(f.backend->create(f.granule));
        } catch (const Error&) {
          mine.clear();
        }
      }
      mine.clear();
      try {
        for (;;) mine.push_back(f.backend->create(f.granule));
      } catch (const Error&) {
      }
    });
  for (auto& thread : threads) thread.join();
  std::size_t segments = 0;
  for (const auto& mine : held) segments += mine.size();
  CHECK(segments <= 16);
  CHECK(f.backend->used_bytes() == segments * f.granule);
  held.clear();
  CHECK(f.backend->used_bytes() == 0);
}

TEST_CASE_TEMPLATE_DEFINE("backend: owners move and leave nothing behind", Body, backend_moves) {
  BackendFixture<Body> f(2);
  auto segment = f.backend->create(f.granule);
  Segment moved(std::move(segment));
  CHECK_FALSE(segment);  // NOLINT: a moved-from owner is empty, and that is what is tested.
  CHECK(segment.size_bytes() == 0);
  auto other = f.backend->create(f.granule);
  other = std::move(moved);
  CHECK(f.backend->used_bytes() == f.granule);
  auto& alias = other;
  other = std::move(alias);
  CHECK(other);
  auto range = f.mapped(other);
  auto* const at = range.data();
  f.store(at, 3);
  Reservation target = f.backend->reserve(f.granule);
  target = std::move(range);
  CHECK_FALSE(range);  // NOLINT
  CHECK(target.data() == at);
  CHECK(f.load(at) == 3);
  f.backend->unmap(target, 0, f.granule);  // The list of mappings moved, too.
}

TEST_CASE_TEMPLATE_DEFINE("backend: a segment reaches another process, both ways", Body,
                          backend_processes) {
  BackendFixture<Body> f(2);
  const auto size_bytes = 2 * f.granule;
  const auto segment = f.backend->create(size_bytes);
  const auto range = f.mapped(segment);
  f.store(range.data() + size_bytes - 1, 17);
  const FdSockets sockets;
  auto child = Body::start([&] {
    BackendFixture<Body> mine(0);
    const auto imported = mine.backend->import_segment(sockets.receive(1), size_bytes);
    const auto view = mine.mapped(imported);
    if (mine.load(view.data() + size_bytes - 1) != 17) return 1;
    mine.store(view.data(), 71);
    return 0;
  });
  sockets.send(0, f.backend->export_segment(segment).get());
  CHECK(child.wait() == 0);
  CHECK(f.load(range.data()) == 71);
}

TEST_CASE_TEMPLATE_DEFINE("backend: bytes outlive their owner while somebody holds them", Body,
                          backend_survives) {
  BackendFixture<Body> f(1);
  const FdSockets sockets;
  auto owner = Body::start([&] {
    BackendFixture<Body> mine(1);
    const auto segment = mine.backend->create(mine.granule);
    const auto range = mine.mapped(segment);
    mine.store(range.data(), 42);
    sockets.send(1, mine.backend->export_segment(segment).get());
    ::pause();  // Until it is killed, with everything held.
    return 1;
  });
  auto fd = sockets.receive(0);
  owner.kill();
  CHECK(owner.wait() == -SIGKILL);
  const auto segment = f.backend->import_segment(std::move(fd), f.granule);
  CHECK(f.load(f.mapped(segment).data()) == 42);
}

TEST_CASE_TEMPLATE_DEFINE("backend: a borrower that is killed costs its owner nothing", Body,
                          backend_borrower) {
  BackendFixture<Body> f(1);
  auto segment = f.backend->create(f.granule);
  const auto range = f.mapped(segment);
  const FdSockets sockets;
  auto borrower = Body::start([&] {
    BackendFixture<Body> mine(0);
    const auto imported = mine.backend->import_segment(sockets.receive(1), mine.granule);
    const auto view = mine.mapped(imported);
    mine.store(view.data(), 8);
    sockets.send(1, mine.backend->export_segment(imported).get());
    ::pause();
    return 1;
  });
  sockets.send(0, f.backend->export_segment(segment).get());
  const auto sent_back = sockets.receive(0);  // Now the borrower has mapped and written.
  borrower.kill();
  CHECK(borrower.wait() == -SIGKILL);
  CHECK(f.load(range.data()) == 8);
  segment = Segment();
  CHECK(f.backend->used_bytes() == 0);
  CHECK(f.backend->create(f.granule));
}

TEST_CASE_TEMPLATE_DEFINE("backend: a segment is imported at its true size only", Body,
                          backend_import_size) {
  BackendFixture<Body> f(4);
  const auto segment = f.backend->create(2 * f.granule);
  for (const auto size_bytes : {f.granule, 3 * f.granule, f.granule << 30})
    CHECK(code_of([&] {
            (void)f.backend->import_segment(f.backend->export_segment(segment), size_bytes);
          }) == Errc::protocol);
  CHECK(code_of([&] {
          (void)f.backend->import_segment(f.backend->export_segment(segment), f.granule + 1);
        }) == Errc::invalid_argument);
}

#define CAUSEWAY_MEMORY_BACKEND_SUITE(Body)           \
  TEST_CASE_TEMPLATE_INVOKE(backend_zero, Body);      \
  TEST_CASE_TEMPLATE_INVOKE(backend_alias, Body);     \
  TEST_CASE_TEMPLATE_INVOKE(backend_access, Body);    \
  TEST_CASE_TEMPLATE_INVOKE(backend_remap, Body);     \
  TEST_CASE_TEMPLATE_INVOKE(backend_arguments, Body); \
  TEST_CASE_TEMPLATE_INVOKE(backend_ranges, Body);    \
  TEST_CASE_TEMPLATE_INVOKE(backend_capacity, Body);  \
  TEST_CASE_TEMPLATE_INVOKE(backend_threads, Body);   \
  TEST_CASE_TEMPLATE_INVOKE(backend_moves, Body);     \
  TEST_CASE_TEMPLATE_INVOKE(backend_processes, Body); \
  TEST_CASE_TEMPLATE_INVOKE(backend_survives, Body);  \
  TEST_CASE_TEMPLATE_INVOKE(backend_borrower, Body);  \
  TEST_CASE_TEMPLATE_INVOKE(backend_import_size, Body)

}  // namespace causeway::test
