#include "transport/ucx/link.h"

#include <random>
#include <utility>

namespace causeway::ucx {

namespace {
constexpr std::uint64_t kOwnAlarm = 0;

// Only a UCX that takes memory of devices is given any: no machine of ours has had one.
void name_memory(ucp_request_param_t& param, bool is_device) {
  if (!is_device) return;
  param.op_attr_mask |= UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  param.memory_type = UCS_MEMORY_TYPE_CUDA;
}

}  // namespace

std::uint64_t new_key() {
  std::random_device source;
  return (std::uint64_t{source()} << 32) | source();
}

Link::Link(std::shared_ptr<Worker> worker, const SocketAddress& peer, Setup setup, bool connecting)
    : worker_(std::move(worker)),
      links_(std::move(setup.links)),
      service_(setup.service),
      own_(std::move(setup.own)),
      peer_{Hello::Role::node, peer.to_string(), 0, {}},
      peer_address_(peer.to_string()),
      opened_(std::move(setup.opened)),
      connecting_(connecting),
      own_key_(new_key()),
      own_alarm_(worker_->no_alarm()) {}

Link::~Link() {
  if (!connecting_) links_->by_number.erase(own_key_);
  worker_->count_unexpected(0 - unexpected_bytes_);  // What nobody took.
}

ChannelId Link::id() const noexcept {
  return connecting_ ? ChannelId{peer_transport_, peer_key_}
                     : ChannelId{links_->transport, own_key_};
}

void Link::connect(std::shared_ptr<Worker> worker, const SocketAddress& to, Setup setup) {
  const auto deadline = setup.deadline;
  const std::shared_ptr<Link> link(new Link(std::move(worker), to, std::move(setup), true));
  link->worker_->adopt(link);
  link->own_alarm_ = link->worker_->set_alarm(deadline, {link.get(), kOwnAlarm});
  link->lifeline_ =
      Lifeline::connect(link->worker_->context(), to, [link](const std::optional<Error>& error) {
        if (error) return link->lose(*error);
        link->greet();
      });
}

void Link::greet() {
  const auto self = shared_from_this();
  lifeline_->send(frame(Greeting{own_key_, own_}), [self](const std::optional<Error>& error) {
    if (error) self->lose(*error);
  });
  lifeline_->receive([self](const std::optional<Error>& error, const Lifeline::Frame& frame) {
    if (error) return self->lose(*error);
    try {
      self->take_reply(frame);
    } catch (const Error& failure) {
      self->lose(failure);
    }
  });
}

void Link::take_reply(const Lifeline::Frame& frame) {
  if (frame.kind == FrameKind::refusal) {
    const auto failure = decode_failure(frame.body);
    if (!failure) throw Error(Errc::protocol, describe() + " sent a malformed refusal");
    throw Error(failure->code(), peer_address_ + " refused: " + failure->what());
  }
  if (frame.kind != FrameKind::welcome)
    throw Error(Errc::protocol, describe() + " answered a greeting with a greeting");
  take_welcome(frame);
}

void Link::take_welcome(const Lifeline::Frame& frame) {
  auto welcome = decode_welcome(frame.body);
  if (!welcome) throw Error(Errc::protocol, describe() + " sent a malformed welcome");
  if (!welcome->name.empty()) peer_.name = std::move(welcome->name);
  peer_key_ = welcome->key;
  peer_transport_ = welcome->transport;
  let_in(std::move(welcome->hosts));
  watch_lifeline();
  auto to = lifeline_->peer();
  to.set_port(welcome->port);
  endpoint_ = worker_->connect(to, *this);
  submit(new_flight(Cargo::control, 0, {.op = Op::hello}), nullptr, 0);
}

void Link::accept(std::shared_ptr<Worker> worker, std::shared_ptr<Lifeline> line, Greeting greeting,
                  Setup setup) {
  const auto deadline = setup.deadline;
  const std::shared_ptr<Link> link(
      new Link(std::move(worker), line->peer(), std::move(setup), false));
  link->lifeline_ = std::move(line);
  link->peer_ = std::move(greeting.hello);
  link->peer_key_ = greeting.key;
  // A peer on this machine may reach UCX from the address that UCX itself is bound to.
  link->let_in(link->lifeline_->is_within_one_host() ? link->worker_->guard().hosts()
                                                     : std::vector<HostBytes>());
  link->worker_->adopt(link);
  link->worker_->expect(link->own_key_, *link);
  link->own_alarm_ = link->worker_->set_alarm(deadline, {link.get(), kOwnAlarm});
  const auto& guard = link->worker_->guard();
  link->lifeline_->send(frame(Welcome{link->own_key_, link->links_->transport,
                                      link->worker_->port(), link->own_.name, guard.hosts()}),
                        [link](const std::optional<Error>& error) {
                          if (error) link->lose(*error);
                        });
  link->watch_lifeline();
}

void Link::let_in(std::vector<HostBytes> hosts) {
  hosts.push_back(lifeline_->peer().host());
  pass_ = worker_->let_in(hosts);
}

void Link::watch_lifeline() {
  lifeline_->watch([self = shared_from_this()](Lifeline::End end) {
    const bool is_silent = end == Lifeline::End::silence;
    if (is_silent) self->is_peer_gone_ = true;
    if (is_silent && !self->failure_)
      return self->lose(
          Error(Errc::peer_lost, self->describe() + " was lost: no answer from its machine"));
    if (self->phase_ == Phase::greeting)
      return self->lose(Error(Errc::peer_lost, self->describe() + " hung up"));
    if (self->phase_ == Phase::leaving) self->is_peer_gone_ = true;
    // What it sent before may say why it left.
    if (self->phase_ == Phase::open) self->await_last_words();
    self->worker_->mark(*self);
  });
}

void Link::await_last_words() {
  worker_->clear_alarm(own_alarm_);
  own_alarm_ = worker_->set_alarm(std::chrono::steady_clock::now() + kLastWords, {this, kOwnAlarm});
}

void Link::arrive(ucp_ep_h endpoint) {
  endpoint_ = endpoint;
  if (failure_) return;  // The link ends, and closes this endpoint with it.
  become_open();
  submit(new_flight(Cargo::control, 0, {.op = Op::welcome}), nullptr, 0);
}

void Link::become_open() {
  worker_->shield_data_sockets();  // Before anything is sent that a reset could hit.
  phase_ = Phase::open;
  if (!connecting_) links_->by_number[own_key_] = weak_from_this();
  pass_.reset();
  if (wished_stream()) set_settings(settings_);
  worker_->clear_alarm(own_alarm_);
  worker_->later([opened = std::exchange(opened_, {}), link = shared_from_this()] {
    // Who waits for a channel may be gone with the transport.
    if (link->worker_->is_stopped()) return opened(link->failure_, nullptr);
    opened(std::nullopt, link);
  });
}

std::string Link::describe() const {
  return peer_.name == peer_address_ ? peer_address_ : peer_.name + " (" + peer_address_ + ")";
}

void Link::on_endpoint_error(ucs_status_t status) {
  is_peer_gone_ = true;
  if (phase_ == Phase::greeting && connecting_)
    lose(ucx_error(Errc::peer_lost, "UCX cannot connect to " + peer_address_, status));
  else
    lose(ucx_error(Errc::peer_lost, describe() + " was lost", status));
}

void Link::lose(const Error& reason) {
  if (!failure_) failure_ = reason;
  worker_->mark(*this);
}

void Link::break_off(const Error& reason) {
  if (!failure_) {
    failure_ = reason;
    tell_peer_ = true;
  }
  worker_->mark(*this);
}

void Link::close(const Error& reason) { break_off(reason); }

void Link::on_close(std::function<void(const Error&)> handler) {
  if (phase_ == Phase::greeting || phase_ == Phase::open)
    on_close_ = std::move(handler);
  else if (handler)
    worker_->later([handler = std::move(handler), reason = *failure_] { handler(reason); });
}

void Link::advance() {
  if (failure_ && (phase_ == Phase::greeting || phase_ == Phase::open)) end(*failure_);
  if (phase_ == Phase::open) issue();
  if (phase_ == Phase::leaving && is_peer_gone_) force_close();
  if (is_endpoint_gone_ && flights_ == 0 && copies_ == 0) {
    worker_->clear_alarm(own_alarm_);
    worker_->forget(*this);  // The caller holds the link.
    be_gone();
  }
}

void Link::be_gone() {
  is_gone_ = true;
  for (const auto& function : std::exchange(when_gone_, {})) function();
}

void Link::end(const Error& reason) {
  const bool was_open = phase_ == Phase::open;
  phase_ = Phase::leaving;
  worker_->clear_alarm(own_alarm_);
  worker_->expect_no_more(own_key_);
  end_requests(reason);
  close_stream();
  leave_line();
  worker_->turnstile().forget(this);
  if (opened_)
    worker_->later([opened = std::exchange(opened_, {}), reason] { opened(reason, nullptr); });
  if (on_close_)
    worker_->later([handler = std::exchange(on_close_, {}), reason] { handler(reason); });
  if (!tell_peer_ || is_peer_gone_ || !was_open) return force_close();
  // A forced close may overtake the farewell, so the peer gets a moment to leave first.
  own_alarm_ = worker_->set_alarm(std::chrono::steady_clock::now() + kLinger, {this, kOwnAlarm});
  submit_text(Cargo::control, {.op = Op::bye}, encode(reason));
}

void Link::on_alarm(std::uint64_t id) {
  if (id != kOwnAlarm) return expire(requests_.find(id));
  worker_->clear_alarm(own_alarm_);
  if (is_endpoint_gone_ && copies_ > 0) {  // These end by themselves.
    own_alarm_ = worker_->set_alarm(std::chrono::steady_clock::now() + kGrace, {this, kOwnAlarm});
    return;
  }
  if (is_endpoint_gone_) return abandon();
  if (phase_ == Phase::greeting)
    lose(Error(Errc::timed_out, connecting_ ? "no answer from " + peer_address_ + " in time"
                                            : describe() + " did not connect in time"));
  if (phase_ == Phase::open)
    lose(Error(Errc::peer_lost, describe() + " was lost: it hung up without a word"));
  is_peer_gone_ = true;
  worker_->mark(*this);
}

void Link::force_close() {
  if (phase_ == Phase::closed) return;
  if (phase_ != Phase::leaving) {
    if (!failure_) failure_ = Error(Errc::cancelled, "the transport was destroyed");
    tell_peer_ = false;
    is_peer_gone_ = true;
    return end(*failure_);
  }
  worker_->clear_alarm(own_alarm_);
  phase_ = Phase::closed;
  pass_.reset();
  lifeline_->close();
  if (endpoint_ == nullptr) {
    is_endpoint_gone_ = true;
    return worker_->mark(*this);
  }
  worker_->unbind(endpoint_);
  auto keep = std::make_unique<std::shared_ptr<Link>>(shared_from_this());
  ucp_request_param_t param{};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  param.cb.send = &Link::on_force_closed;
  param.user_data = keep.get();
  const auto request = ucp_ep_close_nbx(std::exchange(endpoint_, nullptr), &param);
  if (UCS_PTR_IS_PTR(request)) {
    (void)keep.release();  // on_force_closed() takes it.
    return;
  }
  is_endpoint_gone_ = true;
  own_alarm_ = worker_->set_alarm(std::chrono::steady_clock::now() + kGrace, {this, kOwnAlarm});
  worker_->mark(*this);
}

void Link::on_force_closed(void* request, ucs_status_t, void* self) {
  const std::unique_ptr<std::shared_ptr<Link>> owner(static_cast<std::shared_ptr<Link>*>(self));
  const auto& link = *owner;
  ucp_request_free(request);
  link->is_endpoint_gone_ = true;
  // UCX completes what is outstanding when it closes by force. Should it forget one, its
  // connection is gone all the same, and on_alarm() ends it.
  link->own_alarm_ =
      link->worker_->set_alarm(std::chrono::steady_clock::now() + kGrace, {link.get(), kOwnAlarm});
  link->worker_->mark(*link);
}

void Link::abandon() {
  phase_ = Phase::closed;
  lifeline_->close();
  worker_->clear_alarm(own_alarm_);
  while (!requests_.empty()) finish(requests_.begin());
  worker_->turnstile().forget(this);
  worker_->forget(*this);
  be_gone();
}

std::unique_ptr<Link::Flight> Link::new_flight(Cargo cargo, std::uint64_t id, Header header) {
  header.key = peer_key_;
  auto flight = std::make_unique<Flight>();
  flight->link = shared_from_this();
  flight->cargo = cargo;
  flight->id = id;
  flight->header = encode(header);
  return flight;
}

void Link::submit_text(Cargo cargo, const Header& header, std::vector<std::byte> text) {
  auto flight = new_flight(cargo, header.id, header);
  flight->text = std::move(text);
  const auto* data = flight->text.data();
  const auto size_bytes = flight->text.size();
  submit(std::move(flight), data, size_bytes);
}

void Link::submit(std::unique_ptr<Flight> flight, const void* data, std::uint64_t size_bytes,
                  std::uint64_t eager_bytes) {
  ++flights_;
  flight->size_bytes = size_bytes;
  if (endpoint_ == nullptr) return land(*flight, UCS_ERR_NOT_CONNECTED);
  ucp_request_param_t param{};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_AM_SEND_FLAG_REPLY |
                (size_bytes > eager_bytes ? UCP_AM_SEND_FLAG_RNDV : UCP_AM_SEND_FLAG_EAGER);
  param.cb.send = &Link::on_sent;
  name_memory(param, flight->is_device);
  param.user_data = flight.get();
  const auto request =
      ucp_am_send_nbx(endpoint_, 0, flight->header.data(), kHeaderBytes, data, size_bytes, &param);
  worker_->wake();
  if (UCS_PTR_IS_PTR(request))
    (void)flight.release();  // on_sent() takes it.
  else
    land(*flight, UCS_PTR_STATUS(request));
}

void Link::submit_receive(std::unique_ptr<Flight> flight, void* rendezvous, std::byte* into) {
  ++flights_;
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.cb.recv_am = &Link::on_received;
  name_memory(param, flight->is_device);
  param.user_data = flight.get();
  const auto request =
      ucp_am_recv_data_nbx(worker_->handle(), rendezvous, into, flight->size_bytes, &param);
  worker_->wake();
  if (UCS_PTR_IS_PTR(request))
    (void)flight.release();  // on_received() takes it.
  else
    land(*flight, UCS_PTR_STATUS(request));
}

void Link::on_sent(void* request, ucs_status_t status, void* flight) {
  const std::unique_ptr<Flight> owner(static_cast<Flight*>(flight));
  ucp_request_free(request);
  owner->link->land(*owner, status);
}

void Link::on_received(void* request, ucs_status_t status, std::size_t, void* flight) {
  on_sent(request, status, flight);
}

void Link::land(Flight& flight, ucs_status_t status) {
  --flights_;
  const bool good = status == UCS_OK;
  if (!good) lose(ucx_error(Errc::peer_lost, describe() + " was lost", status));
  if (good && flight.by_stream) counters_.streamed_bytes += flight.size_bytes;
  switch (flight.cargo) {
    case Cargo::control:
      break;
    case Cargo::answer:
      --serving_;
      break;
    case Cargo::peer_read:
      --serving_;
      if (good) counters_.sent_bytes += flight.size_bytes;
      leave_turnstile(flight.tenant, flight.size_bytes);
      break;
    case Cargo::peer_write:
      if (flight.staged && good && !failure_) {
        land_staged(flight.staged);
        break;
      }
      if (good) counters_.received_bytes += flight.size_bytes;
      flight.pin.reset();
      if (good && !flight.staged)
        answer(Op::write_done, flight.id);
      else
        --serving_;
      leave_turnstile(flight.tenant, flight.size_bytes);
      break;
    case Cargo::chunk:
      land_chunk(flight, good);
      break;
    case Cargo::message:
      land_message(flight, good);
      break;
  }
  if (phase_ == Phase::closed && flights_ == 0) worker_->mark(*this);
}

}  // namespace causeway::ucx
