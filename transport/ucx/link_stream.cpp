// The stream of a link: how it comes to be, and what goes by it.
//
// The connecting side asks for it with its settings; until it is there, and if it never comes,
// parts go by UCX. A write is announced over UCX, and sent when the peer has a place for it; a read
// is asked for over UCX, and its place is there already.
#include <cstdlib>
#include <string_view>
#include <utility>

#include "transport/ucx/link.h"

namespace causeway::ucx {

namespace {

ucs_status_t status_of(bool is_whole) { return is_whole ? UCS_OK : UCS_ERR_CANCELED; }

}  // namespace

std::optional<bool> Link::wished_stream() {
  static const auto wished = []() -> std::optional<bool> {
    const char* const value = std::getenv("CAUSEWAY_LINK_STREAM");
    const std::string_view wish(value == nullptr ? "" : value);
    if (wish.empty()) return std::nullopt;
    if (wish == "yes" || wish == "no") return wish == "yes";
    throw Error(Errc::invalid_argument,
                "CAUSEWAY_LINK_STREAM is \"" + std::string(wish) + "\"; it can be yes or no");
  }();
  return wished;
}

void Link::ask_for_stream() {
  if (!connecting_ || !is_open() || joining_ || stream_) return;
  // Without one the link goes on; `joining_` stays, so that nobody asks again.
  joining_ = Lifeline::connect(worker_->context(), lifeline_->peer(),
                               [self = shared_from_this()](const std::optional<Error>& error) {
                                 if (error) return self->joining_->close();
                                 self->joining_->send(frame(Join{self->peer_key_}),
                                                      [](const std::optional<Error>&) {});
                                 self->joining_->await_word([self] { self->joining_->close(); });
                               });
}

void Link::take_stream() {
  if (!joining_ || joining_->is_closed() || stream_) {
    violate("a stream that nobody asked for");
    return;
  }
  open_stream(*joining_);
}

void Link::open_stream(Lifeline& line) {
  Stream::Owner& owner = *this;
  stream_ = std::make_unique<Stream>(worker_->streams(), UniqueFd(line.release()), owner);
}

void Link::join(const std::shared_ptr<Lifeline>& line) {
  const bool is_unwished = !wished_stream().value_or(true);
  if (connecting_ || !is_open() || stream_ || is_unwished) return line->close();
  try {
    open_stream(*line);
  } catch (const Error&) {
    return;  // It is hung up on, and the peer goes on without.
  }
  submit(new_flight(Cargo::control, 0, {.op = Op::joined}), nullptr, 0);
}

void Link::close_stream() {
  if (joining_) joining_->close();
  if (stream_) stream_->close();
  for (auto& [id, grant] : std::exchange(granted_, {})) land(*grant.flight, status_of(false));
}

// Nothing that was sent by it is lost by that, as far as anybody was told.
void Link::stream_ended(const Error& why) {
  if (failure_ || phase_ != Phase::open) return;
  if (why.code() != Errc::peer_lost && why.code() != Errc::io)
    return break_off(Error(why.code(), describe() + ": " + why.what()));
  await_last_words();  // It may be about to say why.
}

bool Link::goes_by_stream(const Request& request, std::uint64_t size_bytes) const {
  return stream_ && settings_.by_stream && size_bytes > settings_.eager_bytes &&
         (request.kind == Kind::write || request.kind == Kind::read);
}

// What a stream calls when it is done with a flight's bytes.
Stream::Done Link::landing_of(std::unique_ptr<Flight> flight) {
  flight->by_stream = true;
  return [shared = std::shared_ptr<Flight>(std::move(flight))](bool is_whole) {
    shared->link->land(*shared, status_of(is_whole));
  };
}

void Link::submit_by_stream(std::unique_ptr<Flight> flight, StreamHead::Kind kind,
                            std::span<const std::byte> bytes) {
  ++flights_;
  flight->size_bytes = bytes.size();
  if (!stream_) return land(*flight, status_of(false));
  const StreamHead head{kind, flight->id, bytes.size()};
  stream_->send(head, bytes, landing_of(std::move(flight)));
  worker_->wake();
}

// A place for a write: `flight` has its size.
void Link::take_bytes(std::unique_ptr<Flight> flight, const Header& header, void* rendezvous,
                      std::byte* into) {
  if (!header.by_stream) return submit_receive(std::move(flight), rendezvous, into);
  ++flights_;
  if (!stream_ || granted_.contains(header.id)) {
    violate("two writes by one name");
    return land(*flight, status_of(false));
  }
  granted_.emplace(header.id, Grant{std::move(flight), into});
  submit(new_flight(Cargo::control, header.id, {.op = Op::go, .id = header.id}), nullptr, 0);
}

void Link::refuse_bytes(void* rendezvous) {
  if (rendezvous != nullptr) ucp_am_data_release(worker_->handle(), rendezvous);
}

void Link::take_go(const Header& header) {
  if (withdrawn_.contains(header.id)) return;  // Its recall is on the way.
  const auto found = chunks_.find(header.id);
  if (found == chunks_.end() || !found->second.by_stream || found->second.is_wanted) {
    violate("a place for no write of ours");
    return;
  }
  auto& chunk = found->second;
  auto& request = requests_.find(chunk.request)->second;
  if (request.kind != Kind::write) {
    violate("a place for what is no write");
    return;
  }
  chunk.is_wanted = true;
  chunk.in_flight = true;
  ++request.flights;
  submit_by_stream(new_flight(Cargo::chunk, header.id, {}), StreamHead::Kind::write,
                   {request.buffer + chunk.offset_bytes, chunk.size_bytes});
}

void Link::take_back(std::uint64_t request) {
  if (!stream_) return;
  for (auto& [id, chunk] : chunks_) {
    if (chunk.request != request || !chunk.is_wanted || !chunk.in_flight) continue;
    if (!stream_->withdraw({StreamHead::Kind::write, id, 0})) continue;
    chunk.in_flight = chunk.is_wanted = false;
    --requests_.find(request)->second.flights;
    --flights_;
  }
}

void Link::recall(std::uint64_t chunk, const Request& request) {
  submit(new_flight(Cargo::control, 0,
                    {.op = Op::recall, .id = chunk, .session = request.address.session}),
         nullptr, 0);
}

// False: no place waits for its bytes. Then they have begun to come, or the answer is under way.
bool Link::recall_granted(std::uint64_t id) {
  const auto found = granted_.find(id);
  if (found == granted_.end()) return false;
  const auto flight = std::move(found->second.flight);
  granted_.erase(found);
  --flights_;
  answer(Op::failed, id, Error(Errc::timed_out, "its bytes had not begun to come"));
  leave_turnstile(flight->tenant, flight->size_bytes);
  return true;
}

Stream::Landing Link::land_frame(const StreamHead& head) {
  if (failure_ || phase_ != Phase::open) return {};
  if (head.kind == StreamHead::Kind::read_data) return land_read_data(head);
  const auto found = granted_.find(head.id);
  if (found == granted_.end() || found->second.flight->size_bytes != head.size_bytes)
    throw Error(Errc::protocol, "the peer sent bytes by its stream that have no place here");
  auto grant = std::move(found->second);
  granted_.erase(found);
  return {grant.into, landing_of(std::move(grant.flight))};
}

Stream::Landing Link::land_read_data(const StreamHead& head) {
  if (withdrawn_.erase(head.id) > 0) {
    if (!unissued_.empty()) worker_->mark(*this);
    if (head.size_bytes > kMaxPartBytes)
      throw Error(Errc::protocol, "the peer sent more by its stream than anybody asks for");
    return {};
  }
  const auto found = chunks_.find(head.id);
  if (found == chunks_.end() || !found->second.by_stream || found->second.in_flight ||
      found->second.size_bytes != head.size_bytes)
    throw Error(Errc::protocol, "the peer sent bytes by its stream that nobody asked for");
  auto& chunk = found->second;
  auto& request = requests_.find(chunk.request)->second;
  if (request.kind != Kind::read)
    throw Error(Errc::protocol, "the peer sent bytes by its stream for what is no read");
  chunk.in_flight = true;
  ++request.flights;
  ++flights_;
  auto flight = new_flight(Cargo::chunk, head.id, {});
  flight->size_bytes = head.size_bytes;
  return {request.buffer + chunk.offset_bytes, landing_of(std::move(flight))};
}

}  // namespace causeway::ucx
