#include "runtime/topology/merge_fabric.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <string_view>

#include "runtime/topology/nvlink_domain.h"

namespace causeway {

using Kind = TopologyNote::Kind;

MergeFabric::MergeFabric(const std::vector<MergeSource>& sources, const MergeIdentity& identity)
    : sources_(sources), identity_(identity) {
  read_links();
  settle_switches();
  settle_trees();
}

void MergeFabric::read_links() {
  const auto& members = identity_.members();
  for (std::size_t i = 0; i < members.size(); ++i) {
    if (members[i].component->kind != ComponentKind::nvswitch) continue;
    auto& made = switches_[identity_.device_of(i)];
    made.hidden = made.hidden && is_hidden_switch(*members[i].component);
    made.sources.insert(members[i].source);
  }
  std::set<std::size_t> gpus;
  for (std::size_t i = 0; i < members.size(); ++i)
    if (members[i].component->kind == ComponentKind::gpu) gpus.insert(identity_.device_of(i));
  for (std::size_t source = 0; source < sources_.size(); ++source) {
    const auto& links = sources_[source].graph->links;
    for (std::size_t i = 0; i < links.size(); ++i) {
      if (links[i].kind != LinkKind::nvlink) continue;
      auto a = identity_.find(source, links[i].a);
      auto b = identity_.find(source, links[i].b);
      if (switches_.contains(a) && switches_.contains(b)) joined_.emplace_back(a, b);
      if (!gpus.contains(a)) std::swap(a, b);
      if (!gpus.contains(a)) continue;
      if (gpus.contains(b)) direct_.push_back({source, i, a, b});
      if (const auto at = switches_.find(b); at != switches_.end())
        at->second.spokes.push_back({a, source, i, links[i].count});
    }
  }
}

// By GPU, which part of the fabric it is in: parts that no switch joins have different numbers.
std::map<std::size_t, std::size_t> MergeFabric::fabric_parts(
    const std::vector<std::size_t>& kept) const {
  std::vector<std::size_t> root(kept.size());
  std::iota(root.begin(), root.end(), std::size_t{0});
  const auto find = [&](std::size_t i) {
    while (root[i] != i) i = root[i] = root[root[i]];
    return i;
  };
  std::map<std::size_t, std::size_t> part;  // By GPU: one of its switches.
  for (std::size_t i = 0; i < kept.size(); ++i)
    for (const auto& spoke : switches_.at(kept[i]).spokes) {
      const auto at = part.try_emplace(spoke.gpu, i).first;
      root[std::max(find(i), find(at->second))] = std::min(find(i), find(at->second));
    }
  std::map<std::size_t, std::size_t> index;
  for (std::size_t i = 0; i < kept.size(); ++i) index.emplace(kept[i], i);
  const auto join = [&](std::size_t a, std::size_t b) {
    const auto one = index.find(a);
    const auto other = index.find(b);
    if (one != index.end() && other != index.end()) root[find(one->second)] = find(other->second);
  };
  for (const auto& trunk : trunks_) join(trunk.a, trunk.b);
  for (const auto& [a, b] : joined_) join(a, b);
  for (auto& [gpu, of] : part) of = find(of);
  return part;
}

void MergeFabric::settle_switches() {
  struct Node {
    std::vector<std::size_t> kept;
    std::vector<std::size_t> hidden;
  };
  std::map<std::string_view, Node> nodes;
  for (const auto& [device, made] : switches_) {
    auto& node = nodes[identity_.members()[device].component->node];
    (made.hidden && !made.spokes.empty() ? node.hidden : node.kept).push_back(device);
  }
  std::vector<std::size_t> all;
  for (auto& [name, node] : nodes) {
    // The one that joins most GPUs first: what smaller ones say is then part of it.
    std::ranges::stable_sort(node.hidden, std::greater{}, [&](std::size_t device) {
      std::set<std::size_t> gpus;
      for (const auto& spoke : switches_[device].spokes) gpus.insert(spoke.gpu);
      return gpus.size();
    });
    for (const auto device : node.hidden) settle_hidden(device, node.kept);
    all.insert(all.end(), node.kept.begin(), node.kept.end());
  }
  settle_direct_links(all);
}

void MergeFabric::settle_hidden(std::size_t device, std::vector<std::size_t>& kept) {
  const auto& made = switches_[device];
  std::set<std::size_t> gpus;
  for (const auto& spoke : made.spokes) gpus.insert(spoke.gpu);
  std::map<std::size_t, std::uint32_t> others;  // Switches of other sources: most links to a GPU.
  std::map<std::size_t, std::uint64_t> links;   // By GPU: its links to those.
  for (const auto at : kept) {
    const auto& other = switches_[at];
    const bool own = std::ranges::any_of(
        made.sources, [&](std::size_t source) { return other.sources.contains(source); });
    if (own) continue;
    std::map<std::size_t, std::uint32_t> seen;  // By GPU; sources repeat what others said.
    for (const auto& spoke : other.spokes)
      if (gpus.contains(spoke.gpu)) seen[spoke.gpu] = std::max(seen[spoke.gpu], spoke.count);
    for (const auto& [gpu, count] : seen) {
      others[at] = std::max(others[at], count);
      links[gpu] += count;
    }
  }
  if (others.empty()) {
    kept.push_back(device);
    return;
  }
  const auto parts = fabric_parts(kept);
  std::set<std::size_t> joined;
  bool loose = false;
  for (const auto& spoke : made.spokes) {
    const auto at = links.find(spoke.gpu);
    loose = loose || at == links.end();
    if (at == links.end()) continue;
    joined.insert(parts.at(spoke.gpu));
    dropped_links_.insert({spoke.source, spoke.link});
    if (at->second != spoke.count)
      notes_.push_back(
          {Kind::conflict, sources_[spoke.source].name,
           fmt::format("{}: {} NVLinks to switches here, {} in another source; kept those",
                       sources_[spoke.source].graph->links[spoke.link].a, spoke.count,
                       at->second)});
  }
  if (joined.size() <= 1 && !loose) {
    dropped_.insert(device);
    return;
  }
  notes_.push_back({Kind::remark, sources_[*made.sources.begin()].name,
                    "joins by NVSwitch what another source shows in parts; the switch between "
                    "them is hidden, and its links are the least that there must be"});
  kept.push_back(device);
  const auto& first = made.spokes.front();
  for (const auto& [other, count] : others) {
    TopologyLink link{LinkKind::nvlink, "", ""};
    link.provenance = sources_[first.source].graph->links[first.link].provenance;
    link.count = count;
    trunks_.push_back({other, device, std::move(link)});
  }
}

// A direct link is the way over a switch if another source shows both its ends at one fabric.
void MergeFabric::settle_direct_links(const std::vector<std::size_t>& kept) {
  const auto parts = fabric_parts(kept);
  std::map<std::size_t, std::set<std::size_t>> by_gpu;  // Sources that put it at a switch.
  for (const auto at : kept)
    for (const auto& spoke : switches_[at].spokes) by_gpu[spoke.gpu].insert(spoke.source);
  std::set<std::size_t> told;
  for (const auto& link : direct_) {
    const auto a = parts.find(link.a);
    const auto b = parts.find(link.b);
    if (a == parts.end() || b == parts.end() || a->second != b->second) continue;
    if (by_gpu[link.a].contains(link.source) || by_gpu[link.b].contains(link.source)) continue;
    dropped_links_.insert({link.source, link.link});
    if (told.insert(link.source).second)
      notes_.push_back({Kind::remark, sources_[link.source].name,
                        "its NVLinks between GPUs go through the NVSwitch that another source "
                        "shows"});
  }
}

// Every device has one place in the tree.
void MergeFabric::settle_trees() {
  struct Up {
    std::size_t source;
    std::size_t link;
    std::size_t parent;
    std::size_t depth;
  };
  std::map<std::size_t, std::vector<Up>> ups;  // By lower device.
  for (std::size_t source = 0; source < sources_.size(); ++source) {
    const auto& links = sources_[source].graph->links;
    std::map<std::size_t, std::size_t> parent;
    for (const auto& link : links) {
      const auto a = identity_.find(source, link.a);
      if (link.kind == LinkKind::pcie && a != MergeIdentity::npos)
        parent.try_emplace(a, identity_.find(source, link.b));
    }
    for (std::size_t i = 0; i < links.size(); ++i) {
      const auto a = identity_.find(source, links[i].a);
      const auto b = identity_.find(source, links[i].b);
      if (links[i].kind != LinkKind::pcie || a == MergeIdentity::npos) continue;
      // Bounded, since a hostile file may go round in circles.
      std::size_t depth = 0;
      for (auto at = parent.find(a); at != parent.end() && depth < 64; ++depth)
        at = parent.find(at->second);
      ups[a].push_back({source, i, b, depth});
    }
  }
  for (auto& [device, list] : ups) {
    const auto best = std::ranges::max_element(list, {}, &Up::depth);
    for (const auto& up : list)
      if (up.parent != best->parent && up.source != best->source)
        dropped_links_.insert({up.source, up.link});
  }
}

}  // namespace causeway
