// Which rail carries which chunk, and what becomes of it.
#include <fmt/format.h>

#include <algorithm>

#include "transport/checksum.h"
#include "transport/transfer/state.h"

namespace causeway {

namespace {

using namespace std::chrono_literals;
using Clock = Rail::Clock;

// What a rail may hold: as much as it moves in kWindowTime, so that its pipe is full and yet little
// is lost with it.
constexpr double kWindowSeconds = 0.020;
constexpr std::uint64_t kMinWindowBytes = 4 << 20;
constexpr std::uint64_t kMaxWindowBytes = 16 << 20;
constexpr std::size_t kWindowCount = 64;
constexpr auto kSample = 5ms;  // Of work, for one measurement of the rate.
constexpr double kNewWeight = 0.25;
constexpr std::uint64_t kEnoughBytes = 2 << 20;  // Under way: then the rail is the limit.
constexpr std::uint64_t kMaxDoubts = 3;
constexpr int kSlowSamples = 200;  // A second and more of work.
constexpr int kMaxAttempts = 8;    // Of one chunk.

double seconds(Clock::duration time) { return std::chrono::duration<double>(time).count(); }

// Ends that are the channel's or the rail's, so that another one may do better. What the peer's
// check refuses, it refuses on every rail.
bool is_of_rail(Errc code) {
  switch (code) {
    case Errc::peer_lost:
    case Errc::closed:
    case Errc::cancelled:
    case Errc::timed_out:
    case Errc::io:
    case Errc::protocol:
    case Errc::exhausted:
      return true;
    default:
      return false;
  }
}

RemoteAddress remote_of(const Transfer::State& transfer, const Chunk& chunk) {
  auto remote = transfer.pieces[chunk.piece].remote;
  remote.offset_bytes += chunk.offset_bytes;
  return remote;
}

}  // namespace

void Rail::started(std::uint64_t bytes) {
  if (out_count++ == 0) busy_since = moved_at = Clock::now();
  out_bytes += bytes;
}

void Rail::ended(std::uint64_t bytes, bool is_good) {
  const auto now = Clock::now();
  --out_count;
  out_bytes -= bytes;
  if (!is_good) return;
  moved_at = now;
  sample_bytes += bytes;
  sample_time += now - std::exchange(busy_since, now);
  if (sample_time < kSample) return;
  const auto sample = static_cast<double>(sample_bytes) / seconds(sample_time);
  rate = rate == 0 ? sample : rate + kNewWeight * (sample - rate);
  if (out_bytes >= kEnoughBytes) {
    full_rate = full_rate == 0 ? sample : full_rate + kNewWeight * (sample - full_rate);
    best_full_rate = std::max(best_full_rate, full_rate);
    slow_samples = full_rate < best_full_rate / 2 ? slow_samples + 1 : 0;
  }
  sample_bytes = 0;
  sample_time = {};
}

bool Rail::has_changed() noexcept {
  // Held for slow, in a moment in which something else had the processors.
  if (report && !report->is_far && report->trials.empty() && probes < kMaxDoubts &&
      full_rate > 2 * report->bytes_per_second)
    return true;
  if (slow_samples < kSlowSamples) return false;
  best_full_rate = full_rate;  // What is usual from now on.
  slow_samples = 0;
  return true;
}

// A rail that is not measured yet counts as much as the others do.
double Rails::State::rate_of(const Rail& rail) const {
  if (rail.rate > 0) return rail.rate;
  double sum = 0;
  int count = 0;
  for (const auto& other : rails)
    if (other->phase == Rail::Phase::open && other->rate > 0) sum += other->rate, ++count;
  return count == 0 ? 1e9 : sum / count;
}

bool Rails::State::has_room(const Rail& rail, std::uint64_t size_bytes) const {
  if (!rail.is_usable() || rail.is_in_short_slice()) return false;
  // Room is made for a slice that cannot begin before the one of another rail, which has no answer.
  const bool is_stuck = any_rail([](const Rail& other) {
    return other.is_usable() && other.is_probing && !other.is_in_short_slice();
  });
  if (rail.makes_room && !is_stuck) return false;
  if (rail.is_suspect &&
      any_rail([](const Rail& other) { return other.is_usable() && !other.is_suspect; }))
    return false;
  if (rail.out_count >= kWindowCount) return false;
  const auto window = std::clamp(static_cast<std::uint64_t>(rate_of(rail) * kWindowSeconds),
                                 kMinWindowBytes, kMaxWindowBytes);
  return rail.out_count == 0 || rail.out_bytes + size_bytes <= window;
}

// The rail that would end a chunk first, of those with room. None, if the others would have done
// all that is left before it: then they get it.
Rails::State::RailPtr Rails::State::choose(std::uint64_t size_bytes,
                                           std::uint64_t left_bytes) const {
  const auto end_on = [&](const Rail& rail) {
    return static_cast<double>(rail.out_bytes + size_bytes) / rate_of(rail);
  };
  RailPtr best;
  for (const auto& rail : rails)
    if (has_room(*rail, size_bytes) && (!best || end_on(*rail) < end_on(*best))) best = rail;
  if (!best) return nullptr;
  double others_rate = 0, others_bytes = static_cast<double>(left_bytes);
  for (const auto& rail : rails) {
    if (rail == best || !rail->is_usable() || rail->out_count == 0) continue;
    // One that has been silent for long by its own measure is not waited for.
    const auto silence = seconds(Clock::now() - rail->moved_at);
    if (silence > 0.1 + 4 * static_cast<double>(rail->out_bytes) / rate_of(*rail)) continue;
    others_rate += rate_of(*rail);
    others_bytes += static_cast<double>(rail->out_bytes);
  }
  return others_rate > 0 && end_on(*best) > others_bytes / others_rate ? nullptr : best;
}

void Rails::State::deal() {
  const bool is_idle = deal_chunks();
  probe_rails(is_idle);
}

bool Rails::State::deal_chunks() {
  for (std::size_t i = 0; i < transfers.size(); ++i) {
    if (!transfers[i]->may_stage()) continue;
    const auto before = transfers.size();
    stage_ahead(TransferPtr(transfers[i]));
    if (transfers.size() < before) --i;  // It has failed, and is none of them any more.
  }
  std::uint64_t left_bytes = 0;
  for (const auto& transfer : transfers) left_bytes += transfer->left_bytes;
  for (std::size_t idle = 0; idle < transfers.size();) {
    const auto transfer = transfers.front();
    std::rotate(transfers.begin(), transfers.begin() + 1, transfers.end());
    if (!transfer->has_work()) {
      ++idle;
      continue;
    }
    const auto size_bytes = transfer->peek();
    const auto rail = choose(size_bytes, left_bytes);
    if (!rail) return false;
    left_bytes -= std::min(left_bytes, size_bytes);
    idle = 0;
    start(rail, transfer);
  }
  return true;
}

// This side's memory of a chunk; false: the transfer has failed.
bool Rails::State::pin(Transfer::State& transfer, Chunk& chunk) {
  try {
    chunk.memory = transfer.pin(chunk.piece, chunk.offset_bytes, chunk.size_bytes);
    if (chunk.memory.bytes.size() != chunk.size_bytes)
      throw Error(Errc::internal, fmt::format("{} bytes were pinned instead of {}",
                                              chunk.memory.bytes.size(), chunk.size_bytes));
    chunk.is_pinned = true;
    return true;
  } catch (const Error& error) {
    transfer.fail(error);
  } catch (const std::exception& error) {
    transfer.fail(Error(Errc::internal, error.what()));
  }
  return false;
}

void Rails::State::start(const RailPtr& rail, const TransferPtr& transfer) {
  auto chunk = transfer->take();
  if (!chunk.is_pinned && !pin(*transfer, chunk)) return;
  if (chunk.memory.device != nullptr && !chunk.slot) return stage(transfer, std::move(chunk));
  ++chunk.attempts;
  transfer->has_begun = true;
  ++transfer->in_flight;
  rail->started(chunk.size_bytes);
  const auto channel = rail->channel;
  const auto bytes = chunk.slot ? chunk.slot->bytes().first(chunk.size_bytes) : chunk.memory.bytes;
  const auto remote = remote_of(*transfer, chunk);
  const auto deadline = transfer->options.deadline;
  auto done = [self = shared_from_this(), rail, channel, transfer, chunk = std::move(chunk)](
                  std::optional<Error> error, std::uint64_t) mutable {
    self->landed(rail, channel, transfer, std::move(chunk), std::move(error));
  };
  if (transfer->is_write)
    channel->write(remote, bytes, deadline, std::move(done));
  else
    channel->read(bytes, remote, deadline, std::move(done));
}

void Rails::State::landed(const RailPtr& rail, const std::shared_ptr<Channel>& channel,
                          const TransferPtr& transfer, Chunk chunk, std::optional<Error> error) {
  rail->ended(chunk.size_bytes, !error);
  if (!error) (transfer->is_write ? rail->sent_bytes : rail->received_bytes) += chunk.size_bytes;
  // Without an answer it may land at any time, whatever its transfer does.
  if (error && transfer->is_write && is_of_rail(error->code())) {
    owe_fence(*channel, *transfer, *error);
    chunk.lost_with = channel->id();
    pass_fences();
  }
  if (error || transfer->error) return ended(transfer, std::move(chunk), error);
  if (!chunk.slot || transfer->is_write) return verify(rail, channel, transfer, std::move(chunk));
  // A read has landed when its bytes are on the device.
  auto& device = *chunk.memory.device;
  auto* const to = chunk.memory.bytes.data();
  const auto slot = chunk.slot;
  const auto size_bytes = chunk.size_bytes;
  device.copy_in(to, slot, size_bytes,
                 [self = shared_from_this(), rail, channel, transfer,
                  chunk = std::move(chunk)](const std::optional<Error>& failed) mutable {
                   if (failed) return self->ended(transfer, std::move(chunk), failed);
                   self->verify(rail, channel, transfer, std::move(chunk));
                 });
  deal();  // The rail has room meanwhile.
}

// If that is asked for. What this side compares is read from its memory anew, wherever that is.
void Rails::State::verify(const RailPtr& rail, const std::shared_ptr<Channel>& channel,
                          const TransferPtr& transfer, Chunk chunk) {
  if (transfer->error || !transfer->options.verify)
    return ended(transfer, std::move(chunk), std::nullopt);
  const auto remote = remote_of(*transfer, chunk);
  const auto size_bytes = chunk.size_bytes;
  channel->checksum(remote, size_bytes, transfer->options.deadline,
                    [self = shared_from_this(), rail, transfer, chunk = std::move(chunk)](
                        std::optional<Error> failed, std::uint64_t sum) mutable {
                      if (!failed && chunk.slot)
                        return self->verify_staged(rail, transfer, std::move(chunk), sum);
                      if (!failed && sum != checksum_of(chunk.memory.bytes))
                        failed = self->differs(*transfer, chunk, *rail);
                      self->ended(transfer, std::move(chunk), failed);
                    });
}

void Rails::State::verify_staged(const RailPtr& rail, const TransferPtr& transfer, Chunk chunk,
                                 std::uint64_t theirs) {
  auto& device = *chunk.memory.device;
  const auto slot = chunk.slot;
  const auto memory = chunk.memory.bytes;
  device.sum(slot, memory.data(), memory.size(),
             [self = shared_from_this(), rail, transfer, chunk = std::move(chunk), theirs](
                 std::optional<Error> failed, std::uint64_t ours) mutable {
               if (!failed && ours != theirs) failed = self->differs(*transfer, chunk, *rail);
               self->ended(transfer, std::move(chunk), failed);
             });
}

Error Rails::State::differs(const Transfer::State& transfer, const Chunk& chunk,
                            const Rail& rail) const {
  const auto at = remote_of(transfer, chunk);
  return {Errc::corrupted,
          fmt::format("{} bytes at {} of region {:x} of {} differ from those here, "
                      "after their way over {}",
                      chunk.size_bytes, at.offset_bytes, at.region, peer, rail.address)};
}

void Rails::State::ended(const TransferPtr& transfer, Chunk chunk,
                         const std::optional<Error>& error) {
  --transfer->in_flight;
  if (!error) {
    transfer->done_bytes += chunk.size_bytes;
    if (std::exchange(chunk.slot, nullptr)) --transfer->staged;
  } else if (!transfer->error) {
    const bool has_time = Clock::now() < transfer->options.deadline;
    // This side has closed the channel, for another transfer that was late: no fault of the
    // chunk's.
    if (error->code() == Errc::timed_out && has_time) --chunk.attempts;
    const bool may_retry = error->code() == Errc::corrupted
                               ? !std::exchange(chunk.has_differed, true)
                               : is_of_rail(error->code()) && chunk.attempts < kMaxAttempts;
    if (may_retry && has_time)
      transfer->put_back(std::move(chunk));
    else
      transfer->fail(as_loss(*error));
  }
  transfer->end_if_idle();
  deal();
}

}  // namespace causeway
