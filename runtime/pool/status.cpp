#include "runtime/pool/status.h"

#include <fmt/format.h>

#include <bit>

#include "runtime/control/json.h"

namespace causeway {

namespace {
using Json = boost::json::object;
constexpr auto kWhere = "the pool's status";
constexpr std::uint64_t kMostGranuleBytes = std::uint64_t{1} << 30;

RailStatus parse_rail(const Json& rail) {
  RailStatus result{.node = get_string(rail, "node", kWhere),
                    .address = get_string(rail, "address", kWhere),
                    .is_open = get_bool(rail, "open", kWhere),
                    .channels = get_uint(rail, "channels", kWhere),
                    .sent_bytes = get_uint(rail, "sent_bytes", kWhere),
                    .received_bytes = get_uint(rail, "received_bytes", kWhere),
                    .bytes_per_second = get_number(rail, "bytes_per_s", kWhere),
                    .losses = get_uint(rail, "losses", kWhere),
                    .probes = get_uint(rail, "probes", kWhere),
                    .part_bytes = get_uint(rail, "part_bytes", kWhere),
                    .eager_bytes = get_uint(rail, "eager_bytes", kWhere),
                    .by_stream = get_bool(rail, "by_stream", kWhere),
                    .answer_seconds = get_number(rail, "answer_s", kWhere),
                    .reason = get_string(rail, "reason", kWhere),
                    .trials = {}};
  for (const auto& value : get_array(rail, "trials", kWhere)) {
    const auto& trial = as_object(value, kWhere);
    result.trials.push_back(
        {get_uint(trial, "operation_bytes", kWhere), get_uint(trial, "part_bytes", kWhere),
         get_uint(trial, "eager_bytes", kWhere), get_bool(trial, "by_stream", kWhere),
         get_number(trial, "write_bytes_per_s", kWhere),
         get_number(trial, "read_bytes_per_s", kWhere)});
  }
  return result;
}

std::optional<StagingStatus> parse_staging(const Json& device) {
  if (!device.if_contains("staging")) return std::nullopt;
  const auto& staging = get_object(device, "staging", kWhere);
  StagingStatus result{get_uint(staging, "slots", kWhere),
                       get_uint(staging, "chunk_bytes", kWhere)};
  for (const auto& value : get_array(staging, "trials", kWhere)) {
    const auto& trial = as_object(value, kWhere);
    result.trials.push_back(
        {get_uint(trial, "chunk_bytes", kWhere), get_number(trial, "bytes_per_s", kWhere)});
  }
  return result;
}

DeviceStatus parse_device(const Json& device) {
  DeviceStatus result{.name = DeviceName::parse(get_string(device, "name", kWhere)),
                      .model = get_string(device, "model", kWhere),
                      .kind = get_string(device, "kind", kWhere),
                      .capacity_bytes = get_uint(device, "capacity_bytes", kWhere),
                      .used_bytes = get_uint(device, "used_bytes", kWhere),
                      .granule_bytes = get_uint(device, "granule_bytes", kWhere),
                      .uuid = get_string(device, "uuid", kWhere),
                      .reaches = {},
                      .staging = parse_staging(device)};
  if (!std::has_single_bit(result.granule_bytes) || result.granule_bytes > kMostGranuleBytes)
    throw Error(Errc::parse, fmt::format("{}: granule_bytes: {} is no power of two up to {}",
                                         kWhere, result.granule_bytes, kMostGranuleBytes));
  for (const auto& name : get_array(device, "reaches", kWhere))
    if (name.is_string())
      result.reaches.push_back(DeviceName::parse(std::string_view(name.get_string())));
  return result;
}

NodeStatus parse_node(const Json& node) {
  NodeStatus result;
  result.name = get_string(node, "name", kWhere);
  result.alive = get_bool(node, "alive", kWhere);
  result.control_address = get_string(node, "control", kWhere);
  result.data_address = get_string(node, "data", kWhere);
  for (const auto& value : get_array(node, "devices", kWhere)) {
    const auto& device = as_object(value, kWhere);
    result.devices.push_back(parse_device(device));
  }
  for (const auto& line : get_array(node, "gpus", kWhere))
    if (line.is_string()) result.gpu_report.emplace_back(line.get_string());
  for (const auto& value : get_array(node, "rails", kWhere))
    result.rails.push_back(parse_rail(as_object(value, kWhere)));
  return result;
}

RegionStatus parse_region(const Json& region) {
  RegionStatus result;
  result.id = get_hex(region, "region", kWhere);
  result.name = get_string(region, "name", kWhere);
  result.client = get_string(region, "client", kWhere);
  result.size_bytes = get_uint(region, "size_bytes", kWhere);
  for (const auto& value : get_array(region, "extents", kWhere)) {
    const auto& extent = as_object(value, kWhere);
    result.extents.push_back({DeviceName::parse(get_string(extent, "device", kWhere)),
                              get_uint(extent, "offset_bytes", kWhere),
                              get_uint(extent, "size_bytes", kWhere)});
  }
  return result;
}
}  // namespace

PoolStatus parse_pool_status(const Json& document) {
  PoolStatus result;
  result.directory_node = get_string(document, "directory", kWhere);
  for (const auto& node : get_array(document, "nodes", kWhere))
    result.nodes.push_back(parse_node(as_object(node, kWhere)));
  for (const auto& region : get_array(document, "regions", kWhere))
    result.regions.push_back(parse_region(as_object(region, kWhere)));
  for (const auto& value : get_array(document, "routes", kWhere)) {
    const auto& route = as_object(value, kWhere);
    result.routes.push_back({get_string(route, "from", kWhere), get_string(route, "to", kWhere),
                             get_string(route, "transport", kWhere),
                             get_uint(route, "bytes", kWhere)});
  }
  for (const auto& client : get_array(document, "clients", kWhere))
    if (client.is_string()) result.clients.emplace_back(client.get_string());
  return result;
}

void set_available(Topology& topology, const PoolStatus& status) {
  std::vector<DeviceName> names;
  for (const auto& device : topology.devices()) names.push_back(device.name);
  for (const auto& name : names) topology.set_available(name, 0);
  for (const auto& node : status.nodes)
    for (const auto& device : node.devices)
      if (topology.find(device.name) != nullptr)
        topology.set_available(device.name, device.capacity_bytes - device.used_bytes);
}

boost::json::object device_to_json(const DeviceStatus& device) {
  boost::json::array reaches;
  for (const auto& name : device.reaches) reaches.emplace_back(name.to_string());
  Json value{{"name", device.name.to_string()},
             {"model", device.model},
             {"kind", device.kind},
             {"capacity_bytes", device.capacity_bytes},
             {"used_bytes", device.used_bytes},
             {"granule_bytes", device.granule_bytes},
             {"uuid", device.uuid},
             {"reaches", std::move(reaches)}};
  if (!device.staging) return value;
  boost::json::array trials;
  for (const auto& trial : device.staging->trials)
    trials.push_back(
        Json{{"chunk_bytes", trial.chunk_bytes}, {"bytes_per_s", trial.bytes_per_second}});
  value["staging"] = Json{{"slots", device.staging->slots},
                          {"chunk_bytes", device.staging->chunk_bytes},
                          {"trials", std::move(trials)}};
  return value;
}

boost::json::object rail_to_json(const RailStatus& rail) {
  boost::json::array trials;
  for (const auto& trial : rail.trials)
    trials.push_back(Json{{"operation_bytes", trial.operation_bytes},
                          {"part_bytes", trial.part_bytes},
                          {"eager_bytes", trial.eager_bytes},
                          {"by_stream", trial.by_stream},
                          {"write_bytes_per_s", trial.write_bytes_per_second},
                          {"read_bytes_per_s", trial.read_bytes_per_second}});
  return {{"node", rail.node},
          {"address", rail.address},
          {"open", rail.is_open},
          {"channels", rail.channels},
          {"sent_bytes", rail.sent_bytes},
          {"received_bytes", rail.received_bytes},
          {"bytes_per_s", rail.bytes_per_second},
          {"losses", rail.losses},
          {"probes", rail.probes},
          {"part_bytes", rail.part_bytes},
          {"eager_bytes", rail.eager_bytes},
          {"by_stream", rail.by_stream},
          {"answer_s", rail.answer_seconds},
          {"reason", rail.reason},
          {"trials", std::move(trials)}};
}

std::string PoolStatus::to_json() const {
  boost::json::array node_list, region_list, route_list, client_list;
  for (const auto& node : nodes) {
    boost::json::array devices;
    for (const auto& device : node.devices) devices.push_back(device_to_json(device));
    boost::json::array rails, gpus;
    for (const auto& line : node.gpu_report) gpus.emplace_back(line);
    for (const auto& rail : node.rails) rails.push_back(rail_to_json(rail));
    node_list.push_back(Json{{"name", node.name},
                             {"alive", node.alive},
                             {"control", node.control_address},
                             {"data", node.data_address},
                             {"devices", std::move(devices)},
                             {"rails", std::move(rails)},
                             {"gpus", std::move(gpus)}});
  }
  for (const auto& region : regions) {
    boost::json::array extents;
    for (const auto& extent : region.extents)
      extents.push_back(Json{{"device", extent.device.to_string()},
                             {"offset_bytes", extent.offset_bytes},
                             {"size_bytes", extent.size_bytes}});
    region_list.push_back(Json{{"region", to_hex(region.id)},
                               {"name", region.name},
                               {"client", region.client},
                               {"size_bytes", region.size_bytes},
                               {"extents", std::move(extents)}});
  }
  for (const auto& route : routes)
    route_list.push_back(Json{{"from", route.from},
                              {"to", route.to},
                              {"transport", route.transport},
                              {"bytes", route.bytes}});
  for (const auto& client : clients) client_list.emplace_back(client);
  return boost::json::serialize(Json{{"directory", directory_node},
                                     {"nodes", std::move(node_list)},
                                     {"regions", std::move(region_list)},
                                     {"routes", std::move(route_list)},
                                     {"clients", std::move(client_list)}});
}

}  // namespace causeway
