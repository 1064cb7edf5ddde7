// What several sources say of the same devices, as one graph. merge_identity.h says which devices
// are the same; here their values, links and pairs are put together.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "causeway/error.h"
#include "causeway/topology_import.h"
#include "runtime/topology/graph_check.h"
#include "runtime/topology/merge_fabric.h"
#include "runtime/topology/merge_identity.h"
#include "runtime/topology/nvlink_domain.h"

namespace causeway {

namespace {

using Kind = TopologyNote::Kind;

constexpr std::size_t kMaxConflicts = 64;

template <typename Enum>
requires std::is_enum_v<Enum> std::string show(Enum value) { return std::string(to_string(value)); }
std::string show(const std::string& value) { return value.substr(0, 64); }
std::string show(bool value) { return value ? "yes" : "no"; }
std::string show(std::uint32_t value) { return std::to_string(value); }
std::string show(std::uint64_t value) { return std::to_string(value); }
std::string show(double value) { return fmt::format("{:g}", value); }
std::string show(const PciAddress& value) { return value.to_string(); }
std::string show(const Figure& value) {
  return fmt::format("{:g} ({})", value.value, to_string(value.provenance));
}

// Measured before reported before specified.
int rank(Provenance provenance) {
  if (provenance == Provenance::measured) return 2;
  return provenance == Provenance::spec ? 0 : 1;
}

class Merger {
 public:
  explicit Merger(const std::vector<MergeSource>& sources)
      : sources_(sources), identity_(sources), fabric_(sources, identity_) {}

  TopologyGraph take() {
    for (const auto& source : sources_)
      if (graph_.name.empty()) graph_.name = source.graph->name;
    add_nodes();
    add_components();
    add_links();
    add_pairs();
    add_notes();
    return std::move(graph_);
  }

 private:
  struct Place {
    const std::string* object;  // What the value is of.
    std::string_view field;
    std::size_t first;   // Source of the value that stands.
    std::size_t second;  // And of the other one.
  };

  void conflict(const Place& place, const std::string& kept, const std::string& other) {
    if (++conflicts_ > kMaxConflicts) return;
    merge_notes_.push_back(
        {Kind::conflict, sources_[place.second].name,
         fmt::format("{}: {} is {} in {} and {} in {}; kept the first", *place.object, place.field,
                     kept, sources_[place.first].name, other, sources_[place.second].name)});
  }

  template <typename Value>
  void put(const Place& place, std::optional<Value>& into, const std::optional<Value>& value) {
    if (!value) return;
    if (!into) {
      into = value;
    } else if (*into != *value) {
      conflict(place, show(*into), show(*value));
    }
  }

  void put(const Place& place, std::optional<Figure>& into, const std::optional<Figure>& value) {
    if (!value) return;
    if (!into || rank(value->provenance) > rank(into->provenance)) {
      into = value;
    } else if (rank(value->provenance) == rank(into->provenance) && into->value != value->value) {
      conflict(place, show(*into), show(*value));
    }
  }

  void put(const Place& place, std::string& into, const std::string& value) {
    if (value.empty() || into == value) return;
    if (into.empty()) {
      into = value;
    } else {
      conflict(place, show(into), show(value));
    }
  }

  // For enumerations whose first value says nothing.
  template <typename Enum>
  void put_known(const Place& place, Enum& into, Enum value, Enum unknown) {
    if (value == unknown || into == value) return;
    if (into == unknown) {
      into = value;
    } else {
      conflict(place, show(into), show(value));
    }
  }

  void add_nodes() {
    std::unordered_map<std::string, std::pair<std::size_t, std::size_t>> at;  // Index and source.
    for (std::size_t source = 0; source < sources_.size(); ++source) {
      for (const auto& node : sources_[source].graph->nodes) {
        const auto [known, fresh] =
            at.try_emplace(node.name, std::pair{graph_.nodes.size(), source});
        if (fresh) {
          graph_.nodes.push_back(node);
          continue;
        }
        const auto first = known->second.second;
        auto& into = graph_.nodes[known->second.first];
        const auto place = [&](std::string_view field) {
          return Place{&node.name, field, first, source};
        };
        put(place("driver"), into.driver_version, node.driver_version);
        put(place("CUDA"), into.cuda_version, node.cuda_version);
        put(place("kernel"), into.kernel, node.kernel);
        put_known(place("view"), into.view, node.view, MachineView::unknown);
        put(place("IOMMU"), into.iommu, node.iommu);
        put(place("fabric"), into.fabric, node.fabric);
        put(place("fabric cluster"), into.fabric_cluster, node.fabric_cluster);
        into.nvlinks_known = into.nvlinks_known || node.nvlinks_known;
        for (const auto& unseen : node.unseen)
          if (std::ranges::find(into.unseen, unseen) == into.unseen.end())
            into.unseen.push_back(unseen);
      }
    }
  }

  void add_components() {
    names_.resize(identity_.members().size());
    std::vector<std::size_t> devices;  // Of graph_.components.
    for (std::size_t device = 0; device < identity_.groups().size(); ++device) {
      const auto& group = identity_.groups()[device];
      if (group.empty() || fabric_.is_dropped(device)) continue;
      auto made = *identity_.members()[group[0]].component;
      for (std::size_t i = 1; i < group.size(); ++i)
        add_member(made, group[0], identity_.members()[group[i]]);
      devices.push_back(device);
      graph_.components.push_back(std::move(made));
    }
    // Who keeps the name of its first source comes before who got another's.
    std::unordered_set<std::string> taken;
    for (const auto& node : graph_.nodes) taken.insert(node.name);
    for (const bool kept : {true, false})
      for (std::size_t i = 0; i < devices.size(); ++i) {
        const auto first = identity_.groups()[devices[i]].front();
        auto& name = graph_.components[i].name;
        const bool is_kept = name == identity_.members()[first].component->name;
        if (!names_[devices[i]].empty() || is_kept != kept) continue;
        names_[devices[i]] = name = free_name(taken, name);
      }
  }

  // `name`, or with the lowest number that makes it a new one.
  static std::string free_name(std::unordered_set<std::string>& taken, std::string name) {
    const auto stem = name.substr(0, name.find_last_not_of("0123456789") + 1);
    for (std::size_t number = 0; !taken.insert(name).second; ++number)
      name = stem + std::to_string(number);
    return name;
  }

  void add_member(Component& into, std::size_t first, const MergeMember& member) {
    const auto& from = *member.component;
    const auto place = [&](std::string_view field) {
      return Place{&into.name, field, identity_.members()[first].source, member.source};
    };
    if (into.node.empty() && !from.node.empty()) {  // An adapter that has found its machine.
      into.node = from.node;
      into.name = from.name;
    }
    // A name says the kind: whoever knows the kind gives the name.
    if (into.kind == ComponentKind::unknown && from.kind != ComponentKind::unknown)
      into.name = from.name;
    put_known(place("kind"), into.kind, from.kind, ComponentKind::unknown);
    put(place("model"), into.model, from.model);
    put(place("title"), into.title, from.title);
    if (into.uuid.empty() || plain_uuid(into) != plain_uuid(from))
      put(place("UUID"), into.uuid, from.uuid);
    put(place("PCI address"), into.pci, from.pci);
    put(place("vendor"), into.vendor_id, from.vendor_id);
    put(place("device id"), into.device_id, from.device_id);
    put(place("NUMA node"), into.numa, from.numa);
    put(place("capacity"), into.capacity_bytes, from.capacity_bytes);
    put(place("BAR1"), into.bar1_bytes, from.bar1_bytes);
    put(place("compute capability"), into.sm, from.sm);
    put(place("architecture"), into.arch, from.arch);
    put(place("CPU vendor"), into.cpu_vendor, from.cpu_vendor);
    put(place("CPU family"), into.cpu_family, from.cpu_family);
    put(place("CPU model"), into.cpu_model, from.cpu_model);
    put(place("CPUs"), into.cpus, from.cpus);
    put(place("NVLinks"), into.nvlinks_max, from.nvlinks_max);
    put(place("inactive NVLinks"), into.nvlinks_down, from.nvlinks_down);
    put(place("port rate"), into.port_bytes_per_s, from.port_bytes_per_s);
    put(place("port maximum"), into.port_max_bytes_per_s, from.port_max_bytes_per_s);
    put(place("port up"), into.port_up, from.port_up);
    put(place("MTU"), into.mtu, from.mtu);
    put(place("driver"), into.driver, from.driver);
    put(place("RDMA"), into.is_rdma, from.is_rdma);
    put(place("GPUDirect"), into.gpu_direct, from.gpu_direct);
    put(place("ACS redirect"), into.acs_redirect, from.acs_redirect);
    put(place("chipset"), into.is_chipset, from.is_chipset);
  }

  // What the result calls what `source` calls `name`: a device, or a node.
  [[nodiscard]] const std::string& final_name(std::size_t source, const std::string& name) const {
    const auto device = identity_.find(source, name);
    return device == MergeIdentity::npos ? name : names_[device];
  }

  void add_links() {
    struct Known {
      std::size_t link;
      std::size_t source;
    };
    std::unordered_map<std::string, Known> at;
    for (std::size_t source = 0; source < sources_.size(); ++source) {
      std::unordered_map<std::string, int> times;  // Of one pair of ends in this source.
      const auto& links = sources_[source].graph->links;
      for (std::size_t i = 0; i < links.size(); ++i) {
        if (fabric_.is_dropped(source, i)) continue;
        auto link = links[i];
        link.a = final_name(source, link.a);
        link.b = final_name(source, link.b);
        auto key = fmt::format("{}\n{}\n{}", static_cast<int>(link.kind), std::min(link.a, link.b),
                               std::max(link.a, link.b));
        key += fmt::format("\n{}", times[key]++);
        const auto [known, fresh] = at.try_emplace(key, Known{graph_.links.size(), source});
        if (fresh) {
          graph_.links.push_back(std::move(link));
        } else {
          add_link(graph_.links[known->second.link], link, known->second.source, source);
        }
      }
    }
    for (const auto& trunk : fabric_.trunks()) {
      auto link = trunk.link;
      link.a = names_[trunk.a];
      link.b = names_[trunk.b];
      graph_.links.push_back(std::move(link));
    }
  }

  void add_link(TopologyLink& into, const TopologyLink& from, std::size_t first,
                std::size_t second) {
    const auto name = into.a + " - " + into.b;
    const auto place = [&](std::string_view field) { return Place{&name, field, first, second}; };
    if (into.count != from.count) {
      const bool better = rank(from.provenance) > rank(into.provenance);
      if (rank(from.provenance) == rank(into.provenance))
        conflict(place("links"), show(into.count), show(from.count));
      if (better) into.count = from.count;
    }
    if (rank(from.provenance) > rank(into.provenance)) into.provenance = from.provenance;
    put_known(place("state"), into.state, from.state, LinkState::unknown);
    put(place("generation"), into.pcie.generation, from.pcie.generation);
    put(place("width"), into.pcie.width, from.pcie.width);
    put(place("maximal generation"), into.pcie_max.generation, from.pcie_max.generation);
    put(place("maximal width"), into.pcie_max.width, from.pcie_max.width);
    put(place("line rate"), into.line_bytes_per_s, from.line_bytes_per_s);
    put(place("bandwidth"), into.effective_bytes_per_s, from.effective_bytes_per_s);
    put(place("latency"), into.latency_s, from.latency_s);
  }

  void add_pairs() {
    std::unordered_map<std::string, std::pair<std::size_t, std::size_t>> at;  // Index and source.
    for (std::size_t source = 0; source < sources_.size(); ++source) {
      std::unordered_map<std::string, int> times;
      for (auto pair : sources_[source].graph->pairs) {
        pair.from = final_name(source, pair.from);
        pair.to = final_name(source, pair.to);
        auto key = pair.from + '\n' + pair.to;
        key += fmt::format("\n{}", times[key]++);
        const auto [known, fresh] = at.try_emplace(key, std::pair{graph_.pairs.size(), source});
        if (fresh) {
          graph_.pairs.push_back(std::move(pair));
          continue;
        }
        const auto first = known->second.second;
        auto& into = graph_.pairs[known->second.first];
        const auto name = into.from + " to " + into.to;
        const auto place = [&](std::string_view field) {
          return Place{&name, field, first, source};
        };
        put(place("read"), into.granted_read, pair.granted_read);
        put(place("write"), into.granted_write, pair.granted_write);
        put(place("CUDA's peer access"), into.cuda_agrees, pair.cuda_agrees);
        put(place("check"), into.verified, pair.verified);
        put(place("path"), into.path, pair.path);
        put(place("bandwidth"), into.bandwidth_bytes_per_s, pair.bandwidth_bytes_per_s);
        put(place("staged bandwidth"), into.staged_bytes_per_s, pair.staged_bytes_per_s);
        put(place("latency"), into.latency_s, pair.latency_s);
      }
    }
  }

  void add_notes() {
    std::set<std::pair<std::string_view, std::string_view>> known;  // Borrows the sources.
    for (const auto& source : sources_) {
      std::vector<const TopologyNote*> fresh;
      for (const auto& note : source.graph->notes)
        if (!known.contains({note.source, note.text})) fresh.push_back(&note);
      for (const auto* note : fresh) {
        known.insert({note->source, note->text});
        graph_.notes.push_back(*note);
      }
    }
    for (auto* notes : {&identity_.notes(), &fabric_.notes(), &merge_notes_})
      for (auto& note : *notes) graph_.notes.push_back(std::move(note));
    if (conflicts_ > kMaxConflicts)
      graph_.notes.push_back(
          {Kind::conflict, sources_[0].name,
           fmt::format("{} more values differ between the sources", conflicts_ - kMaxConflicts)});
  }

  const std::vector<MergeSource>& sources_;
  MergeIdentity identity_;
  MergeFabric fabric_;
  TopologyGraph graph_;
  std::vector<std::string> names_;  // By device.
  std::vector<TopologyNote> merge_notes_;
  std::size_t conflicts_ = 0;
};

}  // namespace

TopologyGraph merge(std::span<const TopologyGraph> graphs) {
  std::vector<MergeSource> sources;
  for (std::size_t i = 0; i < graphs.size(); ++i) {
    // What is said twice in the same words is said once.
    const bool known = std::ranges::any_of(
        sources, [&](const MergeSource& source) { return *source.graph == graphs[i]; });
    if (known) continue;
    sources.push_back(
        {&graphs[i], graphs[i].name.empty() ? fmt::format("source {}", i + 1) : graphs[i].name});
  }
  if (sources.empty()) return {};
  if (sources.size() == 1) return *sources.front().graph;
  auto graph = Merger(sources).take();
  // One source may know the chip and another one the links.
  for (const auto& name : replace_switched_meshes(graph, false))
    graph.notes.push_back({Kind::remark, name,
                           "an NVSwitch that no source shows: these GPUs have too few links for "
                           "links to each of their peers"});
  if (const auto fault = fault_of(graph))
    throw Error(Errc::parse, fmt::format("{}: does not merge: {}", graph.name, *fault));
  return graph;
}

}  // namespace causeway
