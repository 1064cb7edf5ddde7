// causeway topo diff and watch: what changed between two topologies, or as time goes on.
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <memory>

#include "causeway/topology_diff.h"
#include "tools/base/interrupt.h"
#include "tools/commands/topo/commands.h"
#include "tools/commands/topo/source.h"
#include "tools/commands/topo/text.h"

namespace causeway::tools {

namespace {

constexpr const char* kDiffExitCodes =
    "Exit codes: 0 equal, 1 different, 2 usage, 5 could not compare.";

struct DiffCommand {
  std::string before;
  std::string after;
  double tolerance_percent = 5;
};

struct WatchCommand {
  TopoSource source;
  double interval_s = 2;
  std::size_t count = 0;  // 0: until Ctrl-C.
};

Colour colour_of(const TopologyChange& change) {
  switch (change.severity) {
    case TopologyChange::Severity::worse:
      return Colour::red;
    case TopologyChange::Severity::better:
      return Colour::green;
    case TopologyChange::Severity::neutral:
      break;
  }
  return Colour::none;
}

std::string_view sign_of(const TopologyChange& change) {
  switch (change.kind) {
    case TopologyChange::Kind::added:
      return "+";
    case TopologyChange::Kind::removed:
      return "-";
    case TopologyChange::Kind::changed:
      break;
  }
  return "~";
}

boost::json::object to_json(const TopologyChange& change) {
  return {{"kind", to_string(change.kind)}, {"what", change.what},
          {"field", change.field},          {"before", change.before},
          {"after", change.after},          {"severity", to_string(change.severity)}};
}

std::string values_of(const TopologyChange& change) {
  if (change.kind == TopologyChange::Kind::added) return change.after;
  if (change.kind == TopologyChange::Kind::removed) return change.before;
  const auto shown = [](const std::string& value) { return value.empty() ? "?" : value; };
  return fmt::format("{} {} {}", shown(change.before), arrow(), shown(change.after));
}

int run_diff(const DiffCommand& command, bool json) {
  const auto before = load_named(command.before);
  const auto after = load_named(command.after);
  const auto changes = diff(before, after, {.measured_tolerance = command.tolerance_percent / 100});
  if (json) {
    boost::json::array list;
    for (const auto& change : changes) list.push_back(to_json(change));
    fmt::print("{}\n", boost::json::serialize(boost::json::object{{"equal", changes.empty()},
                                                                  {"changes", std::move(list)}}));
  } else if (changes.empty()) {
    fmt::print("no difference\n");
  } else {
    fmt::print("{}{}", changes_text(changes),
               wrapped(fmt::format("{} from {} to {}", counted(changes.size(), "difference"),
                                   command.before, command.after),
                       0));
  }
  return changes.empty() ? 0 : 1;
}

std::string clock_text() {
  const auto now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm local{};
  ::localtime_r(&now, &local);
  return fmt::format("{:%Y-%m-%d %H:%M:%S}", local);
}

void print_change(const TopologyChange& change, bool json) {
  if (json) {
    auto value = to_json(change);
    value["time"] = clock_text();
    fmt::print("{}\n", boost::json::serialize(value));
    return;
  }
  const auto text = fmt::format("{} {}{}{}  {}", sign_of(change), change.what,
                                change.field.empty() ? "" : " ", change.field, values_of(change));
  fmt::print("{}  {}\n", coloured(Colour::dim, clock_text()), coloured(colour_of(change), text));
}

// False if an interrupt ended the wait.
bool wait_for(std::chrono::duration<double> time) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + time;
  while (!is_interrupted() && Clock::now() < end) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
    ::poll(nullptr, 0, static_cast<int>(std::clamp<std::int64_t>(left.count(), 1, 200)));
  }
  return !is_interrupted();
}

int run_watch(const WatchCommand& command, bool json) {
  auto known = load_graph(command.source);
  if (!json) {
    const Topology topology(known);
    fmt::print("{}  {}, {}; prints what changes, until Ctrl-C\n",
               coloured(Colour::dim, clock_text()), counted(known.nodes.size(), "node"),
               counted(topology.devices().size(), "device"));
  }
  std::fflush(stdout);
  for (std::size_t turn = 0; command.count == 0 || turn < command.count; ++turn) {
    if (!wait_for(std::chrono::duration<double>(command.interval_s))) return kExitOk;
    auto seen = load_graph(command.source);
    for (const auto& change : diff(known, seen)) print_change(change, json);
    std::fflush(stdout);
    if (std::ferror(stdout) != 0) return kExitOk;  // Nobody reads any more.
    known = std::move(seen);
  }
  return kExitOk;
}

}  // namespace

std::string changes_text(const std::vector<TopologyChange>& changes) {
  Table table(
      {{""}, {"WHAT", false, true}, {"FIELD"}, {"BEFORE", false, true}, {"AFTER", false, true}});
  for (const auto& change : changes) {
    const auto colour = colour_of(change);
    table.add({{std::string(sign_of(change)), colour},
               {change.what},
               {change.field},
               {change.before},
               {change.after, colour}});
  }
  return table.empty() ? "" : table.to_string();
}

void add_topo_diff(CLI::App& topo, Shell& shell) {
  auto command = std::make_shared<DiffCommand>();
  auto* diff = add_command(
      topo, shell, "diff", "What differs between two topologies",
      "causeway topo diff yesterday.json self\n  causeway topo diff desktop desktop-and-hgx",
      [command, &shell]() {
        shell.error_code = kExitNoAnswer;
        return run_diff(*command, shell.json);
      },
      kDiffExitCodes);
  const std::string what = "A file of any format, a built-in lab, or self for this machine";
  diff->add_option("BEFORE", command->before, what)->required();
  diff->add_option("AFTER", command->after, what)->required();
  diff->add_option("--tolerance", command->tolerance_percent,
                   "Percent by which measured figures may differ (5)")
      ->check(CLI::Range(0.0, 100.0))
      ->type_name("PERCENT");
}

void add_topo_watch(CLI::App& topo, Shell& shell) {
  auto command = std::make_shared<WatchCommand>();
  auto* watch = add_command(topo, shell, "watch", "Look again and again, and print what changes",
                            "causeway topo watch --interval 5",
                            [command, &shell]() { return run_watch(*command, shell.json); });
  watch->add_option("--interval", command->interval_s, "Seconds between two looks (2)")
      ->check(CLI::Range(0.05, 86400.0))
      ->type_name("S");
  watch->add_option("--count", command->count, "End after so many looks; 0: at Ctrl-C")
      ->type_name("N");
  add_source_options(*watch, command->source);
}

}  // namespace causeway::tools
