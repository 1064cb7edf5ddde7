#include "runtime/pool/status.h"

#include "runtime/control/json.h"

namespace causeway {

namespace {
using Json = boost::json::object;
constexpr auto kWhere = "the pool's status";

NodeStatus parse_node(const Json& node) {
  NodeStatus result;
  result.name = get_string(node, "name", kWhere);
  result.alive = get_bool(node, "alive", kWhere);
  result.control_address = get_string(node, "control", kWhere);
  result.data_address = get_string(node, "data", kWhere);
  for (const auto& value : get_array(node, "devices", kWhere)) {
    const auto& device = as_object(value, kWhere);
    result.devices.push_back(
        {DeviceName::parse(get_string(device, "name", kWhere)), get_string(device, "model", kWhere),
         get_uint(device, "capacity_bytes", kWhere), get_uint(device, "used_bytes", kWhere)});
  }
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

std::string PoolStatus::to_json() const {
  boost::json::array node_list, region_list, route_list, client_list;
  for (const auto& node : nodes) {
    boost::json::array devices;
    for (const auto& device : node.devices)
      devices.push_back(Json{{"name", device.name.to_string()},
                             {"model", device.model},
                             {"capacity_bytes", device.capacity_bytes},
                             {"used_bytes", device.used_bytes}});
    node_list.push_back(Json{{"name", node.name},
                             {"alive", node.alive},
                             {"control", node.control_address},
                             {"data", node.data_address},
                             {"devices", std::move(devices)}});
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
