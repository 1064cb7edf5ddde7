// The calling side of the control plane for a daemon: never blocks its thread.
//
// Shape:   one request per connection; the connection can be kept to watch for its end.
// Errors:  as ControlClient.
// Threads: the thread of the io_context.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <chrono>
#include <string>

namespace causeway {

struct PeerAddress {
  std::string name;     // For errors: "hgx".
  std::string address;  // HOST:PORT
  std::string token;
};

// The answer's body. If `keep` is given, the open connection is left there.
[[nodiscard]] boost::asio::awaitable<std::string> call_peer(
    PeerAddress peer, std::string method, std::string path, std::string body,
    std::chrono::milliseconds timeout, boost::asio::ip::tcp::socket* keep = nullptr);

}  // namespace causeway
