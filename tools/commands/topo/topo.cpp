// causeway topo: what a machine or cluster is made of, what follows, what is wrong with it.
#include "tools/commands/topo/commands.h"

namespace causeway::tools {

void add_topo(CLI::App& app, Shell& shell) {
  auto* topo = app.add_subcommand("topo", "What is joined to what, how fast, and what is wrong");
  topo->require_subcommand(1);
  topo->footer(std::string("Example:\n  causeway topo show\n  causeway topo show --cluster "
                           "desktop-and-hgx --view all\n\n") +
               kExitCodesText);
  for (const auto add :
       {add_topo_show, add_topo_islands, add_topo_path, add_topo_doctor, add_topo_diff,
        add_topo_whatif, add_topo_import, add_topo_export, add_topo_watch, add_topo_measure})
    add(*topo, shell);
}

}  // namespace causeway::tools
