#include "runtime/topology/whatif/derived.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <unordered_map>
#include <utility>

#include "runtime/topology/link_rates.h"

namespace causeway::whatif {

void derive_rates(TopologyGraph& graph, std::size_t index) {
  // The link and its ends alone: the other links keep what they have, and what they lack.
  auto& link = graph.links[index];
  TopologyGraph part;
  for (const auto* end : {&link.a, &link.b})
    if (const auto* component = graph.find(*end)) part.components.push_back(*component);
  part.links.push_back(link);
  auto& derived = part.links.front();
  derived.provenance = Provenance::spec;  // Nobody has seen it so.
  derived.line_bytes_per_s.reset();
  derived.effective_bytes_per_s.reset();
  fill_rates(part);
  link.line_bytes_per_s = derived.line_bytes_per_s;
  link.effective_bytes_per_s = derived.effective_bytes_per_s;
  link.latency_s = derived.latency_s;
}

namespace {

using Indices = std::unordered_map<std::string_view, std::size_t>;

Indices indices_of(const TopologyGraph& graph) {
  Indices indices;
  for (std::size_t i = 0; i < graph.components.size(); ++i)
    indices.emplace(graph.components[i].name, i);
  return indices;
}

std::vector<bool> hanging_on(const TopologyGraph& graph, const Indices& indices,
                             std::size_t index) {
  const auto is_host = [&](const std::string& name) {
    const auto at = indices.find(name);
    return at != indices.end() && graph.components[at->second].kind == ComponentKind::host;
  };
  std::unordered_map<std::string_view, std::vector<std::string_view>> below;
  for (const auto& link : graph.links) {
    if (link.kind == LinkKind::pcie) below[link.b].push_back(link.a);
    if (link.kind == LinkKind::memory && is_host(link.a)) below[link.b].push_back(link.a);
    if (link.kind == LinkKind::memory && is_host(link.b)) below[link.a].push_back(link.b);
  }
  std::vector<bool> hanging(graph.components.size());
  std::vector<std::size_t> open{index};
  hanging[index] = true;
  while (!open.empty()) {
    const auto at = open.back();
    open.pop_back();
    for (const auto& name : below[graph.components[at].name]) {
      const auto next = indices.find(name);
      if (next == indices.end() || hanging[next->second]) continue;
      hanging[next->second] = true;
      open.push_back(next->second);
    }
  }
  return hanging;
}

}  // namespace

std::vector<bool> hanging_on(const TopologyGraph& graph, std::size_t index) {
  return hanging_on(graph, indices_of(graph), index);
}

void forget_measurements(TopologyGraph& graph, const TopologyLink& link) {
  const auto indices = indices_of(graph);
  const auto component = [&](const std::string& name) -> const Component* {
    const auto at = indices.find(name);
    return at == indices.end() ? nullptr : &graph.components[at->second];
  };
  const auto is_gpu = [&](const std::string& name) {
    return component(name) != nullptr && component(name)->kind == ComponentKind::gpu;
  };
  const auto node_of = [&](const std::string& name) {
    return component(name) != nullptr ? component(name)->node : name;
  };
  std::vector<bool> below;
  if (const auto lower = indices.find(link.a); lower != indices.end())
    below = hanging_on(graph, indices, lower->second);
  const auto is_below = [&](const std::string& name) {
    const auto at = indices.find(name);
    return at != indices.end() && !below.empty() && below[at->second];
  };
  const auto goes_over = [&](const Pair& pair) {
    const bool same_node = node_of(pair.from) == node_of(pair.to);
    const auto touches = [&](const std::string& end) { return pair.from == end || pair.to == end; };
    switch (link.kind) {
      case LinkKind::pcie:
        return is_below(pair.from) != is_below(pair.to);
      case LinkKind::nvlink:
      case LinkKind::xgmi:
      case LinkKind::c2c:
        if (is_gpu(link.a) && is_gpu(link.b)) return touches(link.a) && touches(link.b);
        return touches(link.a) || touches(link.b);
      case LinkKind::memory:
      case LinkKind::socket:  // Staging may use either.
        return same_node && node_of(link.a) == node_of(pair.from);
      case LinkKind::network:
        return !same_node;
    }
    return false;
  };
  for (auto& pair : graph.pairs) {
    if (!goes_over(pair)) continue;
    pair.bandwidth_bytes_per_s.reset();
    pair.staged_bytes_per_s.reset();
    pair.latency_s.reset();
  }
}

std::optional<std::uint32_t> sm_of_model(std::string_view model) noexcept {
  constexpr std::array<std::pair<std::string_view, std::uint32_t>, 13> kSms{
      {{"rtx-3090", 86},
       {"rtx-4090", 89},
       {"rtx-5090", 120},
       {"rtx-a6000", 86},
       {"rtx-pro-6000", 120},
       {"rtx-pro-6000-max-q", 120},
       {"l40s", 89},
       {"a100-pcie", 80},
       {"a100-sxm", 80},
       {"h100-pcie", 90},
       {"h100-sxm", 90},
       {"h200-sxm", 90},
       {"b200", 100}}};
  const auto at = std::ranges::find(kSms, model, [](const auto& entry) { return entry.first; });
  return at == kSms.end() ? std::nullopt : std::optional(at->second);
}

std::uint32_t nvlinks_of_model(const GpuModel& model) noexcept {
  const auto sm = sm_of_model(model.name);
  const auto rate = sm ? nvlink_rate(*sm) : std::nullopt;
  if (!rate || !model.nvlink_bytes_per_s) return 0;
  return static_cast<std::uint32_t>(
      std::lround(*model.nvlink_bytes_per_s / rate->effective_bytes_per_s));
}

}  // namespace causeway::whatif
