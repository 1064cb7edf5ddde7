#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "causeway/cluster.h"
#include "tools/commands/command.h"
#include "tools/commands/topo/text.h"
#include "tools/commands/topo/views.h"

namespace causeway::tools {

namespace {

constexpr std::size_t kMaxDepth = 24;  // A file may nest bridges as deep as it likes.

struct Row {
  std::string name;
  std::string what;
  std::string memory;  // Of a NIC the rate of its port.
  Cell link;
  std::string id;
  Colour colour = Colour::none;
  std::vector<Row> below = {};
};

Colour colour_of(ComponentKind kind) {
  switch (kind) {
    case ComponentKind::gpu:
      return Colour::green;
    case ComponentKind::nic:
      return Colour::cyan;
    case ComponentKind::cpu:
      return Colour::bold;
    default:
      return Colour::none;
  }
}

// What is wrong with a NIC's port, if anything is.
std::string port_text(const Component& nic) {
  if (nic.port_up == false) return ", down";
  if (nic.port_bytes_per_s && nic.port_max_bytes_per_s &&
      *nic.port_bytes_per_s < *nic.port_max_bytes_per_s)
    return fmt::format(", {} possible", format_rate(*nic.port_max_bytes_per_s));
  return "";
}

class NodeTree {
 public:
  NodeTree(const Layout& layout, std::size_t node) : layout_(layout), node_(node) {}

  std::vector<Row> rows() const {
    std::vector<std::size_t> roots;
    const auto& components = layout_.components_of(node_);
    // CPUs first; a switch's ports stand with the NVLinks.
    for (const auto at : components)
      if (component(at).kind == ComponentKind::cpu) roots.push_back(at);
    for (const auto at : components)
      if (component(at).kind != ComponentKind::cpu && !layout_[at].parent &&
          component(at).kind != ComponentKind::nvswitch)
        roots.push_back(at);
    auto result = siblings(roots, 0);
    if (auto fabric = nvlink_row()) result.push_back(std::move(*fabric));
    return result;
  }

 private:
  [[nodiscard]] const Component& component(std::size_t at) const {
    return layout_.graph().components[at];
  }
  [[nodiscard]] const TopologyLink& link(std::size_t at) const { return layout_.graph().links[at]; }

  // The link that narrows the way up through `chain`, lowest first.
  Cell link_cell(const std::vector<std::size_t>& chain) const {
    std::optional<std::size_t> narrowest;
    auto colour = Colour::none;
    for (const auto at : chain) {
      const auto& up = layout_[at].link;
      if (!up) continue;
      const auto own = link_colour(link(*up));
      if (own == Colour::red || colour == Colour::none) colour = own;
      const auto& rate = link(*up).effective_bytes_per_s;
      if (!narrowest || (rate && (!link(*narrowest).effective_bytes_per_s ||
                                  rate->value < link(*narrowest).effective_bytes_per_s->value)))
        narrowest = up;
    }
    if (!narrowest) return {component(chain.front()).kind == ComponentKind::cpu ? "" : "?"};
    const auto& shown = link(*narrowest);
    auto text = shown.kind == LinkKind::c2c ? std::string("C2C") : pcie_text(shown);
    text += (text.empty() ? "" : "  ") + figure_text(shown.effective_bytes_per_s);
    if (narrowest != layout_[chain.front()].link) {
      const auto* port = layout_.find(shown.a) ? &component(*layout_.find(shown.a)) : nullptr;
      if (port != nullptr && port->pci) text += " at " + short_pci(*port->pci);
    }
    if (layout_[chain.front()].is_shared) text += " to each CPU";
    return {text, colour};
  }

  Row row_of(const std::vector<std::size_t>& chain) const {
    const auto& shown = component(chain.front());
    Row row;
    row.name = local_part(shown.name);
    row.what = title_of(shown);
    row.colour = colour_of(shown.kind);
    row.link = link_cell(chain);
    if (shown.kind == ComponentKind::gpu || shown.kind == ComponentKind::host)
      row.memory = bytes_text(shown.capacity_bytes);
    if (shown.kind == ComponentKind::cpu) {
      if (!shown.cpus.empty()) row.what += ", cores " + shown.cpus;
      row.link = socket_cell(shown);
    }
    if (shown.kind == ComponentKind::nic) {
      row.what += port_text(shown);
      if (shown.port_bytes_per_s) row.memory = format_rate(*shown.port_bytes_per_s);
      if (shown.port_up == false) row.colour = Colour::red;
    }
    if (shown.kind == ComponentKind::bridge && shown.is_chipset == true)
      row.what = "PCIe behind the chipset";
    if (shown.pci) row.id = short_pci(*shown.pci);
    if (!shown.uuid.empty() && shown.kind == ComponentKind::gpu)
      row.id += (row.id.empty() ? "" : " ") + short_uuid(shown.uuid);
    return row;
  }

  Cell socket_cell(const Component& cpu) const {
    std::optional<Figure> narrowest;
    bool any = false;
    for (const auto at : layout_.links_of(node_)) {
      const auto& entry = link(at);
      if (entry.kind != LinkKind::socket || (entry.a != cpu.name && entry.b != cpu.name)) continue;
      if (!any || (entry.effective_bytes_per_s && narrowest &&
                   entry.effective_bytes_per_s->value < narrowest->value))
        narrowest = entry.effective_bytes_per_s;
      any = true;
    }
    return {any ? "between CPUs  " + figure_text(narrowest) : ""};
  }

  // Bridges with one thing below them are only the way to it.
  std::vector<std::size_t> chain_from(std::size_t at) const {
    std::vector<std::size_t> chain{at};
    while (component(chain.front()).kind == ComponentKind::bridge &&
           layout_[chain.front()].children.size() == 1)
      chain.insert(chain.begin(), layout_[chain.front()].children.front());
    return chain;
  }

  // Leaves that nothing tells apart share a row.
  std::vector<Row> siblings(const std::vector<std::size_t>& all, std::size_t depth) const {
    std::vector<Row> rows;
    std::map<std::tuple<std::string, std::string, std::string>, std::size_t> alike;
    std::map<std::size_t, std::vector<std::string>> names;
    for (const auto at : all) {
      const auto chain = chain_from(at);
      auto row = row_of(chain);
      const auto& below = layout_[chain.front()].children;
      if (!below.empty() && depth < kMaxDepth)
        row.below = siblings(below, depth + 1);
      else if (!below.empty())
        row.what += fmt::format(", {} below it not drawn", counted(below.size()));
      const auto kind = component(chain.front()).kind;
      if (row.id.empty() && below.empty() && kind != ComponentKind::cpu) {
        const auto [known, is_new] =
            alike.emplace(std::tuple(row.what, row.memory, row.link.text), rows.size());
        names[known->second].push_back(row.name);
        if (!is_new) continue;
      }
      rows.push_back(std::move(row));
    }
    for (const auto& [at, shared] : names) {
      if (shared.size() < 2) continue;
      rows[at].name = name_ranges(shared);
      rows[at].what = fmt::format("{} x {}", shared.size(), rows[at].what);
      if (!rows[at].memory.empty()) rows[at].memory = "each " + rows[at].memory;
    }
    return rows;
  }

  std::optional<Row> nvlink_row() const;

  const Layout& layout_;
  std::size_t node_;
};

// NVLinks of one kind of pair, as a row.
struct Bundle {
  std::vector<std::string> pairs;
  std::vector<std::string> a;
  const TopologyLink* link = nullptr;
  std::string to;  // "NVSwitches", "gpu", ...
};

Cell fabric_cell(LinkState state, const std::optional<Figure>& rate) {
  auto colour = Colour::none;
  auto text = figure_text(rate);
  if (state == LinkState::degraded || state == LinkState::down) {
    colour = Colour::red;
    text += fmt::format(", {}", to_string(state));
  }
  return {text, colour};
}

std::optional<Row> NodeTree::nvlink_row() const {
  const auto& graph = layout_.graph();
  const auto& node = graph.nodes[node_];
  struct ToSwitches {
    std::uint32_t links = 0;
    double rate = 0;
    bool rate_known = true;
    Provenance provenance = Provenance::spec;
    LinkState state = LinkState::unknown;
    std::set<std::string> switches;
  };
  std::map<std::size_t, ToSwitches> switched;
  using Key = std::tuple<LinkKind, std::uint32_t, LinkState, double, bool>;
  std::map<Key, Bundle> direct;
  std::size_t gpus = 0;
  for (const auto at : layout_.components_of(node_))
    gpus += component(at).kind == ComponentKind::gpu ? 1 : 0;
  bool any_xgmi = false;
  for (const auto at : layout_.links_of(node_)) {
    const auto& entry = link(at);
    if (entry.kind != LinkKind::nvlink && entry.kind != LinkKind::xgmi &&
        entry.kind != LinkKind::c2c)
      continue;
    const auto a = layout_.find(entry.a);
    const auto b = layout_.find(entry.b);
    if (!a || !b) continue;
    any_xgmi = any_xgmi || entry.kind == LinkKind::xgmi;
    const bool a_switch = component(*a).kind == ComponentKind::nvswitch;
    const bool b_switch = component(*b).kind == ComponentKind::nvswitch;
    if (a_switch != b_switch) {
      auto& to = switched[a_switch ? *b : *a];
      to.links += entry.count;
      to.rate_known = to.rate_known && entry.effective_bytes_per_s;
      if (entry.effective_bytes_per_s) {
        to.rate += entry.effective_bytes_per_s->value;
        to.provenance = entry.effective_bytes_per_s->provenance;
      }
      to.state = std::max(to.state, entry.state);
      to.switches.insert(a_switch ? entry.a : entry.b);
      continue;
    }
    const auto rate = entry.effective_bytes_per_s ? entry.effective_bytes_per_s->value : -1;
    auto& bundle = direct[{entry.kind, entry.count, entry.state, rate, a_switch}];
    bundle.link = &entry;
    bundle.pairs.push_back(fmt::format("{}-{}", local_part(entry.a), local_part(entry.b)));
  }
  Row row;
  row.name = any_xgmi ? "xGMI" : "NVLink";
  row.colour = Colour::bold;
  if (switched.empty() && direct.empty()) {
    if (gpus < 2) return std::nullopt;
    row.what = node.nvlinks_known ? "none" : "unknown: no source spoke of it";
    return row;
  }
  std::map<std::tuple<std::uint32_t, std::size_t, double, LinkState>, std::vector<std::size_t>>
      alike;
  for (const auto& [gpu, to] : switched)
    alike[{to.links, to.switches.size(), to.rate_known ? to.rate : -1, to.state}].push_back(gpu);
  for (const auto& [key, members] : alike) {
    const auto& [links, switches, rate, state] = key;
    std::vector<std::string> names;
    for (const auto at : members) names.emplace_back(local_part(component(at).name));
    const auto& first = switched.at(members.front());
    Row line;
    line.name = name_ranges(names);
    // A cluster file knows the rate of all links together, not how many there are.
    line.what = "to " + counted(switches, "NVSwitch", "NVSwitches");
    line.link =
        fabric_cell(state, rate < 0 ? std::nullopt : std::optional(Figure{rate, first.provenance}));
    if (links > 1) line.link.text = counted(links, "link") + "  " + line.link.text;
    row.below.push_back(std::move(line));
  }
  for (const auto& [key, bundle] : direct) {
    const auto& [kind, count, state, rate, is_switch] = key;
    Row line;
    constexpr std::size_t kShown = 3;
    line.name = bundle.pairs.size() <= kShown ? fmt::format("{}", fmt::join(bundle.pairs, " "))
                                              : counted(bundle.pairs.size(), "pair");
    line.what = kind == LinkKind::c2c ? "in one package" : is_switch ? "between switches" : "";
    line.link = fabric_cell(state, bundle.link->effective_bytes_per_s);
    line.link.text = (kind == LinkKind::c2c ? std::string("C2C") : counted(count, "link")) + "  " +
                     line.link.text;
    row.below.push_back(std::move(line));
  }
  return row;
}

void add_rows(Table& table, const std::vector<Row>& rows, const std::string& lead, bool show_id) {
  const auto marks = branches();
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const bool is_last = i + 1 == rows.size();
    const auto& row = rows[i];
    std::vector<Cell> cells{{row.name, row.colour, lead + (is_last ? marks.last : marks.branch)},
                            {row.what},
                            {row.memory},
                            row.link};
    if (show_id) cells.push_back({row.id, Colour::dim});
    table.add(std::move(cells));
    add_rows(table, row.below, lead + (is_last ? marks.none : marks.down), show_id);
  }
}

std::string facts_of(const TopologyNode& node) {
  std::vector<std::string> facts;
  if (node.view != MachineView::unknown)
    facts.emplace_back(node.view == MachineView::bare_metal ? "bare metal" : to_string(node.view));
  if (!node.driver_version.empty()) facts.push_back("driver " + node.driver_version);
  if (!node.cuda_version.empty()) facts.push_back("CUDA " + node.cuda_version);
  if (!node.kernel.empty()) facts.push_back("Linux " + node.kernel);
  if (node.iommu) facts.push_back(fmt::format("IOMMU {}", to_string(*node.iommu)));
  if (node.fabric && *node.fabric != FabricState::not_supported)
    facts.push_back(fmt::format("fabric {}", to_string(*node.fabric)));
  return fmt::format("{}", fmt::join(facts, ", "));
}

}  // namespace

std::string tree_view(const Topology& topology, const Layout& layout) {
  const auto& graph = topology.graph();
  std::string text;
  constexpr std::size_t kWideEnough = 100;
  const bool show_id = terminal_width().value_or(kWideEnough) >= kWideEnough;
  for (const auto& group : alike_nodes(layout)) {
    std::vector<std::string> names;
    for (const auto at : group) names.push_back(graph.nodes[at].name);
    const auto& node = graph.nodes[group.front()];
    if (!text.empty()) text += "\n";
    auto title = name_ranges(names);
    text += coloured(Colour::bold, title);
    if (group.size() > 1) text += fmt::format("  {} alike, each:", counted(group.size(), "node"));
    auto facts = facts_of(node);
    if (const auto width = terminal_width())
      facts = fitted(facts, *width - std::min(*width, display_width(title) + 2));
    if (group.size() == 1 && !facts.empty()) text += "  " + coloured(Colour::dim, facts);
    text += "\n";
    std::vector<Column> columns{{""}, {"", false, true}, {"", true}, {""}};
    if (show_id) columns.push_back({"", false, true});
    Table table(std::move(columns));
    add_rows(table, NodeTree(layout, group.front()).rows(), "", show_id);
    const auto drawn = table.to_string();
    text += drawn.substr(drawn.find('\n') + 1);  // Without the line of titles.
    for (const auto& unseen : node.unseen)
      text += coloured(Colour::yellow, "not seen") + wrapped(unseen, 10).substr(8);
  }
  std::size_t switches = 0;
  for (const auto& component : graph.components)
    switches += component.kind == ComponentKind::network_switch ? 1 : 0;
  if (switches > 0)
    text += fmt::format("{} not drawn: --view network\n",
                        counted(switches, "network switch", "network switches"));
  return text;
}

}  // namespace causeway::tools
