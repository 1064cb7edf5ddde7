// Goal: UCX between two transports of one process is a channel like any other, on one thread and
//       on two.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "transport/ucx/ucx_transport.h"

#include <boost/asio/io_context.hpp>
#include <optional>

#include "transport/addresses.h"
#include "transport/blocking.h"

namespace {

struct UcxBody {
  causeway::IoThread first{"ucx-server"};

  causeway::IoThread& server_thread() { return first; }
  causeway::IoThread& client_thread() { return first; }
  std::unique_ptr<causeway::Transport> make_server(causeway::DataService* service,
                                                   causeway::Transport::Accepted on_accept) {
    return causeway::make_ucx_transport(server_thread().context(),
                                        {"127.0.0.1:0", "server", service, std::move(on_accept)});
  }
  static std::string dead_address() { return "127.0.0.1:1"; }
};

struct UcxOneThread : UcxBody {
  std::unique_ptr<causeway::Transport> make_client() {
    return causeway::make_ucx_transport(first.context(), {"", "client", nullptr, {}});
  }
};

struct UcxTwoThreads : UcxBody {
  causeway::IoThread second{"ucx-client"};
  causeway::IoThread& client_thread() { return second; }
  std::unique_ptr<causeway::Transport> make_client() {
    return causeway::make_ucx_transport(second.context(), {"", "client", nullptr, {}});
  }
};

struct UcxSmallServer : UcxTwoThreads {
  std::unique_ptr<causeway::Transport> make_server(causeway::DataService* service,
                                                   causeway::Transport::Accepted on_accept) {
    for (const auto* name : kSegments) setenv(name, "32K", 1);
    auto server = UcxTwoThreads::make_server(service, std::move(on_accept));
    for (const auto* name : kSegments) unsetenv(name);
    return server;
  }
  static constexpr const char* kSegments[] = {"UCX_TCP_TX_SEG_SIZE", "UCX_TCP_RX_SEG_SIZE"};
};

}  // namespace

#define CHANNEL_BODIES UcxOneThread, UcxTwoThreads
#include "tests/conformance/channel_suite.h"

// UCX sends frames of its own segment size, and aborts on one that is larger than it expected.
TEST_CASE("a peer whose environment asks UCX for other segments is understood") {
  channel_suite::World<UcxSmallServer> world;
  world.judge.regions[{7, 2}].bytes = channel_suite::Bytes(4 << 20);
  const auto sent = channel_suite::pattern(4 << 20, 1);
  channel_suite::Bytes returned(sent.size());
  CHECK_FALSE(world.here.write({7, 2, 0}, sent).get().code);
  CHECK_FALSE(world.here.read(returned, {7, 2, 0}).get().code);
  CHECK(returned == sent);
}

// The server goes after some number of its handlers, with the hello of a client on its way.
TEST_CASE("a transport may be destroyed at any moment of a greeting") {
  int opened = 0;
  for (int handlers = 1; handlers <= 40; ++handlers) {
    INFO("handlers=", handlers);
    boost::asio::io_context server_context, client_context;
    channel_suite::Memory memory;
    auto is_alive = std::make_shared<bool>(true);
    std::vector<std::shared_ptr<causeway::Channel>> channels;
    auto server = causeway::make_ucx_transport(
        server_context, {"127.0.0.1:0", "server", &memory,
                         [&, is_alive](std::shared_ptr<causeway::Channel> channel) {
                           CHECK(*is_alive);
                           channels.push_back(std::move(channel));
                         }});
    auto client = causeway::make_ucx_transport(client_context, {"", "client", nullptr, {}});
    int answers = 0;
    client->connect(server->address(), {causeway::Hello::Role::client, "alice", 7, "secret"},
                    channel_suite::in(std::chrono::seconds(5)),
                    [&](std::optional<causeway::Error> error, std::shared_ptr<causeway::Channel>) {
                      ++answers;
                      if (!error) ++opened;
                    });
    for (int i = 0; i < handlers; ++i) {
      server_context.poll_one();
      client_context.run_for(std::chrono::milliseconds(5));
    }
    server.reset();
    *is_alive = false;
    server_context.run_for(std::chrono::milliseconds(20));
    client_context.run_for(std::chrono::milliseconds(20));
    channels.clear();
    client.reset();
    client_context.run_for(std::chrono::milliseconds(20));
    CHECK(answers == 1);
  }
  CHECK(opened > 0);  // The last moments are those of an open channel.
}

TEST_CASE(
    "several addresses lead to one transport, and a fence from one ends the other's channel") {
  using namespace channel_suite;
  causeway::IoThread thread("ucx-server");
  Memory memory;
  memory.regions[{7, 1}].bytes = Bytes(1 << 20);
  std::vector<std::shared_ptr<Channel>> accepted;
  std::unique_ptr<Transport> server, client;
  thread.run_on([&] {
    server = make_ucx_transport(thread.context(), {"127.0.0.1:0,127.0.0.1:0", "server", &memory,
                                                   [&](std::shared_ptr<Channel> channel) {
                                                     accepted.push_back(std::move(channel));
                                                   }});
    client = make_ucx_transport(thread.context(), {"", "client", nullptr, {}});
  });
  const auto addresses = split_addresses(server->address());
  REQUIRE(addresses.size() == 2);
  CHECK(addresses[0].starts_with("127.0.0.1:"));
  CHECK(addresses[1].starts_with("127.0.0.1:"));
  std::vector<Side> sides(2);
  const auto source = pattern(1 << 20, 1);
  for (std::size_t i = 0; i < 2; ++i) {
    const auto result = connect(thread, *client, addresses[i],
                                {Hello::Role::client, "alice", 7, "secret"}, sides[i]);
    INFO(result.text);
    REQUIRE_FALSE(result.code);
    CHECK_FALSE(sides[i].write({7, 1, 0}, source).get().code);
  }
  CHECK(sides[0].channel->id().transport == sides[1].channel->id().transport);
  auto closing = sides[0].closing();
  CHECK_FALSE(sides[1].fence(sides[0].channel->id()).get().code);
  CHECK((closing.wait_for(5s) == std::future_status::ready));
  CHECK(sides[1].is_open());
  for (auto& side : sides) side.drop();
  thread.run_on([&] {
    accepted.clear();
    client.reset();
    CHECK_THROWS_AS(
        make_ucx_transport(thread.context(), {"127.0.0.1:0,203.0.113.9:0", "x", nullptr, {}}),
        causeway::Error);  // One of them is not of this machine.
    // UCX would not find who answers there, though the kernel listens.
    CHECK_THROWS_WITH_AS(make_ucx_transport(thread.context(), {"127.0.0.77:0", "x", nullptr, {}}),
                         doctest::Contains("use 127.0.0.1"), causeway::Error);
    server.reset();
  });
}

TEST_CASE("a transport that calls itself fences the end that serves") {
  using namespace channel_suite;
  causeway::IoThread thread("ucx-server");
  Memory memory;
  std::vector<std::shared_ptr<Channel>> accepted;
  std::unique_ptr<Transport> transport;
  thread.run_on([&] {
    transport = make_ucx_transport(
        thread.context(), {"127.0.0.1:0", "server", &memory, [&](std::shared_ptr<Channel> channel) {
                             accepted.push_back(std::move(channel));
                           }});
  });
  std::vector<Side> sides(2);
  for (auto& side : sides)
    REQUIRE_FALSE(connect(thread, *transport, transport->address(),
                          {Hello::Role::client, "alice", 7, "secret"}, side)
                      .code);
  std::promise<bool> was_open;
  thread.run_on([&] {
    const auto id = sides[0].channel->id();
    REQUIRE((accepted[0]->id() == id));
    sides[1].channel->fence(id, in(5s), [&](const std::optional<Error>& error, std::uint64_t) {
      CHECK_FALSE(error);
      was_open.set_value(accepted[0]->is_open());
    });
  });
  CHECK_FALSE(was_open.get_future().get());
  for (auto& side : sides) side.drop();
  thread.run_on([&] {
    accepted.clear();
    transport.reset();
  });
}
