// Channels between transports of one process: a check by the peer's DataService and a memcpy.
//
// Shape:   a LocalNetwork knows its transports by address ("local:NAME"); all of them live on its
//          io_context. There is no hidden global network.
// Errors:  as channel.h; make_local_transport() throws already_exists if the address is taken.
// Cost:    one memcpy and one turn of the io_context per operation.
// Threads: all of it on the io_context's thread, or before that runs; the io_context outlives all.
#pragma once

#include <memory>
#include <string>

#include "transport/channel.h"

namespace causeway {

class LocalNetwork {
 public:
  explicit LocalNetwork(boost::asio::io_context& context);
  ~LocalNetwork();  // After its transports are gone, or before: they keep what they need.
  LocalNetwork(const LocalNetwork&) = delete;
  LocalNetwork& operator=(const LocalNetwork&) = delete;

  struct State;
  [[nodiscard]] const std::shared_ptr<State>& state() const noexcept { return state_; }

 private:
  std::shared_ptr<State> state_;
};

struct LocalOptions {
  bool listens = true;             // At "local:NAME".
  std::string name;                // At most 255 bytes.
  DataService* service = nullptr;  // Outlives the transport. None: peers may only send and receive.
  Transport::Accepted on_accept;   // Keeps the channel: dropping the last reference closes it.
};

[[nodiscard]] std::unique_ptr<Transport> make_local_transport(LocalNetwork& network,
                                                              LocalOptions options);

}  // namespace causeway
