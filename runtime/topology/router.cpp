#include "runtime/topology/router.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <queue>
#include <tuple>

#include "causeway/gpu_catalogue.h"
#include "runtime/topology/link_rates.h"
#include "runtime/topology/network_search.h"

namespace causeway {

namespace {

void narrow(std::optional<Figure>& figure, const std::optional<Figure>& other) {
  if (other && (!figure || other->value < figure->value)) figure = other;
}

std::optional<Figure> sum_of(const GraphIndex& index, const std::vector<Edge>& edges) {
  std::optional<Figure> sum;
  for (const auto& edge : edges) {
    const auto& figure = index.link(edge).effective_bytes_per_s;
    if (!figure) return std::nullopt;
    if (!sum) sum = Figure{0, figure->provenance};
    sum->value += figure->value;
  }
  return sum;
}

bool is_kind(const GraphIndex& index, Vertex vertex, ComponentKind kind) {
  const auto* component = index.component(vertex);
  return component != nullptr && component->kind == kind;
}

bool is_gpu(const Component* component) {
  return component != nullptr && component->kind == ComponentKind::gpu;
}

// Bytes may pass through these on their way.
bool is_between(const Component& component) {
  return component.kind == ComponentKind::bridge || component.kind == ComponentKind::cpu ||
         component.kind == ComponentKind::unknown;
}

// PCIe and what else leads to a CPU: some have NVLinks.
bool is_local_link(const GraphIndex& index, Vertex from, const Edge& edge) {
  const auto& link = index.link(edge);
  if (link.state == LinkState::down) return false;
  switch (link.kind) {
    case LinkKind::pcie:
    case LinkKind::memory:
    case LinkKind::socket:
    case LinkKind::c2c:
      return true;
    case LinkKind::nvlink:
      return is_kind(index, from, ComponentKind::cpu) ||
             is_kind(index, edge.to, ComponentKind::cpu);
    case LinkKind::xgmi:
    case LinkKind::network:
      break;
  }
  return false;
}

template <typename Steps>
Steps reversed(Steps steps) {
  std::ranges::reverse(steps);
  for (auto& step : steps) std::swap(step.from, step.to);
  return steps;
}

}  // namespace

Router::Router(const GraphIndex& index, const NvlinkMap& nvlinks) noexcept
    : index_(&index), nvlinks_(&nvlinks) {}

Router::Origin::Origin(const Router& router, Vertex from)
    : from_(from), nic_(router.nearest_nic(from)) {
  const auto node = router.index_->node_of(from);
  std::vector<Vertex> sources;
  if (node) sources.push_back(router.index_->node_vertex(*node));
  if (nic_) sources.push_back(*nic_);
  network_ = std::make_unique<NetworkSearch>(*router.index_, sources);
}
Router::Origin::~Origin() = default;
Router::Origin::Origin(Origin&&) noexcept = default;

// Fewest hops, and of several such the widest.
std::optional<Router::Leg> Router::local_leg(Vertex from, Vertex to) const {
  struct Reach {
    double width;
    std::optional<Step> last;
  };
  std::map<Vertex, Reach> reached{{from, {std::numeric_limits<double>::infinity(), {}}}};
  std::vector<Vertex> front{from};
  while (!front.empty() && !reached.contains(to)) {
    std::map<Vertex, Reach> next;
    for (const auto vertex : front) {
      if (vertex != from && !is_between(*index_->component(vertex))) continue;
      for (const auto& edge : index_->edges(vertex)) {
        const auto& link = index_->link(edge);
        if (!is_local_link(*index_, vertex, edge) || reached.contains(edge.to) ||
            !index_->component(edge.to))
          continue;
        const auto& figure = link.effective_bytes_per_s;
        const double width =
            std::min(reached.at(vertex).width,
                     figure ? figure->value : std::numeric_limits<double>::infinity());
        const auto known = next.find(edge.to);
        if (known == next.end() || known->second.width < width)
          next.insert_or_assign(edge.to, Reach{width, Step{vertex, edge.to, edge.link, figure}});
      }
    }
    front.clear();
    for (const auto& [vertex, reach] : next) front.push_back(vertex);
    reached.merge(next);
  }
  const auto end = reached.find(to);
  if (end == reached.end()) return std::nullopt;
  Leg leg;
  bool has_pcie = false;
  for (auto at = end; at->second.last; at = reached.find(at->second.last->from)) {
    const auto& step = *at->second.last;
    const auto& link = index_->graph().links[step.link];
    narrow(leg.bandwidth, step.bandwidth);
    has_pcie = has_pcie || link.kind == LinkKind::pcie || link.kind == LinkKind::c2c ||
               link.kind == LinkKind::nvlink;
    if (link.kind == LinkKind::socket && link.latency_s) leg.latency_s += link.latency_s->value;
    leg.steps.push_back(step);
  }
  if (has_pcie) leg.latency_s += kPcieLatency;
  std::ranges::reverse(leg.steps);
  return with_model_rate(std::move(leg), from, to);
}

// Where the PCI tree does not tell how a GPU is connected, its model does.
Router::Leg Router::with_model_rate(Leg leg, Vertex from, Vertex to) const {
  for (const auto end : {from, to}) {
    const auto* component = index_->component(end);
    const auto* model = is_gpu(component) ? find_gpu_model(component->model) : nullptr;
    if (model == nullptr) continue;
    const auto knows = std::ranges::any_of(leg.steps, [&](const Step& step) {
      const auto kind = index_->graph().links[step.link].kind;
      return step.bandwidth && kind != LinkKind::memory && kind != LinkKind::socket;
    });
    const auto rate = pcie_bytes_per_s({static_cast<std::uint32_t>(model->pcie_generation), 16});
    if (!knows && rate) narrow(leg.bandwidth, Figure{*rate, Provenance::spec});
  }
  return leg;
}

std::optional<Router::Leg> Router::leg_to_nearest(Vertex device, ComponentKind kind) const {
  const auto node = index_->node_of(device);
  if (!node) return std::nullopt;
  std::optional<Leg> best;
  for (const auto vertex : index_->components_of(*node)) {
    if (index_->component(vertex)->kind != kind) continue;
    auto leg = local_leg(device, vertex);
    if (leg && (!best || leg->steps.size() < best->steps.size())) best = std::move(leg);
  }
  return best;
}

// Of the NICs with a network link, the one with the widest way from `device`, then the nearest.
std::optional<Vertex> Router::nearest_nic(Vertex device) const {
  const auto node = index_->node_of(device);
  if (!node) return std::nullopt;
  std::optional<Vertex> best;
  std::tuple<double, double> best_order;
  for (const auto vertex : index_->components_of(*node)) {
    const auto& component = *index_->component(vertex);
    if (component.kind != ComponentKind::nic || component.port_up == false) continue;
    if (std::ranges::none_of(index_->edges(vertex), [&](const Edge& edge) {
          return index_->link(edge).kind == LinkKind::network;
        }))
      continue;
    const auto leg = local_leg(device, vertex);
    const double hops = leg ? static_cast<double>(leg->steps.size()) : 1e9;
    double width = leg && leg->bandwidth ? leg->bandwidth->value : 0;
    if (component.port_bytes_per_s) width = std::min(width, *component.port_bytes_per_s);
    const std::tuple order(-width, hops);
    if (best && !(order < best_order)) continue;
    best = vertex;
    best_order = order;
  }
  return best;
}

Way Router::stay(Vertex device) const {
  Way way;
  const auto& component = *index_->component(device);
  way.latency = Figure{kLocalLatency, Provenance::spec};
  if (component.kind == ComponentKind::host) {
    way.path = "local host memory";
    for (const auto& edge : index_->edges(device))
      if (index_->link(edge).kind == LinkKind::memory)
        way.bandwidth = index_->link(edge).effective_bytes_per_s;
    return way;
  }
  way.path = "local VRAM";
  if (const auto* model = find_gpu_model(component.model))
    way.bandwidth = Figure{model->memory_bandwidth_bytes_per_s, Provenance::spec};
  return way;
}

std::optional<Way> Router::over_nvlink(Vertex a, Vertex b) const {
  Way way{Tier::island_peer, false, {}, {}, Figure{kPeerLatency, Provenance::spec}, "NVLink"};
  if (nvlinks_->is_switched(a, b)) {
    const auto up = nvlinks_->to_switches(a);
    const auto down = nvlinks_->to_switches(b);
    const auto up_rate = sum_of(*index_, up);
    const auto down_rate = sum_of(*index_, down);
    // Of switches side by side the first stands for all.
    way.steps.push_back({a, up.front().to, up.front().link, up_rate});
    auto into = std::ranges::find(down, up.front().to, &Edge::to);
    if (into == down.end()) into = down.begin();
    way.steps.push_back({into->to, b, into->link, down_rate});
    if (up_rate && down_rate)
      way.bandwidth = up_rate->value < down_rate->value ? up_rate : down_rate;
    return way;
  }
  const auto edges = nvlinks_->direct(a, b);
  if (!edges.empty()) {
    way.bandwidth = sum_of(*index_, edges);
    if (index_->link(edges.front()).kind == LinkKind::xgmi) way.path = "xGMI";
    way.steps.push_back({a, b, edges.front().link, way.bandwidth});
    return way;
  }
  return over_hive(a, b);
}

// Over the GPUs between two of one xGMI hive, fewest hops.
std::optional<Way> Router::over_hive(Vertex a, Vertex b) const {
  std::map<Vertex, Vertex> came_from{{a, a}};
  std::queue<Vertex> open({a});
  while (!open.empty() && !came_from.contains(b)) {
    const auto vertex = open.front();
    open.pop();
    for (const auto& edge : index_->edges(vertex)) {
      const auto& link = index_->link(edge);
      if (link.kind != LinkKind::xgmi || link.state == LinkState::down) continue;
      if (came_from.emplace(edge.to, vertex).second) open.push(edge.to);
    }
  }
  if (!came_from.contains(b)) return std::nullopt;
  Way way{Tier::island_peer, false, {}, {}, {}, "xGMI over others"};
  for (auto at = b; at != a; at = came_from.at(at)) {
    const auto edges = nvlinks_->direct(came_from.at(at), at);
    const auto rate = sum_of(*index_, edges);
    narrow(way.bandwidth, rate);
    way.steps.push_back({came_from.at(at), at, edges.front().link, rate});
  }
  std::ranges::reverse(way.steps);
  way.latency = Figure{kPeerLatency * static_cast<double>(way.steps.size()), Provenance::spec};
  return way;
}

std::optional<Way> Router::between_gpus(Vertex a, Vertex b) const {
  const auto sight = sight_between(*index_, *nvlinks_, a, b);
  if (!sight.sees) return staged(a, b);
  if (auto way = over_nvlink(a, b)) return way;
  if (!sight.is_way_known)
    return Way{Tier::island_peer, false, {}, {}, {}, "peer access, by a way that is not known"};
  auto leg = local_leg(a, b);
  if (!leg) return std::nullopt;
  return Way{Tier::island_peer,
             false,
             std::move(leg->steps),
             leg->bandwidth,
             Figure{kPeerLatency, Provenance::spec},
             "PCIe peer"};
}

// Down to the host and up again share its memory and root complex: half of the slower card's PCIe.
std::optional<Way> Router::staged(Vertex a, Vertex b) const {
  auto out = leg_to_nearest(a, ComponentKind::host);
  if (!out) out = leg_to_nearest(a, ComponentKind::cpu);
  if (!out) return std::nullopt;
  auto in = local_leg(out->steps.back().to, b);
  if (!in) return std::nullopt;
  Way way{Tier::host,
          true,
          std::move(out->steps),
          out->bandwidth,
          Figure{kStagedLatency, Provenance::spec},
          "PCIe, staged in host memory, PCIe"};
  way.steps.insert(way.steps.end(), in->steps.begin(), in->steps.end());
  narrow(way.bandwidth, in->bandwidth);
  if (way.bandwidth) way.bandwidth->value /= 2;
  return way;
}

std::optional<Way> Router::in_node(Vertex from, Vertex to) const {
  auto leg = local_leg(from, to);
  if (!leg) return std::nullopt;
  const bool from_gpu = is_gpu(index_->component(from));
  const bool to_gpu = is_gpu(index_->component(to));
  const auto has = [&](LinkKind kind) {
    return std::ranges::any_of(leg->steps, [&](const Step& step) {
      return index_->graph().links[step.link].kind == kind;
    });
  };
  const auto* by = has(LinkKind::pcie) ? "PCIe" : has(LinkKind::c2c) ? "C2C" : "NVLink";
  return Way{Tier::host,
             false,
             std::move(leg->steps),
             leg->bandwidth,
             Figure{leg->latency_s, Provenance::spec},
             from_gpu ? fmt::format("{} to host", by)
             : to_gpu ? fmt::format("{} from host", by)
                      : "between NUMA nodes"};
}

// From a device to the network: to its NIC, or to the node's root where no NIC is known.
Router::Leg Router::leg_to_network(Vertex device, std::optional<Vertex> nic) const {
  if (nic)
    if (auto leg = local_leg(device, *nic)) {
      if (const auto rate = index_->component(*nic)->port_bytes_per_s)
        narrow(leg->bandwidth, Figure{*rate, Provenance::sysfs});
      return *leg;
    }
  if (is_gpu(index_->component(device)))
    if (auto leg = leg_to_nearest(device, ComponentKind::cpu)) return *leg;
  return {};
}

std::optional<Way> Router::over_network(const Origin& origin, Vertex to) const {
  const auto from_node = index_->node_of(origin.from_);
  const auto to_node = index_->node_of(to);
  if (!from_node || !to_node) return std::nullopt;
  const auto from_name = index_->node_vertex(*from_node);
  const auto to_name = index_->node_vertex(*to_node);
  std::optional<NetworkSearch::Found> network;
  for (const auto& edge : index_->edges(from_name)) {
    const auto& link = index_->link(edge);
    if (edge.to != to_name || link.kind != LinkKind::network || link.state == LinkState::down)
      continue;
    network = NetworkSearch::Found{{{from_name, to_name, edge.link, link.effective_bytes_per_s}},
                                   link.effective_bytes_per_s,
                                   link.latency_s ? link.latency_s->value : 0};
    break;
  }
  if (!network) network = origin.network_->to(to_name);
  // Else over the target's own NICs, the one nearest to it first.
  std::vector<Vertex> nics;
  if (const auto nic = nearest_nic(to)) nics.push_back(*nic);
  for (const auto vertex : index_->components_of(*to_node))
    if (index_->component(vertex)->kind == ComponentKind::nic) nics.push_back(vertex);
  for (const auto nic : nics) {
    auto found = network ? std::nullopt : origin.network_->to(nic);
    if (found) network = std::move(found);
  }
  if (!network) return std::nullopt;
  const auto end_nic = [&](Vertex vertex) {
    const auto* component = index_->component(vertex);
    return component != nullptr && component->kind == ComponentKind::nic ? std::optional(vertex)
                                                                         : std::nullopt;
  };
  const auto out = leg_to_network(origin.from_, end_nic(network->steps.front().from));
  const auto in = leg_to_network(to, end_nic(network->steps.back().to));
  Way way{Tier::remote, false, out.steps, network->bandwidth, {}, {}};
  way.steps.insert(way.steps.end(), network->steps.begin(), network->steps.end());
  const auto back = reversed(in.steps);
  way.steps.insert(way.steps.end(), back.begin(), back.end());
  narrow(way.bandwidth, out.bandwidth);
  narrow(way.bandwidth, in.bandwidth);
  way.latency = Figure{out.latency_s + network->latency_s + in.latency_s, Provenance::spec};
  const auto hops = network->steps.size();
  way.path = fmt::format("{}network{}{}", is_gpu(index_->component(origin.from_)) ? "PCIe, " : "",
                         hops > 1 ? fmt::format(" ({} hops)", hops) : "",
                         is_gpu(index_->component(to)) ? ", PCIe" : "");
  return way;
}

std::optional<Way> Router::route(const Origin& origin, Vertex to) const {
  const auto from = origin.from_;
  if (from == to) return stay(from);
  const bool gpus = is_gpu(index_->component(from)) && is_gpu(index_->component(to));
  const bool same_node = index_->node_of(from) == index_->node_of(to);
  std::optional<Way> way;
  if (gpus && (same_node || nvlinks_->is_switched(from, to)))
    way = between_gpus(from, to);
  else
    way = same_node ? in_node(from, to) : over_network(origin, to);
  if (const auto* pair = index_->pair(from, to)) {
    if (!way && (pair->bandwidth_bytes_per_s || pair->staged_bytes_per_s)) {
      // Measured between devices of which no source tells how they are joined.
      way = Way{same_node ? Tier::host : Tier::remote, gpus && same_node, {}, {}, {}, "measured"};
    }
    if (!way) return way;
    if (way->is_staged && pair->staged_bytes_per_s)
      way->bandwidth = pair->staged_bytes_per_s;
    else if (pair->bandwidth_bytes_per_s)
      way->bandwidth = pair->bandwidth_bytes_per_s;
    if (pair->latency_s) way->latency = pair->latency_s;
  }
  return way;
}

std::optional<PathClass> Router::tree_class(Vertex a, Vertex b) const {
  const auto leg = local_leg(a, b);
  if (!leg) return std::nullopt;
  std::vector<const Component*> bridges;
  std::vector<const Component*> below_cpu;  // The bridges or devices right below a CPU.
  bool crosses_cpu = false;
  bool crosses_socket = false;
  bool is_from_sysfs = true;
  for (const auto& step : leg->steps) {
    const auto& link = index_->graph().links[step.link];
    const auto kind = link.kind;
    if (kind == LinkKind::pcie)
      is_from_sysfs = is_from_sysfs && link.provenance == Provenance::sysfs;
    if (kind == LinkKind::memory) return std::nullopt;
    crosses_socket = crosses_socket || kind == LinkKind::socket;
    const auto* to = index_->component(step.to);
    if (step.to != b && to->kind == ComponentKind::bridge) bridges.push_back(to);
    if (to->kind == ComponentKind::cpu) below_cpu.push_back(index_->component(step.from));
    if (index_->component(step.from)->kind == ComponentKind::cpu) below_cpu.push_back(to);
    crosses_cpu = crosses_cpu || (step.to != b && to->kind == ComponentKind::cpu);
  }
  if (crosses_socket) return PathClass::sys;
  const auto on_one_bus = [](const Component& one, const Component& other) {
    return !one.pci || !other.pci ||
           std::tie(one.pci->domain, one.pci->bus) == std::tie(other.pci->domain, other.pci->bus);
  };
  if (crosses_cpu) {
    // Root ports of one host bridge are on one bus. Only sysfs shows root ports: NCCL's files begin
    // below them, and clouds make bridges up.
    const bool one_bridge = !is_from_sysfs || on_one_bus(*below_cpu.front(), *below_cpu.back());
    return one_bridge ? PathClass::phb : PathClass::node;
  }
  // A switch shows as one bridge, or as its upstream port between two downstream ports, which are
  // on its one inner bus. In NCCL's files three bridges are three switches.
  const bool one_switch = bridges.size() <= 1 || (bridges.size() == 3 && leg->steps.size() == 4 &&
                                                  on_one_bus(*bridges.front(), *bridges.back()));
  return one_switch ? PathClass::pix : PathClass::pxb;
}

}  // namespace causeway
