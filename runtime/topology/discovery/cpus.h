// CPUs and memory, one of each per NUMA node.
//
// Source:  sysfs alone: it gives NUMA nodes, their memory and CPUs and the kind of processor. hwloc
//          reads the same files and adds caches and packages, which nothing here asks for; it
//          judges the result in the tests.
// Unknown: a machine without NUMA in its kernel is one node, its memory that of /proc/meminfo.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/topology/discovery/file_tree.h"

namespace causeway {

struct NumaNode {
  std::uint32_t index = 0;
  std::string cpus;  // Empty: memory alone.
  std::optional<std::uint64_t> memory_bytes;
  std::map<std::uint32_t, std::uint64_t> distances;  // To other nodes by their index.
};

struct Processor {
  std::string title;
  std::string arch;
  std::string vendor;
  std::optional<std::uint32_t> family;
  std::optional<std::uint32_t> model;
  bool has_hypervisor = false;  // x86: the processor says that it is emulated.
};

[[nodiscard]] std::vector<NumaNode> read_numa(const FileTree& files);  // At least one, by index.
[[nodiscard]] Processor read_processor(const FileTree& files);
// "CPU affinity: this process may use 2 of 64 CPUs (0-1)"; empty if it may use all or none tells.
[[nodiscard]] std::string clipped_affinity(const FileTree& files);

}  // namespace causeway
