// W15 to W17: how far the description can be trusted, and whether like nodes are alike.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "runtime/topology/doctor/checks.h"

namespace causeway::doctor {

void check_view(const Examination& machine, Report& report) {
  for (const auto& parts : machine.nodes()) {
    const auto& node = *parts.node;
    const auto source = machine.source(parts);
    if (node.view == MachineView::unknown)
      report.unknown("whether it is a container, a VM or a whole machine is not known", node.name);
    else
      report.examine();
    if (node.view == MachineView::vm || node.view == MachineView::container)
      report.add(
          {Severity::info,
           "the view is partial: devices may be missing, and PCI paths, widths and cores "
           "may be the hypervisor's or the cgroup's invention",
           "describe the machine from outside, on the host, and merge: causeway topo import; "
           "measured figures hold in any view"},
          {node.name}, {fmt::format("seen from a {} ({})", to_string(node.view), source)});
    if (node.unseen.empty()) continue;
    report.add({Severity::info, "what was not seen is unknown, not absent",
                "install or allow what is named, and describe the machine again"},
               {node.name}, {fmt::format("not seen ({}): {}", source, names_text(node.unseen))});
  }
}

namespace {

constexpr const char* kReadAgain =
    "write the file again with the tool's newest version, unshortened, outside of a container; or "
    "describe the machine itself with causeway topo show";

void report_notes(const TopologyGraph& graph, Report& report) {
  for (const auto& note : graph.notes) {
    if (note.kind == TopologyNote::Kind::remark) continue;
    const bool is_conflict = note.kind == TopologyNote::Kind::conflict;
    report.add({is_conflict ? Severity::warning : Severity::info,
                is_conflict ? "two sources say different things; the first was taken"
                            : "the source was read with a correction",
                is_conflict ? kReadAgain
                            : "nothing to repair where the correction is right; else correct the "
                              "source and import it again"},
               {fmt::format("{} ({}): {}", note.source.empty() ? "a source" : note.source,
                            to_string(Provenance::import), note.text)});
  }
}

template <typename Value>
std::string difference(std::string_view what, const std::optional<Value>& there,
                       const std::optional<Value>& back) {
  if (!there || !back || *there == *back) return {};
  if constexpr (std::is_same_v<Value, bool>)
    return fmt::format("{} {} there, {} back", what, *there, *back);
  else
    return fmt::format("{} {} there, {} back", what, to_string(*there), to_string(*back));
}

void report_asymmetry(const Examination& machine, Report& report) {
  for (const auto& pair : machine.graph().pairs) {
    const auto a = machine.index().find(pair.from);
    const auto b = machine.index().find(pair.to);
    const auto* back = a && b ? machine.index().pair(*b, *a) : nullptr;
    if (back == nullptr || *a >= *b) continue;
    report.examine();
    const auto* component = machine.index().component(*a);
    const auto source = component == nullptr ? std::string(kUntold) : machine.source(*component);
    for (const auto& text : {difference("path", pair.path, back->path),
                             difference("read", pair.granted_read, back->granted_read),
                             difference("write", pair.granted_write, back->granted_write),
                             difference("CUDA", pair.cuda_agrees, back->cuda_agrees)})
      if (!text.empty())
        report.add({Severity::warning,
                    "what holds from one device to another should hold back: one of the two is "
                    "wrong, and so may be the islands",
                    kReadAgain},
                   {pair.from, pair.to}, {fmt::format("{} ({})", text, source)});
  }
}

// A GPU's own record and the graph's links that end there, and both and what its chip can have.
void report_link_counts(const Examination& machine, Report& report) {
  for (const auto& node : machine.nodes())
    for (const auto* gpu : node.gpus) {
      const auto links = machine.gpu_links(*gpu);
      if (!links.is_counted) continue;
      const auto chip = chip_links(*gpu);
      const auto most = std::max(links.active + links.down, links.drawn);
      if (chip && most > *chip)
        report.add({Severity::warning, "the source says what cannot be", kReadAgain}, {gpu->name},
                   {fmt::format("{} NVLinks, its chip has {} ({})", most, *chip, links.source)});
      // Links may lead to GPUs that are not seen; those to NVSwitches are all there.
      const bool too_few = links.to_switch && links.drawn < links.active;
      if (!links.has_record || links.drawn == 0 || !(too_few || links.drawn > links.active))
        continue;
      report.add({Severity::warning,
                  "the sources differ in how many NVLinks the GPU has; its own record was taken",
                  kReadAgain},
                 {gpu->name},
                 {fmt::format("links for {} NVLinks, {} active by its own record ({})", links.drawn,
                              links.active, links.source)});
    }
}

}  // namespace

void check_sources(const Examination& machine, Report& report) {
  // The notes are there to be read: that there are none is an answer.
  report.examine(1 + machine.graph().notes.size());
  report_notes(machine.graph(), report);
  report_link_counts(machine, report);
  report_asymmetry(machine, report);
}

namespace {

using Parts = std::vector<const NodeParts*>;
using Read = std::function<std::string(const Examination&, const NodeParts&)>;

// The different values in `values`, joined; empty if there are none.
std::string joined(const std::set<std::string>& values) {
  return fmt::format("{}", fmt::join(values, ", "));
}

// What GPUs a node has, without how many; empty if one of them is not known by name.
std::string gpu_kinds(const NodeParts& node) {
  std::set<std::string> kinds;
  for (const auto* gpu : node.gpus) {
    const auto& name = gpu->model.empty() ? gpu->title : gpu->model;
    if (name.empty()) return {};
    kinds.insert(name);
  }
  return joined(kinds);
}

// NICs that carry the pool: RDMA where there is any, else those not known to be down.
std::vector<const Component*> network_nics(const NodeParts& node) {
  std::vector<const Component*> nics;
  const bool has_rdma =
      std::ranges::any_of(node.nics, [](const auto* nic) { return nic->is_rdma == true; });
  for (const auto* nic : node.nics)
    if (has_rdma ? nic->is_rdma == true : nic->port_up != false) nics.push_back(nic);
  return nics;
}

std::string mtus(const Examination&, const NodeParts& node) {
  std::set<std::string> values;
  for (const auto* nic : network_nics(node)) {
    if (!nic->mtu) return {};
    values.insert(std::to_string(*nic->mtu));
  }
  return joined(values);
}

std::string nic_rates(const Examination&, const NodeParts& node) {
  std::map<std::string, int> values;
  for (const auto* nic : network_nics(node)) {
    if (nic->port_up == false) continue;
    if (!nic->port_bytes_per_s) return {};
    ++values[rate_text(*nic->port_bytes_per_s)];
  }
  std::string text;
  for (const auto& [rate, count] : values)
    text += fmt::format("{}{} x {}", text.empty() ? "" : ", ", count, rate);
  return text;
}

std::string nvlinks(const Examination& machine, const NodeParts& node) {
  if (!node.node->nvlinks_known) return {};
  std::uint64_t links = 0;
  for (const auto* gpu : node.gpus) links += machine.gpu_links(*gpu).active;
  return std::to_string(links);
}

struct Trait {
  std::string_view name;
  Severity severity;
  std::string_view meaning;
  std::string_view fix;
  Read read;  // Empty: not known of this node.
};

const std::vector<Trait>& traits() {
  static const std::vector<Trait> all{
      {"driver", Severity::warning,
       "a job over these nodes meets different rules for peer access and different NCCL paths",
       "install one driver version on all of them",
       [](const auto&, const auto& node) { return node.node->driver_version; }},
      {"CUDA", Severity::info, "programs may not start on all of these nodes",
       "install one driver version on all of them",
       [](const auto&, const auto& node) { return node.node->cuda_version; }},
      {"kernel", Severity::info, "network and memory may behave differently from node to node",
       "update them together", [](const auto&, const auto& node) { return node.node->kernel; }},
      {"number of GPUs", Severity::warning,
       "a GPU may have fallen off the bus: jobs that expect it do not start there",
       "dmesg (Xid 79), lspci | grep -i nvidia; restart the node, then reseat the card",
       [](const auto&, const auto& node) { return std::to_string(node.gpus.size()); }},
      {"NVLinks of all GPUs", Severity::warning,
       "the slowest node sets the pace of every collective", "see W09 and W10 on the odd node",
       nvlinks},
      {"MTU", Severity::warning,
       "large packets are cut or dropped between these nodes: slow, or connections that hang",
       "set one MTU on all nodes and switches: ip link set NAME mtu 9000 (InfiniBand 4096)", mtus},
      {"network ports", Severity::warning, "the slowest node sets the pace of every collective",
       "compare cables, ports and NICs of the odd node (ethtool NAME, ibstat)", nic_rates}};
  return all;
}

// Names the nodes that differ from most; where no value has most, all of them.
void compare(const Examination& machine, const Trait& trait, const Parts& nodes, Report& report) {
  std::map<std::string, Parts> by_value;
  std::size_t known = 0;
  for (const auto* node : nodes) {
    auto value = trait.read(machine, *node);
    if (value.empty()) {
      report.unknown(fmt::format("{}: not known", trait.name), node->node->name);
      continue;
    }
    ++known;
    by_value[std::move(value)].push_back(node);
  }
  if (known < 2) return;
  report.examine();
  if (by_value.size() < 2) return;
  const auto usual =
      std::ranges::max_element(by_value, {}, [](const auto& entry) { return entry.second.size(); });
  const bool has_usual = usual->second.size() * 2 > known;
  for (const auto& [value, odd] : by_value) {
    if (has_usual && value == usual->first) continue;
    for (const auto* node : odd)
      report.add(
          {trait.severity, std::string(trait.meaning), std::string(trait.fix)}, {node->node->name},
          {fmt::format("{}: {} here, {} ({})", trait.name, value,
                       has_usual ? fmt::format("{} on {} of {} nodes", usual->first,
                                               usual->second.size(), known)
                                 : fmt::format("{} values on {} nodes", by_value.size(), known),
                       machine.source(*node))});
  }
}

}  // namespace

void check_like_nodes(const Examination& machine, Report& report) {
  std::map<std::string, Parts> kinds;
  for (const auto& node : machine.nodes()) {
    if (node.gpus.empty() || machine.nodes().size() < 2) continue;
    const auto kind = gpu_kinds(node);
    if (kind.empty())
      report.unknown("which GPUs it has is not known", node.node->name);
    else
      kinds[kind].push_back(&node);
  }
  for (const auto& [kind, nodes] : kinds) {
    if (nodes.size() < 2) continue;
    for (const auto& trait : traits()) compare(machine, trait, nodes, report);
  }
}

}  // namespace causeway::doctor
