#include "runtime/topology/export/drawing.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "causeway/cluster.h"
#include "causeway/gpu_catalogue.h"

namespace causeway {

namespace {

constexpr std::size_t kMaxDetailedNodes = 16;  // With more, each node is one box.
constexpr std::size_t kMaxPairedGpus = 64;

using Kind = DrawnBox::Kind;

Kind kind_of(ComponentKind kind) {
  switch (kind) {
    case ComponentKind::gpu:
      return Kind::gpu;
    case ComponentKind::host:
      return Kind::host;
    case ComponentKind::cpu:
      return Kind::cpu;
    case ComponentKind::nic:
      return Kind::nic;
    case ComponentKind::bridge:
      return Kind::bridge;
    case ComponentKind::nvswitch:
      return Kind::nvswitch;
    case ComponentKind::network_switch:
      return Kind::network_switch;
    case ComponentKind::unknown:
      break;
  }
  return Kind::other;
}

bool joins_gpus(LinkKind kind) { return kind == LinkKind::nvlink || kind == LinkKind::xgmi; }

std::string_view title_of(LinkKind kind) {
  switch (kind) {
    case LinkKind::nvlink:
      return "NVLink";
    case LinkKind::xgmi:
      return "xGMI";
    case LinkKind::c2c:
      return "C2C";
    default:
      return "";
  }
}

// "12 NVLink"
std::string count_text(LinkKind kind, std::uint32_t count) {
  return count == 1 ? std::string(title_of(kind)) : fmt::format("{} {}", count, title_of(kind));
}

std::optional<double> rate_of(const TopologyLink& link) {
  if (link.effective_bytes_per_s) return link.effective_bytes_per_s->value;
  if (link.line_bytes_per_s) return link.line_bytes_per_s->value;
  return std::nullopt;
}

// Down is worse than degraded, and both than the rest.
LinkState worse(LinkState a, LinkState b) {
  if (a == LinkState::unknown) return b;
  return b == LinkState::unknown ? a : std::max(a, b);
}

std::optional<double> narrower(std::optional<double> a, std::optional<double> b) {
  return a && b ? std::min(a, b) : a ? a : b;
}

// Whether one GPU's access to another goes through host memory, as the driver answers it, else as
// the catalogue has it. nullopt: not known.
std::optional<bool> is_staged(const Component& from, const Component& to, const Pair* pair) {
  if (pair != nullptr) {
    for (const auto& granted : {pair->granted_read, pair->granted_write})
      if (granted && *granted != PeerStatus::ok && *granted != PeerStatus::unknown) return true;
    if (pair->verified && *pair->verified != PeerCheck::passed) return true;
    if (pair->granted_read == PeerStatus::ok || pair->granted_write == PeerStatus::ok) return false;
  }
  for (const auto* gpu : {&from, &to}) {
    const auto* model = find_gpu_model(gpu->model);
    if (model == nullptr) return std::nullopt;
    if (model->peer_policy != PeerPolicy::granted) return true;  // No NVLink joins them.
  }
  return false;
}

class Artist {
 public:
  explicit Artist(const TopologyGraph& graph) : graph_(graph) {}

  Drawing draw() {
    drawing_.title = graph_.name;
    for (const auto& component : graph_.components) components_.emplace(component.name, &component);
    const bool detailed = graph_.nodes.size() <= kMaxDetailedNodes;
    if (detailed)
      for (const auto& node : graph_.nodes) drawing_.nodes.push_back(node.name);
    else
      add_whole_nodes();
    choose_bridges();
    for (const auto& component : graph_.components)
      if (component.node.empty() || detailed) add_component(component);
    if (detailed) {
      merge_nvswitches();
      add_pcie();
      add_gpu_links();
      add_staged();
    }
    add_other_links();
    add_network();
    return std::move(drawing_);
  }

 private:
  std::size_t add_box(DrawnBox box) {
    drawing_.boxes.push_back(std::move(box));
    return drawing_.boxes.size() - 1;
  }

  [[nodiscard]] const Component* component(const std::string& name) const {
    const auto at = components_.find(name);
    return at == components_.end() ? nullptr : at->second;
  }

  [[nodiscard]] std::optional<std::size_t> box(const std::string& component) const {
    const auto at = boxes_.find(component);
    return at == boxes_.end() ? std::nullopt : std::optional(at->second);
  }

  void add_whole_nodes() {
    std::map<std::string_view, std::map<std::string, int>> gpus;
    std::map<std::string_view, std::uint64_t> memory;
    for (const auto& one : graph_.components) {
      if (one.kind == ComponentKind::gpu)
        ++gpus[one.node][one.title.empty() ? one.model : one.title];
      if (one.kind == ComponentKind::host) memory[one.node] += one.capacity_bytes.value_or(0);
    }
    for (const auto& node : graph_.nodes) {
      DrawnBox box{Kind::node, "", node.name};
      for (const auto& [title, count] : gpus[node.name])
        box.details.push_back(fmt::format("{} x {}", count, title));
      if (memory[node.name] > 0) box.details.push_back(format_bytes(memory[node.name]) + " host");
      const auto at = add_box(std::move(box));
      ports_.emplace(node.name, at);
      for_node_.emplace(node.name, at);
    }
  }

  // Ports with nothing below them are not drawn, and one that passes a single device on is a part
  // of that device's line.
  void choose_bridges() {
    std::unordered_map<std::string_view, int> below;
    for (const auto& link : graph_.links) {
      if (link.kind != LinkKind::pcie) continue;
      up_.emplace(link.a, &link);
      ++below[link.b];
    }
    std::set<std::string_view> carrying;
    for (const auto& one : graph_.components) {
      if (one.kind == ComponentKind::bridge) continue;
      for (auto at = up_.find(one.name); at != up_.end(); at = up_.find(at->second->b))
        if (!carrying.insert(at->second->b).second) break;
    }
    for (const auto& one : graph_.components) {
      if (one.kind != ComponentKind::bridge) continue;
      const bool tells = one.acs_redirect == true || one.is_chipset == true;
      const bool passes = below[one.name] == 1 && up_.contains(one.name) && !tells;
      if (passes || !carrying.contains(one.name)) hidden_.insert(one.name);
    }
  }

  void add_component(const Component& one) {
    if (hidden_.contains(one.name)) return;
    DrawnBox box{kind_of(one.kind), one.node, one.name};
    if (one.name.starts_with(one.node + "/")) box.name.erase(0, one.node.size() + 1);
    const auto* model = find_gpu_model(one.model);
    if (!one.title.empty() && one.title != box.name)
      box.details.push_back(one.title);
    else if (model != nullptr)
      box.details.emplace_back(model->title);
    if (one.kind == ComponentKind::host) box.details.emplace_back("host memory");
    if (one.is_chipset == true)
      box.details.emplace_back("PCIe, behind the chipset");
    else if (one.kind == ComponentKind::bridge && box.details.empty())
      box.details.emplace_back("PCIe");
    if (one.acs_redirect == true) box.details.emplace_back("ACS redirects peer traffic");
    const auto bytes = one.capacity_bytes ? one.capacity_bytes
                       : model != nullptr ? std::optional(model->memory_bytes)
                                          : std::nullopt;
    if (bytes) box.details.push_back(format_bytes(*bytes));
    if (one.port_bytes_per_s)
      box.details.push_back(rate_text(LinkKind::network, *one.port_bytes_per_s));
    if (one.port_up == false) box.details.emplace_back("port down");
    if (one.nvlinks_down.value_or(0) > 0)
      box.details.push_back(fmt::format("{} NVLinks down", *one.nvlinks_down));
    box.is_alarming = one.port_up == false || one.nvlinks_down.value_or(0) > 0;
    boxes_.emplace(one.name, add_box(std::move(box)));
  }

  // One box for those NVSwitches of a node that join the same GPUs.
  void merge_nvswitches() {
    std::map<std::string_view, std::vector<std::string>> ends;
    for (const auto& link : graph_.links) {
      if (!joins_gpus(link.kind)) continue;
      for (const auto& [self, other] : {std::pair{&link.a, &link.b}, std::pair{&link.b, &link.a}})
        if (const auto* end = component(*self); end && end->kind == ComponentKind::nvswitch)
          ends[*self].push_back(fmt::format("{}\n{}", *other, to_string(link.state)));
    }
    std::map<std::vector<std::string>, std::vector<std::string_view>> alike;
    for (auto& [name, list] : ends) {
      std::ranges::sort(list);
      list.push_back(component(std::string(name))->node);
      alike[list].push_back(name);
    }
    for (const auto& [list, names] : alike) {
      if (names.size() < 2) continue;
      auto& first = drawing_.boxes[boxes_.at(std::string(names.front()))];
      first.name = fmt::format("{} x NVSwitch", names.size());
      first.details.clear();
      for (const auto& name : names) {
        auto& at = boxes_.at(std::string(name));
        if (name != names.front()) dropped_.insert(at);
        at = boxes_.at(std::string(names.front()));
      }
    }
    drop_boxes();
  }

  void drop_boxes() {
    std::vector<std::size_t> moved(drawing_.boxes.size());
    std::vector<DrawnBox> kept;
    for (std::size_t i = 0; i < moved.size(); ++i) {
      moved[i] = kept.size();
      if (!dropped_.contains(i)) kept.push_back(std::move(drawing_.boxes[i]));
    }
    drawing_.boxes = std::move(kept);
    for (auto* map : {&boxes_, &ports_, &for_node_})
      for (auto& [name, at] : *map) at = moved[at];
  }

  void add_pcie() {
    for (const auto& one : graph_.components) {
      const auto lower = box(one.name);
      auto at = up_.find(one.name);
      if (!lower || at == up_.end()) continue;
      DrawnLine line{0, *lower, LinkKind::pcie};
      const TopologyLink* narrowest = at->second;
      std::size_t hops = 0;
      for (;; at = up_.find(at->second->b)) {
        const auto& link = *at->second;
        const auto rate = rate_of(link);
        if (rate && (!line.bytes_per_s || *rate < *line.bytes_per_s)) {
          line.bytes_per_s = rate;
          narrowest = &link;
        }
        line.state = worse(line.state, link.state);
        // A hostile graph may go round in circles.
        if (!hidden_.contains(link.b) || ++hops > graph_.links.size()) break;
      }
      const auto upper = box(at->second->b);
      if (!upper || *upper == *lower) continue;
      line.upper = *upper;
      const auto& mode = narrowest->pcie;
      if (mode.generation) line.label = fmt::format("Gen{}", *mode.generation);
      if (mode.width)
        line.label += fmt::format("{}x{}", line.label.empty() ? "" : " ", *mode.width);
      if (line.bytes_per_s) add_text(line.label, rate_text(line.kind, *line.bytes_per_s));
      drawing_.lines.push_back(line);
    }
  }

  static std::string on_one_line(std::string label) {
    for (auto at = label.find('\n'); at != label.npos; at = label.find('\n'))
      label.replace(at, 1, ", ");
    return label;
  }

  static void add_text(std::string& label, const std::string& text) {
    label += (label.empty() ? "" : "\n") + text;
  }

  // NVLink and xGMI between GPUs, and to NVSwitches.
  void add_gpu_links() {
    std::map<std::pair<std::size_t, std::size_t>, DrawnLine> lines;
    std::map<std::pair<std::size_t, std::size_t>, std::uint32_t> counts;
    for (const auto& link : graph_.links) {
      const auto a = box(link.a);
      const auto b = box(link.b);
      if (!joins_gpus(link.kind) || !a || !b || *a == *b) continue;
      const auto is_switch = [&](std::size_t i) {
        return drawing_.boxes[i].kind == Kind::nvswitch;
      };
      // GPUs above switches; NVLinks to a CPU below it.
      const bool swap = is_switch(*a) != is_switch(*b)
                            ? is_switch(*a)
                            : drawing_.boxes[*b].kind == Kind::cpu || *b < *a;
      const auto key = swap ? std::pair{*b, *a} : std::pair{*a, *b};
      auto& line =
          lines.try_emplace(key, DrawnLine{key.first, key.second, link.kind}).first->second;
      const auto rate = rate_of(link);
      if (rate) line.bytes_per_s = line.bytes_per_s.value_or(0) + *rate;
      line.state = worse(line.state, link.state);
      counts[key] += link.count;
      line.is_level = drawing_.boxes[*a].kind == drawing_.boxes[*b].kind;
      line.label = count_text(link.kind, counts[key]);
    }
    std::vector<DrawnLine> level;
    std::map<std::size_t, std::vector<DrawnLine>> to_switch;
    for (auto& [key, line] : lines) {
      direct_.insert(std::minmax(key.first, key.second));
      if (line.bytes_per_s) add_text(line.label, rate_text(line.kind, *line.bytes_per_s));
      if (drawing_.boxes[line.lower].kind == Kind::nvswitch && !line.is_level)
        to_switch[line.lower].push_back(line);
      else
        level.push_back(line);
    }
    for (auto& [at, group] : to_switch) add_switch_lines(at, std::move(group));
    collapse_meshes(level);
  }

  // Where a switch's lines are alike, it says once what each is.
  void add_switch_lines(std::size_t at, std::vector<DrawnLine> lines) {
    const auto alike = std::ranges::all_of(lines, [&](const DrawnLine& line) {
      return line.label == lines.front().label && line.state == lines.front().state;
    });
    if (alike) {
      const auto text = on_one_line(lines.front().label);
      if (!text.empty())
        drawing_.boxes[at].details.push_back(text + (lines.size() > 1 ? " each" : ""));
    }
    // Two GPUs at one switch are joined by it.
    if (lines.size() <= kMaxPairedGpus)
      for (const auto& a : lines)
        for (const auto& b : lines)
          if (a.upper < b.upper) direct_.insert({a.upper, b.upper});
    for (auto& line : lines) {
      if (alike) line.label.clear();
      drawing_.lines.push_back(line);
    }
  }

  // Groups of three or more boxes that are joined each to each by lines that are alike.
  void collapse_meshes(const std::vector<DrawnLine>& lines) {
    std::map<std::tuple<LinkKind, std::string, LinkState>, std::vector<const DrawnLine*>> alike;
    for (const auto& line : lines) alike[{line.kind, line.label, line.state}].push_back(&line);
    for (const auto& [key, group] : alike) {
      std::map<std::size_t, std::vector<const DrawnLine*>> parts;  // By the first box of each.
      std::map<std::size_t, std::size_t> root;
      const auto find = [&root](std::size_t i) {
        while (root.at(i) != i) i = root[i] = root[root[i]];
        return i;
      };
      for (const auto* line : group) {
        for (const auto end : {line->upper, line->lower}) root.emplace(end, end);
        const auto [low, high] = std::minmax({find(line->upper), find(line->lower)});
        root[high] = low;
      }
      for (const auto* line : group) parts[find(line->upper)].push_back(line);
      for (const auto& [first, part] : parts) {
        std::set<std::size_t> ends;
        for (const auto* line : part) ends.insert({line->upper, line->lower});
        if (ends.size() >= 3 && part.size() == ends.size() * (ends.size() - 1) / 2)
          add_mesh(ends, *part.front());
        else
          for (const auto* line : part) drawing_.lines.push_back(*line);
      }
    }
  }

  void add_mesh(const std::set<std::size_t>& ends, const DrawnLine& line) {
    DrawnBox hub{Kind::mesh, drawing_.boxes[line.upper].node, "each to each"};
    hub.details.push_back(on_one_line(line.label));
    const auto at = add_box(std::move(hub));
    for (const auto end : ends) {
      DrawnLine spoke = line;
      spoke.upper = end;
      spoke.lower = at;
      spoke.is_level = false;
      spoke.label.clear();
      drawing_.lines.push_back(spoke);
    }
  }

  // Pairs of GPUs that go through host memory.
  void add_staged() {
    std::map<std::string_view, std::vector<const Component*>> gpus;
    for (const auto& one : graph_.components)
      if (one.kind == ComponentKind::gpu) gpus[one.node].push_back(&one);
    using Ends = std::pair<std::string_view, std::string_view>;
    std::map<Ends, const Pair*> pairs;
    for (const auto& pair : graph_.pairs) pairs.emplace(Ends{pair.from, pair.to}, &pair);
    for (const auto& [node, list] : gpus) {
      if (list.size() > kMaxPairedGpus) continue;
      std::vector<DrawnLine> staged;
      bool all_known = true;
      for (std::size_t i = 0; i < list.size(); ++i)
        for (std::size_t j = i + 1; j < list.size(); ++j) {
          const auto a = *box(list[i]->name);
          const auto b = *box(list[j]->name);
          if (direct_.contains(std::minmax(a, b))) continue;
          std::optional<bool> through_host;
          std::optional<double> rate;
          for (const auto& [from, to] :
               {std::pair{list[i], list[j]}, std::pair{list[j], list[i]}}) {
            const auto at = pairs.find({from->name, to->name});
            const auto* pair = at == pairs.end() ? nullptr : at->second;
            const auto answer = is_staged(*from, *to, pair);
            if (answer) through_host = through_host.value_or(false) || *answer;
            if (pair != nullptr && pair->staged_bytes_per_s)
              rate = narrower(rate, pair->staged_bytes_per_s->value);
          }
          if (through_host == true) {
            DrawnLine line{a, b, LinkKind::pcie, rate};
            line.is_dashed = line.is_level = true;
            staged.push_back(line);
          } else {
            all_known = false;
          }
        }
      add_staged_lines(std::string(node), std::move(staged), all_known);
    }
  }

  // One hub if these are all the pairs of their GPUs that no NVLink joins, else a line each.
  void add_staged_lines(const std::string& node, std::vector<DrawnLine> staged, bool are_all) {
    if (are_all && staged.size() >= 3) {
      std::map<std::size_t, std::optional<double>> ends;
      std::optional<double> low;
      std::optional<double> high;
      for (const auto& line : staged) {
        for (const auto end : {line.upper, line.lower})
          ends[end] = narrower(ends[end], line.bytes_per_s);
        low = narrower(low, line.bytes_per_s);
        if (line.bytes_per_s) high = std::max(high.value_or(0), *line.bytes_per_s);
      }
      const bool some_direct = staged.size() < ends.size() * (ends.size() - 1) / 2;
      DrawnBox hub{Kind::staged, node, some_direct ? "other pairs" : "GPU to GPU"};
      hub.details.emplace_back("through host memory");
      if (low) {
        auto text = rate_text(LinkKind::pcie, *low);
        if (const auto most = rate_text(LinkKind::pcie, *high); most != text) text += " to " + most;
        hub.details.push_back(text);
      }
      const auto at = add_box(std::move(hub));
      for (const auto& [end, rate] : ends) {
        DrawnLine line{end, at, LinkKind::pcie, rate};
        line.is_dashed = true;
        drawing_.lines.push_back(line);
      }
      return;
    }
    for (auto& line : staged) {
      line.label = "through host memory";
      if (line.bytes_per_s) add_text(line.label, rate_text(line.kind, *line.bytes_per_s));
      drawing_.lines.push_back(line);
    }
  }

  // Memory, sockets and C2C.
  void add_other_links() {
    for (const auto& link : graph_.links) {
      if (link.kind == LinkKind::pcie || link.kind == LinkKind::network || joins_gpus(link.kind))
        continue;
      const auto a = box(link.a);
      const auto b = box(link.b);
      if (!a || !b || *a == *b) continue;
      const auto kind_a = drawing_.boxes[*a].kind;
      const bool a_above =
          link.kind == LinkKind::memory ? kind_a == Kind::host : kind_a == Kind::cpu;
      DrawnLine line{a_above ? *a : *b, a_above ? *b : *a, link.kind, rate_of(link)};
      line.is_level = link.kind == LinkKind::socket;
      line.state = link.state;
      if (link.kind == LinkKind::c2c) line.label = title_of(link.kind);
      if (line.bytes_per_s) add_text(line.label, rate_text(line.kind, *line.bytes_per_s));
      drawing_.lines.push_back(line);
    }
  }

  // The box at which a network link ends: a NIC, a switch, or a node's port.
  std::optional<std::size_t> network_end(const std::string& name) {
    if (const auto at = box(name)) return at;
    if (const auto at = ports_.find(name); at != ports_.end()) return at->second;
    if (const auto* nic = component(name)) {
      const auto at = for_node_.find(nic->node);
      return at == for_node_.end() ? std::nullopt : std::optional(at->second);
    }
    if (std::ranges::find(drawing_.nodes, name) == drawing_.nodes.end()) return std::nullopt;
    const auto at = add_box({Kind::port, name, "network"});
    ports_.emplace(name, at);
    return at;
  }

  // How far a switch is from the nodes: leaves are 1, and so on; what is further stands lower.
  std::map<std::size_t, int> levels(const std::vector<DrawnLine>& lines) const {
    std::map<std::size_t, std::vector<std::size_t>> next;
    std::map<std::size_t, int> level;
    std::vector<std::size_t> front;
    for (const auto& line : lines)
      for (const auto& [at, other] :
           {std::pair{line.upper, line.lower}, std::pair{line.lower, line.upper}}) {
        next[at].push_back(other);
        if (drawing_.boxes[at].kind != Kind::network_switch && level.emplace(at, 0).second)
          front.push_back(at);
      }
    for (std::size_t i = 0; i < front.size(); ++i)
      for (const auto to : next[front[i]])
        if (level.emplace(to, level[front[i]] + 1).second) front.push_back(to);
    return level;
  }

  void add_network() {
    std::map<std::pair<std::size_t, std::size_t>, DrawnLine> merged;
    std::map<std::pair<std::size_t, std::size_t>, std::uint32_t> counts;
    for (const auto& link : graph_.links) {
      if (link.kind != LinkKind::network) continue;
      const auto a = network_end(link.a);
      const auto b = network_end(link.b);
      if (!a || !b || *a == *b) continue;
      const auto key = std::minmax({*a, *b});
      auto& line = merged.try_emplace(key, DrawnLine{key.first, key.second, LinkKind::network})
                       .first->second;
      if (const auto rate = rate_of(link)) line.bytes_per_s = line.bytes_per_s.value_or(0) + *rate;
      line.state = worse(line.state, link.state);
      counts[key] += link.count;
    }
    std::vector<DrawnLine> lines;
    for (auto& [key, line] : merged) {
      if (counts[key] > 1) line.label = fmt::format("{} links", counts[key]);
      if (line.bytes_per_s) add_text(line.label, rate_text(line.kind, *line.bytes_per_s));
      lines.push_back(line);
    }
    const auto level = levels(lines);
    for (auto& line : lines) {
      const auto of = [&](std::size_t i) {
        const auto at = level.find(i);
        return at == level.end() ? 1 : at->second;
      };
      if (of(line.upper) > of(line.lower)) std::swap(line.upper, line.lower);
      line.is_level = of(line.upper) == of(line.lower);
      drawing_.lines.push_back(line);
    }
  }

  const TopologyGraph& graph_;
  Drawing drawing_;
  std::unordered_map<std::string_view, const Component*> components_;
  std::unordered_map<std::string, std::size_t> boxes_;            // By component.
  std::unordered_map<std::string, std::size_t> ports_;            // By node.
  std::unordered_map<std::string, std::size_t> for_node_;         // By node, where it is one box.
  std::unordered_map<std::string_view, const TopologyLink*> up_;  // PCIe, by the lower end.
  std::set<std::string_view> hidden_;
  std::set<std::size_t> dropped_;
  std::set<std::pair<std::size_t, std::size_t>> direct_;  // Boxes that NVLink joins.
};

}  // namespace

std::string rate_text(LinkKind kind, double bytes_per_s) {
  if (kind != LinkKind::network)
    return bytes_per_s < 1e18 ? format_bytes(static_cast<std::uint64_t>(bytes_per_s)) + "/s"
                              : fmt::format("{:.3g} B/s", bytes_per_s);
  const double bits = bytes_per_s * 8;
  return bits >= 1e9 ? fmt::format("{:.4g} Gbit/s", bits / 1e9)
                     : fmt::format("{:.4g} Mbit/s", bits / 1e6);
}

Drawing draw(const TopologyGraph& graph) { return Artist(graph).draw(); }

}  // namespace causeway
