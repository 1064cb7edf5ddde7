#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <boost/asio/ip/address.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <utility>  // Boost 1.81 with g++ 12 and C++20 wants std::exchange before Asio.

#include "runtime/control/json.h"
#include "runtime/directory/embedded.h"
#include "runtime/node/daemon.h"
#include "runtime/node/transfer.h"
#include "runtime/topology/pool_graph.h"
#include "transport/addresses.h"

namespace causeway {

namespace {

namespace asio = boost::asio;
using namespace std::chrono_literals;
using Json = boost::json::object;

constexpr auto kMaxTtl = std::chrono::hours(24);
constexpr auto kMaxTransferTime = std::chrono::hours(1);
constexpr auto kSettleStep = 1ms;
constexpr auto kSettlePatience = 200ms;  // Then who holds the memory loses its channel.
constexpr std::size_t kMaxNameBytes = 200;
constexpr std::size_t kMaxTopologyBytes = 1 << 20;

// Channels are opened to these addresses from the event loop, where no name service is asked.
void check_digits(const std::string& address, const char* field, const char* where) {
  boost::system::error_code is_name;
  static_cast<void>(asio::ip::make_address(parse_host_port(address).host, is_name));
  if (is_name)
    throw Error(Errc::invalid_argument,
                fmt::format("{}: {}: '{}' names a host; give its address in digits, such as "
                            "10.0.0.1:7000 or [fd00::1]:7000",
                            where, field, address));
}

ControlResponse answer(Json body) {
  ControlResponse response;
  response.body = boost::json::serialize(body);
  return response;
}

// Names end up in messages, tables and metrics: printable ASCII only.
std::string checked_name(std::string name, std::string_view field, std::string_view where) {
  const auto printable = [](char c) { return c >= ' ' && c <= '~' && c != '"' && c != '\\'; };
  if (name.size() <= kMaxNameBytes && std::ranges::all_of(name, printable)) return name;
  throw Error(Errc::parse, fmt::format("{}: {}: at most {} printable characters without quotes",
                                       where, field, kMaxNameBytes));
}

std::chrono::milliseconds get_timeout(const Json& body, std::string_view field,
                                      std::chrono::milliseconds most, std::string_view where) {
  const auto value = get_uint(body, field, where);
  if (value >= 1 && value <= static_cast<std::uint64_t>(most.count()))
    return std::chrono::milliseconds(value);
  throw Error(Errc::parse, fmt::format("{}: {}: expected 1 to {} milliseconds, got {}", where,
                                       field, most.count(), value));
}

std::string last_segment(const std::string& path) { return path.substr(path.rfind('/') + 1); }

Lender::Piece get_range(const Json& body, std::string_view where) {
  return {get_uint(body, "offset_bytes", where), get_uint(body, "size_bytes", where)};
}

}  // namespace

ControlResponse Daemon::open_session(const ControlRequest& request) {
  constexpr auto kWhere = "POST /v1/sessions";
  const auto body = parse_object(request.body, kWhere);
  auto client = checked_name(get_string(body, "client", kWhere), "client", kWhere);
  if (client.find('@') == std::string::npos)
    client += "@" + (request.local ? options_.node : "elsewhere");
  // A client with business on several nodes opens the same session on each.
  SessionId id = 0;
  std::string key;
  if (body.contains("session")) {
    id = get_hex(body, "session", kWhere);
    key = get_string(body, "key", kWhere);
    if (key.size() < 32 || key.size() > 128)
      throw Error(Errc::parse, fmt::format("{}: key: expected 32 to 128 characters", kWhere));
  } else {
    id = from_hex(random_hex(8), kWhere);
    key = random_hex(16);
  }
  std::optional<ConnectionId> connection;
  std::optional<Lender::Clock::duration> ttl;
  if (body.contains("ttl_ms"))
    ttl = get_timeout(body, "ttl_ms", kMaxTtl, kWhere);
  else
    connection = request.connection;
  lender_.open_session(id, key, client, connection, ttl);
  spdlog::info("session opened id={:016x} client=\"{}\"", id, client);
  Json result{{"session", to_hex(id)},
              {"key", key},
              {"node", options_.node},
              {"data", transport_->address()},
              {"directory",
               {{"name", directory_ ? options_.node : directory_peer_.name},
                {"address", directory_ ? control_address_ : directory_peer_.address}}}};
  if (request.local) result["token"] = options_.token;  // This user can read the token file anyway.
  return answer(std::move(result));
}

ControlResponse Daemon::renew_session(const ControlRequest& request) {
  constexpr auto kWhere = "POST /v1/sessions/renew";
  const auto body = parse_object(request.body, kWhere);
  lender_.renew_session(get_hex(body, "session", kWhere), get_string(body, "key", kWhere),
                        get_timeout(body, "ttl_ms", kMaxTtl, kWhere));
  return answer({});
}

ControlResponse Daemon::close_session(const ControlRequest& request) {
  constexpr auto kWhere = "DELETE /v1/sessions";
  const auto body = parse_object(request.body, kWhere);
  const auto id = get_hex(body, "session", kWhere);
  static_cast<void>(lender_.session(id, get_string(body, "key", kWhere)));
  lender_.close_session(id);
  end_sessions({id});
  return answer({});
}

ControlResponse Daemon::lend(const ControlRequest& request) {
  constexpr auto kWhere = "POST /v1/extents";
  const auto body = parse_object(request.body, kWhere);
  std::vector<Lender::Piece> pieces;
  for (const auto& value : get_array(body, "pieces", kWhere))
    pieces.push_back(get_range(as_object(value, kWhere), kWhere));
  const auto session = get_hex(body, "session", kWhere);
  const auto key = get_string(body, "key", kWhere);
  const auto region = get_hex(body, "region", kWhere);
  const bool map = request.local && get_bool(body, "map", kWhere);
  const auto extents =
      lender_.lend(session, key, region, get_string(body, "device", kWhere), pieces,
                   body.contains("for_gpus") && get_bool(body, "for_gpus", kWhere));
  ControlResponse response;
  try {
    boost::json::array list;
    for (const auto& extent : extents) {
      list.push_back(
          Json{{"offset_bytes", extent->offset_bytes}, {"size_bytes", extent->loan.size_bytes()}});
      if (!map) continue;
      if (response.fds.size() == kMaxFdsPerResponse)
        throw Error(Errc::exhausted,
                    fmt::format("one request can map at most {} extents; ask for fewer pieces",
                                kMaxFdsPerResponse));
      response.fds.push_back(extent->loan.export_fd());
    }
    response.body = boost::json::serialize(Json{{"extents", std::move(list)}});
  } catch (...) {
    for (const auto& extent : extents)
      lender_.take_back(session, key, region, {extent->offset_bytes, extent->loan.size_bytes()});
    throw;
  }
  return response;
}

ControlResponse Daemon::take_back(const ControlRequest& request) {
  constexpr auto kWhere = "DELETE /v1/extents";
  const auto body = parse_object(request.body, kWhere);
  lender_.take_back(get_hex(body, "session", kWhere), get_string(body, "key", kWhere),
                    get_hex(body, "region", kWhere), get_range(body, kWhere));
  return answer({});
}

ControlResponse Daemon::rename(const ControlRequest& request) {
  constexpr auto kWhere = "POST /v1/extents/rename";
  const auto body = parse_object(request.body, kWhere);
  lender_.rename(get_hex(body, "session", kWhere), get_string(body, "key", kWhere),
                 get_hex(body, "from", kWhere), get_hex(body, "to", kWhere));
  return answer({});
}

// What was asked for by the old name, and by whom ever, has landed or lands no more. A peer that
// died may have left bytes in a buffer of this machine, and one that stands still may go on later.
Daemon::Answer Daemon::settle(ControlRequest request) {
  constexpr auto kWhere = "POST /v1/extents/settle";
  const auto body = parse_object(request.body, kWhere);
  const auto session = get_hex(body, "session", kWhere);
  const auto key = get_string(body, "key", kWhere);
  const auto from = get_hex(body, "from", kWhere), to = get_hex(body, "to", kWhere);
  if (from == to) throw Error(Errc::invalid_argument, fmt::format("{}: the same name", kWhere));
  const auto start = std::chrono::steady_clock::now();
  const auto deadline = start + get_timeout(body, "timeout_ms", kMaxTransferTime, kWhere);
  // Asked again, it goes on.
  const auto& held = lender_.session(session, key).regions;
  if (held.contains(from) || !held.contains(to)) lender_.rename(session, key, from, to);
  asio::steady_timer timer(context_);
  for (bool is_patient = true; lender_.is_in_use(session, key, to);) {
    const auto now = std::chrono::steady_clock::now();
    if (now >= deadline)
      throw Error(Errc::timed_out,
                  fmt::format("{}: a transfer of region {:016x} did not end", options_.node, from));
    if (is_patient && now >= start + kSettlePatience) {
      is_patient = false;
      const auto users = lender_.users(session, key, to);
      for (const auto& channel : std::set(accepted_))
        if (std::ranges::count(users, channel->peer()) > 0)
          channel->close({Errc::closed, "its transfer stood still, and its place is needed"});
    }
    timer.expires_after(kSettleStep);
    co_await timer.async_wait(asio::use_awaitable);
  }
  co_return answer({});
}

Daemon::Answer Daemon::transfer(ControlRequest request) {
  constexpr auto kWhere = "POST /v1/transfers";
  const auto body = parse_object(request.body, kWhere);
  CopyRequest copy{};
  copy.session = get_hex(body, "session", kWhere);
  static_cast<void>(lender_.session(copy.session, get_string(body, "key", kWhere)));
  copy.from = get_hex(body, "from", kWhere);
  copy.to = get_hex(body, "to", kWhere);
  const auto start = std::chrono::steady_clock::now();
  copy.deadline = start + get_timeout(body, "timeout_ms", kMaxTransferTime, kWhere);
  for (const auto& value : get_array(body, "pieces", kWhere)) {
    const auto& piece = as_object(value, kWhere);
    copy.pieces.push_back({get_uint(piece, "to_offset_bytes", kWhere),
                           get_uint(piece, "from_offset_bytes", kWhere),
                           get_uint(piece, "size_bytes", kWhere)});
  }
  const auto kind = get_string(body, "kind", kWhere);
  const auto other = get_string(body, "peer", kWhere);
  Rails* rails = nullptr;
  if (kind == "within")
    copy.kind = CopyRequest::Kind::within;
  else if (kind == "push")
    copy.kind = CopyRequest::Kind::push;
  else if (kind == "pull")
    copy.kind = CopyRequest::Kind::pull;
  else
    throw Error(Errc::parse, fmt::format("{}: kind: expected push, pull or within", kWhere));
  if (copy.kind != CopyRequest::Kind::within) rails = co_await rails_to(other);
  const auto bytes = co_await run_copy(context_, lender_, std::move(copy), rails, copier_.get());
  if (kind == "within") lender_.count_route(options_.node, options_.node, bytes);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  co_return answer({{"bytes", bytes}, {"seconds", seconds.count()}});
}

Daemon::Answer Daemon::put_node(ControlRequest request) {
  constexpr auto kWhere = "POST /v1/nodes";
  auto& records = directory();
  const auto body = parse_object(request.body, kWhere);
  NodeRecord node{get_string(body, "name", kWhere), get_string(body, "control", kWhere),
                  get_string(body, "data", kWhere), get_string(body, "cluster", kWhere)};
  if (body.if_contains("topology")) node.topology = get_string(body, "topology", kWhere);
  if (node.topology.size() > kMaxTopologyBytes)
    throw Error(Errc::out_of_bounds,
                fmt::format("{}: topology: {} bytes; at most {} are taken of a node", kWhere,
                            node.topology.size(), kMaxTopologyBytes));
  if (!node.topology.empty()) static_cast<void>(parse_published_graph(node.topology, node.name));
  const auto cluster = ClusterSpec::from_yaml(node.cluster_yaml, "the cluster of " + node.name);
  if (!cluster.find_node(node.name))
    throw Error(Errc::parse, fmt::format("{}: cluster: has no node '{}'", kWhere, node.name));
  static_cast<void>(parse_host_port(node.control_address));
  for (const auto& address : split_addresses(node.data_address))
    check_digits(address, "data", kWhere);
  const auto name = node.name;
  if (joined_.contains(request.connection))
    throw Error(Errc::already_exists, fmt::format("this connection already stands for node '{}'",
                                                  joined_[request.connection]));
  co_await records.put_node(std::move(node));
  joined_[request.connection] = name;
  ++topology_version_;
  spdlog::info("node joined name={}", name);
  co_return answer({{"directory", options_.node}});
}

Daemon::Answer Daemon::list_nodes(ControlRequest) {
  boost::json::array list;
  for (const auto& node : co_await directory().nodes())
    list.push_back(Json{{"name", node.name},
                        {"control", node.control_address},
                        {"data", node.data_address},
                        {"alive", node.alive}});
  co_return answer({{"nodes", std::move(list)}});
}

Daemon::Answer Daemon::put_region(ControlRequest request) {
  constexpr auto kWhere = "PUT /v1/regions";
  auto& records = directory();
  const auto body = parse_object(request.body, kWhere);
  RegionRecord record;
  record.session = get_hex(body, "session", kWhere);
  auto& owner = lender_.session(record.session, get_string(body, "key", kWhere));
  record.region.id = get_hex(body, "region", kWhere);
  record.region.name = checked_name(get_string(body, "name", kWhere), "name", kWhere);
  record.region.client = owner.client;
  record.region.size_bytes = get_uint(body, "size_bytes", kWhere);
  for (const auto& value : get_array(body, "extents", kWhere)) {
    const auto& extent = as_object(value, kWhere);
    record.region.extents.push_back({DeviceName::parse(get_string(extent, "device", kWhere)),
                                     get_uint(extent, "offset_bytes", kWhere),
                                     get_uint(extent, "size_bytes", kWhere)});
  }
  co_await records.put_region(std::move(record));
  co_return answer({});
}

Daemon::Answer Daemon::drop_region(ControlRequest request) {
  constexpr auto kWhere = "DELETE /v1/regions";
  auto& records = directory();
  const auto body = parse_object(request.body, kWhere);
  const auto session = get_hex(body, "session", kWhere);
  static_cast<void>(lender_.session(session, get_string(body, "key", kWhere)));
  co_await records.drop_region(session, get_hex(body, "region", kWhere));
  co_return answer({});
}

Daemon::Answer Daemon::open_group(ControlRequest request) {
  constexpr auto kWhere = "POST /v1/groups/NAME";
  auto& records = directory();
  const auto body = parse_object(request.body, kWhere);
  static_cast<void>(
      lender_.session(get_hex(body, "session", kWhere), get_string(body, "key", kWhere)));
  const auto name = checked_name(last_segment(request.path), "NAME", kWhere);
  const auto world = get_uint(body, "world", kWhere);
  const auto key =
      co_await records.open_group(name, static_cast<int>(std::min<std::uint64_t>(world, 1 << 30)));
  co_return answer({{"group_key", key}});
}

Daemon::Answer Daemon::join_group(ControlRequest request) {
  constexpr auto kWhere = "POST /v1/group-members/NAME";
  auto& records = directory();
  const auto body = parse_object(request.body, kWhere);
  GroupMember member;
  member.session = get_hex(body, "session", kWhere);
  static_cast<void>(lender_.session(member.session, get_string(body, "key", kWhere)));
  member.rank = static_cast<int>(std::min<std::uint64_t>(get_uint(body, "rank", kWhere), 1 << 30));
  member.node = checked_name(get_string(body, "node", kWhere), "node", kWhere);
  member.address = get_string(body, "address", kWhere);
  check_digits(member.address, "address", kWhere);
  const auto deadline =
      std::chrono::steady_clock::now() + get_timeout(body, "timeout_ms", kMaxTtl, kWhere);
  boost::json::array list;
  for (const auto& each :
       co_await records.join_group(last_segment(request.path), std::move(member), deadline))
    list.push_back(Json{{"rank", each.rank}, {"node", each.node}, {"address", each.address}});
  co_return answer({{"members", std::move(list)}});
}

struct Daemon::Route {
  std::string_view method;
  std::string_view path;  // A trailing '/' takes one more segment.
  boost::asio::awaitable<ControlResponse> (*run)(Daemon&, ControlRequest);
};

const Daemon::Route* Daemon::find_route(const ControlRequest& request) {
  using Call = ControlRequest;
  static constexpr Route kRoutes[] = {
      {"POST", "/v1/sessions", [](Daemon& d, Call r) -> Answer { co_return d.open_session(r); }},
      {"POST", "/v1/sessions/renew",
       [](Daemon& d, Call r) -> Answer { co_return d.renew_session(r); }},
      {"DELETE", "/v1/sessions", [](Daemon& d, Call r) -> Answer { co_return d.close_session(r); }},
      {"POST", "/v1/extents", [](Daemon& d, Call r) -> Answer { co_return d.lend(r); }},
      {"DELETE", "/v1/extents", [](Daemon& d, Call r) -> Answer { co_return d.take_back(r); }},
      {"POST", "/v1/extents/rename", [](Daemon& d, Call r) -> Answer { co_return d.rename(r); }},
      {"POST", "/v1/extents/settle", [](Daemon& d, Call r) { return d.settle(std::move(r)); }},
      {"POST", "/v1/transfers", [](Daemon& d, Call r) { return d.transfer(std::move(r)); }},
      {"POST", "/v1/nodes", [](Daemon& d, Call r) { return d.put_node(std::move(r)); }},
      {"GET", "/v1/nodes", [](Daemon& d, Call r) { return d.list_nodes(std::move(r)); }},
      {"PUT", "/v1/regions", [](Daemon& d, Call r) { return d.put_region(std::move(r)); }},
      {"DELETE", "/v1/regions", [](Daemon& d, Call r) { return d.drop_region(std::move(r)); }},
      {"POST", "/v1/groups/", [](Daemon& d, Call r) { return d.open_group(std::move(r)); }},
      {"POST", "/v1/group-members/", [](Daemon& d, Call r) { return d.join_group(std::move(r)); }},
      {"GET", "/v1/node", [](Daemon& d, Call) -> Answer { co_return answer(d.node_json()); }},
      {"GET", "/v1/pool",
       [](Daemon& d, Call) -> Answer { co_return answer(co_await d.pool_json(true)); }},
      {"GET", "/v1/pool/memory",
       [](Daemon& d, Call) -> Answer { co_return answer(co_await d.pool_json(false)); }},
      {"GET", "/v1/topology", [](Daemon& d, Call) { return d.topology(); }},
      {"GET", "/metrics", [](Daemon& d, Call) -> Answer { co_return d.metrics(); }},
      {"GET", "/", [](Daemon& d, Call) -> Answer { co_return d.page(); }},
      {"POST", "/v1/shutdown",
       [](Daemon& d, Call) -> Answer {
         spdlog::info("stopping request=shutdown");
         boost::asio::post(d.context_, [&d] { d.context_.stop(); });
         co_return answer({});
       }},
  };
  bool path_known = false;
  for (const auto& route : kRoutes) {
    const bool prefix = route.path.size() > 1 && route.path.back() == '/';
    const bool fits = prefix ? request.path.starts_with(route.path) &&
                                   request.path.size() > route.path.size() &&
                                   request.path.find('/', route.path.size()) == std::string::npos
                             : request.path == route.path;
    if (fits && request.method == route.method) return &route;
    path_known = path_known || fits;
  }
  if (path_known)
    throw Error(Errc::invalid_argument,
                fmt::format("{} is not possible on {}", request.method, request.path));
  throw Error(Errc::not_found, fmt::format("no such path: {}; docs/control-plane.md lists them",
                                           request.path.substr(0, 100)));
}

boost::asio::awaitable<ControlResponse> Daemon::handle(ControlRequest request) {
  ++requests_;
  const auto running = running_;
  const auto* route = find_route(request);
  co_return co_await route->run(*this, std::move(request));
}

}  // namespace causeway
