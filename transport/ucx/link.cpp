#include "transport/ucx/link.h"

#include <random>
#include <utility>

namespace causeway::ucx {

namespace {

constexpr std::uint64_t kOwnAlarm = 0;

std::uint64_t new_key() {
  std::random_device source;
  return (std::uint64_t{source()} << 32) | source();
}

// Statuses of a connection that never came to be.
std::string connect_hint(ucs_status_t status) {
  if (status == UCS_ERR_NOT_CONNECTED || status == UCS_ERR_UNREACHABLE ||
      status == UCS_ERR_CONNECTION_RESET || status == UCS_ERR_REJECTED)
    return std::string(ucs_status_string(status)) + "; is a transport listening there?";
  return ucs_status_string(status);
}

}  // namespace

Link::Link(std::shared_ptr<Worker> worker, Setup setup, bool connecting)
    : worker_(std::move(worker)),
      service_(setup.service),
      own_(std::move(setup.own)),
      peer_{Hello::Role::node, setup.peer, 0, {}},
      peer_address_(std::move(setup.peer)),
      opened_(std::move(setup.opened)),
      connecting_(connecting),
      own_key_(new_key()),
      own_alarm_(worker_->no_alarm()) {}

Link::~Link() = default;

void Link::create_endpoint(ucp_ep_params_t params) {
  params.field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.cb = &Link::on_endpoint_error;
  params.err_handler.arg = this;  // The worker keeps the link until the endpoint is gone.
  const auto status = ucp_ep_create(worker_->handle(), &params, &endpoint_);
  if (status != UCS_OK)
    throw ucx_error(Errc::peer_lost, "cannot connect to " + peer_address_, status);
  worker_->adopt(shared_from_this());
  worker_->bind(endpoint_, *this);
}

void Link::connect(std::shared_ptr<Worker> worker, const SocketAddress& to, Setup setup) {
  const auto deadline = setup.deadline;
  const std::shared_ptr<Link> link(new Link(std::move(worker), std::move(setup), true));
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR;
  params.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
  params.sockaddr.addr = to.get();
  params.sockaddr.addrlen = to.size_bytes;
  link->create_endpoint(params);
  link->own_alarm_ = link->worker_->set_alarm(deadline, {link.get(), kOwnAlarm});
  link->submit_text(Cargo::control, {.op = Op::hello, .id = link->own_key_}, encode(link->own_));
}

void Link::accept(std::shared_ptr<Worker> worker, ucp_conn_request_h request, Setup setup) {
  const auto deadline = setup.deadline;
  const std::shared_ptr<Link> link(new Link(std::move(worker), std::move(setup), false));
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST;
  params.conn_request = request;
  link->create_endpoint(params);
  link->own_alarm_ = link->worker_->set_alarm(deadline, {link.get(), kOwnAlarm});
  link->worker_->wake();
}

std::string Link::describe() const {
  return peer_.name == peer_address_ ? peer_address_ : peer_.name + " (" + peer_address_ + ")";
}

void Link::on_endpoint_error(void* self, ucp_ep_h, ucs_status_t status) {
  auto* link = static_cast<Link*>(self);
  link->is_peer_gone_ = true;
  if (link->phase_ == Phase::greeting && link->connecting_)
    link->lose(Error(Errc::peer_lost,
                     "cannot connect to " + link->peer_address_ + ": " + connect_hint(status)));
  else
    link->lose(ucx_error(Errc::peer_lost, link->describe() + " was lost", status));
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
  if (is_endpoint_gone_ && flights_ == 0) {
    worker_->clear_alarm(own_alarm_);
    worker_->forget(*this);  // The caller holds the link.
  }
}

void Link::end(const Error& reason) {
  const bool was_open = phase_ == Phase::open;
  phase_ = Phase::leaving;
  worker_->clear_alarm(own_alarm_);
  end_requests(reason);
  if (opened_)
    worker_->later([opened = std::exchange(opened_, {}), reason] { opened(reason, nullptr); });
  if (on_close_)
    worker_->later([handler = std::exchange(on_close_, {}), reason] { handler(reason); });
  if (!tell_peer_ || is_peer_gone_ || (!was_open && connecting_)) return force_close();
  // A forced close may overtake the farewell, so the peer gets a moment to leave first.
  own_alarm_ = worker_->set_alarm(std::chrono::steady_clock::now() + kLinger, {this, kOwnAlarm});
  submit_text(Cargo::control, {.op = Op::bye}, encode(reason));
}

void Link::on_alarm(std::uint64_t id) {
  if (id != kOwnAlarm) return expire(requests_.find(id));
  worker_->clear_alarm(own_alarm_);
  if (is_endpoint_gone_) return abandon();
  if (phase_ == Phase::greeting)
    lose(Error(Errc::timed_out, connecting_ ? "no answer from " + peer_address_ + " in time"
                                            : peer_address_ + " did not introduce itself"));
  is_peer_gone_ = true;
  worker_->mark(*this);
}

void Link::force_close() {
  if (endpoint_ == nullptr) return;
  if (phase_ != Phase::leaving) {
    if (!failure_) failure_ = Error(Errc::cancelled, "the transport was destroyed");
    tell_peer_ = false;
    is_peer_gone_ = true;
    return end(*failure_);
  }
  worker_->clear_alarm(own_alarm_);
  worker_->unbind(endpoint_);
  phase_ = Phase::closed;
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
  worker_->clear_alarm(own_alarm_);
  while (!requests_.empty()) finish(requests_.begin());
  worker_->forget(*this);
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

void Link::submit(std::unique_ptr<Flight> flight, const void* data, std::uint64_t size_bytes) {
  ++flights_;
  flight->size_bytes = size_bytes;
  if (endpoint_ == nullptr) return land(*flight, UCS_ERR_NOT_CONNECTED);
  ucp_request_param_t param{};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_AM_SEND_FLAG_REPLY |
                (size_bytes > kEagerBytes ? UCP_AM_SEND_FLAG_RNDV : UCP_AM_SEND_FLAG_EAGER);
  param.cb.send = &Link::on_sent;
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
  switch (flight.cargo) {
    case Cargo::control:
      break;
    case Cargo::answer:
      --serving_;
      break;
    case Cargo::peer_read:
      --serving_;
      if (good) counters_.sent_bytes += flight.size_bytes;
      break;
    case Cargo::peer_write:
      if (good) counters_.received_bytes += flight.size_bytes;
      flight.pin.reset();
      if (good)
        answer(Op::write_done, flight.id, std::nullopt);
      else
        --serving_;
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
