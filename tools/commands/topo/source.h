// Which machine or cluster a `topo` command looks at: this machine, files, a cluster file, a pool.
//
// Errors:  usage (exit code 2) for two of them at once; what readers and pools throw.
// Threads: one thread.
#pragma once

#include <string>
#include <vector>

#include "causeway/topology.h"
#include "causeway/topology_import.h"
#include "tools/commands/command.h"

namespace causeway::tools {

struct TopoSource {
  std::vector<std::string> from;  // Files of other tools, merged.
  std::string format;
  std::string node;
  std::string cluster;
  bool pool = false;
  Connection connection;

  // True if nothing is named: the machine that this runs on.
  [[nodiscard]] bool is_self() const;
  [[nodiscard]] bool is_pool() const;
};

// `has_format`: the command has a --format of its own, so that of the files is --from-format alone.
void add_source_options(CLI::App& command, TopoSource& source, bool has_format = false);

[[nodiscard]] Topology load_topology(const TopoSource& source);
[[nodiscard]] TopologyGraph load_graph(const TopoSource& source);

// "self", a file of any format that import_topology() knows, or a built-in lab.
[[nodiscard]] TopologyGraph load_named(const std::string& name);

// The names that --format takes for files, with commas.
[[nodiscard]] std::string import_formats();
[[nodiscard]] ImportFormat parse_import_format(const std::string& text);

// The cores that this process may use: "0-23,48".
[[nodiscard]] std::string own_cores();

}  // namespace causeway::tools
