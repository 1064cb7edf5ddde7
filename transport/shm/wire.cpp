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
  const bool is_eager = message.size() <= kEagerBytes;
  const Record record{is_eager ? Kind::message : Kind::offer, number, tag, message.size()};
  bool is_sent = false;
  try {
    is_sent = is_eager && outgoing_.empty() && put(record, message);
  } catch (const Error& error) {
    broken_(error);
    return port_->finish(std::move(done), error, 0);
  }
  if (is_sent) {
    counters_.sent_bytes += message.size();
    tell_peer(kRecords);
    return port_->finish(std::move(done), std::nullopt, message.size());
  }
  sends_.emplace(number,
                 Send{tag, message, std::move(done), port_->set_alarm(deadline, {this, number})});
  outgoing_.push_back(record);
  send_soon();
}

void Wire::send_soon() {
  try {
    if (flush()) tell_peer(kRecords);
  } catch (const Error& error) {
    broken_(error);
  }
}

void Wire::finish(std::unordered_map<std::uint64_t, Send>::iterator send,
                  std::optional<Error> error) {
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

// False if there is no room for it.
bool Wire::put_out(const Record& record) {
  if (record.kind != Kind::message && record.kind != Kind::offer) return put(record);
  const auto send = sends_.find(record.number);
  if (send == sends_.end()) return true;  // Its deadline has passed.
  if (record.kind == Kind::offer) {
    send->second.is_offered = put(record);
    return send->second.is_offered;
  }
  if (!put(record, send->second.message)) return false;
  finish(send, std::nullopt);
  return true;
}

// Parts of the message whose turn it is. False if nothing went.
bool Wire::put_parts() {
  const auto send = sends_.find(asked_for_.front());
  if (send == sends_.end()) return asked_for_.pop_front(), true;
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

bool Wire::flush() {
  bool moved = false;
  while (!outgoing_.empty() && put_out(outgoing_.front())) {
    outgoing_.pop_front();
    moved = true;
  }
  // A few parts at a time: what has come meanwhile has its turn, and the peer something to take.
  for (std::uint64_t sent = 0; outgoing_.empty() && !asked_for_.empty() && sent < kTurnBytes;
       sent += Ring::kMaxPayload) {
    if (!put_parts()) break;
    moved = true;
  }
  return moved;
}

bool Wire::advance() {
  if (ended_) return false;
  try {
    const bool took = take_some(kTurnBytes);
    const bool sent = (!outgoing_.empty() || !asked_for_.empty()) && flush();
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
  const bool waits_for_room = !outgoing_.empty() || !asked_for_.empty();
  own_.asleep.store(waits_for_room ? kRecords | kRoom : kRecords);
  return reader_.is_empty() && !(waits_for_room && writer_.has_news());
}

void Wire::stay_awake() noexcept {
  if (own_.asleep.load(std::memory_order_relaxed) != 0) own_.asleep.store(0);
}

bool Wire::has_peer_left() const noexcept { return theirs_.has_left.load() != 0; }

void Wire::expire(std::uint64_t id) {
  const auto late = [&](const char* what, std::size_t size_bytes) {
    return Error(Errc::timed_out, fmt::format("a {} of {} bytes with {} reached its deadline", what,
                                              size_bytes, peer_));
  };
  if (const auto send = sends_.find(id); send != sends_.end()) {
    auto& state = send->second;
    state.alarm = {};
    if (state.is_offered) outgoing_.push_back({Kind::withdraw, id, state.tag, 0});
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
  for (auto mailbox = mailboxes_.begin(); mailbox != mailboxes_.end(); ++mailbox) {
    if (!drop(mailbox->second.receives)) continue;
    if (mailbox->second.receives.empty()) mailboxes_.erase(mailbox);
    return;
  }
  for (auto& [number, taking] : taking_)
    if (drop(taking.receive)) return;
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
  outgoing_.clear();
  asked_for_.clear();
  while (!sends_.empty()) {
    const auto oldest =
        std::ranges::min_element(sends_, {}, [](const auto& entry) { return entry.first; });
    finish(oldest, reason);
  }
  for (auto& [number, taking] : taking_)
    for (auto& receive : taking.receive) finish(receive, reason, 0);
  taking_.clear();
  for (auto& [tag, mailbox] : mailboxes_)
    for (auto& receive : std::exchange(mailbox.receives, {})) finish(receive, reason, 0);
  drop_offers();
}

}  // namespace causeway::shm
