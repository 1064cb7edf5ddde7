// Mooncake's JSON of measured NIC pairs: per pair of hosts a list of endpoints with MB/s and us.
//
// Shape:   each two NICs of two hosts that were measured are joined by a network link with what was
//          measured; each NUMA node that the file names is a CPU with its memory, above its NICs,
//          at no known rate. Of both directions the slower one is the link's.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <set>
#include <unordered_map>

#include "runtime/topology/import/json_text.h"
#include "runtime/topology/import/readers.h"
#include "runtime/topology/import/text.h"

namespace causeway {

namespace {

namespace json = boost::json;

using Kind = TopologyNote::Kind;

constexpr std::size_t kMaxNotes = 64;
constexpr std::size_t kMaxNics = std::size_t{1} << 16;
constexpr std::size_t kMaxPairs = std::size_t{1} << 18;

// Host memory is not a NUMA node that a device of the fabric may name past this.
constexpr double kMaxNuma = 1 << 16;

class TransferReader {
 public:
  explicit TransferReader(const std::string& origin) : origin_(origin) { graph_.name = origin; }

  void read(const json::value& document) {
    const auto* hosts = document.if_array();
    if (hosts == nullptr) throw error("document", "not the list of host pairs");
    for (std::size_t i = 0; i < hosts->size(); ++i) {
      const auto field = fmt::format("[{}]", i);
      const auto* object = (*hosts)[i].if_object();
      if (object == nullptr) throw error(field, "not an object");
      const auto source = host(*object, "src_host", field);
      const auto target = host(*object, "dst_host", field);
      const auto* endpoints = object->if_contains("endpoints");
      if (endpoints == nullptr || !endpoints->is_array())
        throw error(field + ".endpoints", "missing; it is the list of measured NIC pairs");
      for (std::size_t j = 0; j < endpoints->get_array().size(); ++j)
        read_endpoint(endpoints->get_array()[j], source, target,
                      fmt::format("{}.endpoints[{}]", field, j));
    }
    if (graph_.pairs.empty()) throw error("document", "no measured pair in it");
    add_numa_nodes();
    add_network_links();
  }

  TopologyGraph take() {
    graph_.notes.insert(graph_.notes.begin(),
                        {Kind::remark, origin_ + ":1", "measured by Mooncake's transfer engine"});
    return std::move(graph_);
  }

 private:
  [[nodiscard]] Error error(const std::string& field, const std::string& what) const {
    return text_error(origin_, 1, field + ": " + what);
  }

  void note(Kind kind, const std::string& text) {
    if (graph_.notes.size() < kMaxNotes) graph_.notes.push_back({kind, origin_ + ":1", text});
  }

  std::string host(const json::object& object, std::string_view key, const std::string& field) {
    const auto given = plain_text(json_string(object.if_contains(key)), 256);
    const auto name = safe_node_name(given);
    if (name.empty())
      throw error(fmt::format("{}.{}", field, key), "missing, or nothing that names a host");
    const auto [at, fresh] = nodes_.try_emplace(name, given);
    if (fresh) {
      graph_.nodes.emplace_back().name = name;
      const bool is_case = std::ranges::equal(name, given, [](char a, char b) {
        return a == std::tolower(static_cast<unsigned char>(b));
      });
      if (name != given)
        note(is_case ? Kind::remark : Kind::repaired,
             fmt::format("calls the host '{}' {}", given.substr(0, 64), name));
    } else if (at->second != given) {
      throw error(fmt::format("{}.{}", field, key),
                  fmt::format("'{}' and '{}' would be one node, {}", given.substr(0, 64),
                              at->second.substr(0, 64), name));
    }
    return name;
  }

  Component& nic(const json::object& object, const std::string& side, const std::string& node,
                 const std::string& field) {
    const auto title = plain_text(json_string(object.if_contains(side + "_dev")), 65);
    if (title.empty() || title.size() > 64)
      throw error(fmt::format("{}.{}_dev", field, side), "missing; it names the NIC");
    const auto [at, fresh] = nics_.try_emplace(node + '\n' + title, graph_.components.size());
    if (fresh) {
      if (nics_.size() > kMaxNics)
        throw error(field, fmt::format("more than {} NICs, the most read", kMaxNics));
      auto& made = graph_.components.emplace_back();
      made.name = fmt::format("{}/nic{}", node, nic_count_[node]++);
      made.kind = ComponentKind::nic;
      made.node = node;
      made.title = title;
    }
    auto& made = graph_.components[at->second];
    if (const auto numa = json_number(object.if_contains(side + "_numa"));
        numa && *numa < kMaxNuma) {
      const auto value = static_cast<std::uint32_t>(*numa);
      if (made.numa && *made.numa != value)
        note(Kind::conflict, fmt::format("{}: NUMA node {} here, {} before; kept {}", made.name,
                                         value, *made.numa, *made.numa));
      if (!made.numa) made.numa = value;
    }
    return made;
  }

  void read_endpoint(const json::value& value, const std::string& source, const std::string& target,
                     const std::string& field) {
    const auto* object = value.if_object();
    if (object == nullptr) throw error(field, "not an object");
    const auto from = nic(*object, "src", source, field).name;
    const auto to = nic(*object, "dst", target, field).name;
    if (from == to) return;  // Into itself.
    const auto [at, fresh] = pairs_.try_emplace(from + '\n' + to, graph_.pairs.size());
    if (fresh) {
      if (pairs_.size() > kMaxPairs)
        throw error(field, fmt::format("more than {} NIC pairs, the most read", kMaxPairs));
      graph_.pairs.emplace_back().from = from;
      graph_.pairs.back().to = to;
    }
    auto& pair = graph_.pairs[at->second];
    const auto rate = json_number(object->if_contains("bandwidth"));
    const auto latency = json_number(object->if_contains("latency"));
    if (rate && !MachineBuilder::keep_better(pair.bandwidth_bytes_per_s, *rate * 1e6))
      note(Kind::repaired,
           fmt::format("{} to {}: left out {:g} MB/s, which no machine has", from, to, *rate));
    if (latency && !MachineBuilder::keep_lower(pair.latency_s, *latency / 1e6))
      note(Kind::repaired, fmt::format("{} to {}: left out a latency of {:g} us, which no machine "
                                       "has",
                                       from, to, *latency));
  }

  // A node of which no NUMA number is known has one NUMA node.
  void add_numa_nodes() {
    std::map<std::string, std::vector<Component>> nics;  // By node.
    for (const auto& nic : graph_.components) nics[nic.node].push_back(nic);
    std::size_t sockets = 0;
    for (const auto& [node, own] : nics) {
      std::set<std::optional<std::uint32_t>> numbers;
      for (const auto& nic : own)
        if (nic.numa) numbers.insert(nic.numa);
      if (numbers.empty()) numbers.insert(std::nullopt);
      sockets += numbers.size() * (numbers.size() - 1) / 2;
      if (sockets > kMaxPairs)
        throw error("document",
                    fmt::format("more than {} pairs of NUMA nodes, the most read", kMaxPairs));
      std::vector<std::string> cpus;
      for (const auto& numa : numbers) {
        const auto cpu = add_part(ComponentKind::cpu, node, numa);
        link(LinkKind::memory, cpu, add_part(ComponentKind::host, node, numa));
        for (const auto& other : cpus) link(LinkKind::socket, other, cpu);
        cpus.push_back(cpu);
      }
      for (const auto& nic : own)
        if (nic.numa || !*numbers.begin())
          link(LinkKind::pcie, nic.name, fmt::format("{}/cpu{}", node, nic.numa.value_or(0)));
    }
  }

  std::string add_part(ComponentKind kind, const std::string& node,
                       std::optional<std::uint32_t> numa) {
    auto& made = graph_.components.emplace_back();
    made.name = fmt::format("{}/{}{}", node, to_string(kind), numa.value_or(0));
    made.kind = kind;
    made.node = node;
    made.numa = numa;
    if (kind == ComponentKind::host) made.model = "host";
    return made.name;
  }

  TopologyLink& link(LinkKind kind, const std::string& a, const std::string& b) {
    auto& made = graph_.links.emplace_back(TopologyLink{kind, a, b});
    made.provenance = Provenance::import;
    return made;
  }

  void add_network_links() {
    const auto node_of = [](const std::string& nic) { return nic.substr(0, nic.find('/')); };
    std::map<std::pair<std::string, std::string>, std::size_t> links;
    for (const auto& pair : graph_.pairs) {
      if (!pair.bandwidth_bytes_per_s || node_of(pair.from) == node_of(pair.to)) continue;
      const auto [at, fresh] =
          links.try_emplace(std::minmax(pair.from, pair.to), graph_.links.size());
      if (fresh) link(LinkKind::network, pair.from, pair.to).provenance = Provenance::measured;
      auto& rate = graph_.links[at->second].effective_bytes_per_s;
      auto& latency = graph_.links[at->second].latency_s;
      if (!rate || pair.bandwidth_bytes_per_s->value < rate->value)
        rate = pair.bandwidth_bytes_per_s;
      if (pair.latency_s && (!latency || pair.latency_s->value > latency->value))
        latency = pair.latency_s;
    }
  }

  const std::string& origin_;
  TopologyGraph graph_;
  std::map<std::string, std::string> nodes_;  // By name: what the file calls it.
  std::unordered_map<std::string, std::size_t> nics_;
  std::unordered_map<std::string, std::uint32_t> nic_count_;
  std::unordered_map<std::string, std::size_t> pairs_;
};

}  // namespace

TopologyGraph read_transfer_table(std::string_view text, const std::string& origin) {
  TransferReader reader(origin);
  reader.read(parse_json_text(text, origin));
  return reader.take();
}

}  // namespace causeway
