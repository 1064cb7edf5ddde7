#include "causeway/cluster.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "causeway/gpu_catalogue.h"
#include "runtime/topology/bytes.h"
#include "runtime/topology/yaml_tree.h"

namespace causeway {

namespace {

constexpr std::size_t kMaxNodes = 1024;
constexpr std::size_t kMaxDevices = 4096;
constexpr std::size_t kMaxLinks = 16384;
constexpr std::uint32_t kMaxDevicesPerNode = 1024;
constexpr std::uint64_t kMaxCapacityBytes = std::uint64_t{1} << 50;
constexpr double kMinBandwidth = 1e3;
constexpr double kMaxBandwidth = 1e14;
constexpr double kMaxLatency = 60;

// What the keys above `nodes` say of capacities.
struct Scale {
  double value = 1.0;
  bool applied = false;  // `scaled`: the capacities are final.
};

Scale read_scale(const YamlField& root) {
  const auto scale = root.find("scale");
  const auto scaled = root.find("scaled");
  if (scale && scaled)
    throw scaled->error("stands beside 'scale'; keep 'scale' (to apply) or 'scaled' (applied)");
  if (scale) return {scale->number(1e-9, 1e3), false};
  if (scaled) return {scaled->number(1e-9, 1e3), true};
  return {};
}

std::uint64_t read_capacity(const YamlField& field) {
  const auto bytes = field.bytes();
  if (bytes == 0) throw field.error("is 0; write the bytes to lend, or leave the device out");
  if (bytes > kMaxCapacityBytes)
    throw field.error(fmt::format("{} bytes is over {}, the most one device may have", bytes,
                                  format_bytes(kMaxCapacityBytes)));
  return bytes;
}

// `capacity_bytes` times the scale, in whole granules.
std::uint64_t scale_capacity(const YamlField& field, std::uint64_t capacity_bytes, Scale scale) {
  auto bytes = capacity_bytes;
  if (!scale.applied && scale.value != 1.0) {
    const double product = static_cast<double>(bytes) * scale.value;
    if (product > static_cast<double>(kMaxCapacityBytes))
      throw field.error(fmt::format("{} times scale {} is over {}", format_bytes(bytes),
                                    scale.value, format_bytes(kMaxCapacityBytes)));
    // Nearest, not down: 32 GB * 0.001 is a hair under 32000000 in some products.
    bytes = static_cast<std::uint64_t>(std::llround(product));
  }
  const auto granules = bytes / kDeviceGranuleBytes;
  if (granules == 0)
    throw field.error(fmt::format(
        "{} times scale {} is less than one granule of {} bytes; raise 'scale' or the capacity",
        format_bytes(capacity_bytes), scale.applied ? 1.0 : scale.value, kDeviceGranuleBytes));
  return granules * kDeviceGranuleBytes;
}

const GpuModel& read_gpu_model(const YamlField& field) {
  const auto& name = field.text("a catalogue name such as rtx-5090");
  if (const auto* model = find_gpu_model(name)) return *model;
  std::vector<std::string_view> known;
  for (const auto& model : gpu_models()) known.push_back(model.name);
  const auto near = nearest_name(name, known);
  throw field.error(fmt::format("unknown GPU '{}'; {}known: {}", name.substr(0, 64),
                                near ? fmt::format("did you mean '{}'? ", *near) : std::string(),
                                fmt::join(known, ", ")));
}

void add_devices(NodeSpec& node, const YamlField& entry, Scale scale) {
  entry.expect_map("a device", {"gpu", "host", "count", "capacity"});
  const auto gpu = entry.find("gpu");
  const auto host = entry.find("host");
  if (gpu.has_value() == host.has_value())
    throw entry.error("must have either 'gpu: NAME' or 'host: SIZE'");
  const auto count_field = entry.find("count");
  const auto count = count_field ? count_field->whole_number(1, kMaxDevicesPerNode) : 1;
  const auto capacity = entry.find("capacity");
  DeviceSpec device;
  device.name.node = node.name;
  if (host) {
    if (capacity) throw capacity->error("host memory gives its size as 'host: SIZE'");
    device.name.kind = DeviceKind::host;
    device.model = "host";
    device.capacity_bytes = scale_capacity(*host, read_capacity(*host), scale);
  } else {
    const GpuModel& model = read_gpu_model(*gpu);
    device.model = model.name;
    // With `scaled`, a capacity from the catalogue would be the only one that is not final.
    if (!capacity && scale.applied && scale.value != 1.0)
      throw entry.error("'capacity' is missing; 'scaled' says that every capacity is written out");
    device.capacity_bytes =
        scale_capacity(capacity ? *capacity : *gpu,
                       capacity ? read_capacity(*capacity) : model.memory_bytes, scale);
  }
  auto index = static_cast<std::uint32_t>(std::ranges::count_if(
      node.devices, [&](const DeviceSpec& d) { return d.name.kind == device.name.kind; }));
  if (node.devices.size() + count > kMaxDevicesPerNode)
    throw entry.error(fmt::format("more than {} devices on one node", kMaxDevicesPerNode));
  for (std::uint64_t i = 0; i < count; ++i) {
    device.name.index = index++;
    node.devices.push_back(device);
  }
}

NodeSpec read_node(const YamlField& entry, Scale scale) {
  entry.expect_map("a node", {"name", "devices"});
  const auto name = entry.require("name", "a name such as desktop");
  NodeSpec node;
  node.name = name.text("a name such as desktop");
  if (!is_node_name(node.name))
    throw name.error(
        fmt::format("'{}' is not a node name; write 1 to 63 of a-z, 0-9, '.', '-', "
                    "starting with a letter or digit",
                    node.name.substr(0, 80)));
  for (const auto& device : entry.require_items(
           "devices", "[{gpu: rtx-5090, count: 2}, {host: 64 GB}]", kMaxDevicesPerNode))
    add_devices(node, device, scale);
  return node;
}

LinkSpec read_link(const YamlField& entry, const std::set<std::string>& nodes) {
  entry.expect_map("a link", {"between", "bandwidth", "latency"});
  const auto between = entry.require("between", "two node names: [desktop, hgx]");
  const auto ends = between.pair("two node names: [desktop, hgx]");
  for (const auto& end : {ends.first, ends.second})
    if (const auto& name = end.text("a node's name"); !nodes.contains(name))
      throw end.error(fmt::format(
          "no node is named '{}'; nodes: {}", name.substr(0, 64),
          fmt::join(nodes.begin(),
                    std::next(nodes.begin(),
                              static_cast<std::ptrdiff_t>(std::min<std::size_t>(nodes.size(), 16))),
                    ", ")));
  LinkSpec link{ends.first.text(""), ends.second.text(""), 0, 0};
  if (link.node_a == link.node_b)
    throw between.error(
        fmt::format("joins '{}' to itself; write two different nodes", link.node_a));
  const auto bandwidth = entry.require("bandwidth", "such as 1.25 GB/s or 10 Gbit/s");
  const auto& rate = bandwidth.text("such as 1.25 GB/s or 10 Gbit/s");
  link.bandwidth_bytes_per_s = parse_bandwidth(rate).value_or(-1);
  if (!(link.bandwidth_bytes_per_s >= kMinBandwidth && link.bandwidth_bytes_per_s <= kMaxBandwidth))
    throw bandwidth.error(fmt::format(
        "'{}' is not a bandwidth from 1 kB/s to 100 TB/s; write it such as 1.25 GB/s or 10 Gbit/s",
        rate.substr(0, 64)));
  const auto latency = entry.require("latency", "such as 200 us");
  const auto& time = latency.text("such as 200 us");
  link.latency_s = parse_seconds(time).value_or(-1);
  if (!(link.latency_s >= 0 && link.latency_s <= kMaxLatency))
    throw latency.error(fmt::format(
        "'{}' is not a latency from 0 s to 60 s; write it such as 200 us", time.substr(0, 64)));
  return link;
}

void read_links(ClusterSpec& cluster, const YamlField& field) {
  std::set<std::string> nodes;
  for (const auto& node : cluster.nodes) nodes.insert(node.name);
  std::map<std::pair<std::string, std::string>, int> lines;
  for (const auto& entry :
       field.items("[{between: [a, b], bandwidth: 1 GB/s, latency: 1 ms}]", kMaxLinks)) {
    const auto link = read_link(entry, nodes);
    const auto [at, fresh] = lines.emplace(std::minmax(link.node_a, link.node_b), entry.line());
    if (!fresh)
      throw entry.error(fmt::format("joins {} and {} a second time, after line {}; keep one",
                                    link.node_a, link.node_b, at->second));
    cluster.links.push_back(link);
  }
}

}  // namespace

ClusterSpec ClusterSpec::from_file(const std::string& path) {
  return from_yaml(read_text_file(path, kMaxYamlBytes), path);
}

ClusterSpec ClusterSpec::from_yaml(std::string_view text, const std::string& origin) {
  const YamlNode tree = parse_yaml(text, origin);
  const YamlField root(tree, origin);
  root.expect_map("a cluster", {"name", "scale", "scaled", "nodes", "links"});
  ClusterSpec cluster;
  const auto name = root.require("name", "name: desktop-and-hgx");
  cluster.name = name.text("a name such as desktop-and-hgx");
  if (cluster.name.empty() || cluster.name.size() > 128)
    throw name.error("must have 1 to 128 characters");
  const Scale scale = read_scale(root);
  cluster.scale = scale.value;
  std::map<std::string, int, std::less<>> lines;
  std::size_t devices = 0;
  for (const auto& entry :
       root.require_items("nodes", "[{name: desktop, devices: [...]}]", kMaxNodes)) {
    auto node = read_node(entry, scale);
    const auto [at, fresh] = lines.emplace(node.name, entry.line());
    if (!fresh)
      throw entry.error(fmt::format("a node named '{}' is there already, on line {}; rename one",
                                    node.name, at->second));
    devices += node.devices.size();
    if (devices > kMaxDevices)
      throw entry.error(fmt::format("more than {} devices in all", kMaxDevices));
    cluster.nodes.push_back(std::move(node));
  }
  if (const auto links = root.find("links"); links && links->kind() != YamlNode::Kind::null)
    read_links(cluster, *links);
  return cluster;
}

std::string ClusterSpec::to_yaml() const {
  std::string text = fmt::format("name: {}\n", yaml_scalar(name));
  if (scale != 1.0) text += fmt::format("scaled: {}\n", yaml_number(scale));
  text += "nodes:\n";
  for (const auto& node : nodes) {
    text += fmt::format("  - name: {}\n    devices:\n", yaml_scalar(node.name));
    std::map<DeviceKind, std::uint32_t> next;
    for (std::size_t i = 0; i < node.devices.size();) {
      const auto& first = node.devices[i];
      std::uint32_t count = 0;
      for (; i < node.devices.size(); ++i, ++count) {
        const auto& device = node.devices[i];
        if (device.model != first.model || device.capacity_bytes != first.capacity_bytes ||
            device.name.kind != first.name.kind)
          break;
        if (device.name.node != node.name || device.name.index != next[device.name.kind]++)
          throw Error(Errc::invalid_argument,
                      fmt::format("cluster '{}': {} is out of order; a node's devices are numbered "
                                  "from 0 by kind",
                                  name, device.name.to_string()));
      }
      text += first.name.kind == DeviceKind::host
                  ? fmt::format("      - {{host: {}, count: {}}}\n", first.capacity_bytes, count)
                  : fmt::format("      - {{gpu: {}, count: {}, capacity: {}}}\n",
                                yaml_scalar(first.model), count, first.capacity_bytes);
    }
  }
  if (!links.empty()) text += "links:\n";
  for (const auto& link : links)
    text += fmt::format("  - {{between: [{}, {}], bandwidth: {} B/s, latency: {} s}}\n",
                        yaml_scalar(link.node_a), yaml_scalar(link.node_b),
                        yaml_number(link.bandwidth_bytes_per_s), yaml_number(link.latency_s));
  return text;
}

const NodeSpec* ClusterSpec::find_node(std::string_view wanted) const noexcept {
  const auto at = std::ranges::find(nodes, wanted, &NodeSpec::name);
  return at == nodes.end() ? nullptr : &*at;
}

}  // namespace causeway
