#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "tools/commands/topo/text.h"
#include "tools/commands/topo/views.h"

namespace causeway::tools {

namespace {

constexpr std::size_t kMaxRows = 16;  // Past it devices with the same row share one.
constexpr std::size_t kMaxDevices = 512;

enum class Peer : std::uint8_t { none, verified, granted, policy, refused, unknown };

struct Point {
  std::string path = {};  // "NV18", "PHB"; empty: the device itself.
  std::string rate = {};
  Peer peer = Peer::none;
  Colour colour = Colour::none;
  bool operator==(const Point&) const = default;
};

std::string mark_of(Peer peer) {
  const bool unicode = has_unicode();
  switch (peer) {
    case Peer::none:
      return "";
    case Peer::verified:
      return unicode ? "✓" : "v";
    case Peer::granted:
      return "+";
    case Peer::policy:
      return "~";
    case Peer::refused:
      return unicode ? "×" : "x";
    case Peer::unknown:
      break;
  }
  return "?";
}

Colour colour_of(PathClass path) {
  switch (path) {
    case PathClass::nvlink:
      return Colour::green;
    case PathClass::pix:
    case PathClass::pxb:
      return Colour::cyan;
    case PathClass::phb:
      return Colour::none;
    case PathClass::node:
    case PathClass::sys:
      break;
  }
  return Colour::yellow;
}

std::string gigabytes(double bytes_per_s) {
  const double value = bytes_per_s / 1e9;
  return value >= 99.95 ? fmt::format("{:.0f}", value) : fmt::format("{:.3g}", value);
}

class NodeMatrix {
 public:
  NodeMatrix(const Topology& topology, const Layout& layout, std::size_t node)
      : topology_(topology), layout_(layout) {
    const auto& graph = layout.graph();
    for (const auto kind : {ComponentKind::gpu, ComponentKind::nic})
      for (const auto at : layout.components_of(node))
        if (graph.components[at].kind == kind) devices_.push_back(at);
    for (const auto at : layout.links_of(node)) add_nvlinks(graph.links[at]);
    for (const auto& pair : graph.pairs)
      if (node_part(pair.from) == graph.nodes[node].name) pairs_[{pair.from, pair.to}] = &pair;
  }

  [[nodiscard]] std::size_t size() const { return devices_.size(); }
  std::string text();

 private:
  [[nodiscard]] const Component& component(std::size_t at) const {
    return layout_.graph().components[devices_[at]];
  }
  void add_nvlinks(const TopologyLink& link);
  Point point(std::size_t from, std::size_t to) const;
  Point between_gpus(const Component& from, const Component& to) const;
  [[nodiscard]] std::string nvlink_name(const Component& from, const Component& to) const;
  [[nodiscard]] Peer peer_of(const Component& from, const Component& to, bool by_route) const;
  [[nodiscard]] std::vector<std::vector<std::size_t>> groups(
      const std::vector<std::vector<Point>>& points) const;

  const Topology& topology_;
  const Layout& layout_;
  std::vector<std::size_t> devices_;  // Components.
  std::map<std::pair<std::string_view, std::string_view>, const Pair*> pairs_;
  std::map<std::pair<std::string_view, std::string_view>, std::uint32_t> direct_;
  std::map<std::string_view, std::uint32_t> to_switches_;
  std::set<std::string_view> switches_;
  bool has_xgmi_ = false;
};

void NodeMatrix::add_nvlinks(const TopologyLink& link) {
  if ((link.kind != LinkKind::nvlink && link.kind != LinkKind::xgmi) ||
      link.state == LinkState::down)
    return;
  has_xgmi_ = has_xgmi_ || link.kind == LinkKind::xgmi;
  direct_[{link.a, link.b}] += link.count;
  direct_[{link.b, link.a}] += link.count;
  for (const auto& [end, other] : {std::pair(&link.a, &link.b), std::pair(&link.b, &link.a)}) {
    const auto at = layout_.find(*other);
    if (!at || layout_.graph().components[*at].kind != ComponentKind::nvswitch) continue;
    to_switches_[*end] += link.count;
    switches_.insert(*other);
  }
}

std::string NodeMatrix::nvlink_name(const Component& from, const Component& to) const {
  const auto* word = has_xgmi_ ? "XGMI" : "NV";
  if (const auto at = direct_.find({from.name, to.name}); at != direct_.end())
    return has_xgmi_ && at->second == 1 ? word : fmt::format("{}{}", word, at->second);
  const auto at = to_switches_.find(from.name);
  // A cluster file tells that there is a switch, not how many links go there.
  return at == to_switches_.end() || at->second == 1 ? word : fmt::format("{}{}", word, at->second);
}

Peer NodeMatrix::peer_of(const Component& from, const Component& to, bool by_route) const {
  const auto there = pairs_.find({from.name, to.name});
  const auto back = pairs_.find({to.name, from.name});
  const auto* island = topology_.island_of(DeviceName::parse(from.name));
  const auto both = [&](const auto& is) {
    return there != pairs_.end() && back != pairs_.end() && is(*there->second) && is(*back->second);
  };
  // A route may be unknown where the island is not: a table of paths names no links.
  if (by_route || (island && island == topology_.island_of(DeviceName::parse(to.name)))) {
    if (both([](const Pair& pair) { return pair.verified == PeerCheck::passed; }))
      return Peer::verified;
    if (both([](const Pair& pair) {
          return pair.cuda_agrees == true ||
                 (pair.granted_read == PeerStatus::ok && pair.granted_write == PeerStatus::ok);
        }))
      return Peer::granted;
    return Peer::policy;
  }
  const auto told = [](const Pair& pair) {
    return pair.verified || pair.cuda_agrees || pair.granted_read || pair.granted_write;
  };
  for (const auto& at : {there, back})
    if (at != pairs_.end() && told(*at->second)) return Peer::refused;
  return island == nullptr || island->rests_on == PeerBasis::unknown ? Peer::unknown
                                                                     : Peer::refused;
}

Point NodeMatrix::between_gpus(const Component& from, const Component& to) const {
  Point point;
  const auto path = topology_.path_class(from.name, to.name);
  const auto a = DeviceName::parse(from.name);
  const auto b = DeviceName::parse(to.name);
  const auto route = topology_.route(a, b);
  point.path = path == PathClass::nvlink ? nvlink_name(from, to)
               : path                    ? std::string(to_string(*path))
                                         : "?";
  if (path) point.colour = colour_of(*path);
  point.rate = "?";
  if (route && route->bandwidth_bytes_per_s)
    point.rate = gigabytes(route->bandwidth_bytes_per_s->value);
  point.peer = peer_of(from, to, route && route->tier == Tier::island_peer);
  return point;
}

Point NodeMatrix::point(std::size_t from, std::size_t to) const {
  if (from == to) return {};
  const auto& a = component(from);
  const auto& b = component(to);
  if (a.kind == ComponentKind::gpu && b.kind == ComponentKind::gpu) return between_gpus(a, b);
  Point point;
  const auto path = topology_.path_class(a.name, b.name);
  point.path = path ? to_string(*path) : "?";
  if (path) point.colour = colour_of(*path);
  const auto rate = layout_.narrowest_between(devices_[from], devices_[to]);
  point.rate = rate ? gigabytes(rate->value) : "?";
  return point;
}

// Devices whose rows are the same, but for where they meet each other and themselves.
std::vector<std::vector<std::size_t>> NodeMatrix::groups(
    const std::vector<std::vector<Point>>& points) const {
  std::vector<std::vector<std::size_t>> result;
  const auto alike = [&](std::size_t a, std::size_t b) {
    if (component(a).kind != component(b).kind || component(a).model != component(b).model)
      return false;
    if (points[a][b] != points[b][a]) return false;
    for (std::size_t c = 0; c < points.size(); ++c)
      if (c != a && c != b && (points[a][c] != points[b][c] || points[c][a] != points[c][b]))
        return false;
    return true;
  };
  for (std::size_t i = 0; i < points.size(); ++i) {
    const auto known = std::ranges::find_if(result, [&](const std::vector<std::size_t>& group) {
      return points.size() > kMaxRows && alike(group.front(), i) &&
             (group.size() == 1 || points[group[0]][i] == points[group[0]][group[1]]);
    });
    if (known == result.end())
      result.push_back({i});
    else
      known->push_back(i);
  }
  return result;
}

Cell cell_of(const Point& point) {
  if (point.path.empty()) return {has_unicode() ? "·" : ".", Colour::dim};
  auto text = fmt::format("{:<4} {:>4}", point.path, point.rate);
  if (point.peer != Peer::none) text += " " + mark_of(point.peer);
  return {text, point.colour};
}

std::string NodeMatrix::text() {
  std::vector<std::vector<Point>> points(size(), std::vector<Point>(size()));
  for (std::size_t from = 0; from < size(); ++from)
    for (std::size_t to = 0; to < size(); ++to) points[from][to] = point(from, to);
  const auto rows = groups(points);
  std::vector<std::string> names;
  std::size_t name_width = 0;
  for (const auto& row : rows) {
    std::vector<std::string> members;
    for (const auto at : row) members.emplace_back(local_part(component(at).name));
    names.push_back(name_ranges(members));
    name_width = std::max(name_width, display_width(names.back()));
  }
  constexpr std::size_t kCell = 11;
  const auto column = std::max(kCell, name_width) + 2;
  const auto width = terminal_width().value_or(std::max<std::size_t>(100, name_width + column * 8));
  const auto per_block = std::max<std::size_t>(1, (width - std::min(width, name_width)) / column);
  std::string result;
  for (std::size_t first = 0; first < rows.size(); first += per_block) {
    std::vector<Column> columns{{std::string(name_width, ' ')}};
    const auto end = std::min(rows.size(), first + per_block);
    for (auto at = first; at < end; ++at) columns.push_back({names[at]});
    Table table(std::move(columns));
    for (std::size_t from = 0; from < rows.size(); ++from) {
      std::vector<Cell> cells{{names[from], Colour::bold}};
      for (auto to = first; to < end; ++to) {
        const auto& members = rows[from];
        const bool inside = from == to && members.size() > 1;
        cells.push_back(cell_of(points[members[0]][inside ? members[1] : rows[to][0]]));
      }
      table.add(std::move(cells));
    }
    result += (first > 0 ? "\n" : "") + table.to_string();
  }
  return result;
}

std::string legend() {
  const auto line = [](std::string_view title, const std::string& text) {
    return coloured(Colour::dim, title) + wrapped(text, 6).substr(title.size());
  };
  auto text = line("way",
                   "NV# over # NVLinks, XGMI over AMD's; PIX one PCIe switch, PXB several; "
                   "PHB the CPU's host bridge, NODE two of one NUMA node, SYS two CPUs");
  text += line("GB/s", "what one large transfer gets alone, from the row to the column");
  text += line("peer",
               fmt::format("{} verified by a copy, {} granted by the driver, {} expected of "
                           "such cards, {} none: by way of host memory, {} unknown",
                           mark_of(Peer::verified), mark_of(Peer::granted), mark_of(Peer::policy),
                           mark_of(Peer::refused), mark_of(Peer::unknown)));
  return text;
}

}  // namespace

std::string matrix_view(const Topology& topology, const Layout& layout) {
  const auto& graph = topology.graph();
  std::string text;
  for (const auto& group : alike_nodes(layout)) {
    NodeMatrix matrix(topology, layout, group.front());
    std::vector<std::string> names;
    for (const auto at : group) names.push_back(graph.nodes[at].name);
    if (!text.empty()) text += "\n";
    text += coloured(Colour::bold, name_ranges(names));
    if (group.size() > 1) text += fmt::format("  {} alike, each:", counted(group.size(), "node"));
    text += "\n";
    if (matrix.size() == 0)
      text += "no GPU and no NIC is known\n";
    else if (matrix.size() > kMaxDevices)
      text += fmt::format("{} devices are too many for a matrix\n", counted(matrix.size()));
    else
      text += matrix.text();
  }
  return text + "\n" + legend();
}

}  // namespace causeway::tools
