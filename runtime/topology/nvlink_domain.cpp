#include "runtime/topology/nvlink_domain.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "runtime/topology/link_rates.h"

namespace causeway {

namespace {

struct Mesh {
  std::vector<std::size_t> gpus;   // Components.
  std::vector<std::size_t> links;  // Between them, direct.
};

std::uint32_t most_links(const Component& gpu) {
  if (gpu.nvlinks_max && *gpu.nvlinks_max > 0) return std::min(*gpu.nvlinks_max, kMostNvlinks);
  const auto rate = gpu.sm ? nvlink_rate(*gpu.sm) : std::nullopt;
  return rate ? rate->links : kMostNvlinks;
}

// Groups of GPUs that direct links join, in the order of their first GPU.
std::vector<Mesh> find_meshes(const TopologyGraph& graph) {
  std::unordered_map<std::string_view, std::size_t> gpus;
  for (std::size_t i = 0; i < graph.components.size(); ++i)
    if (graph.components[i].kind == ComponentKind::gpu) gpus.emplace(graph.components[i].name, i);
  std::vector<std::size_t> root(graph.components.size());
  std::iota(root.begin(), root.end(), std::size_t{0});
  const auto find = [&](std::size_t i) {
    while (root[i] != i) i = root[i] = root[root[i]];
    return i;
  };
  std::vector<std::pair<std::size_t, std::size_t>> direct;  // Link and one of its GPUs.
  for (std::size_t i = 0; i < graph.links.size(); ++i) {
    const auto& link = graph.links[i];
    const auto a = gpus.find(link.a);
    const auto b = gpus.find(link.b);
    if (link.kind != LinkKind::nvlink || a == gpus.end() || b == gpus.end()) continue;
    if (graph.components[a->second].node != graph.components[b->second].node) continue;
    direct.emplace_back(i, a->second);
    const auto first = find(a->second);
    const auto second = find(b->second);
    root[std::max(first, second)] = std::min(first, second);
  }
  std::map<std::size_t, Mesh> meshes;
  for (const auto& [link, gpu] : direct) meshes[find(gpu)].links.push_back(link);
  for (const auto& [name, gpu] : gpus)
    if (const auto at = meshes.find(find(gpu)); at != meshes.end()) at->second.gpus.push_back(gpu);
  std::vector<Mesh> found;
  for (auto& [first, mesh] : meshes) {
    std::ranges::sort(mesh.gpus);
    found.push_back(std::move(mesh));
  }
  return found;
}

bool must_be_switched(const TopologyGraph& graph, const Mesh& mesh, bool by_size) {
  std::unordered_map<std::string_view, std::uint64_t> sums;
  bool equal = true;
  for (const auto i : mesh.links) {
    const auto& link = graph.links[i];
    sums[link.a] += link.count;
    sums[link.b] += link.count;
    equal = equal && link.count == graph.links[mesh.links.front()].count;
  }
  for (const auto gpu : mesh.gpus)
    if (sums[graph.components[gpu].name] > most_links(graph.components[gpu])) return true;
  const auto size = mesh.gpus.size();
  return by_size && equal && size >= kSwitchedMeshGpus &&
         mesh.links.size() == size * (size - 1) / 2;
}

std::string new_switch_name(const TopologyGraph& graph, const std::string& node) {
  std::unordered_set<std::string_view> names;
  for (const auto& component : graph.components) names.insert(component.name);
  for (std::size_t i = 0;; ++i)
    if (auto name = fmt::format("{}/nvswitch{}", node, i); !names.contains(name)) return name;
}

}  // namespace

bool is_hidden_switch(const Component& component) noexcept {
  return component.kind == ComponentKind::nvswitch && component.uuid.empty() &&
         (!component.pci || component.pci->is_hidden());
}

std::vector<std::string> replace_switched_meshes(TopologyGraph& graph, bool by_size) {
  std::vector<std::string> made;
  std::vector<bool> replaced(graph.links.size());
  for (const auto& mesh : find_meshes(graph)) {
    if (!must_be_switched(graph, mesh, by_size)) continue;
    Component hub;
    hub.node = graph.components[mesh.gpus.front()].node;
    hub.name = new_switch_name(graph, hub.node);
    hub.kind = ComponentKind::nvswitch;
    hub.title = "hidden";
    std::unordered_map<std::string_view, TopologyLink> spokes;  // By GPU: its best link.
    for (const auto gpu : mesh.gpus)
      spokes.emplace(graph.components[gpu].name, graph.links[mesh.links.front()])
          .first->second.count = 0;
    for (const auto i : mesh.links) {
      replaced[i] = true;
      for (const auto& gpu : {graph.links[i].a, graph.links[i].b}) {
        auto& spoke = spokes.at(gpu);
        if (spoke.count < graph.links[i].count) spoke = graph.links[i];
      }
    }
    for (const auto gpu : mesh.gpus) {
      auto& spoke = spokes.at(graph.components[gpu].name);
      spoke.a = graph.components[gpu].name;
      spoke.b = hub.name;
      graph.links.push_back(spoke);
    }
    made.push_back(hub.name);
    graph.components.push_back(std::move(hub));
  }
  if (made.empty()) return made;
  std::size_t at = 0;
  std::erase_if(graph.links, [&](const TopologyLink&) {
    const auto i = at++;
    return i < replaced.size() && replaced[i];
  });
  return made;
}

std::vector<OverlinkedGpu> limit_links_of_chips(TopologyGraph& graph) {
  std::unordered_map<std::string_view, std::vector<std::size_t>> links;
  for (std::size_t i = 0; i < graph.links.size(); ++i) {
    if (graph.links[i].kind != LinkKind::nvlink) continue;
    links[graph.links[i].a].push_back(i);
    links[graph.links[i].b].push_back(i);
  }
  std::vector<OverlinkedGpu> found;
  for (const auto& gpu : graph.components) {
    const auto at = links.find(gpu.name);
    if (gpu.kind != ComponentKind::gpu || at == links.end()) continue;
    std::uint64_t sum = 0;
    for (const auto i : at->second) sum += graph.links[i].count;
    const auto most = most_links(gpu);
    if (sum <= most) continue;
    found.push_back({gpu.name, sum, most});
    std::uint64_t left = 0;
    for (const auto i : at->second) {
      auto& count = graph.links[i].count;
      count =
          static_cast<std::uint32_t>(std::max<std::uint64_t>(count * std::uint64_t{most} / sum, 1));
      left += count;
    }
    // Those that keep one of less than one are at the cost of the largest.
    for (; left > most; --left) {
      const auto largest = std::ranges::max_element(
          at->second, {}, [&](std::size_t i) { return graph.links[i].count; });
      if (graph.links[*largest].count == 1) break;
      --graph.links[*largest].count;
    }
  }
  return found;
}

}  // namespace causeway
