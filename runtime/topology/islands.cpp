#include "runtime/topology/islands.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <span>
#include <unordered_set>
#include <utility>

#include "causeway/gpu_catalogue.h"

namespace causeway {

namespace {

bool is_gpu_link(const TopologyLink& link) {
  return (link.kind == LinkKind::nvlink || link.kind == LinkKind::xgmi) &&
         link.state != LinkState::down;
}

Vertex root_of(std::vector<Vertex>& parents, Vertex vertex) {
  while (parents[vertex] != vertex) {
    parents[vertex] = parents[parents[vertex]];
    vertex = parents[vertex];
  }
  return vertex;
}

void join(std::vector<Vertex>& parents, Vertex a, Vertex b) {
  const auto root_a = root_of(parents, a);
  const auto root_b = root_of(parents, b);
  parents[std::max(root_a, root_b)] = std::min(root_a, root_b);
}

bool is_kind(const GraphIndex& index, Vertex vertex, ComponentKind kind) {
  const auto* component = index.component(vertex);
  return component != nullptr && component->kind == kind;
}

std::string_view meaning(PeerStatus status) {
  switch (status) {
    case PeerStatus::ok:
      return "OK";
    case PeerStatus::chipset_not_supported:
      return "the driver does not support it on this chipset";
    case PeerStatus::gpu_not_supported:
      return "the driver does not support it on this GPU";
    case PeerStatus::topology_not_supported:
      return "the driver does not support it across this topology";
    case PeerStatus::disabled_by_registry:
      return "switched off by a registry key of the driver";
    case PeerStatus::not_supported:
      return "not supported";
    case PeerStatus::unknown:
      break;
  }
  return "unknown to the driver";
}

std::string_view meaning(PeerCheck check) {
  switch (check) {
    case PeerCheck::passed:
      return "copies arrive intact";
    case PeerCheck::wrong_data:
      return "a copy arrived with wrong data";
    case PeerCheck::hung:
      return "a copy never ended";
    case PeerCheck::failed:
      break;
  }
  return "a copy failed";
}

// By what the two are joined, whoever says so.
struct Joint {
  LinkKind kind = LinkKind::pcie;
  bool switched = false;
  std::optional<Provenance> told_by = {};  // Of an NVLink.
  bool is_known = true;                    // False if there may be NVLinks that nothing tells of.
};

std::string_view name_of(const Joint& joint) {
  if (joint.kind == LinkKind::xgmi) return "xGMI";
  if (joint.kind == LinkKind::nvlink) return joint.switched ? "NVSwitch" : "NVLink";
  return joint.is_known ? "peer access over PCIe" : "peer access, by a way that is not known";
}

// Active NVLinks of a GPU whose other ends no source tells.
bool has_loose_nvlinks(const GraphIndex& index, Vertex gpu) {
  const auto& component = *index.component(gpu);
  if (!component.nvlinks_max || !component.nvlinks_down) return false;
  return *component.nvlinks_max > *component.nvlinks_down &&
         std::ranges::none_of(index.edges(gpu), [&](const Edge& edge) {
           return index.link(edge).kind == LinkKind::nvlink;
         });
}

bool may_have_unknown_nvlinks(const GraphIndex& index, Vertex gpu) {
  const auto node = index.node_of(gpu);
  return !node || !index.graph().nodes[*node].nvlinks_known || has_loose_nvlinks(index, gpu);
}

// Why NVSwitches do not carry anything yet, if the driver says so.
std::optional<FabricState> fabric_not_up(const GraphIndex& index, Vertex gpu) {
  const auto node = index.node_of(gpu);
  const auto state = node ? index.graph().nodes[*node].fabric : std::nullopt;
  const bool is_up =
      !state || *state == FabricState::completed || *state == FabricState::not_supported;
  return is_up ? std::nullopt : state;
}

Joint joint_between(const GraphIndex& index, const NvlinkMap& nvlinks, Vertex a, Vertex b) {
  if (nvlinks.is_switched(a, b)) {
    const auto edges = nvlinks.to_switches(a);
    return {index.link(edges.front()).kind, true, index.link(edges.front()).provenance};
  }
  if (const auto edges = nvlinks.direct(a, b); !edges.empty())
    return {index.link(edges.front()).kind, false, index.link(edges.front()).provenance};
  // GPUs of one xGMI hive address each other's memory over those between them.
  if (nvlinks.group_of(a) == nvlinks.group_of(b))
    for (const auto& edge : index.edges(a))
      if (is_gpu_link(index.link(edge)) && index.link(edge).kind == LinkKind::xgmi)
        return {LinkKind::xgmi, false, index.link(edge).provenance};
  Joint joint;
  joint.is_known = !may_have_unknown_nvlinks(index, a) && !may_have_unknown_nvlinks(index, b);
  return joint;
}

// The first statement of both directions that decides, or nullopt.
std::optional<Sight> told(const Pair* there, const Pair* back, const Joint& joint) {
  const auto positive = [&](PeerBasis basis) {
    return Sight{true, basis, fmt::format("{}: {}", to_string(basis), name_of(joint)), joint.kind,
                 joint.is_known};
  };
  const auto negative = [&](PeerBasis basis, std::string_view why) {
    return Sight{false, basis, fmt::format("{}: {}", to_string(basis), why), joint.kind,
                 joint.is_known};
  };
  const auto verified = [](const Pair* pair) { return pair ? pair->verified : std::nullopt; };
  for (const auto* pair : {there, back})
    if (const auto check = verified(pair); check && *check != PeerCheck::passed)
      return negative(PeerBasis::verified, meaning(*check));
  if (verified(there) && verified(back)) return positive(PeerBasis::verified);
  const auto agrees = [](const Pair* pair) { return pair ? pair->cuda_agrees : std::nullopt; };
  for (const auto* pair : {there, back})
    if (agrees(pair) == false) return negative(PeerBasis::cuda, "CUDA finds no peer access");
  if (agrees(there) && agrees(back)) return positive(PeerBasis::cuda);
  std::size_t granted = 0;
  for (const auto* pair : {there, back}) {
    if (pair == nullptr) continue;
    for (const auto& status : {pair->granted_read, pair->granted_write}) {
      if (!status || *status == PeerStatus::unknown) continue;
      if (*status != PeerStatus::ok)
        return negative(PeerBasis::granted,
                        fmt::format("{}, {}", to_string(*status), meaning(*status)));
      ++granted;
    }
  }
  if (granted == 4) return positive(PeerBasis::granted);
  return std::nullopt;
}

const GpuModel* model_of(const Component& gpu) { return find_gpu_model(gpu.model); }

// What can be said where nobody was asked.
Sight by_policy(const GraphIndex& index, Vertex vertex_a, Vertex vertex_b, const Joint& joint) {
  const auto& a = *index.component(vertex_a);
  const auto& b = *index.component(vertex_b);
  if (joint.switched)
    for (const auto vertex : {vertex_a, vertex_b})
      if (const auto state = fabric_not_up(index, vertex))
        return {false, PeerBasis::granted,
                fmt::format("granted: the NVLink fabric is not up ({})", to_string(*state)),
                joint.kind};
  if (joint.told_by)
    return {true, PeerBasis::policy,
            fmt::format("{}: {}", to_string(*joint.told_by), name_of(joint)), joint.kind};
  const auto* model = model_of(a);
  if (model == nullptr || model_of(b) == nullptr)
    return {false, PeerBasis::unknown, "unknown: nothing tells of peer access", LinkKind::pcie};
  if (a.model != b.model)
    return {false, PeerBasis::unknown, "unknown: another model", LinkKind::pcie};
  switch (model->peer_policy) {
    case PeerPolicy::refused:
      return {false, PeerBasis::policy, "policy: GeForce refuses peer access", LinkKind::pcie};
    case PeerPolicy::nvlink_only:
      return {false, PeerBasis::policy,
              joint.is_known ? "policy: peer access over an NVLink bridge only, and none is known"
                             : "policy: peer access over an NVLink bridge only, and where its "
                               "links lead is not known",
              LinkKind::pcie};
    case PeerPolicy::granted:
      break;
  }
  return {true, PeerBasis::policy, fmt::format("policy: {}", name_of(joint)), LinkKind::pcie,
          joint.is_known};
}

// GPUs that could see each other: those of one node, or of nodes with one NVLink fabric.
std::vector<std::vector<Vertex>> gpu_groups(const GraphIndex& index, const NvlinkMap& nvlinks) {
  const auto nodes = static_cast<Vertex>(index.graph().nodes.size());
  std::vector<Vertex> joined(nodes);
  std::iota(joined.begin(), joined.end(), Vertex{0});
  std::vector<std::vector<Vertex>> gpus(nodes);
  std::map<Vertex, Vertex> first_on;  // Fabric to node.
  for (Vertex node = 0; node < nodes; ++node)
    for (const auto vertex : index.components_of(node)) {
      if (!is_kind(index, vertex, ComponentKind::gpu)) continue;
      gpus[node].push_back(vertex);
      if (const auto fabric = nvlinks.fabric_of(vertex))
        join(joined, first_on.emplace(*fabric, node).first->second, node);
    }
  std::vector<std::vector<Vertex>> groups(nodes);  // By the first node of each; others stay empty.
  for (Vertex node = 0; node < nodes; ++node) {
    auto& group = groups[root_of(joined, node)];
    group.insert(group.end(), gpus[node].begin(), gpus[node].end());
  }
  return groups;
}

struct Growing {
  std::vector<Vertex> members;
  std::optional<Vertex> fabric;  // Of all members, if nothing is said of any pair of them.
  Sight weakest;                 // Of all pairs in it; of a single GPU why it sees no other.
};

// Of two that are equally founded, PCIe is the weaker way: the island is called by it.
void weaken(Sight& weakest, const Sight& other) {
  const auto rank = [](const Sight& sight) {
    return std::pair(sight.rests_on, sight.kind != LinkKind::pcie);
  };
  if (rank(other) < rank(weakest)) weakest = other;
}

std::unordered_set<Vertex> vertices_of_pairs(const GraphIndex& index) {
  std::unordered_set<Vertex> vertices;
  for (const auto& pair : index.graph().pairs)
    for (const auto& end : {pair.from, pair.to}) vertices.insert(*index.find(end));
  return vertices;
}

std::string why_alone(const GraphIndex& index, const std::vector<Vertex>& gpus, Vertex gpu) {
  if (gpus.size() == 1) return "alone: no other GPU on the node";
  const auto& model = index.component(gpu)->model;
  const bool is_known = !model.empty() && std::ranges::none_of(gpus, [&](Vertex other) {
    return index.component(other)->model.empty();
  });
  return is_known ? "alone: no other GPU of its model on the node"
                  : "unknown: nothing tells of peer access";
}

std::vector<Growing> grow_islands(const GraphIndex& index, const NvlinkMap& nvlinks,
                                  const std::vector<Vertex>& gpus) {
  // Of GPUs on one fabric of which no pair is spoken of, each sees all others or none.
  const auto paired = vertices_of_pairs(index);
  std::vector<Growing> islands;
  for (const auto gpu : gpus) {
    const auto fabric = paired.contains(gpu) ? std::nullopt : nvlinks.fabric_of(gpu);
    Growing alone{
        {gpu}, fabric, {false, PeerBasis::unknown, why_alone(index, gpus, gpu), LinkKind::pcie}};
    bool joined = false;
    for (auto& island : islands) {
      std::optional<Sight> weakest;
      const std::size_t asked = fabric && fabric == island.fabric ? 1 : island.members.size();
      for (const auto member : std::span(island.members).first(asked)) {
        const auto sight = sight_between(index, nvlinks, gpu, member);
        if (!sight.sees) {
          weakest.reset();
          // Of the reasons to stand apart the best founded is told, on both sides.
          for (auto* side : {&alone, &island})
            if (side->members.size() == 1 && sight.rests_on > side->weakest.rests_on)
              side->weakest = sight;
          break;
        }
        if (weakest) weaken(*weakest, sight);
        if (!weakest) weakest = sight;
      }
      if (!weakest) continue;
      if (island.members.size() == 1) island.weakest = *weakest;
      weaken(island.weakest, *weakest);
      island.members.push_back(gpu);
      if (fabric != island.fabric) island.fabric.reset();
      joined = true;
      break;
    }
    if (!joined) islands.push_back(std::move(alone));
  }
  return islands;
}

void add_islands(IslandMap& map, const GraphIndex& index, const NvlinkMap& nvlinks,
                 const std::vector<Vertex>& gpus) {
  std::map<std::pair<std::string, std::string_view>, int> numbers;
  for (auto& grown : grow_islands(index, nvlinks, gpus)) {
    Island island{{}, {}, grown.weakest.rests_on, grown.weakest.basis};
    for (const auto member : grown.members) {
      island.devices.push_back(device_of(*index.component(member)));
      map.island_of[member] = static_cast<std::uint32_t>(map.islands.size());
    }
    const auto kind =
        grown.weakest.is_way_known ? to_string(grown.weakest.kind) : std::string_view("peers");
    const auto& first = island.devices.front();
    island.name = grown.members.size() == 1
                      ? first.to_string()
                      : fmt::format("{}/{}{}", first.node, kind, numbers[{first.node, kind}]++);
    map.islands.push_back(std::move(island));
  }
}

void add_domains(IslandMap& map, const GraphIndex& index, const NvlinkMap& nvlinks,
                 const std::vector<Vertex>& gpus) {
  std::map<Vertex, std::vector<Vertex>> members;
  for (const auto gpu : gpus) members[nvlinks.group_of(gpu)].push_back(gpu);
  std::map<std::string, int> numbers;
  for (const auto& group : members) {
    const auto& inside = group.second;  // clang 14 captures no structured binding.
    if (inside.size() < 2) continue;
    NvlinkDomain domain;
    domain.is_switched = std::ranges::all_of(
        inside, [&](Vertex gpu) { return nvlinks.is_switched(inside.front(), gpu); });
    domain.is_all_to_all = domain.is_switched;
    if (!domain.is_switched && inside.size() <= 64)  // A mesh is as large as its GPUs have links.
      domain.is_all_to_all = std::ranges::all_of(inside, [&](Vertex a) {
        return std::ranges::all_of(
            inside, [&](Vertex b) { return a == b || !nvlinks.direct(a, b).empty(); });
      });
    for (const auto gpu : inside) domain.devices.push_back(device_of(*index.component(gpu)));
    const auto& node = domain.devices.front().node;
    domain.name = fmt::format("{}/domain{}", node, numbers[node]++);
    map.domains.push_back(std::move(domain));
  }
}

}  // namespace

NvlinkMap::NvlinkMap(const GraphIndex& index)
    : index_(&index), group_(index.size()), fabric_(index.size()) {
  std::iota(group_.begin(), group_.end(), Vertex{0});
  fabric_ = group_;
  const auto is = [&](Vertex v, ComponentKind kind) { return is_kind(index, v, kind); };
  for (Vertex v = 0; v < index.graph().components.size(); ++v)
    for (const auto& edge : index.edges(v)) {
      if (!is_gpu_link(index.link(edge)) || edge.to <= v) continue;
      // A CPU with NVLinks joins no GPUs.
      if (is(v, ComponentKind::cpu) || is(edge.to, ComponentKind::cpu)) continue;
      join(group_, v, edge.to);
      if (is(v, ComponentKind::nvswitch) || is(edge.to, ComponentKind::nvswitch))
        join(fabric_, v, edge.to);
    }
  std::map<std::string_view, Vertex> clusters;
  for (Vertex v = 0; v < index.graph().components.size(); ++v) {
    if (!is(v, ComponentKind::nvswitch)) continue;
    const auto node = index.node_of(v);
    if (!node || index.graph().nodes[*node].fabric_cluster.empty()) continue;
    const auto first = clusters.emplace(index.graph().nodes[*node].fabric_cluster, v).first->second;
    join(fabric_, first, v);
    join(group_, first, v);
  }
  for (Vertex v = 0; v < group_.size(); ++v) {
    group_[v] = root_of(group_, v);
    fabric_[v] = root_of(fabric_, v);
  }
}

std::optional<Vertex> NvlinkMap::fabric_of(Vertex gpu) const noexcept {
  for (const auto& edge : index_->edges(gpu))
    if (is_gpu_link(index_->link(edge)) && is_kind(*index_, edge.to, ComponentKind::nvswitch))
      return fabric_[gpu];
  return std::nullopt;
}

bool NvlinkMap::is_switched(Vertex a, Vertex b) const noexcept {
  const auto fabric = fabric_of(a);
  return fabric && fabric == fabric_of(b);
}

std::vector<Edge> NvlinkMap::to_switches(Vertex gpu) const {
  std::vector<Edge> edges;
  for (const auto& edge : index_->edges(gpu))
    if (is_gpu_link(index_->link(edge)) && is_kind(*index_, edge.to, ComponentKind::nvswitch))
      edges.push_back(edge);
  return edges;
}

std::vector<Edge> NvlinkMap::direct(Vertex a, Vertex b) const {
  std::vector<Edge> edges;
  for (const auto& edge : index_->edges(a))
    if (edge.to == b && is_gpu_link(index_->link(edge))) edges.push_back(edge);
  return edges;
}

Sight sight_between(const GraphIndex& index, const NvlinkMap& nvlinks, Vertex a, Vertex b) {
  const auto joint = joint_between(index, nvlinks, a, b);
  if (auto sight = told(index.pair(a, b), index.pair(b, a), joint)) return *sight;
  return by_policy(index, a, b, joint);
}

IslandMap derive_islands(const GraphIndex& index, const NvlinkMap& nvlinks) {
  IslandMap map;
  map.island_of.resize(index.size());
  for (const auto& gpus : gpu_groups(index, nvlinks)) {
    add_islands(map, index, nvlinks, gpus);
    add_domains(map, index, nvlinks, gpus);
  }
  return map;
}

DeviceName device_of(const Component& component) { return DeviceName::parse(component.name); }

std::string_view to_string(PeerBasis value) noexcept {
  switch (value) {
    case PeerBasis::unknown:
      break;
    case PeerBasis::policy:
      return "policy";
    case PeerBasis::granted:
      return "granted";
    case PeerBasis::cuda:
      return "cuda";
    case PeerBasis::verified:
      return "verified";
  }
  return "unknown";
}

}  // namespace causeway
