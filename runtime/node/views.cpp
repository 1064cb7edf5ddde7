#include <fmt/format.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/deferred.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/as_tuple.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <utility>  // Boost 1.81 with g++ 12 and C++20 wants std::exchange before Asio.

#include "causeway/topology_export.h"
#include "runtime/control/json.h"
#include "runtime/node/daemon.h"
#include "runtime/node/page.h"
#include "runtime/pool/status.h"
#include "runtime/topology/pool_graph.h"

namespace causeway {

namespace {
namespace asio = boost::asio;
using namespace std::chrono_literals;
constexpr auto kAskTimeout = 1s;
// For a node that did not answer the last time: everyone who allocates would wait a second for it.
constexpr auto kSilentTimeout = 100ms;
constexpr std::size_t kMaxListedExtents = 100'000;  // Some 10 MB of answer.

void merge_node(ClusterSpec& pool, const NodeRecord& record) {
  const auto own = ClusterSpec::from_yaml(record.cluster_yaml, "the cluster of " + record.name);
  if (const auto* node = own.find_node(record.name)) pool.nodes.push_back(*node);
  for (const auto& link : own.links) {
    const bool ours = link.node_a == record.name || link.node_b == record.name;
    const bool known = std::ranges::any_of(pool.links, [&](const LinkSpec& other) {
      return (other.node_a == link.node_a && other.node_b == link.node_b) ||
             (other.node_a == link.node_b && other.node_b == link.node_a);
    });
    if (ours && !known) pool.links.push_back(link);
  }
}

// What these nodes lend, and the links between them.
ClusterSpec cluster_of(const std::string& name, const std::vector<NodeRecord>& records) {
  ClusterSpec cluster;
  cluster.name = name;
  for (const auto& record : records) merge_node(cluster, record);
  std::erase_if(cluster.links, [&](const LinkSpec& link) {
    return !cluster.find_node(link.node_a) || !cluster.find_node(link.node_b);
  });
  return cluster;
}

DeviceStatus status_of(const Lender::Device& device) {
  const auto& body = device.body;
  DeviceStatus status{.name = body.name,
                      .model = body.model,
                      .kind = body.kind,
                      .capacity_bytes = device.capacity_bytes(),
                      .used_bytes = device.used_bytes(),
                      .granule_bytes = device.memory->granule_bytes(),
                      .uuid = body.uuid,
                      .reaches = {},
                      .staging = {}};
  for (const auto& local : body.reaches)
    status.reaches.push_back(DeviceName::parse(body.name.node + "/" + local));
  if (!device.staging) return status;
  const auto& report = device.staging->report();
  status.staging = StagingStatus{report.slots, report.chunk_bytes};
  for (const auto& trial : report.trials)
    status.staging->trials.push_back({trial.chunk_bytes, trial.bytes_per_second});
  return status;
}

}  // namespace

// Everyone who allocates asks for it, and to read a cluster file of each node takes its time.
const Daemon::PoolCluster& Daemon::pool_cluster(const std::vector<NodeRecord>& records) {
  std::vector<std::string> nodes;
  for (const auto& record : records) nodes.push_back(record.name);
  auto& known = pool_cluster_;
  if (known.version == topology_version_ && known.nodes == nodes) return known;
  auto cluster = cluster_of(options_.cluster.name, records);
  auto yaml = cluster.to_yaml();
  known = {topology_version_, std::move(nodes), std::move(cluster), std::move(yaml)};
  return known;
}

std::vector<RailStatus> Daemon::rails_status() const {
  std::vector<RailStatus> list;
  for (const auto& [node, rails] : rails_)
    for (auto& rail : rails->status()) {
      RailStatus status{.node = node,
                        .address = std::move(rail.address),
                        .is_open = rail.is_open,
                        .channels = rail.channels,
                        .sent_bytes = rail.sent_bytes,
                        .received_bytes = rail.received_bytes,
                        .bytes_per_second = rail.bytes_per_second,
                        .losses = rail.losses,
                        .probes = rail.probes,
                        .part_bytes = rail.settings.part_bytes,
                        .eager_bytes = rail.settings.eager_bytes,
                        .by_stream = rail.settings.by_stream,
                        .answer_seconds = 0,
                        .reason = "",
                        .trials = {}};
      if (rail.probe) {
        status.answer_seconds = rail.probe->answer_seconds;
        status.reason = rail.probe->reason;
        for (const auto& trial : rail.probe->trials)
          status.trials.push_back({trial.operation_bytes, trial.settings.part_bytes,
                                   trial.settings.eager_bytes, trial.settings.by_stream,
                                   trial.write_bytes_per_second, trial.read_bytes_per_second});
      }
      list.push_back(std::move(status));
    }
  return list;
}

Daemon::Json Daemon::node_json() const {
  boost::json::array devices, clients, routes, rails, gpus;
  for (const auto& line : gpu_report_) gpus.emplace_back(line);
  for (const auto& rail : rails_status()) rails.push_back(rail_to_json(rail));
  for (const auto& device : lender_.devices()) devices.push_back(device_to_json(status_of(device)));
  for (const auto& [_, session] : lender_.sessions()) clients.emplace_back(session.client);
  for (const auto& [ends, bytes] : lender_.routes())
    routes.push_back(Json{{"from", ends.first},
                          {"to", ends.second},
                          {"transport", ends.first == ends.second ? "local" : "ucx"},
                          {"bytes", bytes}});
  return {{"name", options_.node},
          {"alive", true},
          {"control", control_address_},
          {"data", transport_->address()},
          {"directory", directory_ ? options_.node : directory_peer_.name},
          {"devices", std::move(devices)},
          {"clients", std::move(clients)},
          {"routes", std::move(routes)},
          {"rails", std::move(rails)},
          {"gpus", std::move(gpus)}};
}

asio::awaitable<Daemon::Json> Daemon::ask_node(NodeRecord node) {
  if (node.name == options_.node) co_return node_json();
  if (!node.alive) silent_.erase(node.name);
  if (node.alive) {
    const auto silent = silent_.find(node.name);
    const auto timeout =
        silent == silent_.end() ? std::chrono::milliseconds(kAskTimeout) : kSilentTimeout;
    if (silent != silent_.end() && !std::exchange(silent->second, true))
      asio::co_spawn(context_, knock(node), asio::detached);
    try {
      auto answer = parse_object(co_await call_peer(peer(node), "GET", "/v1/node", "", timeout),
                                 "status of " + node.name);
      silent_.erase(node.name);
      for (const char* field : {"devices", "clients", "routes", "rails", "gpus"})
        static_cast<void>(get_array(answer, field, "status of " + node.name));
      co_return answer;
    } catch (const Error& error) {
      if (error.code() == Errc::timed_out) silent_.try_emplace(node.name, false);
      // It is listed as not alive, which says what there is to say.
    }
  }
  co_return Json{{"name", node.name},
                 {"alive", false},
                 {"control", node.control_address},
                 {"data", node.data_address},
                 {"devices", boost::json::array()},
                 {"clients", boost::json::array()},
                 {"routes", boost::json::array()},
                 {"rails", boost::json::array()},
                 {"gpus", boost::json::array()}};
}

// One that is farther away than a silent one is waited for is heard again all the same.
asio::awaitable<void> Daemon::knock(NodeRecord node) {
  try {
    co_await call_peer(peer(node), "GET", "/v1/node", "", kAskTimeout);
    silent_.erase(node.name);
  } catch (const Error&) {
    if (const auto silent = silent_.find(node.name); silent != silent_.end())
      silent->second = false;
  }
}

// The directory's node asks all others at once; any other node asks that one.
asio::awaitable<Daemon::Json> Daemon::pool_json(bool with_regions) {
  if (!directory_)
    co_return parse_object(
        co_await call_peer(directory_peer_, "GET", with_regions ? "/v1/pool" : "/v1/pool/memory",
                           "", kAskTimeout * 2),
        "the pool");
  const auto records = co_await directory_->nodes();
  struct Gathered {
    std::vector<Json> nodes;
    std::size_t missing;
    asio::steady_timer done;
  };
  const auto gathered = std::make_shared<Gathered>(
      Gathered{std::vector<Json>(records.size()), records.size(),
               asio::steady_timer(context_, asio::steady_timer::time_point::max())});
  for (std::size_t i = 0; i < records.size(); ++i)
    asio::co_spawn(context_, ask_node(records[i]), [gathered, i](std::exception_ptr, Json node) {
      gathered->nodes[i] = std::move(node);
      if (--gathered->missing == 0) gathered->done.cancel();
    });
  while (gathered->missing > 0)
    co_await gathered->done.async_wait(asio::experimental::as_tuple(asio::use_awaitable));

  std::vector<NodeRecord> living;
  boost::json::array nodes, regions, routes, clients;
  for (std::size_t i = 0; i < records.size(); ++i) {
    auto& node = gathered->nodes[i];
    const auto* alive = node.if_contains("alive");
    if (alive && *alive == true) living.push_back(records[i]);
    for (auto& route : node["routes"].as_array()) routes.push_back(std::move(route));
    if (records[i].name == options_.node) clients = std::move(node["clients"].as_array());
    node.erase("routes");
    node.erase("clients");
    // Who wants to allocate asks often, and not for this.
    if (!with_regions) node["rails"] = boost::json::array();
    nodes.push_back(std::move(node));
  }
  std::size_t listed = 0, omitted = 0;
  std::vector<RegionRecord> known;  // Not a conditional co_await: g++ 12 destroys its result twice.
  if (with_regions) known = co_await directory_->regions();
  for (const auto& record : known) {
    listed += record.region.extents.size();
    if (listed > kMaxListedExtents) {
      ++omitted;
      continue;
    }
    boost::json::array extents;
    for (const auto& extent : record.region.extents)
      extents.push_back(Json{{"device", extent.device.to_string()},
                             {"offset_bytes", extent.offset_bytes},
                             {"size_bytes", extent.size_bytes}});
    regions.push_back(Json{{"region", to_hex(record.region.id)},
                           {"name", record.region.name},
                           {"client", record.region.client},
                           {"size_bytes", record.region.size_bytes},
                           {"extents", std::move(extents)}});
  }
  co_return Json{
      {"directory", options_.node},           {"nodes", std::move(nodes)},
      {"regions", std::move(regions)},        {"regions_omitted", omitted},
      {"routes", std::move(routes)},          {"clients", std::move(clients)},
      {"cluster", pool_cluster(living).yaml}, {"topology_version", to_hex(topology_version_)}};
}

// Nodes that left are not in it; those that do not answer are, until their connection ends.
Daemon::Answer Daemon::topology() {
  ControlResponse response;
  if (!directory_) {
    response.body = co_await call_peer(directory_peer_, "GET", "/v1/topology", "", kAskTimeout * 2);
    co_return response;
  }
  auto records = co_await directory_->nodes();
  std::erase_if(records, [](const NodeRecord& record) { return !record.alive; });
  std::vector<TopologyGraph> machines;
  for (const auto& record : records)
    if (!record.topology.empty())
      machines.push_back(parse_published_graph(record.topology, record.name));
  response.body = graph_to_json(pool_graph(pool_cluster(records).spec, std::move(machines)));
  co_return response;
}

ControlResponse Daemon::metrics() const {
  ControlResponse response;
  response.content_type = "text/plain; version=0.0.4";
  auto& text = response.body;
  text = "# TYPE causeway_device_capacity_bytes gauge\n";
  for (const auto& device : lender_.devices())
    text += fmt::format("causeway_device_capacity_bytes{{device=\"{}\",model=\"{}\"}} {}\n",
                        device.body.name.to_string(), device.body.model, device.capacity_bytes());
  text += "# TYPE causeway_device_used_bytes gauge\n";
  for (const auto& device : lender_.devices())
    text += fmt::format("causeway_device_used_bytes{{device=\"{}\"}} {}\n",
                        device.body.name.to_string(), device.used_bytes());
  text += "# TYPE causeway_route_bytes_total counter\n";
  for (const auto& [ends, bytes] : lender_.routes())
    text += fmt::format("causeway_route_bytes_total{{from=\"{}\",to=\"{}\"}} {}\n", ends.first,
                        ends.second, bytes);
  text += rail_metrics();
  text += fmt::format(
      "# TYPE causeway_sessions gauge\ncauseway_sessions {}\n"
      "# TYPE causeway_control_requests_total counter\ncauseway_control_requests_total {}\n"
      "# TYPE causeway_control_requests_running gauge\ncauseway_control_requests_running {}\n",
      lender_.sessions().size(), requests_, running_.use_count() - 1);
  return response;
}

std::string Daemon::rail_metrics() const {
  struct Metric {
    const char* name;
    const char* type;
    double (*value)(const RailStatus&);
  };
  static constexpr Metric kMetrics[] = {
      {"sent_bytes_total", "counter", [](const auto& r) { return double(r.sent_bytes); }},
      {"received_bytes_total", "counter", [](const auto& r) { return double(r.received_bytes); }},
      {"bytes_per_second", "gauge", [](const auto& r) { return r.bytes_per_second; }},
      {"open", "gauge", [](const auto& r) { return r.is_open ? 1.0 : 0.0; }},
      {"channels", "gauge", [](const auto& r) { return double(r.channels); }},
      {"part_bytes", "gauge", [](const auto& r) { return double(r.part_bytes); }},
      {"eager_bytes", "gauge", [](const auto& r) { return double(r.eager_bytes); }},
      {"by_stream", "gauge", [](const auto& r) { return r.by_stream ? 1.0 : 0.0; }},
      {"answer_microseconds", "gauge", [](const auto& r) { return r.answer_seconds * 1e6; }},
      {"probes_total", "counter", [](const auto& r) { return double(r.probes); }},
      {"losses_total", "counter", [](const auto& r) { return double(r.losses); }},
  };
  std::string text;
  const auto list = rails_status();
  for (const auto& [name, type, value] : kMetrics) {
    text += fmt::format("# TYPE causeway_rail_{} {}\n", name, type);
    for (const auto& rail : list)
      text += fmt::format("causeway_rail_{}{{node=\"{}\",address=\"{}\"}} {:.0f}\n", name,
                          rail.node, rail.address, value(rail));
  }
  return text;
}

ControlResponse Daemon::page() const {
  ControlResponse response;
  response.content_type = "text/html; charset=utf-8";
  response.body = kPoolPage;
  return response;
}

}  // namespace causeway
