// Goal:   whatever a peer sends, it loses its own channel at most: the server's memory, its other
//         channels and its pins stay as they were.
// Method: a RawPeer is admitted and then speaks UCX active messages without our code above it. By
//         hand: every rule of protocol.h broken once. Then seeded messages with a few wrong fields;
//         replay one with CAUSEWAY_TEST_SEED=<seed>. Strangers: ucx_stranger_test.cpp; streams:
//         ucx_hostile_stream_test.cpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "tests/transport/ucx_hostile.h"

#include <functional>
#include <iterator>

using namespace ucx_hostile;

namespace {

struct Attack {
  const char* name;
  bool greets;
  std::function<void(RawPeer&)> run;
};

constexpr unsigned kRendezvous = UCP_AM_SEND_FLAG_REPLY | UCP_AM_SEND_FLAG_RNDV;

// Each ends in the loss of the attacker's channel.
const std::vector<Attack> kAttacks = {
    {"no header", false, [](RawPeer& p) { p.send(Bytes{}); }},
    {"a short header", false, [](RawPeer& p) { p.send(Bytes(71)); }},
    {"a long header", false, [](RawPeer& p) { p.send(Bytes(73)); }},
    {"noise", false, [](RawPeer& p) { p.send(pattern(72, 1), pattern(1000, 2)); }},
    {"noise by rendezvous", false,
     [](RawPeer& p) { p.send(pattern(72, 1), pattern(1 << 20, 2), kRendezvous); }},
    {"another version", false,
     [](RawPeer& p) {
       auto bytes = encode(Header{.op = Op::hello, .key = p.key});
       bytes[0] ^= std::byte{1};
       p.send(Bytes(bytes.begin(), bytes.end()));
     }},
    {"operation 0", false, [](RawPeer& p) { p.send(Header{.op = Op{0}, .key = p.key}); }},
    {"operation 18", false, [](RawPeer& p) { p.send(Header{.op = Op{18}, .key = p.key}); }},
    {"a hello without a key", false, [](RawPeer& p) { p.send(Header{.op = Op::hello}); }},
    {"a hello with the wrong key", false,
     [](RawPeer& p) { p.send(Header{.op = Op::hello, .key = p.key + 1}); }},
    {"a hello with a payload", false,
     [](RawPeer& p) { p.send(Header{.op = Op::hello, .key = p.key}, Bytes(8)); }},
    {"a hello by rendezvous", false,
     [](RawPeer& p) {
       p.send(Header{.op = Op::hello, .key = p.key}, Bytes(1 << 20), kRendezvous);
     }},
    {"a read before the hello", false,
     [](RawPeer& p) {
       p.send(Header{.op = Op::read,
                     .key = p.key,
                     .session = 8,
                     .region = 1,
                     .size_bytes = 8,
                     .part_size_bytes = 8});
     }},
    {"a farewell before the hello", false,
     [](RawPeer& p) { p.send(Header{.op = Op::bye, .key = p.key}, encode(Error(Errc::io, "x"))); }},
    {"a welcome to the server", false,
     [](RawPeer& p) { p.send(Header{.op = Op::welcome, .key = p.key}); }},
    {"a second hello", true, [](RawPeer& p) { p.send(Header{.op = Op::hello, .key = p.key}); }},
    {"a welcome after the hello", true,
     [](RawPeer& p) { p.send(Header{.op = Op::welcome, .key = p.key}); }},
    {"a wrong key", true,
     [](RawPeer& p) {
       p.send(Header{.op = Op::read, .key = p.key + 1, .session = 7, .region = 1});
     }},
    {"a payload that the header does not know", true,
     [](RawPeer& p) {
       p.send(Header{.op = Op::write,
                     .key = p.key,
                     .session = 7,
                     .region = 1,
                     .size_bytes = 8,
                     .part_size_bytes = 8},
              Bytes(9));
     }},
    {"less payload than the header says", true,
     [](RawPeer& p) {
       p.send(Header{.op = Op::write,
                     .key = p.key,
                     .session = 7,
                     .region = 1,
                     .size_bytes = 1 << 20,
                     .part_size_bytes = 1 << 20},
              Bytes(1 << 19), kRendezvous);
     }},
    {"a read with a payload", true,
     [](RawPeer& p) {
       p.send(Header{.op = Op::read, .key = p.key, .session = 7, .region = 1}, Bytes(8));
     }},
    {"an answer to nothing", true,
     [](RawPeer& p) { p.send(Header{.op = Op::write_done, .key = p.key, .id = 5}); }},
    {"a sum that nobody asked for", true,
     [](RawPeer& p) { p.send(Header{.op = Op::sum_is, .key = p.key, .id = 5}); }},
    {"a fence's answer to nothing", true,
     [](RawPeer& p) { p.send(Header{.op = Op::fenced, .key = p.key, .id = 5}); }},
    {"a fence with a payload", true,
     [](RawPeer& p) { p.send(Header{.op = Op::fence, .key = p.key}, Bytes(8)); }},
    {"a failure of nothing", true,
     [](RawPeer& p) {
       p.send(Header{.op = Op::failed, .key = p.key, .id = 5}, encode(Error(Errc::io, "x")));
     }},
    {"data that nobody asked for", true,
     [](RawPeer& p) {
       p.send(Header{.op = Op::read_data, .key = p.key, .id = 1, .part_size_bytes = 1 << 20},
              Bytes(1 << 20), kRendezvous);
     }},
    {"a message out of order", true,
     [](RawPeer& p) { p.send(Header{.op = Op::message, .key = p.key, .id = 1}); }},
    {"a message twice", true,
     [](RawPeer& p) {
       p.send(Header{.op = Op::message, .key = p.key});
       p.send(Header{.op = Op::message, .key = p.key});
     }},
    {"a malformed farewell", true, [](RawPeer& p) { p.send(Header{.op = Op::bye, .key = p.key}); }},
    {"a farewell with a short code", true,
     [](RawPeer& p) { p.send(Header{.op = Op::bye, .key = p.key}, Bytes(1, std::byte{200})); }},
    {"too many requests at once", true,
     [](RawPeer& p) {
       p.holds_data = true;
       for (std::uint64_t i = 0; i < 400 && !p.is_gone; ++i)
         p.send(Header{.op = Op::read,
                       .key = p.key,
                       .id = i,
                       .session = 7,
                       .region = 1,
                       .size_bytes = 1 << 20,
                       .part_size_bytes = 1 << 20});
     }},
    {"a write by a stream that is not there", true,
     [](RawPeer& p) { p.send(streamed_write(p, 1, 8)); }},
    {"a stream that nobody asked for", true,
     [](RawPeer& p) { p.send(Header{.op = Op::joined, .key = p.key}); }},
    {"a place for nothing", true,
     [](RawPeer& p) { p.send(Header{.op = Op::go, .key = p.key, .id = 5}); }},
    {"noise on its stream", true, [](RawPeer& p) { p.join().send(pattern(1000, 1)); }},
    {"bytes on its stream that have no place", true,
     [](RawPeer& p) { p.join().send(stream_head(StreamHead::Kind::write, 5, 8)); }},
    {"data on its stream that nobody asked for", true,
     [](RawPeer& p) { p.join().send(stream_head(StreamHead::Kind::read_data, 5, 8)); }},
    {"more on its stream than it announced", true,
     [](RawPeer& p) {
       auto& stream = p.join();
       p.send(streamed_write(p, 1, 100'000));
       p.wait_for([&] { return p.answers[Op::go] == 1; });
       stream.send(stream_head(StreamHead::Kind::write, 1, 100'001));
     }},
    {"two writes by one name", true,
     [](RawPeer& p) {
       p.join();
       p.send(streamed_write(p, 1, 100'000));
       p.send(streamed_write(p, 1, 100'000));
     }},
    {"the bytes of a write that it took back", true,
     [](RawPeer& p) {
       auto& stream = p.join();
       p.send(streamed_write(p, 1, 100'000));
       p.wait_for([&] { return p.answers[Op::go] == 1; });
       p.send(Header{.op = Op::recall, .key = p.key, .id = 1, .session = 7});
       p.wait_for([&] { return p.answers[Op::failed] == 1; });
       stream.send(stream_head(StreamHead::Kind::write, 1, 100'000));
     }},
    {"a rendezvous with a write by its stream", true,
     [](RawPeer& p) {
       p.join();
       p.send(streamed_write(p, 1, 100'000), {}, kRendezvous);
     }},
    {"a flood of small messages", true,
     [](RawPeer& p) {
       for (std::uint64_t i = 0; i < 5000 && !p.is_gone; ++i)
         p.send(Header{.op = Op::message, .key = p.key, .id = i, .region = i});
     }},
    {"a flood of bytes", true,
     [](RawPeer& p) {
       for (std::uint64_t i = 0; i < 2000 && !p.is_gone; ++i)
         p.send(Header{.op = Op::message, .key = p.key, .id = i, .part_size_bytes = 16384},
                Bytes(16384));
     }},
    {"a flood of rendezvous", true,
     [](RawPeer& p) {
       const Bytes data(32768);
       for (std::uint64_t i = 0; i < 5000 && !p.is_gone; ++i)
         p.send(Header{.op = Op::message, .key = p.key, .id = i, .part_size_bytes = data.size()},
                data, kRendezvous);
     }},
};

}  // namespace

TEST_CASE("every broken rule costs the peer its channel, and only that") {
  Server server;
  const Client client(server.transport->address());
  for (const auto& attack : kAttacks) {
    INFO("attack: ", std::string(attack.name));
    {
      RawPeer peer(server.transport->address(), mallory());
      if (attack.greets) peer.greet();
      attack.run(peer);
      CHECK(peer.wait_until_gone());
    }
    check_unharmed(server, client);
    if (!attack.greets) continue;
    const auto reason = server.ended();
    REQUIRE(reason);
    INFO(reason->text);
    CHECK((reason->code == Errc::protocol || reason->code == Errc::exhausted));
    CHECK(reason->text.find("mallory") != std::string::npos);
  }
}

TEST_CASE("requests for the memory of others are refused, and the channel lives") {
  Server server;
  const Client client(server.transport->address());
  RawPeer peer(server.transport->address(), mallory());
  peer.greet();
  constexpr std::uint64_t kMega = 1 << 20;
  const Header refused[] = {
      {.op = Op::write, .session = 8, .region = 1, .size_bytes = kMega, .part_size_bytes = kMega},
      {.op = Op::write, .session = 7, .region = 2, .size_bytes = kMega, .part_size_bytes = kMega},
      {.op = Op::write,
       .session = 7,
       .region = 1,
       .offset_bytes = 1,
       .size_bytes = kMega,
       .part_size_bytes = kMega},
      {.op = Op::write,
       .session = 7,
       .region = 1,
       .offset_bytes = ~0ULL,
       .size_bytes = kMega,
       .part_size_bytes = kMega},
      {.op = Op::write, .session = 7, .region = 1, .size_bytes = 8, .part_size_bytes = kMega},
      {.op = Op::write,
       .session = 7,
       .region = 1,
       .size_bytes = kMega,
       .part_bytes = 1,
       .part_size_bytes = kMega},
      {.op = Op::write,
       .session = 7,
       .region = 1,
       .size_bytes = kMega,
       .part_bytes = ~0ULL,
       .part_size_bytes = kMega},
      {.op = Op::read, .session = 8, .region = 1, .size_bytes = 8, .part_size_bytes = 8},
      {.op = Op::read, .session = 7, .region = 1, .size_bytes = ~0ULL, .part_size_bytes = ~0ULL},
      {.op = Op::read, .session = 7, .region = 1, .size_bytes = 8, .part_size_bytes = 9},
  };
  int count = 0;
  for (auto header : refused) {
    INFO("request ", count);
    header.key = peer.key;
    const bool is_write = header.op == Op::write;
    peer.send(header, Bytes(is_write ? kMega : 0),
              is_write ? kRendezvous : +UCP_AM_SEND_FLAG_REPLY);
    ++count;
    CHECK(peer.wait_for([&] { return peer.answers[Op::failed] == count; }));
  }
  CHECK_FALSE(peer.is_gone);
  check_unharmed(server, client);
}

TEST_CASE("a part without a bound is refused at once, whatever waits before it") {
  Server server;
  const Client client(server.transport->address());
  {
    RawPeer peer(server.transport->address(), mallory());
    peer.greet();
    peer.holds_data = true;
    const auto ask = [&](std::uint64_t size) {
      peer.send(Header{.op = Op::read,
                       .key = peer.key,
                       .session = 7,
                       .region = 1,
                       .size_bytes = size,
                       .part_size_bytes = size});
    };
    ask(1 << 20);
    REQUIRE(peer.wait_for([&] { return peer.answers[Op::read_data] == 1; }));
    ask(std::uint64_t{1} << 40);
    CHECK(peer.wait_for([&] { return peer.answers[Op::failed] == 1; }));
  }
  check_unharmed(server, client);
}

TEST_CASE("small parts by rendezvous leave no trace, and fill nobody's room") {
  Server server;
  const Client client(server.transport->address());
  RawPeer peer(server.transport->address(), mallory());
  peer.greet();
  constexpr int kParts = 2100;  // 16 KiB each: more than a tenant may have in service.
  for (int i = 1; i <= kParts; ++i) {
    peer.send(Header{.op = Op::write,
                     .key = peer.key,
                     .session = 7,
                     .region = 2,
                     .size_bytes = 16384,
                     .part_size_bytes = 16384},
              Bytes(16384), kRendezvous);
    REQUIRE(peer.wait_for([&] { return peer.answers[Op::failed] == i; }));
  }
  check_unharmed(server, client);
  CHECK_FALSE(peer.is_gone);  // It did nothing wrong.
}

TEST_CASE("who names another's session waits in its own line") {
  Server server;
  const Client client(server.transport->address());
  {
    RawPeer peer(server.transport->address(), mallory());
    peer.greet();
    const auto ask = [&](std::uint64_t session, std::uint64_t size) {
      peer.send(Header{.op = Op::read,
                       .key = peer.key,
                       .session = session,
                       .region = 1,
                       .size_bytes = size,
                       .part_size_bytes = size});
    };
    peer.holds_data = true;
    for (int i = 0; i < 40; ++i) ask(7, 1 << 20);
    REQUIRE(peer.wait_for([&] { return peer.answers[Op::read_data] == 32; }));
    ask(8, 1 << 20);
    ask(8, 8);  // Needs no turn, and is refused behind the one before, had that been served.
    CHECK(peer.wait_for([&] { return peer.answers[Op::failed] > 0; }));
    CHECK(peer.answers[Op::failed] == 1);
    peer.holds_data = false;
    peer.let_go();
    CHECK(peer.wait_for([&] { return peer.answers[Op::failed] == 2; }));
  }
  check_unharmed(server, client);
}

TEST_CASE("a write whose turn does not come in time costs nobody a channel") {
  Server server;
  const Client client(server.transport->address());
  RawPeer peer(server.transport->address(), mallory());
  peer.greet();
  peer.holds_data = true;  // All the room of the tenant that is the client's as well.
  for (int i = 0; i < 32; ++i)
    peer.send(Header{.op = Op::read,
                     .key = peer.key,
                     .session = 7,
                     .region = 1,
                     .size_bytes = 1 << 20,
                     .part_size_bytes = 1 << 20});
  REQUIRE(peer.wait_for([&] { return peer.answers[Op::read_data] == 32; }));
  const auto source = pattern(100'000, 5);
  for (int i = 0; i < 3; ++i) {
    CHECK((client.side.write({7, 1, 0}, source, in(50ms)).get().code == Errc::timed_out));
    Bytes target(source.size());
    CHECK((client.side.read(target, {7, 1, 0}, in(50ms)).get().code == Errc::timed_out));
    CHECK(client.side.is_open());
  }
  peer.let_go();
  peer.holds_data = false;
  peer.send(Header{.op = Op::read, .key = peer.key, .session = 7, .region = 1});
  CHECK(peer.wait_for([&] { return peer.answers[Op::read_data] == 33; }));
  check_unharmed(server, client);
}

TEST_CASE("a message that does not say who sends it is dropped") {
  Server server;
  const Client client(server.transport->address());
  RawPeer peer(server.transport->address(), mallory());
  peer.greet();
  peer.send(Header{.op = Op::write,
                   .key = peer.key,
                   .session = 7,
                   .region = 1,
                   .size_bytes = 1 << 20,
                   .part_size_bytes = 1 << 20},
            Bytes(1 << 20), UCP_AM_SEND_FLAG_RNDV);
  peer.send(pattern(72, 1), {}, 0);
  // The next one that does is served, and it is the only one that was.
  peer.send(Header{.op = Op::read,
                   .key = peer.key,
                   .session = 7,
                   .region = 1,
                   .size_bytes = 8,
                   .part_size_bytes = 8});
  CHECK(peer.wait_for([&] { return peer.answers[Op::read_data] == 1; }));
  CHECK(peer.answers[Op::write_done] == 0);
  check_unharmed(server, client);
}

TEST_CASE("a peer without its lifeline is lost, whatever UCX says") {
  for (const bool with_a_byte : {true, false}) {
    INFO("with_a_byte=", with_a_byte);
    Server server;
    const Client client(server.transport->address());
    RawPeer peer(server.transport->address(), mallory());
    peer.greet();
    if (with_a_byte)
      REQUIRE(peer.lifeline.send(Bytes(1)));
    else
      peer.lifeline.reset();
    const auto start = std::chrono::steady_clock::now();
    CHECK(peer.wait_until_gone());
    CHECK((std::chrono::steady_clock::now() - start < 2s));
    const auto limit = in(5s);
    while (!server.ended() && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
    REQUIRE(server.ended());
    CHECK((server.ended()->code == Errc::peer_lost));
    check_unharmed(server, client);
  }
}

static void run_fuzz(std::uint64_t seed) {
  INFO("seed=", seed);
  Server server;
  const Client client(server.transport->address());
  std::mt19937_64 random(seed);
  constexpr Op kUsual[] = {Op::write,   Op::write,    Op::write, Op::read,  Op::read,
                           Op::read,    Op::sum,      Op::fence, Op::fence, Op::message,
                           Op::message, Op::withdraw, Op::recall};
  for (int round = 0; round < 8; ++round) {
    RawPeer peer(server.transport->address(), mallory());
    peer.greet();
    auto* const stream = round % 2 == 0 ? nullptr : &peer.join();
    const auto pick = [&](std::initializer_list<std::uint64_t> values) {
      return *(values.begin() + static_cast<std::ptrdiff_t>(random() % values.size()));
    };
    for (std::uint64_t i = 0; i < 200 && !peer.is_gone; ++i) {
      const Bytes data(pick({0, 0, 1, 100, 16384, 16385, 300000}));
      Header header{.op = random() % 10 == 0 ? static_cast<Op>(random() % 18)
                                             : kUsual[random() % std::size(kUsual)],
                    .key = random() % 50 == 0 ? random() : peer.key,
                    .id = i,
                    .session = pick({7, 7, 7, 8, random()}),
                    .region = pick({1, 1, 1, random()}),
                    .offset_bytes = pick({0, 1, 1 << 19, 1 << 20, random()}),
                    .size_bytes = pick({data.size(), data.size(), 8, 1 << 20, random()}),
                    .part_bytes = pick({0, 0, 0, 1, random()}),
                    .part_size_bytes = random() % 40 == 0 ? random() : data.size()};
      const bool may_stream = header.op == Op::write || header.op == Op::read;
      header.by_stream = may_stream && stream != nullptr && random() % 3 != 0;
      if (header.by_stream) header.part_size_bytes = header.size_bytes;
      auto bytes = encode(header);
      if (random() % 60 == 0) bytes[random() % bytes.size()] ^= static_cast<std::byte>(random());
      Bytes head(bytes.begin(), bytes.end());
      if (random() % 100 == 0) head.resize(random() % 100);
      const bool has_data = (header.op == Op::write && !header.by_stream) ||
                            header.op == Op::message || random() % 50 == 0;
      const auto flags = static_cast<unsigned>(pick(
          {UCP_AM_SEND_FLAG_REPLY, kRendezvous, UCP_AM_SEND_FLAG_REPLY | UCP_AM_SEND_FLAG_EAGER}));
      peer.send(std::move(head), has_data ? data : Bytes{}, flags);
      if (stream == nullptr || random() % 8 != 0) continue;
      // For the most part what was announced, once there is a place for it.
      if (header.by_stream && random() % 4 != 0)
        peer.wait_for([&, before = peer.answers[Op::go] + peer.answers[Op::failed]] {
          return peer.answers[Op::go] + peer.answers[Op::failed] > before;
        });
      const auto kind = random() % 8 == 0 ? StreamHead::Kind::read_data : StreamHead::Kind::write;
      stream->send(stream_head(kind, i, random() % 20 == 0 ? random() : header.size_bytes));
      if (header.size_bytes <= 1 << 20) stream->send(Bytes(header.size_bytes));
    }
  }
  check_unharmed(server, client);
}

TEST_CASE("random messages harm nobody else") {
  if (const char* seed = std::getenv("CAUSEWAY_TEST_SEED")) return run_fuzz(std::stoull(seed));
  for (std::uint64_t seed = 1; seed <= 8; ++seed) run_fuzz(seed);
}
