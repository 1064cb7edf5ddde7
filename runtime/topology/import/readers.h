// The readers behind import_topology(), one per format. See topology_import.h for what each may
// throw; `node` is the name of the machine where a text describes one.
//
// Threads: pure functions.
#pragma once

#include <string>
#include <string_view>

#include "causeway/topology_import.h"

namespace causeway {

[[nodiscard]] TopologyGraph read_nccl_xml(std::string_view text, const std::string& origin,
                                          const std::string& node);
[[nodiscard]] TopologyGraph read_hwloc_xml(std::string_view text, const std::string& origin,
                                           const std::string& node);
[[nodiscard]] TopologyGraph read_smi_topo(std::string_view text, const std::string& origin,
                                          const std::string& node);
[[nodiscard]] TopologyGraph read_smi_p2p(std::string_view text, const std::string& origin,
                                         const std::string& node);
[[nodiscard]] TopologyGraph read_smi_nvlink(std::string_view text, const std::string& origin,
                                            const std::string& node);
[[nodiscard]] TopologyGraph read_nvbandwidth(std::string_view text, const std::string& origin,
                                             const std::string& node);
[[nodiscard]] TopologyGraph read_p2p_test(std::string_view text, const std::string& origin,
                                          const std::string& node);
[[nodiscard]] TopologyGraph read_ibnetdiscover(std::string_view text, const std::string& origin);
[[nodiscard]] TopologyGraph read_transfer_table(std::string_view text, const std::string& origin);

}  // namespace causeway
