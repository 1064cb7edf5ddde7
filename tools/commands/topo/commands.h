// The subcommands of `causeway topo`, each in a file of its own.
#pragma once

#include <string>
#include <vector>

#include "causeway/topology.h"
#include "causeway/topology_diff.h"
#include "causeway/topology_doctor.h"
#include "tools/commands/command.h"

namespace causeway::tools {

void add_topo_show(CLI::App& topo, Shell& shell);
void add_topo_islands(CLI::App& topo, Shell& shell);
void add_topo_path(CLI::App& topo, Shell& shell);
void add_topo_doctor(CLI::App& topo, Shell& shell);
void add_topo_diff(CLI::App& topo, Shell& shell);
void add_topo_whatif(CLI::App& topo, Shell& shell);
void add_topo_import(CLI::App& topo, Shell& shell);
void add_topo_export(CLI::App& topo, Shell& shell);
void add_topo_watch(CLI::App& topo, Shell& shell);
void add_topo_measure(CLI::App& topo, Shell& shell);

// The view of that name, or the ones that fit the size if it is empty; then the notes.
[[nodiscard]] std::string views_text(const Topology& topology, const std::string& view);
[[nodiscard]] std::string changes_text(const std::vector<TopologyChange>& changes);
[[nodiscard]] std::string diagnosis_text(const Diagnosis& diagnosis);

}  // namespace causeway::tools
