// causeway bench copy: GB/s between two devices, and how much of the limit that is.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <thread>

#include "causeway/cluster.h"
#include "tools/base/interrupt.h"
#include "tools/base/terminal.h"
#include "tools/bench/child.h"
#include "tools/bench/copy_bench.h"
#include "tools/commands/bench/commands.h"

namespace causeway::tools {

namespace {

namespace json = boost::json;

struct BenchOptions {
  Connection connection;
  std::vector<std::string> sizes;
  std::string from;
  std::string to;
  int rounds = 5;
  double seconds = 1.0;
  std::vector<std::string> directions;
  std::size_t concurrency = 1;
  bool no_compare = false;
  bool explain = false;
  std::string plot;
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
                    (bench.from == bench.to ? 2 : 1) / options.concurrency;
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
  bench.concurrency = options.concurrency;
  const auto has = [&](const char* direction) {
    return options.directions.empty() || std::ranges::count(options.directions, direction) > 0;
  };
  bench.push = has("push"), bench.pull = has("pull");
  return bench;
}

void print_table(const CopyBenchOptions& bench, const CopyBenchResult& result) {
  const bool mapped = !result.points.empty() && result.points.front().mapped;
  fmt::print("{} -> {}   {}   limit: {}\n", bench.from.to_string(), bench.to.to_string(),
             mapped ? "mapped (zero-copy)" : result.route, result.limit_name);
  std::vector<Column> columns = {{"SIZE", true}};
  const auto add_columns = [&](const char* title) {
    columns.insert(columns.end(), {{title, true}, {"OF LIMIT", true}});
  };
  if (mapped) add_columns("MAPPED GB/s");
  if (bench.push) add_columns("PUSH GB/s");
  if (bench.pull) add_columns("PULL GB/s");
  columns.push_back({"LIMIT GB/s", true});
  Table table(columns);
  for (const auto& point : result.points) {
    const auto& limit = point.limit_bytes_per_s;
    std::vector<Cell> cells = {{size_title(point.size_bytes)}};
    const auto add = [&](double rate) {
      cells.push_back({gigabytes(rate)});
      cells.push_back({percent(rate, limit)});
    };
    if (mapped) add(point.mapped_bytes_per_s);
    if (bench.push) add(point.push_bytes_per_s);
    if (bench.pull) add(point.pull_bytes_per_s);
    cells.push_back({limit ? gigabytes(*limit) : "-"});
    table.add(std::move(cells));
  }
  fmt::print("{}", table.to_string());
}

constexpr std::chrono::seconds kProbePatience{3};
constexpr std::chrono::milliseconds kProbePoll{50};

json::array nodes_of(Pool& pool) {
  return json::parse(pool.status().to_json()).at("nodes").as_array();
}

// What the two nodes found out about the way between them.
json::array probed_rails(const CopyBenchOptions& bench, const json::array& nodes) {
  json::array list;
  for (const auto& each : nodes) {
    const auto& node = each.as_object();
    for (const auto& rail : node.at("rails").as_array()) {
      const auto from = json::value_to<std::string>(node.at("name"));
      const auto to = json::value_to<std::string>(rail.at("node"));
      const bool is_of_copy = (from == bench.from.node && to == bench.to.node) ||
                              (from == bench.to.node && to == bench.from.node);
      if (!is_of_copy) continue;
      auto& added = list.emplace_back(rail).as_object();
      added["from"] = from;
    }
  }
  return list;
}

// The ends of the copy that lie on GPUs, and how their bytes get to the network.
json::array staged_ends(const CopyBenchOptions& bench, const json::array& nodes) {
  json::array list;
  for (const auto& node : nodes)
    for (const auto& device : node.at("devices").as_array()) {
      const auto name = DeviceName::parse(std::string_view(device.at("name").as_string()));
      const auto* staging = device.as_object().if_contains("staging");
      if (staging == nullptr || (name != bench.from && name != bench.to)) continue;
      list.emplace_back(*staging).as_object()["device"] = name.to_string();
    }
  return list;
}

void print_staged_end(const json::object& end) {
  const auto kib = [](const json::value& value) { return value.to_number<std::uint64_t>() >> 10; };
  fmt::print("  {}: through pinned memory, {} slots each way, in chunks of {} KiB\n",
             json::value_to<std::string>(end.at("device")), end.at("slots").to_number<int>(),
             kib(end.at("chunk_bytes")));
  for (const auto& trial : end.at("trials").as_array())
    fmt::print("    chunks of {:>4} KiB: {:.2f} GB/s, both ways together\n",
               kib(trial.at("chunk_bytes")), trial.at("bytes_per_s").to_number<double>() / 1e9);
}

bool is_probed(const json::array& rails) {
  return std::ranges::none_of(rails, [](const json::value& rail) {
    return rail.at("open").as_bool() && rail.at("reason").as_string().empty();
  });
}

void print_probed_rail(const json::object& rail) {
  const auto text = [&](const char* name) { return json::value_to<std::string>(rail.at(name)); };
  const auto kib = [](const json::value& value) { return value.to_number<std::uint64_t>() >> 10; };
  const auto reason = text("reason");
  if (reason.empty()) {
    fmt::print("  {} to {} at {}: not probed yet\n", text("from"), text("node"), text("address"));
    return;
  }
  fmt::print("  {} to {} at {} ({} channel{}, answers in {:.0f} us): {}\n", text("from"),
             text("node"), text("address"), rail.at("channels").to_number<std::uint64_t>(),
             rail.at("channels").to_number<std::uint64_t>() == 1 ? "" : "s",
             rail.at("answer_s").to_number<double>() * 1e6, reason);
  for (const auto& each : rail.at("trials").as_array()) {
    const auto& trial = each.as_object();
    fmt::print(
        "    {:>4} KiB at a time, parts of {:>4} KiB, unasked up to {:>3} KiB{}: "
        "write {:.2f}, read {:.2f} GB/s\n",
        kib(trial.at("operation_bytes")), kib(trial.at("part_bytes")), kib(trial.at("eager_bytes")),
        trial.at("by_stream").as_bool() ? ", more by the stream" : "",
        trial.at("write_bytes_per_s").to_number<double>() / 1e9,
        trial.at("read_bytes_per_s").to_number<double>() / 1e9);
  }
}

// How bytes go from one node to another, and why: what the transport says of itself.
json::object explanation(const CopyBenchOptions& bench, Pool& pool, bool mapped) {
  json::object value{{"mapped", mapped}};
  if (mapped) return value;
  auto nodes = nodes_of(pool);
  auto probed = probed_rails(bench, nodes);
  // A probe begins when the copies are over.
  const auto limit = std::chrono::steady_clock::now() + kProbePatience;
  while (!is_probed(probed) && std::chrono::steady_clock::now() < limit) {
    throw_if_interrupted();
    std::this_thread::sleep_for(kProbePoll);
    nodes = nodes_of(pool);
    probed = probed_rails(bench, nodes);
  }
  std::string addresses;
  for (const auto& node : nodes)
    if (node.at("name").as_string() == bench.to.node)
      addresses = json::value_to<std::string>(node.at("data"));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  run_transport_bench({"settings", addresses}, deadline, [&](const std::string& line) {
    const auto settings = json::parse(line).as_object();
    for (const auto& entry : settings) value[entry.key()] = entry.value();
  });
  value["probed"] = std::move(probed);
  value["staged"] = staged_ends(bench, nodes);
  return value;
}

void print_explanation(const CopyBenchOptions& bench, const json::object& value) {
  if (value.at("mapped").as_bool()) {
    fmt::print(
        "why: both regions are memory that this process maps; push and pull are the "
        "daemon's memcpy\n");
    return;
  }
  const auto bytes = [&](const char* name) {
    return format_bytes(value.at(name).to_number<std::uint64_t>());
  };
  const auto& rails = value.at("rails").as_array();
  fmt::print("why: {} rail{} to {}:", rails.size(), rails.size() == 1 ? "" : "s", bench.to.node);
  for (const auto& rail : rails)
    fmt::print(" {} by {}", json::value_to<std::string>(rail.at("address")),
               json::value_to<std::string>(rail.at("interface")));
  fmt::print("\n  in parts of {}, dealt to rails by what they carry; up to {} under way on each\n",
             bytes("part_bytes"), bytes("window_bytes"));
  fmt::print(
      "  up to {} unasked inside a message, more by rendezvous, unless a probe chose else:\n",
      bytes("eager_bytes"));
  for (const auto& rail : value.at("probed").as_array()) print_probed_rail(rail.as_object());
  for (const auto& end : value.at("staged").as_array()) print_staged_end(end.as_object());
  for (const auto& entry : value.at("environment").as_array())
    fmt::print("  set by this environment, and perhaps by the daemons': {}\n",
               json::value_to<std::string>(entry));
}

void print_json(const CopyBenchOptions& bench, const CopyBenchResult& result,
                const std::vector<std::string>& skipped,
                const std::optional<json::object>& explained) {
  json::array points;
  for (const auto& point : result.points) {
    const auto figure = [](bool is_measured, double value) {
      return optional_json(is_measured ? std::optional(value) : std::nullopt);
    };
    const auto share = [&](bool is_measured, double value) {
      const auto& limit = point.limit_bytes_per_s;
      return figure(is_measured && limit && *limit > 0, limit ? value / *limit : 0);
    };
    points.push_back(
        json::object{{"size_bytes", point.size_bytes},
                     {"mapped", point.mapped},
                     {"push_bytes_per_s", figure(bench.push, point.push_bytes_per_s)},
                     {"pull_bytes_per_s", figure(bench.pull, point.pull_bytes_per_s)},
                     {"mapped_bytes_per_s", figure(point.mapped, point.mapped_bytes_per_s)},
                     {"limit_bytes_per_s", optional_json(point.limit_bytes_per_s)},
                     {"push_of_limit", share(bench.push, point.push_bytes_per_s)},
                     {"pull_of_limit", share(bench.pull, point.pull_bytes_per_s)},
                     {"mapped_of_limit", share(point.mapped, point.mapped_bytes_per_s)}});
  }
  json::object value{{"from", bench.from.to_string()},
                     {"to", bench.to.to_string()},
                     {"route", result.route},
                     {"limit", result.limit_name},
                     {"concurrency", bench.concurrency},
                     {"points", std::move(points)},
                     {"skipped", json::array(skipped.begin(), skipped.end())}};
  if (explained) value["explain"] = *explained;
  fmt::print("{}\n", json::serialize(value));
}

Plot plot_of(const CopyBenchOptions& bench, const CopyBenchResult& result) {
  PlotLine mapped{"mapped", {}}, push{"push", {}}, pull{"pull", {}}, limit{"limit", {}, true};
  for (const auto& point : result.points) {
    const auto size = static_cast<double>(point.size_bytes);
    mapped.points.emplace_back(size, point.mapped_bytes_per_s / 1e9);
    push.points.emplace_back(size, point.push_bytes_per_s / 1e9);
    pull.points.emplace_back(size, point.pull_bytes_per_s / 1e9);
    limit.points.emplace_back(size, point.limit_bytes_per_s.value_or(0) / 1e9);
  }
  return size_plot(fmt::format("{} to {}", bench.from.to_string(), bench.to.to_string()), "GB/s",
                   {mapped, push, pull, limit});
}

int run_bench_copy(const BenchOptions& options, bool as_json) {
  auto pool = connect_pool(options.connection);
  std::vector<std::string> skipped;
  const auto bench = bench_options(options, pool, skipped);
  const auto result = [&] {
    Progress progress(!as_json, bench.sizes_bytes.size());
    return bench_copy(pool, bench, [&](const std::string& text) { progress.begin(text); });
  }();
  write_plot(options.plot, plot_of(bench, result));
  std::optional<json::object> explained;
  if (options.explain)
    explained = explanation(bench, pool, !result.points.empty() && result.points.front().mapped);
  if (as_json) {
    print_json(bench, result, skipped, explained);
    return kExitOk;
  }
  print_table(bench, result);
  if (explained) print_explanation(bench, *explained);
  for (const auto& text : skipped) fmt::print("{}\n", text);
  return kExitOk;
}

}  // namespace

void add_bench_copy(CLI::App& bench, Shell& shell) {
  auto options = std::make_shared<BenchOptions>();
  auto* copy = add_command(bench, shell, "copy", "Copies between two devices, verified",
                           "causeway bench copy --lab two-nodes --size 1MiB,4MiB,64MiB --explain",
                           [options, &shell]() { return run_bench_copy(*options, shell.json); });
  add_size_option(*copy, options->sizes, "1MiB,4MiB,64MiB");
  copy->add_option("--from", options->from, "Source (default: this node's first device)")
      ->type_name("DEVICE");
  copy->add_option("--to", options->to, "Target (default: the first device of another node)")
      ->type_name("DEVICE");
  copy->add_option("--direction", options->directions,
                   "push (the source's node writes), pull (the target's reads); default both")
      ->delimiter(',')
      ->check(CLI::IsMember({"push", "pull"}))
      ->type_name("WAY,...");
  copy->add_option("--concurrency", options->concurrency, "Copies at once, of regions of their own")
      ->check(CLI::Range(1, 64));
  copy->add_option("--rounds", options->rounds, "Figures are medians over so many")
      ->check(CLI::Range(1, 1000));
  copy->add_option("--seconds", options->seconds, "Per size and direction")
      ->check(CLI::Range(0.01, 600.0));
  copy->add_flag("--no-compare", options->no_compare, "Do not measure the limit");
  copy->add_flag("--explain", options->explain,
                 "Say which way the bytes take, and with what settings");
  add_plot_option(*copy, options->plot);
  add_connection_options(*copy, options->connection);
}

}  // namespace causeway::tools
