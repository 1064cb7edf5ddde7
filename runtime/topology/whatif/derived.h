// What follows from a part of a graph, and is wrong once the part is changed.
//
// Threads: free functions on one graph.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "causeway/gpu_catalogue.h"
#include "causeway/topology_graph.h"

namespace causeway::whatif {

// Computes the figures of graph.links[index] anew from its kind, count, mode and ends.
void derive_rates(TopologyGraph& graph, std::size_t index);

// Drops the figures of those pairs that were measured over this link.
void forget_measurements(TopologyGraph& graph, const TopologyLink& link);

// The components that hang on graph.components[index], itself among them: what is below it on PCIe,
// and of a CPU its memory. By index.
[[nodiscard]] std::vector<bool> hanging_on(const TopologyGraph& graph, std::size_t index);

// Compute capability of a catalogue model.
[[nodiscard]] std::optional<std::uint32_t> sm_of_model(std::string_view model) noexcept;
// NVLinks that a card of this model has, which may be fewer than its chip has; 0 for none.
[[nodiscard]] std::uint32_t nvlinks_of_model(const GpuModel& model) noexcept;

}  // namespace causeway::whatif
