// Goal:   a transfer over rails that fail in any way ends in time, with the right bytes or a typed
//         error, and touches nothing afterwards.
// Method: edges by hand, over channels of this process behind bad wires (faulty_channel.h).
//         Seeded faults: transfer_fault_test.cpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/use_future.hpp>
#include <deque>

#include "tests/transport/transfer_world.h"

using namespace causeway;
using namespace causeway::test;

namespace {

constexpr std::size_t kMega = 1 << 20;

std::string text_of(const Transfer& transfer) {
  const auto error = transfer.error();
  return error ? error->what() : "";
}

std::optional<Errc> code_of(const Transfer& transfer) {
  if (!transfer.error()) return std::nullopt;
  return transfer.error()->code();
}

}  // namespace

TEST_CASE("every byte goes where it belongs, by one rail and by three") {
  for (const int ways : {1, 3})
    for (const std::size_t size :
         {std::size_t{0}, std::size_t{1}, kMega - 1, kMega, kMega + 1, 9 * kMega}) {
      INFO("ways=", ways, " size=", size);
      TransferWorld world(ways);
      world.verify = ways == 3;
      world.region().assign(size + 64, std::byte{0x5a});
      const auto source = pattern(size, size);
      auto write = world.write(32, source);
      REQUIRE(world.finish(write));
      REQUIRE_FALSE(write.error());
      CHECK(write.progress().done_bytes == size);
      CHECK(std::equal(source.begin(), source.end(), world.region().begin() + 32));
      CHECK((world.region()[31] == std::byte{0x5a}));
      CHECK((world.region()[32 + size] == std::byte{0x5a}));
      Bytes target(size);
      auto read = world.read(32, target);
      REQUIRE(world.finish(read));
      REQUIRE_FALSE(read.error());
      CHECK((target == source));
    }
}

TEST_CASE("a batch of pieces is one transfer") {
  TransferWorld world(2);
  world.region().resize(4 * kMega);
  const auto source = pattern(3 * kMega, 3);
  std::vector<TransferPiece> pieces;
  for (std::uint64_t i = 0; i < 300; ++i) pieces.push_back({{7, 1, i * 12000}, i * 37});
  pieces.push_back({{7, 1, 300 * 12000}, 0});
  std::uint64_t told = 0;
  int tells = 0;
  auto transfer = world.rails->write(
      pieces,
      [&](std::size_t piece, std::uint64_t offset, std::uint64_t size) {
        return PinnedMemory{{const_cast<std::byte*>(&source[piece * 10000 + offset]), size},
                            world.pins};
      },
      {in(10s), false, [&](std::optional<Error> error, std::uint64_t bytes) {
         CHECK_FALSE(error);
         told = bytes, ++tells;
       }});
  CHECK_FALSE(transfer.is_done());
  CHECK(tells == 0);
  REQUIRE(world.run_until([&] { return tells > 0; }));
  CHECK(tells == 1);
  CHECK(told == transfer.progress().total_bytes);
  for (std::uint64_t i = 0; i < 300; ++i)
    REQUIRE(
        std::equal(&source[i * 10000], &source[i * 10000 + i * 37], &world.region()[i * 12000]));
  CHECK(world.pins.use_count() == 1);
}

TEST_CASE("one of nothing is done at once, even if nobody can be reached") {
  TransferWorld world(1);
  world.cut(0);
  int tells = 0;
  auto transfer = world.rails->write({}, nullptr, {in(10s), false, [&](auto error, auto bytes) {
                                                     CHECK_FALSE(error);
                                                     CHECK(bytes == 0);
                                                     ++tells;
                                                   }});
  CHECK(tells == 0);
  REQUIRE(world.run_until([&] { return tells > 0; }, 1s));
  CHECK(transfer.is_done());
  CHECK_FALSE(transfer.error());
}

TEST_CASE("a transfer can be awaited, given away or asked") {
  TransferWorld world(2);
  const auto source = pattern(kMega, 1);
  int awaited = 0;
  // Parameters, not captures: the coroutine outlives the lambda.
  boost::asio::co_spawn(
      world.context,
      [](TransferWorld& w, const Bytes& bytes, int& count) -> boost::asio::awaitable<void> {
        auto kept = w.write(0, bytes);
        CHECK(co_await kept.wait() == kMega);
        CHECK(kept.is_done());
        CHECK(co_await kept.wait() == kMega);  // Also when it is over.
        ++count;
        auto given = w.write(0, bytes);
        co_await std::move(given);
        ++count;
        try {
          co_await w.write(1, bytes);  // Ends behind the region.
        } catch (const Error& error) {
          CHECK((error.code() == Errc::out_of_bounds));
          ++count;
        }
      }(world, source, awaited),
      boost::asio::detached);
  CHECK(world.run_until([&] { return awaited == 3; }));
  auto future = world.write(0, source)(boost::asio::use_future);
  CHECK(world.run_until([&] { return future.wait_for(0s) == std::future_status::ready; }));
  CHECK_NOTHROW(future.get());
}

TEST_CASE("a wait that is cancelled cancels the transfer and goes on at once") {
  Faults faults;
  faults.lost = 1000;
  TransferWorld world(1, 1, faults);
  const auto source = pattern(kMega, 1);
  boost::asio::cancellation_signal stop;
  std::optional<Errc> code;
  auto transfer = world.write(0, source);
  boost::asio::co_spawn(world.context, transfer.wait(),
                        boost::asio::bind_cancellation_slot(
                            stop.slot(), [&](const std::exception_ptr& error, std::uint64_t) {
                              try {
                                std::rethrow_exception(error);
                              } catch (const Error& e) {
                                code = e.code();
                              }
                            }));
  world.run_for(20ms);
  stop.emit(boost::asio::cancellation_type::all);
  CHECK(world.run_until([&] { return code.has_value(); }, 1s));
  CHECK((code == Errc::cancelled));
  CHECK_FALSE(transfer.is_done());  // The wire holds its chunk still.
}

TEST_CASE("what the peer refuses and what cannot be pinned ends the transfer with that error") {
  TransferWorld world(2);
  const auto source = pattern(kMega, 1);
  auto transfer = world.rails->write({8, 1, 0}, source, world.pins, world.until(10s));
  REQUIRE(world.finish(transfer));
  CHECK((code_of(transfer) == Errc::permission_denied));
  int pinned = 0;
  transfer = world.rails->write(
      {{{7, 1, 0}, 10}, {{7, 1, 10}, 10}},
      [&](std::size_t piece, std::uint64_t, std::uint64_t) -> PinnedMemory {
        if (piece == 1) throw Error(Errc::not_found, "gone");
        ++pinned;
        return {{const_cast<std::byte*>(source.data()), 10}, world.pins};
      },
      world.until(10s));
  REQUIRE(world.finish(transfer));
  CHECK((code_of(transfer) == Errc::not_found));
  CHECK(pinned == 1);
  CHECK(world.rails->is_open());
  CHECK(world.rails->status()[0].losses + world.rails->status()[1].losses == 0);
}

TEST_CASE("a transfer ends at its deadline, whatever it waits for") {
  Faults faults;
  faults.lost = 1000;
  TransferWorld world(1, 1, faults);
  Bytes buffer(4 * kMega);
  world.region().resize(buffer.size());
  for (const bool is_write : {true, false}) {
    const auto start = Clock::now();
    auto transfer = is_write ? world.write(0, buffer, 60ms) : world.read(0, buffer, 60ms);
    REQUIRE(world.finish(transfer));
    CHECK((code_of(transfer) == Errc::timed_out));
    CHECK(Clock::now() - start >= 60ms);
    CHECK(Clock::now() - start < 560ms);
    CHECK(world.run_until([&] { return world.pins.use_count() == 1; }, 1s));
  }
  auto late = world.write(0, buffer, -1ms);
  REQUIRE(world.finish(late));
  CHECK((code_of(late) == Errc::timed_out));
}

TEST_CASE("one that is let go in mid-flight keeps its memory until it has landed") {
  Faults faults;
  faults.usual_time = 20ms;
  TransferWorld world(2, 1, faults);
  world.region().resize(64 * kMega);
  auto buffer = std::make_shared<Bytes>(64 * kMega);
  const std::weak_ptr<Bytes> alive = buffer;
  {
    auto transfer = world.rails->read(*buffer, {7, 1, 0}, buffer, world.until(10s));
    world.run_for(10ms);
    buffer.reset();
    CHECK_FALSE(alive.expired());
  }
  CHECK(world.run_until([&] { return alive.expired(); }, 1s));
  auto cancelled = world.write(0, Bytes(kMega));
  world.run_for(1ms);
  cancelled.cancel();
  cancelled.cancel();
  REQUIRE(world.finish(cancelled));
  CHECK((code_of(cancelled) == Errc::cancelled));
}

TEST_CASE("rails that go while it runs end it with cancelled") {
  Faults faults;
  faults.lost = 1000;
  TransferWorld world(2, 1, faults);
  const auto source = pattern(kMega, 1);
  auto transfer = world.write(0, source);
  world.run_for(10ms);
  world.rails.reset();
  REQUIRE(world.run_until([&] { return transfer.is_done(); }, 1s));
  CHECK((code_of(transfer) == Errc::cancelled));
}

TEST_CASE("a rail that is cut costs speed, not the transfer, and it comes back") {
  Faults faults;
  faults.bytes_per_second = 500 * kMega;
  TransferWorld world(2, 1, faults);
  world.region().resize(64 * kMega);
  const auto source = pattern(64 * kMega, 1);
  auto transfer = world.write(0, source);
  REQUIRE(world.run_until([&] { return transfer.progress().done_bytes > 16 * kMega; }));
  world.cut(1);
  REQUIRE(world.finish(transfer));
  REQUIRE_FALSE(transfer.error());
  CHECK((world.region() == source));
  CHECK(world.rails->status()[1].losses == 1);
  CHECK_FALSE(world.rails->status()[1].is_open);
  world.cut(1, false);
  CHECK(world.run_until([&] { return world.rails->status()[1].is_open; }, 6s));
  const auto before = world.rails->status()[1].sent_bytes;
  transfer = world.write(0, source);
  REQUIRE(world.finish(transfer));
  REQUIRE_FALSE(transfer.error());
  CHECK(world.rails->status()[1].sent_bytes > before + 8 * kMega);
}

TEST_CASE("when no rail is left it ends at once, and one that comes back serves the next") {
  Faults faults;
  faults.bytes_per_second = 500 * kMega;
  TransferWorld world(2, 1, faults);
  world.region().resize(64 * kMega);
  const auto source = pattern(64 * kMega, 1);
  auto transfer = world.write(0, source);
  REQUIRE(world.run_until([&] { return transfer.progress().done_bytes > kMega; }));
  const auto start = Clock::now();
  world.cut(0);
  world.cut(1);
  REQUIRE(world.finish(transfer));
  CHECK((code_of(transfer) == Errc::peer_lost));
  CHECK(Clock::now() - start < 1s);
  world.run_for(100ms);
  const auto connects = world.way(0).connects;
  world.run_for(200ms);
  CHECK(world.way(0).connects == connects);  // Nobody asks for it.
  world.cut(0, false);
  transfer = world.write(0, source);
  REQUIRE(world.finish(transfer));
  CHECK_FALSE(transfer.error());
  CHECK((world.region() == source));
}

TEST_CASE("what an older try to connect met does not end a transfer that begins later") {
  TransferWorld world(1);
  world.cut(0);
  const auto source = pattern(kMega, 1);
  auto first = world.write(0, source);
  world.cut(0, false);  // The try for the first is under way, and will fail.
  auto second = world.write(0, source);
  REQUIRE(world.finish(first));
  CHECK((code_of(first) == Errc::peer_lost));
  REQUIRE(world.finish(second));
  CHECK_FALSE(second.error());
  CHECK(world.way(0).connects == 2);
}

TEST_CASE("a single rail that is lost and comes back carries the rest") {
  Faults faults;
  faults.bytes_per_second = 500 * kMega;
  TransferWorld world(1, 1, faults);
  world.region().resize(32 * kMega);
  const auto source = pattern(32 * kMega, 1);
  auto transfer = world.write(0, source);
  REQUIRE(world.run_until([&] { return transfer.progress().done_bytes > 8 * kMega; }));
  world.cut(0);
  world.cut(0, false);
  REQUIRE(world.finish(transfer));
  REQUIRE_FALSE(transfer.error());
  CHECK((world.region() == source));
}

TEST_CASE("a peer that comes back as another process does not get the rest") {
  Faults faults;
  faults.bytes_per_second = 100 * kMega;  // Slow: some is under way, however late we look.
  TransferWorld world(2, 1, faults);
  world.region().resize(32 * kMega);
  const auto source = pattern(32 * kMega, 1);
  auto transfer = world.write(0, source);
  REQUIRE(world.run_until([&] { return transfer.progress().done_bytes > 8 * kMega; }));
  world.start_server();
  REQUIRE(world.finish(transfer));
  INFO(std::string(transfer.error() ? transfer.error()->what() : "no error"));
  CHECK((code_of(transfer) == Errc::peer_lost));
  transfer = world.write(0, source);
  REQUIRE(world.finish(transfer));
  CHECK_FALSE(transfer.error());
}

TEST_CASE("a chunk that is late on a lost rail lands in nobody's bytes") {
  for (const bool is_given_up : {false, true}) {
    INFO("is_given_up=", is_given_up);
    TransferWorld world(2);
    auto& late = world.way(0).wire->faults;
    late.late = 1000;
    late.late_time = 100ms;
    const auto source = pattern(kMega, 1);
    std::vector<TransferPiece> pieces;
    for (std::uint64_t i = 0; i < 64; ++i) pieces.push_back({{7, 1, i * 16384}, 16384});
    const auto pin = [&](const Bytes& bytes) {
      return [&](std::size_t piece, std::uint64_t, std::uint64_t size) {
        return PinnedMemory{{const_cast<std::byte*>(&bytes[piece * 16384]), size}, world.pins};
      };
    };
    auto transfer = world.rails->write(pieces, pin(source), world.until(is_given_up ? 20ms : 10s));
    world.run_for(5ms);
    world.way(1).wire->faults.usual_time = 20ms;  // So that the fence is no faster than the rest.
    if (!is_given_up) world.cut(0);
    REQUIRE(world.finish(transfer));
    CHECK((code_of(transfer) == (is_given_up ? std::optional(Errc::timed_out) : std::nullopt)));
    auto wanted = source;
    if (is_given_up) {
      late.late = 0;
      wanted = pattern(kMega, 2);
      auto next = world.rails->write(pieces, pin(wanted), world.until(10s));
      REQUIRE(world.finish(next));
      REQUIRE_FALSE(next.error());
      CHECK((world.region() == wanted));
    } else {
      CHECK((world.region() == wanted));
      world.region() = wanted = pattern(kMega, 3);  // Its owner may use it again.
    }
    world.run_for(150ms);
    CHECK((world.region() == wanted));
  }
}

TEST_CASE("a rail that falls silent while another moves is given up") {
  TransferWorld world(2);
  world.region().resize(64 * kMega);
  const auto source = pattern(64 * kMega, 1);
  world.way(1).wire->faults.lost = 1000;
  auto transfer = world.write(0, source);
  REQUIRE(world.finish(transfer));
  INFO(text_of(transfer));
  REQUIRE_FALSE(transfer.error());
  CHECK((world.region() == source));
  CHECK(world.rails->status()[1].losses >= 1);
}

TEST_CASE("a rail is probed when nothing else moves, and has what was chosen") {
  Faults faults;
  faults.bytes_per_second = 100 * kMega;
  TransferWorld world(1, 1, faults);
  const auto small = pattern(1000, 1);
  auto transfer = world.write(0, small);
  REQUIRE(world.finish(transfer));
  CHECK_FALSE(transfer.error());
  REQUIRE(world.run_until([&] { return world.rails->status()[0].probes == 1; }));
  const auto status = world.rails->status()[0];
  REQUIRE(status.probe);
  INFO(status.probe->reason);
  CHECK_FALSE(status.probe->has_failed);
  CHECK(status.probe->settings.eager_bytes == 64 << 10);  // A slow link saves round trips.
  const auto settings = [&] { return world.way(0).channels.back().lock()->settings(); };
  CHECK((settings() == status.probe->settings));
  // With the next channel to the same process as well, and without another probe.
  world.cut(0);
  world.cut(0, false);
  transfer = world.write(0, small);
  REQUIRE(world.finish(transfer));
  CHECK_FALSE(transfer.error());
  CHECK((settings() == status.probe->settings));
  world.run_for(50ms);
  CHECK(world.rails->status()[0].probes == 1);
  // Another process may be another program.
  world.start_server();
  transfer = world.write(0, small);
  REQUIRE(world.finish(transfer));
  CHECK(world.run_until([&] { return world.rails->status()[0].probes == 2; }));
}

TEST_CASE("a rail lost in its slice does not keep the other from being probed") {
  const auto small = pattern(1000, 1);
  TransferWorld world(2);
  auto transfer = world.write(0, small);
  REQUIRE(world.finish(transfer));
  world.way(0).wire->faults.lets_go = 100ms;
  world.way(0).wire->faults.lost = 1000;
  world.run_for(20ms);
  world.cut(0);
  CHECK(world.run_until([&] { return world.rails->status()[1].probes == 1; }, 5s));
}

TEST_CASE("a rail that always has work is probed all the same") {
  Faults faults;
  faults.bytes_per_second = 100 * kMega;
  TransferWorld world(1, 1, faults);
  world.region().resize(16 * kMega);
  const auto source = pattern(16 * kMega, 1);
  std::deque<Transfer> running;
  REQUIRE(world.run_until([&] {
    while (!running.empty() && running.front().is_done()) {
      REQUIRE_FALSE(running.front().error());
      running.pop_front();
    }
    while (running.size() < 3) running.push_back(world.write(0, source, 60s));
    return world.rails->status()[0].probes == 1;
  }));
  while (!running.empty()) {
    REQUIRE(world.finish(running.front()));
    CHECK_FALSE(running.front().error());
    running.pop_front();
  }
  CHECK((world.region() == source));
}

TEST_CASE("a rail whose rate has halved is probed again, once") {
  Faults faults;
  faults.bytes_per_second = 150 * kMega;  // Slow beside what this process does itself.
  TransferWorld world(1, 1, faults);
  world.region().resize(16 * kMega);
  const auto source = pattern(16 * kMega, 1);
  const auto write_for = [&](Clock::duration time, std::uint64_t probes) {
    const auto limit = Clock::now() + time;
    while (Clock::now() < limit && world.rails->status()[0].probes < probes) {
      auto transfer = world.write(0, source);
      REQUIRE(world.finish(transfer));
      REQUIRE_FALSE(transfer.error());
    }
  };
  write_for(20s, 1);
  REQUIRE(world.rails->status()[0].probes == 1);
  write_for(1s, 2);
  CHECK(world.rails->status()[0].probes == 1);  // It moves as before.
  world.way(0).wire->faults.bytes_per_second = 50 * kMega;
  write_for(30s, 2);
  CHECK(world.rails->status()[0].probes == 2);
  write_for(3s, 3);
  CHECK(world.rails->status()[0].probes == 2);  // That is what it does now.
}

TEST_CASE("a far peer is reached by several channels to one address") {
  Faults faults;
  faults.usual_time = 30ms;
  TransferWorld world(1, 2, faults);
  world.region().resize(32 * kMega);
  const auto source = pattern(32 * kMega, 1);
  auto transfer = world.write(0, source);
  REQUIRE(world.finish(transfer));
  REQUIRE(world.run_until([&] { return world.rails->status()[0].channels == 4; }));
  CHECK(world.rails->status().size() == 1);
  CHECK(world.rails->status()[0].probe->is_far);
  Bytes target(32 * kMega);
  transfer = world.read(0, target);
  REQUIRE(world.finish(transfer));
  CHECK((target == source));
  for (const auto& channel : world.way(0).channels)
    CHECK(channel.lock()->counters().received_bytes > kMega);
  // The same addresses again change nothing.
  world.rails->set_addresses({"way 0"});
  world.run_for(50ms);
  CHECK(world.rails->status()[0].channels == 4);
  world.cut(0);
  CHECK_FALSE(world.run_until([&] { return world.rails->is_open(); }, 200ms));
  world.cut(0, false);
  transfer = world.read(0, target);
  REQUIRE(world.finish(transfer));
  CHECK_FALSE(transfer.error());
  CHECK(world.run_until([&] { return world.rails->status()[0].channels == 4; }));
}

TEST_CASE("shares follow the measured rates, and the end waits for nobody") {
  for (const std::uint64_t ratio : {std::uint64_t{1}, std::uint64_t{3}, std::uint64_t{10}}) {
    INFO("ratio=", ratio);
    TransferWorld world(2);
    world.region().resize(64 * kMega);
    const auto source = pattern(64 * kMega, 1);
    world.way(0).wire->faults.bytes_per_second = 120 * kMega;
    world.way(1).wire->faults.bytes_per_second = 120 * kMega / ratio;
    auto transfer = world.write(0, source);  // Learns the rates.
    REQUIRE(world.finish(transfer));
    const auto before = world.rails->status();
    const auto start = Clock::now();
    transfer = world.write(0, source);
    REQUIRE(world.finish(transfer));
    const std::chrono::duration<double> took = Clock::now() - start;
    const auto after = world.rails->status();
    const auto share = static_cast<double>(after[0].sent_bytes - before[0].sent_bytes) /
                       static_cast<double>(after[1].sent_bytes - before[1].sent_bytes);
    const auto ideal = 64.0 / 120.0 / (1.0 + 1.0 / static_cast<double>(ratio));
    MESSAGE("ratio " << ratio << ": shares " << share << ", " << took.count() << " s, at best "
                     << ideal);
    CHECK(share > 0.5 * static_cast<double>(ratio));
    CHECK(share < 2 * static_cast<double>(ratio));
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    CHECK(took.count() < 2 * ideal + 0.3);
#endif
  }
}

TEST_CASE("a rail that would hold up the end gets nothing of it") {
  TransferWorld world(2);
  world.region().resize(20 * kMega);
  const auto source = pattern(20 * kMega, 1);
  world.way(0).wire->faults.bytes_per_second = 100 * kMega;
  world.way(1).wire->faults.bytes_per_second = kMega;
  auto transfer = world.write(0, source);  // Learns the rates.
  REQUIRE(world.finish(transfer));
  const auto before = world.rails->status()[1].sent_bytes;
  REQUIRE(before > 0);
  // One chunk takes the slow rail a second, and all of them take the other one 80 ms: a machine
  // that is a few times slower than it should be makes no difference.
  transfer = world.write(0, std::span(source).first(8 * kMega));
  REQUIRE(world.finish(transfer));
  REQUIRE_FALSE(transfer.error());
  CHECK(world.rails->status()[1].sent_bytes == before);
}

TEST_CASE("bytes that change on the way go once more, and then the transfer fails") {
  for (const bool is_write : {true, false}) {
    INFO("is_write=", is_write);
    TransferWorld world(1, 5);
    world.verify = true;
    const auto right = pattern(kMega, 1);
    auto& region = world.region();
    region = is_write ? Bytes(kMega) : right;
    Bytes buffer = is_write ? right : Bytes(kMega);
    auto& faults = world.way(0).wire->faults;
    faults.changed = 1000;
    auto transfer = is_write ? world.write(0, buffer) : world.read(0, buffer);
    REQUIRE(world.finish(transfer));
    CHECK((code_of(transfer) == Errc::corrupted));
    CHECK(world.way(0).wire->changes == 2);
    transfer = is_write ? world.write(0, buffer) : world.read(0, buffer);
    REQUIRE(world.run_until([&] { return world.way(0).wire->changes == 3; }));
    faults.changed = 0;
    REQUIRE(world.finish(transfer));
    REQUIRE_FALSE(transfer.error());
    CHECK((region == right));
    CHECK((buffer == right));
  }
}

TEST_CASE("a rail that failed while nobody waited is tried again when another one opens") {
  TransferWorld world(2);
  world.way(0).is_held = true;
  world.cut(1);
  Bytes bytes = pattern(100, 1);
  const auto transfer = world.write(0, bytes, 50ms);
  REQUIRE(world.finish(transfer));
  CHECK(transfer.error()->code() == Errc::timed_out);
  world.run_for(200ms);  // It may have a try under way; behind that it has given up.
  world.cut(1, false);
  world.release(0);
  CHECK(world.run_until([&] {
    const auto list = world.rails->status();
    return std::ranges::all_of(list, &Rails::Status::is_open);
  }));
}

TEST_CASE("links to several peers are probed one slice at a time") {
  Faults faults;
  faults.bytes_per_second = 100 * kMega;
  TransferWorld world(1, 1, faults);
  std::vector<std::unique_ptr<Rails>> peers;  // As good as several.
  const auto small = pattern(1000, 1);
  for (int i = 0; i < 5; ++i) {
    peers.push_back(world.more_rails());
    const auto transfer = peers.back()->write({7, 1, 0}, small, world.pins, world.until(10s));
    REQUIRE(world.finish(transfer));
    CHECK_FALSE(transfer.error());
  }
  const auto is_busy = [](const std::weak_ptr<Channel>& weak) {
    const auto channel = std::dynamic_pointer_cast<FaultyChannel>(weak.lock());
    return channel && channel->is_busy();
  };
  std::ptrdiff_t most = 0;
  CHECK(world.run_until([&] {
    most = std::max(most, std::ranges::count_if(world.way(0).channels, is_busy));
    return std::ranges::all_of(peers,
                               [](const auto& rails) { return rails->status()[0].probes == 1; });
  }));
  CHECK(most == 1);
}

TEST_CASE("rails or addresses that go in mid-slice leave the turn to others") {
  for (const bool all : {true, false}) {
    INFO("all: ", all);
    TransferWorld world(1);
    const auto small = pattern(1000, 1);
    const auto greet = [&](Rails& rails) {
      const auto transfer = rails.write({7, 1, 0}, small, world.pins, world.until(10s));
      REQUIRE(world.finish(transfer));
      CHECK_FALSE(transfer.error());
    };
    auto going = world.more_rails();
    auto staying = world.more_rails();
    greet(*going);
    // Its slice has no answer any more.
    world.way(0).wire->faults.lost = 1000;
    world.run_for(10ms);
    CHECK(going->status()[0].probes == 0);
    if (all)
      going.reset();
    else
      going->set_addresses({});
    world.way(0).wire->faults.lost = 0;
    greet(*staying);
    CHECK(world.run_until([&] { return staying->status()[0].probes == 1; }, 5s));
  }
}

TEST_CASE("a slice that nobody answers does not keep other peers from being probed") {
  TransferWorld world(1);
  const auto small = pattern(1000, 1);
  const auto greet = [&](Rails& rails) {
    const auto transfer = rails.write({7, 1, 0}, small, world.pins, world.until(10s));
    REQUIRE(world.finish(transfer));
    CHECK_FALSE(transfer.error());
  };
  const auto silent = world.more_rails();
  const auto other = world.more_rails();
  greet(*silent);
  world.way(0).wire->faults.lost = 1000;
  world.run_for(10ms);
  world.way(0).wire->faults.lost = 0;
  greet(*other);  // It asks for the turn while the slice may still be answered.
  CHECK(world.run_until([&] { return other->status()[0].probes == 1; }, 5s));
  CHECK(silent->status()[0].probes == 0);
}

TEST_CASE("when the last rail is lost, one that waits for its next try has it at once") {
  TransferWorld world(2);
  world.region().resize(4 * kMega);
  const auto source = pattern(4 * kMega, 1);
  world.cut(1);
  auto transfer = world.write(0, std::span(source).first(1000));
  REQUIRE(world.finish(transfer));
  REQUIRE(world.run_until([&] { return world.rails->status()[0].probes == 1; }));
  // The pauses have grown: the next one is of 3.2 s.
  REQUIRE(world.run_until([&] { return world.way(1).connects == 7; }));
  world.cut(1, false);
  world.way(0).wire->faults.bytes_per_second = kMega;
  transfer = world.write(0, source, 1500ms);
  world.run_for(100ms);
  REQUIRE_FALSE(transfer.is_done());
  world.cut(0);
  REQUIRE(world.finish(transfer));
  INFO(text_of(transfer));
  CHECK_FALSE(transfer.error());
  CHECK((world.region() == source));
}

TEST_CASE("transfers that reach their deadlines end no other one") {
  Faults faults;
  faults.bytes_per_second = 200 * kMega;
  TransferWorld world(1, 1, faults);
  world.region().resize(16 * kMega);
  const auto source = pattern(8 * kMega, 1), other = pattern(8 * kMega, 2);
  auto patient = world.write(0, source, 60s);
  int late = 0;
  for (int i = 0; i < 60 && !patient.is_done(); ++i) {
    const auto hasty = world.write(8 * kMega, other, 8ms);
    REQUIRE(world.finish(hasty));
    late += code_of(hasty) == Errc::timed_out ? 1 : 0;
  }
  CHECK(late > 10);
  REQUIRE(world.finish(patient));
  INFO(text_of(patient));
  CHECK_FALSE(patient.error());
  CHECK(std::equal(source.begin(), source.end(), world.region().begin()));
}
