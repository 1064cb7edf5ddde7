#include "runtime/topology/whatif/target.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/topology/utf8.h"
#include "runtime/topology/yaml_tree.h"

namespace causeway::whatif {

namespace {

std::vector<std::string_view> names_of(const TopologyGraph& graph) {
  std::vector<std::string_view> names;
  for (const auto& node : graph.nodes) names.push_back(node.name);
  for (const auto& component : graph.components) names.push_back(component.name);
  return names;
}

bool is_there(const TopologyGraph& graph, std::string_view name) {
  return graph.find(name) != nullptr || graph.find_node(name) != nullptr;
}

bool joins(const TopologyLink& link, std::string_view a, std::string_view b) {
  return (link.a == a && link.b == b) || (link.a == b && link.b == a);
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

PairTarget find_pair(const TopologyGraph& graph, std::string_view text, std::size_t at,
                     const std::string& expression) {
  const auto from = trimmed(text.substr(0, at));
  const auto to = trimmed(text.substr(at + 1));
  for (const auto end : {from, to}) {
    const auto* component = graph.find(end);
    if (component == nullptr) throw unknown(expression, "component", end, names_of(graph));
  }
  if (from == to)
    throw refuse(expression, fmt::format("a pair joins two devices, not '{}' to itself", from));
  return {std::string(from), std::string(to)};
}

// Names hold '-' too, so every place where the text may be cut in two is tried.
std::optional<LinkTarget> find_link(const TopologyGraph& graph, std::string_view text,
                                    const std::string& expression) {
  std::optional<LinkKind> kind;
  if (const auto colon = text.find(':'); colon != text.npos) {
    kind = parse_name<LinkKind>(text.substr(0, colon));
    if (kind) text.remove_prefix(colon + 1);
  }
  std::vector<std::size_t> found;
  bool ends_are_there = false;
  std::string_view near_end;  // The end that is missing, where the other is there.
  for (auto at = text.find('-'); at != text.npos; at = text.find('-', at + 1)) {
    const auto a = text.substr(0, at);
    const auto b = text.substr(at + 1);
    const bool is_a = is_there(graph, a);
    const bool is_b = is_there(graph, b);
    if (is_a != is_b && near_end.empty()) near_end = is_a ? b : a;
    if (!is_a || !is_b) continue;
    ends_are_there = true;
    for (std::size_t i = 0; i < graph.links.size(); ++i)
      if (joins(graph.links[i], a, b) && (!kind || graph.links[i].kind == *kind))
        found.push_back(i);
  }
  if (found.size() == 1) return LinkTarget{found.front()};
  if (found.size() > 1) {
    std::vector<std::string> forms;
    for (const auto i : found)
      forms.push_back(fmt::format("{}:{}-{}", to_string(graph.links[i].kind), graph.links[i].a,
                                  graph.links[i].b));
    throw refuse(expression, fmt::format("several links are meant by '{}': write one of {}",
                                         printable(text, 80), fmt::join(forms, ", ")));
  }
  if (ends_are_there)
    throw Error(Errc::not_found,
                fmt::format("{}: no {}link joins these two; --add-node adds links with a node",
                            expression, kind ? fmt::format("{} ", to_string(*kind)) : ""));
  if (!near_end.empty()) throw unknown(expression, "component", near_end, names_of(graph));
  return std::nullopt;
}

}  // namespace

Error refuse(const std::string& expression, const std::string& what) {
  return {Errc::invalid_argument, fmt::format("{}: {}", printable(expression, 120), what)};
}

Error unknown(const std::string& expression, std::string_view kind, std::string_view name,
              const std::vector<std::string_view>& known) {
  const auto near = nearest_name(name, known);
  return {
      Errc::not_found,
      fmt::format(
          "{}: no {} is named '{}'{}", printable(expression, 120), kind, printable(name, 80),
          near ? fmt::format("; did you mean '{}'?", *near)
               : fmt::format("; there are {}",
                             fmt::join(known.begin(),
                                       known.begin() + static_cast<std::ptrdiff_t>(
                                                           std::min<std::size_t>(known.size(), 8)),
                                       ", ")))};
}

Target find_target(const TopologyGraph& graph, std::string_view text,
                   const std::string& expression) {
  text = trimmed(text);
  if (const auto* node = graph.find_node(text))
    return NodeTarget{static_cast<std::size_t>(node - graph.nodes.data())};
  if (const auto* component = graph.find(text))
    return ComponentTarget{static_cast<std::size_t>(component - graph.components.data())};
  if (text.starts_with("pair ")) text = trimmed(text.substr(5));
  if (const auto at = text.find('>'); at != text.npos)
    return find_pair(graph, text, at, expression);
  if (const auto link = find_link(graph, text, expression)) return *link;
  throw unknown(expression, "node, component or link", text, names_of(graph));
}

}  // namespace causeway::whatif
