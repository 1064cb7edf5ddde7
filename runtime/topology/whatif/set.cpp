#include "runtime/topology/whatif/set.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "causeway/cluster.h"
#include "causeway/gpu_catalogue.h"
#include "runtime/topology/bytes.h"
#include "runtime/topology/link_rates.h"
#include "runtime/topology/utf8.h"
#include "runtime/topology/whatif/derived.h"
#include "runtime/topology/yaml_tree.h"

namespace causeway::whatif {

namespace {

// A field's new value, with errors that say what it may be.
class Value {
 public:
  Value(std::string_view field, std::string_view text, const std::string& expression)
      : field_(field), text_(text), expression_(expression) {}

  [[nodiscard]] Error error(const std::string& expected) const {
    return refuse(expression_, fmt::format("'{}' is not {}", printable(text_, 60), expected));
  }

  [[nodiscard]] bool truth() const {
    for (const auto* yes : {"yes", "true", "on", "1"})
      if (text_ == yes) return true;
    for (const auto* no : {"no", "false", "off", "0"})
      if (text_ == no) return false;
    throw error("yes or no");
  }

  [[nodiscard]] std::uint32_t whole(std::uint32_t low, std::uint32_t high) const {
    std::uint32_t value = 0;
    const auto* end = text_.data() + text_.size();
    const auto [stop, status] = std::from_chars(text_.data(), end, value);
    if (status != std::errc{} || stop != end || value < low || value > high)
      throw error(fmt::format("a whole number from {} to {}", low, high));
    return value;
  }

  [[nodiscard]] std::uint64_t bytes() const {
    try {
      return parse_bytes(text_);
    } catch (const Error& failure) {
      throw refuse(expression_, failure.what());
    }
  }

  [[nodiscard]] double bandwidth() const {
    const auto value = parse_bandwidth(text_);
    if (!value || *value <= 0) throw error("a bandwidth; write it such as 25 Gbit/s or 48 GB/s");
    return *value;
  }

  [[nodiscard]] double seconds() const {
    const auto value = parse_seconds(text_);
    if (!value) throw error("a latency; write it such as 5 us");
    return *value;
  }

  template <typename Enum>
  [[nodiscard]] Enum one_of() const {
    if (const auto value = text_.empty() ? std::nullopt : parse_name<Enum>(text_)) return *value;
    std::string names;
    for (std::uint8_t i = 0; !to_string(static_cast<Enum>(i)).empty(); ++i)
      names += fmt::format("{}{}", i == 0 ? "" : ", ", to_string(static_cast<Enum>(i)));
    throw error("one of " + names);
  }

  [[nodiscard]] const GpuModel& gpu_model() const {
    if (const auto* model = find_gpu_model(text_)) return *model;
    std::vector<std::string_view> names;
    for (const auto& model : gpu_models()) names.push_back(model.name);
    const auto near = nearest_name(text_, names);
    throw refuse(expression_,
                 fmt::format("unknown GPU '{}'; {}known: {}", printable(text_, 60),
                             near ? fmt::format("did you mean '{}'? ", *near) : std::string(),
                             fmt::join(names, ", ")));
  }

  // The error for a field that the target does not have.
  [[nodiscard]] Error no_field(std::string_view target,
                               const std::vector<std::string_view>& fields) const {
    const auto near = nearest_name(field_, fields);
    return refuse(expression_,
                  fmt::format("{} has no field '{}' to set; {}", target, printable(field_, 60),
                              near ? fmt::format("did you mean '{}'?", *near)
                                   : fmt::format("it has: {}", fmt::join(fields, ", "))));
  }

 private:
  std::string_view field_;
  std::string_view text_;
  const std::string& expression_;
};

Figure assumed(double value) { return {value, Provenance::spec}; }

void set_node(TopologyNode& node, std::string_view field, const Value& value) {
  if (field == "iommu")
    node.iommu = value.one_of<IommuMode>();
  else if (field == "fabric")
    node.fabric = value.one_of<FabricState>();
  else if (field == "view")
    node.view = value.one_of<MachineView>();
  else
    throw value.no_field("a node", {"iommu", "fabric", "view"});
}

// --- Links ---

void set_pcie_mode(TopologyLink& link, std::optional<std::uint32_t> generation,
                   std::optional<std::uint32_t> width) {
  const auto set = [](std::optional<std::uint32_t>& now, std::optional<std::uint32_t>& most,
                      std::optional<std::uint32_t> value) {
    if (!value) return;
    now = value;
    if (most) most = std::max(*most, *value);  // Another slot.
  };
  set(link.pcie.generation, link.pcie_max.generation, generation);
  set(link.pcie.width, link.pcie_max.width, width);
  if (link.state != LinkState::up && link.state != LinkState::degraded) return;
  const auto is_below = [](const auto& now, const auto& most) {
    return now && most && *now < *most;
  };
  link.state = is_below(link.pcie.generation, link.pcie_max.generation) ||
                       is_below(link.pcie.width, link.pcie_max.width)
                   ? LinkState::degraded
                   : LinkState::up;
}

void set_link(TopologyGraph& graph, std::size_t index, std::string_view field, const Value& value) {
  auto& link = graph.links[index];
  const bool is_pcie = link.kind == LinkKind::pcie;
  const bool has_count = link.kind == LinkKind::nvlink || link.kind == LinkKind::xgmi ||
                         link.kind == LinkKind::network;
  if (field == "width" && is_pcie) {
    const auto width = value.whole(1, 32);
    if (width != 12 && (width & (width - 1)) != 0) throw value.error("1, 2, 4, 8, 12, 16 or 32");
    set_pcie_mode(link, {}, width);
    derive_rates(graph, index);
  } else if (field == "generation" && is_pcie) {
    set_pcie_mode(link, value.whole(1, 6), {});
    derive_rates(graph, index);
  } else if (field == "count" && has_count) {
    const auto before = link.count;
    link.count = value.whole(1, 1024);
    const auto effective = link.effective_bytes_per_s;
    derive_rates(graph, index);
    // Where nothing is known of the kind, as much more as there are more links.
    if (!link.effective_bytes_per_s && effective)
      link.effective_bytes_per_s = assumed(effective->value / before * link.count);
  } else if (field == "bandwidth") {
    link.effective_bytes_per_s = assumed(value.bandwidth());
    if (link.line_bytes_per_s && link.line_bytes_per_s->value < link.effective_bytes_per_s->value)
      link.line_bytes_per_s.reset();
  } else if (field == "latency") {
    link.latency_s = assumed(value.seconds());
  } else if (field == "state") {
    link.state = value.one_of<LinkState>();
  } else {
    std::vector<std::string_view> fields{"bandwidth", "latency", "state"};
    if (is_pcie) fields.insert(fields.end(), {"width", "generation"});
    if (has_count) fields.emplace_back("count");
    throw value.no_field(fmt::format("a {} link", to_string(link.kind)), fields);
  }
  forget_measurements(graph, graph.links[index]);
}

// --- Components ---

// The generation of a new card's link: what the slot held the old card to, holds the new one too.
std::uint32_t generation_of(const TopologyLink& link, const GpuModel* before,
                            const GpuModel& after) {
  const auto generation = static_cast<std::uint32_t>(after.pcie_generation);
  const auto most = link.pcie_max.generation;
  const bool slot_limits =
      most && before != nullptr && *most < static_cast<std::uint32_t>(before->pcie_generation);
  return slot_limits ? std::min(*most, generation) : generation;
}

// Another card in the same slot: of the old one only its place stays.
void replace_gpu(TopologyGraph& graph, std::size_t index, const GpuModel& model) {
  const Component before = graph.components[index];
  Component card;
  card.name = before.name;
  card.kind = before.kind;
  card.node = before.node;
  card.pci = before.pci;
  card.vendor_id = before.vendor_id;
  card.numa = before.numa;
  card.cpus = before.cpus;
  card.model = model.name;
  card.title = model.title;
  card.capacity_bytes = model.memory_bytes;
  card.sm = sm_of_model(model.name);
  const auto links = nvlinks_of_model(model);
  if (links > 0) card.nvlinks_max = links;
  graph.components[index] = card;
  std::erase_if(graph.pairs, [&](const Pair& pair) {
    return pair.from == before.name || pair.to == before.name;
  });
  std::erase_if(graph.links, [&](const TopologyLink& link) {
    const bool is_ours = link.a == before.name || link.b == before.name;
    return is_ours && (link.kind == LinkKind::xgmi || link.kind == LinkKind::c2c ||
                       (link.kind == LinkKind::nvlink && links == 0));
  });
  const auto* old_model = find_gpu_model(before.model);
  const auto old_links = old_model != nullptr ? nvlinks_of_model(*old_model) : 0;
  for (std::size_t i = 0; i < graph.links.size(); ++i) {
    auto& link = graph.links[i];
    if (link.a != before.name && link.b != before.name) continue;
    if (link.kind == LinkKind::nvlink && old_links > 0)  // All of the card's, shared out alike.
      link.count = std::max<std::uint32_t>(
          1, static_cast<std::uint32_t>(std::lround(1.0 * link.count * links / old_links)));
    if (link.kind == LinkKind::pcie && link.a == before.name) {
      const auto generation = generation_of(link, old_model, model);
      if (link.pcie.generation) link.pcie.generation = generation;
      if (link.pcie_max.generation) link.pcie_max.generation = generation;
    }
    derive_rates(graph, i);
  }
}

void set_component(TopologyGraph& graph, std::size_t index, std::string_view field,
                   const Value& value) {
  auto& component = graph.components[index];
  const auto kind = component.kind;
  const bool is_gpu = kind == ComponentKind::gpu;
  const bool is_nic = kind == ComponentKind::nic;
  const bool has_memory = is_gpu || kind == ComponentKind::host;
  const bool is_bridge = kind == ComponentKind::bridge;
  if (field == "model" && is_gpu) {
    replace_gpu(graph, index, value.gpu_model());
  } else if (field == "capacity" && has_memory) {
    const auto bytes = value.bytes();
    if (bytes == 0) throw value.error("a size over 0; --remove takes a device away");
    component.capacity_bytes = bytes;
  } else if (field == "bar1" && is_gpu) {
    component.bar1_bytes = value.bytes();
  } else if (field == "gpu_direct" && (is_gpu || is_nic)) {
    component.gpu_direct = value.truth();
  } else if (field == "bandwidth" && is_nic) {
    component.port_bytes_per_s = value.bandwidth();
    if (component.port_max_bytes_per_s)
      component.port_max_bytes_per_s =
          std::max(*component.port_max_bytes_per_s, *component.port_bytes_per_s);
  } else if (field == "up" && is_nic) {
    component.port_up = value.truth();
  } else if (field == "mtu" && is_nic) {
    component.mtu = value.whole(68, 65535);
  } else if (field == "is_rdma" && is_nic) {
    component.is_rdma = value.truth();
  } else if (field == "acs_redirect" && is_bridge) {
    component.acs_redirect = value.truth();
  } else if (field == "is_chipset" && is_bridge) {
    component.is_chipset = value.truth();
  } else {
    std::vector<std::string_view> fields;
    if (is_gpu) fields = {"model", "capacity", "bar1", "gpu_direct"};
    if (kind == ComponentKind::host) fields = {"capacity"};
    if (is_nic) fields = {"bandwidth", "up", "mtu", "is_rdma", "gpu_direct"};
    if (is_bridge) fields = {"acs_redirect", "is_chipset"};
    throw value.no_field(fmt::format("a component of kind {}", to_string(kind)), fields);
  }
  if (!is_nic) return;
  TopologyLink port{LinkKind::network, graph.components[index].name, ""};
  forget_measurements(graph, port);
}

// --- Pairs ---

void set_pair(TopologyGraph& graph, const PairTarget& target, std::string_view field,
              const Value& value) {
  auto at = std::ranges::find_if(graph.pairs, [&](const Pair& pair) {
    return pair.from == target.from && pair.to == target.to;
  });
  if (at == graph.pairs.end()) {
    graph.pairs.push_back({target.from, target.to});
    at = std::prev(graph.pairs.end());
  }
  const bool read = field == "granted" || field == "granted_read";
  const bool write = field == "granted" || field == "granted_write";
  if (read || write) {
    const auto status = value.one_of<PeerStatus>();
    if (read) at->granted_read = status;
    if (write) at->granted_write = status;
    // What was seen under the other answer says nothing of this one.
    at->cuda_agrees.reset();
    at->verified.reset();
    at->bandwidth_bytes_per_s.reset();
    at->latency_s.reset();
  } else if (field == "cuda_agrees") {
    at->cuda_agrees = value.truth();
  } else if (field == "verified") {
    at->verified = value.one_of<PeerCheck>();
  } else if (field == "path") {
    at->path = value.one_of<PathClass>();
  } else if (field == "bandwidth") {
    at->bandwidth_bytes_per_s = assumed(value.bandwidth());
  } else if (field == "staged") {
    at->staged_bytes_per_s = assumed(value.bandwidth());
  } else if (field == "latency") {
    at->latency_s = assumed(value.seconds());
  } else {
    throw value.no_field("a pair", {"granted", "granted_read", "granted_write", "cuda_agrees",
                                    "verified", "path", "bandwidth", "staged", "latency"});
  }
}

}  // namespace

void set_field(TopologyGraph& graph, const Target& target, std::string_view field,
               std::string_view text, const std::string& expression) {
  const Value value(field, text, expression);
  if (const auto* node = std::get_if<NodeTarget>(&target))
    set_node(graph.nodes[node->index], field, value);
  else if (const auto* component = std::get_if<ComponentTarget>(&target))
    set_component(graph, component->index, field, value);
  else if (const auto* link = std::get_if<LinkTarget>(&target))
    set_link(graph, link->index, field, value);
  else
    set_pair(graph, std::get<PairTarget>(target), field, value);
}

}  // namespace causeway::whatif
