// What this side asks of the peer, and the messages it waits for.
#include <algorithm>
#include <cstring>
#include <utility>

#include "transport/too_long.h"
#include "transport/ucx/link.h"

namespace causeway::ucx {

using std::chrono::steady_clock;

namespace {

std::byte* address_of(std::span<const std::byte> bytes) {
  // One Request holds both kinds of buffer; only read and receive write through it.
  return const_cast<std::byte*>(bytes.data());
}

}  // namespace

Link::Requests::iterator Link::start(Kind kind, std::span<const std::byte> buffer,
                                     Deadline deadline, Completion& done) {
  std::optional<Error> refusal;
  if (!is_open())
    refusal = Error(Errc::closed, "the channel to " + describe() + " is closed" +
                                      (failure_ ? std::string(": ") + failure_->what() : ""));
  else if (deadline <= steady_clock::now())
    refusal = Error(Errc::timed_out,
                    "the deadline had passed before the request to " + describe() + " began");
  if (refusal) {
    worker_->finish(std::move(done), std::move(refusal), 0);
    return requests_.end();
  }
  const auto id = next_id_++;
  const auto request = requests_.emplace(id, Request{}).first;
  request->second.kind = kind;
  request->second.buffer = address_of(buffer);
  request->second.size_bytes = buffer.size();
  request->second.done = std::move(done);
  request->second.alarm = worker_->set_alarm(deadline, {this, id});
  return request;
}

// Likewise, for what the peer answers part by part.
void Link::ask(Kind kind, std::span<const std::byte> buffer, RemoteAddress address,
               Deadline deadline, Completion& done) {
  const auto request = start(kind, buffer, deadline, done);
  if (request == requests_.end()) return;
  request->second.address = address;
  unissued_.push_back(request->first);
  issue();
}

void Link::set_settings(const LinkSettings& settings) {
  settings_ = {std::clamp(settings.part_bytes, kMinPartBytes, kMaxPartBytes),
               std::min(settings.eager_bytes, kMaxEagerBytes),
               wished_stream().value_or(settings.by_stream)};
  if (settings_.by_stream) ask_for_stream();
}

void Link::write(RemoteAddress to, std::span<const std::byte> source, Deadline deadline,
                 Completion done) {
  ask(Kind::write, source, to, deadline, done);
}

void Link::read(std::span<std::byte> target, RemoteAddress from, Deadline deadline,
                Completion done) {
  ask(Kind::read, target, from, deadline, done);
}

void Link::checksum(RemoteAddress of, std::uint64_t size_bytes, Deadline deadline,
                    Completion done) {
  ask(Kind::sum, {static_cast<const std::byte*>(nullptr), size_bytes}, of, deadline, done);
}

void Link::fence(ChannelId other, Deadline deadline, Completion done) {
  ask(Kind::fence, {}, {other.transport, other.number, 0}, deadline, done);
}

std::uint64_t Link::next_part(const Request& request) const {
  const auto left = request.size_bytes - request.issued_bytes;
  return request.kind == Kind::sum ? left : std::min(settings_.part_bytes, left);
}

void Link::issue() {
  while (!unissued_.empty()) {
    const auto id = unissued_.front();
    const auto found = requests_.find(id);
    if (found == requests_.end() || found->second.is_issued) {
      unissued_.pop_front();
      continue;
    }
    const auto& request = found->second;
    const auto next = next_part(request);
    // Answers to withdrawn chunks are still to come: the peer works on them.
    if (chunks_.size() + withdrawn_.size() >= kWindowCount) return;
    if (window_bytes_ > 0 && window_bytes_ + next > kWindowBytes) return;
    unissued_.pop_front();
    if (request.issued_bytes + next < request.size_bytes) unissued_.push_back(id);  // Take turns.
    issue_chunk(id, found->second);
  }
}

void Link::issue_chunk(std::uint64_t id, Request& request) {
  constexpr Op kOps[] = {Op::write, Op::read, Op::sum, Op::fence};
  const auto offset = request.issued_bytes;
  const auto size = next_part(request);
  const bool by_stream = goes_by_stream(request, size);
  const bool has_bytes = request.kind == Kind::write && !by_stream;
  const auto chunk = next_id_++;
  chunks_.emplace(chunk, Chunk{id, offset, size, has_bytes, false, by_stream});
  window_bytes_ += size;
  request.issued_bytes += size;
  request.is_issued = request.issued_bytes == request.size_bytes;
  ++request.chunks;
  const Header header{.op = kOps[static_cast<std::size_t>(request.kind)],
                      .id = chunk,
                      .session = request.address.session,
                      .region = request.address.region,
                      .offset_bytes = request.address.offset_bytes,
                      .size_bytes = request.size_bytes,
                      .part_bytes = offset,
                      .part_size_bytes = size,
                      .eager = request.kind == Kind::read && size <= settings_.eager_bytes,
                      .by_stream = by_stream};
  if (has_bytes) {
    ++request.flights;
    submit(new_flight(Cargo::chunk, chunk, header), request.buffer + offset, size,
           settings_.eager_bytes);
  } else {
    submit(new_flight(Cargo::control, chunk, header), nullptr, 0);
  }
}

void Link::land_chunk(const Flight& flight, bool good) {
  const auto found = chunks_.find(flight.id);
  auto& chunk = found->second;  // A chunk stays while it is in flight, and its request with it.
  auto& request = requests_.find(chunk.request)->second;
  chunk.in_flight = false;
  --request.flights;
  if (good && request.kind == Kind::write) counters_.sent_bytes += flight.size_bytes;
  if (good && request.kind == Kind::read) {
    counters_.received_bytes += flight.size_bytes;
    chunk.is_answered = true;
  }
  if (!good && !request.error && failure_) request.error = failure_;
  if (chunk.is_answered || !good || phase_ != Phase::open) return end_chunk(flight.id);
  if (!request.in_grace) return;  // The answer to a write is on its way.
  withdrawn_.insert(flight.id);
  end_chunk(flight.id);
}

void Link::end_chunk(std::uint64_t id) {
  const auto found = chunks_.find(id);
  const auto request = found->second.request;
  window_bytes_ -= found->second.size_bytes;
  chunks_.erase(found);
  --requests_.find(request)->second.chunks;
  finish_if_idle(request);
  if (!unissued_.empty()) worker_->mark(*this);
}

void Link::finish_if_idle(std::uint64_t id) {
  const auto found = requests_.find(id);
  const auto& request = found->second;
  if (!request.is_issued || request.chunks > 0 || request.flights > 0) return;
  finish(found);
}

void Link::finish(Requests::iterator request) {
  auto& [id, state] = *request;
  worker_->clear_alarm(state.alarm);
  const bool one_sided = state.kind == Kind::write || state.kind == Kind::read;
  const auto bytes = state.error ? 0 : one_sided ? state.size_bytes : state.result_bytes;
  worker_->finish(std::move(state.done), std::move(state.error), bytes);
  requests_.erase(request);
}

void Link::drop_chunks(std::uint64_t request) {
  std::vector<std::uint64_t> idle;
  for (const auto& [id, chunk] : chunks_)
    if (chunk.request == request && !chunk.in_flight) idle.push_back(id);
  for (const auto id : idle) {
    const auto found = chunks_.find(id);
    // What has left by the stream may come behind the recall, and would have no place any more.
    const bool is_recallable = found->second.by_stream && !found->second.is_wanted;
    auto& state = requests_.find(request)->second;
    window_bytes_ -= found->second.size_bytes;
    chunks_.erase(found);
    --state.chunks;
    if (phase_ != Phase::open) continue;
    withdrawn_.insert(id);
    if (is_recallable && state.kind == Kind::write) recall(id, state);
  }
}

void Link::expire(Requests::iterator request) {
  auto& [id, state] = *request;
  worker_->clear_alarm(state.alarm);
  if (state.in_grace) {
    // UCX cannot take a buffer back from a rendezvous under way, except by ending the connection.
    break_off(Error(Errc::timed_out, describe() + " did not let go of a buffer of " +
                                         std::to_string(state.size_bytes) +
                                         " bytes after its deadline; the channel was closed"));
    return;
  }
  if (!state.error) {
    static constexpr const char* kNames[] = {"write", "read", "checksum",
                                             "fence", "send", "receive"};
    state.error =
        Error(Errc::timed_out, std::string("a ") + kNames[static_cast<std::size_t>(state.kind)] +
                                   " of " + std::to_string(state.size_bytes) + " bytes with " +
                                   describe() + " reached its deadline");
  }
  state.is_issued = true;
  take_back(id);
  drop_chunks(id);
  if (state.kind == Kind::receive && state.flights == 0)
    std::erase(mailboxes_[state.tag].receives, id);
  if (state.chunks == 0 && state.flights == 0) return finish(request);
  state.in_grace = true;
  state.alarm = worker_->set_alarm(steady_clock::now() + kGrace, {this, id});
  if (state.kind == Kind::write)
    for (const auto& [chunk, each] : chunks_)
      if (each.request == id && !each.by_stream) recall(chunk, state);
  if (state.kind == Kind::send)
    submit(new_flight(Cargo::control, 0, {.op = Op::withdraw, .id = state.sequence}), nullptr, 0);
}

void Link::send(std::uint64_t tag, std::span<const std::byte> message, Deadline deadline,
                Completion done) {
  const auto request = start(Kind::send, message, deadline, done);
  if (request == requests_.end()) return;
  auto& state = request->second;
  state.tag = tag;
  state.is_issued = true;
  state.sequence = next_sequence_out_++;
  state.flights = 1;
  const Header header{
      .op = Op::message, .id = state.sequence, .region = tag, .part_size_bytes = message.size()};
  submit(new_flight(Cargo::message, request->first, header), message.data(), message.size());
}

void Link::receive(std::uint64_t tag, std::span<std::byte> target, Deadline deadline,
                   Completion done) {
  if (!is_open() && take_leftover(tag, target, done)) return;
  const auto request = start(Kind::receive, target, deadline, done);
  if (request == requests_.end()) return;
  request->second.tag = tag;
  request->second.is_issued = true;
  const auto mailbox = mailboxes_.try_emplace(tag).first;
  if (mailbox->second.messages.empty()) return mailbox->second.receives.push_back(request->first);
  auto message = pop(mailbox);
  give(request, message);
}

Link::Unexpected Link::pop(std::unordered_map<std::uint64_t, Mailbox>::iterator mailbox) {
  auto& messages = mailbox->second.messages;
  auto message = std::move(messages.front());
  messages.pop_front();
  if (messages.empty()) mailboxes_.erase(mailbox);
  count_unexpected(-1, message.bytes.size());
  return message;
}

// What had arrived before the end is whole, and its sender was told that it went.
bool Link::take_leftover(std::uint64_t tag, std::span<std::byte> target, Completion& done) {
  const auto mailbox = mailboxes_.find(tag);
  if (mailbox == mailboxes_.end() || mailbox->second.messages.empty() ||
      mailbox->second.messages.front().rendezvous != nullptr)
    return false;
  const auto message = pop(mailbox);
  if (message.size_bytes > target.size()) {
    worker_->finish(std::move(done), too_long(describe(), tag, target.size(), message.size_bytes),
                    0);
    return true;
  }
  if (!message.bytes.empty())
    std::memcpy(target.data(), message.bytes.data(), message.bytes.size());
  counters_.received_bytes += message.size_bytes;
  worker_->finish(std::move(done), std::nullopt, message.size_bytes);
  return true;
}

void Link::give(Requests::iterator request, Unexpected& message) {
  auto& [id, state] = *request;
  if (message.size_bytes > state.size_bytes) {
    state.error = too_long(describe(), state.tag, state.size_bytes, message.size_bytes);
    release(message);
    return finish(request);
  }
  state.result_bytes = message.size_bytes;
  if (message.rendezvous == nullptr) {
    if (!message.bytes.empty())
      std::memcpy(state.buffer, message.bytes.data(), message.bytes.size());
    counters_.received_bytes += message.size_bytes;
    return finish(request);
  }
  ++state.flights;
  auto flight = new_flight(Cargo::message, id, {});
  flight->size_bytes = message.size_bytes;
  submit_receive(std::move(flight), message.rendezvous, state.buffer);
}

void Link::count_unexpected(int more, std::uint64_t size_bytes) noexcept {
  unexpected_count_ += static_cast<std::size_t>(more);
  const auto bytes = static_cast<std::uint64_t>(more) * size_bytes;
  unexpected_bytes_ += bytes;  // Modulo 2^64: a subtraction, if `more` is -1.
  worker_->count_unexpected(bytes);
}

void Link::release(Unexpected& message) {
  if (message.rendezvous != nullptr)
    ucp_am_data_release(worker_->handle(), std::exchange(message.rendezvous, nullptr));
}

void Link::land_message(const Flight& flight, bool good) {
  const auto found = requests_.find(flight.id);
  auto& request = found->second;
  --request.flights;
  if (good && request.kind == Kind::send) {
    counters_.sent_bytes += flight.size_bytes;
    request.result_bytes = flight.size_bytes;
  }
  if (good && request.kind == Kind::receive) counters_.received_bytes += flight.size_bytes;
  if (!good && !request.error && failure_) request.error = failure_;
  finish_if_idle(flight.id);
}

void Link::end_requests(const Error& reason) {
  unissued_.clear();
  withdrawn_.clear();
  // What has arrived whole can still be taken; what waits at the sender is lost, and what comes
  // behind a lost one of its tag would be out of order.
  for (auto& [tag, mailbox] : mailboxes_) {
    mailbox.receives.clear();
    auto& messages = mailbox.messages;
    const auto lost = std::ranges::find_if(
        messages, [](const Unexpected& message) { return message.rendezvous != nullptr; });
    for (auto message = lost; message != messages.end(); message = messages.erase(message)) {
      release(*message);
      count_unexpected(-1, message->bytes.size());
    }
  }
  std::erase_if(mailboxes_, [](const auto& entry) { return entry.second.messages.empty(); });
  std::vector<std::uint64_t> ids;
  for (const auto& [id, request] : requests_) ids.push_back(id);
  std::ranges::sort(ids);  // In the order in which they were asked for.
  for (const auto id : ids) {
    auto& request = requests_.find(id)->second;
    worker_->clear_alarm(request.alarm);
    if (!request.error) request.error = reason;
    request.is_issued = true;
    drop_chunks(id);
    finish_if_idle(id);
  }
}

}  // namespace causeway::ucx
