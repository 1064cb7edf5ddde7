// Opens Asio's sockets closed on exec: a program that this process starts must not keep its
// connections and ports open when it is gone. Asio itself opens them without.
//
// Errors:  in `failed`, as Asio's open().
#pragma once

#include <sys/socket.h>

#include <boost/asio/error.hpp>
#include <boost/system/error_code.hpp>
#include <cerrno>

#include "allocator/unique_fd.h"

namespace causeway {

// `socket` is an acceptor, too. Asio opens none that is open, so it does not replace this one.
template <typename Socket>
void open_socket(Socket& socket, const typename Socket::protocol_type& protocol,
                 boost::system::error_code& failed) {
  UniqueFd fd(::socket(protocol.family(), protocol.type() | SOCK_CLOEXEC, protocol.protocol()));
  if (!fd) {
    failed.assign(errno, boost::asio::error::get_system_category());
    return;
  }
  socket.assign(protocol, fd.get(), failed);
  if (!failed) static_cast<void>(fd.release());
}

}  // namespace causeway
