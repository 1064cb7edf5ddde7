#include "tools/commands/topo/source.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <filesystem>

#include "causeway/topology_discovery.h"
#include "tools/lab.h"

namespace causeway::tools {

bool TopoSource::is_pool() const {
  return pool || !connection.lab.empty() || !connection.socket.empty() ||
         !connection.address.empty();
}

bool TopoSource::is_self() const { return from.empty() && cluster.empty() && !is_pool(); }

void add_source_options(CLI::App& command, TopoSource& source, bool has_format) {
  const std::string group = "What to look at (nothing given: this machine)";
  command
      .add_option("--from", source.from,
                  "A file that another tool or `topo export` wrote; several are merged")
      ->type_name("FILE")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->group(group);
  command
      .add_option(has_format ? "--from-format" : "--format,--from-format", source.format,
                  "Of the files, if it is not seen from the text")
      ->type_name("FORMAT")
      ->group(group);
  command.add_option("--node", source.node, "What to call the machine that a file describes")
      ->type_name("NAME")
      ->group(group);
  command.add_option("--cluster", source.cluster, "A cluster file or built-in lab")
      ->type_name("FILE")
      ->group(group);
  command.add_flag("--pool", source.pool, "The pool of `causeway up`")->group(group);
  add_connection_options(command, source.connection);
  for (const char* name : {"--lab", "--socket", "--address", "--token-file"})
    command.get_option(name)->group(group);
  command.parse_complete_callback([&source, has_format]() {
    std::vector<std::string> named;
    if (!source.from.empty()) named.emplace_back("--from");
    if (!source.cluster.empty()) named.emplace_back("--cluster");
    if (source.pool) named.emplace_back("--pool");
    if (!source.connection.lab.empty()) named.emplace_back("--lab");
    if (!source.connection.socket.empty()) named.emplace_back("--socket");
    if (!source.connection.address.empty()) named.emplace_back("--address");
    if (named.size() > 1)
      throw CLI::ValidationError(
          named[0], fmt::format("look at one thing at a time: give {} or {}, not both (several "
                                "files: --from A --from B)",
                                named[0], named[1]));
    if (source.from.empty() && (!source.format.empty() || !source.node.empty()))
      throw CLI::ValidationError(source.format.empty() ? "--node"
                                 : has_format          ? "--from-format"
                                                       : "--format",
                                 "says what a file is; name the file with --from");
  });
}

std::string import_formats() {
  std::string text;
  for (std::uint8_t i = 0; i < 64; ++i) {
    const auto name = to_string(static_cast<ImportFormat>(i));
    if (name.empty()) break;
    text += fmt::format("{}{}", text.empty() ? "" : ", ", name);
  }
  return text;
}

ImportFormat parse_import_format(const std::string& text) {
  if (text.empty()) return ImportFormat::automatic;
  for (std::uint8_t i = 0; i < 64; ++i) {
    const auto format = static_cast<ImportFormat>(i);
    if (to_string(format).empty()) break;
    if (to_string(format) == text) return format;
  }
  throw Error(Errc::invalid_argument,
              fmt::format("format {}: write one of {}", text, import_formats()));
}

TopologyGraph load_named(const std::string& name) {
  if (name == "self") return discover();
  std::error_code error;
  if (std::filesystem::exists(name, error)) return import_topology_file(name);
  const auto labs = builtin_labs();
  if (std::ranges::find(labs, name, &BuiltinLab::name) != labs.end())
    return graph_of_cluster(load_cluster(name));
  throw Error(Errc::not_found,
              fmt::format("'{}' is no file and no built-in lab; write `self` for this machine, or "
                          "a file: causeway topo export -o FILE makes one",
                          name));
}

TopologyGraph load_graph(const TopoSource& source) {
  if (!source.cluster.empty()) return graph_of_cluster(load_cluster(source.cluster));
  if (source.is_pool()) return connect_pool(source.connection).topology().graph();
  if (source.is_self()) return discover();
  ImportOptions options;
  options.format = parse_import_format(source.format);
  options.node = source.node;
  std::vector<TopologyGraph> graphs;
  for (const auto& file : source.from) graphs.push_back(import_topology_file(file, options));
  return graphs.size() == 1 ? std::move(graphs.front()) : merge(graphs);
}

Topology load_topology(const TopoSource& source) {
  // A pool's topology also knows what is lent.
  if (source.is_pool()) return connect_pool(source.connection).topology();
  return Topology(load_graph(source));
}

std::string own_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) != 0) return "";  // More than 1,024 of them.
  std::string text;
  for (std::size_t first = 0; first < CPU_SETSIZE; ++first) {
    if (!CPU_ISSET(first, &set)) continue;
    auto last = first;
    while (last + 1 < CPU_SETSIZE && CPU_ISSET(last + 1, &set)) ++last;
    text += fmt::format("{}{}", text.empty() ? "" : ",", first);
    if (last > first) text += fmt::format("-{}", last);
    first = last;
  }
  return text;
}

}  // namespace causeway::tools
