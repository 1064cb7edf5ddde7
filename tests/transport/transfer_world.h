// One peer behind bad wires, for tests of transfers: all of it on the test's thread.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/io_context.hpp>

#define CHANNEL_SUITE_HELPERS_ONLY
#include "tests/conformance/channel_suite.h"
#include "tests/transport/faulty_channel.h"
#include "tests/transport/run_until.h"
#include "transport/local/local_transport.h"
#include "transport/transfer/rails.h"

namespace causeway::test {

using channel_suite::Bytes;
using channel_suite::in;
using channel_suite::pattern;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

class TransferWorld {
 public:
  struct Way {  // To one address.
    std::shared_ptr<Wire> wire;
    bool is_cut = false;     // Nobody gets through.
    int refused_chance = 0;  // In thousands.
    bool is_held = false;    // Who asks has no answer until release().
    std::vector<std::function<void()>> held{};
    int connects = 0;
    std::vector<std::weak_ptr<Channel>> channels;
  };

  explicit TransferWorld(int ways, std::uint64_t seed = 1, Faults faults = {}) {
    for (int i = 0; i < ways; ++i)
      way(i).wire = std::make_shared<Wire>(Wire{context, std::mt19937_64(seed * 16 + i), faults});
    memory.regions[{7, 1}].bytes = Bytes(1 << 20);
    start_server();
    client = make_local_transport(network, {false, "client", nullptr, {}});
    rails = more_rails();
  }
  ~TransferWorld() {
    rails.reset();
    settle();
    accepted.clear();
    server.reset();
    client.reset();
    settle();
  }

  // To the same server.
  std::unique_ptr<Rails> more_rails() {
    auto made = std::make_unique<Rails>(
        context, "server",
        [this](const std::string& address, Deadline deadline, Transport::Connected connected) {
          connect(ways_[address], deadline, std::move(connected));
        });
    std::vector<std::string> addresses;
    for (const auto& [address, each] : ways_) addresses.push_back(address);
    made->set_addresses(addresses);
    return made;
  }

  void start_server() {
    accepted.clear();
    server.reset();
    server = make_local_transport(
        network, {true, "server", &memory,
                  [this](std::shared_ptr<Channel> channel) { accepted.push_back(channel); }});
  }

  Way& way(int number) { return ways_["way " + std::to_string(number)]; }
  Bytes& region() { return memory.regions[{7, 1}].bytes; }
  void cut(int number, bool is_cut = true) {
    way(number).is_cut = is_cut;
    if (!is_cut) return;
    for (const auto& weak : way(number).channels)
      if (const auto channel = weak.lock()) channel->close(Error(Errc::peer_lost, "cut"));
  }

  void release(int number) {
    way(number).is_held = false;
    for (const auto& connect : std::exchange(way(number).held, {})) connect();
  }

  // Runs the world until `test` holds. False: it did not in time.
  template <typename Test>
  bool run_until(Test test, Clock::duration time = 20s) {
    return test::run_until(context, std::move(test), time);
  }
  bool finish(const Transfer& transfer) {
    return run_until([&] { return transfer.is_done(); });
  }
  void run_for(Clock::duration time) {
    run_until([] { return false; }, time);
  }
  // Until nothing is under way any more.
  void settle() {
    context.restart();
    context.run_for(2s);
  }

  TransferOptions until(Clock::duration time) const { return {Clock::now() + time, verify, {}}; }
  Transfer write(std::uint64_t offset, std::span<const std::byte> source,
                 Clock::duration time = 10s) {
    return rails->write({7, 1, offset}, source, pins, until(time));
  }
  Transfer read(std::uint64_t offset, std::span<std::byte> target, Clock::duration time = 10s) {
    return rails->read(target, {7, 1, offset}, pins, until(time));
  }

  boost::asio::io_context context;
  LocalNetwork network{context};
  channel_suite::Memory memory;
  std::vector<std::shared_ptr<Channel>> accepted;
  std::unique_ptr<Transport> server;
  std::unique_ptr<Transport> client;
  std::unique_ptr<Rails> rails;
  std::shared_ptr<int> pins = std::make_shared<int>(0);
  bool verify = false;

 private:
  void connect(Way& to, Deadline deadline, Transport::Connected connected) {
    if (to.is_held)
      return to.held.push_back(
          [this, &to, deadline, connected] { connect(to, deadline, connected); });
    ++to.connects;
    if (to.is_cut || to.wire->happens(to.refused_chance)) {
      boost::asio::post(context, [connected = std::move(connected)] {
        connected(Error(Errc::peer_lost, "no way to the server"), nullptr);
      });
      return;
    }
    client->connect("local:server", {Hello::Role::client, "alice", 7, "secret"}, deadline,
                    [&to, connected = std::move(connected)](std::optional<Error> error,
                                                            std::shared_ptr<Channel> made) {
                      if (error) return connected(std::move(error), nullptr);
                      auto channel = std::make_shared<FaultyChannel>(to.wire, std::move(made));
                      to.channels.push_back(channel);
                      connected(std::nullopt, std::move(channel));
                    });
  }

  std::map<std::string, Way> ways_;
};

}  // namespace causeway::test
