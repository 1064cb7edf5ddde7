// Changes a topology in thought: a wider slot, another card, one more node.
//
// Shape:   set     TARGET.FIELD=VALUE
//            a link      desktop/gpu0-desktop/cpu0.width=8      also generation, count, bandwidth,
//                        latency, state; where two kinds of link join the ends: nvlink:A-B.FIELD
//            a component desktop/gpu0.model=rtx-4090            also capacity, bar1, bandwidth (of
//            a
//                        port), up, mtu, is_rdma, gpu_direct, acs_redirect, is_chipset
//            a pair      desktop/gpu0>desktop/gpu1.granted=OK   also granted_read, granted_write,
//                        cuda_agrees, verified, path, bandwidth, staged, latency; "pair A>B
//                        FIELD=VALUE" is the same
//            a node      desktop.iommu=off                      also fabric, view
//          add     NAME=PART,...: 8xh100-sxm | host:1TB | link:PEER:100Gbit/s[:5us]
//          remove  a node, a component with all that hangs on it, or a link (A-B, nvlink:A-B)
//          A value may stand in double quotes. Nothing is changed where an error is thrown.
// Units:   as cluster files write them: "25 Gbit/s", "5 us", "64 GB".
// Derived: figures that follow from what was changed are computed anew, and those that were
//          measured over it are dropped. What is set has the provenance `spec`.
// Errors:  invalid_argument for a text of no such form, a field or a value that is not known;
//          not_found for a name that is not there; both name what is near. already_exists for a
//          node's name that is taken.
// Cost:    O(graph) each.
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <string>

#include "causeway/topology_graph.h"

namespace causeway {

struct WhatIf {
  enum class Kind : std::uint8_t { set, add_node, remove };
  Kind kind;
  std::string text;
};

void apply(TopologyGraph& graph, const WhatIf& change);

// All nodes of `other`, as of an imported file; its network switches are the same as those of the
// same name. Errors: already_exists for a node or component that both have.
void add_nodes(TopologyGraph& graph, const TopologyGraph& other);

}  // namespace causeway
