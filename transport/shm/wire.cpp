#include "transport/shm/wire.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace causeway::shm {

namespace {

using Kind = Record::Kind;

constexpr std::size_t kPage = 4096;
constexpr std::size_t kSecretAt = 2 * sizeof(RingEnd);
// How much of the other side's is taken before this side's own goes on.
constexpr std::uint64_t kTurnBytes = Ring::kMaxPayload;

RingEnd& end_of(const SharedSegment& segment, bool first) {
  return reinterpret_cast<RingEnd*>(segment.bytes().data())[first ? 0 : 1];
}

std::span<std::byte> ring_of(const SharedSegment& segment, std::size_t ring_bytes, bool first) {
  return segment.bytes().subspan(kPage + (first ? 0 : ring_bytes), ring_bytes);
}

}  // namespace

std::size_t Wire::segment_bytes(std::size_t ring_bytes) noexcept { return kPage + 2 * ring_bytes; }

std::span<std::byte> Wire::secret_of(const SharedSegment& segment) noexcept {
  return segment.bytes().first(kPage).subspan(kSecretAt);
}

Wire::Wire(std::shared_ptr<Port> port, Setup setup)
    : port_(std::move(port)),
      segment_(std::move(setup.segment)),
      bell_(std::move(setup.bell)),
      peer_(std::move(setup.peer)),
      broken_(std::move(setup.broken)),
      place_(std::move(setup.place)),
      own_(end_of(segment_, setup.is_first)),
      theirs_(end_of(segment_, !setup.is_first)),
      writer_(ring_of(segment_, setup.ring_bytes, setup.is_first), own_, theirs_),
      reader_(ring_of(segment_, setup.ring_bytes, !setup.is_first), own_, theirs_) {
  static_assert(kSecretAt < kPage);
  port_->add(*this);
}

Wire::~Wire() {
  port_->count_held(0 - held_bytes_);  // What nobody took.
  port_->remove(*this);
}

bool Wire::refuse(Deadline deadline, Completion& done) {
  if (ended_)
    port_->finish(
        std::move(done),
        Error(Errc::closed, fmt::format("the channel to {} is closed: {}", peer_, ended_->what())),
        0);
  else if (deadline <= std::chrono::steady_clock::now())
    port_->finish(
        std::move(done),
        Error(Errc::timed_out,
              fmt::format("the deadline had passed before the request to {} began", peer_)),
        0);
  else
    return false;
  return true;
}

void Wire::send(std::uint64_t tag, std::span<const std::byte> message, Deadline deadline,
                Completion done) {
  if (refuse(deadline, done)) return;
  const auto number = next_number_++;
  const bool may_go = message.size() <= kEagerBytes && !has_unsent() && !is_part_next_;
  bool is_sent = false;
  try {
    is_sent = may_go && put({Kind::message, number, tag, message.size()}, message);
  } catch (const Error& error) {
    broken_(error);
    return port_->finish(std::move(done), error, 0);
  }
  if (is_sent) {
    counters_.sent_bytes += message.size();
    tell_peer(kRecords);
    return port_->finish(std::move(done), std::nullopt, message.size());
  }
  const auto alarm = port_->set_alarm(deadline, {this, number, tag});
  sends_.emplace(number, Send{tag, message, std::move(done), alarm});
  send_soon();
}

void Wire::send_soon() {
  try {
    if (flush()) tell_peer(kRecords);
  } catch (const Error& error) {
    broken_(error);
  }
  // Who sleeps has not said that it waits for room.
  if (has_outgoing()) port_->wake();
}

bool Wire::has_unsent() const noexcept {
  return !sends_.empty() && sends_.rbegin()->first >= first_unsent_;
}

bool Wire::has_outgoing() const noexcept {
  return !answers_.empty() || has_unsent() || !asked_for_.empty();
}

void Wire::finish(Sends::iterator send, std::optional<Error> error) {
  auto& state = send->second;
  port_->clear_alarm(state.alarm);
  if (!error) counters_.sent_bytes += state.message.size();
  const auto bytes = error ? 0 : state.message.size();
  port_->finish(std::move(state.done), std::move(error), bytes);
  sends_.erase(send);
}

bool Wire::put(const Record& record, std::span<const std::byte> payload) {
  auto* const place = writer_.reserve(record, payload.size());
  if (place == nullptr) return false;
  if (!payload.empty()) std::memcpy(place, payload.data(), payload.size());
  writer_.publish();
  return true;
}

// The oldest message that the peer knows nothing of, or an offer of it. False if there is no room.
bool Wire::put_unsent() {
  const auto send = sends_.lower_bound(first_unsent_);
  const auto& [number, state] = *send;
  const auto size = state.message.size();
  const bool is_eager = size <= kEagerBytes;
  if (!put({is_eager ? Kind::message : Kind::offer, number, state.tag, size},
           state.message.first(is_eager ? size : 0)))
    return false;
  first_unsent_ = number + 1;
  if (is_eager) finish(send, std::nullopt);
  return true;
}

// Of the message whose turn it is. False if there is no room.
bool Wire::put_part() {
  const auto send = sends_.find(asked_for_.front());
  if (send == sends_.end()) return asked_for_.pop_front(), true;  // Its deadline has passed.
  auto& state = send->second;
  const auto rest = state.message.subspan(state.sent_bytes);
  const auto part = rest.first(std::min(rest.size(), Ring::kMaxPayload));
  if (!put({Kind::part, send->first, state.tag, state.message.size()}, part)) return false;
  state.sent_bytes += part.size();
  if (state.sent_bytes < state.message.size()) return true;
  asked_for_.pop_front();
  finish(send, std::nullopt);
  return true;
}

// One part at a time: what has come meanwhile has its turn, and the peer something to take. What is
// small goes before it, but not for ever.
bool Wire::flush() {
  bool moved = false;
  for (; !answers_.empty() && put(answers_.front()); moved = true) answers_.pop_front();
  while (!is_part_next_ && has_unsent() && put_unsent()) moved = true;
  if (asked_for_.empty()) return moved;
  is_part_next_ = !put_part();
  return moved || !is_part_next_;
}

bool Wire::advance() {
  if (ended_) return false;
  try {
    const bool took = take_some(kTurnBytes);
    const bool sent = has_outgoing() && flush();
    if (took || sent) tell_peer((took ? kRoom : 0) | (sent ? kRecords : 0));
    return took || sent;
  } catch (const Error& error) {
    broken_(error);
    return true;
  }
}

// Whoever sleeps has said so before it looked for the last time, and this side looks here after
// its last change.
void Wire::tell_peer(std::uint32_t news) noexcept {
  if ((theirs_.asleep.load() & news) == 0) return;
  if (theirs_.asleep.exchange(0) == 0) return;
  static_cast<void>(::write(bell_.get(), "", 1));  // Full: then it is readable already.
}

bool Wire::fall_asleep() noexcept {
  if (ended_) return true;
  const bool waits_for_room = has_outgoing();
  own_.asleep.store(waits_for_room ? kRecords | kRoom : kRecords);
  return reader_.is_empty() && !(waits_for_room && writer_.has_news());
}

void Wire::stay_awake() noexcept {
  if (own_.asleep.load(std::memory_order_relaxed) != 0) own_.asleep.store(0);
}

bool Wire::has_peer_left() const noexcept { return theirs_.has_left.load() != 0; }

void Wire::expire(std::uint64_t id, std::uint64_t tag) {
  const auto late = [&](const char* what, std::size_t size_bytes) {
    return Error(Errc::timed_out, fmt::format("a {} of {} bytes with {} reached its deadline", what,
                                              size_bytes, peer_));
  };
  if (const auto send = sends_.find(id); send != sends_.end()) {
    auto& state = send->second;
    state.alarm = {};
    if (id < first_unsent_) answers_.push_back({Kind::withdraw, id, tag, 0});
    auto done = std::move(state.done);
    const auto size = state.message.size();
    sends_.erase(send);
    port_->finish(std::move(done), late("send", size), 0);
    return;
  }
  const auto drop = [&](std::list<Receive>& receives) {
    const auto found = std::ranges::find(receives, id, &Receive::id);
    if (found == receives.end()) return false;
    port_->finish(std::move(found->done), late("receive", found->target.size()), 0);
    receives.erase(found);
    return true;
  };
  if (const auto mailbox = mailboxes_.find(tag); mailbox != mailboxes_.end()) {
    const bool is_dropped = drop(mailbox->second.receives);
    if (mailbox->second.receives.empty() && mailbox->second.messages.empty())
      mailboxes_.erase(mailbox);
    if (is_dropped) return;
  }
  for (auto& [number, taking] : taking_) {
    if (!drop(taking.receive)) continue;
    ++unwanted_;
    return;
  }
}

void Wire::end(const Error& reason) {
  if (ended_) return;
  ended_ = reason;
  own_.has_left.store(1);
  try {
    // As much as can have been there; a peer that goes on sending is not waited for.
    take_some(segment_.bytes().size());
  } catch (const Error&) {
    // What is no message is lost.
  }
  answers_.clear();
  asked_for_.clear();
  while (!sends_.empty()) finish(sends_.begin(), reason);
  for (auto& [number, taking] : taking_)
    for (auto& receive : taking.receive) finish(receive, reason, 0);
  taking_.clear();
  unwanted_ = 0;
  for (auto& [tag, mailbox] : mailboxes_)
    for (auto& receive : std::exchange(mailbox.receives, {})) finish(receive, reason, 0);
  drop_offers();
}

}  // namespace causeway::shm
