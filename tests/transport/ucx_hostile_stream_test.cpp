// Goal:   a peer that misuses, stops or ends its stream loses its own channel at most, and nothing
//         that is under way by it outlives its deadline.
// Method: as ucx_hostile_test.cpp, with the stream as a socket of the test's own.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "tests/transport/ucx_hostile.h"

using namespace ucx_hostile;

TEST_CASE(
    "a stream that ends in the middle of a write ends its channel and lets go of the memory") {
  for (const bool is_reset : {false, true}) {
    Server server;
    const Client client(server.transport->address());
    RawPeer peer(server.transport->address(), mallory());
    peer.greet();
    auto& stream = peer.join();
    peer.send(streamed_write(peer, 1, 100'000));
    peer.send(streamed_write(peer, 2, 100'000));
    REQUIRE(peer.wait_for([&] { return peer.answers[Op::go] == 2; }));
    REQUIRE(stream.send(stream_head(StreamHead::Kind::write, 1, 100'000)));
    REQUIRE(stream.send(pattern(50'000, 1)));
    if (is_reset)
      stream.reset();
    else
      stream.say_no_more();
    CHECK(peer.wait_until_gone());
    check_unharmed(server, client);
    REQUIRE(server.ended());
    CHECK((server.ended()->code == Errc::peer_lost));
  }
}

TEST_CASE("who does not know a channel's key gets no stream, and no channel gets two") {
  Server server;
  const Client client(server.transport->address());
  RawPeer peer(server.transport->address(), mallory());
  peer.greet();
  const auto is_hung_up_on = [&](std::span<const std::byte> bytes) {
    const causeway::test::RawCaller caller(server.transport->address());
    REQUIRE(caller.send(bytes));
    return !caller.read_frame();
  };
  CHECK(is_hung_up_on(frame(causeway::ucx::Join{peer.key + 1})));
  auto longer = frame(causeway::ucx::Join{peer.key});
  longer[6] = std::byte{9};  // The size of its body.
  longer.push_back(std::byte{0});
  CHECK(is_hung_up_on(longer));
  peer.join();
  CHECK(is_hung_up_on(frame(causeway::ucx::Join{peer.key})));
  CHECK_FALSE(peer.is_gone);
  peer.send(Header{.op = Op::message, .key = peer.key});  // Its channel lives.
  check_unharmed(server, client);
  CHECK_FALSE(server.ended());
}

namespace {

// The server asks something of the peer, which has a stream.
struct Asked {
  std::optional<Result> result;
  Server server;
  RawPeer peer{server.transport->address(), mallory()};
  causeway::test::RawCaller* stream = nullptr;
  std::shared_ptr<Channel> channel;

  Asked() {
    peer.greet();
    stream = &peer.join();
    server.thread.run_on([&] {
      channel = server.channels.at("mallory");
      channel->set_settings({1 << 20, 16 << 10, true});
    });
  }
  ~Asked() {
    server.thread.run_on([&] { channel.reset(); });
  }
  [[nodiscard]] Completion completion() {
    return [this](std::optional<Error> error, std::uint64_t bytes) {
      result = Result{};
      if (error) result = Result{error->code(), error->what(), bytes};
    };
  }
  void write(std::span<const std::byte> source, Deadline deadline) {
    server.thread.run_on([&] { channel->write({7, 1, 0}, source, deadline, completion()); });
  }
  void read(std::span<std::byte> target, Deadline deadline) {
    server.thread.run_on([&] { channel->read(target, {7, 1, 0}, deadline, completion()); });
  }
  // The id of the only one of these.
  [[nodiscard]] std::uint64_t id_of(Op op) {
    REQUIRE(peer.wait_for([&] { return peer.answers[op] == 1; }));
    return peer.ids[op].front();
  }
  bool is_done() {
    bool is = false;
    server.thread.run_on([&] { is = result.has_value(); });
    return is;
  }
  // Whatever the server had said before has come.
  void hear_all() {
    const auto before = peer.answers[Op::message];
    server.thread.run_on([&] { channel->send(1, {}, in(10s), [](const auto&, auto) {}); });
    REQUIRE(peer.wait_for([&] { return peer.answers[Op::message] > before; }));
  }
  bool is_open() {
    bool is = false;
    server.thread.run_on([&] { is = channel->is_open(); });
    return is;
  }
};

}  // namespace

TEST_CASE("a write whose bytes are on their way by the stream is not taken back any more") {
  Asked asked;
  auto& peer = asked.peer;
  const auto source = pattern(100'000, 1);
  asked.write(source, in(300ms));
  const auto id = asked.id_of(Op::write);
  peer.send(Header{.op = Op::go, .key = peer.key, .id = id});
  const auto heard = asked.stream->read(24 + source.size());
  CHECK(std::equal(source.begin(), source.end(), heard.begin() + 24, heard.end()));
  REQUIRE(peer.wait_for([&] { return asked.is_done(); }));
  CHECK((asked.result->code == Errc::timed_out));
  asked.hear_all();
  CHECK(peer.answers[Op::recall] == 0);
  peer.send(Header{.op = Op::write_done, .key = peer.key, .id = id});
  asked.hear_all();
  CHECK(asked.is_open());
}

TEST_CASE("a peer that stops in the middle of what it sends by its stream is not waited for") {
  Asked asked;
  auto& peer = asked.peer;
  Bytes target(100'000, std::byte{0x5a});
  const auto start = std::chrono::steady_clock::now();
  asked.read(target, in(200ms));
  const auto id = asked.id_of(Op::read);
  const auto data = pattern(target.size(), 1);
  REQUIRE(asked.stream->send(stream_head(StreamHead::Kind::read_data, id, data.size())));
  REQUIRE(asked.stream->send(std::span(data).first(50'000)));
  peer.wait_for([&] { return asked.is_done(); });
  while (!asked.is_done()) std::this_thread::yield();
  CHECK((std::chrono::steady_clock::now() - start < 1500ms));
  CHECK(asked.result->code);
  CHECK_FALSE(asked.is_open());
  asked.stream->send(std::span(data).last(50'000));
  asked.server.thread.run_on([] {});
  CHECK(std::ranges::all_of(std::span(target).last(50'000),
                            [](std::byte b) { return b == std::byte{0x5a}; }));
}

TEST_CASE("a peer that stops reading its stream is not waited for") {
  Asked asked;
  auto& peer = asked.peer;
  const auto source = pattern(8 << 20, 1);
  const auto start = std::chrono::steady_clock::now();
  asked.write(source, in(500ms));
  REQUIRE(peer.wait_for([&] { return peer.answers[Op::write] == 8; }));
  for (const auto id : peer.ids[Op::write])
    peer.send(Header{.op = Op::go, .key = peer.key, .id = id});
  peer.wait_for([&] { return asked.is_done(); });
  while (!asked.is_done()) std::this_thread::yield();
  CHECK((std::chrono::steady_clock::now() - start < 2s));
  CHECK((asked.result->code == Errc::timed_out));
}

TEST_CASE("data by the stream for a read that reached its deadline is dropped") {
  Asked asked;
  auto& peer = asked.peer;
  Bytes target(100'000, std::byte{0x5a});
  asked.read(target, in(100ms));
  const auto id = asked.id_of(Op::read);
  REQUIRE(peer.wait_for([&] { return asked.is_done(); }));
  CHECK((asked.result->code == Errc::timed_out));
  REQUIRE(asked.stream->send(stream_head(StreamHead::Kind::read_data, id, target.size())));
  REQUIRE(asked.stream->send(pattern(target.size(), 1)));
  asked.result.reset();
  const auto data = pattern(target.size(), 2);
  Bytes other(target.size());
  asked.read(other, in(10s));
  REQUIRE(peer.wait_for([&] { return peer.answers[Op::read] == 2; }));
  REQUIRE(asked.stream->send(
      stream_head(StreamHead::Kind::read_data, peer.ids[Op::read].back(), data.size())));
  REQUIRE(asked.stream->send(data));
  REQUIRE(peer.wait_for([&] { return asked.is_done(); }));
  CHECK_FALSE(asked.result->code);
  CHECK((other == data));
  CHECK(std::ranges::all_of(target, [](std::byte b) { return b == std::byte{0x5a}; }));
}

TEST_CASE("what a fenced channel's stream had brought as far as the kernel lands no more") {
  Server server;
  const Client client(server.transport->address());
  RawPeer peer(server.transport->address(), mallory());
  peer.greet();
  auto& stream = peer.join();
  peer.send(streamed_write(peer, 1, 1 << 20));
  REQUIRE(peer.wait_for([&] { return peer.answers[Op::go] == 1; }));
  const Bytes data(1 << 20, std::byte{0x5a});
  REQUIRE(stream.send(stream_head(StreamHead::Kind::write, 1, data.size())));
  REQUIRE(stream.send(std::span(data).first(100'000)));  // Less than wakes the server.
  ChannelId other;
  server.thread.run_on([&] { other = server.channels.at("mallory")->id(); });
  REQUIRE_FALSE(client.side.fence(other).get().code);
  Bytes after;
  const auto look = [&] {
    Bytes now;
    server.thread.run_on([&] { now = server.memory.regions[{7, 1}].bytes; });
    return now;
  };
  after = look();
  stream.send(std::span(data).last(900'000));
  peer.wait_until_gone();
  client.check_works();  // Writes the first 100'000.
  const auto later = look();
  CHECK(std::equal(after.begin() + 100'000, after.end(), later.begin() + 100'000));
  CHECK(std::ranges::count(later, std::byte{0x5a}) < 200'000);
  check_unharmed(server, client);
}
