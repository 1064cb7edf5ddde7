// How the two ends of a channel find that they can share memory, and come to do so.
//
// Shape:   both ends call it at once when the channel has opened, before any other message.
//          The connecting end makes the segment, in which lies a secret: the other proves by it
//          that it has the same memory before it is believed which pipe to ring at.
// Errors:  those of the channel; protocol if the peer says what makes no sense. That memory cannot
//          be shared is no error.
// Cost:    a message each way; three more if the hosts are the same.
// Threads: the io_context's.
#pragma once

#include <optional>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/awaitable.hpp>
#include <utility>

#include "transport/shm/wire.h"

namespace causeway::shm {

struct Acquaintance {
  Wire::Setup wire;
  UniqueFd process;  // The peer's (host.h), or none: that is this one.
};

struct Introduction {
  bool connecting;  // This end opened the channel.
  bool has_room;    // For one more to share memory.
  std::uint64_t island;
  std::size_t ring_bytes;
  Deadline deadline;
};

[[nodiscard]] boost::asio::awaitable<std::optional<Acquaintance>> acquaint(
    std::shared_ptr<Port> port, std::shared_ptr<Channel> channel, Introduction introduction);

}  // namespace causeway::shm
