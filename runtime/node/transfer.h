// Executes a batch of copies from this node to another, from another to this, or within it.
//
// Shape:   pieces are cut into slices of 4 MiB, started in order and kept in flight together, at
//          most kWindow of them. Within the node, the daemon answers others between two slices.
// Errors:  the first slice that fails ends the batch: no new one starts, those in flight end, and
//          the error is the result. Every slice has the batch's deadline. Cancelled, the batch ends
//          at once; the slices in flight end by themselves and keep their memory until then.
// Cost:    one message per slice and direction.
// Threads: the daemon's one thread.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/node/lender.h"
#include "transport/channel.h"

namespace causeway {

struct Transfer {
  enum class Kind : std::uint8_t { push, pull, within };
  struct Piece {
    std::uint64_t to_offset_bytes;
    std::uint64_t from_offset_bytes;
    std::uint64_t size_bytes;
  };
  Kind kind;
  SessionId session;
  RegionId from;
  RegionId to;
  std::vector<Piece> pieces;
  Deadline deadline;
};

// `channel` leads to the other node; null for Kind::within. Returns the bytes copied.
[[nodiscard]] boost::asio::awaitable<std::uint64_t> run_transfer(boost::asio::io_context& context,
                                                                 Lender& lender, Transfer transfer,
                                                                 std::shared_ptr<Channel> channel);

}  // namespace causeway
