// One UCX worker and its place in the event loop.
//
// Shape:   progress runs on the io_context's thread: until nothing has moved for kSpin, then the
//          worker is armed and its event fd awaited: an idle one costs ten timer ticks a second.
//          Progress gives way to other handlers after kSlice. UCX calls back into links, which only
//          note what happened; completions and other user code run between two progress calls.
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
#include "transport/ucx/net.h"

namespace causeway::ucx {

class Link;

class Worker : public std::enable_shared_from_this<Worker> {
 public:
  struct Alarm {
    Link* link;
    std::uint64_t id;
  };
  using Alarms = std::multimap<Deadline, Alarm>;
  using ConnectionHandler = std::function<void(ucp_conn_request_h)>;

  // `interface` restricts where UCX listens for data; empty: all interfaces.
  static std::shared_ptr<Worker> create(boost::asio::io_context& context, std::string interface,
                                        bool ipv6);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Returns the address with the port that was picked. `handler` runs outside of UCX callbacks.
  // Errors: io.
  SocketAddress listen(const SocketAddress& address, ConnectionHandler handler);
  void reject(ucp_conn_request_h request) noexcept;

  // Closes every link with `reason`, lets farewells out for a moment, and frees what is UCX's.
  // Completions still come, posted to the io_context.
  void stop(const Error& reason);
  [[nodiscard]] bool is_stopped() const noexcept { return stopped_; }

  [[nodiscard]] ucp_worker_h handle() const noexcept { return worker_; }

  // A link is kept until it calls forget(). Between these, `endpoint` finds it.
  void adopt(std::shared_ptr<Link> link);
  void bind(ucp_ep_h endpoint, Link& link);
  void unbind(ucp_ep_h endpoint);
  void forget(Link& link);
  [[nodiscard]] std::size_t link_count() const noexcept { return links_.size(); }

  void mark(Link& link);  // Calls link.advance() soon, outside of UCX callbacks.
  void later(std::function<void()> function);  // Likewise, for user code.
  void finish(Completion done, std::optional<Error> error, std::uint64_t bytes);
  void wake();  // Progress soon: something was handed to UCX.

  [[nodiscard]] Alarms::iterator set_alarm(Deadline at, Alarm alarm);
  void clear_alarm(Alarms::iterator& alarm);
  [[nodiscard]] Alarms::iterator no_alarm() noexcept { return alarms_.end(); }

 private:
  struct Waiter;
  explicit Worker(boost::asio::io_context& context);
  void open(const std::string& interface, bool ipv6);
  void pump();
  bool turn();     // One progress call and what follows from it; true if anything moved.
  bool deliver();  // Runs the user code that is due; true if there was any.
  void run_alarms();
  void arm_timer();
  void await_event();
  void drain_links(Deadline until);
  void release() noexcept;
  static ucs_status_t on_message(void* self, const void* header, std::size_t header_bytes,
                                 void* data, std::size_t size, const ucp_am_recv_param_t* param);
  static void on_connection(ucp_conn_request_h request, void* self);

  boost::asio::io_context& context_;
  ucp_context_h ucp_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  ucp_listener_h listener_ = nullptr;
  ConnectionHandler connection_handler_;
  std::unique_ptr<Waiter> waiter_;
  std::unordered_map<ucp_ep_h, Link*> endpoints_;
  std::unordered_map<Link*, std::shared_ptr<Link>> links_;
  std::vector<std::shared_ptr<Link>> marked_;
  std::vector<std::function<void()>> finished_;
  Alarms alarms_;
  Deadline timer_at_ = Deadline::max();
  Deadline moved_at_{};  // When progress last had something to do.
  bool scheduled_ = false;
  bool pumping_ = false;
  bool again_ = false;
  bool waiting_ = false;
  bool stopped_ = false;
};

[[nodiscard]] Error ucx_error(Errc code, const std::string& what, ucs_status_t status);

}  // namespace causeway::ucx
