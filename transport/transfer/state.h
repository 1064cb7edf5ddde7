// What Rails and Transfer are inside.
//
// Shape:   a transfer: running -> done; it is done when it failed or has nothing left, and none of
//          its chunks is in flight. A rail: down -> connecting -> open -> down. transfer.cpp cuts
//          and counts chunks, dealing.cpp gives them to rails, rails.cpp opens, fences and loses
//          rails.
// Devices: a chunk whose memory is a device's gets a slot of pinned memory before it is dealt
//          (staging.cpp): a write's bytes are copied there ahead of the rails, a read's go on from
//          there once its rail is free again. So rails are measured without the device.
// Stale:   bytes are stale that a write has sent and given up: they may land until their channel is
//          fenced, and over anything that was written since. So a chunk goes again behind the fence
//          of the channel that lost it, and a write begins behind those of all writes before it.
// Threads: the io_context's.
#pragma once

#include <algorithm>
#include <deque>
#include <utility>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>

#include "transport/device/staging.h"
#include "transport/transfer/probe_turns.h"
#include "transport/transfer/rails.h"
#include "transport/transfer/transfer.h"

namespace causeway {

constexpr std::uint64_t kTransferChunkBytes = 1 << 20;

struct Chunk {
  std::size_t piece = 0;
  std::uint64_t offset_bytes = 0;
  std::uint64_t size_bytes = 0;
  PinnedMemory memory{};  // From its first start to its end.
  StagingSlotPtr slot{};  // Of memory of a device, likewise: where rails take and put the bytes.
  bool is_pinned = false;
  int attempts = 0;
  bool has_differed = false;
  std::optional<ChannelId> lost_with{};  // Goes again behind its fence.
};

struct Transfer::State : std::enable_shared_from_this<Transfer::State> {
  State(boost::asio::io_context& context, std::shared_ptr<Rails::State> owner, bool writes,
        std::vector<TransferPiece> list, PinLocal local, TransferOptions how);

  // What may be started now: peek() is its size, if has_work().
  [[nodiscard]] bool has_work() const noexcept;
  [[nodiscard]] std::uint64_t peek() const noexcept;
  [[nodiscard]] Chunk take();
  void put_back(Chunk chunk);

  // Of a transfer from or to a device: whether one more chunk may get in line for a slot. One at a
  // time, so that transfers take turns; and none has all the slots.
  [[nodiscard]] bool may_stage() const noexcept;
  [[nodiscard]] Chunk take_new();

  void begin();
  void fail(const Error& reason);  // The first one counts.
  void end_if_idle();
  [[nodiscard]] std::deque<Chunk>::const_iterator next_again() const noexcept;

  std::shared_ptr<Rails::State> rails;  // Null once done.
  const bool is_write;
  const std::uint64_t number;  // In the order of their begin.
  const TransferOptions options;
  std::vector<TransferPiece> pieces;
  PinLocal pin;
  std::uint64_t total_bytes = 0;
  std::uint64_t done_bytes = 0;
  std::uint64_t left_bytes = 0;  // Of what has not been started, or was lost.
  std::size_t next_piece = 0;    // Where the next chunk is cut from.
  std::uint64_t next_offset_bytes = 0;
  std::deque<Chunk> again;
  std::optional<StagingReport> staging;  // Once the first chunk was found to be a device's.
  StagingSlots::Place in_line;           // Of a chunk that waits for a slot.
  std::size_t staged = 0;                // Chunks with a slot or in line.
  std::uint64_t chunk_bytes = kTransferChunkBytes;
  std::size_t in_flight = 0;
  bool has_begun = false;  // A chunk was given to a rail.
  bool is_done = false;
  std::optional<Error> error;
  boost::asio::steady_timer deadline;
  boost::asio::steady_timer finished;  // Expires when it is done.
};

// A peer that stopped in order is as lost to a transfer as one that died.
[[nodiscard]] Error as_loss(const Error& error);

struct Rail {
  using Clock = std::chrono::steady_clock;
  enum class Phase : std::uint8_t { down, connecting, open };

  Rail(boost::asio::io_context& context, std::string to) : address(std::move(to)), pause(context) {}
  [[nodiscard]] bool is_usable() const noexcept {
    return phase == Phase::open && channel->is_open();
  }
  // A longer one has met a peer that does not answer: nothing waits for it.
  [[nodiscard]] bool is_in_short_slice() const noexcept {
    return is_usable() && is_probing && Clock::now() - slice_at < kSliceLimit;
  }
  void started(std::uint64_t bytes);
  void ended(std::uint64_t bytes, bool is_good);
  // Whether its rate, when it had enough to do, has halved for good since it was last asked, or is
  // twice what its probe took it for.
  [[nodiscard]] bool has_changed() noexcept;

  std::string address;
  Phase phase = Phase::down;
  bool is_dropped = false;  // Its address is the peer's no more.
  std::shared_ptr<Channel> channel;
  unsigned failures = 0;           // To connect, since it was last open or asked for.
  std::uint64_t tried_before = 0;  // The number of the first transfer after the last try's begin.
  boost::asio::steady_timer pause;
  std::uint64_t out_bytes = 0;
  std::size_t out_count = 0;
  Clock::time_point moved_at{};  // When it last ended something, or began after a rest.
  Clock::time_point busy_since{};
  // Of the sample that grows now.
  std::uint64_t sample_bytes = 0;
  Clock::duration sample_time{};
  double rate = 0;  // Bytes per second; 0: unknown.
  std::uint64_t sent_bytes = 0;
  std::uint64_t received_bytes = 0;
  std::uint64_t losses = 0;
  // Its settings.
  std::shared_ptr<Probe> probe;  // To be ended.
  std::optional<ProbeReport> report;
  std::uint64_t probes = 0;
  bool is_suspect = false;  // It fell silent: it takes no chunks before a slice has gone well.
  bool is_probing = false;  // A slice runs: it takes no chunks.
  bool makes_room = false;  // It takes none until a slice has run.
  int slices_in_row = 0;
  Clock::time_point slice_at{};
  double full_rate = 0;  // As `rate`, of samples that had enough to do.
  double best_full_rate = 0;
  int slow_samples = 0;
};

struct Rails::State : std::enable_shared_from_this<Rails::State> {
  using RailPtr = std::shared_ptr<Rail>;
  using TransferPtr = std::shared_ptr<Transfer::State>;
  State(boost::asio::io_context& io, std::string name, Connect open)
      : context(io), peer(std::move(name)), connect(std::move(open)), tick(io) {}

  // rails.cpp
  TransferPtr begin(bool is_write, std::vector<TransferPiece> pieces, PinLocal pin,
                    TransferOptions options);
  void set_addresses(const std::vector<std::string>& addresses);
  void stop();
  void open_rails();  // Those that are down, at once.
  void open_rail(const RailPtr& rail);
  void rail_opened(const RailPtr& rail, std::shared_ptr<Channel> channel);
  void rail_failed(const RailPtr& rail, const Error& reason);
  void rail_lost(const RailPtr& rail, const Error& reason);
  void be_another(std::uint64_t transport);
  void give_up_if_alone();
  void owe_fence(Channel& channel, const Transfer::State& transfer, const Error& reason);
  void pass_fences();
  void fence_answered(ChannelId id, const std::optional<Error>& error);
  [[nodiscard]] bool is_fenced(ChannelId id) const noexcept;
  [[nodiscard]] bool may_write(const Transfer::State& transfer) const noexcept;
  void start_tick();
  void close_silent_rails();

  // tuning.cpp
  void tune(const RailPtr& rail);  // That has just been opened.
  void probe_rails(bool is_idle);
  void make_room_for_probes();
  [[nodiscard]] ProbeTurns::Turn take_turn();
  void start_slice(const RailPtr& rail, ProbeTurns::Turn turn);
  void slice_ended(const RailPtr& rail, const std::shared_ptr<Probe>& probe, Channel& channel);
  void add_streams(Rail& rail);

  // dealing.cpp
  void deal();
  bool deal_chunks();  // False if there is work that no rail has room for.
  [[nodiscard]] RailPtr choose(std::uint64_t size_bytes, std::uint64_t left_bytes) const;
  [[nodiscard]] double rate_of(const Rail& rail) const;
  [[nodiscard]] bool has_room(const Rail& rail, std::uint64_t size_bytes) const;
  bool pin(Transfer::State& transfer, Chunk& chunk);
  void start(const RailPtr& rail, const TransferPtr& transfer);
  void landed(const RailPtr& rail, const std::shared_ptr<Channel>& channel,
              const TransferPtr& transfer, Chunk chunk, std::optional<Error> error);
  void verify(const RailPtr& rail, const std::shared_ptr<Channel>& channel,
              const TransferPtr& transfer, Chunk chunk);
  void verify_staged(const RailPtr& rail, const TransferPtr& transfer, Chunk chunk,
                     std::uint64_t theirs);
  [[nodiscard]] Error differs(const Transfer::State& transfer, const Chunk& chunk,
                              const Rail& rail) const;
  void ended(const TransferPtr& transfer, Chunk chunk, const std::optional<Error>& error);

  // staging.cpp
  void stage_ahead(const TransferPtr& transfer);
  void stage(const TransferPtr& transfer, Chunk chunk);
  void fill(const TransferPtr& transfer, Chunk chunk);
  void filled(const TransferPtr& transfer, Chunk chunk, const std::optional<Error>& error);

  template <typename Test>
  [[nodiscard]] bool any_rail(Test test) const {
    return std::any_of(rails.begin(), rails.end(),
                       [&](const RailPtr& rail) { return test(*rail); });
  }

  [[nodiscard]] bool has_usable_rail() const {
    return any_rail([](const Rail& rail) { return rail.is_usable(); });
  }
  // Whether a rail that is down is worth connecting.
  [[nodiscard]] bool is_wanted() const {
    return !is_stopped && (!transfers.empty() || has_usable_rail());
  }

  struct Fence {
    ChannelId id;
    std::uint64_t transfer;  // The number of the first one that it lost chunks of.
    bool is_asked = false;
    RailPtr by{};  // Over which.
  };

  boost::asio::io_context& context;
  const std::string peer;
  const Connect connect;
  std::vector<RailPtr> rails;
  std::deque<TransferPtr> transfers;  // In turns.
  std::vector<Fence> fences;          // Owed.
  std::uint64_t next_number = 1;
  std::uint64_t transport = 0;  // That the rails lead to; 0: none yet.
  std::optional<Error> last_loss;
  boost::asio::steady_timer tick;
  bool is_ticking = false;
  bool waits_for_turn = false;  // To probe.
  bool is_stopped = false;
};

}  // namespace causeway
