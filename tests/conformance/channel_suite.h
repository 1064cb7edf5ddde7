// What every channel must do, whatever carries it.
//
// Use:    define CHANNEL_BODIES as a list of types, then include this once in a test program. A
// body
//         gives two IoThreads (perhaps the same one) and makes transports on them. With
//         CHANNEL_SUITE_HELPERS_ONLY it gives the helpers and no tests.
// Method: a World joins one client to one server, whose Memory holds the regions. Calls block the
//         test's thread; deadlines bound every wait. Random runs print their seed; replay one with
//         CAUSEWAY_TEST_SEED=<seed>.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <future>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "transport/blocking.h"
#include "transport/channel.h"
#include "transport/checksum.h"

namespace channel_suite {

using namespace causeway;
using namespace std::chrono_literals;
using Bytes = std::vector<std::byte>;

inline Deadline in(std::chrono::milliseconds time) {
  return std::chrono::steady_clock::now() + time;
}
constexpr auto kAmple = 60s;  // A deadline that only a defect reaches.

inline Bytes pattern(std::size_t size, std::uint64_t seed) {
  Bytes bytes(size);
  std::mt19937_64 random(seed + 1);
  std::size_t at = 0;
  for (; at + 8 <= size; at += 8) {
    const auto word = random();
    std::memcpy(&bytes[at], &word, 8);
  }
  for (; at < size; ++at) bytes[at] = static_cast<std::byte>(random());
  return bytes;
}

// Regions by session and id. Used on its transport's thread; tests look only between operations.
class Memory final : public DataService {
 public:
  struct Region {
    Bytes bytes;
    bool read_only = false;
  };
  std::map<std::pair<SessionId, RegionId>, Region> regions;
  std::shared_ptr<int> pins = std::make_shared<int>(0);  // use_count() - 1 are out.
  int judged = 0;                                        // Calls of pin().

  void admit(const Hello& hello) override {
    if (hello.credential != "secret")
      throw Error(Errc::unauthenticated, "wrong key for session " + std::to_string(hello.session));
  }

  PinnedMemory pin(const Hello& hello, const RemoteAddress& address, std::uint64_t size_bytes,
                   Access access) override {
    ++judged;
    if (hello.role == Hello::Role::client && hello.session != address.session)
      throw Error(Errc::permission_denied, "region of another session");
    const auto found = regions.find({address.session, address.region});
    if (found == regions.end())
      throw Error(Errc::not_found, "no region " + std::to_string(address.region));
    auto& region = found->second;
    if (access == Access::write && region.read_only)
      throw Error(Errc::permission_denied, "region is read-only");
    const auto end = region.bytes.size();
    if (address.offset_bytes > end || size_bytes > end - address.offset_bytes)
      throw Error(Errc::out_of_bounds, "range ends behind the region");
    return {std::span(region.bytes).subspan(address.offset_bytes, size_bytes), pins};
  }
};

struct Result {
  std::optional<Errc> code;  // Nothing: it went well.
  std::string text;
  std::uint64_t bytes = 0;
};

// One end of a channel with the thread it lives on. All calls come from the test's thread.
struct Side {
  IoThread* thread = nullptr;
  std::shared_ptr<Channel> channel;

  using Start = std::function<void(Channel&, Completion)>;
  [[nodiscard]] std::future<Result> start(const Start& operation) const {
    auto promise = std::make_shared<std::promise<Result>>();
    auto result = promise->get_future();
    thread->run_on([&] {
      bool inside = true;
      operation(*channel, [promise, &inside, owner = std::this_thread::get_id(),
                           calls = std::make_shared<int>(0)](std::optional<Error> error,
                                                             std::uint64_t bytes) {
        if (++*calls > 1) std::abort();                         // Exactly once,
        if (owner != std::this_thread::get_id()) std::abort();  // on the transport's thread,
        promise->set_value(error ? Result{error->code(), error->what(), bytes}
                                 : Result{std::nullopt, "", bytes});
      });
      // ... and never inside the call.
      if (result.wait_for(0s) == std::future_status::ready) std::abort();
      inside = false;
    });
    return result;
  }
  [[nodiscard]] std::future<Result> write(RemoteAddress to, std::span<const std::byte> bytes,
                                          Deadline deadline = in(kAmple)) const {
    return start([&](Channel& c, Completion done) { c.write(to, bytes, deadline, done); });
  }
  [[nodiscard]] std::future<Result> read(std::span<std::byte> bytes, RemoteAddress from,
                                         Deadline deadline = in(kAmple)) const {
    return start([&](Channel& c, Completion done) { c.read(bytes, from, deadline, done); });
  }
  [[nodiscard]] std::future<Result> checksum(RemoteAddress of, std::uint64_t size_bytes,
                                             Deadline deadline = in(kAmple)) const {
    return start([&](Channel& c, Completion done) { c.checksum(of, size_bytes, deadline, done); });
  }
  [[nodiscard]] std::future<Result> fence(ChannelId other, Deadline deadline = in(kAmple)) const {
    return start([&](Channel& c, Completion done) { c.fence(other, deadline, done); });
  }
  [[nodiscard]] std::future<Result> send(std::uint64_t tag, std::span<const std::byte> bytes,
                                         Deadline deadline = in(kAmple)) const {
    return start([&](Channel& c, Completion done) { c.send(tag, bytes, deadline, done); });
  }
  [[nodiscard]] std::future<Result> receive(std::uint64_t tag, std::span<std::byte> bytes,
                                            Deadline deadline = in(kAmple)) const {
    return start([&](Channel& c, Completion done) { c.receive(tag, bytes, deadline, done); });
  }
  [[nodiscard]] std::future<Result> closing() const {
    auto promise = std::make_shared<std::promise<Result>>();
    auto result = promise->get_future();
    thread->run_on([&] {
      channel->on_close([promise](const Error& reason) {
        promise->set_value({reason.code(), reason.what(), 0});
      });
    });
    return result;
  }
  void close(const Error& reason) const {
    thread->run_on([&] { channel->close(reason); });
  }
  [[nodiscard]] bool is_open() const {
    bool open = false;
    thread->run_on([&] { open = channel->is_open(); });
    return open;
  }
  void drop() {
    thread->run_on([&] { channel.reset(); });
  }
};

inline Result connect(IoThread& thread, Transport& transport, const std::string& address,
                      const Hello& hello, Side& side, Deadline deadline = in(kAmple)) {
  std::promise<Result> promise;
  auto result = promise.get_future();
  side.thread = &thread;
  thread.run_on([&] {
    transport.connect(
        address, hello, deadline,
        [&](std::optional<Error> error, std::shared_ptr<Channel> channel) {
          side.channel = std::move(channel);
          promise.set_value(error ? Result{error->code(), error->what(), 0} : Result{});
        });
  });
  return result.get();
}

template <typename Body>
struct World {
  Body body;
  Memory judge;
  std::unique_ptr<Transport> server;
  std::unique_ptr<Transport> client;
  std::map<std::string, Side> accepted;  // By the name in the peer's Hello.
  std::map<std::string, std::promise<void>> arrivals;
  Hello hello{Hello::Role::client, "alice", 7, "secret"};
  Side here;   // The client's end.
  Side there;  // The server's.

  World() {
    judge.regions[{7, 1}].bytes = Bytes(1 << 16);
    judge.regions[{8, 1}].bytes = Bytes(1 << 16);
    body.server_thread().run_on([&] {
      server = body.make_server(&judge, [this](std::shared_ptr<Channel> channel) {
        const auto name = channel->peer_name();
        accepted[name] = {&body.server_thread(), std::move(channel)};
        arrivals[name].set_value();
      });
    });
    body.client_thread().run_on([&] { client = body.make_client(); });
    const auto result = join(hello, here);
    INFO(result.text);
    REQUIRE_FALSE(result.code);
    there = accept("alice");
  }

  ~World() {
    here.drop();
    there.drop();
    body.client_thread().run_on([&] { client.reset(); });
    body.server_thread().run_on([&] {
      accepted.clear();
      server.reset();
    });
  }

  Result join(const Hello& as, Side& side) {
    body.server_thread().run_on([&] { arrivals[as.name]; });
    return connect(body.client_thread(), *client, server->address(), as, side);
  }
  Side accept(const std::string& name) {
    arrivals[name].get_future().get();
    Side side;
    body.server_thread().run_on([&] {
      side = accepted[name];
      accepted.erase(name);
    });
    return side;
  }
  // The server's thread is done with what it was asked for: a socket between two threads is not an
  // order that ThreadSanitizer sees.
  Memory& memory() {
    body.server_thread().run_on([] {});
    return judge;
  }
  Bytes& region() { return memory().regions[{7, 1}].bytes; }
  void expect(std::future<Result> result, std::optional<Errc> code) {
    const auto got = result.get();
    INFO(got.text);
    CHECK((got.code == code));
  }
};

#ifndef CHANNEL_SUITE_HELPERS_ONLY

constexpr std::size_t kSizes[] = {0,       1,       8,        4095,    4096,  4097,
                                  16384,   16385,   65535,    65536,   65537, 1 << 20,
                                  1048577, 4 << 20, 16777215, 64 << 20};

TEST_CASE_TEMPLATE("the two ends know each other", Body, CHANNEL_BODIES) {
  World<Body> world;
  CHECK(world.here.channel->peer_name() == "server");
  CHECK((world.here.channel->peer().role == Hello::Role::node));
  CHECK(world.there.channel->peer_name() == "alice");
  CHECK(world.there.channel->peer().session == 7);
  CHECK((world.there.channel->peer().role == Hello::Role::client));
  CHECK(world.here.is_open());
  CHECK(world.there.is_open());
}

TEST_CASE_TEMPLATE("every byte is written where it belongs", Body, CHANNEL_BODIES) {
  World<Body> world;
  for (const auto size : kSizes) {
    INFO("size=", size);
    auto& region = world.region();
    region.assign(size + 64, std::byte{0x5a});
    const auto source = pattern(size, size);
    const auto result = world.here.write({7, 1, 32}, source).get();
    INFO(result.text);
    REQUIRE_FALSE(result.code);
    CHECK(result.bytes == size);
    CHECK((Bytes(region.begin() + 32, region.end() - 32) == source));
    for (std::size_t i = 0; i < 32; ++i) {
      REQUIRE((region[i] == std::byte{0x5a}));
      REQUIRE((region[size + 32 + i] == std::byte{0x5a}));
    }
  }
}

TEST_CASE_TEMPLATE("every byte is read from where it is", Body, CHANNEL_BODIES) {
  World<Body> world;
  for (const auto size : kSizes) {
    INFO("size=", size);
    world.region() = pattern(size + 64, size);
    Bytes target(size + 64, std::byte{0x5a});
    const auto result = world.here.read(std::span(target).subspan(32, size), {7, 1, 16}).get();
    INFO(result.text);
    REQUIRE_FALSE(result.code);
    CHECK(result.bytes == size);
    CHECK((std::memcmp(&target[32], &world.region()[16], size) == 0));
    for (std::size_t i = 0; i < 32; ++i) {
      REQUIRE((target[i] == std::byte{0x5a}));
      REQUIRE((target[size + 32 + i] == std::byte{0x5a}));
    }
  }
  CHECK(world.memory().pins.use_count() == 1);
}

TEST_CASE_TEMPLATE("whatever the settings, every byte crosses rightly", Body, CHANNEL_BODIES) {
  World<Body> world;
  constexpr std::uint64_t kHuge = ~std::uint64_t{0};
  for (const LinkSettings settings :
       {LinkSettings{0, 0}, LinkSettings{64 << 10, 0}, LinkSettings{208 << 10, 208 << 10},
        LinkSettings{1 << 20, 64 << 10}, LinkSettings{kHuge, kHuge}}) {
    world.here.thread->run_on([&] { world.here.channel->set_settings(settings); });
    for (const std::size_t size : {0, 1, 4096, 65536, 65537, 212992, 212993, 3'000'001}) {
      INFO("part=", settings.part_bytes, " eager=", settings.eager_bytes, " size=", size);
      auto& region = world.region();
      region.assign(size + 64, std::byte{0x5a});
      const auto source = pattern(size, size);
      world.expect(world.here.write({7, 1, 32}, source), std::nullopt);
      CHECK((Bytes(region.begin() + 32, region.end() - 32) == source));
      REQUIRE((region[31] == std::byte{0x5a}));
      REQUIRE((region[size + 32] == std::byte{0x5a}));
      Bytes target(size);
      world.expect(world.here.read(target, {7, 1, 32}), std::nullopt);
      CHECK((target == source));
    }
    world.expect(world.here.write({7, 1, 3'000'000}, pattern(70'000, 1)), Errc::out_of_bounds);
  }
  CHECK(world.memory().pins.use_count() == 1);
}

TEST_CASE_TEMPLATE("the proving ground takes bytes and gives zeros", Body, CHANNEL_BODIES) {
  World<Body> world;
  const auto source = pattern(kProvingGroundBytes, 1);
  Bytes target(kProvingGroundBytes, std::byte{1});
  world.expect(world.here.write(kProvingGround, source), std::nullopt);
  world.expect(world.here.read(target, kProvingGround), std::nullopt);
  CHECK(std::ranges::count(target, std::byte{0}) == target.size());
  auto last = kProvingGround;
  last.offset_bytes = kProvingGroundBytes - 8;
  world.expect(world.here.write(last, std::span(source).first(8)), std::nullopt);
  world.expect(world.here.write(last, std::span(source).first(9)), Errc::out_of_bounds);
  world.expect(world.here.read(std::span(target).first(9), last), Errc::out_of_bounds);
  last.offset_bytes = ~std::uint64_t{0};
  world.expect(world.here.read(std::span(target).first(9), last), Errc::out_of_bounds);
  CHECK(world.memory().judged == 0);
}

TEST_CASE_TEMPLATE("the checksum is that of the peer's bytes", Body, CHANNEL_BODIES) {
  World<Body> world;
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{1}, std::size_t{4097}, kMaxChecksumBytes}) {
    INFO("size=", size);
    world.region() = pattern(size + 64, size);
    const auto wanted = checksum_of(std::span(world.region()).subspan(16, size));
    const auto result = world.here.checksum({7, 1, 16}, size).get();
    INFO(result.text);
    REQUIRE_FALSE(result.code);
    CHECK(result.bytes == wanted);
  }
  world.region().resize(kMaxChecksumBytes + 1);
  world.expect(world.here.checksum({7, 1, 0}, kMaxChecksumBytes + 1), Errc::out_of_bounds);
  world.expect(world.here.checksum({7, 1, 10}, kMaxChecksumBytes), Errc::out_of_bounds);
  world.expect(world.here.checksum({8, 1, 0}, 8), Errc::permission_denied);
  world.expect(world.here.checksum({7, 9, 0}, 8), Errc::not_found);
  CHECK(world.memory().pins.use_count() == 1);
}

TEST_CASE_TEMPLATE("behind a fence nothing of the other channel lands", Body, CHANNEL_BODIES) {
  World<Body> world;
  constexpr std::size_t kSize = 16 << 20;
  auto& region = world.region();
  region.resize(kSize);
  const auto source = pattern(kSize, 1);
  for (int round = 0; round < 8; ++round) {
    INFO("round=", round);
    const auto name = "bob" + std::to_string(round);
    Side other;
    REQUIRE_FALSE(world.join({Hello::Role::client, name, 7, "secret"}, other).code);
    auto far = world.accept(name);
    CHECK((other.channel->id() == far.channel->id()));
    CHECK_FALSE((other.channel->id() == world.here.channel->id()));
    auto closing = other.closing();
    std::vector<std::future<Result>> writes;
    for (int i = 0; i < 4; ++i) writes.push_back(other.write({7, 1, 0}, source));
    Bytes small(8);  // Another part of it in each round.
    for (int i = 0; i < round; ++i) world.expect(world.here.write({7, 1, 0}, small), std::nullopt);
    if (round % 4 == 3) far.drop();  // The peer has let go of it already.
    world.expect(world.here.fence(other.channel->id()), std::nullopt);
    world.body.server_thread().run_on([&] { std::ranges::fill(region, std::byte{0x5a}); });
    for (auto& write : writes) {
      const auto got = write.get();
      INFO(got.text);
      CHECK((!got.code || got.code == Errc::closed || got.code == Errc::peer_lost));
    }
    REQUIRE((closing.wait_for(10s) == std::future_status::ready));
    CHECK_FALSE(other.is_open());
    world.expect(world.here.fence(other.channel->id()), std::nullopt);  // Nothing is left to end.
    CHECK((world.region() == Bytes(kSize, std::byte{0x5a})));
    other.drop();
    far.drop();
  }
  CHECK(world.here.is_open());
  CHECK(world.memory().pins.use_count() == 1);
}

TEST_CASE_TEMPLATE("a fence is for another channel to the same peer", Body, CHANNEL_BODIES) {
  World<Body> world;
  auto id = world.here.channel->id();
  world.expect(world.here.fence(id), Errc::invalid_argument);
  id.number += 1;
  world.expect(world.here.fence(id), std::nullopt);  // Long gone, or never there.
  id.transport += 1;
  world.expect(world.here.fence(id), Errc::not_found);
  CHECK(world.here.is_open());
}

TEST_CASE_TEMPLATE("the judge's refusals reach the asker, and nothing is touched", Body,
                   CHANNEL_BODIES) {
  World<Body> world;
  world.memory().regions[{7, 2}] = {Bytes(4 << 20), true};
  world.memory().regions[{7, 3}] = {Bytes(3 << 20), false};
  for (const std::size_t size : {std::size_t{1}, std::size_t{4} << 10, std::size_t{2} << 20}) {
    INFO("size=", size);
    const auto source = pattern(size, 1);
    Bytes target(size, std::byte{0x5a});
    const auto edge = (std::uint64_t{3} << 20) - size;
    world.expect(world.here.write({8, 1, 0}, source), Errc::permission_denied);
    world.expect(world.here.read(target, {8, 1, 0}), Errc::permission_denied);
    world.expect(world.here.write({7, 9, 0}, source), Errc::not_found);
    world.expect(world.here.read(target, {7, 9, 0}), Errc::not_found);
    world.expect(world.here.write({7, 2, 0}, source), Errc::permission_denied);
    world.expect(world.here.read(target, {7, 3, edge + 1}), Errc::out_of_bounds);
    world.expect(world.here.write({7, 3, ~std::uint64_t{0}}, source), Errc::out_of_bounds);
    CHECK((target == Bytes(size, std::byte{0x5a})));
    CHECK((world.memory().regions[{7, 2}].bytes == Bytes(4 << 20)));
    CHECK((world.memory().regions[{8, 1}].bytes == Bytes(1 << 16)));
    world.expect(world.here.read(target, {7, 2, 0}), std::nullopt);
    world.expect(world.here.write({7, 3, edge}, source), std::nullopt);
  }
  CHECK(world.memory().pins.use_count() == 1);
}

TEST_CASE_TEMPLATE("a refusal names who refused and why", Body, CHANNEL_BODIES) {
  World<Body> world;
  const auto result = world.here.write({7, 9, 0}, pattern(8, 1)).get();
  CHECK(result.text.find("no region 9") != std::string::npos);
}

TEST_CASE_TEMPLATE("a wrong credential is refused at the door", Body, CHANNEL_BODIES) {
  World<Body> world;
  Side side;
  auto hello = world.hello;
  hello.name = "mallory";
  hello.credential = "guess";
  const auto result = world.join(hello, side);
  INFO(result.text);
  CHECK((result.code == Errc::unauthenticated));
  CHECK(side.channel == nullptr);
  CHECK(result.text.find("wrong key for session 7") != std::string::npos);
  world.expect(world.here.write({7, 1, 0}, pattern(8, 1)), std::nullopt);
}

TEST_CASE_TEMPLATE("messages of one tag keep their order, small and large", Body, CHANNEL_BODIES) {
  World<Body> world;
  std::vector<Bytes> messages;
  std::mt19937_64 random(3);
  for (std::uint64_t i = 0; i < 60; ++i)
    messages.push_back(pattern(random() % (i % 3 == 0 ? 400000 : 100), i));
  for (const bool receive_first : {false, true}) {
    INFO("receive_first=", receive_first);
    std::vector<std::future<Result>> sent;
    std::vector<std::future<Result>> received;
    std::vector<Bytes> targets(messages.size(), Bytes(400000));
    const auto send = [&] {
      for (std::size_t i = 0; i < messages.size(); ++i)
        sent.push_back(world.here.send(i % 2, messages[i]));
    };
    if (!receive_first) send();
    for (std::size_t i = 0; i < messages.size(); ++i)
      received.push_back(world.there.receive(i % 2, targets[i]));
    if (receive_first) send();
    for (std::size_t i = 0; i < messages.size(); ++i) {
      INFO("message=", i);
      const auto got = received[i].get();
      REQUIRE_FALSE(got.code);
      REQUIRE(got.bytes == messages[i].size());
      REQUIRE((std::memcmp(targets[i].data(), messages[i].data(), got.bytes) == 0));
      REQUIRE_FALSE(sent[i].get().code);
    }
  }
}

TEST_CASE_TEMPLATE("both ends may write, read and send", Body, CHANNEL_BODIES) {
  World<Body> world;
  Bytes target(100000);
  const auto message = pattern(100000, 4);
  auto received = world.here.receive(5, target);
  world.expect(world.there.send(5, message), std::nullopt);
  world.expect(std::move(received), std::nullopt);
  CHECK((target == message));
  world.expect(world.there.write({7, 1, 0}, message), Errc::unsupported);  // No memory there.
}

TEST_CASE_TEMPLATE("a message longer than the target is dropped, the next one is not", Body,
                   CHANNEL_BODIES) {
  World<Body> world;
  for (const std::size_t size : {std::size_t{100}, std::size_t{1} << 20}) {
    for (const bool receive_first : {false, true}) {
      INFO("size=", size, " receive_first=", receive_first);
      const auto message = pattern(size, size);
      Bytes small(size - 1, std::byte{0x5a});
      Bytes exact(size);
      std::vector<std::future<Result>> results;
      const auto send = [&] {
        results.push_back(world.here.send(9, message));
        results.push_back(world.here.send(9, message));
      };
      if (!receive_first) send();
      auto first = world.there.receive(9, small);
      auto second = world.there.receive(9, exact);
      if (receive_first) send();
      world.expect(std::move(first), Errc::out_of_bounds);
      world.expect(std::move(second), std::nullopt);
      CHECK((small == Bytes(size - 1, std::byte{0x5a})));
      CHECK((exact == message));
      for (auto& result : results) world.expect(std::move(result), std::nullopt);
    }
  }
}

TEST_CASE_TEMPLATE("what was sent before the end can be received after it", Body, CHANNEL_BODIES) {
  World<Body> world;
  auto closing = world.there.closing();
  Bytes targets[3] = {Bytes(100), Bytes(100), Bytes(99)};
  std::vector<std::future<Result>> sent;
  for (std::uint64_t i = 0; i < 3; ++i) sent.push_back(world.here.send(4, pattern(100, i)));
  const bool is_copied = sent[0].wait_for(200ms) == std::future_status::ready;
  if (is_copied)
    for (auto& result : sent) world.expect(std::move(result), std::nullopt);
  world.here.close(Error(Errc::closed, "all is said"));
  CHECK((closing.get().code == Errc::closed));
  if (!is_copied) {  // Then no send was told that its message went.
    for (auto& result : sent) world.expect(std::move(result), Errc::closed);
    return;
  }
  for (std::uint64_t i = 0; i < 2; ++i) {
    world.expect(world.there.receive(4, targets[i]), std::nullopt);
    CHECK((targets[i] == pattern(100, i)));
  }
  world.expect(world.there.receive(4, targets[2]), Errc::out_of_bounds);
  world.expect(world.there.receive(4, targets[2]), Errc::closed);
}

TEST_CASE_TEMPLATE("deadlines end what has no partner, and the channel lives on", Body,
                   CHANNEL_BODIES) {
  World<Body> world;
  Bytes target(1 << 20);
  const auto large = pattern(1 << 20, 2);
  const auto before = std::chrono::steady_clock::now();
  world.expect(world.there.receive(1, target, in(50ms)), Errc::timed_out);
  CHECK(std::chrono::steady_clock::now() - before >= 50ms);
  world.expect(world.here.send(1, large, in(50ms)), Errc::timed_out);  // Nobody receives it.
  world.expect(world.here.write({7, 1, 0}, pattern(8, 1), in(-1ms)), Errc::timed_out);
  CHECK(world.here.is_open());
  CHECK(world.there.is_open());
  // What was withdrawn is not delivered later.
  auto received = world.there.receive(1, target);
  const auto next = pattern(77, 6);
  world.expect(world.here.send(1, next), std::nullopt);
  const auto got = received.get();
  REQUIRE_FALSE(got.code);
  REQUIRE(got.bytes == 77);
  CHECK((std::memcmp(target.data(), next.data(), 77) == 0));
}

TEST_CASE_TEMPLATE("close ends what is outstanding on both sides", Body, CHANNEL_BODIES) {
  for (const bool by_client : {true, false}) {
    INFO("by_client=", by_client);
    World<Body> world;
    Bytes a(1 << 20), b(1 << 20);
    auto here_receive = world.here.receive(1, a);
    auto there_receive = world.there.receive(2, b);
    auto here_send = world.here.send(3, pattern(0, 1));
    auto here_closing = world.here.closing();
    auto there_closing = world.there.closing();
    const auto& closer = by_client ? world.here : world.there;
    closer.close(Error(Errc::cancelled, "enough"));
    CHECK_FALSE(closer.is_open());
    const auto mine = (by_client ? here_receive : there_receive).get();
    CHECK((mine.code == Errc::cancelled));
    const auto theirs = (by_client ? there_receive : here_receive).get();
    INFO(theirs.text);
    CHECK((theirs.code == Errc::closed || theirs.code == Errc::peer_lost));
    CHECK(theirs.text.find(by_client ? "alice" : "server") != std::string::npos);
    here_send.get();
    CHECK(((by_client ? here_closing : there_closing).get().code == Errc::cancelled));
    const auto other = (by_client ? there_closing : here_closing).get().code;
    CHECK((other == Errc::closed || other == Errc::peer_lost));
    for (const auto* side : {&world.here, &world.there}) {
      world.expect(side->send(1, a), Errc::closed);
      world.expect(side->receive(1, a), Errc::closed);
      world.expect(side->write({7, 1, 0}, a), Errc::closed);
      world.expect(side->read(a, {7, 1, 0}), Errc::closed);
      side->close(Error(Errc::cancelled, "again"));
      CHECK((side->closing().get().code != Errc::internal));  // Also when set too late.
    }
  }
}

TEST_CASE_TEMPLATE("a channel may be destroyed and closed in mid-flight", Body, CHANNEL_BODIES) {
  for (int round = 0; round < 8; ++round) {
    INFO("round=", round);
    World<Body> world;
    world.region().resize(16 << 20);
    const auto source = pattern(16 << 20, 1);
    Bytes target(16 << 20);
    Bytes message(1 << 20);
    std::vector<std::future<Result>> results;
    results.push_back(world.here.write({7, 1, 0}, source));
    results.push_back(world.here.read(target, {7, 1, 0}));
    results.push_back(world.here.send(1, message));
    results.push_back(world.here.receive(2, target));
    if (round % 2 == 0) results[0].wait_for(std::chrono::microseconds(300 * round));
    switch (round % 4) {
      case 0:
        world.here.drop();
        break;
      case 1:
        world.there.drop();
        break;
      case 2:
        world.body.client_thread().run_on([&] { world.client.reset(); });
        break;
      case 3:
        world.body.server_thread().run_on([&] { world.server.reset(); });
        break;
    }
    for (auto& result : results) {
      const auto code = result.get().code;
      CHECK((!code || code == Errc::cancelled || code == Errc::closed || code == Errc::peer_lost));
    }
    CHECK(results.size() == 4);
  }
}

TEST_CASE_TEMPLATE("nothing listens there", Body, CHANNEL_BODIES) {
  World<Body> world;
  Side side;
  const auto result =
      connect(world.body.client_thread(), *world.client, Body::dead_address(), world.hello, side);
  CHECK((result.code == Errc::peer_lost));
  CHECK(result.text.find(Body::dead_address()) != std::string::npos);
}

TEST_CASE_TEMPLATE("what crossed is counted at both ends", Body, CHANNEL_BODIES) {
  World<Body> world;
  world.region().resize(3 << 20);
  Bytes buffer(3 << 20);
  world.expect(world.here.write({7, 1, 0}, std::span(buffer).first(2 << 20)), std::nullopt);
  world.expect(world.here.read(buffer, {7, 1, 0}), std::nullopt);
  auto received = world.there.receive(1, buffer);
  world.expect(world.here.send(1, pattern(100, 1)), std::nullopt);
  world.expect(std::move(received), std::nullopt);
  ChannelCounters here, there;
  world.here.thread->run_on([&] { here = world.here.channel->counters(); });
  world.there.thread->run_on([&] { there = world.there.channel->counters(); });
  CHECK(here.sent_bytes == (2 << 20) + 100);
  CHECK(here.received_bytes == 3 << 20);
  CHECK(there.received_bytes == here.sent_bytes);
  CHECK(there.sent_bytes == here.received_bytes);
}

// Many operations of all kinds at once against plain copies of the region's bytes. Writes in flight
// never overlap, so the model knows every byte.
template <typename Body>
void run_mixture(std::uint64_t seed) {
  constexpr std::size_t kSlot = 3 << 20;
  constexpr std::size_t kSlots = 12;
  World<Body> world;
  std::mt19937_64 random(seed);
  world.region() = pattern(kSlots * kSlot, seed);
  Bytes model = world.region();
  struct Running {
    std::size_t slot;
    std::size_t offset;
    Bytes buffer;
    Bytes wanted;
    bool is_read;
    std::future<Result> result;
    std::future<Result> partner;
  };
  std::map<std::size_t, Running> running;  // One per slot.
  const auto size_limit = std::size_t{1} << (4 + random() % 18);
  const auto settle = [&](Running& op) {
    const auto got = op.result.get();
    INFO(got.text);
    REQUIRE_FALSE(got.code);
    if (op.is_read) REQUIRE((op.buffer == op.wanted));
    if (op.partner.valid()) REQUIRE_FALSE(op.partner.get().code);
  };
  for (int step = 0; step < 150; ++step) {
    INFO("seed=", seed, " step=", step, " size_limit=", size_limit);
    const auto slot = random() % kSlots;
    if (const auto old = running.find(slot); old != running.end()) {
      settle(old->second);
      running.erase(old);
    }
    const auto size = random() % (size_limit + 1);
    const auto offset = slot * kSlot + random() % (kSlot - size + 1);
    auto& op = running[slot];
    op.is_read = true;
    switch (random() % 4) {
      case 0:
        op.is_read = false;
        op.buffer = pattern(size, random());
        std::memcpy(&model[offset], op.buffer.data(), size);
        op.result = world.here.write({7, 1, offset}, op.buffer);
        break;
      case 1:
        op.wanted.assign(model.begin() + offset, model.begin() + offset + size);
        op.buffer.resize(size);
        op.result = world.here.read(op.buffer, {7, 1, offset});
        break;
      default: {
        const bool from_client = random() % 2 == 0;
        const auto& sender = from_client ? world.here : world.there;
        const auto& receiver = from_client ? world.there : world.here;
        op.wanted = pattern(size, random());
        op.buffer.resize(size);
        if (random() % 2 == 0) {
          op.result = receiver.receive(slot, op.buffer);
          op.partner = sender.send(slot, op.wanted);
        } else {
          op.partner = sender.send(slot, op.wanted);
          op.result = receiver.receive(slot, op.buffer);
        }
      }
    }
  }
  for (auto& [slot, op] : running) settle(op);
  CHECK((world.region() == model));
}

TEST_CASE_TEMPLATE("a random mixture moves every byte rightly", Body, CHANNEL_BODIES) {
  if (const char* seed = std::getenv("CAUSEWAY_TEST_SEED"))
    return run_mixture<Body>(std::stoull(seed));
  for (std::uint64_t seed = 1; seed <= 6; ++seed) run_mixture<Body>(seed);
}

#endif  // CHANNEL_SUITE_HELPERS_ONLY

}  // namespace channel_suite
