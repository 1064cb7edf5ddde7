// Goal: the in-process transport is a channel like any other.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "transport/local/local_transport.h"

#include "transport/blocking.h"

namespace {

struct LocalBody {
  causeway::IoThread thread{"local"};
  causeway::LocalNetwork network{thread.context()};

  causeway::IoThread& server_thread() { return thread; }
  causeway::IoThread& client_thread() { return thread; }
  std::unique_ptr<causeway::Transport> make_server(causeway::DataService* service,
                                                   causeway::Transport::Accepted on_accept) {
    return causeway::make_local_transport(network, {true, "server", service, std::move(on_accept)});
  }
  std::unique_ptr<causeway::Transport> make_client() {
    return causeway::make_local_transport(network, {false, "client", nullptr, {}});
  }
  static std::string dead_address() { return "local:nobody"; }
};

}  // namespace

#define CHANNEL_BODIES LocalBody
#include "tests/conformance/channel_suite.h"

using causeway::Errc;
using causeway::Error;

TEST_CASE("an address is taken once and free again afterwards") {
  LocalBody body;
  body.thread.run_on([&] {
    auto first = body.make_server(nullptr, {});
    CHECK(first->address() == "local:server");
    CHECK_THROWS_AS(body.make_server(nullptr, {}), Error);
    first.reset();
    CHECK(body.make_server(nullptr, {})->address() == "local:server");
  });
}

TEST_CASE("a message must fit a thread's rules") {
  CHECK_THROWS_AS(causeway::IoThread("a name of more than 15 bytes"), Error);
  causeway::IoThread thread("short");
  CHECK_THROWS_AS(thread.run_on([] { throw Error(Errc::not_found, "x"); }), Error);
  thread.run_on([&] { CHECK_THROWS_AS(thread.run_on([] {}), Error); });
  CHECK(thread.wait_for([](causeway::Completion done) { done(std::nullopt, 42); }) == 42);
  CHECK_THROWS_AS(thread.wait_for([](causeway::Completion) {}), Error);  // Dropped unfinished.
}
