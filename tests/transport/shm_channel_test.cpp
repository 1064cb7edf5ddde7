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
