// causeway bench copy: GB/s between two devices, and how much of the limit that is.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "causeway/cluster.h"
#include "tools/base/terminal.h"
#include "tools/bench/copy_bench.h"
#include "tools/commands/command.h"

namespace causeway::tools {

namespace {

struct BenchOptions {
  Connection connection;
  std::vector<std::string> sizes;
  std::string from;
  std::string to;
  int rounds = 5;
  double seconds = 1.0;
  bool no_compare = false;
};

const std::vector<std::string> kDefaultSizes = {"1MiB", "4MiB", "64MiB"};

std::uint64_t capacity_of(const PoolStatus& status, const DeviceName& name) {
  for (const auto& node : status.nodes)
    for (const auto& device : node.devices)
      if (device.name == name) return device.capacity_bytes;
  throw Error(Errc::not_found, "there is no device " + name.to_string() +
                                   " in the pool; causeway status lists them");
}

// The first device of this daemon's node, and the first of another node if there is one.
void choose_devices(const PoolStatus& status, const std::string& here, CopyBenchOptions& bench,
                    const BenchOptions& options) {
  std::vector<DeviceName> own;
  std::vector<DeviceName> other;
  for (const auto& node : status.nodes)
    for (const auto& device : node.devices)
      if (node.alive) (node.name == here ? own : other).push_back(device.name);
  if (!options.from.empty())
    bench.from = DeviceName::parse(options.from);
  else if (!own.empty())
    bench.from = own.front();
  else
    throw Error(Errc::not_found, "node " + here + " has no device; name one with --from");
  if (!options.to.empty())
    bench.to = DeviceName::parse(options.to);
  else
    bench.to = !other.empty() ? other.front() : own.back();
}

CopyBenchOptions bench_options(const BenchOptions& options, Pool& pool,
                               std::vector<std::string>& skipped) {
  CopyBenchOptions bench;
  const auto status = pool.status();
  choose_devices(status, pool.node(), bench, options);
  const auto room = std::min(capacity_of(status, bench.from), capacity_of(status, bench.to)) /
                    (bench.from == bench.to ? 2 : 1);
  for (const auto& text : options.sizes.empty() ? kDefaultSizes : options.sizes) {
    const auto size_bytes = parse_bytes(text);
    if (size_bytes == 0) throw Error(Errc::invalid_argument, "--size 0: nothing to copy");
    if (options.sizes.empty() && size_bytes > room)  // Only what was asked for must fit.
      skipped.push_back(
          fmt::format("{} skipped: the smaller device has {}", text, format_bytes(room)));
    else
      bench.sizes_bytes.push_back(size_bytes);
  }
  bench.rounds = options.rounds;
  bench.point_time = std::chrono::duration<double>(options.seconds);
  bench.compare = !options.no_compare;
  return bench;
}

std::string gigabytes(double bytes_per_s) { return fmt::format("{:.2f}", bytes_per_s / 1e9); }

std::string ratio(double value, const std::optional<double>& limit) {
  return limit && *limit > 0 ? fmt::format("{:.0f}%", 100 * value / *limit) : "-";
}

void print_table(const CopyBenchOptions& bench, const CopyBenchResult& result) {
  const bool mapped = !result.points.empty() && result.points.front().mapped;
  fmt::print("{} -> {}   {}   limit: {}\n", bench.from.to_string(), bench.to.to_string(),
             mapped ? "mapped (zero-copy)" : result.route, result.limit_name);
  std::vector<Column> columns = {{"SIZE", true}};
  if (mapped) columns.insert(columns.end(), {{"MAPPED GB/s", true}, {"OF LIMIT", true}});
  columns.insert(columns.end(), {{"PUSH GB/s", true},
                                 {"OF LIMIT", true},
                                 {"PULL GB/s", true},
                                 {"OF LIMIT", true},
                                 {"LIMIT GB/s", true}});
  Table table(columns);
  for (const auto& point : result.points) {
    const auto& limit = point.limit_bytes_per_s;
    std::vector<Cell> cells = {{fmt::format("{} KiB", point.size_bytes / 1024)}};
    if (point.size_bytes % 1048576 == 0)
      cells[0].text = fmt::format("{} MiB", point.size_bytes >> 20);
    const auto add = [&](double rate) {
      cells.push_back({gigabytes(rate)});
      cells.push_back({ratio(rate, limit)});
    };
    if (mapped) add(point.mapped_bytes_per_s);
    add(point.push_bytes_per_s);
    add(point.pull_bytes_per_s);
    cells.push_back({limit ? gigabytes(*limit) : "-"});
    table.add(std::move(cells));
  }
  fmt::print("{}", table.to_string());
}

void print_json(const CopyBenchOptions& bench, const CopyBenchResult& result,
                const std::vector<std::string>& skipped) {
  std::string points;
  for (const auto& point : result.points) {
    const auto optional_number = [](const std::optional<double>& value) {
      return value ? fmt::format("{:.0f}", *value) : "null";
    };
    const auto share = [&](double value) {
      return point.limit_bytes_per_s ? fmt::format("{:.4f}", value / *point.limit_bytes_per_s)
                                     : "null";
    };
    points += fmt::format(
        "{}{{\"size_bytes\":{},\"mapped\":{},\"push_bytes_per_s\":{:.0f},"
        "\"pull_bytes_per_s\":{:.0f},\"mapped_bytes_per_s\":{},\"limit_bytes_per_s\":{},"
        "\"push_of_limit\":{},\"pull_of_limit\":{},\"mapped_of_limit\":{}}}",
        points.empty() ? "" : ",", point.size_bytes, point.mapped, point.push_bytes_per_s,
        point.pull_bytes_per_s,
        point.mapped ? fmt::format("{:.0f}", point.mapped_bytes_per_s) : "null",
        optional_number(point.limit_bytes_per_s), share(point.push_bytes_per_s),
        share(point.pull_bytes_per_s), point.mapped ? share(point.mapped_bytes_per_s) : "null");
  }
  std::string left_out;
  for (const auto& text : skipped) left_out += (left_out.empty() ? "" : ",") + json_string(text);
  fmt::print(
      "{{\"from\":{},\"to\":{},\"route\":{},\"limit\":{},\"points\":[{}],\"skipped\":[{}]}}\n",
      json_string(bench.from.to_string()), json_string(bench.to.to_string()),
      json_string(result.route), json_string(result.limit_name), points, left_out);
}

int run_bench_copy(const BenchOptions& options, bool json) {
  auto pool = connect_pool(options.connection);
  std::vector<std::string> skipped;
  const auto bench = bench_options(options, pool, skipped);
  const bool show = is_terminal(2) && !json;
  const auto result = bench_copy(pool, bench, [show](const std::string& text) {
    if (show) fmt::print(stderr, "\r\033[K{} ...", text);
  });
  if (show) fmt::print(stderr, "\r\033[K");
  if (json) {
    print_json(bench, result, skipped);
    return kExitOk;
  }
  print_table(bench, result);
  for (const auto& text : skipped) fmt::print("{}\n", text);
  return kExitOk;
}

}  // namespace

void add_bench(CLI::App& app, Shell& shell) {
  auto* bench = app.add_subcommand("bench", "Measure, in percent of the limit");
  bench->require_subcommand(1);
  bench->footer(std::string("Example:\n  causeway bench copy --lab two-nodes\n\n") +
                kExitCodesText);
  auto options = std::make_shared<BenchOptions>();
  auto* copy = add_command(*bench, shell, "copy", "Copies between two devices, verified",
                           "causeway bench copy --lab two-nodes --size 1MiB,4MiB,64MiB",
                           [options, &shell]() { return run_bench_copy(*options, shell.json); });
  copy->add_option("--size", options->sizes, "Sizes of a piece (default 1MiB,4MiB,64MiB)")
      ->type_name("BYTES,...")
      ->delimiter(',');
  copy->add_option("--from", options->from, "Source (default: this node's first device)")
      ->type_name("DEVICE");
  copy->add_option("--to", options->to, "Target (default: the first device of another node)")
      ->type_name("DEVICE");
  copy->add_option("--rounds", options->rounds, "Figures are medians over so many")
      ->check(CLI::Range(1, 1000));
  copy->add_option("--seconds", options->seconds, "Per size and direction")
      ->check(CLI::Range(0.01, 600.0));
  copy->add_flag("--no-compare", options->no_compare, "Do not measure the limit");
  add_connection_options(*copy, options->connection);
}

}  // namespace causeway::tools
