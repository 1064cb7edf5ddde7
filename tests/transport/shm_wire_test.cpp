// Goal:   whatever another process writes into the memory of a wire, this side ends the wire with
// an
//         error and is otherwise unharmed; and every message is taken once, or not at all.
// Method: the test is the peer: it writes records, and what are none, into the ring by hand.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include "tests/transport/run_until.h"
#include "transport/shm/wire.h"

using namespace causeway;
using namespace causeway::shm;
using namespace std::chrono_literals;
using Bytes = std::vector<std::byte>;
using Kind = Record::Kind;

namespace {

constexpr std::size_t kRing = Ring::kLeastBytes;
constexpr std::size_t kPage = 4096;

Deadline in(std::chrono::milliseconds time) { return std::chrono::steady_clock::now() + time; }

struct Outcome {
  bool is_there = false;
  std::optional<Error> error;
  std::uint64_t bytes = 0;
};

// A wire and its peer, whose hands are the test's.
struct Bench {
  boost::asio::io_context context;
  std::shared_ptr<Port> port;
  SharedSegment segment = SharedSegment::create(Wire::segment_bytes(kRing));
  RingEnd* ends;
  std::span<std::byte> ring;  // The peer's.
  std::optional<Error> broken;
  std::unique_ptr<Wire> wire;
  std::optional<RingWriter> peer;
  std::optional<RingReader> heard;

  explicit Bench(std::shared_ptr<Port> shared = nullptr)
      : port(shared ? std::move(shared) : Port::create(context)) {
    auto again = SharedSegment::open(::getpid(), segment.fd(), segment.bytes().size());
    ends = reinterpret_cast<RingEnd*>(again.bytes().data());
    ring = again.bytes().subspan(kPage + kRing, kRing);
    peer.emplace(ring, ends[1], ends[0]);
    heard.emplace(again.bytes().subspan(kPage, kRing), ends[1], ends[0]);
    wire = std::make_unique<Wire>(port, Wire::Setup{.segment = std::move(segment),
                                                    .ring_bytes = kRing,
                                                    .is_first = true,
                                                    .bell = UniqueFd(::dup(port->bell())),
                                                    .peer = "mallory",
                                                    .broken = [this](const Error& error) {
                                                      if (!broken) broken = error;
                                                      wire->end(error);
                                                    }});
    mapping.emplace(std::move(again));
  }

  void put(const Record& record, const Bytes& payload = {}) {
    auto* const place = peer->reserve(record, payload.size());
    REQUIRE(place != nullptr);
    std::ranges::copy(payload, place);
    peer->publish();
  }
  void send(std::uint64_t number, std::uint64_t tag, const Bytes& bytes) {
    put({Kind::message, number, tag, bytes.size()}, bytes);
  }
  // The next record that the wire has sent.
  Record hear() {
    look();
    const auto taken = heard->take();
    REQUIRE(taken);
    heard->next();
    return taken->record;
  }
  void look() {
    port->wake();
    context.restart();
    context.poll();
  }
  std::shared_ptr<Outcome> receive(std::uint64_t tag, Bytes& target, Deadline deadline = in(60s)) {
    const auto outcome = std::make_shared<Outcome>();
    wire->receive(tag, target, deadline, keep(outcome));
    return outcome;
  }
  std::shared_ptr<Outcome> say(std::uint64_t tag, const Bytes& bytes, Deadline deadline = in(60s)) {
    const auto outcome = std::make_shared<Outcome>();
    wire->send(tag, bytes, deadline, keep(outcome));
    return outcome;
  }
  static Completion keep(const std::shared_ptr<Outcome>& outcome) {
    return [outcome](std::optional<Error> error, std::uint64_t bytes) {
      REQUIRE_FALSE(outcome->is_there);
      *outcome = {true, std::move(error), bytes};
    };
  }
  std::optional<SharedSegment> mapping;
};

bool went_well(const std::shared_ptr<Outcome>& outcome) {
  return outcome->is_there && !outcome->error;
}
bool failed_with(const std::shared_ptr<Outcome>& outcome, Errc code) {
  return outcome->is_there && outcome->error && outcome->error->code() == code;
}

// What a peer may do wrong, with a receive for tag 1 waiting and an offer of the wire's unanswered.
void violate(Bench& bench, int way) {
  auto& written = bench.ends[1].written;
  const auto head = [&](std::uint64_t word) { std::memcpy(bench.ring.data(), &word, sizeof word); };
  const Bytes some(100);
  switch (way) {
    case 0:
      bench.send(1, 9, some);
      return bench.send(1, 9, some);  // A number twice.
    case 1:
      return bench.put({Kind::part, 5, 1, 100}, some);  // Nobody asked.
    case 2:
      return bench.put({Kind::ask, 77, 0, 0}, some);
    case 3:
      bench.put({Kind::ask, 2, 0, 0});
      return bench.put({Kind::ask, 2, 0, 0});  // Twice for one offer.
    case 4:
      return bench.put({Kind::offer, 1, 1, 0});
    case 5:
      bench.put({Kind::offer, 1, 1, 50});
      bench.look();
      return bench.put({Kind::part, 1, 1, 50}, some);
    case 6:
      bench.put({Kind::offer, 1, 1, 50});
      bench.look();
      return bench.put({Kind::part, 1, 1, 50});
    case 7:
      head(99);  // No kind.
      written = 32;
      return;
    case 8:
      head(1 | std::uint64_t{1} << 40);
      written = 32;
      return;
    case 9:
      head(1 | std::uint64_t{100} << 16);  // Ends behind what was written.
      written = 32;
      return;
    case 10:
      written = 2 * kRing;
      return;
    case 11:
      written = 33;
      return;
    case 12:
      head(0);  // A pad that does not end at the end.
      written = 64;
      return;
    case 13:
      head(std::uint64_t{kRing - Ring::kHeadBytes} << 16);  // Pads without an end.
      written = kRing;
      return;
    case 14:
      bench.ends[1].taken = 1 << 20;
      return;
    default:
      bench.send(1, 9, some);
      bench.look();
      written = 0;  // Less than before.
  }
}

}  // namespace

TEST_CASE("a peer that breaks a rule in shared memory ends this wire and nothing else") {
  for (int way = 0; way <= 15; ++way) {
    INFO("way=", way);
    Bench bench;
    Bytes target(64, std::byte{0x5a});
    const auto received = bench.receive(1, target);
    const Bytes large(kRing), small(16);
    const auto offered = bench.say(2, large);
    bench.look();
    violate(bench, way);
    // The peer takes nothing: where it lies about that, the ring seems to have room for ever.
    std::vector<std::shared_ptr<Outcome>> more;
    for (int i = 0; i < 6000 && way == 14; ++i) more.push_back(bench.say(3, small));
    bench.look();
    REQUIRE(bench.broken);
    CHECK((bench.broken->code() == Errc::protocol));
    bench.look();
    CHECK(failed_with(received, Errc::protocol));
    CHECK(failed_with(offered, Errc::protocol));
    for (const auto& each : more) CHECK(each->is_there);
    CHECK((more.empty() || failed_with(more.back(), Errc::closed)));
    CHECK(failed_with(bench.say(3, small), Errc::closed) == false);  // Never inside the call.
    CHECK((target == Bytes(64, std::byte{0x5a})));
  }
}

TEST_CASE("messages that nobody receives are bounded in number and in bytes") {
  for (const std::size_t size : {std::size_t{0}, std::size_t{16} * 1024}) {
    INFO("size=", size);
    Bench bench;
    const auto fits = size == 0 ? Wire::kMaxUnexpectedCount : Wire::kMaxUnexpectedBytes / size;
    for (std::uint64_t i = 1; i <= fits; ++i) {
      bench.send(i, i, Bytes(size));
      bench.look();
      REQUIRE_FALSE(bench.broken);
    }
    bench.send(fits + 1, 0, Bytes(size));
    bench.look();
    REQUIRE(bench.broken);
    CHECK((bench.broken->code() == Errc::exhausted));
    Bytes target(size);  // What had come before is whole.
    const auto late = bench.receive(5, target);
    bench.look();
    CHECK(went_well(late));
  }
}

TEST_CASE("what all wires hold is bounded, too: the one that holds the most ends") {
  boost::asio::io_context context;
  const auto port = Port::create(context);
  std::vector<std::unique_ptr<Bench>> benches;
  const auto held = [&](Bench& bench, std::uint64_t messages, std::uint64_t first = 1) {
    for (std::uint64_t i = first; i < first + messages; ++i) {
      bench.send(i, 1, Bytes(Wire::kEagerBytes));
      bench.wire->advance();
    }
  };
  constexpr auto kMost = Wire::kMaxUnexpectedBytes / Wire::kEagerBytes;
  for (int i = 0; i < 17; ++i) {
    benches.push_back(std::make_unique<Bench>(port));
    if (i < 16) held(*benches.back(), i == 7 ? kMost : kMost - 1);
  }
  for (const auto& bench : benches) CHECK_FALSE(bench->broken);
  held(*benches.back(), 16);  // These 16 are what the others had left.
  // What it held is given up: there is room again, and nobody else pays.
  held(*benches.back(), 100, 17);
  for (std::size_t i = 0; i < benches.size(); ++i)
    CHECK(benches[i]->broken.has_value() == (i == 7));
}

TEST_CASE("a wire that ends for what it holds takes nothing behind what it lost") {
  boost::asio::io_context context;
  const auto port = Port::create(context);
  std::vector<std::unique_ptr<Bench>> benches;
  const Bytes full(Wire::kEagerBytes), small(16);
  const auto held = [&](std::uint64_t messages) {
    auto& bench = *benches.emplace_back(std::make_unique<Bench>(port));
    for (std::uint64_t i = 1; i <= messages; ++i) {
      bench.send(i, 1, full);
      bench.wire->advance();
    }
  };
  constexpr std::uint64_t kOwn = Wire::kMaxUnexpectedBytes / Wire::kEagerBytes - 1;
  for (int i = 0; i < 15; ++i) held(961);
  held(16384 - kOwn - 15 * 961);
  held(kOwn);  // All that there may be, and the last one holds the most.
  auto& bench = *benches.back();
  bench.send(kOwn + 1, 1, full);
  bench.put({Kind::offer, kOwn + 2, 2, 1000});
  bench.send(kOwn + 3, 1, small);
  bench.wire->advance();
  REQUIRE(bench.broken);
  CHECK((bench.broken->code() == Errc::exhausted));
  Bytes target(full.size());
  std::vector<std::shared_ptr<Outcome>> received;
  for (std::uint64_t i = 0; i <= kOwn; ++i) received.push_back(bench.receive(1, target));
  received.push_back(bench.receive(2, target));
  port->wake();
  context.poll();
  for (std::uint64_t i = 0; i < kOwn; ++i) CHECK(went_well(received[i]));
  for (std::uint64_t i = kOwn; i < received.size(); ++i)
    CHECK(failed_with(received[i], Errc::closed));
  for (const auto& each : benches) CHECK(each->broken.has_value() == (each == benches.back()));
}

TEST_CASE("a receive that ends between two parts takes nothing of what follows") {
  Bench bench;
  Bytes target(60000, std::byte{0x11});
  const auto received = bench.receive(1, target, in(50ms));
  bench.put({Kind::offer, 1, 1, 60000});
  CHECK((bench.hear().kind == Kind::ask));
  bench.put({Kind::part, 1, 1, 60000}, Bytes(30000, std::byte{1}));
  bench.look();
  CHECK_FALSE(received->is_there);
  bench.context.restart();
  bench.context.run_for(200ms);  // The deadline is in there.
  CHECK(failed_with(received, Errc::timed_out));
  target.assign(60000, std::byte{0x5a});
  bench.put({Kind::part, 1, 1, 60000}, Bytes(30000, std::byte{1}));
  bench.look();
  CHECK((target == Bytes(60000, std::byte{0x5a})));
  const auto next = bench.receive(1, target);
  bench.send(2, 1, Bytes(10));
  bench.look();
  CHECK(went_well(next));
  CHECK_FALSE(bench.broken);
}

TEST_CASE("a receive whose message is withdrawn between two parts gets the next one of its tag") {
  for (const bool is_there_already : {false, true}) {
    INFO("is_there_already=", is_there_already);
    Bench bench;
    Bytes first(60000), second(60000);
    const auto one = bench.receive(1, first);
    bench.put({Kind::offer, 1, 1, 60000});
    CHECK((bench.hear().kind == Kind::ask));
    bench.put({Kind::part, 1, 1, 60000}, Bytes(30000, std::byte{1}));
    if (is_there_already) bench.send(2, 1, Bytes(10, std::byte{2}));
    bench.look();
    const auto other = is_there_already ? nullptr : bench.receive(1, second);
    bench.put({Kind::withdraw, 1, 1, 0});
    if (!is_there_already) bench.send(2, 1, Bytes(10, std::byte{2}));
    bench.look();
    CHECK(went_well(one));
    CHECK(one->bytes == 10);
    CHECK((first[9] == std::byte{2}));
    if (other) CHECK_FALSE(other->is_there);
    CHECK_FALSE(bench.broken);
  }
}

TEST_CASE("receives whose messages are withdrawn keep their order") {
  Bench bench;
  std::vector<Bytes> targets(4, Bytes(60000));
  std::vector<std::shared_ptr<Outcome>> received;
  for (auto& target : targets) received.push_back(bench.receive(1, target));
  for (std::uint64_t i = 1; i <= 3; ++i) bench.put({Kind::offer, i, 1, 60000});
  for (const std::uint64_t i : {1, 3, 2}) bench.put({Kind::withdraw, i, 1, 0});
  for (std::uint64_t i = 4; i <= 7; ++i) bench.send(i, 1, Bytes(i));
  bench.look();
  for (std::size_t i = 0; i < received.size(); ++i) {
    CHECK(went_well(received[i]));
    CHECK(received[i]->bytes == i + 4);
  }
}

TEST_CASE("offers of what never comes are bounded, though their receives have ended") {
  Bench bench;
  Bytes target(60000);
  std::uint64_t offers = 0;
  for (; !bench.broken && offers < 3 * Wire::kMaxUnexpectedCount;) {
    std::vector<std::shared_ptr<Outcome>> receives;
    for (int i = 0; i < 512; ++i) receives.push_back(bench.receive(1, target, in(20ms)));
    for (int i = 0; i < 512 && !bench.broken; ++i) {
      bench.put({Kind::offer, ++offers, 1, 60000});
      bench.look();
      while (bench.heard->take()) bench.heard->next();
    }
    REQUIRE(test::run_until(
        bench.context,
        [&] {
          return std::ranges::all_of(receives, [](const auto& each) { return each->is_there; });
        },
        5s));
  }
  REQUIRE(bench.broken);
  CHECK((bench.broken->code() == Errc::exhausted));
  CHECK(offers > Wire::kMaxUnexpectedCount);
}

TEST_CASE("withdrawals of what never was cost no more than they take") {
  Bench bench;
  for (std::uint64_t i = 1; i <= Wire::kMaxUnexpectedCount; ++i) {
    bench.send(i, 1, {});
    if (i % 1024 == 0) bench.look();
  }
  REQUIRE_FALSE(bench.broken);
  std::chrono::nanoseconds time{};
  for (int round = 0; round < 20; ++round) {
    for (int i = 0; i < 8000; ++i) bench.put({Kind::withdraw, 1'000'000, 1, 0});
    const auto begin = std::chrono::steady_clock::now();
    bench.look();
    time += std::chrono::steady_clock::now() - begin;
  }
  CHECK_FALSE(bench.broken);
  CHECK(time < 1s);
}

TEST_CASE("peers that never rest leave others their turn") {
  boost::asio::io_context context;
  const auto port = Port::create(context);
  std::vector<std::unique_ptr<Bench>> benches;
  const Bytes block(Wire::kEagerBytes);
  Bytes target(block.size());
  bool is_over = false;
  std::size_t taken = 0, most = 0;
  std::function<void(Bench&, std::uint64_t)> take = [&](Bench& bench, std::uint64_t number) {
    bench.wire->receive(1, target, in(60s),
                        [&, number](const std::optional<Error>&, std::uint64_t bytes) {
                          if (is_over) return;
                          taken += bytes;
                          bench.send(number + 8, 1, block);
                          take(bench, number + 8);
                        });
  };
  for (int i = 0; i < 16; ++i) {
    auto& bench = *benches.emplace_back(std::make_unique<Bench>(port));
    for (std::uint64_t number = 1; number <= 8; ++number) {
      bench.send(number, 1, block);
      take(bench, number);
    }
  }
  std::function<void(int)> turn = [&](int left) {
    most = std::max(most, std::exchange(taken, 0));
    if (left > 0) return boost::asio::post(context, [&turn, left] { turn(left - 1); });
    is_over = true;
  };
  turn(100);
  context.poll();
  CHECK(is_over);
  CHECK(most > 0);
  // A look takes 64 KiB of each. So many looks are a third of a millisecond on no machine.
  CHECK(most < 20 * 16 * 64 * 1024);
}

TEST_CASE("a send whose deadline passes is taken back without the peer's help") {
  Bench bench;
  const Bytes large(kRing), small(1000);
  std::vector<std::shared_ptr<Outcome>> said;
  said.push_back(bench.say(1, large, in(50ms)));
  for (int i = 0; i < 400; ++i) said.push_back(bench.say(1, small, in(50ms)));
  bench.context.run_for(200ms);  // The deadline is in there; the peer takes nothing.
  CHECK(failed_with(said.front(), Errc::timed_out));
  CHECK(failed_with(said.back(), Errc::timed_out));  // The ring has no room for all of them.
  std::size_t sent = 0;
  for (const auto& each : said) sent += went_well(each) ? 1 : 0;
  // What is in the ring comes in order; what was taken back never does, and a late answer to it is
  // no rule broken.
  CHECK((bench.hear().kind == Kind::offer));
  bench.put({Kind::ask, 1, 0, 0});
  for (std::size_t i = 0; i < sent; ++i) CHECK((bench.hear().kind == Kind::message));
  CHECK((bench.hear().kind == Kind::withdraw));
  bench.look();
  CHECK_FALSE(bench.heard->take());
  CHECK_FALSE(bench.broken);
}
