#include "runtime/topology/graph_check.h"

#include <fmt/format.h>

#include <cmath>
#include <unordered_map>
#include <unordered_set>

#include "runtime/topology/graph_fields.h"
#include "runtime/topology/utf8.h"

namespace causeway {

namespace {

using Fault = std::optional<std::string>;
using Names = std::unordered_map<std::string_view, std::size_t>;

std::string shown(std::string_view name) { return printable(name, 64); }

// What no format can say of a field, whatever it is.
template <typename T>
Fault fault_of_value(const T& field) {
  if constexpr (kIsOptional<T>) {
    return field ? fault_of_value(*field) : std::nullopt;
  } else if constexpr (std::same_as<T, double>) {
    if (!std::isfinite(field) || field < 0)
      return fmt::format("{} is not a finite number of 0 or more", field);
  } else if constexpr (std::same_as<T, std::string>) {
    if (!is_utf8(field)) return fmt::format("'{}' is not UTF-8", shown(field));
  } else if constexpr (std::same_as<T, PciAddress>) {
    if (PciAddress::parse(field.to_string()) != field)
      return fmt::format("{} is not a PCI address", field.to_string());
  } else if constexpr (std::is_enum_v<T>) {
    if (to_string(field).empty())
      return fmt::format("{} stands for nothing", static_cast<unsigned>(field));
  }
  return std::nullopt;
}

template <RecordType Record>
Fault fault_of_fields(const Record& record) {
  Fault fault;
  for_each_field(record, [&]<typename T>(FieldName name, const T& field) {
    if (fault) return;
    Fault inner;
    std::string separator = ": ";
    if constexpr (std::same_as<T, std::optional<Figure>>) {
      if (field) inner = fault_of_fields(*field);
      separator = ".";
    } else if constexpr (kIsList<T>) {
      for (const auto& item : field)
        if (!inner) inner = fault_of_value(item);
    } else if constexpr (!RecordType<T>) {
      inner = fault_of_value(field);
    }
    if (inner) fault = std::string(name.text) + separator + *inner;
  });
  return fault;
}

Fault add_name(Names& names, std::string_view list, const std::string& name) {
  if (name.empty()) return "name: is empty";
  const auto [at, fresh] = names.emplace(name, names.size());
  if (fresh) return std::nullopt;
  return fmt::format("name: '{}' is there already, as {}[{}]", shown(name), list, at->second);
}

struct Checker {
  Names nodes = {};
  Names components = {};

  Fault operator()(const TopologyNode& node) { return add_name(nodes, "nodes", node.name); }

  Fault operator()(const Component& component) {
    if (auto fault = add_name(components, "components", component.name)) return fault;
    if (nodes.contains(component.name))
      return fmt::format("name: '{}' is a node's name", shown(component.name));
    if (!component.node.empty() && !nodes.contains(component.node))
      return fmt::format("node: no node is named '{}'", shown(component.node));
    return std::nullopt;
  }

  Fault operator()(const TopologyLink& link) const {
    for (const auto& [field, end] : {std::pair{"a", &link.a}, std::pair{"b", &link.b}}) {
      if (components.contains(*end)) continue;
      if (link.kind == LinkKind::network && nodes.contains(*end)) continue;
      return fmt::format("{}: no component is named '{}'", field, shown(*end));
    }
    if (link.a == link.b) return fmt::format("b: joins '{}' to itself", shown(link.a));
    if (link.count == 0) return "count: is 0; a link that is down says so by its state";
    return std::nullopt;
  }

  Fault operator()(const Pair& pair) const {
    for (const auto& [field, end] : {std::pair{"from", &pair.from}, std::pair{"to", &pair.to}})
      if (!components.contains(*end))
        return fmt::format("{}: no component is named '{}'", field, shown(*end));
    return std::nullopt;
  }

  Fault operator()(const TopologyNote&) const { return std::nullopt; }
};

}  // namespace

std::optional<std::string> fault_of(const TopologyGraph& graph) {
  Fault fault;
  Checker check;
  for_each_field(graph, [&]<typename T>(FieldName list, const T& records) {
    if constexpr (kIsList<T>) {
      for (std::size_t i = 0; i < records.size() && !fault; ++i) {
        fault = fault_of_fields(records[i]);
        if (!fault) fault = check(records[i]);
        if (fault) fault = fmt::format("{}[{}].{}", list.text, i, *fault);
      }
    } else {
      fault = fault_of_value(records);
      if (fault) fault = fmt::format("{}: {}", list.text, *fault);
    }
  });
  std::unordered_set<std::string> pairs;
  for (std::size_t i = 0; i < graph.pairs.size() && !fault; ++i) {
    const auto& pair = graph.pairs[i];
    if (!pairs.insert(fmt::format("{}\n{}", pair.from, pair.to)).second)
      fault = fmt::format("pairs[{}].from: '{}' to '{}' is there already", i, shown(pair.from),
                          shown(pair.to));
  }
  return fault;
}

}  // namespace causeway
