// causeway regions: who holds which bytes, and where.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <boost/json.hpp>
#include <memory>

#include "causeway/cluster.h"
#include "tools/base/terminal.h"
#include "tools/commands/command.h"

namespace causeway::tools {

namespace {

std::string extents_text(const RegionStatus& region) {
  std::vector<std::string> parts;
  for (const auto& extent : region.extents)
    parts.push_back(extent.device.to_string() + " " + format_bytes(extent.size_bytes));
  return fmt::format("{}", fmt::join(parts, " + "));
}

void print_json(const PoolStatus& status) {
  auto all = boost::json::parse(status.to_json());
  boost::json::object only;
  only["regions"] = std::move(all.as_object()["regions"]);
  fmt::print("{}\n", boost::json::serialize(only));
}

int run_regions(const Connection& connection, bool json) {
  auto pool = connect_pool(connection);
  const auto status = pool.status();
  if (json) {
    print_json(status);
    return kExitOk;
  }
  if (status.regions.empty()) {
    fmt::print("The pool holds no regions.\n");
    return kExitOk;
  }
  Table table({{"ID", true},
               {"NAME", false, true},
               {"CLIENT", false, true},
               {"SIZE", true},
               {"WHERE", false, true}});
  for (const auto& region : status.regions)
    table.add({{std::to_string(region.id)},
               {region.name},
               {region.client},
               {format_bytes(region.size_bytes)},
               {extents_text(region)}});
  fmt::print("{}", table.to_string());
  return kExitOk;
}

}  // namespace

void add_regions(CLI::App& app, Shell& shell) {
  auto connection = std::make_shared<Connection>();
  auto* command = add_command(app, shell, "regions", "The regions of the pool and their extents",
                              "causeway regions --lab desktop-and-hgx", [connection, &shell]() {
                                return run_regions(*connection, shell.json);
                              });
  add_connection_options(*command, *connection);
}

}  // namespace causeway::tools
