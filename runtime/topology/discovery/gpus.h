// Joins what sysfs and NVML say of the GPUs: one list, in the order of their numbers.
//
// Shape:   number i is NVML's GPU i. Behind these come the GPUs that NVML does not know (AMD's, or
//          bound to another driver) by PCI address; without NVML all of them.
// Errors:  none. A GPU that NVML counts and gives no handle for (it is lost) takes the place that
//          is left over in sysfs. One that the driver holds and keeps from this process (a
//          container's share) is left out, and `unseen` says so.
// Threads: pure functions.
#pragma once

#include <string>
#include <vector>

#include "causeway/topology_graph.h"
#include "runtime/topology/discovery/nvml.h"
#include "runtime/topology/discovery/pci.h"

namespace causeway {

struct GpuSource {
  const PciDevice* place = nullptr;  // nullptr: sysfs does not show it.
  const NvmlGpu* driver = nullptr;   // nullptr: NVML knows nothing of it.
};

// `report` may be nullptr.
[[nodiscard]] std::vector<GpuSource> join_gpus(const PciTree& tree, const NvmlReport* report,
                                               std::vector<std::string>& unseen);

// The component of gpus[index]; `prefix` is "NODE/".
[[nodiscard]] Component gpu_component(const GpuSource& gpu, const std::string& prefix,
                                      std::size_t index);

// Adds NVLinks, the switches that the driver hides, C2C links and what peer access is granted.
// Components of the GPUs, CPUs and visible switches are there; GPUs are named by their index.
void add_nvml_links(const std::vector<GpuSource>& gpus, const NvmlReport& report,
                    const std::string& prefix, TopologyGraph& graph, TopologyNode& node);

// Versions and the fabric.
void add_driver_facts(const NvmlReport& report, TopologyNode& node);

}  // namespace causeway
