// Channels between processes and nodes, carried by UCX active messages.
//
// Shape:   one UCX worker per network interface in use, all on the io_context's thread, woken by
//          the worker's event fd: an idle transport burns no core. Small payloads travel inside the
//          message; large ones by rendezvous, straight from the caller's buffer into the pinned
//          target, cut into chunks with a window so that small messages pass between them.
// Listens: at exactly `listen`, with a worker for each address. UCX's own two ports, on the
// interface that owns that address, take
//          packets only from hosts that are being admitted (guard.h). UCX_* variables of the user's
//          environment win over what is chosen here.
// Errors:  make_ucx_transport() throws invalid_argument (malformed address), io (address in use or
//          not of this machine, UCX failed), unsupported (this UCX lacks what is needed).
//          An operation that reaches its deadline while UCX still holds its buffer is withdrawn at
//          the peer; a peer that does not let go within 500 ms loses the channel (see README.md).
// Cost:    loopback TCP: 20 to 50 us for a small operation, 0.9 of ucx_perftest for large writes.
// Threads: all of it on the io_context's thread, or before that runs. The io_context outlives the
//          transport and its channels; a channel may outlive the transport (it is closed then).
#pragma once

#include <memory>
#include <string>

#include "transport/channel.h"

namespace causeway {

struct UcxOptions {
  // "127.0.0.1:0", "[::1]:7000"; several with commas between; port 0 picks one; empty: none.
  std::string listen;
  std::string name;                // Told to those who connect; at most 255 bytes.
  DataService* service = nullptr;  // Outlives the transport. None: peers may only send and receive.
  Transport::Accepted on_accept;   // Keeps the channel: dropping the last reference closes it.
};

// The transport's address() is `listen` with the ports that were picked.
[[nodiscard]] std::unique_ptr<Transport> make_ucx_transport(boost::asio::io_context& context,
                                                            UcxOptions options);

}  // namespace causeway
