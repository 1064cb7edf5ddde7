// What changed between two topologies: of one machine at two times, or of two that should be alike.
//
// Shape:   components are the same by UUID, else by node and PCI address, else by name; so a card
//          that was renumbered is one change of its name. What follows from another change is not
//          listed: the links of a component that is gone, the components of a node that is gone.
//          Order says nothing, nor do notes.
// Units:   figures are written with theirs, and with where they come from: "48 GB/s (sysfs)".
// Cost:    O(graph log graph).
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "causeway/topology_graph.h"

namespace causeway {

struct TopologyChange {
  enum class Kind : std::uint8_t { added, removed, changed };
  enum class Severity : std::uint8_t { neutral, better, worse };
  Kind kind;
  std::string what;    // "graph", "node hgx", "component hgx/gpu1", "pcie link A-B", "pair A>B"
  std::string field;   // "pcie.width"; empty of what was added or removed.
  std::string before;  // Empty of what was added.
  std::string after;
  Severity severity = Severity::neutral;
  bool operator==(const TopologyChange&) const = default;
};

struct DiffOptions {
  double measured_tolerance = 0.05;  // Measured figures that differ by at most this are equal.
};

// Empty if nothing changed. Names of what was there before are those it had before.
[[nodiscard]] std::vector<TopologyChange> diff(const TopologyGraph& before,
                                               const TopologyGraph& after,
                                               const DiffOptions& options = {});

[[nodiscard]] std::string_view to_string(TopologyChange::Kind value) noexcept;
[[nodiscard]] std::string_view to_string(TopologyChange::Severity value) noexcept;

}  // namespace causeway
