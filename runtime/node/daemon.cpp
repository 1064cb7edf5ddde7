#include "runtime/node/daemon.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/as_tuple.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstdio>
#include <utility>  // Boost 1.81 with g++ 12 and C++20 wants std::exchange before Asio.

#include "allocator/unique_fd.h"
#include "causeway/topology_export.h"
#include "runtime/control/json.h"
#include "runtime/directory/embedded.h"
#include "runtime/topology/pool_graph.h"
#include "transport/addresses.h"
#include "transport/ucx/ucx_transport.h"

namespace causeway {

namespace {

namespace asio = boost::asio;
using namespace std::chrono_literals;
constexpr auto kTuple = asio::experimental::as_tuple(asio::use_awaitable);
constexpr auto kPeerTimeout = 2s;
constexpr auto kRejoinPause = 250ms;
constexpr auto kExpiryTick = 250ms;

const NodeSpec& own_node(const NodeOptions& options) {
  if (options.token.size() < 16)
    throw Error(Errc::invalid_argument, "the pool's token must have at least 16 characters");
  const auto* node = options.cluster.find_node(options.node);
  if (node) return *node;
  std::string known;
  for (const auto& each : options.cluster.nodes) known += (known.empty() ? "" : ", ") + each.name;
  throw Error(Errc::not_found, fmt::format("cluster '{}' has no node '{}'; it has {}",
                                           options.cluster.name, options.node, known));
}

// Every extent is a descriptor; the usual soft limit of 1024 would be the pool's limit.
void raise_descriptor_limit() noexcept {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

Daemon::Daemon(asio::io_context& context, const NodeOptions& options)
    : context_(context),
      options_(options),
      lender_(open_lender()),
      topology_version_(from_hex(random_hex(8), "a random number")) {
  if (options_.directory.empty())
    directory_ = std::make_unique<EmbeddedDirectory>(context_);
  else
    directory_peer_ = {"the directory", options_.directory, options_.token};
  const bool has_gpus = std::ranges::any_of(
      lender_.devices(), [](const Lender::Device& device) { return device.body.gpu != nullptr; });
  if (has_gpus) copier_ = std::make_unique<GpuCopier>(context_);
}

Lender Daemon::open_lender() {
  auto opened = open_node_devices(own_node(options_), options_.gpus, options_.gpu_probe_time);
  gpu_report_ = std::move(opened.gpu_report);
  for (const auto& line : gpu_report_) spdlog::info("gpus {}", line);
  return {context_, options_.node, std::move(opened.devices), options_.token};
}

Daemon::~Daemon() { stop(); }

void Daemon::stop() { stopping_ = true; }

asio::awaitable<void> Daemon::start(std::function<void()> ready) {
  transport_ = make_ucx_transport(context_, {.listen = options_.data_listen,
                                             .name = options_.node,
                                             .service = &lender_,
                                             .on_accept = [this](std::shared_ptr<Channel> channel) {
                                               accept_channel(std::move(channel));
                                             }});
  server_ = std::make_unique<ControlServer>(context_, *this, options_.token);
  control_address_ = server_->listen_tcp(options_.control_listen);
  if (!options_.socket_path.empty()) server_->listen_unix(options_.socket_path);
  co_await join_pool();
  asio::co_spawn(context_, expire_sessions(), asio::detached);
  if (!options_.state_file.empty()) write_state_file();
  spdlog::info("ready node={} control={} data={} socket={} directory={}", options_.node,
               control_address_, transport_->address(), options_.socket_path,
               directory_ ? "here" : options_.directory);
  if (ready) ready();
}

NodeRecord Daemon::own_record() const {
  NodeRecord record{options_.node, control_address_, transport_->address(),
                    options_.cluster.to_yaml()};
  if (options_.machine)
    record.topology = graph_to_json(published_graph(
        *options_.machine, parse_host_port(first_address(transport_->address())).host));
  return record;
}

asio::awaitable<void> Daemon::join_pool() {
  if (directory_) {
    co_await directory_->put_node(own_record());
    co_return;
  }
  const auto record = own_record();
  const auto body = boost::json::serialize(Json{{"name", record.name},
                                                {"control", record.control_address},
                                                {"data", record.data_address},
                                                {"cluster", record.cluster_yaml},
                                                {"topology", record.topology}});
  const auto deadline = std::chrono::steady_clock::now() + options_.join_timeout;
  asio::steady_timer pause(context_);
  for (;;) {
    asio::ip::tcp::socket connection(context_);
    std::optional<Error> failed;
    try {
      const auto answer = parse_object(
          co_await call_peer(directory_peer_, "POST", "/v1/nodes", body, kPeerTimeout, &connection),
          "answer of the directory");
      directory_peer_.name = get_string(answer, "directory", "answer of the directory");
      asio::co_spawn(context_, stay_joined(std::move(connection)), asio::detached);
      co_return;
    } catch (const Error& error) {
      failed = error;
    }
    // The directory may still be starting, or still hold our name from a moment ago.
    const bool may_change = failed->code() == Errc::peer_lost ||
                            failed->code() == Errc::timed_out ||
                            failed->code() == Errc::already_exists;
    if (!may_change || std::chrono::steady_clock::now() >= deadline)
      throw Error(failed->code(), fmt::format("{} cannot join the pool at {}: {}", options_.node,
                                              options_.directory, failed->what()));
    pause.expires_after(kRejoinPause);
    co_await pause.async_wait(kTuple);
  }
}

// The connection that joined is our sign of life; when it ends, the directory's daemon is gone.
asio::awaitable<void> Daemon::stay_joined(asio::ip::tcp::socket connection) {
  std::array<char, 1> byte{};
  co_await connection.async_read_some(asio::buffer(byte), kTuple);
  connection.close();
  asio::steady_timer pause(context_);
  for (bool said = false; !stopping_;) {
    try {
      if (!std::exchange(said, true))
        spdlog::warn("lost the directory node={} at={} action=rejoin", directory_peer_.name,
                     options_.directory);
      co_await join_pool();
      spdlog::info("joined again directory={}", directory_peer_.name);
      co_return;
    } catch (const std::exception& error) {  // Nobody else would hear of it, or try again.
      spdlog::warn("cannot rejoin reason=\"{}\"", error.what());
    }
    pause.expires_after(kRejoinPause);
    co_await pause.async_wait(kTuple);
  }
}

asio::awaitable<void> Daemon::expire_sessions() {
  asio::steady_timer tick(context_);
  while (!stopping_) {
    tick.expires_after(kExpiryTick);
    co_await tick.async_wait(kTuple);
    end_sessions(lender_.close_expired(Lender::Clock::now()));
  }
}

void Daemon::end_sessions(const std::vector<SessionId>& ended) noexcept {
  try {
    for (const auto id : ended) {
      spdlog::info("session ended id={:016x}", id);
      if (directory_) asio::co_spawn(context_, directory_->drop_session(id), asio::detached);
      // A closed session's channels have nothing left to ask for.
      const auto channels = accepted_;
      for (const auto& channel : channels)
        if (channel->peer().role == Hello::Role::client && channel->peer().session == id)
          channel->close({Errc::closed, "the session ended"});
    }
  } catch (const std::exception& error) {
    spdlog::error("ending sessions failed reason=\"{}\"", error.what());
  }
}

void Daemon::connection_closed(ConnectionId connection) noexcept {
  try {
    end_sessions(lender_.close_attached(connection));
    const auto node = joined_.find(connection);
    if (node == joined_.end()) return;
    spdlog::warn("node left name={}", node->second);
    if (directory_) asio::co_spawn(context_, directory_->node_lost(node->second), asio::detached);
    joined_.erase(node);
    ++topology_version_;
  } catch (const std::exception& error) {
    spdlog::error("closing a connection failed reason=\"{}\"", error.what());
  }
}

void Daemon::accept_channel(std::shared_ptr<Channel> channel) {
  channel->on_close([this, weak = std::weak_ptr(channel)](const Error&) {
    // Not destroyed inside its own callback.
    asio::post(context_, [this, weak] {
      if (const auto closed = weak.lock()) accepted_.erase(closed);
    });
  });
  accepted_.insert(std::move(channel));
}

Directory& Daemon::directory() const {
  if (directory_) return *directory_;
  throw Error(Errc::unsupported,
              fmt::format("{} does not serve the directory; {} at {} does", options_.node,
                          directory_peer_.name, directory_peer_.address));
}

PeerAddress Daemon::peer(const NodeRecord& node) const {
  return {node.name, node.control_address, options_.token};
}

asio::awaitable<std::vector<NodeRecord>> Daemon::all_nodes() {
  if (directory_) co_return co_await directory_->nodes();
  constexpr auto kWhere = "nodes of the directory";
  const auto answer = parse_object(
      co_await call_peer(directory_peer_, "GET", "/v1/nodes", "", kPeerTimeout), kWhere);
  std::vector<NodeRecord> result;
  for (const auto& value : get_array(answer, "nodes", kWhere)) {
    const auto& node = as_object(value, kWhere);
    result.push_back({get_string(node, "name", kWhere), get_string(node, "control", kWhere),
                      get_string(node, "data", kWhere), "", "", get_bool(node, "alive", kWhere)});
  }
  co_return result;
}

asio::awaitable<Rails*> Daemon::rails_to(std::string node) {
  const auto known = rails_.find(node);
  if (known != rails_.end() && known->second->is_open()) co_return known->second.get();
  // The addresses come from the directory and never from a client: the token goes there.
  const auto nodes = co_await all_nodes();
  const auto record = std::ranges::find(nodes, node, &NodeRecord::name);
  if (record == nodes.end())
    throw Error(Errc::not_found, fmt::format("the pool has no node '{}'", node));
  if (!record->alive) throw Error(Errc::peer_lost, fmt::format("node {} has left the pool", node));
  auto& rails = rails_[node];  // They stay, since they may owe fences.
  if (!rails)
    rails = std::make_unique<Rails>(
        context_, node,
        [this](const std::string& address, Deadline deadline, Transport::Connected connected) {
          transport_->connect(address, {Hello::Role::node, options_.node, 0, options_.token},
                              deadline, std::move(connected));
        });
  rails->set_addresses(split_addresses(record->data_address));
  co_return rails.get();
}

void Daemon::write_state_file() const {
  const auto text = boost::json::serialize(Json{{"pid", ::getpid()},
                                                {"node", options_.node},
                                                {"control", control_address_},
                                                {"data", transport_->address()},
                                                {"socket", options_.socket_path}}) +
                    "\n";
  const auto temporary = options_.state_file + ".tmp";
  const UniqueFd file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file) throw system_error("cannot write " + temporary, errno);
  if (::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    throw system_error("cannot write " + temporary, errno);
  if (::rename(temporary.c_str(), options_.state_file.c_str()) != 0)
    throw system_error("cannot write " + options_.state_file, errno);
}

void run_node(const NodeOptions& options, const std::function<void()>& ready) {
  raise_descriptor_limit();
  asio::io_context context(1);
  {
    Daemon daemon(context, options);
    asio::signal_set signals(context, SIGTERM, SIGINT);
    signals.async_wait([&](boost::system::error_code failed, int signal) {
      if (failed) return;
      spdlog::info("stopping signal={}", signal);
      context.stop();
    });
    std::exception_ptr failed;
    asio::co_spawn(context, daemon.start(ready), [&](std::exception_ptr error) {
      if (!error) return;
      failed = error;
      context.stop();
    });
    context.run();
    daemon.stop();
    if (!options.state_file.empty()) ::unlink(options.state_file.c_str());
    if (failed) std::rethrow_exception(failed);
  }
}

}  // namespace causeway
