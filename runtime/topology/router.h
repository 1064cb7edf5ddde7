// The way between two devices of a graph.
//
// Shape:   inside a node, the fewest hops through the PCI tree; between nodes from the NIC nearest
// to
//          each end, over the widest path of network links and of several such the quickest. A link
//          declared between two nodes is taken as it is. Bytes never pass through another GPU, but
//          for xGMI, nor through a NIC that is not an end's.
// Unknown: a hop of unknown rate does not narrow a path; a path of unknown hops only has no rate.
// Cost:    route() O(links of the nodes crossed); a NetworkSearch O(network log network), once per
//          origin.
// Threads: read-only once built.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "causeway/topology.h"
#include "runtime/topology/graph_index.h"
#include "runtime/topology/islands.h"

namespace causeway {

struct Step {
  Vertex from;
  Vertex to;
  std::uint32_t link;
  std::optional<Figure> bandwidth;  // Of all parallel links that the route uses here.
};

struct Way {
  Tier tier = Tier::local;
  bool is_staged = false;
  std::vector<Step> steps;
  std::optional<Figure> bandwidth;
  std::optional<Figure> latency;
  std::string path;
};

class Router {
 public:
  Router(const GraphIndex& index, const NvlinkMap& nvlinks) noexcept;

  // The widest paths over the network from one NIC and its node's name.
  class NetworkSearch;
  // What may be kept between calls of route() with one `from`.
  class Origin {
   public:
    Origin(const Router& router, Vertex from);
    ~Origin();
    Origin(Origin&&) noexcept;

   private:
    friend class Router;
    Vertex from_;
    std::optional<Vertex> nic_;  // nullopt: the node knows none that is wired.
    std::unique_ptr<NetworkSearch> network_;
  };

  [[nodiscard]] std::optional<Way> route(const Origin& origin, Vertex to) const;
  // By the PCI tree alone; nullopt if it does not join the two.
  [[nodiscard]] std::optional<PathClass> tree_class(Vertex a, Vertex b) const;

 private:
  struct Leg {
    std::vector<Step> steps;
    std::optional<Figure> bandwidth;
    double latency_s = 0;
  };

  [[nodiscard]] std::optional<Leg> local_leg(Vertex from, Vertex to) const;
  [[nodiscard]] std::optional<Leg> leg_to_nearest(Vertex device, ComponentKind kind) const;
  [[nodiscard]] Leg with_model_rate(Leg leg, Vertex from, Vertex to) const;
  [[nodiscard]] std::optional<Vertex> nearest_nic(Vertex device) const;
  [[nodiscard]] Way stay(Vertex device) const;
  [[nodiscard]] std::optional<Way> between_gpus(Vertex a, Vertex b) const;
  [[nodiscard]] std::optional<Way> over_nvlink(Vertex a, Vertex b) const;
  [[nodiscard]] std::optional<Way> over_hive(Vertex a, Vertex b) const;
  [[nodiscard]] std::optional<Way> staged(Vertex a, Vertex b) const;
  [[nodiscard]] std::optional<Way> in_node(Vertex from, Vertex to) const;
  [[nodiscard]] std::optional<Way> over_network(const Origin& origin, Vertex to) const;
  [[nodiscard]] Leg leg_to_network(Vertex device, std::optional<Vertex> nic) const;

  const GraphIndex* index_;
  const NvlinkMap* nvlinks_;
};

}  // namespace causeway
