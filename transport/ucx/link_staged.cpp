// Requests of the peer for memory of a device: its bytes pass through slots of pinned memory.
//
// A write is answered once its bytes are on the device. A copy under way counts as in the air, so
// neither the end of the link nor a fence overtakes it.
#include <algorithm>
#include <cstring>
#include <utility>

#include "transport/device/staging.h"
#include "transport/ucx/link.h"

namespace causeway::ucx {

// Of one request, until it is answered.
struct Link::Staged {
  Header header;
  PinnedMemory memory;
  bool takes_turn = true;          // It went through the turnstile, if it is large enough.
  void* rendezvous = nullptr;      // Of a write that is still with its sender, if UCX has it there.
  std::vector<std::byte> eager{};  // Of one that came before there was a slot.
  StagingSlotPtr slot{};
  StagingSlots::Place place{};  // While it waits for one.
  Deadline taken_at{};          // The slot.

  // Until start_staged().
  [[nodiscard]] bool is_with_sender() const noexcept {
    return header.op == Op::write && (rendezvous != nullptr || header.by_stream);
  }
};

void Link::stage(const std::shared_ptr<Staged>& staged) {
  auto& slots = staged->memory.device->served();
  if ((staged->slot = slots.take())) return start_staged(staged);
  const auto at = in_line_.insert(in_line_.end(), staged);
  staged->place = slots.wait([this, at](StagingSlotPtr slot) {
    const auto keep = shared_from_this();
    const auto next = std::move(*at);
    in_line_.erase(at);
    next->place = nullptr;
    next->slot = std::move(slot);
    start_staged(next);
  });
}

void Link::stage_eager(const Header& header, PinnedMemory memory, std::span<const std::byte> data) {
  if (data.size() > kStagingSlotBytes) return refuse_part(header);
  memory.device->check();
  const auto staged = std::make_shared<Staged>(Staged{header, std::move(memory), false});
  if ((staged->slot = staged->memory.device->served().take())) {
    if (!data.empty()) std::memcpy(staged->slot->data(), data.data(), data.size());
    return land_staged(staged);
  }
  // The sender has let go of them: a copy waits, and counts as what nobody received.
  worker_->make_room_for_unexpected(data.size());
  if (unexpected_bytes_ + data.size() > kMaxUnexpectedBytes)
    break_off(Error(Errc::exhausted, describe() + " wrote more than " +
                                         staged->memory.device->report().device +
                                         " takes in here"));
  if (failure_) {
    --serving_;
    return;
  }
  staged->eager.assign(data.begin(), data.end());
  count_unexpected(1, data.size());
  stage(staged);
}

void Link::stage_write(const Header& header, PinnedMemory memory, void* rendezvous) {
  memory.device->check();
  stage(std::make_shared<Staged>(Staged{header, std::move(memory), true, rendezvous}));
}

// A read or a checksum.
void Link::stage_read(const Header& header, PinnedMemory memory) {
  memory.device->check();
  stage(std::make_shared<Staged>(Staged{header, std::move(memory), header.op == Op::read}));
}

void Link::forget_answered() {
  // Not only the oldest: behind one that a peer keeps, others come and go.
  with_slot_.remove_if([](const auto& staged) { return staged.expired(); });
}

// A peer that stops in mid-transfer keeps a slot from others.
bool Link::holds_slot_since(Deadline then) {
  forget_answered();
  const auto oldest = with_slot_.empty() ? nullptr : with_slot_.front().lock();
  return oldest && oldest->taken_at < then;
}

void Link::start_staged(const std::shared_ptr<Staged>& staged) {
  staged->taken_at = std::chrono::steady_clock::now();
  forget_answered();
  with_slot_.push_back(staged);
  auto& memory = staged->memory;
  const auto size_bytes = memory.bytes.size();
  if (staged->header.op == Op::write) {
    if (!staged->is_with_sender()) {
      if (size_bytes > 0) std::memcpy(staged->slot->data(), staged->eager.data(), size_bytes);
      count_unexpected(-1, size_bytes);
      staged->eager = {};
      return land_staged(staged);
    }
    auto flight = new_flight(Cargo::peer_write, staged->header.id, {});
    flight->staged = staged;
    flight->tenant = tenant_of(staged->header);
    flight->size_bytes = size_bytes;
    return take_bytes(std::move(flight), staged->header, std::exchange(staged->rendezvous, nullptr),
                      staged->slot->data());
  }
  ++copies_;
  if (staged->header.op == Op::read)
    return memory.device->copy_out(staged->slot, memory.bytes.data(), size_bytes,
                                   [self = shared_from_this(), staged](const auto& error) {
                                     self->copied_out(staged, error);
                                   });
  memory.device->sum(staged->slot, memory.bytes.data(), size_bytes,
                     [self = shared_from_this(), staged](const auto& error, std::uint64_t sum) {
                       self->end_copy();
                       self->answer(error ? Op::failed : Op::sum_is, staged->header.id, error, sum);
                     });
}

void Link::land_staged(const std::shared_ptr<Staged>& staged) {
  ++copies_;
  auto& memory = staged->memory;
  memory.device->copy_in(
      memory.bytes.data(), staged->slot, memory.bytes.size(),
      [self = shared_from_this(), staged](const auto& error) { self->copied_in(*staged, error); });
}

void Link::copied_in(Staged& staged, const std::optional<Error>& error) {
  end_copy();
  const auto size_bytes = staged.memory.bytes.size();
  if (!error) counters_.received_bytes += size_bytes;
  staged.slot = nullptr;
  staged.memory.pin = nullptr;
  answer(error ? Op::failed : Op::write_done, staged.header.id, error);
  leave_turnstile(staged);
}

void Link::copied_out(const std::shared_ptr<Staged>& staged, const std::optional<Error>& error) {
  end_copy();
  staged->memory.pin = nullptr;
  if (error || !is_open()) {
    answer(Op::failed, staged->header.id,
           error ? error : Error(Errc::closed, "the channel had ended"));
    return leave_turnstile(*staged);
  }
  send_read_data(staged->header, staged->slot->bytes().first(staged->header.part_size_bytes),
                 staged);
}

void Link::leave_turnstile(const Staged& staged) {
  if (staged.takes_turn) leave_turnstile(tenant_of(staged.header), staged.header.part_size_bytes);
}

void Link::end_copy() {
  --copies_;
  if (phase_ == Phase::closed) worker_->mark(*this);
}

// Of a write that waits for a slot: its bytes stay with their sender.
void Link::leave_line(std::list<std::shared_ptr<Staged>>::iterator at) {
  const auto staged = std::move(*at);
  in_line_.erase(at);
  staged->place = nullptr;
  if (staged->is_with_sender())
    refuse_bytes(std::exchange(staged->rendezvous, nullptr));
  else if (staged->header.op == Op::write)
    count_unexpected(-1, staged->eager.size());
}

void Link::leave_line() {
  while (!in_line_.empty()) {
    leave_line(in_line_.begin());
    --serving_;
  }
}

// False: it does not wait here.
bool Link::recall_staged(std::uint64_t id) {
  const auto at = std::ranges::find_if(in_line_, [id](const auto& staged) {
    return staged->header.id == id && staged->is_with_sender();
  });
  if (at == in_line_.end()) return false;
  const auto staged = *at;
  leave_line(at);
  answer(Op::failed, id, Error(Errc::timed_out, "no slot of pinned memory was free in time"));
  leave_turnstile(*staged);
  return true;
}

}  // namespace causeway::ucx
