// The topology as JSON; docs/topology.md has the schema.
#include <boost/json.hpp>

#include "causeway/topology.h"

namespace causeway {

namespace json = boost::json;

std::string Topology::to_json() const {
  json::array devices;
  for (const auto& device : devices_)
    devices.push_back({{"name", device.name.to_string()},
                       {"node", device.name.node},
                       {"kind", device.name.kind == DeviceKind::gpu ? "gpu" : "host"},
                       {"model", device.model},
                       {"capacity_bytes", device.capacity_bytes},
                       {"available_bytes", device.available_bytes}});
  json::array links;
  for (const auto& link : links_)
    links.push_back({{"kind", to_string(link.kind)},
                     {"a", link.a},
                     {"b", link.b},
                     {"bandwidth_bytes_per_s", link.rate.bandwidth_bytes_per_s},
                     {"latency_s", link.rate.latency_s},
                     {"provenance", to_string(link.rate.provenance)}});
  json::array islands;
  for (const auto& island : islands_) {
    json::array members;
    for (const auto& device : island.devices) members.push_back(json::string(device.to_string()));
    islands.push_back({{"name", island.name}, {"devices", members}, {"basis", island.basis}});
  }
  json::array nodes;
  for (const auto& node : node_names_) nodes.push_back(json::string(node));
  return json::serialize(json::object{{"name", name_},
                                      {"nodes", std::move(nodes)},
                                      {"devices", std::move(devices)},
                                      {"links", std::move(links)},
                                      {"islands", std::move(islands)}});
}

}  // namespace causeway
