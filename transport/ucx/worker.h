// One UCX worker and its place in the event loop.
//
// Shape:   progress runs on the io_context's thread: until nothing has moved for kSpin, then the
//          worker is armed and its event fd awaited: an idle one costs ten timer ticks a second.
//          Progress gives way to other handlers after kSlice. UCX calls back into links, which only
//          note what happened; completions and other user code run between two progress calls.
//          UCX's own ports are guarded; an endpoint that a peer made is an arrival until it names
//          the key of a link that expects it.
// Errors:  the constructor throws io or unsupported; afterwards trouble ends single links.
// Threads: the io_context's.
#pragma once

#include <ucp/api/ucp.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "transport/channel.h"
#include "transport/proving_ground.h"
#include "transport/ucx/guard.h"
#include "transport/ucx/net.h"
#include "transport/ucx/protocol.h"
#include "transport/ucx/spare_descriptors.h"
#include "transport/ucx/stream.h"
#include "transport/ucx/turnstile.h"

namespace causeway::ucx {

class Link;

class Worker : public std::enable_shared_from_this<Worker> {
 public:
  struct Alarm {
    Link* link;
    std::uint64_t id;
  };
  using Alarms = std::multimap<Deadline, Alarm>;

  // `interface` restricts where UCX listens for data; empty: all interfaces.
  static std::shared_ptr<Worker> create(boost::asio::io_context& context, std::string interface,
                                        bool ipv6);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Lets UCX listen at the host of `address`, at a port of its choice. Errors: io.
  void listen(SocketAddress address);
  [[nodiscard]] std::uint16_t port() const noexcept { return port_; }

  // Closes every link with `reason`, lets farewells out for a moment, and frees what is UCX's.
  // Completions still come, posted to the io_context.
  void stop(const Error& reason);
  [[nodiscard]] bool is_stopped() const noexcept { return stopped_; }

  [[nodiscard]] ucp_worker_h handle() const noexcept { return worker_; }
  // What UCX was built for and UCX_TLS lets it use.
  [[nodiscard]] bool takes_devices() const noexcept { return takes_devices_; }
  [[nodiscard]] boost::asio::io_context& context() const noexcept { return context_; }
  [[nodiscard]] SocketGuard& guard() noexcept { return *guard_; }
  void shield_data_sockets();  // Errors: io.

  // UCX closes its ports for good when it finds no descriptor to accept with. Some are held back,
  // and free only while a Pass lives. has_descriptors() tells whether they do for one link more.
  [[nodiscard]] bool has_descriptors();
  [[nodiscard]] SocketGuard::Pass let_in(
      std::span<const HostBytes> hosts);  // Errors: exhausted, io.

  // A link is kept until it calls forget(). connect() and expect() give it an endpoint, by which it
  // is found until unbind(). Errors: peer_lost.
  void adopt(std::shared_ptr<Link> link);
  [[nodiscard]] ucp_ep_h connect(const SocketAddress& to, Link& link);
  void expect(std::uint64_t key,
              Link& link);  // The endpoint that names `key` goes to its arrive().
  void expect_no_more(std::uint64_t key);
  void unbind(ucp_ep_h endpoint);
  void forget(Link& link);
  [[nodiscard]] std::size_t link_count() const noexcept { return links_.size(); }

  [[nodiscard]] Streams& streams() noexcept { return streams_; }
  [[nodiscard]] Turnstile& turnstile() noexcept { return turnstile_; }
  [[nodiscard]] ProvingGround& proving_ground() noexcept { return proving_ground_; }
  // Copies of messages that nobody received yet, of all links: before they grow past a bound, the
  // link with the most ends.
  void make_room_for_unexpected(std::uint64_t size_bytes);
  void count_unexpected(std::uint64_t more_bytes) noexcept { unexpected_bytes_ += more_bytes; }

  void mark(Link& link);  // Calls link.advance() soon, outside of UCX callbacks.
  void later(std::function<void()> function);  // Likewise, for user code.
  void finish(Completion done, std::optional<Error> error, std::uint64_t bytes);
  void wake();  // Progress soon: something was handed to UCX.

  [[nodiscard]] Alarms::iterator set_alarm(Deadline at, Alarm alarm);
  void clear_alarm(Alarms::iterator& alarm);
  [[nodiscard]] Alarms::iterator no_alarm() noexcept { return alarms_.end(); }

 private:
  struct Waiter;
  struct Introduction;
  explicit Worker(boost::asio::io_context& context);
  void open(const std::string& interface, bool ipv6);
  void pump();
  bool turn();     // One progress call and what follows from it; true if anything moved.
  bool deliver();  // Runs the user code that is due; true if there was any.
  void run_alarms();
  void arm_timer();
  void await_events();
  void drain_links(Deadline until);
  void release() noexcept;
  [[nodiscard]] ucp_ep_h create_endpoint(ucp_ep_params_t params, const std::string& peer);
  void take_connection(ucp_conn_request_h request);
  void take_arrival(ucp_ep_h endpoint, std::span<const std::byte> header, std::size_t size_bytes);
  void discard_arrivals();
  static void on_endpoint_error(void* self, ucp_ep_h endpoint, ucs_status_t status);
  static ucs_status_t on_message(void* self, const void* header, std::size_t header_bytes,
                                 void* data, std::size_t size, const ucp_am_recv_param_t* param);
  static void on_connection(ucp_conn_request_h request, void* self);

  boost::asio::io_context& context_;
  ucp_context_h ucp_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  ucp_listener_h listener_ = nullptr;
  std::uint16_t port_ = 0;
  bool takes_devices_ = false;
  int event_fd_ = -1;  // UCX's.
  std::unique_ptr<SocketGuard> guard_;
  SpareDescriptors spares_;
  Turnstile turnstile_;
  ProvingGround proving_ground_;
  std::uint64_t unexpected_bytes_ = 0;
  std::size_t introductions_ = 0;  // Passes that live.
  Streams streams_;
  std::unique_ptr<Waiter> waiter_;
  std::unordered_map<ucp_ep_h, Link*> endpoints_;
  std::unordered_map<std::uint64_t, Link*> expected_;  // By key.
  std::unordered_map<ucp_ep_h, Deadline> arrivals_;    // Endpoints of no link yet.
  std::unordered_map<Link*, std::shared_ptr<Link>> links_;
  std::vector<std::shared_ptr<Link>> marked_;
  std::vector<std::function<void()>> finished_;
  Alarms alarms_;
  Deadline timer_at_ = Deadline::max();
  Deadline moved_at_{};  // When progress last had something to do.
  bool scheduled_ = false;
  bool pumping_ = false;
  bool again_ = false;
  bool awaits_ucx_ = false;
  bool awaits_streams_ = false;
  bool stopped_ = false;
};

[[nodiscard]] Error ucx_error(Errc code, const std::string& what, ucs_status_t status);

}  // namespace causeway::ucx
