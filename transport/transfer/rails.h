// One peer, reached by several channels at once: one per pair of network interfaces.
//
// Shape:   a Rail is an address of the peer and the channel to it. Chunks of all transfers are
// dealt
//          chunk by chunk, to the rail that would end it first by its measured rate; a rail that
//          could not end it before the others have done the rest gets none. A rail that ends is
//          connected again in the background, with growing pauses, as long as another one lives or
//          a transfer waits; its unfinished chunks go by the others.
// Streams: each rail is probed (probe.h) when it is new and nothing else moves, or a few slices a
//          second if something always does, and again when its rate has halved for good. A rail
//          that is too far for one stream becomes several rails of the same address.
// Fences:  a chunk that was written over a lost rail may still be under way, and land over what was
//          written since. So it goes again, and a later write begins, only when the peer has
//          confirmed over a living rail that the lost channel is closed at its side and nothing of
//          it is in the air (Channel::fence). A channel with a chunk that had no answer at its
//          transfer's deadline is closed and counts as lost.
// Errors:  as transfer.h. A peer that comes back as another process (another transport) ends the
//          transfers that had begun, with peer_lost.
// Cost:    one timer per transfer, and one tick in 100 ms while transfers run.
// Threads: the io_context's, which outlives this.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "transport/channel.h"
#include "transport/transfer/probe.h"
#include "transport/transfer/transfer.h"

namespace causeway {

class Rails {
 public:
  // Opens a channel to one of the peer's addresses. Called on the io_context's thread.
  using Connect = std::function<void(const std::string& address, Deadline deadline,
                                     Transport::Connected connected)>;
  struct Status {  // Of all channels to one address.
    std::string address;
    bool is_open = false;
    std::size_t channels = 0;      // That are open.
    std::uint64_t sent_bytes = 0;  // Of transfers' chunks that were answered.
    std::uint64_t received_bytes = 0;
    double bytes_per_second = 0;  // Measured while it was busy; 0: not yet.
    std::uint64_t losses = 0;     // Channels that ended.
    std::uint64_t probes = 0;     // That ended.
    LinkSettings settings{};
    std::optional<ProbeReport> probe{};  // The last one, which chose them.
  };
  struct State;  // state.h

  // `peer` is for messages. Connects when the first transfer begins.
  Rails(boost::asio::io_context& context, std::string peer, Connect connect);
  ~Rails();  // Transfers end with cancelled.
  Rails(const Rails&) = delete;
  Rails& operator=(const Rails&) = delete;

  // Keeps the rails whose address stays.
  void set_addresses(const std::vector<std::string>& addresses);
  [[nodiscard]] bool is_open() const noexcept;  // Whether any rail is.
  [[nodiscard]] std::vector<Status> status() const;

  [[nodiscard]] Transfer write(std::vector<TransferPiece> pieces, PinLocal source,
                               TransferOptions options);
  [[nodiscard]] Transfer read(std::vector<TransferPiece> pieces, PinLocal target,
                              TransferOptions options);

  // One piece, whose memory lives as long as `pin`.
  [[nodiscard]] Transfer write(RemoteAddress to, std::span<const std::byte> source,
                               std::shared_ptr<const void> pin, TransferOptions options);
  [[nodiscard]] Transfer read(std::span<std::byte> target, RemoteAddress from,
                              std::shared_ptr<const void> pin, TransferOptions options);

 private:
  std::shared_ptr<State> state_;
};

}  // namespace causeway
