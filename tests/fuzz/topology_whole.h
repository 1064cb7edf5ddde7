// What whoever gets a graph from a reader or from merge() does next: check it, derive from it.
#pragma once

#include "causeway/topology.h"
#include "fuzz_target.h"
#include "runtime/topology/graph_check.h"

namespace causeway_fuzz {

// Without faults, so that it can be written; and every GPU and host memory has a device's name.
inline void check_whole(const causeway::TopologyGraph& graph) {
  if (const auto fault = causeway::fault_of(graph)) fail("a graph with a fault", *fault);
  try {
    (void)causeway::Topology(graph);
  } catch (const causeway::Error& error) {
    fail("no topology follows from the graph", error.what());
  }
}

}  // namespace causeway_fuzz
