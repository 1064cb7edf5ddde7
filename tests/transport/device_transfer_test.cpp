// Goal:   bytes of a device, at either end or both, cross every channel as those of the host do.
// Method: transfers and channels on the software driver, byte by byte against what was sent; then
//         each call of the driver fails in turn.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include "tests/transport/device_world.h"
#include "transport/device/way.h"

using namespace causeway;
using namespace causeway::test;

namespace {

constexpr std::size_t kMega = 1 << 20;
constexpr std::size_t kLargest = 64 * kMega;
constexpr std::byte kUntouched{0x5a};

// Bytes at [offset, offset + sent.size()) and nothing around them.
void check_around(const Bytes& all, std::size_t offset, const Bytes& sent) {
  CHECK(all.size() >= offset + sent.size());
  CHECK(std::memcmp(all.data() + offset, sent.data(), sent.size()) == 0);
  CHECK(std::all_of(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(offset),
                    [](std::byte b) { return b == kUntouched; }));
  CHECK(std::all_of(all.begin() + static_cast<std::ptrdiff_t>(offset + sent.size()), all.end(),
                    [](std::byte b) { return b == kUntouched; }));
}

template <typename Body>
void check_size(DeviceWorld<Body>& world, std::size_t size, bool near_device, bool far_device,
                bool verify) {
  constexpr std::size_t kMargin = 37;  // Odd.
  CAPTURE(size);
  CAPTURE(near_device);
  CAPTURE(far_device);
  CAPTURE(verify);
  DeviceBytes near(world.near_context, size + kMargin);
  DeviceBytes far(world.far_context, size + 2 * kMargin);
  const auto sent = pattern(size, size);
  Bytes host_near(size + kMargin, kUntouched);
  world.regions.host.assign(size + 2 * kMargin, kUntouched);
  world.regions.device = far.bytes();
  far.fill(kUntouched);
  near.fill(kUntouched);
  near.set(3, sent);
  std::ranges::copy(sent, host_near.begin() + 3);
  const RemoteAddress remote{7, far_device ? 2u : 1u, kMargin};
  const auto local = [&](std::size_t offset) {
    return (near_device ? near.bytes() : std::span(host_near)).subspan(offset, size);
  };
  auto write = world.copy(true, local(3), near_device, remote, 60s, verify);
  REQUIRE(world.finish(write));
  CHECK(text_of(write) == "");
  CHECK(write.progress().done_bytes == size);
  CHECK(write.staging().has_value() == near_device);
  check_around(far_device ? far.get() : world.regions.host, kMargin, sent);

  near.fill(kUntouched);
  host_near.assign(host_near.size(), kUntouched);
  auto read = world.copy(false, local(5), near_device, remote, 60s, verify);
  REQUIRE(world.finish(read));
  CHECK(text_of(read) == "");
  check_around(near_device ? near.get() : host_near, 5, sent);
  CHECK(world.near.own().free_count() == world.near.own().count());
}

// The sizes at which something changes: eager, a part, a slot, several.
template <typename Body>
void check_all_kinds() {
  DeviceWorld<Body> world;
  for (const auto& [near, far] : {std::pair{true, false}, {false, true}, {true, true}})
    for (const std::size_t size : {std::size_t{1}, std::size_t{4097}, std::size_t{16385},
                                   std::size_t{200'001}, kMega - 1, kMega + 1, 9 * kMega + 5})
      for (const bool verify : {false, true}) check_size(world, size, near, far, verify);
  check_size(world, kLargest, true, true, false);
}

}  // namespace

TEST_CASE("in one process every byte goes where it belongs") { check_all_kinds<LocalBody>(); }
TEST_CASE("over UCX every byte goes where it belongs") { check_all_kinds<UcxBody>(); }
TEST_CASE("beside shared memory every byte goes where it belongs") { check_all_kinds<ShmBody>(); }

TEST_CASE("a channel's own writes, reads and checksums meet memory of a device") {
  DeviceWorld<LocalBody> local;
  DeviceWorld<UcxBody> ucx;
  const auto check = [](auto& world) {
    std::shared_ptr<Channel> channel;
    world.client->connect(world.server->address(), {Hello::Role::client, "alice", 7, ""}, in(5s),
                          [&](auto, std::shared_ptr<Channel> made) { channel = std::move(made); });
    REQUIRE(world.run_until([&] { return channel != nullptr; }));
    DeviceBytes far(world.far_context, 5 * kMega);
    world.regions.device = far.bytes();
    const auto sent = pattern(5 * kMega, 5);
    Bytes back(sent.size());
    int ended = 0;
    const auto count = [&](const std::optional<Error>& error, std::uint64_t) {
      CHECK_FALSE(error);
      ++ended;
    };
    channel->write({7, 2, 0}, sent, in(60s), count);
    REQUIRE(world.run_until([&] { return ended == 1; }));
    CHECK((far.get() == sent));
    channel->read(back, {7, 2, 0}, in(60s), count);
    REQUIRE(world.run_until([&] { return ended == 2; }));
    CHECK((back == sent));
    channel->checksum({7, 2, 1}, 3 * kMega + 1, in(60s),
                      [&](const std::optional<Error>& error, std::uint64_t sum) {
                        CHECK_FALSE(error);
                        CHECK(sum == checksum_of(std::span(sent).subspan(1, 3 * kMega + 1)));
                        ++ended;
                      });
    REQUIRE(world.run_until([&] { return ended == 3; }));
    const auto counters = channel->counters();
    CHECK(counters.sent_bytes == sent.size());
    CHECK(counters.received_bytes == sent.size());
    CHECK(world.regions.pins.use_count() == 1);
  };
  check(local);
  check(ucx);
}

TEST_CASE("verified bytes of a device are those that lie there, not those that passed by") {
  for (const bool at_near : {false, true}) {
    DeviceWorld<LocalBody> world;
    DeviceBytes near(world.near_context, kMega), far(world.far_context, kMega);
    world.regions.device = far.bytes();
    const auto sent = pattern(kMega, 6);
    near.set(0, sent);
    int spoils = 1;
    // The peer is asked for its checksum, which is a read, when the bytes have landed.
    world.regions.on_pin = [&](Access access) {
      if (access == Access::read && spoils-- > 0)
        (at_near ? near : far).set(77, Bytes(1, ~sent[77]));
    };
    auto transfer = world.copy(true, near.bytes(), true, {7, 2, 0}, 60s, true);
    REQUIRE(world.finish(transfer));
    if (!at_near) {  // It went once more.
      CHECK(text_of(transfer) == "");
      CHECK((far.get() == sent));
      spoils = 1000;
      transfer = world.copy(true, near.bytes(), true, {7, 2, 0}, 60s, true);
      REQUIRE(world.finish(transfer));
      REQUIRE(transfer.error());
      CHECK((transfer.error()->code() == Errc::corrupted));
    } else {  // What goes again is what lies there by then.
      CHECK(text_of(transfer) == "");
      CHECK((far.get() == near.get()));
    }
  }
}

TEST_CASE("copies on one device and within an island need no slot") {
  boost::asio::io_context io;
  const auto driver = open_emulator();
  const auto first = CudaContext::retain(driver, 0);
  const auto second = CudaContext::retain(driver, 1);
  DeviceStaging staging(io, first);
  DeviceBytes from(first, kMega + 1), to(first, kMega + 1);
  const auto sent = pattern(kMega + 1, 4);
  from.set(0, sent);
  int ended = 0;
  staging.copy_across(to.bytes().data(), from.bytes().data(), kMega + 1,
                      [&](const std::optional<Error>& error) {
                        CHECK_FALSE(error);
                        ++ended;
                      });
  CHECK(ended == 0);  // Never inside the call,
  io.run();           // and the loop knows that something is under way.
  CHECK(ended == 1);
  CHECK((to.get() == sent));
}

TEST_CASE(
    "the end of a staging waits for its copy, and that of the loop drops what it would tell") {
  const auto context = CudaContext::retain(open_emulator(), 0);
  DeviceBytes from(context, kMega);
  const auto alive = std::make_shared<int>(0);
  {
    auto io = std::make_unique<boost::asio::io_context>();
    auto staging = std::make_unique<DeviceStaging>(*io, context);
    auto slot = staging->own().take();
    staging->copy_out(std::move(slot), from.bytes().data(), kMega,
                      [alive](const auto&) { FAIL_CHECK("nobody runs the loop"); });
    staging.reset();
    io.reset();
  }
  CHECK(alive.use_count() == 1);
}

TEST_CASE("slots are lent in order, and those who leave the line get none") {
  boost::asio::io_context io;
  const auto context = CudaContext::retain(open_emulator(), 0);
  const auto slots = std::make_shared<StagingSlots>(io, context, 2);
  auto one = slots->take(), two = slots->take();
  REQUIRE(one);
  REQUIRE(two);
  CHECK(one->data() != two->data());
  CHECK_FALSE(slots->take());
  std::string order;
  StagingSlotPtr kept;
  auto first = slots->wait([&](StagingSlotPtr slot) { order += "1", kept = std::move(slot); });
  auto left = slots->wait([&](StagingSlotPtr) { order += "left"; });
  auto third = slots->wait([&](StagingSlotPtr) { order += "3"; });
  left.reset();
  one.reset();
  CHECK_FALSE(slots->take());  // It is another's turn.
  io.run();
  CHECK(order == "1");
  two.reset();
  third.reset();  // In the moment in which the slot is on its way.
  io.restart();
  io.run();
  CHECK(order == "1");
  CHECK(slots->free_count() == 1);
  kept.reset();
  CHECK(slots->free_count() == 2);
}

TEST_CASE("the chunk is the smallest that carries nearly as much as the best") {
  using Trials = std::vector<StagingTrial>;
  CHECK(choose_chunk({}) == kStagingSlotBytes);
  CHECK(choose_chunk(Trials{{1 << 20, 10}, {512 << 10, 9.5}, {256 << 10, 9}, {128 << 10, 8.9}}) ==
        256 << 10);
  CHECK(choose_chunk(Trials{{1 << 20, 10}, {512 << 10, 5}, {256 << 10, 2}}) == 1 << 20);
  CHECK(choose_chunk(Trials{{1 << 20, 5}, {512 << 10, 10}, {256 << 10, 2}}) == 512 << 10);
}

TEST_CASE("bytes of a device are staged, but in a rendezvous of a library that takes them") {
  CHECK((choose_device_way(true, true) == DeviceWay::direct));
  CHECK((choose_device_way(true, false) == DeviceWay::staged));
  CHECK((choose_device_way(false, true) == DeviceWay::staged));
  CHECK((choose_device_way(false, false) == DeviceWay::staged));
}

TEST_CASE("what was measured is kept") {
  boost::asio::io_context io;
  const auto context = CudaContext::retain(open_emulator(), 0);
  const DeviceStaging staging(io, context, {16, 60'000ms});
  CHECK(staging.report().device == "GPU 0");
  CHECK(staging.report().slots == 16);
  REQUIRE(staging.report().trials.size() == 4);
  for (const auto& trial : staging.report().trials) CHECK(trial.bytes_per_second > 1e6);
  CHECK(staging.report().chunk_bytes == choose_chunk(staging.report().trials));
  const DeviceStaging hasty(io, context, {4, 0ms});
  CHECK(hasty.report().trials.empty());
  CHECK(hasty.report().chunk_bytes == kStagingSlotBytes);
  CHECK_THROWS_AS(DeviceStaging(io, context, {1, 0ms}), Error);
}

namespace {

// A write and a read with a device at both ends. What went wrong, if anything.
template <typename Body>
std::string run_once(const Bytes& sent) {
  std::string failed;
  try {
    DeviceWorld<Body> world({2, 0ms});
    DeviceBytes near(world.near_context, sent.size());
    DeviceBytes far(world.far_context, sent.size());
    world.regions.device = far.bytes();
    near.set(0, sent);
    far.fill(kUntouched);
    for (const bool is_write : {true, false}) {
      auto transfer = world.copy(is_write, near.bytes(), true, {7, 2, 0}, 60s, true);
      REQUIRE(world.finish(transfer));
      if (!transfer.error()) {
        const auto here = near.get(), there = far.get();  // Or they throw.
        CHECK((here == there));
        if (failed.empty()) CHECK((here == sent));  // Else the write has left it half done.
        continue;
      }
      CHECK((transfer.error()->code() == Errc::device_failed));
      failed = text_of(transfer);
    }
    CHECK(world.near.own().free_count() == world.near.own().count());
    CHECK(world.far.served().free_count() == world.far.served().count());
  } catch (const Error& error) {
    failed = error.what();
  }
  return failed;
}

// Failures that have another answer, or that destructors meet.
const std::set<std::string> kAbsorbed{
    "cuCtxPopCurrent", "cuCtxPushCurrent", "cuDevicePrimaryCtxRelease", "cuEventDestroy",
    "cuEventRecord",   "cuMemAlloc",       "cuEventSynchronize",        "cuMemFree",
    "cuStreamDestroy", "cuMemFreeHost",    "cuStreamSynchronize"};

template <typename Body>
std::set<std::string> check_failures(const char* which, int result, const std::string& name) {
  const auto sent = pattern(kMega + 3, 9);
  unsigned long nth = 1;
  std::set<std::string> calls;
  for (;; ++nth) {
    REQUIRE(nth < 1000);
    CAUSEWAY_EMULATOR(causeway_cuda_fail)(which, nth, result);
    const auto text = run_once<Body>(sent);
    const char* call = nullptr;
    const bool has_failed = CAUSEWAY_EMULATOR(causeway_cuda_failed)(&call);
    const std::string failed = has_failed ? call : "";
    CAUSEWAY_EMULATOR(causeway_cuda_fail)(nullptr, 0, 0);
    CAPTURE(nth);
    CAPTURE(failed);
    CAPTURE(text);
    INFO(held_text());
    REQUIRE(held() == 0);
    if (!has_failed) {
      CHECK(text == "");
      break;
    }
    calls.insert(failed);
    if (text.empty()) {
      CHECK(kAbsorbed.contains(failed));
      continue;
    }
    CHECK(text.find(failed) != std::string::npos);
    CHECK(text.find(name) != std::string::npos);
  }
  return calls;
}

}  // namespace

TEST_CASE("whichever call of the driver fails: no hang, no wrong byte, nothing lost") {
  const auto calls = check_failures<LocalBody>(nullptr, cuda::kUnknown, "CUDA_ERROR_UNKNOWN");
  for (const auto* call : {"cuMemHostAlloc", "cuMemcpyAsync", "cuEventCreate", "cuEventRecord",
                           "cuEventSynchronize", "cuStreamCreate"})
    CHECK_MESSAGE(calls.contains(call), call);
  for (const auto* call : {"cuMemcpyAsync", "cuEventSynchronize"})
    check_failures<UcxBody>(call, cuda::kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY");
}

TEST_CASE("a measurement that fails ends the staging's begin") {
  boost::asio::io_context io;
  for (const auto* call : {"cuMemcpyAsync", "cuEventCreate", "cuEventRecord", "cuStreamCreate",
                           "cuMemHostAlloc", "cuMemAlloc", "cuEventSynchronize"})
    for (const unsigned long nth : {1, 2, 3, 50}) {
      CAPTURE(call);
      CAPTURE(nth);
      std::string text;
      CAUSEWAY_EMULATOR(causeway_cuda_fail)(call, nth, cuda::kUnknown);
      try {
        DeviceStaging(io, CudaContext::retain(open_emulator(), 0), {2, 1000ms});
      } catch (const Error& error) {
        text = error.what();
      }
      const bool has_failed = CAUSEWAY_EMULATOR(causeway_cuda_failed)(nullptr);
      CAUSEWAY_EMULATOR(causeway_cuda_fail)(nullptr, 0, 0);
      CHECK(held() == 0);
      if (has_failed && text.empty())
        CHECK(kAbsorbed.contains(call));
      else if (has_failed)
        CHECK(text.find(std::string(call) + " failed: CUDA_ERROR_UNKNOWN") != std::string::npos);
    }
}
