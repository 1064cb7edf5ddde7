#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <unordered_map>

#include "causeway/cluster.h"
#include "causeway/topology_diff.h"
#include "runtime/topology/graph_fields.h"

namespace causeway {

namespace {

using Severity = TopologyChange::Severity;

// --- Values as text ---

template <typename T>
std::string exact_text(const T& value) {
  if constexpr (kIsOptional<T>) {
    return value ? exact_text(*value) : "unknown";
  } else if constexpr (std::same_as<T, Figure>) {
    return fmt::format("{} ({})", value.value, to_string(value.provenance));
  } else if constexpr (std::same_as<T, PciAddress>) {
    return value.to_string();
  } else if constexpr (std::is_enum_v<T>) {
    return std::string(to_string(value));
  } else if constexpr (std::same_as<T, bool>) {
    return value ? "yes" : "no";
  } else if constexpr (kIsList<T>) {
    return value.empty() ? "none" : fmt::format("{}", fmt::join(value, "; "));
  } else if constexpr (std::same_as<T, std::string>) {
    return value.empty() ? "unknown" : value;
  } else {
    return fmt::format("{}", value);
  }
}

// A number in the unit that its field's name ends in; nullopt if it has none.
std::optional<std::string> unit_text(std::string_view field, double value) {
  if (field.ends_with("_bytes_per_s") && value < 1e18)
    return format_bytes(static_cast<std::uint64_t>(value)) + "/s";
  if (field.ends_with("_bytes") && value < 1e18)
    return format_bytes(static_cast<std::uint64_t>(value));
  if (field.ends_with("latency_s")) return fmt::format("{:.4g} us", value * 1e6);
  return std::nullopt;
}

template <typename T>
std::string text_of(std::string_view field, const T& value) {
  if constexpr (kIsOptional<T>) {
    if (value) return text_of(field, *value);
  } else if constexpr (std::same_as<T, Figure>) {
    if (const auto text = unit_text(field, value.value))
      return fmt::format("{} ({})", *text, to_string(value.provenance));
  } else if constexpr (std::same_as<T, double> || std::same_as<T, std::uint64_t>) {
    if (const auto text = unit_text(field, static_cast<double>(value))) return *text;
  }
  return exact_text(value);
}

// --- What is better ---

bool is_one_of(std::string_view field, std::initializer_list<std::string_view> names) {
  return std::ranges::find(names, field) != names.end();
}

// More is better; nullopt where neither is.
template <typename T>
std::optional<double> worth(std::string_view field, const T& value) {
  const double sign =
      is_one_of(field, {"latency_s", "nvlinks_down", "acs_redirect", "is_chipset"}) ? -1 : 1;
  if constexpr (kIsOptional<T>) {
    return value ? worth(field, *value) : std::nullopt;
  } else if constexpr (std::same_as<T, Figure>) {
    return sign * value.value;
  } else if constexpr (std::same_as<T, double>) {
    return sign * value;
  } else if constexpr (std::same_as<T, bool>) {
    return value ? sign : 0;
  } else if constexpr (std::same_as<T, LinkState>) {
    if (value != LinkState::unknown) return -static_cast<double>(value);
  } else if constexpr (std::same_as<T, PeerStatus>) {
    if (value != PeerStatus::unknown) return value == PeerStatus::ok ? 1 : 0;
  } else if constexpr (std::same_as<T, PeerCheck>) {
    return value == PeerCheck::passed ? 1 : 0;
  } else if constexpr (std::same_as<T, PathClass>) {
    return -static_cast<double>(value);
  } else if constexpr (std::same_as<T, IommuMode>) {
    return value == IommuMode::translating ? 0 : 1;
  } else if constexpr (std::same_as<T, FabricState>) {
    if (value != FabricState::not_supported) return value == FabricState::completed ? 1 : 0;
  } else if constexpr (std::unsigned_integral<T>) {
    if (is_one_of(field, {"capacity_bytes", "bar1_bytes", "nvlinks_max", "nvlinks_down", "mtu",
                          "count", "generation", "width"}))
      return sign * static_cast<double>(value);
  }
  return std::nullopt;
}

template <typename T>
Severity severity_of(std::string_view field, const T& before, const T& after) {
  const auto was = worth(field, before);
  const auto is = worth(field, after);
  if (!was || !is || *was == *is) return Severity::neutral;
  return *is > *was ? Severity::better : Severity::worse;
}

Severity opposite(Severity severity) {
  if (severity == Severity::neutral) return severity;
  return severity == Severity::better ? Severity::worse : Severity::better;
}

// Of a component that is there now.
Severity gain_of(ComponentKind kind) {
  const bool counts = kind != ComponentKind::bridge && kind != ComponentKind::unknown;
  return counts ? Severity::better : Severity::neutral;
}

std::string description(const Component& component) {
  std::string text(to_string(component.kind));
  for (const auto* part : {&component.title, &component.model})
    if (!part->empty()) return fmt::format("{}, {}", text, *part);
  return text;
}

class Differ {
 public:
  Differ(const TopologyGraph& before, const TopologyGraph& after, const DiffOptions& options)
      : before_(before), after_(after), options_(options) {}

  std::vector<TopologyChange> run() {
    compare_field("graph", "name", before_.name, after_.name);
    compare_nodes();
    match_components();
    compare_components();
    compare_links();
    compare_pairs();
    return std::move(changes_);
  }

 private:
  void add(TopologyChange change) { changes_.push_back(std::move(change)); }

  template <typename T>
  [[nodiscard]] bool are_equal(const T& was, const T& is) const {
    if constexpr (std::same_as<T, std::optional<Figure>>) {
      if (was && is && was->provenance == is->provenance) return are_close(*was, *is);
    } else if constexpr (kIsList<T>) {
      auto sorted_was = was;
      auto sorted_is = is;
      std::ranges::sort(sorted_was);
      std::ranges::sort(sorted_is);
      return sorted_was == sorted_is;
    }
    return was == is;
  }

  // Within what a measurement may be off.
  [[nodiscard]] bool are_close(const Figure& was, const Figure& is) const {
    const bool measured =
        was.provenance == Provenance::measured || is.provenance == Provenance::measured;
    const double most = std::max(std::abs(was.value), std::abs(is.value));
    return std::abs(was.value - is.value) <= (measured ? options_.measured_tolerance * most : 0);
  }

  template <typename T>
  void compare_field(const std::string& what, const std::string& field, const T& was, const T& is) {
    if constexpr (RecordType<T>) {
      compare_fields(what, was, is, {}, field + ".");
    } else {
      if (are_equal(was, is)) return;
      const auto leaf = std::string_view(field).substr(field.rfind('.') + 1);
      auto severity = severity_of(leaf, was, is);
      if constexpr (std::same_as<T, std::optional<Figure>>)
        if (was && is && are_close(*was, *is)) severity = Severity::neutral;
      auto before = text_of(leaf, was);
      auto after = text_of(leaf, is);
      if (before == after) {  // The difference is in what was rounded away.
        before = exact_text(was);
        after = exact_text(is);
      }
      add({TopologyChange::Kind::changed, what, field, before, after, severity});
    }
  }

  template <typename Record>
  void compare_fields(const std::string& what, const Record& was, const Record& is,
                      std::initializer_list<std::string_view> except,
                      const std::string& prefix = "") {
    std::vector<const void*> others;
    for_each_field(is, [&](FieldName, const auto& field) { others.push_back(&field); });
    std::size_t i = 0;
    for_each_field(was, [&]<typename T>(FieldName name, const T& field) {
      const auto& other = *static_cast<const T*>(others[i++]);  // The same field of `is`.
      if (!is_one_of(name.text, except))
        compare_field(what, prefix + std::string(name.text), field, other);
    });
  }

  void compare_nodes() {
    std::unordered_map<std::string_view, const TopologyNode*> old_nodes;
    std::unordered_map<std::string_view, const TopologyNode*> new_nodes;
    for (const auto& node : before_.nodes) old_nodes.emplace(node.name, &node);
    for (const auto& node : after_.nodes) new_nodes.emplace(node.name, &node);
    for (const auto& node : before_.nodes) {
      const auto what = "node " + node.name;
      if (const auto at = new_nodes.find(node.name); at != new_nodes.end()) {
        compare_fields(what, node, *at->second, {"name"});
      } else {
        gone_.insert(node.name);
        add({TopologyChange::Kind::removed, what, "", "node", "", Severity::worse});
      }
    }
    for (const auto& node : after_.nodes) {
      if (old_nodes.contains(node.name)) continue;
      come_.insert(node.name);
      add({TopologyChange::Kind::added, "node " + node.name, "", "", "node", Severity::better});
    }
  }

  // Joins components of both sides, that are not joined yet, by what `identity` says of them where
  // it is not empty and one of a kind.
  template <typename Identity>
  void match(Identity identity) {
    const auto index = [&](const TopologyGraph& graph, const auto& taken) {
      std::unordered_map<std::string, std::optional<std::size_t>> by_identity;
      for (std::size_t i = 0; i < graph.components.size(); ++i) {
        if (taken[i]) continue;
        const auto id = identity(graph.components[i]);
        if (id.empty()) continue;
        const auto [at, fresh] = by_identity.emplace(id, i);
        if (!fresh) at->second.reset();
      }
      return by_identity;
    };
    const auto old_ones = index(before_, match_of_old_);
    const auto new_ones = index(after_, match_of_new_);
    for (const auto& [id, i] : old_ones) {
      const auto at = new_ones.find(id);
      if (!i || at == new_ones.end() || !at->second) continue;
      match_of_old_[*i] = *at->second;
      match_of_new_[*at->second] = *i;
    }
  }

  void match_components() {
    match_of_old_.resize(before_.components.size());
    match_of_new_.resize(after_.components.size());
    match([](const Component& c) { return c.uuid; });
    match([](const Component& c) {
      return c.pci && !c.pci->is_hidden() ? c.node + " " + c.pci->to_string() : "";
    });
    match([](const Component& c) { return c.name; });
    for (std::size_t i = 0; i < before_.components.size(); ++i)
      if (match_of_old_[i])
        name_now_.emplace(before_.components[i].name, after_.components[*match_of_old_[i]].name);
  }

  void compare_components() {
    for (std::size_t i = 0; i < before_.components.size(); ++i) {
      const auto& component = before_.components[i];
      const auto what = "component " + component.name;
      if (match_of_old_[i]) {
        compare_fields(what, component, after_.components[*match_of_old_[i]], {});
        continue;
      }
      if (!gone_.contains(component.node))
        add({TopologyChange::Kind::removed, what, "", description(component), "",
             opposite(gain_of(component.kind))});
      gone_.insert(component.name);
    }
    for (std::size_t i = 0; i < after_.components.size(); ++i) {
      const auto& component = after_.components[i];
      if (match_of_new_[i]) continue;
      if (!come_.contains(component.node))
        add({TopologyChange::Kind::added, "component " + component.name, "", "",
             description(component), gain_of(component.kind)});
      come_.insert(component.name);
    }
  }

  // What an end is called now.
  [[nodiscard]] std::string_view now(const std::string& end) const {
    const auto at = name_now_.find(end);
    return at == name_now_.end() ? std::string_view(end) : at->second;
  }

  static std::string key_of(LinkKind kind, std::string_view a, std::string_view b) {
    if (kind != LinkKind::pcie && b < a) std::swap(a, b);  // Of PCIe, a is the lower end.
    return fmt::format("{}\n{}\n{}", to_string(kind), a, b);
  }

  static std::string rate_of(const TopologyLink& link) {
    const auto& rate =
        link.effective_bytes_per_s ? link.effective_bytes_per_s : link.line_bytes_per_s;
    return rate ? text_of("_bytes_per_s", *rate) : "link";
  }

  static std::string name_of(const TopologyLink& link) {
    return fmt::format("{} link {}-{}", to_string(link.kind), link.a, link.b);
  }

  void compare_links() {
    std::unordered_map<std::string, std::vector<const TopologyLink*>> fresh;
    for (const auto& link : after_.links) fresh[key_of(link.kind, link.a, link.b)].push_back(&link);
    std::set<const TopologyLink*> found;
    std::unordered_map<std::string, std::size_t> used;
    for (const auto& link : before_.links) {
      const auto key = key_of(link.kind, now(link.a), now(link.b));
      const auto at = fresh.find(key);
      auto& next = used[key];
      if (at != fresh.end() && next < at->second.size()) {
        const auto* other = at->second[next++];
        found.insert(other);
        compare_fields(name_of(link), link, *other, {"kind", "a", "b"});
      } else if (!gone_.contains(link.a) && !gone_.contains(link.b)) {
        add({TopologyChange::Kind::removed, name_of(link), "", rate_of(link), "", Severity::worse});
      }
    }
    for (const auto& link : after_.links)
      if (!found.contains(&link) && !come_.contains(link.a) && !come_.contains(link.b))
        add({TopologyChange::Kind::added, name_of(link), "", "", rate_of(link), Severity::better});
  }

  void compare_pairs() {
    const auto name = [](const Pair& pair) {
      return fmt::format("pair {}>{}", pair.from, pair.to);
    };
    std::unordered_map<std::string, const Pair*> fresh;
    for (const auto& pair : after_.pairs) fresh.emplace(pair.from + "\n" + pair.to, &pair);
    std::set<const Pair*> found;
    for (const auto& pair : before_.pairs) {
      const auto at = fresh.find(fmt::format("{}\n{}", now(pair.from), now(pair.to)));
      if (at != fresh.end()) {
        found.insert(at->second);
        compare_fields(name(pair), pair, *at->second, {"from", "to"});
      } else if (!gone_.contains(pair.from) && !gone_.contains(pair.to)) {
        add({TopologyChange::Kind::removed, name(pair), "", "pair", ""});
      }
    }
    for (const auto& pair : after_.pairs)
      if (!found.contains(&pair) && !come_.contains(pair.from) && !come_.contains(pair.to))
        add({TopologyChange::Kind::added, name(pair), "", "", "pair"});
  }

  const TopologyGraph& before_;
  const TopologyGraph& after_;
  DiffOptions options_;
  std::vector<TopologyChange> changes_;
  std::vector<std::optional<std::size_t>> match_of_old_;
  std::vector<std::optional<std::size_t>> match_of_new_;
  std::unordered_map<std::string, std::string> name_now_;  // Of components, by their name before.
  std::set<std::string, std::less<>> gone_;                // Nodes and components.
  std::set<std::string, std::less<>> come_;
};

}  // namespace

std::vector<TopologyChange> diff(const TopologyGraph& before, const TopologyGraph& after,
                                 const DiffOptions& options) {
  return Differ(before, after, options).run();
}

std::string_view to_string(TopologyChange::Kind value) noexcept {
  switch (value) {
    case TopologyChange::Kind::added:
      return "added";
    case TopologyChange::Kind::removed:
      return "removed";
    case TopologyChange::Kind::changed:
      return "changed";
  }
  return "";
}

std::string_view to_string(TopologyChange::Severity value) noexcept {
  switch (value) {
    case Severity::neutral:
      return "neutral";
    case Severity::better:
      return "better";
    case Severity::worse:
      return "worse";
  }
  return "";
}

}  // namespace causeway
