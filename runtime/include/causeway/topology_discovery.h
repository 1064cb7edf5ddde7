// Looks at the machine that runs this and says what it is made of: GPUs, NICs, NVSwitches, the PCI
// ports above them, CPUs and their memory.
//
// Shape:   sysfs is the truth for PCI, NUMA and NICs; NVML for NVLink, peer access and the fabric.
//          Both are joined by PCI address. A GPU's number is NVML's index, without NVML its place
//          in the order of PCI addresses. Of PCI bridges only those above a device are kept.
// Errors:  none for what a machine does not show: that stays unknown, and `unseen` of the node
//          says what and why. invalid_argument for a node name that is none.
// Cost:    a few hundred small reads and one fork(): about 5 ms without a GPU. NVML's share is the
//          driver's, at most `nvml_timeout`.
// Threads: any. NVML runs in a child process, so that a driver that hangs or crashes ends that
//          child and not the caller; the caller sees a SIGCHLD. No CUDA context is made, and this
//          process loads no library of the driver.
#pragma once

#include <chrono>
#include <string>

#include "causeway/topology_graph.h"

namespace causeway {

struct DiscoveryOptions {
  std::string node = {};         // Empty: the host's name.
  std::string sysfs_root = "/";  // The folder that holds sys/ and proc/.
  bool use_nvml = true;
  std::string nvml_library = "libnvidia-ml.so.1";
  std::chrono::milliseconds nvml_timeout{20'000};  // Waking eight GPUs takes some seconds.
};

// One node. Every link has the figures that fill_rates() knows.
[[nodiscard]] TopologyGraph discover(const DiscoveryOptions& options = {});

}  // namespace causeway
