// What sysfs says of the ports of one network device.
//
// Shape:   one component a port. With RDMA the ports are those of the InfiniBand device, each with
//          the network interface of the same port; else one an interface. A device without either
//          (its driver is not bound, or another network namespace has it) is one NIC of its
//          address.
// Unknown: the rate of a port that is down, or of a virtual one.
// Cost:    some fifteen files a port.
#pragma once

#include <vector>

#include "causeway/topology_graph.h"
#include "runtime/topology/discovery/file_tree.h"
#include "runtime/topology/discovery/pci.h"

namespace causeway {

// Names, nodes and what follows from PCI are the caller's to fill.
[[nodiscard]] std::vector<Component> read_nic_ports(const FileTree& files, const PciDevice& device);

}  // namespace causeway
