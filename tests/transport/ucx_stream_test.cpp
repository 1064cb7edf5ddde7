// Goal:   a stream lands every byte where its owner says, wakes for the last ones too, and lets go
//         of every buffer when it is closed; channels use one as their settings say.
// Method: one end is a Stream, the other a plain socket that sends what and when it likes. Then two
//         transports. What a hostile peer does with a stream: ucx_hostile_test.cpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <poll.h>
#include <sys/socket.h>

#include <map>

#include "tests/transport/raw_caller.h"
#include "transport/ucx/stream.h"
#include "transport/ucx/ucx_transport.h"

#define CHANNEL_SUITE_HELPERS_ONLY
#include "tests/conformance/channel_suite.h"

using namespace channel_suite;
using causeway::ucx::decode_stream_head;
using causeway::ucx::encode;
using causeway::ucx::Stream;
using causeway::ucx::StreamHead;
using causeway::ucx::Streams;

namespace {

struct Owner final : Stream::Owner {
  std::map<std::uint64_t, Bytes> places;  // By id; what has none is dropped.
  std::map<std::uint64_t, bool> landed;   // Whether whole.
  std::vector<std::uint64_t> heads;
  std::optional<Error> ended;

  Stream::Landing land_frame(const StreamHead& head) override {
    heads.push_back(head.id);
    if (head.id == 13) throw Error(Errc::protocol, "no frame 13");
    const auto place = places.find(head.id);
    if (place == places.end()) return {};
    REQUIRE(place->second.size() == head.size_bytes);
    return {place->second.data(), [this, id = head.id](bool is_whole) { landed[id] = is_whole; }};
  }
  void stream_ended(const Error& why) override {
    CHECK_FALSE(ended);
    ended = why;
  }
};

struct Connected {
  UniqueFd far;
  Streams streams;
  Owner owner;
  std::unique_ptr<Stream> stream;

  Connected() {
    const UniqueFd door(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* const at = reinterpret_cast<sockaddr*>(&address);
    REQUIRE(::bind(door.get(), at, size) == 0);
    REQUIRE(::listen(door.get(), 1) == 0);
    REQUIRE(::getsockname(door.get(), at, &size) == 0);
    far.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(::connect(far.get(), at, size) == 0);
    stream =
        std::make_unique<Stream>(streams, UniqueFd(::accept(door.get(), nullptr, nullptr)), owner);
  }
  void say(std::span<const std::byte> bytes) const {
    REQUIRE(::send(far.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
            static_cast<ssize_t>(bytes.size()));
  }
  void say(const StreamHead& head) const { say(encode(head)); }
  // Only what the kernel calls ready: no look().
  [[nodiscard]] bool run_until(const std::function<bool()>& done) {
    const auto limit = in(10s);
    while (!done() && std::chrono::steady_clock::now() < limit) {
      pollfd ready{streams.fd(), POLLIN, 0};
      ::poll(&ready, 1, 100);
      streams.progress();
    }
    return done();
  }
  [[nodiscard]] Bytes hear(std::size_t size) {
    Bytes bytes(size);
    std::size_t heard = 0;
    const auto limit = in(10s);
    while (heard < size && std::chrono::steady_clock::now() < limit) {
      streams.progress();
      const auto came = ::recv(far.get(), &bytes[heard], size - heard, MSG_DONTWAIT);
      if (came > 0) heard += static_cast<std::size_t>(came);
    }
    REQUIRE(heard == size);
    return bytes;
  }
};

constexpr auto kWrite = StreamHead::Kind::write;
constexpr auto kReadData = StreamHead::Kind::read_data;

}  // namespace

TEST_CASE("heads are read back, and what is none is not") {
  const StreamHead head{kReadData, 0x0102030405060708, 1ULL << 40};
  auto bytes = encode(head);
  const auto back = decode_stream_head(bytes);
  REQUIRE(back);
  CHECK((back->kind == head.kind && back->id == head.id && back->size_bytes == head.size_bytes));
  CHECK_FALSE(decode_stream_head(std::span(bytes).first(23)));
  for (const int kind : {0, 3, 255}) {
    bytes[0] = static_cast<std::byte>(kind);
    CHECK_FALSE(decode_stream_head(bytes));
  }
  for (std::size_t i = 1; i < 8; ++i) {
    bytes = encode(head);
    bytes[i] = std::byte{1};
    CHECK_FALSE(decode_stream_head(bytes));
  }
}

TEST_CASE("frames land where they belong, however they come") {
  for (const std::size_t piece : {std::size_t{1}, std::size_t{7}, std::size_t{24}, std::size_t{25},
                                  std::size_t{1000}, std::size_t{1} << 20}) {
    INFO("piece=", piece);
    Connected pair;
    Bytes wire;
    std::map<std::uint64_t, Bytes> sent;
    std::uint64_t id = 0;
    for (const std::size_t size : {0, 1, 23, 24, 25, 5000, 0, 3000}) {
      const auto bytes = pattern(size, ++id);
      const auto head = encode({id % 2 == 0 ? kWrite : kReadData, id, size});
      wire.insert(wire.end(), head.begin(), head.end());
      wire.insert(wire.end(), bytes.begin(), bytes.end());
      if (id == 5) continue;  // Nobody wants it.
      sent[id] = bytes;
      pair.owner.places[id] = Bytes(size);
    }
    for (std::size_t at = 0; at < wire.size(); at += piece) {
      pair.say(std::span(wire).subspan(at, std::min(piece, wire.size() - at)));
      pair.streams.progress();
    }
    REQUIRE(pair.run_until([&] { return pair.owner.landed.size() == sent.size(); }));
    CHECK((pair.owner.places == sent));
    CHECK((pair.owner.heads == std::vector<std::uint64_t>{1, 2, 3, 4, 5, 6, 7, 8}));
    CHECK(std::ranges::all_of(pair.owner.landed, [](const auto& each) { return each.second; }));
    CHECK_FALSE(pair.owner.ended);
  }
}

TEST_CASE("few bytes behind many wake it as well") {
  Connected pair;
  constexpr std::size_t kSize = 300'000;
  const auto bytes = pattern(kSize, 3);
  pair.owner.places[1] = Bytes(kSize);
  pair.say({kWrite, 1, kSize});
  pair.say(std::span(bytes).first(kSize - 5));
  const auto progress = [&] { return pair.streams.progress(); };
  while (pair.run_until(progress) && pair.owner.heads.empty()) continue;
  // All but the last five have come when nothing moves any more.
  for (int quiet = 0; quiet < 3; ++quiet)
    if (pollfd ready{pair.streams.fd(), POLLIN, 0}; ::poll(&ready, 1, 20) > 0 && progress())
      quiet = 0;
  CHECK(pair.owner.landed.empty());
  pair.say(std::span(bytes).last(5));
  REQUIRE(pair.run_until([&] { return pair.owner.landed.contains(1); }));
  CHECK((pair.owner.places[1] == bytes));
  pair.owner.places[2] = Bytes(3);
  pair.say({kWrite, 2, 3});
  pair.say(std::span(bytes).first(3));
  CHECK(pair.run_until([&] { return pair.owner.landed.contains(2); }));
}

TEST_CASE("what is sent arrives in order, and can be taken back before it begins") {
  Connected pair;
  const auto large = pattern(12 << 20, 1), small = pattern(100, 2);
  std::map<std::uint64_t, bool> done;
  const auto send = [&](std::uint64_t id, const Bytes& bytes) {
    pair.stream->send({kWrite, id, bytes.size()}, bytes,
                      [&done, id](bool is_whole) { done[id] = is_whole; });
  };
  send(1, large);
  send(2, small);
  send(3, small);
  pair.streams.progress();  // The first one has begun: it does not fit into any buffer.
  CHECK_FALSE(done.contains(1));
  CHECK_FALSE(pair.stream->withdraw({kWrite, 1, 0}));
  CHECK_FALSE(pair.stream->withdraw({kReadData, 2, 0}));
  CHECK(pair.stream->withdraw({kWrite, 2, 0}));
  CHECK_FALSE(pair.stream->withdraw({kWrite, 2, 0}));
  const auto heard = pair.hear(24 + large.size() + 24 + small.size());
  CHECK((Bytes(heard.begin() + 24,
               heard.begin() + 24 + static_cast<std::ptrdiff_t>(large.size())) == large));
  CHECK((Bytes(heard.end() - 100, heard.end()) == small));
  CHECK((done == std::map<std::uint64_t, bool>{{1, true}, {3, true}}));
}

TEST_CASE("a stream that is closed lets go of every buffer, and of what it was about to do") {
  Connected pair;
  const auto large = pattern(12 << 20, 1);
  std::vector<bool> sent;
  pair.stream->send({kWrite, 1, large.size()}, large, [&](bool good) { sent.push_back(good); });
  pair.stream->send({kWrite, 2, large.size()}, large, [&](bool good) { sent.push_back(good); });
  pair.owner.places[7] = Bytes(1000, std::byte{0x5a});
  pair.say({kReadData, 7, 1000});
  pair.say(pattern(400, 1));
  REQUIRE(pair.run_until([&] { return !pair.owner.heads.empty(); }));
  pair.stream->close();
  CHECK((sent == std::vector<bool>{false, false}));
  CHECK((pair.owner.landed == std::map<std::uint64_t, bool>{{7, false}}));
  CHECK(std::ranges::all_of(std::span(pair.owner.places[7]).subspan(400),
                            [](std::byte b) { return b == std::byte{0x5a}; }));
  CHECK_FALSE(pair.owner.ended);  // Who closes it knows.
  CHECK_FALSE(pair.streams.progress());
  pair.stream->send({kWrite, 3, 1}, std::span(large).first(1),
                    [&](bool good) { sent.push_back(good); });
  CHECK((sent == std::vector<bool>{false, false, false}));
}

TEST_CASE("its end and a frame against the rules are told once") {
  for (const int how : {0, 1, 2, 3}) {
    INFO("how=", how);
    Connected pair;
    if (how == 0) pair.far.reset();
    if (how == 1) pair.say({kWrite, 13, 5});
    if (how == 2) pair.say(Bytes(24, std::byte{9}));
    if (how == 3) {
      const linger at_once{1, 0};
      ::setsockopt(pair.far.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
      pair.far.reset();
    }
    REQUIRE(pair.run_until([&] { return pair.owner.ended.has_value(); }));
    const auto code = pair.owner.ended->code();
    CHECK((code == (how == 0 ? Errc::peer_lost : how == 3 ? Errc::io : Errc::protocol)));
    for (int i = 0; i < 3; ++i) CHECK_FALSE(pair.streams.progress());
  }
}

TEST_CASE("what is sent by a stream that has ended waits until it is closed") {
  Connected pair;
  pair.far.reset();
  REQUIRE(pair.run_until([&] { return pair.owner.ended.has_value(); }));
  // Its owner may be about to hear why it ended.
  const auto bytes = pattern(100, 1);
  std::optional<bool> sent;
  pair.stream->send({kWrite, 1, bytes.size()}, bytes, [&](bool is_whole) { sent = is_whole; });
  CHECK_FALSE(pair.streams.progress());
  CHECK_FALSE(sent);
  pair.stream->close();
  CHECK(sent == false);
}

TEST_CASE("a stream that has much to send takes one turn at a time") {
  Connected pair;
  constexpr int kCount = 1000, kTurn = 16;  // Of frames; a turn is 1 MiB.
  const auto bytes = pattern(64 << 10, 1);
  int sent = 0, most = 0;
  for (std::uint64_t id = 1; id <= kCount; ++id)
    pair.stream->send({kWrite, id, bytes.size()}, bytes, [&](bool is_whole) { sent += is_whole; });
  const auto progress = [&] {
    const auto before = sent;
    const bool moved = pair.streams.progress();
    most = std::max(most, sent - before);
    return moved;
  };
  Bytes heard(1 << 20);
  const auto limit = in(10s);
  while (sent < kCount && std::chrono::steady_clock::now() < limit) {
    // Until the kernel takes no more, so that it has to say when it does.
    while (progress()) continue;
    while (::recv(pair.far.get(), heard.data(), heard.size(), MSG_DONTWAIT) > 0) continue;
  }
  CHECK(sent == kCount);
  CHECK(most <= kTurn + 1);  // One had begun before.
}

namespace {

struct UcxBody {
  IoThread first{"ucx-server"}, second{"ucx-client"};
  IoThread& server_thread() { return first; }
  IoThread& client_thread() { return second; }
  std::unique_ptr<Transport> make_server(DataService* service, Transport::Accepted on_accept) {
    return make_ucx_transport(first.context(),
                              {"127.0.0.1:0", "server", service, std::move(on_accept)});
  }
  std::unique_ptr<Transport> make_client() {
    return make_ucx_transport(second.context(), {"", "client", nullptr, {}});
  }
};

std::uint64_t streamed(const Side& side) {
  std::uint64_t bytes = 0;
  side.thread->run_on([&] { bytes = side.channel->counters().streamed_bytes; });
  return bytes;
}

}  // namespace

TEST_CASE("large parts cross by a stream where the settings say so, and nothing else does") {
  ::unsetenv("CAUSEWAY_LINK_STREAM");
  World<UcxBody> world;
  auto& region = world.region();
  region.assign(5'000'000, std::byte{0});
  const auto source = pattern(region.size(), 1);
  world.expect(world.here.write({7, 1, 0}, source), std::nullopt);
  CHECK(streamed(world.here) == 0);
  const LinkSettings by_stream{1 << 20, 16 << 10, true};
  world.here.thread->run_on([&] { world.here.channel->set_settings(by_stream); });
  // It comes when it comes; until then bytes cross all the same.
  const auto limit = in(10s);
  while (streamed(world.here) == 0 && std::chrono::steady_clock::now() < limit)
    world.expect(world.here.write({7, 1, 0}, source), std::nullopt);
  const auto before = streamed(world.here), far_before = streamed(world.there);
  REQUIRE(before > 0);
  region.assign(region.size(), std::byte{0});
  world.expect(world.here.write({7, 1, 0}, source), std::nullopt);
  CHECK((region == source));
  Bytes target(source.size());
  world.expect(world.here.read(target, {7, 1, 0}), std::nullopt);
  CHECK((target == source));
  CHECK(streamed(world.here) - before == 2 * source.size());
  CHECK(streamed(world.there) - far_before == 2 * source.size());
  world.expect(world.here.write({7, 1, 0}, std::span(source).first(16 << 10)), std::nullopt);
  auto received = world.there.receive(1, target);
  world.expect(world.here.send(1, source), std::nullopt);
  world.expect(std::move(received), std::nullopt);
  CHECK(streamed(world.here) - before == 2 * source.size());
  world.here.thread->run_on([&] { world.here.channel->set_settings({}); });
  world.expect(world.here.write({7, 1, 0}, source), std::nullopt);
  CHECK(streamed(world.here) - before == 2 * source.size());
  CHECK(world.memory().pins.use_count() == 1);
}

TEST_CASE(
    "deadlines that end at any moment of a transfer cost no channel, and no byte lands late") {
  ::unsetenv("CAUSEWAY_LINK_STREAM");
  World<UcxBody> world;
  auto& region = world.region();
  region = pattern(4 << 20, 1);
  world.here.thread->run_on([&] { world.here.channel->set_settings({1 << 20, 16 << 10, true}); });
  const auto limit = in(10s);
  while (streamed(world.here) == 0 && std::chrono::steady_clock::now() < limit)
    world.expect(world.here.write({7, 1, 0}, pattern(100'000, 1)), std::nullopt);
  REQUIRE(streamed(world.here) > 0);
  std::mt19937_64 random(1);
  int whole = 0, late = 0;
  constexpr int kRounds = 150;
  constexpr std::size_t kAtOnce = 6;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<Bytes> buffers(kAtOnce);
    std::vector<std::future<Result>> results;
    for (auto& buffer : buffers) {
      buffer = Bytes(random() % 3'000'000, std::byte{0x5a});
      const auto deadline =
          std::chrono::steady_clock::now() + std::chrono::microseconds(random() % 3'000);
      results.push_back(random() % 2 == 0 ? world.here.read(buffer, {7, 1, 0}, deadline)
                                          : world.here.write({7, 1, 0}, buffer, deadline));
    }
    for (std::size_t i = 0; i < kAtOnce; ++i) {
      const auto got = results[i].get();
      whole += !got.code;
      INFO(got.text);
      REQUIRE((!got.code || got.code == Errc::timed_out));
      std::ranges::fill(buffers[i], std::byte{0x11});
    }
    REQUIRE(world.here.is_open());
    for (const auto& buffer : buffers)
      late += !std::ranges::all_of(buffer, [](std::byte b) { return b == std::byte{0x11}; });
  }
  CHECK(late == 0);
  CHECK(whole > 0);
  CHECK(whole < kRounds * static_cast<int>(kAtOnce));
  const auto source = pattern(region.size(), 2);
  world.expect(world.here.write({7, 1, 0}, source), std::nullopt);
  Bytes target(source.size());
  world.expect(world.here.read(target, {7, 1, 0}), std::nullopt);
  CHECK((target == source));
}
