// What the tests of hostile peers share: the server that they attack, and a client beside them.
#pragma once

#include <map>
#include <memory>
#include <optional>

#include "tests/transport/ucx_raw_peer.h"
#include "transport/ucx/ucx_transport.h"

#ifndef CHANNEL_SUITE_HELPERS_ONLY
#define CHANNEL_SUITE_HELPERS_ONLY
#endif
#include "tests/conformance/channel_suite.h"

namespace ucx_hostile {

using namespace channel_suite;
using causeway::ucx::encode;
using causeway::ucx::Header;
using causeway::ucx::Op;
using causeway::ucx::StreamHead;

inline constexpr std::size_t kSecretBytes = 1 << 20;
inline constexpr std::byte kSecret{0x77};

struct Server {
  Memory memory;
  IoThread thread{"server"};
  std::unique_ptr<Transport> transport;
  std::map<std::string, std::shared_ptr<Channel>> channels;
  std::optional<Result> mallory_ended;

  Server() {
    memory.regions[{7, 1}].bytes = Bytes(1 << 20);
    memory.regions[{8, 1}].bytes = Bytes(kSecretBytes, kSecret);
    thread.run_on([&] {
      transport = make_ucx_transport(
          thread.context(),
          {"127.0.0.1:0", "server", &memory, [&](std::shared_ptr<Channel> channel) {
             if (channel->peer_name() == "mallory")
               channel->on_close([&](const Error& reason) {
                 mallory_ended = {reason.code(), reason.what(), 0};
               });
             channels[channel->peer_name()] = channel;
           }});
    });
  }
  ~Server() {
    thread.run_on([&] {
      channels.clear();
      transport.reset();
    });
  }
  std::optional<Result> ended() {
    std::optional<Result> result;
    thread.run_on([&] { result = mallory_ended; });
    return result;
  }
};

struct Client {
  IoThread thread{"client"};
  std::unique_ptr<Transport> transport;
  Side side;

  explicit Client(const std::string& address) {
    thread.run_on([&] {
      transport = make_ucx_transport(thread.context(), {"", "client", nullptr, {}});
    });
    REQUIRE_FALSE(connect(thread, *transport, address, {Hello::Role::client, "alice", 7, "secret"},
                          side, in(20s))
                      .code);
  }
  ~Client() {
    side.drop();
    thread.run_on([&] { transport.reset(); });
  }
  void check_works() const {
    const auto source = pattern(100000, 5);
    Bytes target(source.size());
    CHECK_FALSE(side.write({7, 1, 0}, source).get().code);
    CHECK_FALSE(side.read(target, {7, 1, 0}).get().code);
    CHECK((target == source));
  }
};

using causeway::test::RawPeer;

inline Hello mallory() { return {Hello::Role::client, "mallory", 7, "secret"}; }

// Of `size` bytes of its own region, that are to come by its stream.
inline Header streamed_write(const RawPeer& p, std::uint64_t id, std::uint64_t size) {
  return {.op = Op::write,
          .key = p.key,
          .id = id,
          .session = 7,
          .region = 1,
          .size_bytes = size,
          .part_size_bytes = size,
          .by_stream = true};
}

inline Bytes stream_head(StreamHead::Kind kind, std::uint64_t id, std::uint64_t size) {
  const auto bytes = encode(StreamHead{kind, id, size});
  return {bytes.begin(), bytes.end()};
}

inline void check_unharmed(Server& server, const Client& client) {
  client.check_works();
  server.thread.run_on([] {});
  CHECK((server.memory.regions[{8, 1}].bytes == Bytes(kSecretBytes, kSecret)));
  const auto limit = in(5s);
  long pins = 0;
  do server.thread.run_on([&] { pins = server.memory.pins.use_count(); });
  while (pins > 1 && std::chrono::steady_clock::now() < limit);
  CHECK(pins == 1);
}

}  // namespace ucx_hostile
