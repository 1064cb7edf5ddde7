#include "transport/ucx/worker.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <utility>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <cstdlib>
#include <thread>

#include "transport/ucx/link.h"
#include "transport/ucx/log.h"

namespace causeway::ucx {

namespace {

// What is on its way into or out of memory that this side serves, of all links together.
constexpr std::uint64_t kServingBytes = 64 << 20;
// Copies of messages that nobody received yet, likewise.
constexpr std::uint64_t kUnexpectedBytes = 256 << 20;

using std::chrono::steady_clock;

constexpr unsigned kMessageId = 0;
constexpr auto kSlice = std::chrono::microseconds(300);  // Then other handlers get their turn.
// Between two parts of a transfer a sleep costs more than it saves: half of the rate on loopback.
constexpr auto kSpin = std::chrono::microseconds(50);
constexpr auto kStalled = std::chrono::seconds(10);     // In service, while others wait.
constexpr auto kTick = std::chrono::milliseconds(100);  // In case the event fd stays silent.
constexpr auto kFarewell = std::chrono::milliseconds(100);
constexpr auto kTeardown = std::chrono::milliseconds(1000);
constexpr auto kIntroduction = std::chrono::seconds(5);  // For an arrival to name its key.
constexpr std::size_t kMaxArrivals = 256;
constexpr std::size_t kSpareDescriptors = 8;
constexpr std::size_t kLinkDescriptors = 4;

struct Default {
  const char* variable;  // Of the user's environment: its word is final. Null: not to be changed.
  const char* key;       // UCX names transport settings without the transport here.
  std::string value;
};

// The figures behind these: docs/transport.md.
std::vector<Default> defaults(const std::string& interface, bool ipv6) {
  std::vector<Default> list{
      {"UCX_TLS", "TLS", "tcp"},
      {"UCX_TCP_TX_SEG_SIZE", "TX_SEG_SIZE", "256K"},
      // UCX sends frames of its own receive size, and one that is larger than the peer's aborts the
      // peer: so this is part of the wire, and the same for all.
      {nullptr, "RX_SEG_SIZE", "512K"},
      {"UCX_TCP_AF_PRIO", "AF_PRIO", ipv6 ? "inet6" : "inet"},
      // A put names any address of this process, and its acknowledgement may abort it.
      {"UCX_TCP_PUT_ENABLE", "PUT_ENABLE", "n"},
      // Else a connection to a machine that does not answer is waited for, and everybody with it.
      {"UCX_TCP_CONN_NB", "CONN_NB", "y"},
      // The lifeline notices a machine that vanished; an error of the data socket could abort us.
      {"UCX_TCP_KEEPIDLE", "KEEPIDLE", "inf"},
  };
  if (!interface.empty()) list.push_back({"UCX_NET_DEVICES", "NET_DEVICES", interface});
  return list;
}

}  // namespace

Error ucx_error(Errc code, const std::string& what, ucs_status_t status) {
  const auto detail = take_last_error();
  return Error(
      code, what + ": " + ucs_status_string(status) + (detail.empty() ? "" : " (" + detail + ")"));
}

struct Worker::Waiter {
  explicit Waiter(boost::asio::io_context& context)
      : event(context), streams(context), timer(context) {}
  boost::asio::posix::stream_descriptor event;
  boost::asio::posix::stream_descriptor streams;
  boost::asio::steady_timer timer;
};

std::shared_ptr<Worker> Worker::create(boost::asio::io_context& context, std::string interface,
                                       bool ipv6) {
  keep_log_quiet();
  std::shared_ptr<Worker> worker(new Worker(context));
  worker->open(interface, ipv6);
  return worker;
}

Worker::Worker(boost::asio::io_context& context)
    : context_(context), turnstile_(kServingBytes), waiter_(std::make_unique<Waiter>(context)) {}

void Worker::make_room_for_unexpected(std::uint64_t size_bytes) {
  if (unexpected_bytes_ + size_bytes <= kUnexpectedBytes) return;
  Link* most = nullptr;
  for (const auto& [link, owner] : links_)
    if (link->is_open() && (most == nullptr || link->unexpected_bytes() > most->unexpected_bytes()))
      most = link;
  if (most == nullptr || most->unexpected_bytes() == 0) return;  // It is others that are gone.
  most->break_off(Error(Errc::exhausted,
                        std::to_string(unexpected_bytes_) +
                            " bytes of messages wait here that nobody received, most of them from "
                            "this peer; receive more often, or send less"));
}

void Worker::open(const std::string& interface, bool ipv6) {
  const auto check = [](ucs_status_t status, const char* what) {
    if (status != UCS_OK) throw ucx_error(Errc::io, std::string("UCX cannot ") + what, status);
  };
  ucp_config_t* config = nullptr;
  check(ucp_config_read(nullptr, nullptr, &config), "read its configuration");
  const std::unique_ptr<ucp_config_t, decltype(&ucp_config_release)> owner(config,
                                                                           ucp_config_release);
  for (const auto& [variable, key, value] : defaults(interface, ipv6))
    if (variable == nullptr || std::getenv(variable) == nullptr)
      check(ucp_config_modify(config, key, value.c_str()), key);

  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;  // No RMA: no handler takes an address.
  params.name = "causeway";
  check(ucp_init(&params, config, &ucp_), "start; see UCX_LOG_LEVEL=info");

  ucp_context_attr_t abilities{};
  abilities.field_mask = UCP_ATTR_FIELD_MEMORY_TYPES;
  check(ucp_context_query(ucp_, &abilities), "tell which memory it takes");
  takes_devices_ = (abilities.memory_types & UCS_BIT(UCS_MEMORY_TYPE_CUDA)) != 0;

  ucp_worker_params_t worker_params{};
  worker_params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE | UCP_WORKER_PARAM_FIELD_EVENTS;
  worker_params.thread_mode = UCS_THREAD_MODE_SERIALIZED;  // Made on one thread, run on another.
  worker_params.events = UCP_WAKEUP_RX | UCP_WAKEUP_TX;
  guard_ = std::make_unique<SocketGuard>();
  check(ucp_worker_create(ucp_, &worker_params, &worker_), "create a worker");
  ucp_worker_attr_t attributes{};
  attributes.field_mask = UCP_WORKER_ATTR_FIELD_ADDRESS;
  check(ucp_worker_query(worker_, &attributes), "tell its address");
  const std::vector<std::byte> address(
      reinterpret_cast<const std::byte*>(attributes.address),
      reinterpret_cast<const std::byte*>(attributes.address) + attributes.address_length);
  ucp_worker_release_address(worker_, attributes.address);
  guard_->close_ports(address);

  ucp_am_handler_param_t handler{};
  handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                       UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  handler.id = kMessageId;
  handler.flags = UCP_AM_FLAG_WHOLE_MSG;
  handler.cb = &Worker::on_message;
  handler.arg = this;
  check(ucp_worker_set_am_recv_handler(worker_, &handler), "take active messages");

  check(ucp_worker_get_efd(worker_, &event_fd_), "give an event descriptor");
  // Asio closes what it is given.
  const auto assign = [](auto& to, int fd) {
    const int own_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own_fd < 0) throw system_error("cannot duplicate an event descriptor", errno);
    to.assign(own_fd);
  };
  assign(waiter_->event, event_fd_);
  assign(waiter_->streams, streams_.fd());
  static_cast<void>(has_descriptors());  // If not now, then before the first link.
  wake();
  arm_timer();
}

Worker::~Worker() { release(); }  // Links hold their worker, so none is left.

void Worker::listen(SocketAddress address) {
  address.set_port(0);
  ucp_listener_params_t params{};
  params.field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER;
  params.sockaddr.addr = address.get();
  params.sockaddr.addrlen = address.size_bytes;
  params.conn_handler.cb = [](ucp_conn_request_h request, void* self) {
    auto* worker = static_cast<Worker*>(self);
    worker->later([worker, request] { worker->take_connection(request); });
  };
  params.conn_handler.arg = this;
  const auto status = ucp_listener_create(worker_, &params, &listener_);
  if (status != UCS_OK)
    throw ucx_error(Errc::io, "UCX cannot listen at " + address.to_string(), status);

  ucp_listener_attr_t attributes{};
  attributes.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR;
  if (const auto queried = ucp_listener_query(listener_, &attributes); queried != UCS_OK)
    throw ucx_error(Errc::io, "cannot learn the port of UCX at " + address.to_string(), queried);
  address.storage = attributes.sockaddr;
  port_ = address.port();
  guard_->close_port(port_);
}

void Worker::take_connection(ucp_conn_request_h request) {
  if (listener_ == nullptr) return;
  if (expected_.empty() || arrivals_.size() >= kMaxArrivals) {
    ucp_listener_reject(listener_, request);
    return;
  }
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST;
  params.conn_request = request;
  try {
    arrivals_.emplace(create_endpoint(params, "a peer"), steady_clock::now() + kIntroduction);
  } catch (const Error&) {
    // It was gone before its connection was made.
  }
}

ucp_ep_h Worker::create_endpoint(ucp_ep_params_t params, const std::string& peer) {
  params.field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.cb = &Worker::on_endpoint_error;
  params.err_handler.arg = this;
  ucp_ep_h endpoint = nullptr;
  const auto status = ucp_ep_create(worker_, &params, &endpoint);
  if (status != UCS_OK) throw ucx_error(Errc::peer_lost, "UCX cannot connect to " + peer, status);
  wake();
  return endpoint;
}

ucp_ep_h Worker::connect(const SocketAddress& to, Link& link) {
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR;
  params.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
  params.sockaddr.addr = to.get();
  params.sockaddr.addrlen = to.size_bytes;
  const auto endpoint = create_endpoint(params, to.to_string());
  endpoints_[endpoint] = &link;
  return endpoint;
}

void Worker::expect(std::uint64_t key, Link& link) { expected_[key] = &link; }
void Worker::expect_no_more(std::uint64_t key) { expected_.erase(key); }

void Worker::on_endpoint_error(void* self, ucp_ep_h endpoint, ucs_status_t status) {
  auto* worker = static_cast<Worker*>(self);
  if (const auto found = worker->endpoints_.find(endpoint); found != worker->endpoints_.end())
    return found->second->on_endpoint_error(status);
  const auto arrival = worker->arrivals_.find(endpoint);
  if (arrival != worker->arrivals_.end()) arrival->second = Deadline::min();
}

// A first message that names a key makes the endpoint that of the link. Others are not for us.
void Worker::take_arrival(ucp_ep_h endpoint, std::span<const std::byte> bytes,
                          std::size_t size_bytes) {
  const auto header = decode_header(bytes);
  const auto link = header ? expected_.find(header->key) : expected_.end();
  if (link == expected_.end() || header->op != Op::hello || size_bytes != 0) {
    arrivals_[endpoint] = Deadline::min();
    return;
  }
  const auto keep = link->second->shared_from_this();
  expected_.erase(link);
  arrivals_.erase(endpoint);
  endpoints_[endpoint] = keep.get();
  try {
    keep->arrive(endpoint);
  } catch (const Error& error) {
    keep->break_off(error);
  }
}

void Worker::discard_arrivals() {
  const auto now = steady_clock::now();
  std::erase_if(arrivals_, [now](const auto& arrival) {
    if (arrival.second > now) return false;
    ucp_request_param_t param{};
    param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    param.flags = UCP_EP_CLOSE_FLAG_FORCE;
    const auto request = ucp_ep_close_nbx(arrival.first, &param);
    if (UCS_PTR_IS_PTR(request)) ucp_request_free(request);
    return true;
  });
}

// What a Pass of let_in() owns.
struct Worker::Introduction {
  Introduction(std::shared_ptr<Worker> at, SocketGuard::Pass guards)
      : worker(std::move(at)), pass(std::move(guards)) {
    ++worker->introductions_;
    worker->spares_.release();
  }
  ~Introduction() {
    pass.reset();
    // What is missing then is asked for again before the next one.
    if (--worker->introductions_ == 0 && !worker->stopped_)
      static_cast<void>(worker->spares_.hold(kSpareDescriptors));
  }
  Introduction(const Introduction&) = delete;
  Introduction& operator=(const Introduction&) = delete;

  std::shared_ptr<Worker> worker;
  SocketGuard::Pass pass;
};

bool Worker::has_descriptors() {
  const bool enough = spares_.hold(kSpareDescriptors + kLinkDescriptors * introductions_);
  if (introductions_ > 0) spares_.release();
  return enough;
}

SocketGuard::Pass Worker::let_in(std::span<const HostBytes> hosts) {
  if (!has_descriptors())
    throw Error(Errc::exhausted, "no file descriptors are left; see ulimit -n");
  return std::make_shared<Introduction>(shared_from_this(), guard_->let_in(hosts));
}

void Worker::shield_data_sockets() { guard_->shield_data(event_fd_); }

void Worker::adopt(std::shared_ptr<Link> link) {
  auto* key = link.get();
  links_.emplace(key, std::move(link));
}

void Worker::unbind(ucp_ep_h endpoint) { endpoints_.erase(endpoint); }

void Worker::forget(Link& link) { links_.erase(&link); }

void Worker::mark(Link& link) {
  // After stop() nothing advances any more, and the two would keep each other.
  if (worker_ == nullptr) return;
  marked_.push_back(link.shared_from_this());
  wake();
}

void Worker::later(std::function<void()> function) {
  if (stopped_) return boost::asio::post(context_, std::move(function));
  finished_.push_back(std::move(function));
  wake();
}

void Worker::finish(Completion done, std::optional<Error> error, std::uint64_t bytes) {
  later([done = std::move(done), error = std::move(error), bytes] { done(error, bytes); });
}

void Worker::wake() {
  if (scheduled_ || pumping_) return;
  scheduled_ = true;
  boost::asio::post(context_, [self = shared_from_this()] {
    self->scheduled_ = false;
    self->pump();
  });
}

bool Worker::turn() {
  bool moved = ucp_worker_progress(worker_) != 0;
  moved |= streams_.progress();
  while (!marked_.empty()) {
    moved = true;
    for (const auto& link : std::exchange(marked_, {})) link->advance();
  }
  return moved;
}

bool Worker::deliver() {
  if (finished_.empty()) return false;
  for (const auto& function : std::exchange(finished_, {})) function();
  return true;
}

void Worker::pump() {
  if (pumping_) return;
  const auto self = shared_from_this();  // User code may let go of the transport.
  pumping_ = true;
  const auto until = steady_clock::now() + kSlice;
  while (!stopped_) {
    bool moved = turn();
    moved |= deliver();
    if (stopped_) break;
    const auto now = steady_clock::now();
    if (moved) moved_at_ = now;
    const bool is_hot = now - moved_at_ < kSpin;
    if (is_hot && now < until) {
      // The one that we wait for may have no other core than this.
      if (!moved) ::sched_yield();
      continue;
    }
    if (is_hot || ucp_worker_arm(worker_) == UCS_ERR_BUSY) {
      again_ = true;
      break;
    }
    await_events();
    break;
  }
  if (stopped_) deliver();
  pumping_ = false;
  if (std::exchange(again_, false) || !finished_.empty()) wake();
}

void Worker::await_events() {
  const auto wait = [this](boost::asio::posix::stream_descriptor& event, bool Worker::*awaits) {
    if (std::exchange(this->*awaits, true)) return;
    event.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                     [self = shared_from_this(), awaits](boost::system::error_code error) {
                       (*self).*awaits = false;
                       if (!error) self->pump();
                     });
  };
  wait(waiter_->event, &Worker::awaits_ucx_);
  wait(waiter_->streams, &Worker::awaits_streams_);
}

Worker::Alarms::iterator Worker::set_alarm(Deadline at, Alarm alarm) {
  const auto entry = alarms_.emplace(at, alarm);
  if (at < timer_at_) arm_timer();
  return entry;
}

void Worker::clear_alarm(Alarms::iterator& alarm) {
  if (alarm != alarms_.end()) alarms_.erase(std::exchange(alarm, alarms_.end()));
}

void Worker::arm_timer() {
  timer_at_ = steady_clock::now() + kTick;
  if (!alarms_.empty()) timer_at_ = std::min(timer_at_, alarms_.begin()->first);
  waiter_->timer.expires_at(timer_at_);
  waiter_->timer.async_wait([weak = weak_from_this()](boost::system::error_code error) {
    const auto self = weak.lock();
    if (error || !self || self->stopped_) return;
    self->run_alarms();
    self->streams_.look();
    self->arm_timer();
    self->pump();
  });
}

void Worker::run_alarms() {
  const auto now = steady_clock::now();
  while (!alarms_.empty() && alarms_.begin()->first <= now) {
    const auto alarm = alarms_.begin()->second;
    const auto link = alarm.link->shared_from_this();
    link->on_alarm(alarm.id);  // Removes the entry, or sets it to a later time.
  }
  discard_arrivals();
  for (const auto owner : turnstile_.stalled(now - kStalled)) {
    auto* const link = static_cast<Link*>(const_cast<void*>(owner));
    link->break_off(Error(Errc::timed_out,
                          "the other end asked to move bytes and then moved none "
                          "for 10 s, while others waited"));
  }
  if (std::ranges::none_of(links_, [](const auto& each) { return each.first->is_in_line(); }))
    return;
  for (const auto& [link, owner] : links_)
    if (link->holds_slot_since(now - kStalled))
      link->break_off(Error(Errc::timed_out,
                            "the other end kept a slot of pinned memory for 10 s, while others "
                            "waited for one"));
}

ucs_status_t Worker::on_message(void* self, const void* header, std::size_t header_bytes,
                                void* data, std::size_t size, const ucp_am_recv_param_t* param) {
  auto* worker = static_cast<Worker*>(self);
  // What cannot be told to be of a link is dropped: there is nobody to answer.
  if ((param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP) == 0) return UCS_OK;
  const std::span head(static_cast<const std::byte*>(header), header_bytes);
  if (worker->arrivals_.contains(param->reply_ep)) {
    worker->take_arrival(param->reply_ep, head, size);
    return UCS_OK;
  }
  const auto found = worker->endpoints_.find(param->reply_ep);
  if (found == worker->endpoints_.end()) return UCS_OK;
  const auto link = found->second->shared_from_this();
  try {
    const auto decoded = decode_header(head);
    if (!decoded) {
      link->break_off(Error(Errc::protocol, "a message with a malformed header of " +
                                                std::to_string(header_bytes) + " bytes"));
      return UCS_OK;
    }
    const bool rendezvous = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0;
    return link->on_message(*decoded, {data, size, rendezvous});
  } catch (const std::exception& error) {
    link->break_off(Error(Errc::internal, std::string("taking a message: ") + error.what()));
    return UCS_OK;
  }
}

void Worker::drain_links(Deadline until) {
  while (!links_.empty() && steady_clock::now() < until)
    if (!turn()) {
      run_alarms();
      std::this_thread::yield();
    }
}

void Worker::stop(const Error& reason) {
  if (stopped_) return;
  stopped_ = true;
  const bool was_pumping = std::exchange(pumping_, true);  // No user code until this is over.
  guard_->forget_ports();
  if (listener_ != nullptr) ucp_listener_destroy(std::exchange(listener_, nullptr));
  for (auto& [endpoint, deadline] : arrivals_) deadline = Deadline::min();
  auto links = links_;  // advance() forgets links while we look at them.
  for (const auto& [key, link] : links) link->close(reason);
  drain_links(steady_clock::now() + kFarewell);
  links = links_;
  for (const auto& [key, link] : links) link->force_close();
  drain_links(steady_clock::now() + kTeardown);
  release();
  links = std::exchange(links_, {});
  for (const auto& [key, link] : links) link->abandon();
  endpoints_.clear();
  marked_.clear();
  pumping_ = was_pumping;
  // What is to be told still is the loop's from here on: it may end without another turn, and the
  // links in there would keep this worker, and it them.
  for (auto& function : std::exchange(finished_, {}))
    boost::asio::post(context_, std::move(function));
}

void Worker::release() noexcept {
  waiter_.reset();
  spares_.release();
  if (worker_ != nullptr) ucp_worker_destroy(std::exchange(worker_, nullptr));
  if (ucp_ != nullptr) ucp_cleanup(std::exchange(ucp_, nullptr));
  guard_.reset();
}

}  // namespace causeway::ucx
