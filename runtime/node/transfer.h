// Executes a batch of copies from this node to another, from another to this, or within it.
//
// Shape:   between nodes, one Transfer over the rails to the other; memory is pinned chunk by
// chunk,
//          so a session that ends in mid-copy ends the copy. Within the node, pieces are cut into
//          slices of 4 MiB, and the daemon answers others between two; bytes of GPUs go by a
//          GpuCopier, which holds up nobody.
// Errors:  the first chunk that fails ends the batch: no new one starts, those in flight end, and
//          the error is the result. Cancelled, the batch ends at once; what is in flight ends by
//          itself and keeps its memory until then.
// Cost:    one message per chunk and direction.
// Threads: the daemon's one thread.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/node/gpu_copier.h"
#include "transport/transfer/rails.h"

namespace causeway {

struct CopyRequest {
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

// `rails` lead to the other node; null for Kind::within. `copier`: null if this node has no memory
// of GPUs. Returns the bytes copied.
[[nodiscard]] boost::asio::awaitable<std::uint64_t> run_copy(boost::asio::io_context& context,
                                                             Lender& lender, CopyRequest request,
                                                             Rails* rails, GpuCopier* copier);

}  // namespace causeway
