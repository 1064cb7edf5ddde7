// causeway bench collective: operations that several processes of this machine do together.
#include <fmt/format.h>

#include <memory>

#include "tools/base/terminal.h"
#include "tools/bench/child.h"
#include "tools/commands/bench/commands.h"

namespace causeway::tools {

namespace {

namespace json = boost::json;

const std::vector<std::string> kDefaultSizes = {"64KiB", "1MiB", "4MiB", "16MiB"};
constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 30;
constexpr std::chrono::seconds kPatience{60};

struct CollectiveCommand {
  std::string operation = "all_reduce";
  std::string type = "f32";
  std::string reduce = "sum";
  std::string memory = "shared";
  bool in_rank_order = false;
  std::size_t ranks = 2;
  std::vector<std::string> sizes;
  int rounds = 5;
  double seconds = 1.0;
  std::string plot;
};

// Rates as nccl-tests define them: algbw is size by time; busbw counts what a rank must move.
struct CollectivePoint {
  std::uint64_t size_bytes = 0;
  double seconds = 0;
  double moved_share = 0;
  double memcpy_s = 0;

  [[nodiscard]] double algbw() const { return static_cast<double>(size_bytes) / seconds; }
  [[nodiscard]] double busbw() const { return algbw() * moved_share; }
  // What all ranks copy at once, each of its own bytes, as many as it must move.
  [[nodiscard]] double memcpy_bw() const {
    return static_cast<double>(size_bytes) * moved_share / memcpy_s;
  }
};

CollectivePoint parse_point(const std::string& line) {
  const auto value = json::parse(line);
  return {value.at("size_bytes").to_number<std::uint64_t>(),
          value.at("seconds").to_number<double>(), value.at("moved_share").to_number<double>(),
          value.at("memcpy_s").to_number<double>()};
}

std::vector<CollectivePoint> measure(const CollectiveCommand& command, bool as_json) {
  const bool is_barrier = command.operation == "barrier";
  if (is_barrier && !command.sizes.empty())
    throw Error(Errc::invalid_argument, "a barrier has no --size");
  auto sizes = is_barrier ? std::vector<std::uint64_t>{0}
                          : parse_sizes(command.sizes, kDefaultSizes, kMostBytes);
  // Whole values for every rank, so that all operations take them.
  for (auto& size : sizes) {
    const auto unit = 8 * command.ranks;
    size = (size + unit - 1) / unit * unit;
  }
  Progress progress(!as_json, sizes.size());
  const auto announce = [&](std::size_t done) {
    if (done < sizes.size())
      progress.begin(fmt::format("{} of {}", command.operation, size_title(sizes[done])));
  };
  std::vector<CollectivePoint> points;
  announce(0);
  const auto patience =
      std::chrono::steady_clock::now() + kPatience * (1 + static_cast<int>(sizes.size())) +
      std::chrono::ceil<std::chrono::seconds>(
          std::chrono::duration<double>(2 * command.seconds * static_cast<double>(sizes.size())));
  run_transport_bench(
      {"collective", "--operation", command.operation, "--type", command.type, "--reduce",
       command.reduce, "--order", command.in_rank_order ? "rank" : "any", "--ranks",
       std::to_string(command.ranks), "--sizes", joined(sizes), "--rounds",
       std::to_string(command.rounds), "--seconds", fmt::format("{}", command.seconds), "--memory",
       command.memory},
      patience, [&](const std::string& line) {
        points.push_back(parse_point(line));
        announce(points.size());
      });
  if (points.size() != sizes.size())
    throw Error(Errc::internal, "causeway-bench ended before it had measured everything");
  return points;
}

void print_table(const CollectiveCommand& command, const std::vector<CollectivePoint>& points) {
  const bool reduces = command.operation.find("reduce") != std::string::npos;
  fmt::print("{}{}   {} ranks   {}", command.operation,
             reduces ? fmt::format(" ({} of {}{})", command.reduce, command.type,
                                   command.in_rank_order ? ", in rank order" : "")
                     : "",
             command.ranks, command.memory == "shared" ? "shared memory" : "loopback TCP");
  if (command.operation == "barrier") {
    fmt::print("   {}\n", format_seconds(points.front().seconds));
    return;
  }
  fmt::print("   limit: memcpy by all ranks at once\n");
  Table table({{"SIZE", true},
               {"TIME", true},
               {"ALGBW GB/s", true},
               {"BUSBW GB/s", true},
               {"LIMIT GB/s", true},
               {"OF LIMIT", true}});
  for (const auto& point : points)
    table.add({{size_title(point.size_bytes)},
               {format_seconds(point.seconds)},
               {gigabytes(point.algbw()), Colour::bold},
               {gigabytes(point.busbw())},
               {gigabytes(point.memcpy_bw())},
               {percent(point.busbw(), point.memcpy_bw())}});
  fmt::print("{}", table.to_string());
}

std::string to_json(const CollectiveCommand& command, const std::vector<CollectivePoint>& points) {
  json::array list;
  for (const auto& point : points) {
    json::object value{{"size_bytes", point.size_bytes}, {"seconds", point.seconds}};
    if (point.size_bytes > 0) {
      value["algbw_bytes_per_s"] = point.algbw();
      value["busbw_bytes_per_s"] = point.busbw();
      value["limit_bytes_per_s"] = point.memcpy_bw();
      value["of_limit"] = point.busbw() / point.memcpy_bw();
    }
    list.push_back(std::move(value));
  }
  return json::serialize(json::object{{"operation", command.operation},
                                      {"type", command.type},
                                      {"reduce", command.reduce},
                                      {"in_rank_order", command.in_rank_order},
                                      {"ranks", command.ranks},
                                      {"memory", command.memory},
                                      {"limit", "memcpy by all ranks at once"},
                                      {"points", std::move(list)}});
}

int run_collective(const CollectiveCommand& command, bool as_json) {
  const auto points = measure(command, as_json);
  PlotLine algbw{"algbw", {}}, busbw{"busbw", {}}, limit{"memcpy", {}, true};
  for (const auto& point : points) {
    const auto size = static_cast<double>(point.size_bytes);
    algbw.points.emplace_back(size, point.algbw() / 1e9);
    busbw.points.emplace_back(size, point.busbw() / 1e9);
    limit.points.emplace_back(size, point.memcpy_bw() / 1e9);
  }
  write_plot(command.plot, size_plot(fmt::format("{}, {} ranks", command.operation, command.ranks),
                                     "GB/s", {algbw, busbw, limit}));
  if (as_json)
    fmt::print("{}\n", to_json(command, points));
  else
    print_table(command, points);
  return kExitOk;
}

}  // namespace

void add_bench_collective(CLI::App& bench, Shell& shell) {
  auto command = std::make_shared<CollectiveCommand>();
  auto* collective =
      add_command(bench, shell, "collective", "Operations of several processes, verified",
                  "causeway bench collective --ranks 4\n  causeway bench collective --operation "
                  "all_to_all --memory host --plot all_to_all.svg",
                  [command, &shell]() { return run_collective(*command, shell.json); });
  collective
      ->add_option("--operation", command->operation,
                   "all_reduce (default), reduce_scatter, all_gather, broadcast, all_to_all, "
                   "barrier")
      ->check(CLI::IsMember(
          {"all_reduce", "reduce_scatter", "all_gather", "broadcast", "all_to_all", "barrier"}))
      ->type_name("NAME");
  collective->add_option("--ranks", command->ranks, "Processes (2)")->check(CLI::Range(2, 64));
  add_size_option(*collective, command->sizes, "64KiB,1MiB,4MiB,16MiB");
  collective->add_option("--type", command->type, "f32 (default), f64, f16, bf16, i32, i64")
      ->check(CLI::IsMember({"f32", "f64", "f16", "bf16", "i32", "i64"}))
      ->type_name("TYPE");
  collective->add_option("--reduce", command->reduce, "sum (default), avg, max, min")
      ->check(CLI::IsMember({"sum", "avg", "max", "min"}))
      ->type_name("HOW");
  collective->add_flag("--in-rank-order", command->in_rank_order,
                       "The bits of one process, whatever the way");
  collective
      ->add_option("--memory", command->memory,
                   "shared (slots of shared memory), host (channels over loopback TCP)")
      ->check(CLI::IsMember({"shared", "host"}))
      ->type_name("KIND");
  collective->add_option("--rounds", command->rounds, "Figures are medians over so many (5)")
      ->check(CLI::Range(1, 1000));
  collective->add_option("--seconds", command->seconds, "Per size (1)")
      ->check(CLI::Range(0.01, 600.0));
  add_plot_option(*collective, command->plot);
}

}  // namespace causeway::tools
