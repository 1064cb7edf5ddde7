// Goal:   with a device that is slow, what waits is bounded, ends in time and in order: slots run
//         out, transfers are cancelled and reach their deadlines in mid-copy, fences wait for late
//         copies, a context breaks.
// Method: the software driver with copies of 50 MB/s, so that a copy of 1 MiB takes 20 ms.
#define DOCTEST_CONFIG_IMPLEMENT
#define DOCTEST_CONFIG_NO_POSIX_SIGNALS  // The software driver catches faults of its streams.
#include <doctest/doctest.h>

#include <cstdlib>

#include "allocator/cuda/cuda_backend.h"
#include "tests/transport/device_world.h"

using namespace causeway;
using namespace causeway::test;

namespace {

constexpr std::size_t kMega = 1 << 20;
constexpr DeviceStaging::Options kFew{4, 0ms};

template <typename Body>
void check_back_pressure() {
  DeviceWorld<Body> world(kFew);
  const auto sent = pattern(16 * kMega, 1);
  DeviceBytes near(world.near_context, sent.size());
  DeviceBytes far(world.far_context, sent.size());
  world.regions.device = far.bytes();
  near.set(0, sent);
  for (const bool is_write : {true, false}) {
    auto transfer = world.copy(is_write, near.bytes(), true, {7, 2, 0});
    std::size_t least_near = 4, least_far = 4;
    REQUIRE(world.run_until([&] {
      least_near = std::min(least_near, world.near.own().free_count());
      least_far = std::min(least_far, world.far.served().free_count());
      return transfer.is_done();
    }));
    CHECK(text_of(transfer) == "");
    CHECK(least_near == 2);  // None has all of them.
    CHECK(least_far <= 2);
    CHECK((far.get() == sent));
    CHECK((near.get() == sent));
  }
}

// What is under way at the end of a transfer has ended, and lands no more.
template <typename Body>
void check_ends_in_time(bool is_cancelled) {
  DeviceWorld<Body> world(kFew);
  const std::size_t size = 32 * kMega;  // Some 700 ms.
  DeviceBytes near(world.near_context, size);
  DeviceBytes far(world.far_context, size);
  world.regions.device = far.bytes();
  near.fill(std::byte{1});
  far.fill(std::byte{2});
  for (const bool is_write : {true, false}) {
    const auto start = Clock::now();
    auto transfer = world.copy(is_write, near.bytes(), true, {7, 2, 0}, is_cancelled ? 60s : 200ms);
    if (is_cancelled) {
      REQUIRE(world.run_until([&] { return transfer.progress().done_bytes > 2 * kMega; }));
      transfer.cancel();
    }
    const auto asked = is_cancelled ? Clock::now() : start + 200ms;
    REQUIRE(world.finish(transfer));
    CHECK(Clock::now() - asked < 800ms);
    REQUIRE(transfer.error());
    CHECK((transfer.error()->code() == (is_cancelled ? Errc::cancelled : Errc::timed_out)));
    CHECK(transfer.progress().done_bytes < size);
    // A write after this one waits until nothing of it can land.
    if (!is_write) continue;
    DeviceBytes other(world.near_context, size / 8);
    other.fill(std::byte{3});
    auto after = world.copy(true, other.bytes(), true, {7, 2, 0});
    REQUIRE(world.finish(after));
    CHECK(text_of(after) == "");
    const auto first = far.get();
    world.run_until([] { return false; }, 300ms);
    CHECK((far.get() == first));
    CHECK(std::count(first.begin(), first.begin() + size / 8, std::byte{3}) == size / 8);
  }
  REQUIRE(world.run_until([&] { return world.pins.use_count() == 1; }, 5s));
  CHECK(world.near.own().free_count() == 4);
  REQUIRE(world.run_until([&] { return world.far.served().free_count() == 4; }, 5s));
}

// Two channels to the server, connected.
template <typename Body>
std::vector<std::shared_ptr<Channel>> two_channels(DeviceWorld<Body>& world) {
  std::vector<std::shared_ptr<Channel>> channels;
  for (int i = 0; i < 2; ++i)
    world.client->connect(
        world.server->address(), {Hello::Role::client, "alice", 7, ""}, in(5s),
        [&](auto, std::shared_ptr<Channel> made) { channels.push_back(std::move(made)); });
  REQUIRE(world.run_until([&] { return channels.size() == 2; }));
  REQUIRE(channels[0]);
  REQUIRE(channels[1]);
  return channels;
}

// Copies of the test's own keep the lane busy for longer than UCX is given to let go of buffers.
template <typename Body>
void check_fence() {
  DeviceWorld<Body> world({16, 0ms});
  DeviceBytes far(world.far_context, 2 * kMega);
  world.regions.device = far.bytes();
  const auto channels = two_channels(world);
  auto slot = world.far.own().take();
  int before = 0;
  for (int i = 0; i < 40; ++i)
    world.far.copy_in(far.bytes().data() + kMega, slot, kMega, [&](const auto&) { ++before; });
  const auto sent = pattern(kMega, 3);
  std::optional<Error> written;
  std::optional<std::size_t> free_when_fenced;
  channels[0]->write({7, 2, 0}, sent, in(60s), [&](auto error, auto) { written = error; });
  REQUIRE(world.run_until([&] { return world.far.served().free_count() < 16; }));
  world.run_until([] { return false; }, 50ms);  // Its bytes have left here.
  CHECK(before < 20);
  channels[1]->fence(channels[0]->id(), in(60s), [&](const auto& error, auto) {
    CHECK_FALSE(error);
    free_when_fenced = world.far.served().free_count();
  });
  REQUIRE(world.run_until([&] { return free_when_fenced && written; }));
  CHECK(free_when_fenced == 16);
  CHECK(before == 40);
  CHECK((written->code() == Errc::closed || written->code() == Errc::peer_lost));
  const auto landed = far.get();
  CHECK(std::equal(sent.begin(), sent.end(), landed.begin()));  // What was queued has landed.
}

// A write to memory that goes while a copy to it is queued breaks the device's context for good.
template <typename Body>
void check_broken(int gpu) {
  DeviceWorld<Body> world({16, 0ms}, 0, gpu);
  const auto size = 8 * kMega;
  CudaBackend backend(world.far_context, {"test/gpu", size});
  auto range = backend.reserve(size);
  const auto segment = backend.create(size);
  backend.map(range, 0, segment);
  backend.set_access(range, 0, size, Protection::read_write);
  world.regions.device = {range.data(), size};
  const auto sent = pattern(size, 1);
  Bytes bytes(sent);
  auto transfer = world.copy(true, bytes, false, {7, 2, 0});
  REQUIRE(world.run_until([&] { return transfer.progress().done_bytes > 0; }));
  backend.unmap(range, 0, size);
  REQUIRE(world.run_until([&] { return transfer.is_done(); }, 10s));
  REQUIRE(transfer.error());
  CHECK((transfer.error()->code() == Errc::device_failed));
  CHECK(text_of(transfer).find("CUDA_ERROR_ILLEGAL_ADDRESS") != std::string::npos);
  for (const bool is_write : {true, false}) {
    auto later = world.copy(is_write, bytes, false, {7, 2, 0});
    REQUIRE(world.run_until([&] { return later.is_done(); }, 10s));
    CHECK(text_of(later).find("CUDA_ERROR_ILLEGAL_ADDRESS") != std::string::npos);
  }
  // Memory of the host is served as before.
  world.regions.host.resize(size);
  auto other = world.copy(true, bytes, false, {7, 1, 0});
  REQUIRE(world.finish(other));
  CHECK(text_of(other) == "");
  CHECK((world.regions.host == sent));
}

}  // namespace

TEST_CASE("in one process what waits for slots is bounded") { check_back_pressure<LocalBody>(); }
TEST_CASE("over UCX what waits for slots is bounded") { check_back_pressure<UcxBody>(); }

TEST_CASE("a transfer that is cancelled in mid-copy ends, and lands no more") {
  check_ends_in_time<LocalBody>(true);
  check_ends_in_time<UcxBody>(true);
}

TEST_CASE("a transfer whose deadline comes in mid-copy ends, and lands no more") {
  check_ends_in_time<LocalBody>(false);
  check_ends_in_time<UcxBody>(false);
}

TEST_CASE("a fence is answered when no copy of its channel can land any more") {
  check_fence<LocalBody>();
  check_fence<UcxBody>();
}

TEST_CASE("a copy whose event fails has ended when its stream says so, and well") {
  boost::asio::io_context io;
  const auto context = CudaContext::retain(open_emulator(), 0);
  DeviceBytes from(context, kMega);
  const auto sent = pattern(kMega, 1);
  from.set(0, sent);
  DeviceStaging staging(io, context, kFew);
  for (const auto* call : {"cuEventRecord", "cuEventSynchronize"}) {
    auto slot = staging.own().take();
    bool is_over = false;
    CAUSEWAY_EMULATOR(causeway_cuda_fail)(call, 1, cuda::kUnknown);
    const auto start = Clock::now();
    staging.copy_out(slot, from.bytes().data(), kMega, [&](const auto& error) {
      is_over = true;
      CHECK_FALSE(error);
      CHECK(Clock::now() - start >= 15ms);
      CHECK(std::equal(sent.begin(), sent.end(), slot->data()));
    });
    io.restart();
    io.run();
    CHECK(is_over);
    CHECK(CAUSEWAY_EMULATOR(causeway_cuda_failed)(nullptr));
  }
}

TEST_CASE("a small write in line for a slot waits, and gives way at its deadline") {
  DeviceWorld<UcxBody> world({2, 0ms});
  DeviceBytes far(world.far_context, 2 * kMega);
  far.fill(std::byte{2});
  world.regions.device = far.bytes();
  const auto channels = two_channels(world);
  auto& served = world.far.served();
  auto one = served.take(), two = served.take();
  const auto small = pattern(1000, 1), large = pattern(kMega, 2);
  std::vector<std::optional<Errc>> codes;
  const auto count = [&](const std::optional<Error>& error, std::uint64_t) {
    codes.push_back(error ? std::optional(error->code()) : std::nullopt);
  };
  channels[0]->write({7, 2, 0}, small, in(60s), count);
  channels[0]->write({7, 2, kMega}, large, in(150ms), count);
  REQUIRE(world.run_until([&] { return codes.size() == 1; }, 5s));
  CHECK((codes[0] == Errc::timed_out));
  CHECK(channels[0]->is_open());
  one.reset();
  REQUIRE(world.run_until([&] { return codes.size() == 2; }, 5s));
  CHECK_FALSE(codes[1]);
  const auto all = far.get();
  CHECK(std::equal(small.begin(), small.end(), all.begin()));
  CHECK(std::count(all.begin() + kMega, all.end(), std::byte{2}) == kMega);
  CHECK(served.free_count() == 1);
  // A channel that ends in line leaves it.
  one = served.take();
  channels[0]->write({7, 2, 0}, small, in(60s), count);
  channels[0]->write({7, 2, kMega}, large, in(60s), count);
  world.run_until([] { return false; }, 100ms);
  channels[0]->close(Error(Errc::cancelled, "enough"));
  REQUIRE(world.run_until([&] { return codes.size() == 4; }, 5s));
  world.run_until([] { return false; }, 300ms);
  one.reset();
  two.reset();
  world.run_until([] { return false; }, 50ms);
  CHECK(served.free_count() == 2);
  CHECK(world.regions.pins.use_count() == 1);
}

TEST_CASE("in one process a broken context ends everything on its device, and nothing else") {
  check_broken<LocalBody>(2);
}

TEST_CASE("over UCX a broken context ends everything on its device, and nothing else") {
  check_broken<UcxBody>(3);
}

int main(int argc, char** argv) {
  ::setenv("CAUSEWAY_CUDA_EMULATOR", "{devices: 4, host_gb_per_s: 0.05, strict_contexts: true}", 1);
  return doctest::Context(argc, argv).run();
}
