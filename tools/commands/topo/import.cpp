// causeway topo import and export: between the formats of other tools and the project's own.
#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <memory>

#include "causeway/topology_export.h"
#include "tools/base/files.h"
#include "tools/base/graphviz.h"
#include "tools/base/terminal.h"
#include "tools/commands/topo/commands.h"
#include "tools/commands/topo/source.h"
#include "tools/commands/topo/text.h"

namespace causeway::tools {

namespace {

struct ImportCommand {
  TopoSource source;
  std::string output;
};

struct ExportCommand {
  TopoSource source;
  std::string format = "json";
  std::string output;
  std::string of_node;
};

std::string contents_of(const TopologyGraph& graph) {
  const auto count = [&](ComponentKind kind) {
    return static_cast<std::size_t>(std::ranges::count(graph.components, kind, &Component::kind));
  };
  auto text = counted(graph.nodes.size(), "node");
  for (const auto& [kind, one, many] :
       {std::tuple(ComponentKind::gpu, "GPU", "GPUs"),
        std::tuple(ComponentKind::nic, "NIC", "NICs"),
        std::tuple(ComponentKind::nvswitch, "NVSwitch", "NVSwitches"),
        std::tuple(ComponentKind::network_switch, "network switch", "network switches")})
    if (const auto number = count(kind); number > 0) text += ", " + counted(number, one, many);
  text += ", " + counted(graph.links.size(), "link");
  if (!graph.pairs.empty()) text += ", " + counted(graph.pairs.size(), "pair");
  return text;
}

void print_notes(const TopologyGraph& graph) {
  for (const auto& note : graph.notes)
    fmt::print(stderr, "{}: {}: {}\n", note.source, to_string(note.kind), note.text);
}

int run_import(const ImportCommand& command, bool json) {
  const auto graph = load_graph(command.source);
  const auto text = graph_to_json(graph);
  print_notes(graph);
  if (command.output.empty()) {
    fmt::print("{}", text);
    return kExitOk;
  }
  write_file(command.output, text);
  if (json)
    fmt::print("{}\n",
               boost::json::serialize(boost::json::object{{"file", command.output},
                                                          {"nodes", graph.nodes.size()},
                                                          {"components", graph.components.size()},
                                                          {"links", graph.links.size()},
                                                          {"pairs", graph.pairs.size()},
                                                          {"notes", graph.notes.size()}}));
  else
    fmt::print("{}: {}{}\n", command.output, contents_of(graph),
               graph.notes.empty() ? "" : "; " + counted(graph.notes.size(), "note"));
  return kExitOk;
}

// NCCL's file is of one node.
std::string nccl_node(const TopologyGraph& graph, const std::string& asked) {
  if (!asked.empty()) {
    if (graph.find_node(asked) != nullptr) return asked;
    throw Error(Errc::not_found, fmt::format("there is no node '{}' to export", asked));
  }
  if (graph.nodes.size() == 1) return graph.nodes.front().name;
  throw Error(Errc::invalid_argument,
              fmt::format("NCCL's file is of one node, and here are {}: name one with --of-node",
                          counted(graph.nodes.size())));
}

std::string exported(const TopologyGraph& graph, const ExportCommand& command) {
  if (command.format == "yaml") return graph_to_cluster(graph).to_yaml();
  if (command.format == "dot") return graph_to_dot(graph);
  if (command.format == "svg") return dot_to_svg(graph_to_dot(graph));
  if (command.format == "nccl") return graph_to_nccl_xml(graph, nccl_node(graph, command.of_node));
  if (command.format == "slurm") return graph_to_slurm(graph);
  return graph_to_json(graph);
}

int run_export(const ExportCommand& command, bool json) {
  const auto text = exported(load_graph(command.source), command);
  if (!command.output.empty()) write_file(command.output, text);
  if (json)
    fmt::print("{}\n", boost::json::serialize(
                           command.output.empty()
                               ? boost::json::object{{"format", command.format}, {"text", text}}
                               : boost::json::object{{"format", command.format},
                                                     {"file", command.output},
                                                     {"bytes", text.size()}}));
  else if (command.output.empty())
    fmt::print("{}{}", text, text.ends_with('\n') ? "" : "\n");
  else
    fmt::print("{}: {} bytes of {}\n", command.output, counted(text.size()), command.format);
  return kExitOk;
}

}  // namespace

void add_topo_import(CLI::App& topo, Shell& shell) {
  auto command = std::make_shared<ImportCommand>();
  auto* import = add_command(topo, shell, "import", "Read what other tools say, and merge it",
                             "causeway topo import dump.xml topo.txt -o node.json",
                             [command, &shell]() { return run_import(*command, shell.json); });
  import->add_option("FILES", command->source.from, "What the tools wrote about the same machines")
      ->required()
      ->type_name("FILE");
  import
      ->add_option("--format", command->source.format,
                   "If it is not seen from the text: " + import_formats())
      ->type_name("FORMAT");
  import->add_option("--node", command->source.node, "What to call the machine")->type_name("NAME");
  import->add_option("-o,--output", command->output, "Write there instead of printing the JSON")
      ->type_name("FILE");
}

void add_topo_export(CLI::App& topo, Shell& shell) {
  auto command = std::make_shared<ExportCommand>();
  auto* exporter =
      add_command(topo, shell, "export", "Write for other tools, or draw",
                  "causeway topo export --format svg -o pool.svg --cluster desktop-and-hgx",
                  [command, &shell]() { return run_export(*command, shell.json); });
  exporter
      ->add_option("--format", command->format,
                   "json, yaml (a cluster file), dot, svg, nccl (NCCL_TOPO_FILE) or slurm")
      ->check(CLI::IsMember({"json", "yaml", "dot", "svg", "nccl", "slurm"}))
      ->type_name("FORMAT");
  exporter->add_option("--of-node", command->of_node, "Which node, for nccl")->type_name("NODE");
  exporter->add_option("-o,--output", command->output, "Write there instead of printing")
      ->type_name("FILE");
  add_source_options(*exporter, command->source, true);
}

}  // namespace causeway::tools
