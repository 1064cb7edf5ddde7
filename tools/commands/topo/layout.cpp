#include "tools/commands/topo/layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "tools/commands/topo/text.h"

namespace causeway::tools {

Layout::Layout(const TopologyGraph& graph)
    : graph_(&graph),
      entries_(graph.components.size()),
      of_node_(graph.nodes.size()),
      links_of_(graph.nodes.size()) {
  for (std::size_t i = 0; i < graph.nodes.size(); ++i) nodes_.emplace(graph.nodes[i].name, i);
  for (std::size_t i = 0; i < graph.components.size(); ++i) {
    index_.emplace(graph.components[i].name, i);
    if (const auto node = find_node(graph.components[i].node)) of_node_[*node].push_back(i);
  }
  for (std::size_t i = 0; i < graph.links.size(); ++i)
    if (const auto node = find_node(node_part(graph.links[i].a))) links_of_[*node].push_back(i);
  const auto place = [&](std::size_t below, std::size_t above, std::size_t link) {
    auto& entry = entries_[below];
    if (below == above || graph.components[below].kind == ComponentKind::cpu) return;
    entry.is_shared = entry.is_shared || entry.link.has_value();
    if (!entry.link) entry.link = link;
    entry.parent = entry.is_shared ? std::nullopt : std::optional(above);
  };
  for (const auto kind : {LinkKind::pcie, LinkKind::memory, LinkKind::c2c})
    for (std::size_t i = 0; i < graph.links.size(); ++i) {
      const auto& link = graph.links[i];
      const auto a = find(link.a);
      const auto b = find(link.b);
      if (link.kind != kind || !a || !b) continue;
      const bool upward = graph.components[*a].kind == ComponentKind::cpu;
      const auto below = upward ? *b : *a;
      // A GPU with both hangs where PCIe has it.
      if (kind == LinkKind::c2c && entries_[below].link) continue;
      place(below, upward ? *a : *b, i);
    }
  cut_cycles();
  for (std::size_t i = 0; i < entries_.size(); ++i)
    if (entries_[i].parent) entries_[*entries_[i].parent].children.push_back(i);
}

// A file may join bridges in a ring.
void Layout::cut_cycles() {
  enum class Mark : std::uint8_t { none, open, done };
  std::vector<Mark> marks(entries_.size(), Mark::none);
  std::vector<std::size_t> path;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    path.clear();
    for (std::optional<std::size_t> at = i; at && marks[*at] == Mark::none;
         at = entries_[*at].parent) {
      marks[*at] = Mark::open;
      path.push_back(*at);
    }
    if (!path.empty()) {
      auto& last = entries_[path.back()];
      if (last.parent && marks[*last.parent] == Mark::open) last.parent.reset();
    }
    for (const auto at : path) marks[at] = Mark::done;
  }
}

std::optional<std::size_t> Layout::find(std::string_view component) const {
  const auto at = index_.find(component);
  return at == index_.end() ? std::nullopt : std::optional(at->second);
}

std::optional<std::size_t> Layout::find_node(std::string_view node) const {
  const auto at = nodes_.find(node);
  return at == nodes_.end() ? std::nullopt : std::optional(at->second);
}

namespace {

std::optional<Figure> narrower(const std::optional<Figure>& a, const std::optional<Figure>& b) {
  if (!a || !b) return a ? a : b;
  return a->value <= b->value ? a : b;
}

}  // namespace

std::optional<Figure> Layout::between_cpus(std::size_t a, std::size_t b) const {
  const auto node = find_node(graph_->components[a].node);
  if (!node) return std::nullopt;
  for (const auto at : links_of_[*node]) {
    const auto& link = graph_->links[at];
    const std::pair ends(find(link.a), find(link.b));
    if (link.kind == LinkKind::socket && (ends == std::pair(std::optional(a), std::optional(b)) ||
                                          ends == std::pair(std::optional(b), std::optional(a))))
      return link.effective_bytes_per_s;
  }
  return std::nullopt;
}

std::optional<Figure> Layout::narrowest_between(std::size_t a, std::size_t b) const {
  const auto up_from = [&](std::size_t at) {
    const auto& link = entries_[at].link;
    return link ? graph_->links[*link].effective_bytes_per_s : std::nullopt;
  };
  std::map<std::size_t, std::optional<Figure>> above_a;  // The narrowest link up to each ancestor.
  std::optional<Figure> figure;
  auto root = a;
  for (std::optional<std::size_t> at = a; at; at = entries_[*at].parent) {
    above_a.emplace(*at, figure);
    figure = narrower(figure, up_from(*at));
    root = *at;
  }
  const auto to_root = figure;
  figure.reset();
  for (std::optional<std::size_t> at = b; at; at = entries_[*at].parent) {
    if (const auto common = above_a.find(*at); common != above_a.end())
      return narrower(figure, common->second);
    if (!entries_[*at].parent) {
      const auto between = between_cpus(root, *at);
      return between ? narrower(between, narrower(to_root, figure)) : std::nullopt;
    }
    figure = narrower(figure, up_from(*at));
  }
  return std::nullopt;
}

namespace {

template <typename T>
void add_field(std::string& text, const std::optional<T>& value) {
  text += '|';
  if (value) text += fmt::format("{}", *value);
}

void add_field(std::string& text, const std::optional<Figure>& figure) {
  text += '|';
  if (figure) text += fmt::format("{}{}", figure->value, static_cast<int>(figure->provenance));
}

std::string shape_of(const Component& component) {
  auto text = fmt::format("c{}|{}|{}", local_part(component.name), static_cast<int>(component.kind),
                          component.model);
  if (component.kind == ComponentKind::gpu || component.kind == ComponentKind::cpu)
    text += component.title;
  add_field(text, component.capacity_bytes);
  add_field(text, component.port_bytes_per_s);
  add_field(text, component.port_up);
  add_field(text, component.nvlinks_down);
  return text;
}

std::string shape_of(const TopologyLink& link) {
  auto text = fmt::format("l{}|{}|{}|{}|{}", static_cast<int>(link.kind), local_part(link.a),
                          local_part(link.b), link.count, static_cast<int>(link.state));
  add_field(text, link.pcie.generation);
  add_field(text, link.pcie.width);
  add_field(text, link.pcie_max.width);
  add_field(text, link.effective_bytes_per_s);
  return text;
}

std::string shape_of(const Pair& pair) {
  auto text = fmt::format("p{}|{}", local_part(pair.from), local_part(pair.to));
  for (const auto& status : {pair.granted_read, pair.granted_write})
    text += status ? fmt::format("|{}", to_string(*status)) : "|";
  text += pair.verified ? to_string(*pair.verified) : "";
  text += pair.path ? to_string(*pair.path) : "";
  add_field(text, pair.bandwidth_bytes_per_s);
  return text;
}

}  // namespace

std::vector<std::vector<std::size_t>> alike_nodes(const Layout& layout) {
  const auto& graph = layout.graph();
  std::vector<std::vector<std::string>> shapes(graph.nodes.size());
  for (const auto& component : graph.components)
    if (const auto node = layout.find_node(component.node))
      shapes[*node].push_back(shape_of(component));
  for (std::size_t node = 0; node < graph.nodes.size(); ++node)
    for (const auto at : layout.links_of(node))
      if (const auto& link = graph.links[at]; node_part(link.b) == graph.nodes[node].name)
        shapes[node].push_back(shape_of(link));
  for (const auto& pair : graph.pairs)
    if (const auto node = layout.find_node(node_part(pair.from));
        node && node_part(pair.to) == node_part(pair.from))
      shapes[*node].push_back(shape_of(pair));
  std::vector<std::vector<std::size_t>> groups;
  std::map<std::vector<std::string>, std::size_t> known;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    std::ranges::sort(shapes[i]);
    const auto [at, is_new] = known.emplace(std::move(shapes[i]), groups.size());
    if (is_new) groups.emplace_back();
    groups[at->second].push_back(i);
  }
  return groups;
}

}  // namespace causeway::tools
