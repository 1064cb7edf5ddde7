// Goal: UCX between two transports of one process is a channel like any other, on one thread and
//       on two.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "transport/ucx/ucx_transport.h"

#include <boost/asio/io_context.hpp>
#include <optional>

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
