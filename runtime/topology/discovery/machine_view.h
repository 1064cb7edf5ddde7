// How this process sees its machine: whole, from a virtual machine, from a container.
//
// Shape:   a container wins over the virtual machine that it may run in; `evidence` names both.
// Source:  the files that container engines leave, the processor's hypervisor bit, DMI.
// Unknown: where neither speaks and DMI is not there to be asked.
#pragma once

#include <string>
#include <vector>

#include "causeway/topology_graph.h"
#include "runtime/topology/discovery/cpus.h"
#include "runtime/topology/discovery/file_tree.h"

namespace causeway {

struct ViewFacts {
  MachineView view = MachineView::unknown;
  bool is_virtual = false;            // Also where `view` is container.
  std::vector<std::string> evidence;  // "/.dockerenv is there"
};

[[nodiscard]] ViewFacts read_view(const FileTree& files, const Processor& processor);

}  // namespace causeway
