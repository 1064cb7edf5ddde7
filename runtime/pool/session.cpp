#include "runtime/pool/session.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <cerrno>
#include <cstdlib>
#include <utility>  // Boost 1.81 with g++ 12 and C++20 wants std::exchange before Asio.

#include "runtime/control/json.h"
#include "runtime/control/server.h"
#include "transport/addresses.h"
#include "transport/ucx/ucx_transport.h"

namespace causeway {

namespace {
namespace asio = boost::asio;
using namespace std::chrono_literals;
using Json = boost::json::object;

constexpr auto kGoodbyeTime = 1s;
constexpr auto kLeastTime = 250ms;   // Of a request, also when its call's time is over.
constexpr auto kAnswerTime = 500ms;  // Between a daemon's own deadline and its answer.
constexpr std::size_t kMaxPiecesPerTransfer = 16384;

std::string env(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

std::string default_socket() {
  const auto base = env("XDG_RUNTIME_DIR");
  return fmt::format("{}/causeway-{}/causeway.sock", base.empty() ? "/tmp" : base, ::geteuid());
}

thread_local std::optional<Deadline> t_call_end;

}  // namespace

std::chrono::milliseconds left_until(Deadline deadline) {
  const auto left = deadline - std::chrono::steady_clock::now();
  return std::max(std::chrono::ceil<std::chrono::milliseconds>(left), std::chrono::milliseconds(1));
}

CallTime::CallTime(std::chrono::milliseconds time) : is_outermost_(!t_call_end) {
  if (is_outermost_) t_call_end = std::chrono::steady_clock::now() + time;
}

CallTime::~CallTime() {
  if (is_outermost_) t_call_end.reset();
}

Deadline CallTime::deadline(std::chrono::milliseconds time) {
  const auto now = std::chrono::steady_clock::now();
  const auto own = now + time;
  return t_call_end ? std::min(own, std::max(*t_call_end, now + kLeastTime)) : own;
}

// Watches the connection that holds the session: readable means that the daemon closed it.
struct DaemonLink::Watch {
  Watch(asio::io_context& context, UniqueFd fd) : connection(context, fd.release()) {}
  asio::posix::stream_descriptor connection;
};

void DaemonLink::check() const {
  const std::lock_guard lock(mutex_);
  if (lost_) throw Error(*lost_);
}

Pool::State::State(PoolOptions given)
    : options(std::move(given)),
      backend(std::make_shared<HostBackend>(HostBackend::Options{.name = "pool"})),
      io("causeway-io") {
  if (options.socket_path.empty() && options.address.empty()) {
    options.socket_path = env("CAUSEWAY_SOCKET");
    options.address = options.socket_path.empty() ? env("CAUSEWAY_ADDRESS") : "";
    if (options.socket_path.empty() && options.address.empty())
      options.socket_path = default_socket();
  }
  if (options.token.empty()) options.token = env("CAUSEWAY_TOKEN");
  client_name = options.client_name.empty()
                    ? fmt::format("{}[{}]", program_invocation_short_name, ::getpid())
                    : options.client_name;
  std::ranges::replace(client_name, '@', '-');  // '@' separates the node.
}

Pool::State::~State() { close(); }

void Pool::State::open() {
  const bool local = options.address.empty();
  const auto target = local ? "unix:" + options.socket_path : options.address;
  ControlClient holder(target, options.token, "the daemon");
  const auto reply = holder.call("POST", "/v1/sessions", serialize(Json{{"client", client_name}}),
                                 left_until(CallTime::deadline(options.timeout)));
  constexpr auto kWhere = "answer to POST /v1/sessions";
  const auto answer = parse_object(reply.body, kWhere);
  node = get_string(answer, "node", kWhere);
  session = get_hex(answer, "session", kWhere);
  key = get_string(answer, "key", kWhere);
  const auto& place = get_object(answer, "directory", kWhere);
  directory = get_string(place, "name", kWhere);
  directory_address = get_string(place, "address", kWhere);
  token = local ? get_string(answer, "token", kWhere) : options.token;
  client_name += "@" + (local ? node : "elsewhere");
  auto data_addresses = split_addresses(get_string(answer, "data", kWhere));
  data_host = data_addresses.front().substr(0, data_addresses.front().rfind(':'));
  io.run_on([&] {
    transport_ = make_ucx_transport(
        io.context(), {.listen = "", .name = client_name, .service = nullptr, .on_accept = {}});
  });
  auto home = std::make_shared<DaemonLink>(node, target, options.token, std::move(data_addresses));
  watch(home, holder.release_connection());
  {
    const std::lock_guard lock(mutex_);
    links_[node] = home;
  }
  if (directory != node) add_link(directory, directory_address);
}

std::shared_ptr<DaemonLink> Pool::State::add_link(const std::string& name,
                                                  const std::string& address) {
  ControlClient holder(address, token, "node " + name);
  auto body = credentials();
  body["client"] = client_name;
  const auto reply = holder.call("POST", "/v1/sessions", serialize(body),
                                 left_until(CallTime::deadline(options.timeout)));
  constexpr auto kWhere = "answer to POST /v1/sessions";
  const auto answer = parse_object(reply.body, kWhere);
  auto link = std::make_shared<DaemonLink>(name, address, token,
                                           split_addresses(get_string(answer, "data", kWhere)));
  watch(link, holder.release_connection());
  const std::lock_guard lock(mutex_);
  if (closed_) throw Error(Errc::closed, "the pool is closed");
  return links_[name] = link;
}

std::shared_ptr<DaemonLink> Pool::State::find_link(const std::string& name) {
  const std::lock_guard lock(mutex_);
  if (closed_) throw Error(Errc::closed, "the pool is closed");
  const auto known = links_.find(name);
  if (known == links_.end()) return nullptr;
  known->second->check();
  return known->second;
}

// The right to make the link to a node, for one thread at a time. Errors: timed_out.
struct Pool::State::Connecting {
  Connecting(State& owner, const std::string& node) : state(owner), name(node) {
    const auto deadline = CallTime::deadline(state.options.timeout);
    std::unique_lock lock(state.mutex_);
    const bool is_free = state.connected_.wait_until(
        lock, deadline, [&] { return state.closed_ || !state.connecting_.contains(name); });
    if (!is_free)
      throw Error(Errc::timed_out,
                  fmt::format("node {} did not answer in time the first that asked it", name));
    state.connecting_.insert(name);
  }
  ~Connecting() {
    {
      const std::lock_guard lock(state.mutex_);
      state.connecting_.erase(name);
    }
    state.connected_.notify_all();
  }
  Connecting(const Connecting&) = delete;
  Connecting& operator=(const Connecting&) = delete;

  State& state;
  const std::string name;
};

std::shared_ptr<DaemonLink> Pool::State::link(const std::string& name) {
  if (auto known = find_link(name)) return known;
  const Connecting connecting(*this, name);
  if (auto known = find_link(name)) return known;  // Another thread was first.
  // Not the pool's status, for which all nodes are asked.
  constexpr auto kWhere = "answer to GET /v1/nodes";
  const auto answer = pool_document("/v1/nodes");
  for (const auto& value : get_array(answer, "nodes", kWhere)) {
    const auto& each = as_object(value, kWhere);
    if (get_string(each, "name", kWhere) != name) continue;
    if (!get_bool(each, "alive", kWhere))
      throw Error(Errc::peer_lost, fmt::format("node {} has left the pool", name));
    return add_link(name, get_string(each, "control", kWhere));
  }
  throw Error(Errc::not_found, fmt::format("the pool has no node '{}'", name));
}

void Pool::State::watch(const std::shared_ptr<DaemonLink>& link, UniqueFd connection) {
  if (!connection)
    throw Error(Errc::protocol,
                fmt::format("node {} does not keep connections open", link->name()));
  io.run_on([&] {
    link->watch_ = std::make_shared<DaemonLink::Watch>(io.context(), std::move(connection));
    link->watch_->connection.async_wait(
        asio::posix::stream_descriptor::wait_read,
        [this, weak = std::weak_ptr(link)](boost::system::error_code failed) {
          const auto lost = weak.lock();
          if (failed || !lost) return;  // Cancelled by close().
          lose(*lost, {Errc::peer_lost,
                       fmt::format("node {} was lost: its daemon died or ended the session",
                                   lost->name())});
        });
  });
}

void Pool::State::lose(DaemonLink& link, const Error& error) {
  {
    const std::lock_guard lock(link.mutex_);
    if (!link.lost_) link.lost_ = error;
  }
  link.rails_.reset();  // What they have under way ends, and its caller asks check().
  std::vector<std::function<void(const Error&)>> handlers;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [_, handler] : handlers_) handlers.push_back(handler);
  }
  for (const auto& handler : handlers) handler(error);
}

int Pool::State::on_loss(std::function<void(const Error&)> handler) {
  const std::lock_guard lock(mutex_);
  handlers_[next_handler_] = std::move(handler);
  return next_handler_++;
}

void Pool::State::ignore_losses(int number) {
  {
    const std::lock_guard lock(mutex_);
    handlers_.erase(number);
  }
  io.run_on([] {});  // A handler that was already running has returned now.
}

void Pool::State::close() noexcept {
  std::map<std::string, std::shared_ptr<DaemonLink>> links;
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(closed_, true)) return;
    links.swap(links_);
  }
  connected_.notify_all();
  for (const auto& [_, link] : links) {
    try {  // So that the memory is free when this returns; the connection's end is the net.
      link->check();
      static_cast<void>(link->connections_.make().call("DELETE", "/v1/sessions",
                                                       serialize(credentials()), kGoodbyeTime));
    } catch (const std::exception&) {
      // That daemon is gone, and the session with it.
    }
  }
  try {
    io.run_on([&] {
      for (const auto& [_, link] : links) link->watch_.reset();
      for (const auto& [_, link] : links) link->rails_.reset();
      transport_.reset();
    });
    io.run_on([] {});  // A watch that had fired already has run now, while its links live.
  } catch (const std::exception&) {
    // The process is short of something; the daemons see the connections end in any case.
  }
}

void Pool::State::check_open() {
  const std::lock_guard lock(mutex_);
  if (closed_) throw Error(Errc::closed, "the pool is closed");
}

std::chrono::milliseconds Pool::State::time_for(std::uint64_t bytes) const {
  return options.timeout + std::chrono::milliseconds(bytes / 10'000);
}

Json Pool::State::credentials() const { return {{"session", to_hex(session)}, {"key", key}}; }

bool Pool::State::is_local(const std::string& node_name) const {
  return options.address.empty() && node_name == node;
}

Json Pool::State::call(DaemonLink& link, const char* method, const std::string& path, Json body,
                       std::vector<UniqueFd>* fds, std::optional<Deadline> until) {
  ControlReply reply;
  {
    const auto use = until ? Connections::Use::waits : Connections::Use::brief;
    const auto deadline = until ? *until + kAnswerTime : CallTime::deadline(options.timeout);
    auto connection = link.connections_.take(use, deadline);
    link.check();
    try {
      reply = connection->call(method, path, serialize(body), left_until(deadline));
    } catch (const Error&) {
      check_open();  // The session's end explains what the daemon then says.
      throw;
    }
  }
  if (fds) *fds = std::move(reply.fds);
  return parse_object(reply.body,
                      fmt::format("answer of node {} to {} {}", link.name(), method, path));
}

Rails& Pool::State::rails_to(DaemonLink& link) {
  if (!transport_) throw Error(Errc::closed, "the pool is closed");
  link.check();  // A node that was lost gets no rails again.
  if (!link.rails_) {
    const auto connect = [this](const std::string& address, Deadline deadline,
                                Transport::Connected connected) {
      transport_->connect(address, {Hello::Role::client, client_name, session, key}, deadline,
                          std::move(connected));
    };
    link.rails_ = std::make_unique<Rails>(io.context(), "node " + link.name(), connect);
    link.rails_->set_addresses(link.data_addresses_);
  }
  return *link.rails_;
}

void Pool::State::move_parts(DaemonLink& link, Access access, RegionId region,
                             const std::vector<Part>& parts) {
  std::vector<TransferPiece> pieces;
  std::uint64_t bytes = 0;
  for (const auto& part : parts) {
    pieces.push_back({{session, region, part.offset_bytes}, part.bytes.size()});
    bytes += part.bytes.size();
  }
  link.check();
  const auto deadline = CallTime::deadline(time_for(bytes));
  try {
    io.wait_for([&](Completion done) {
      auto& rails = rails_to(link);
      // Done means that nothing is in flight: the caller's memory needs no pin.
      auto pin = [&parts](std::size_t piece, std::uint64_t offset, std::uint64_t size) {
        return PinnedMemory{parts[piece].bytes.subspan(offset, size), nullptr};
      };
      const auto held = std::make_shared<std::optional<Transfer>>();
      TransferOptions how{
          .deadline = deadline,
          .on_done = [held, done](std::optional<Error> failed, std::uint64_t moved) {
            held->reset();
            done(std::move(failed), moved);
          }};
      *held = access == Access::write
                  ? rails.write(std::move(pieces), std::move(pin), std::move(how))
                  : rails.read(std::move(pieces), std::move(pin), std::move(how));
    });
  } catch (const Error& error) {
    check_open();
    link.check();  // The loss of the daemon is the better explanation.
    if (error.code() != Errc::peer_lost && error.code() != Errc::closed) throw;
    throw Error(Errc::peer_lost, fmt::format("node {}: {}", link.name(), error.what()));
  }
}

double Pool::State::transfer(bool pull, const Place& from, const Place& to,
                             std::span<const Pool::CopyPiece> pieces) {
  const auto executor = link(pull ? to.node : from.node);
  double seconds = 0;
  for (; !pieces.empty(); pieces = pieces.subspan(std::min(pieces.size(), kMaxPiecesPerTransfer))) {
    boost::json::array list;
    std::uint64_t bytes = 0;
    for (const auto& piece : pieces.first(std::min(pieces.size(), kMaxPiecesPerTransfer))) {
      bytes += piece.size_bytes;
      list.push_back(Json{{"to_offset_bytes", piece.to_offset_bytes},
                          {"from_offset_bytes", piece.from_offset_bytes},
                          {"size_bytes", piece.size_bytes}});
    }
    const auto deadline = CallTime::deadline(std::min(time_for(bytes), kMostRequestTime));
    auto body = credentials();
    body["kind"] = from.node == to.node ? "within" : (pull ? "pull" : "push");
    body["peer"] = pull ? from.node : to.node;
    body["from"] = to_hex(from.region);
    body["to"] = to_hex(to.region);
    body["timeout_ms"] = left_until(deadline).count();
    body["pieces"] = std::move(list);
    const auto answer =
        call(*executor, "POST", "/v1/transfers", std::move(body), nullptr, deadline);
    seconds += get_number(answer, "seconds", "answer to POST /v1/transfers");
  }
  return seconds;
}

Json Pool::State::pool_document(const char* path) {
  const auto directory_link = find_link(directory);
  if (!directory_link) throw Error(Errc::closed, "the pool is closed");
  return call(*directory_link, "GET", path, {});
}

}  // namespace causeway
