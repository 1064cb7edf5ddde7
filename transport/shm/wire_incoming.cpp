// What the peer sends, and the receives that wait for it.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "transport/shm/wire.h"
#include "transport/too_long.h"

namespace causeway::shm {

namespace {

using Kind = Record::Kind;

[[noreturn]] void violate(const char* what) { throw Error(Errc::protocol, what); }

}  // namespace

bool Wire::take_some(std::uint64_t most_bytes) {
  std::uint64_t took = 0;
  while (took < most_bytes) {
    const auto taken = reader_.take();
    if (!taken) break;
    took += Ring::record_bytes(taken->payload.size());
    take(*taken);
    reader_.next();
  }
  return took > 0;
}

void Wire::take(const RingReader::Taken& taken) {
  const auto& record = taken.record;
  if (record.kind == Kind::message || record.kind == Kind::offer) {
    if (record.number <= last_number_in_) violate("a message whose number has been");
    last_number_in_ = record.number;
  }
  if (record.kind != Kind::message && record.kind != Kind::part && !taken.payload.empty())
    violate("a payload where none belongs");
  switch (record.kind) {
    case Kind::pad:
      return;
    case Kind::message:
      return take_message(taken);
    case Kind::offer:
      return take_offer(record);
    case Kind::part:
      return take_part(taken);
    case Kind::withdraw:
      return take_withdrawal(record);
    case Kind::ask:
    case Kind::drop: {
      const auto send = sends_.find(record.number);
      if (send == sends_.end()) return;  // Withdrawn meanwhile.
      if (record.number >= first_unsent_ || send->second.is_asked_for)
        violate("an answer to what was not offered");
      send->second.is_asked_for = true;
      if (record.kind == Kind::drop) return finish(send, std::nullopt);
      return asked_for_.push_back(record.number);
    }
  }
}

void Wire::take_message(const RingReader::Taken& taken) {
  const auto tag = taken.record.tag;
  const auto mailbox = mailboxes_.find(tag);
  if (mailbox == mailboxes_.end() || mailbox->second.receives.empty())
    return hold(taken.record,
                {taken.payload.size(), false, {taken.payload.begin(), taken.payload.end()}});
  auto& receives = mailbox->second.receives;
  auto receive = std::move(receives.front());
  receives.pop_front();
  if (receives.empty()) mailboxes_.erase(mailbox);
  give(receive, taken.payload);
}

void Wire::give(Receive& receive, std::span<const std::byte> message) {
  if (message.size() > receive.target.size())
    return finish(receive, too_long(peer_, receive.tag, receive.target.size(), message.size()), 0);
  if (!message.empty()) std::memcpy(receive.target.data(), message.data(), message.size());
  finish(receive, std::nullopt, message.size());
}

void Wire::finish(Receive& receive, std::optional<Error> error, std::uint64_t bytes) {
  port_->clear_alarm(receive.alarm);
  counters_.received_bytes += bytes;
  port_->finish(std::move(receive.done), std::move(error), bytes);
}

void Wire::take_offer(const Record& record) {
  // No part would ever come of it.
  if (record.total_bytes == 0) violate("an offer of nothing");
  // Who goes on offering, and sends nothing of it, outlives every receive.
  if (unwanted_ >= kMaxUnexpectedCount)
    throw Error(
        Errc::exhausted,
        fmt::format("{} has offered {} messages and sent nothing more of them", peer_, unwanted_));
  const auto mailbox = mailboxes_.find(record.tag);
  if (mailbox == mailboxes_.end() || mailbox->second.receives.empty())
    return hold(record, {record.total_bytes, true, {}});
  std::list<Receive> one;
  auto& receives = mailbox->second.receives;
  one.splice(one.end(), receives, receives.begin());
  if (receives.empty()) mailboxes_.erase(mailbox);
  ask_for(record.number, record.total_bytes, std::move(one));
}

void Wire::ask_for(std::uint64_t number, std::uint64_t size_bytes, std::list<Receive> receive) {
  auto& one = receive.front();
  if (size_bytes > one.target.size()) {
    finish(one, too_long(peer_, one.tag, one.target.size(), size_bytes), 0);
    answers_.push_back({Kind::drop, number, 0, 0});
    return;
  }
  answers_.push_back({Kind::ask, number, 0, 0});
  taking_.emplace(number, Taking{size_bytes, 0, std::move(receive)});
}

void Wire::take_part(const RingReader::Taken& taken) {
  const auto found = taking_.find(taken.record.number);
  if (found == taking_.end()) violate("a part of what was not asked for");
  auto& taking = found->second;
  const auto payload = taken.payload;
  if (payload.empty() || payload.size() > taking.size_bytes - taking.got_bytes)
    violate("a part that ends behind its message");
  if (!taking.receive.empty())
    std::memcpy(taking.receive.front().target.data() + taking.got_bytes, payload.data(),
                payload.size());
  taking.got_bytes += payload.size();
  if (taking.got_bytes < taking.size_bytes) return;
  if (taking.receive.empty())
    --unwanted_;
  else
    finish(taking.receive.front(), std::nullopt, taking.size_bytes);
  taking_.erase(found);
}

void Wire::take_withdrawal(const Record& record) {
  if (const auto found = taking_.find(record.number); found != taking_.end()) {
    auto receive = std::move(found->second.receive);
    taking_.erase(found);
    if (receive.empty())
      --unwanted_;
    else
      match(std::move(receive));
    return;
  }
  const auto mailbox = mailboxes_.find(record.tag);
  if (mailbox == mailboxes_.end()) return;
  auto& messages = mailbox->second.messages;
  const auto message = messages.find(record.number);
  if (message == messages.end()) return;
  count_held(-1, message->second.bytes.size());
  messages.erase(message);
  if (messages.empty()) mailboxes_.erase(mailbox);
}

void Wire::hold(const Record& record, Unexpected message) {
  const auto size = message.bytes.size();
  if (held_count_ >= kMaxUnexpectedCount || held_bytes_ + size > kMaxUnexpectedBytes)
    throw too_many();
  if (auto* const most = port_->who_makes_room_for(size)) {
    if (most == this) throw too_many();
    most->overflow();
  }
  count_held(1, size);
  mailboxes_[record.tag].messages.emplace(record.number, std::move(message));
}

Error Wire::too_many() const {
  return {Errc::exhausted,
          fmt::format("{} sent {} messages and {} bytes that nobody here received; receive more "
                      "often, or send less",
                      peer_, held_count_, held_bytes_)};
}

// It holds the most until the last of it is dropped, so its own end makes nobody else's.
void Wire::overflow() {
  if (!ended_) broken_(too_many());
  port_->count_held(0 - std::exchange(held_bytes_, 0));
  held_count_ = 0;
  mailboxes_.clear();
}

void Wire::count_held(int more, std::uint64_t size_bytes) noexcept {
  held_count_ += static_cast<std::size_t>(more);
  const auto bytes = static_cast<std::uint64_t>(more) * size_bytes;
  held_bytes_ += bytes;  // Modulo 2^64: a subtraction, if `more` is -1.
  port_->count_held(bytes);
}

std::pair<std::uint64_t, Wire::Unexpected> Wire::pop(Mailboxes::iterator mailbox) {
  auto& messages = mailbox->second.messages;
  auto oldest = messages.extract(messages.begin());
  if (messages.empty()) mailboxes_.erase(mailbox);
  count_held(-1, oldest.mapped().bytes.size());
  return {oldest.key(), std::move(oldest.mapped())};
}

void Wire::receive(std::uint64_t tag, std::span<std::byte> target, Deadline deadline,
                   Completion done) {
  if (ended_ && take_held(tag, target, done)) return;
  if (refuse(deadline, done)) return;
  const auto id = next_number_++;
  std::list<Receive> one;
  one.push_back({id, tag, target, std::move(done), port_->set_alarm(deadline, {this, id, tag})});
  match(std::move(one));
  if (!answers_.empty()) send_soon();
}

// Gives a receive the oldest message of its tag, or a place among those that wait.
void Wire::match(std::list<Receive> receive) {
  auto& one = receive.front();
  const auto mailbox = mailboxes_.try_emplace(one.tag).first;
  auto& [receives, messages] = mailbox->second;
  if (messages.empty()) {
    // One whose message was withdrawn waits before those that were asked for later.
    auto place = receives.end();
    while (place != receives.begin() && std::prev(place)->id > one.id) --place;
    return receives.splice(place, receive);
  }
  const auto [number, message] = pop(mailbox);
  if (!message.is_offer) return give(one, message.bytes);
  ask_for(number, message.size_bytes, std::move(receive));
}

// What had arrived before the end is whole, and its sender was told that it went.
bool Wire::take_held(std::uint64_t tag, std::span<std::byte> target, Completion& done) {
  const auto mailbox = mailboxes_.find(tag);
  if (mailbox == mailboxes_.end()) return false;
  const auto message = pop(mailbox).second;
  if (message.size_bytes > target.size()) {
    port_->finish(std::move(done), too_long(peer_, tag, target.size(), message.size_bytes), 0);
    return true;
  }
  if (!message.bytes.empty())
    std::memcpy(target.data(), message.bytes.data(), message.bytes.size());
  counters_.received_bytes += message.size_bytes;
  port_->finish(std::move(done), std::nullopt, message.size_bytes);
  return true;
}

// What waits at the sender is lost, and what comes behind a lost one of its tag would be out of
// order.
void Wire::drop_offers() {
  for (auto& [tag, mailbox] : mailboxes_) {
    auto& messages = mailbox.messages;
    auto lost =
        std::ranges::find_if(messages, [](const auto& entry) { return entry.second.is_offer; });
    for (; lost != messages.end(); lost = messages.erase(lost))
      count_held(-1, lost->second.bytes.size());
  }
  std::erase_if(mailboxes_, [](const auto& entry) { return entry.second.messages.empty(); });
}

}  // namespace causeway::shm
