// Goal:   two wires of one memory never wait for each other in vain, whoever looks when, and what
//         one of them has much of does not cost the others their turn.
// Method: both ends in this process, each with an event loop of its own that runs only when the
//         test says so: a peer that is not run has stopped.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <utility>
#include <vector>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/io_context.hpp>

#include "transport/shm/wire.h"

using namespace causeway;
using namespace causeway::shm;
using namespace std::chrono_literals;
using Bytes = std::vector<std::byte>;
using Clock = std::chrono::steady_clock;

namespace {

constexpr std::size_t kRing = Ring::kLeastBytes;
// So many messages of kEagerBytes fill a ring.
constexpr std::size_t kFull = kRing / Ring::record_bytes(Wire::kEagerBytes);

Deadline in(std::chrono::milliseconds time) { return Clock::now() + time; }

struct End {
  boost::asio::io_context context;
  std::shared_ptr<Port> port = Port::create(context);
  std::unique_ptr<Wire> wire;
  std::optional<Error> broken;

  void open(SharedSegment segment, bool is_first, const Port& peer) {
    wire = std::make_unique<Wire>(port, Wire::Setup{.segment = std::move(segment),
                                                    .ring_bytes = kRing,
                                                    .is_first = is_first,
                                                    .bell = UniqueFd(::dup(peer.bell())),
                                                    .peer = "other",
                                                    .broken = [this](const Error& error) {
                                                      if (!broken) broken = error;
                                                      wire->end(error);
                                                    }});
  }
  // Until it sleeps. It is not woken for it.
  void run() {
    context.restart();
    context.poll();
  }
};

struct Outcome {
  std::size_t ended = 0;
  std::optional<Error> error;
};

struct Ends {
  End here, there;

  Ends() {
    auto segment = SharedSegment::create(Wire::segment_bytes(kRing));
    auto again = SharedSegment::open(::getpid(), segment.fd(), segment.bytes().size());
    here.open(std::move(segment), true, *there.port);
    there.open(std::move(again), false, *here.port);
    run();
  }
  // Until nothing is left to do for either.
  void run() {
    for (int i = 0; i < 100; ++i) here.run(), there.run();
  }
};

Completion count(Outcome& outcome) {
  return [&outcome](std::optional<Error> error, std::uint64_t) {
    ++outcome.ended;
    outcome.error = std::move(error);
  };
}

}  // namespace

TEST_CASE("who finds no room while it sleeps is woken when there is some") {
  Ends ends;
  auto& [here, there] = ends;
  const Bytes block(Wire::kEagerBytes), large(2 * kRing);
  Bytes target(2 * kRing);
  Outcome received, sent, last, taken;
  SUBCASE("to send a small message") {
    for (std::size_t i = 0; i < kFull; ++i) here.wire->send(1, block, in(60s), count(sent));
    here.run();
    REQUIRE(sent.ended == kFull);
    here.wire->send(1, block, in(60s), count(last));
  }
  SUBCASE("to ask for a large one") {
    there.wire->send(2, large, in(60s), count(taken));
    ends.run();
    for (std::size_t i = 0; i < kFull; ++i) here.wire->send(1, block, in(60s), count(sent));
    const Bytes rest(kRing - kFull * Ring::record_bytes(block.size()) - 2 * Ring::kHeadBytes);
    here.wire->send(1, rest, in(60s), count(sent));
    here.wire->send(1, {}, in(60s), count(sent));
    here.run();
    REQUIRE(sent.ended == kFull + 2);
    here.wire->receive(2, target, in(60s), count(last));
  }
  here.run();
  CHECK(last.ended == 0);
  ends.run();
  CHECK(last.ended == 1);
  CHECK_FALSE(last.error);
}
TEST_CASE("a large message has its turn, however many small ones there are") {
  Ends ends;
  auto& [here, there] = ends;
  const Bytes small(Wire::kEagerBytes), large(4 * kRing);
  Bytes target(large.size()), slot(small.size());
  Outcome sent, received;
  bool is_over = false;
  std::size_t passed = 0;
  std::function<void()> send = [&, wire = here.wire.get()] {
    if (is_over) return;
    wire->send(1, small, in(60s), [&](const std::optional<Error>&, std::uint64_t) { send(); });
  };
  std::function<void()> receive = [&, wire = there.wire.get()] {
    wire->receive(1, slot, in(60s), [&](const std::optional<Error>& error, std::uint64_t) {
      ++passed;
      if (!error) receive();
    });
  };
  receive();
  there.wire->receive(2, target, in(60s), count(received));
  for (std::size_t i = 0; i < 4 * kFull; ++i) send();
  here.wire->send(2, large, in(60s), count(sent));
  for (std::size_t i = 0; i < 1000 && received.ended == 0; ++i) ends.here.run(), ends.there.run();
  CHECK(received.ended == 1);
  CHECK(passed > 0);
  is_over = true;
  for (auto* const end : {&here, &there}) end->wire->end(Error(Errc::closed, "enough"));
  ends.run();
}

TEST_CASE("the end of much that waits is no long matter") {
  Ends ends;
  auto& [here, there] = ends;
  constexpr std::size_t kMany = 100'000;
  const Bytes small(8);
  Bytes target(8);
  Outcome sent, received;
  const auto measure = [](const auto& function) {
    const auto begin = Clock::now();
    function();
    return Clock::now() - begin;
  };
  SUBCASE("of the channel") {
    for (std::size_t i = 0; i < kMany; ++i) here.wire->send(i, small, in(60s), count(sent));
    CHECK(measure([&] { here.wire->end(Error(Errc::closed, "enough")); }) < 3s);
    here.run();
    CHECK(sent.ended == kMany);
  }
  SUBCASE("of the time for receives") {
    const auto deadline = in(1000ms);
    for (std::size_t i = 0; i < kMany; ++i)
      here.wire->receive(i, target, deadline, count(received));
    here.context.restart();
    CHECK(measure([&] {
            while (received.ended < kMany) here.context.run_one_for(10s);
          }) < 5s);
    CHECK(received.ended == kMany);
  }
}
