// Goal: UCX between two transports of one process is a channel like any other, on one thread and
//       on two.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "transport/ucx/ucx_transport.h"

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

}  // namespace

#define CHANNEL_BODIES UcxOneThread, UcxTwoThreads
#include "tests/conformance/channel_suite.h"
