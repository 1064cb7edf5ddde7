// Goal: channels whose messages go through shared memory are channels like any other, on one thread
//       and on two, over UCX and over a transport of this process.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <boost/asio/io_context.hpp>
#include <optional>

#include "transport/blocking.h"
#include "transport/local/local_transport.h"
#include "transport/shm/sharing_transport.h"
#include "transport/ucx/ucx_transport.h"

namespace {

using namespace causeway;

struct SharedBody {
  IoThread first{"shm-server"};

  IoThread& server_thread() { return first; }
  IoThread& client_thread() { return first; }
  std::unique_ptr<Transport> make_server(DataService* service, Transport::Accepted on_accept) {
    return make_sharing_transport(
        first.context(), {.on_accept = std::move(on_accept)}, [&](Transport::Accepted accepted) {
          return make_ucx_transport(first.context(),
                                    {"127.0.0.1:0", "server", service, std::move(accepted)});
        });
  }
  static std::string dead_address() { return "127.0.0.1:1"; }

 protected:
  static std::unique_ptr<Transport> make_client_on(IoThread& thread) {
    return make_sharing_transport(thread.context(), {}, [&](Transport::Accepted accepted) {
      return make_ucx_transport(thread.context(), {"", "client", nullptr, std::move(accepted)});
    });
  }
};

struct SharedOneThread : SharedBody {
  std::unique_ptr<Transport> make_client() { return make_client_on(first); }
};

struct SharedTwoThreads : SharedBody {
  IoThread second{"shm-client"};
  IoThread& client_thread() { return second; }
  std::unique_ptr<Transport> make_client() { return make_client_on(second); }
};

}  // namespace

#define CHANNEL_BODIES SharedOneThread, SharedTwoThreads
#include "tests/conformance/channel_suite.h"

using namespace channel_suite;

TEST_CASE("messages go through shared memory") {
  World<SharedTwoThreads> world;
  CHECK(shares_memory(*world.here.channel));
  CHECK(shares_memory(*world.there.channel));
}

TEST_CASE("the channel below is told how to carry writes and reads") {
  World<SharedTwoThreads> world;
  constexpr LinkSettings kSettings{64 << 10, 8 << 10};
  world.here.thread->run_on([&] {
    auto& channel = *world.here.channel;
    channel.set_settings(kSettings);
    CHECK((channel.settings() == kSettings));
    CHECK(channel.round_trip());
  });
}

TEST_CASE("no more channels share memory than there is room for, also if all open at once") {
  IoThread thread{"shm-many"};
  LocalNetwork network(thread.context());
  constexpr std::size_t kCount = 300;
  std::vector<std::shared_ptr<Channel>> accepted, connected;
  std::promise<void> all;
  std::unique_ptr<Transport> server, client;
  const auto ended = [&] {
    if (accepted.size() + connected.size() == 2 * kCount) all.set_value();
  };
  thread.run_on([&] {
    server = make_sharing_transport(thread.context(),
                                    {.on_accept =
                                         [&](std::shared_ptr<Channel> channel) {
                                           accepted.push_back(std::move(channel));
                                           ended();
                                         },
                                     .ring_bytes = 256 << 10},
                                    [&](Transport::Accepted on_accept) {
                                      return make_local_transport(
                                          network,
                                          {.name = "server", .on_accept = std::move(on_accept)});
                                    });
    client = make_sharing_transport(
        thread.context(), {.ring_bytes = 256 << 10}, [&](Transport::Accepted) {
          return make_local_transport(network,
                                      {.listens = false, .name = "client", .on_accept = {}});
        });
    for (std::size_t i = 0; i < kCount; ++i)
      client->connect(server->address(), {}, in(kAmple),
                      [&](const std::optional<Error>& error, std::shared_ptr<Channel> channel) {
                        CHECK_FALSE(error);
                        connected.push_back(std::move(channel));
                        ended();
                      });
  });
  all.get_future().wait();
  thread.run_on([&] {
    for (const auto* ends : {&accepted, &connected})
      CHECK(std::ranges::count_if(*ends, [](const auto& end) { return shares_memory(*end); }) ==
            256);
    accepted.clear();
    connected.clear();
    client.reset();
    server.reset();
  });
}
