// Widest paths over the network links of a graph, and of several such the quickest.
//
// Unknown: a link of unknown rate counts as wide as any; a path of such links only has no rate.
// Cost:    O(links log links) to build, and again for each different width that to() meets.
// Threads: one; to() remembers what it found.
#pragma once

#include <limits>
#include <optional>
#include <unordered_map>
#include <vector>

#include "runtime/topology/router.h"

namespace causeway {

class Router::NetworkSearch {
 public:
  struct Found {
    std::vector<Step> steps;
    std::optional<Figure> bandwidth;
    double latency_s = 0;
  };

  NetworkSearch(const GraphIndex& index, const std::vector<Vertex>& sources);
  // nullopt if no links lead there.
  [[nodiscard]] std::optional<Found> to(Vertex target) const;

 private:
  struct Reach {
    double width = std::numeric_limits<double>::infinity();
    double latency_s = 0;
    std::uint32_t hops = 0;
    std::optional<Step> last;  // nullopt at a source.
  };
  using Reached = std::unordered_map<Vertex, Reach>;

  template <typename Before>
  [[nodiscard]] Reached search(double floor, Before before) const;

  const GraphIndex* index_;
  std::vector<Vertex> sources_;
  Reached widest_;
  // By width, filled by to() as it is asked: a network may have as many widths as links.
  mutable std::unordered_map<double, Reached> quickest_;
};

}  // namespace causeway
