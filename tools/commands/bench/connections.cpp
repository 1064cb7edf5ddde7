// causeway bench connections: how many channels a transport holds, and what each costs.
#include <fmt/format.h>

#include <memory>

#include "tools/base/terminal.h"
#include "tools/bench/child.h"
#include "tools/commands/bench/commands.h"

namespace causeway::tools {

namespace {

namespace json = boost::json;

constexpr std::chrono::seconds kPatience{600};
constexpr std::size_t kMostConnections = 100'000;

struct ConnectionsCommand {
  std::size_t count = 1000;
  std::size_t concurrency = 1;
  std::string plot;
};

struct Held {
  json::object figures;  // As causeway-bench gave them.
  [[nodiscard]] double number(const char* name) const {
    return figures.at(name).to_number<double>();
  }
  [[nodiscard]] double each(const char* name) const {
    return number("held") > 0 ? number(name) / number("held") : 0;
  }
};

struct Connections {
  std::vector<Held> lines;
  std::string refused;  // Why there are no more.
};

Connections measure(const ConnectionsCommand& command, bool as_json) {
  Connections result;
  Progress progress(!as_json, 10);
  progress.begin("opening connections");
  run_transport_bench(
      {"connections", "--count", std::to_string(command.count), "--concurrency",
       std::to_string(command.concurrency)},
      std::chrono::steady_clock::now() + kPatience, [&](const std::string& line) {
        auto value = json::parse(line).as_object();
        if (const auto* why = value.if_contains("refused")) {
          result.refused = why->as_string();
          return;
        }
        result.lines.push_back({std::move(value)});
        progress.begin(fmt::format("{:.0f} connections", result.lines.back().number("held")));
      });
  if (result.lines.empty())
    throw Error(Errc::internal, "causeway-bench gave no figure: " + result.refused);
  return result;
}

void print_table(const Connections& result) {
  fmt::print("channels from one process to another, all of which answer\n");
  Table table({{"HELD", true},
               {"OPEN P50", true},
               {"P99", true},
               {"PER s", true},
               {"ALL ANSWER IN", true},
               {"SERVER EACH", true},
               {"CLIENT EACH", true},
               {"DESCRIPTORS EACH", true},
               {"OF LIMIT", true}});
  for (const auto& line : result.lines)
    table.add({{fmt::format("{:.0f}", line.number("held")), Colour::bold},
               {format_seconds(line.number("open_p50_s"))},
               {format_seconds(line.number("open_p99_s"))},
               {fmt::format("{:.0f}", line.number("open_per_s"))},
               {format_seconds(line.number("answer_s"))},
               {format_bytes(static_cast<std::uint64_t>(line.each("server_bytes")))},
               {format_bytes(static_cast<std::uint64_t>(line.each("client_bytes")))},
               {fmt::format("{:.1f}", line.each("server_descriptors"))},
               {percent(line.number("server_descriptors"), line.number("descriptor_limit"))}});
  fmt::print("{}limit: {:.0f} descriptors of a process\n", table.to_string(),
             result.lines.back().number("descriptor_limit"));
  if (!result.refused.empty()) fmt::print("no more: {}\n", result.refused);
}

int run_connections(const ConnectionsCommand& command, bool as_json) {
  const auto result = measure(command, as_json);
  PlotLine median{"median to open, ms", {}}, tail{"99 of 100, ms", {}},
      memory{"server's KiB each", {}};
  json::array list;
  for (const auto& line : result.lines) {
    const auto held = line.number("held");
    median.points.emplace_back(held, line.number("open_p50_s") * 1e3);
    tail.points.emplace_back(held, line.number("open_p99_s") * 1e3);
    memory.points.emplace_back(held, line.each("server_bytes") / 1024);
    list.push_back(line.figures);
  }
  write_plot(command.plot,
             {"What a connection costs", "connections held", "", {}, {median, tail, memory}});
  if (!as_json) {
    print_table(result);
    return kExitOk;
  }
  json::object value{{"concurrency", command.concurrency}, {"points", std::move(list)}};
  value["refused"] = result.refused.empty() ? json::value(nullptr) : json::value(result.refused);
  fmt::print("{}\n", json::serialize(value));
  return kExitOk;
}

}  // namespace

void add_bench_connections(CLI::App& bench, Shell& shell) {
  auto command = std::make_shared<ConnectionsCommand>();
  auto* connections =
      add_command(bench, shell, "connections", "How many channels a transport holds",
                  "causeway bench connections --count 1000 --concurrency 8",
                  [command, &shell]() { return run_connections(*command, shell.json); });
  connections->add_option("--count", command->count, "Connections to hold (1000)")
      ->check(CLI::Range(std::size_t{1}, kMostConnections));
  connections->add_option("--concurrency", command->concurrency, "Opened at once (1)")
      ->check(CLI::Range(1, 128));
  add_plot_option(*connections, command->plot);
}

}  // namespace causeway::tools
