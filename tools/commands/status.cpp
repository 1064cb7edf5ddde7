// causeway status: devices with their fill, clients, and what moved over which route.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>

#include <array>
#include <map>
#include <memory>

#include "causeway/cluster.h"
#include "tools/base/interrupt.h"
#include "tools/base/terminal.h"
#include "tools/commands/command.h"

namespace causeway::tools {

namespace {

struct StatusOptions {
  Connection connection;
  bool watch = false;
  double interval_s = 1.0;
};

double share(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

std::string device_table(const PoolStatus& status) {
  Table table({{"DEVICE"}, {"MODEL", false, true}, {"KIND"}, {"MEMORY"}, {"USED", true}, {"NODE"}});
  std::uint64_t used = 0;
  std::uint64_t capacity = 0;
  const auto add = [&](const Cell& name, const std::string& model, const std::string& kind,
                       std::uint64_t part, std::uint64_t whole, const Cell& node) {
    const auto fraction = share(part, whole);
    table.add({name,
               {model},
               {kind},
               {bar(fraction, 16), fill_colour(fraction)},
               {format_share(part, whole)},
               node});
  };
  for (const auto& node : status.nodes)
    for (const auto& device : node.devices) {
      add({device.name.to_string()}, model_title(device.model), device.kind, device.used_bytes,
          device.capacity_bytes,
          node.alive ? Cell{"alive", Colour::green} : Cell{"lost", Colour::red});
      used += device.used_bytes;
      capacity += device.capacity_bytes;
    }
  add({"pool", Colour::bold}, "", "", used, capacity, {});
  return table.to_string();
}

std::string route_table(const PoolStatus& status) {
  // Every daemon tells what it served, so one way may come from both of its ends.
  std::map<std::array<std::string, 3>, std::uint64_t> moved;
  for (const auto& route : status.routes)
    moved[{route.from, route.to, route.transport}] += route.bytes;
  Table table({{"FROM"}, {"TO"}, {"BY"}, {"MOVED", true}});
  for (const auto& [way, bytes] : moved)
    table.add({{way[0]}, {way[1]}, {way[2]}, {format_bytes(bytes)}});
  return table.empty() ? "" : "\n" + table.to_string();
}

std::string gpu_lines(const PoolStatus& status) {
  std::string text;
  for (const auto& node : status.nodes)
    for (const auto& line : node.gpu_report)
      text += fmt::format("{}{}: {}\n", text.empty() ? "\n" : "", node.name, line);
  return text;
}

std::string render(const PoolStatus& status) {
  return device_table(status) + gpu_lines(status) + route_table(status) +
         fmt::format(
             "\n{} nodes, directory on {}, {} regions, {} clients{}\n", status.nodes.size(),
             status.directory_node, status.regions.size(), status.clients.size(),
             status.clients.empty() ? "" : fmt::format(": {}", fmt::join(status.clients, ", ")));
}

int run_status(const StatusOptions& options, bool json) {
  auto pool = connect_pool(options.connection);
  for (;;) {
    const auto status = pool.status();
    // Home, then each line cleared to its end, then all below: redraws without a flicker.
    std::string text = json ? status.to_json() + "\n" : render(status);
    if (options.watch && !json && is_terminal(1)) {
      std::string drawn = "\033[H";
      for (const char c : text) drawn += c == '\n' ? std::string("\033[K\n") : std::string(1, c);
      text = drawn + "\033[J";
    }
    std::fputs(text.c_str(), stdout);
    std::fflush(stdout);
    if (!options.watch || std::ferror(stdout) != 0) return kExitOk;
    ::poll(nullptr, 0, static_cast<int>(options.interval_s * 1000));
    if (is_interrupted()) return kExitOk;
  }
}

}  // namespace

void add_status(CLI::App& app, Shell& shell) {
  auto options = std::make_shared<StatusOptions>();
  auto* command = add_command(app, shell, "status", "Memory, clients and routes of the pool",
                              "causeway status --watch --lab desktop-and-hgx",
                              [options, &shell]() { return run_status(*options, shell.json); });
  command->add_flag("--watch", options->watch, "Show again every second until Ctrl-C");
  command->add_option("--interval", options->interval_s, "Seconds between two views")
      ->type_name("S")
      ->check(CLI::Range(0.05, 3600.0));
  add_connection_options(*command, options->connection);
}

}  // namespace causeway::tools
