// Channels whose messages go through shared memory where both ends are on one host.
//
// Shape:   a Transport over another one, which makes the acquaintance and carries writes, reads,
//          checksums and fences. When a channel opens, both ends say where they are; if that is one
//          host, user, pid namespace and island, send() and receive() go through a segment of their
//          own from then on. Both ends of a channel have to be of such a transport.
// Errors:  as the transport below. That memory cannot be shared is no error: then messages go that
//          way, too. A peer that writes nonsense into the segment loses this channel (protocol) and
//          can spoil nothing but the bytes of its own messages. A peer whose process ends is
//          peer_lost within milliseconds, also where a child of it still holds its sockets.
// Cost:    for each channel three messages when it opens, 2 * ring_bytes of memory at each end, two
//          descriptors. What messages cost: wire.h.
// Threads: all of it on the io_context's thread, which outlives it.
#pragma once

#include <functional>
#include <memory>

#include "transport/channel.h"

namespace causeway {

struct SharingOptions {
  std::uint64_t island = 0;         // Ends of different ones share nothing.
  Transport::Accepted on_accept{};  // Keeps the channel: dropping the last reference closes it.
  std::size_t ring_bytes = std::size_t{512} * 1024;  // A power of two, 256 KiB to 16 MiB.
};

// `make` makes the transport below, with the on_accept that it is given.
// Errors: invalid_argument, io (no descriptors), and those of `make`.
[[nodiscard]] std::unique_ptr<Transport> make_sharing_transport(
    boost::asio::io_context& context, SharingOptions options,
    const std::function<std::unique_ptr<Transport>(Transport::Accepted)>& make);

// Whether a channel's messages go through shared memory.
[[nodiscard]] bool shares_memory(const Channel& channel) noexcept;

}  // namespace causeway
