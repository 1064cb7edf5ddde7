// What follows from a topology as JSON; docs/topology.md has the schema.
#include <boost/json.hpp>

#include "causeway/topology.h"
#include "causeway/topology_export.h"

namespace causeway {

namespace json = boost::json;

namespace {

json::array names_of(const std::vector<DeviceName>& devices) {
  json::array names;
  for (const auto& device : devices) names.push_back(json::string(device.to_string()));
  return names;
}

}  // namespace

std::string Topology::to_json() const {
  json::array devices;
  for (const auto& device : devices_)
    devices.push_back({{"name", device.name.to_string()},
                       {"node", device.name.node},
                       {"kind", device.name.kind == DeviceKind::gpu ? "gpu" : "host"},
                       {"model", device.model},
                       {"capacity_bytes", device.capacity_bytes},
                       {"available_bytes", device.available_bytes}});
  json::array islands;
  for (const auto& island : this->islands())
    islands.push_back({{"name", island.name},
                       {"devices", names_of(island.devices)},
                       {"rests_on", to_string(island.rests_on)},
                       {"basis", island.basis}});
  json::array domains;
  for (const auto& domain : nvlink_domains())
    domains.push_back({{"name", domain.name},
                       {"devices", names_of(domain.devices)},
                       {"switched", domain.is_switched},
                       {"all_to_all", domain.is_all_to_all}});
  json::array nodes;
  for (const auto& node : this->nodes()) nodes.push_back(json::string(node));
  auto text = json::serialize(json::object{{"name", name()},
                                           {"nodes", std::move(nodes)},
                                           {"devices", std::move(devices)},
                                           {"islands", std::move(islands)},
                                           {"nvlink_domains", std::move(domains)}});
  // The graph is a text already, and Boost.JSON would change some of its numbers.
  text.pop_back();
  return text + ",\"graph\":" + graph_to_json(graph()) + "}";
}

}  // namespace causeway
