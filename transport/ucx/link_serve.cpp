// What the peer asks of this side and what it answers. All of it runs inside UCX's callback.
#include <cstring>
#include <utility>

#include "transport/checksum.h"
#include "transport/device/way.h"
#include "transport/too_long.h"
#include "transport/ucx/link.h"

namespace causeway::ucx {

namespace {

constexpr ucs_status_t kDone = UCS_OK;           // UCX drops what was not taken.
constexpr ucs_status_t kTaken = UCS_INPROGRESS;  // We hold the rendezvous.

bool is_text(Op op) { return op == Op::failed || op == Op::bye; }

// However it comes: who sends chooses between eager and rendezvous.
bool takes_turn(std::uint64_t size_bytes) { return size_bytes > kTurnBytes; }

bool has_data(const Header& header) {
  return (header.op == Op::write && !header.by_stream) || header.op == Op::read_data ||
         header.op == Op::message;
}

}  // namespace

ucs_status_t Link::violate(const std::string& what) {
  break_off(Error(Errc::protocol, describe() + " sent " + what));
  return kDone;
}

ucs_status_t Link::on_message(const Header& header, const Payload& payload) {
  if (phase_ == Phase::leaving && header.op == Op::bye && header.key == own_key_) {
    is_peer_gone_ = true;
    worker_->mark(*this);
  }
  if (failure_ || phase_ == Phase::leaving || phase_ == Phase::closed) return kDone;
  if (header.key != own_key_) return violate("a message with a wrong connection key");
  if (is_text(header.op) && (payload.rendezvous || payload.size_bytes > kMaxTextBytes))
    return violate("a text of " + std::to_string(payload.size_bytes) + " bytes");
  if (has_data(header) && header.part_size_bytes != payload.size_bytes)
    return violate("a payload of " + std::to_string(payload.size_bytes) +
                   " bytes under a header of " + std::to_string(header.part_size_bytes));
  // Nor a rendezvous of no bytes, which would have to be released.
  if (!has_data(header) && !is_text(header.op) && (payload.size_bytes != 0 || payload.rendezvous))
    return violate("a payload of " + std::to_string(payload.size_bytes) +
                   " bytes where none belongs");
  if (phase_ == Phase::greeting) {
    if (header.op != Op::welcome && header.op != Op::bye)
      return violate("a request before the greeting was over");
    if (header.op == Op::welcome) {
      become_open();
      return kDone;
    }
  }
  if (header.by_stream && !stream_) return violate("a request by a stream that is not there");
  return dispatch(header, payload);
}

ucs_status_t Link::dispatch(const Header& header, const Payload& payload) {
  switch (header.op) {
    case Op::hello:
    case Op::welcome:
      return violate("a second greeting");
    case Op::bye: {
      const auto failure = decode_failure(payload.bytes());
      if (!failure) return violate("a malformed farewell");
      is_peer_gone_ = true;
      lose(Error(Errc::closed, describe() + " closed the channel: " + failure->what()));
      return kDone;
    }
    case Op::write:
      return serve_write(header, payload);
    case Op::read:
      serve_read(header);
      return kDone;
    case Op::sum:
      serve_sum(header);
      return kDone;
    case Op::fence:
      serve_fence(header);
      return kDone;
    case Op::write_done:
    case Op::sum_is:
    case Op::fenced:
    case Op::failed:
      return take_answer(header, payload);
    case Op::read_data:
      return take_read_data(header, payload);
    case Op::message:
      return take_message(header, payload);
    case Op::withdraw:
      take_withdrawal(header.id);
      return kDone;
    case Op::recall:
      take_recall(header);
      return kDone;
    case Op::joined:
      take_stream();
      return kDone;
    case Op::go:
      take_go(header);
      return kDone;
  }
  return violate("an unknown operation");
}

// What the request as a whole asks for.
PinnedMemory Link::pin_whole(const Header& header, Access access) {
  if (service_ == nullptr) throw Error(Errc::unsupported, own_.name + " serves no memory");
  if (header.part_bytes > header.size_bytes ||
      header.part_size_bytes > header.size_bytes - header.part_bytes)
    throw Error(Errc::out_of_bounds, "a part that ends behind its request");
  const RemoteAddress address{header.session, header.region, header.offset_bytes};
  if (ProvingGround::is_at(address))
    return worker_->proving_ground().pin(address, header.size_bytes, access);
  auto memory = service_->pin(peer_, address, header.size_bytes, access);
  if (memory.bytes.size() != header.size_bytes)
    throw Error(Errc::internal, own_.name + " pinned " + std::to_string(memory.bytes.size()) +
                                    " bytes instead of " + std::to_string(header.size_bytes));
  return memory;
}

PinnedMemory Link::pin(const Header& header, Access access) {
  auto memory = pin_whole(header, access);
  memory.bytes = memory.bytes.subspan(header.part_bytes, header.part_size_bytes);
  if (!ProvingGround::is_at({header.session, header.region, 0}))
    service_->moves(peer_, header.part_size_bytes, access);
  return memory;
}

bool Link::begin_serving() {
  if (serving_ >= kMaxServing) {
    violate("more than " + std::to_string(kMaxServing) + " requests at once");
    return false;
  }
  ++serving_;
  return true;
}

void Link::answer(Op op, std::uint64_t id, const std::optional<Error>& failure, std::uint64_t sum) {
  submit_text(Cargo::answer, {.op = op, .id = id, .offset_bytes = sum},
              failure ? encode(*failure) : std::vector<std::byte>{});
}

// Runs `serve`; what it throws goes to the peer, which then sees its request refused.
template <typename Serve>
void Link::guard(std::uint64_t id, Serve serve) {
  try {
    return serve();
  } catch (const Error& error) {
    answer(Op::failed, id, error);
  } catch (const std::exception& error) {
    answer(Op::failed, id, Error(Errc::internal, error.what()));
  }
}

ucs_status_t Link::serve_write(const Header& header, const Payload& payload) {
  if (!begin_serving()) return kDone;
  if (!payload.rendezvous && !header.by_stream) {
    guard(header.id, [&] {
      auto memory = pin(header, Access::write);
      if (memory.device != nullptr) return stage_eager(header, std::move(memory), payload.bytes());
      if (payload.size_bytes > 0)
        std::memcpy(memory.bytes.data(), payload.data, payload.size_bytes);
      counters_.received_bytes += payload.size_bytes;
      answer(Op::write_done, header.id);
    });
    return kDone;
  }
  const auto size_bytes = header.part_size_bytes;
  const auto taken = payload.rendezvous ? kTaken : kDone;
  const auto data = payload.rendezvous ? payload.data : nullptr;
  if (!takes_turn(size_bytes)) return land_write(header, data), taken;
  if (size_bytes > kMaxPartBytes) return refuse_part(header), kDone;
  // The bytes stay with the sender until their turn.
  const auto drop = [this, data] {
    refuse_bytes(data);
    --serving_;
  };
  worker_->turnstile().enter({this, tenant_of(header), size_bytes,
                              [this, header, data, drop] {
                                if (!is_open()) {
                                  drop();
                                  return leave_turnstile(tenant_of(header), header.part_size_bytes);
                                }
                                land_write(header, data);
                              },
                              drop, header.id});
  return taken;
}

void Link::land_write(const Header& header, void* rendezvous) {
  bool is_taken = false;
  guard(header.id, [&] {
    auto memory = pin(header, Access::write);
    const bool is_device = memory.device != nullptr;
    const bool asks_ucx = !header.by_stream;
    if (is_device && choose_device_way(worker_->takes_devices(), asks_ucx) == DeviceWay::staged) {
      stage_write(header, std::move(memory), rendezvous);
      is_taken = true;
      return;
    }
    auto flight = new_flight(Cargo::peer_write, header.id, {});
    flight->pin = std::move(memory.pin);
    flight->is_device = is_device;
    flight->tenant = tenant_of(header);
    flight->size_bytes = header.part_size_bytes;
    is_taken = true;
    take_bytes(std::move(flight), header, rendezvous, memory.bytes.data());
  });
  if (is_taken) return;
  refuse_bytes(rendezvous);
  leave_turnstile(tenant_of(header), header.part_size_bytes);
}

// Nobody is at fault when a write's time is over before its turn: its buffer goes back.
void Link::take_recall(const Header& header) {
  if (recall_staged(header.id) || recall_granted(header.id) ||
      !worker_->turnstile().withdraw(this, tenant_of(header), header.id))
    return;
  ++serving_;
  answer(Op::failed, header.id, Error(Errc::timed_out, "its turn had not come"));
}

void Link::serve_read(const Header& header) {
  if (!begin_serving()) return;
  if (!takes_turn(header.part_size_bytes)) return send_read(header);
  if (header.part_size_bytes > kMaxPartBytes) return refuse_part(header);
  worker_->turnstile().enter({this, tenant_of(header), header.part_size_bytes,
                              [this, header] {
                                if (is_open()) return send_read(header);
                                --serving_;
                                leave_turnstile(tenant_of(header), header.part_size_bytes);
                              },
                              [this] { --serving_; }, header.id});
}

void Link::send_read(const Header& header) {
  bool is_sent = false;
  guard(header.id, [&] {
    auto memory = pin(header, Access::read);
    const bool is_device = memory.device != nullptr;
    const bool asks_ucx = !header.eager && !header.by_stream;
    const auto way = choose_device_way(worker_->takes_devices(), asks_ucx);
    if (is_device && way == DeviceWay::staged)
      stage_read(header, std::move(memory));
    else
      send_read_data(header, memory.bytes, std::move(memory.pin), is_device);
    is_sent = true;
  });
  if (!is_sent) leave_turnstile(tenant_of(header), header.part_size_bytes);
}

void Link::send_read_data(const Header& header, std::span<const std::byte> bytes,
                          std::shared_ptr<const void> pin, bool is_device) {
  const Header reply{
      .op = Op::read_data, .id = header.id, .part_size_bytes = header.part_size_bytes};
  auto flight = new_flight(Cargo::peer_read, header.id, reply);
  flight->pin = std::move(pin);
  flight->is_device = is_device;
  flight->tenant = tenant_of(header);
  if (header.by_stream)
    return submit_by_stream(std::move(flight), StreamHead::Kind::read_data, bytes);
  submit(std::move(flight), bytes.data(), bytes.size(), header.eager ? kMaxEagerBytes : 0);
}

// What is asked for of a session that is not the client's own is refused, but only in its turn.
Turnstile::Tenant Link::tenant_of(const Header& header) const noexcept {
  return peer_.role == Hello::Role::node ? header.session : peer_.session;
}

void Link::leave_turnstile(Turnstile::Tenant tenant, std::uint64_t size_bytes) {
  if (takes_turn(size_bytes)) worker_->turnstile().leave(this, tenant, size_bytes);
}

// A turn is bought by its bytes, so one without a bound would never end.
void Link::refuse_part(const Header& header) {
  answer(Op::failed, header.id,
         Error(Errc::out_of_bounds, "a part of " + std::to_string(header.part_size_bytes) +
                                        " bytes; the limit is " + std::to_string(kMaxPartBytes)));
}

void Link::serve_sum(const Header& header) {
  if (!begin_serving()) return;
  guard(header.id, [&] {
    if (header.size_bytes > kMaxChecksumBytes)
      throw Error(Errc::out_of_bounds, "a checksum of " + std::to_string(header.size_bytes) +
                                           " bytes; the limit is " +
                                           std::to_string(kMaxChecksumBytes));
    auto memory = pin_whole(header, Access::read);
    if (memory.device != nullptr) return stage_read(header, std::move(memory));
    answer(Op::sum_is, header.id, {}, checksum_of(memory.bytes));
  });
}

void Link::serve_fence(const Header& header) {
  if (!begin_serving()) return;
  guard(header.id, [&] {
    const ChannelId other{header.session, header.region};
    if (other == id()) throw Error(Errc::invalid_argument, "a fence for its own channel");
    if (other.transport != links_->transport)
      throw Error(Errc::not_found, own_.name + " is not whom that channel led to");
    const auto found = links_->by_number.find(other.number);
    const auto link = found == links_->by_number.end() ? nullptr : found->second.lock();
    if (!link) return answer(Op::fenced, header.id);
    link->when_gone([self = shared_from_this(), id = header.id] {
      if (self->is_open()) self->answer(Op::fenced, id);
    });
  });
}

void Link::when_gone(std::function<void()> function) {
  if (is_gone_) return function();
  when_gone_.push_back(std::move(function));
  is_peer_gone_ = true;
  lose(Error(Errc::closed, describe() + " fenced the channel"));
}

std::optional<Op> Link::answer_to(Kind kind) noexcept {
  if (kind == Kind::write) return Op::write_done;
  if (kind == Kind::sum) return Op::sum_is;
  if (kind == Kind::fence) return Op::fenced;
  return std::nullopt;  // The answer is its data.
}

ucs_status_t Link::take_answer(const Header& header, const Payload& payload) {
  if (withdrawn_.erase(header.id) > 0) {
    if (!unissued_.empty()) worker_->mark(*this);
    return kDone;
  }
  const auto found = chunks_.find(header.id);
  if (found == chunks_.end() || found->second.is_answered)
    return violate("an answer to no request of ours");
  auto& chunk = found->second;
  auto& request = requests_.find(chunk.request)->second;
  if (header.op == Op::failed) {
    const auto failure = decode_failure(payload.bytes());
    if (!failure) return violate("a malformed failure");
    if (!request.error) request.error = Error(failure->code(), describe() + ": " + failure->what());
    request.is_issued = true;
  } else if (header.op != answer_to(request.kind)) {
    return violate("an acknowledgement of something else");
  } else if (payload.size_bytes != 0) {
    return violate("an acknowledgement with a payload");
  }
  request.result_bytes = header.offset_bytes;
  chunk.is_answered = true;
  if (!chunk.in_flight) end_chunk(header.id);
  return kDone;
}

ucs_status_t Link::take_read_data(const Header& header, const Payload& payload) {
  if (withdrawn_.erase(header.id) > 0) {
    if (!unissued_.empty()) worker_->mark(*this);
    return kDone;
  }
  const auto found = chunks_.find(header.id);
  if (found == chunks_.end() || found->second.in_flight || found->second.is_answered ||
      found->second.by_stream)
    return violate("data that nobody asked for");
  auto& chunk = found->second;
  auto& request = requests_.find(chunk.request)->second;
  if (request.kind != Kind::read || chunk.size_bytes != payload.size_bytes)
    return violate(std::to_string(payload.size_bytes) + " bytes instead of " +
                   std::to_string(chunk.size_bytes));
  auto* target = request.buffer + chunk.offset_bytes;
  if (!payload.rendezvous) {
    if (payload.size_bytes > 0) std::memcpy(target, payload.data, payload.size_bytes);
    counters_.received_bytes += payload.size_bytes;
    end_chunk(header.id);
    return kDone;
  }
  chunk.in_flight = true;
  ++request.flights;
  auto flight = new_flight(Cargo::chunk, header.id, {});
  flight->size_bytes = payload.size_bytes;
  submit_receive(std::move(flight), payload.data, target);
  return kTaken;
}

ucs_status_t Link::take_message(const Header& header, const Payload& payload) {
  if (header.id != next_sequence_in_)
    return violate("message " + std::to_string(header.id) + " where " +
                   std::to_string(next_sequence_in_) + " was due");
  ++next_sequence_in_;
  const auto tag = header.region;
  const auto found = mailboxes_.find(tag);
  if (found != mailboxes_.end() && !found->second.receives.empty()) {
    const auto request = requests_.find(found->second.receives.front());
    found->second.receives.pop_front();
    if (found->second.receives.empty()) mailboxes_.erase(found);
    return take_now(request, payload);
  }
  const auto copied = payload.rendezvous ? 0 : payload.size_bytes;
  worker_->make_room_for_unexpected(copied);
  if (failure_) return kDone;
  if (unexpected_count_ >= kMaxUnexpectedCount ||
      unexpected_bytes_ + copied > kMaxUnexpectedBytes) {
    break_off(Error(Errc::exhausted,
                    describe() + " sent " + std::to_string(unexpected_count_) + " messages and " +
                        std::to_string(unexpected_bytes_) +
                        " bytes that nobody here received; receive more often, or send less"));
    return kDone;
  }
  count_unexpected(1, copied);
  const auto bytes = payload.bytes();
  mailboxes_[tag].messages.push_back({header.id,
                                      payload.size_bytes,
                                      payload.rendezvous ? payload.data : nullptr,
                                      {bytes.begin(), bytes.end()}});
  return payload.rendezvous ? kTaken : kDone;
}

ucs_status_t Link::take_now(Requests::iterator request, const Payload& payload) {
  auto& [id, state] = *request;
  if (payload.size_bytes > state.size_bytes) {
    state.error = too_long(describe(), state.tag, state.size_bytes, payload.size_bytes);
    finish(request);
    return kDone;
  }
  state.result_bytes = payload.size_bytes;
  if (!payload.rendezvous) {
    if (payload.size_bytes > 0) std::memcpy(state.buffer, payload.data, payload.size_bytes);
    counters_.received_bytes += payload.size_bytes;
    finish(request);
    return kDone;
  }
  ++state.flights;
  auto flight = new_flight(Cargo::message, id, {});
  flight->size_bytes = payload.size_bytes;
  submit_receive(std::move(flight), payload.data, state.buffer);
  return kTaken;
}

void Link::take_withdrawal(std::uint64_t sequence) {
  // Received already, or under way: then there is nothing to take back.
  for (auto& [tag, mailbox] : mailboxes_)
    for (auto message = mailbox.messages.begin(); message != mailbox.messages.end(); ++message) {
      if (message->sequence != sequence) continue;
      count_unexpected(-1, message->bytes.size());
      release(*message);
      mailbox.messages.erase(message);
      if (mailbox.messages.empty() && mailbox.receives.empty()) mailboxes_.erase(tag);
      return;
    }
}

}  // namespace causeway::ucx
