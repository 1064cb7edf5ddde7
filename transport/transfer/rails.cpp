#include "transport/transfer/rails.h"

#include <fmt/format.h>

#include <boost/asio/post.hpp>

#include "transport/transfer/state.h"

namespace causeway {

namespace {

using namespace std::chrono_literals;
using Clock = Rail::Clock;

constexpr auto kConnect = 2s;
constexpr auto kFirstPause = 50ms;
constexpr auto kLastPause = 5s;
constexpr unsigned kMaxDoublings = 7;
constexpr auto kFence = 500ms;  // For one try.
constexpr auto kTick = 100ms;
constexpr double kSilentSeconds = 1.0;

std::byte* address_of(std::span<const std::byte> bytes) {
  return const_cast<std::byte*>(bytes.data());  // A write only reads what it pins.
}

PinLocal pin_whole(std::span<std::byte> bytes, std::shared_ptr<const void> pin) {
  return [bytes, pin = std::move(pin)](std::size_t, std::uint64_t offset, std::uint64_t size) {
    return PinnedMemory{bytes.subspan(offset, size), pin};
  };
}

}  // namespace

Error as_loss(const Error& error) {
  const bool left = error.code() == Errc::closed || error.code() == Errc::cancelled;
  return {left ? Errc::peer_lost : error.code(), error.what()};
}

Rails::Rails(boost::asio::io_context& context, std::string peer, Connect connect)
    : state_(std::make_shared<State>(context, std::move(peer), std::move(connect))) {}

Rails::~Rails() { state_->stop(); }

void Rails::set_addresses(const std::vector<std::string>& addresses) {
  state_->set_addresses(addresses);
}

bool Rails::is_open() const noexcept { return state_->has_usable_rail(); }

std::vector<Rails::Status> Rails::status() const {
  std::vector<Status> list;
  for (const auto& rail : state_->rails) {
    auto known = std::ranges::find(list, rail->address, &Status::address);
    if (known == list.end()) known = list.insert(known, Status{.address = rail->address});
    known->is_open |= rail->is_usable();
    known->channels += rail->is_usable() ? 1 : 0;
    known->sent_bytes += rail->sent_bytes;
    known->received_bytes += rail->received_bytes;
    known->bytes_per_second += rail->rate;
    known->losses += rail->losses;
    known->probes += rail->probes;
    if (!known->probe && rail->report) {
      known->probe = rail->report;
      known->settings = rail->report->settings;
    }
  }
  return list;
}

Transfer Rails::write(std::vector<TransferPiece> pieces, PinLocal source, TransferOptions options) {
  return Transfer(state_->begin(true, std::move(pieces), std::move(source), std::move(options)));
}

Transfer Rails::read(std::vector<TransferPiece> pieces, PinLocal target, TransferOptions options) {
  return Transfer(state_->begin(false, std::move(pieces), std::move(target), std::move(options)));
}

Transfer Rails::write(RemoteAddress to, std::span<const std::byte> source,
                      std::shared_ptr<const void> pin, TransferOptions options) {
  return write({{to, source.size()}},
               pin_whole({address_of(source), source.size()}, std::move(pin)), std::move(options));
}

Transfer Rails::read(std::span<std::byte> target, RemoteAddress from,
                     std::shared_ptr<const void> pin, TransferOptions options) {
  return read({{from, target.size()}}, pin_whole(target, std::move(pin)), std::move(options));
}

Rails::State::TransferPtr Rails::State::begin(bool is_write, std::vector<TransferPiece> pieces,
                                              PinLocal pin, TransferOptions options) {
  const auto transfer = std::make_shared<Transfer::State>(
      context, shared_from_this(), is_write, std::move(pieces), std::move(pin), std::move(options));
  transfers.push_back(transfer);
  if (rails.empty())
    transfer->fail(Error(Errc::peer_lost, "no address of " + peer + " is known"));
  else if (transfer->options.deadline <= Clock::now())
    transfer->fail(Error(Errc::timed_out,
                         "the deadline had passed before the transfer with " + peer + " began"));
  transfer->begin();
  transfer->end_if_idle();  // Of nothing.
  if (!has_usable_rail()) open_rails();
  start_tick();
  deal();
  return transfer;
}

void Rails::State::set_addresses(const std::vector<std::string>& addresses) {
  std::vector<RailPtr> wanted;
  for (const auto& address : addresses) {
    const auto before = wanted.size();
    std::ranges::copy_if(rails, std::back_inserter(wanted),
                         [&](const RailPtr& rail) { return rail->address == address; });
    if (wanted.size() == before) wanted.push_back(std::make_shared<Rail>(context, address));
  }
  for (const auto& rail : rails) {
    if (std::ranges::find(wanted, rail) != wanted.end()) continue;
    rail->is_dropped = true;
    rail->pause.cancel();
    if (rail->channel)
      rail->channel->close(
          Error(Errc::closed, rail->address + " is no address of the peer any more"));
  }
  rails = std::move(wanted);
  if (is_wanted()) open_rails();
}

void Rails::State::stop() {
  is_stopped = true;
  tick.cancel();
  const Error reason(Errc::cancelled, "the rails to " + peer + " were destroyed");
  for (const auto& transfer : std::deque(transfers)) transfer->fail(reason);
  for (const auto& rail : rails) {
    rail->pause.cancel();
    if (rail->channel) rail->channel->close(reason);
  }
}

void Rails::State::open_rails() {
  for (const auto& rail : std::vector(rails)) {
    if (rail->phase == Rail::Phase::open) continue;
    rail->failures = 0;
    if (rail->phase == Rail::Phase::down) open_rail(rail);
  }
}

void Rails::State::open_rail(const RailPtr& rail) {
  rail->phase = Rail::Phase::connecting;
  rail->tried_before = next_number;
  rail->pause.cancel();
  connect(rail->address, Clock::now() + kConnect,
          [weak = weak_from_this(), rail](std::optional<Error> error,
                                          std::shared_ptr<Channel> channel) {
            const auto self = weak.lock();
            if (!self || self->is_stopped || rail->is_dropped) return;
            if (error) return self->rail_failed(rail, *error);
            self->rail_opened(rail, std::move(channel));
          });
}

void Rails::State::rail_opened(const RailPtr& rail, std::shared_ptr<Channel> channel) {
  const auto leads_to = channel->id().transport;
  if (leads_to != transport) {
    // Two processes at two addresses of one peer cannot both be the peer.
    if (has_usable_rail())
      return rail_failed(
          rail, Error(Errc::peer_lost, rail->address + " leads to another process than " + peer +
                                           "'s other addresses"));
    be_another(leads_to);
  }
  const bool is_first = !has_usable_rail();
  rail->phase = Rail::Phase::open;
  rail->channel = std::move(channel);
  rail->failures = 0;
  rail->channel->on_close([weak = weak_from_this(), rail](const Error& reason) {
    if (const auto self = weak.lock()) self->rail_lost(rail, reason);
  });
  tune(rail);
  if (is_first) open_rails();  // Those that were not worth another try while nobody waited.
  pass_fences();
  deal();
}

// What had begun with the process before cannot be ended with this one; nor does it matter any more
// what lands in that one's memory.
void Rails::State::be_another(std::uint64_t leads_to) {
  transport = leads_to;
  fences.clear();
  for (const auto& rail : rails) rail->report.reset();
  const Error reason(Errc::peer_lost, peer + " is another process now");
  for (const auto& transfer : std::deque(transfers))
    if (transfer->has_begun) transfer->fail(reason);
}

void Rails::State::rail_failed(const RailPtr& rail, const Error& reason) {
  rail->phase = Rail::Phase::down;
  last_loss = reason;
  const auto pause = std::min<Clock::duration>(
      kFirstPause * (1 << std::min(rail->failures, kMaxDoublings)), kLastPause);
  ++rail->failures;
  give_up_if_alone();
  if (!is_wanted()) return;  // The next transfer asks again.
  rail->pause.expires_after(pause);
  rail->pause.async_wait([weak = weak_from_this(), rail](const boost::system::error_code& stopped) {
    const auto self = weak.lock();
    if (!stopped && self && rail->phase == Rail::Phase::down && self->is_wanted())
      self->open_rail(rail);
  });
}

void Rails::State::rail_lost(const RailPtr& rail, const Error& reason) {
  rail->phase = Rail::Phase::down;
  rail->is_probing = rail->makes_room = false;
  ++rail->losses;
  last_loss = reason;
  // Not destroyed inside of its own callback.
  boost::asio::post(context, [channel = std::exchange(rail->channel, nullptr)] {});
  for (auto& fence : fences) fence.is_asked = fence.is_asked && fence.by != rail;
  if (is_stopped || rail->is_dropped) return;
  rail->failures = 0;
  if (!is_wanted()) return;
  if (has_usable_rail())
    open_rail(rail);
  else
    open_rails();  // Those in a pause, too: now they are waited for.
  pass_fences();
}

// No rail lives, and each was tried since: the peer is gone. A transfer that began while one was
// being tried has a try of its own: what that one met may be over.
void Rails::State::give_up_if_alone() {
  if (any_rail(
          [](const Rail& rail) { return rail.phase != Rail::Phase::down || rail.failures == 0; }))
    return;
  const auto loss = as_loss(*last_loss);
  const Error reason(loss.code(), fmt::format("{} cannot be reached: {}", peer, loss.what()));
  for (const auto& transfer : std::deque(transfers))
    if (!any_rail([&](const Rail& rail) { return rail.tried_before <= transfer->number; }))
      transfer->fail(reason);
}

// For a channel with a chunk that was never answered. An open one is closed: only the end of a
// channel tells the end of what it carries.
void Rails::State::owe_fence(Channel& channel, const Transfer::State& transfer,
                             const Error& reason) {
  const auto id = channel.id();
  if (id.transport != transport) return;
  const auto owed = std::ranges::find(fences, id, &Fence::id);
  if (owed == fences.end())
    fences.push_back({id, transfer.number});
  else
    owed->transfer = std::min(owed->transfer, transfer.number);
  if (channel.is_open()) channel.close(reason);
}

bool Rails::State::is_fenced(ChannelId id) const noexcept {
  return std::ranges::find(fences, id, &Fence::id) == fences.end();
}

// Whether nothing that is given up of the writes before this one may still land.
bool Rails::State::may_write(const Transfer::State& transfer) const noexcept {
  return std::ranges::none_of(
             fences, [&](const Fence& fence) { return fence.transfer < transfer.number; }) &&
         std::ranges::none_of(transfers, [&](const TransferPtr& other) {
           return other->is_write && other->error && other->number < transfer.number;
         });
}

void Rails::State::pass_fences() {
  for (auto& fence : fences) {
    if (fence.is_asked) continue;
    // Another one than the last time, if there is one.
    RailPtr by;
    for (const auto& rail : rails)
      if (rail->is_usable() && rail->channel->id() != fence.id && (!by || by == fence.by))
        by = rail;
    if (!by) return;
    fence.is_asked = true;
    fence.by = by;
    by->channel->fence(
        fence.id, Clock::now() + kFence,
        [weak = weak_from_this(), id = fence.id](const std::optional<Error>& error, std::uint64_t) {
          if (const auto self = weak.lock()) self->fence_answered(id, error);
        });
  }
}

void Rails::State::fence_answered(ChannelId id, const std::optional<Error>& error) {
  const auto fence = std::ranges::find(fences, id, &Fence::id);
  if (fence == fences.end()) return;
  if (error) {
    fence->is_asked = false;  // The tick asks again.
    return;
  }
  fences.erase(fence);
  deal();
}

void Rails::State::start_tick() {
  if (is_ticking || transfers.empty()) return;
  is_ticking = true;
  tick.expires_after(kTick);
  tick.async_wait([weak = weak_from_this()](const boost::system::error_code& stopped) {
    const auto self = weak.lock();
    if (!self) return;
    self->is_ticking = false;
    if (stopped || self->is_stopped) return;
    self->close_silent_rails();
    self->make_room_for_probes();
    self->pass_fences();
    self->deal();
    self->start_tick();
  });
}

// A rail that has stopped while another one moves is at fault itself. If none moves, it is the
// peer: then deadlines decide.
void Rails::State::close_silent_rails() {
  const auto now = Clock::now();
  const auto silence = [&](const Rail& rail) {
    return std::chrono::duration<double>(now - rail.moved_at).count();
  };
  for (const auto& rail : std::vector(rails)) {
    if (!rail->is_usable() || rail->out_count == 0) continue;
    const auto limit =
        std::max(kSilentSeconds, 4 * static_cast<double>(rail->out_bytes) / rate_of(*rail));
    const bool others_move = any_rail([&](const Rail& other) {
      return &other != rail.get() && other.is_usable() && other.moved_at > rail->moved_at;
    });
    if (silence(*rail) <= limit || !others_move) continue;
    rail->is_suspect = true;
    rail->channel->close(
        Error(Errc::timed_out, fmt::format("{} moved nothing for {:.1f} s, while {} moves on "
                                           "another rail",
                                           rail->address, silence(*rail), peer)));
  }
}

}  // namespace causeway
