#include "runtime/topology/import/graph_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <unordered_map>

#include "runtime/topology/nvlink_domain.h"

namespace causeway {

namespace {

class DisjointSets {
 public:
  explicit DisjointSets(std::size_t count) : parents_(count) {
    std::iota(parents_.begin(), parents_.end(), std::size_t{0});
  }
  std::size_t find(std::size_t at) {
    while (parents_[at] != at) at = parents_[at] = parents_[parents_[at]];
    return at;
  }
  void join(std::size_t a, std::size_t b) { parents_[find(a)] = find(b); }

 private:
  std::vector<std::size_t> parents_;
};

}  // namespace

std::size_t PartTree::add(Part part) {
  if (parts_.size() >= kMaxImportComponents)
    throw xml_->error(part.element, fmt::format("more than {} devices; no machine has that many",
                                                kMaxImportComponents));
  if (part.component.kind == ComponentKind::cpu && ++cpus_ > kMaxNumaNodes)
    throw xml_->error(part.element, fmt::format("more than {} NUMA nodes; no machine has that many",
                                                kMaxNumaNodes));
  parts_.push_back(std::move(part));
  return parts_.size() - 1;
}

std::size_t PartTree::root(std::size_t at) const {
  while (parts_[at].parent != kNoPart) at = parts_[at].parent;
  return at;
}

void PartTree::name_all() {
  order_.resize(parts_.size());
  std::iota(order_.begin(), order_.end(), std::size_t{0});
  const auto rank = [&](std::size_t at) {
    const auto kind = parts_[at].component.kind;
    if (kind == ComponentKind::cpu || kind == ComponentKind::host) return 0;
    if (parts_[at].parent != kNoPart) return 1;
    return kind == ComponentKind::nvswitch ? 3 : 2;
  };
  std::ranges::stable_sort(order_, [&](std::size_t a, std::size_t b) {
    if (rank(a) != rank(b)) return rank(a) < rank(b);
    return rank(a) == 3 && parts_[a].component.pci < parts_[b].component.pci;
  });
  name_numa_parts();
  auto naming = order_;
  std::ranges::stable_sort(naming, {}, [&](std::size_t at) { return parts_[at].order; });
  std::map<std::pair<std::string_view, ComponentKind>, std::uint32_t> counts;
  for (const auto at : naming) {
    auto& component = parts_[at].component;
    if (!component.name.empty()) continue;
    component.name = fmt::format("{}/{}{}", component.node, to_string(component.kind),
                                 counts[{component.node, component.kind}]++);
  }
}

void PartTree::name_numa_parts() {
  std::set<std::string> taken;
  const auto try_name = [&](Component& component, std::uint32_t number) {
    auto name = fmt::format("{}/{}{}", component.node, to_string(component.kind), number);
    if (taken.insert(name).second) component.name = std::move(name);
  };
  for (const bool is_known : {true, false})
    for (const auto at : order_) {
      auto& component = parts_[at].component;
      if (component.kind != ComponentKind::cpu && component.kind != ComponentKind::host) continue;
      if (is_known && component.numa) try_name(component, *component.numa);
      if (is_known) continue;
      for (std::uint32_t number = 0; component.name.empty(); ++number) try_name(component, number);
    }
}

void PartTree::append_to(TopologyGraph& graph) const {
  const auto figure = [](std::optional<double> value) {
    return value ? std::optional(Figure{*value, Provenance::import}) : std::nullopt;
  };
  std::map<std::string_view, std::vector<const Component*>> cpus;  // By node.
  for (const auto at : order_) {
    const auto& part = parts_[at];
    graph.components.push_back(part.component);
    if (part.component.kind == ComponentKind::cpu)
      cpus[part.component.node].push_back(&part.component);
    if (part.parent == kNoPart) continue;
    const bool is_memory = part.component.kind == ComponentKind::host;
    const auto& above = parts_[part.parent].component.name;
    graph.links.push_back({.kind = is_memory ? LinkKind::memory : LinkKind::pcie,
                           .a = is_memory ? above : part.component.name,
                           .b = is_memory ? part.component.name : above,
                           .provenance = Provenance::import,
                           .pcie = part.mode,
                           .line_bytes_per_s = figure(part.line),
                           .effective_bytes_per_s = figure(part.effective)});
  }
  for (const auto& [node, of_node] : cpus)
    for (std::size_t i = 0; i < of_node.size(); ++i)
      for (std::size_t j = i + 1; j < of_node.size(); ++j)
        graph.links.push_back({.kind = LinkKind::socket,
                               .a = of_node[i]->name,
                               .b = of_node[j]->name,
                               .provenance = Provenance::import});
}

void join_nvswitches(TopologyGraph& graph, const std::string& source) {
  std::unordered_map<std::string_view, std::size_t> index;
  for (std::size_t i = 0; i < graph.components.size(); ++i)
    index.emplace(graph.components[i].name, i);
  DisjointSets parts(graph.components.size());
  std::vector<bool> linked(graph.components.size(), false);
  for (const auto& link : graph.links) {
    if (link.kind != LinkKind::nvlink) continue;
    const auto a = index.find(link.a);
    const auto b = index.find(link.b);
    if (a == index.end() || b == index.end()) continue;
    parts.join(a->second, b->second);
    linked[a->second] = linked[b->second] = true;
  }
  std::map<std::string_view, std::size_t> first_switch;  // By node.
  std::map<std::string_view, std::size_t> joined;
  std::vector<TopologyLink> added;
  for (std::size_t i = 0; i < graph.components.size(); ++i) {
    const auto& component = graph.components[i];
    if (component.kind != ComponentKind::nvswitch || !linked[i]) continue;
    const auto [first, is_new] = first_switch.emplace(component.node, i);
    if (is_new || parts.find(i) == parts.find(first->second)) continue;
    parts.join(i, first->second);
    ++joined[component.node];
    added.push_back({.kind = LinkKind::nvlink,
                     .a = graph.components[first->second].name,
                     .b = component.name,
                     .provenance = Provenance::spec});
  }
  for (auto& link : added) graph.links.push_back(std::move(link));
  for (const auto& [node, count] : joined)
    graph.notes.push_back(
        {TopologyNote::Kind::remark, source,
         fmt::format("{}: the NVLinks listed leave its NVSwitches in {} parts; the NVSwitches of "
                     "one machine are one fabric, so they are taken as joined, at an unknown rate",
                     node, count + 1)});
}

void limit_nvlinks(TopologyGraph& graph, const std::string& source) {
  for (const auto& name : replace_switched_meshes(graph, false))
    graph.notes.push_back({TopologyNote::Kind::repaired, source,
                           fmt::format("{}: an NVSwitch that the file does not list; its GPUs have "
                                       "too few links for those to each of their peers",
                                       name)});
  for (const auto& over : limit_links_of_chips(graph))
    graph.notes.push_back(
        {TopologyNote::Kind::repaired, source,
         fmt::format("{}: {} NVLinks, and its chip has {}; those past that are not counted",
                     over.gpu, over.stated, over.most)});
}

}  // namespace causeway
