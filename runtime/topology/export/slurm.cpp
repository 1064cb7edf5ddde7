// Slurm's topology.conf for the tree plugin.
// Source: slurm.schedmd.com/topology.conf.html: keys, host lists, one switch above each.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>

#include "causeway/error.h"
#include "causeway/topology_export.h"

namespace causeway {

namespace {

// "node007" is ("node", 3 digits) with 7.
struct Numbered {
  std::string prefix;
  std::size_t digits = 0;  // 0 if there is no number, or one too long to count with.
  std::uint64_t number = 0;
};

Numbered numbered(const std::string& name) {
  auto at = name.size();
  while (at > 0 && name[at - 1] >= '0' && name[at - 1] <= '9' && name.size() - at < 9) --at;
  if (at == name.size() || at == 0) return {name};
  return {name.substr(0, at), name.size() - at, std::stoull(name.substr(at))};
}

// "node[001-003,007],login": names that differ in a number of as many digits are one range.
std::string host_list(const std::vector<std::string>& names) {
  std::map<std::pair<std::string, std::size_t>, std::set<std::uint64_t>> groups;
  for (const auto& name : names) {
    const auto parsed = numbered(name);
    // Without leading zeros 9 and 10 are one range: Slurm writes as many digits as are needed.
    const bool is_padded = parsed.digits > 1 && name[parsed.prefix.size()] == '0';
    auto& group = groups[{parsed.prefix, parsed.digits == 0 ? 0 : is_padded ? parsed.digits : 1}];
    if (parsed.digits > 0) group.insert(parsed.number);
  }
  // "node010" is of the group of "node009" and not of "node10": join where the width is the same.
  for (auto& entry : groups) {
    const auto& [prefix, digits] = entry.first;
    const auto plain = digits < 2 ? groups.end() : groups.find({prefix, 1});
    if (plain == groups.end()) continue;
    std::erase_if(plain->second, [&entry](std::uint64_t number) {
      if (fmt::format("{}", number).size() != entry.first.second) return false;
      return entry.second.insert(number).second;
    });
  }
  std::string text;
  for (const auto& [key, group] : groups) {
    const auto& [prefix, digits] = key;
    if (digits != 0 && group.empty()) continue;
    if (!text.empty()) text += ',';
    text += prefix;
    if (digits == 0) continue;
    std::string ranges;
    std::size_t count = 0;
    for (auto at = group.begin(); at != group.end();) {
      const auto first = *at;
      auto last = first;
      while (++at != group.end() && *at == last + 1) ++last;
      if (count++ > 0) ranges += ',';
      ranges += fmt::format("{:0{}}", first, digits);
      if (last != first) ranges += fmt::format("-{:0{}}", last, digits);
    }
    const bool is_single = group.size() == 1;
    text += is_single ? ranges : "[" + ranges + "]";
  }
  return text;
}

// Slurm splits lines at spaces and lists at commas and brackets.
void check_name(const std::string& name) {
  if (name.empty() || name.find_first_of(" \t\n\r,[]=#\"") != std::string::npos)
    throw Error(Errc::invalid_argument,
                fmt::format("\"{}\" cannot be a name in topology.conf: Slurm takes no spaces, "
                            "commas, brackets, '=' or '#' in it",
                            name));
}

// A tree out of a fabric that need not be one: a node of several rails, or a switch below several
// spines, gets one place, for Slurm's plugin takes each name once.
class SlurmTree {
 public:
  explicit SlurmTree(const TopologyGraph& graph);
  [[nodiscard]] std::string write() const;

 private:
  void rank_switches();
  void give_each_one_place();

  std::map<std::string, std::set<std::string>> nodes_;       // Of each switch.
  std::map<std::string, std::set<std::string>> neighbours_;  // Switches next to each switch.
  std::map<std::string, std::size_t> height_;  // Distance from the nearest switch with nodes.
  std::map<std::string, std::set<std::string>> below_;  // Switches under each switch.
  std::set<std::string> alone_;                         // Nodes of no switch.
};

SlurmTree::SlurmTree(const TopologyGraph& graph) {
  std::unordered_map<std::string_view, const Component*> components;
  for (const auto& component : graph.components) {
    components.emplace(component.name, &component);
    if (component.kind == ComponentKind::network_switch) {
      check_name(component.name);
      nodes_[component.name];
      neighbours_[component.name];
    }
  }
  std::set<std::string> joined;
  const auto node_of = [&](const std::string& end) {
    const auto at = components.find(end);
    return at == components.end() ? end : at->second->node;  // A network link may end at a node.
  };
  for (const auto& link : graph.links) {
    if (link.kind != LinkKind::network) continue;
    const bool a_switches = nodes_.contains(link.a);
    const bool b_switches = nodes_.contains(link.b);
    if (a_switches && b_switches && link.a != link.b) {
      neighbours_[link.a].insert(link.b);
      neighbours_[link.b].insert(link.a);
    }
    if (a_switches == b_switches) continue;
    const auto node = node_of(a_switches ? link.b : link.a);
    if (graph.find_node(node) == nullptr) continue;
    nodes_[a_switches ? link.a : link.b].insert(node);
    joined.insert(node);
  }
  for (const auto& node : graph.nodes) {
    check_name(node.name);
    if (!joined.contains(node.name)) alone_.insert(node.name);
  }
  rank_switches();
  give_each_one_place();
}

void SlurmTree::rank_switches() {
  std::vector<std::string> level;
  for (const auto& [name, nodes] : nodes_)
    if (!nodes.empty()) level.push_back(name);
  for (std::size_t height = 0; !level.empty(); ++height) {
    std::vector<std::string> next;
    for (const auto& name : level)
      if (height_.emplace(name, height).second)
        next.insert(next.end(), neighbours_.at(name).begin(), neighbours_.at(name).end());
    level = std::move(next);
  }
}

void SlurmTree::give_each_one_place() {
  // The switch with the fewest nodes says most of where a node is.
  std::vector<std::pair<std::size_t, std::string>> by_size;
  for (const auto& [name, nodes] : nodes_) by_size.emplace_back(nodes.size(), name);
  std::ranges::sort(by_size);
  std::set<std::string> placed;
  for (const auto& [size, name] : by_size)
    std::erase_if(nodes_[name],
                  [&](const std::string& node) { return !placed.insert(node).second; });
  // The switch above most others is the root of most.
  std::vector<std::pair<std::size_t, std::string>> by_reach;
  for (const auto& [name, height] : height_)
    by_reach.emplace_back(
        std::ranges::count_if(neighbours_.at(name),
                              [&, of = height](const auto& each) { return height_.at(each) < of; }),
        name);
  std::ranges::sort(by_reach, [](const auto& a, const auto& b) {
    return std::pair(b.first, a.second) < std::pair(a.first, b.second);
  });
  placed.clear();
  for (const auto& [reach, name] : by_reach)
    for (const auto& other : neighbours_.at(name))
      if (height_.at(other) < height_.at(name) && placed.insert(other).second)
        below_[name].insert(other);
}

std::string SlurmTree::write() const {
  std::string text = "# For TopologyPlugin=topology/tree\n";
  // From the lowest up. A switch that has nothing left below it is not there for Slurm; whether
  // one has is known when its own turn comes.
  std::vector<std::pair<std::size_t, std::string>> order;
  for (const auto& [name, height] : height_) order.emplace_back(height, name);
  std::ranges::sort(order);
  std::set<std::string> written;
  for (const auto& [height, name] : order) {
    const auto& nodes = nodes_.at(name);
    std::vector<std::string> below;
    if (const auto at = below_.find(name); at != below_.end())
      for (const auto& other : at->second)
        if (written.contains(other)) below.push_back(other);
    if (nodes.empty() && below.empty()) continue;
    written.insert(name);
    text += fmt::format("SwitchName={}", name);
    if (!nodes.empty()) text += " Nodes=" + host_list({nodes.begin(), nodes.end()});
    if (!below.empty()) text += " Switches=" + host_list(below);
    text += '\n';
  }
  for (const auto& node : alone_) {
    auto name = "switch-" + node;
    while (nodes_.contains(name)) name += "-x";
    text += fmt::format("SwitchName={} Nodes={}\n", name, node);
  }
  return text;
}

}  // namespace

std::string graph_to_slurm(const TopologyGraph& graph) { return SlurmTree(graph).write(); }

}  // namespace causeway
