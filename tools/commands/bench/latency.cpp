// causeway bench latency: half a round trip of small messages between two processes.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "tools/base/terminal.h"
#include "tools/bench/child.h"
#include "tools/bench/ucx_perftest.h"
#include "tools/commands/bench/commands.h"

namespace causeway::tools {

namespace {

namespace json = boost::json;

const std::vector<std::string> kDefaultSizes = {"8B", "64B", "512B", "4KiB"};
constexpr std::uint64_t kMostBytes = 1 << 20;
constexpr std::chrono::seconds kPatience{30};

struct LatencyCommand {
  std::vector<std::string> sizes;
  std::string memory = "host";
  std::size_t concurrency = 1;
  double seconds = 1.0;
  bool no_compare = false;
  std::string plot;
};

struct LatencyPoint {
  json::object figures;           // As causeway-bench gave them.
  std::optional<double> limit_s;  // Raw active messages.
  [[nodiscard]] double seconds(const char* name) const {
    return figures.at(name).to_number<double>();
  }
  [[nodiscard]] std::uint64_t size() const {
    return figures.at("size_bytes").to_number<std::uint64_t>();
  }
};

// As many trips as ours would take; none where they take far longer: two processes that poll on one
// core have each turn of it to wait for.
std::optional<double> raw_latency(const std::string& perftest, const LatencyPoint& ours,
                                  PerftestWay way, double seconds) {
  const auto trips = static_cast<std::uint64_t>(seconds / (2 * ours.seconds("p50_s")));
  const auto patience = std::chrono::seconds(10 + static_cast<int>(3 * seconds));
  try {
    return run_ucx_latency(perftest, ours.size(), std::clamp<std::uint64_t>(trips, 100, 100'000),
                           way, patience);
  } catch (const Error& error) {
    if (error.code() != Errc::timed_out) throw;
    return std::nullopt;
  }
}

std::vector<LatencyPoint> measure(const LatencyCommand& command, bool json) {
  const auto sizes = parse_sizes(command.sizes, kDefaultSizes, kMostBytes);
  const auto way = command.memory == "host" ? PerftestWay::loopback : PerftestWay::shared_memory;
  const auto perftest =
      command.no_compare || command.concurrency > 1 ? std::nullopt : find_ucx_perftest();
  Progress progress(!json, sizes.size() * (perftest ? 2 : 1));
  std::vector<LatencyPoint> points;
  for (const auto size : sizes) {  // One after the other: each limit is of the same minute.
    progress.begin(fmt::format("messages of {}", size_title(size)));
    const auto patience =
        std::chrono::steady_clock::now() + kPatience +
        std::chrono::ceil<std::chrono::seconds>(std::chrono::duration<double>(2 * command.seconds));
    run_transport_bench(
        {"latency", "--sizes", std::to_string(size), "--memory", command.memory, "--concurrency",
         std::to_string(command.concurrency), "--seconds", fmt::format("{}", command.seconds)},
        patience, [&](const std::string& line) {
          points.push_back({json::parse(line).as_object(), {}});
        });
    if (points.empty() || points.back().size() != size)
      throw Error(Errc::internal, "causeway-bench gave no figure");
    if (!perftest) continue;
    progress.begin(fmt::format("raw active messages of {}", size_title(size)));
    points.back().limit_s = raw_latency(*perftest, points.back(), way, command.seconds);
  }
  return points;
}

std::string limit_name(const LatencyCommand& command) {
  if (command.no_compare) return "not measured";
  if (command.concurrency > 1) return "none: raw messages go one at a time";
  return find_ucx_perftest() ? "ucx_perftest ucp_am_lat" : "none: ucx_perftest is not installed";
}

void print_table(const LatencyCommand& command, const std::vector<LatencyPoint>& points) {
  fmt::print(
      "half round trips, {}   limit: {}\n",
      command.memory == "host" ? "messages over loopback TCP" : "messages through shared memory",
      limit_name(command));
  Table table({{"SIZE", true},
               {"P50 us", true},
               {"P90", true},
               {"P99", true},
               {"P99.9", true},
               {"MAX", true},
               {"TRIPS/s", true},
               {"LIMIT us", true},
               {"OF LIMIT", true}});
  const auto microseconds = [](double seconds) {
    return Cell{fmt::format("{:.2f}", seconds * 1e6)};
  };
  for (const auto& point : points) {
    const double median_s = point.seconds("p50_s");
    table.add({{size_title(point.size())},
               {fmt::format("{:.2f}", median_s * 1e6), Colour::bold},
               microseconds(point.seconds("p90_s")),
               microseconds(point.seconds("p99_s")),
               microseconds(point.seconds("p999_s")),
               microseconds(point.seconds("max_s")),
               {fmt::format("{:.0f}", point.seconds("trips") / command.seconds)},
               {point.limit_s ? fmt::format("{:.2f}", *point.limit_s * 1e6) : "-"},
               {point.limit_s ? percent(*point.limit_s, median_s) : "-"}});
  }
  fmt::print("{}", table.to_string());
}

int run_latency(const LatencyCommand& command, bool as_json) {
  const auto points = measure(command, as_json);
  PlotLine median{"median", {}}, tail{"99 of 100", {}}, limit{"raw UCX", {}, true};
  json::array list;
  for (const auto& point : points) {
    const auto size = static_cast<double>(point.size());
    median.points.emplace_back(size, point.seconds("p50_s") * 1e6);
    tail.points.emplace_back(size, point.seconds("p99_s") * 1e6);
    if (point.limit_s) limit.points.emplace_back(size, *point.limit_s * 1e6);
    auto value = point.figures;
    value["limit_s"] = optional_json(point.limit_s);
    list.push_back(std::move(value));
  }
  write_plot(command.plot, size_plot("Half a round trip", "us", {median, tail, limit}));
  if (!as_json)
    print_table(command, points);
  else
    fmt::print("{}\n", json::serialize(json::object{{"memory", command.memory},
                                                    {"concurrency", command.concurrency},
                                                    {"limit", limit_name(command)},
                                                    {"points", std::move(list)}}));
  return kExitOk;
}

}  // namespace

void add_bench_latency(CLI::App& bench, Shell& shell) {
  auto command = std::make_shared<LatencyCommand>();
  auto* latency = add_command(bench, shell, "latency", "Small messages between two processes",
                              "causeway bench latency\n  causeway bench latency --memory shared "
                              "--size 8B,4KiB --plot latency.svg",
                              [command, &shell]() { return run_latency(*command, shell.json); });
  add_size_option(*latency, command->sizes, "8B,64B,512B,4KiB");
  latency
      ->add_option("--memory", command->memory,
                   "host (messages over loopback TCP), shared (messages through shared memory)")
      ->check(CLI::IsMember({"host", "shared"}))
      ->type_name("KIND");
  latency->add_option("--concurrency", command->concurrency, "Messages that travel at once (1)")
      ->check(CLI::Range(1, 256));
  latency->add_option("--seconds", command->seconds, "Per size (1)")
      ->check(CLI::Range(0.01, 600.0));
  latency->add_flag("--no-compare", command->no_compare, "Do not measure the limit");
  add_plot_option(*latency, command->plot);
}

}  // namespace causeway::tools
