// causeway topo measure: what the memory, the transport and the network of a machine or pool can
// really do, beside what they should do.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <functional>
#include <memory>

#include "causeway/cluster.h"
#include "causeway/topology_export.h"
#include "tools/base/files.h"
#include "tools/base/interrupt.h"
#include "tools/bench/copy_bench.h"
#include "tools/bench/memory_bench.h"
#include "tools/commands/topo/commands.h"
#include "tools/commands/topo/source.h"
#include "tools/commands/topo/text.h"
#include "tools/lab.h"

namespace causeway::tools {

namespace {

struct MeasureCommand {
  TopoSource source;
  std::vector<std::string> only;
  std::string size = "4MiB";
  double seconds = 0.3;
  double timeout_s = 10;
  std::string output;

  [[nodiscard]] bool wants(const std::string& what) const {
    return only.empty() || std::ranges::find(only, what) != only.end();
  }
};

struct Measurement {
  std::string what;  // "memory", "loopback", "network", "gpu"
  std::string from;
  std::string to;
  std::optional<double> bytes_per_s = {};
  std::optional<double> reference_bytes_per_s = {};
  std::string reference = {};  // What the reference is: "spec", "ucx_perftest tag_bw".
  std::string remark = {};     // How it was measured, or why not.
};

// Takes down what it started.
class TemporaryLab {
 public:
  TemporaryLab() : name_(fmt::format("measure-{}", ::getpid())) { lab_up("two-nodes", name_); }
  TemporaryLab(const TemporaryLab&) = delete;
  TemporaryLab& operator=(const TemporaryLab&) = delete;
  ~TemporaryLab() {
    try {
      lab_down(name_);
    } catch (const std::exception& error) {
      fmt::print(stderr, "causeway: {}: {}\n", name_, error.what());
    }
  }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }

 private:
  std::string name_;
};

class Measuring {
 public:
  Measuring(const MeasureCommand& command, TopologyGraph graph, bool show_progress)
      : command_(command), graph_(std::move(graph)), show_(show_progress) {}

  void run() {
    plan();
    for (const auto& [name, task] : tasks_) {
      throw_if_interrupted();
      progress(name);
      task();
      ++done_;
    }
    if (show_) fmt::print(stderr, "\r\033[K");
  }

  [[nodiscard]] const std::vector<Measurement>& results() const noexcept { return results_; }
  [[nodiscard]] const TopologyGraph& graph() const noexcept { return graph_; }

 private:
  void plan();
  void plan_memory();
  void plan_network();
  void measure_memory(std::size_t from, std::size_t to);
  void measure_loopback();
  void measure_network(const DeviceName& from, const DeviceName& to);
  // What `task` measures, or the reason why it does not; an interrupt goes through.
  void attempt(Measurement measurement, const std::function<void(Measurement&)>& task);
  [[nodiscard]] CopyBenchOptions copy_options(const DeviceName& from, const DeviceName& to) const;
  void record(const std::string& from, const std::string& to, double bytes_per_s);
  void progress(const std::string& name) const;

  const MeasureCommand& command_;
  TopologyGraph graph_;
  bool show_;
  std::vector<std::pair<std::string, std::function<void()>>> tasks_;
  std::size_t done_ = 0;
  std::vector<Measurement> results_;
  std::optional<Pool> pool_;
};

void Measuring::progress(const std::string& name) const {
  if (!show_) return;
  const double share = static_cast<double>(done_) / static_cast<double>(tasks_.size());
  fmt::print(stderr, "\r\033[K{} {}/{} {}", bar(share, 20), done_ + 1, tasks_.size(),
             fitted(name, 40));
  std::fflush(stderr);
}

void Measuring::plan() {
  if (command_.source.is_pool()) {
    plan_network();
  } else {
    if (command_.wants("memory")) plan_memory();
    if (command_.wants("loopback"))
      tasks_.emplace_back("loopback transport", [this]() { measure_loopback(); });
  }
  if (!command_.wants("gpu")) return;
  const auto gpus = static_cast<std::size_t>(
      std::ranges::count(graph_.components, ComponentKind::gpu, &Component::kind));
  if (gpus > 0)
    results_.push_back(
        {"gpu", counted(gpus, "GPU"), "", {}, {}, {}, "no CUDA backend in this build"});
}

NumaPlace place_of(const TopologyGraph& graph, const Component& host) {
  NumaPlace place{host.numa.value_or(0), host.cpus};
  if (place.cpus.empty())
    for (const auto& cpu : graph.components)
      if (cpu.kind == ComponentKind::cpu && cpu.node == host.node && cpu.numa == host.numa)
        place.cpus = cpu.cpus;
  return place;
}

void Measuring::plan_memory() {
  std::vector<std::size_t> hosts;
  for (std::size_t i = 0; i < graph_.components.size(); ++i)
    if (graph_.components[i].kind == ComponentKind::host) hosts.push_back(i);
  for (const auto from : hosts)
    for (const auto to : hosts)
      tasks_.emplace_back(fmt::format("memory {} {} {}", graph_.components[from].name, arrow(),
                                      graph_.components[to].name),
                          [this, from, to]() { measure_memory(from, to); });
}

void Measuring::attempt(Measurement measurement, const std::function<void(Measurement&)>& task) {
  try {
    task(measurement);
  } catch (const Error& error) {
    if (error.code() == Errc::cancelled) throw;
    measurement.bytes_per_s.reset();
    measurement.remark = error.what();
  }
  results_.push_back(std::move(measurement));
}

// A pair's figure; where it is there already, the new one stands.
void Measuring::record(const std::string& from, const std::string& to, double bytes_per_s) {
  const Figure figure{bytes_per_s, Provenance::measured};
  for (auto& pair : graph_.pairs)
    if (pair.from == from && pair.to == to) {
      pair.bandwidth_bytes_per_s = figure;
      return;
    }
  Pair pair{from, to};
  pair.bandwidth_bytes_per_s = figure;
  graph_.pairs.push_back(std::move(pair));
}

void Measuring::measure_memory(std::size_t from, std::size_t to) {
  const auto& source = graph_.components[from];
  const auto& target = graph_.components[to];
  attempt({"memory", source.name, target.name}, [&](Measurement& result) {
    if (const auto cost = Topology(graph_).access(DeviceName::parse(source.name),
                                                  DeviceName::parse(target.name))) {
      result.reference_bytes_per_s = cost->rate.bandwidth_bytes_per_s;
      result.reference = to_string(cost->rate.provenance);
    }
    MemoryCopyOptions options;
    options.time = std::chrono::duration<double>(command_.seconds);
    const auto copy =
        measure_memory_copy(place_of(graph_, source), place_of(graph_, target), options);
    result.remark = counted(copy.threads, "core") + ", data checked";
    if (from != to) {
      result.bytes_per_s = copy.bytes_per_s;
      record(source.name, target.name, copy.bytes_per_s);
      return;
    }
    // Within one memory every byte is read there and written there.
    result.bytes_per_s = 2 * copy.bytes_per_s;
    result.remark += ", reads and writes";
    for (auto& link : graph_.links)
      if (link.kind == LinkKind::memory && (link.a == source.name || link.b == source.name))
        link.effective_bytes_per_s = Figure{*result.bytes_per_s, Provenance::measured};
  });
}

CopyBenchOptions Measuring::copy_options(const DeviceName& from, const DeviceName& to) const {
  CopyBenchOptions options;
  options.from = from;
  options.to = to;
  options.sizes_bytes = {parse_bytes(command_.size)};
  options.rounds = 3;
  options.point_time = std::chrono::duration<double>(command_.seconds);
  options.deadline = std::chrono::steady_clock::now() +
                     std::chrono::milliseconds(static_cast<std::int64_t>(command_.timeout_s * 1e3));
  return options;
}

Pool connect_with_timeout(const Connection& connection, double timeout_s) {
  auto options = pool_options(connection);
  options.timeout = std::chrono::milliseconds(static_cast<std::int64_t>(timeout_s * 1e3));
  return Pool::connect(options);
}

// Two daemons of our own: the transport as the pool uses it, between two processes.
void Measuring::measure_loopback() {
  attempt({"loopback", "one process", "another"}, [&](Measurement& result) {
    const TemporaryLab lab;
    Connection connection;
    connection.lab = lab.name();
    auto pool = connect_with_timeout(connection, command_.timeout_s);
    const auto bench =
        bench_copy(pool, copy_options(DeviceName::parse("a/gpu0"), DeviceName::parse("b/gpu0")));
    const auto& point = bench.points.front();
    result.bytes_per_s = point.push_bytes_per_s;
    result.reference_bytes_per_s = point.limit_bytes_per_s;
    result.reference = bench.limit_name;
    result.remark = format_bytes(point.size_bytes) + " pieces, data checked";
  });
}

void Measuring::plan_network() {
  if (!command_.wants("network")) return;
  (void)connect_pool(command_.source.connection);  // Its error says how to start one.
  pool_ = connect_with_timeout(command_.source.connection, command_.timeout_s);
  const auto status = pool_->status();
  std::vector<DeviceName> firsts;
  for (const auto& node : status.nodes)
    if (node.alive && !node.devices.empty()) firsts.push_back(node.devices.front().name);
  for (const auto& from : firsts)
    for (const auto& to : firsts)
      if (from.node != to.node)
        tasks_.emplace_back(fmt::format("{} {} {}", from.node, arrow(), to.node),
                            [this, from, to]() { measure_network(from, to); });
  if (tasks_.empty())
    throw Error(Errc::unsupported,
                "one node alone in the pool: there is no network to measure; without --lab or "
                "--pool this machine is measured");
}

void Measuring::measure_network(const DeviceName& from, const DeviceName& to) {
  attempt({"network", from.to_string(), to.to_string()}, [&](Measurement& result) {
    if (const auto cost = Topology(graph_).access(from, to)) {
      result.reference_bytes_per_s = cost->rate.bandwidth_bytes_per_s;
      result.reference = to_string(cost->rate.provenance);
    }
    auto options = copy_options(from, to);
    options.compare = false;
    const auto bench = bench_copy(*pool_, options);
    result.bytes_per_s = bench.points.front().push_bytes_per_s;
    result.remark = format_bytes(bench.points.front().size_bytes) + " pieces, data checked";
    record(from.to_string(), to.to_string(), *result.bytes_per_s);
  });
}

std::string share_of(const Measurement& entry) {
  if (!entry.bytes_per_s || !entry.reference_bytes_per_s || *entry.reference_bytes_per_s <= 0)
    return "-";
  return fmt::format("{:.0f}%", 100 * *entry.bytes_per_s / *entry.reference_bytes_per_s);
}

std::string result_table(const std::vector<Measurement>& results) {
  Table table({{"WHAT"},
               {"FROM", false, true},
               {"TO", false, true},
               {"MEASURED", true},
               {"OF", true},
               {"REFERENCE", true},
               {"SOURCE"}});
  std::string skipped;
  std::string remarks;
  for (const auto& entry : results) {
    if (!entry.bytes_per_s) {
      skipped += coloured(Colour::yellow, "skipped") +
                 wrapped(fmt::format("{} {}{}{}: {}", entry.what, entry.from,
                                     entry.to.empty() ? "" : fmt::format(" {} ", arrow()), entry.to,
                                     entry.remark),
                         9)
                     .substr(7);
      continue;
    }
    table.add({{entry.what},
               {entry.from},
               {entry.to},
               {format_rate(*entry.bytes_per_s), Colour::bold},
               {share_of(entry)},
               {entry.reference_bytes_per_s ? format_rate(*entry.reference_bytes_per_s) : "?"},
               {entry.reference, Colour::dim}});
    const auto remark = fmt::format("{}: {}", entry.what, entry.remark);
    if (remarks.find(remark) == remarks.npos) remarks += coloured(Colour::dim, remark) + "\n";
  }
  return (table.empty() ? "" : table.to_string() + remarks) + skipped;
}

std::string to_json(const std::vector<Measurement>& results, const std::string& output) {
  namespace json = boost::json;
  json::array list;
  for (const auto& entry : results) {
    json::object value{{"what", entry.what}, {"from", entry.from}, {"to", entry.to}};
    value["bandwidth_bytes_per_s"] =
        entry.bytes_per_s ? json::value(*entry.bytes_per_s) : json::value(nullptr);
    if (entry.reference_bytes_per_s) {
      value["reference_bytes_per_s"] = *entry.reference_bytes_per_s;
      value["reference"] = entry.reference;
    }
    value[entry.bytes_per_s ? "remark" : "skipped"] = entry.remark;
    list.push_back(std::move(value));
  }
  json::object value{{"measurements", std::move(list)}};
  if (!output.empty()) value["file"] = output;
  return json::serialize(value);
}

int run_measure(const MeasureCommand& command, bool json) {
  if (!command.source.is_pool() && !command.source.is_self())
    throw Error(Errc::invalid_argument,
                "a file cannot be measured: give --lab or --pool, or nothing for this machine");
  Measuring measuring(command, load_graph(command.source), !json && is_terminal(STDERR_FILENO));
  measuring.run();
  if (!command.output.empty()) write_file(command.output, graph_to_json(measuring.graph()));
  if (json) {
    fmt::print("{}\n", to_json(measuring.results(), command.output));
    return kExitOk;
  }
  fmt::print("{}", result_table(measuring.results()));
  if (!command.output.empty())
    fmt::print("{0} has the figures: causeway topo show --from {0}\n", command.output);
  return kExitOk;
}

}  // namespace

void add_topo_measure(CLI::App& topo, Shell& shell) {
  auto command = std::make_shared<MeasureCommand>();
  auto* measure =
      add_command(topo, shell, "measure", "What memory, transport and network really do",
                  "causeway topo measure -o measured.json\n  causeway topo measure --lab two-nodes",
                  [command, &shell]() { return run_measure(*command, shell.json); });
  measure->add_option("--only", command->only, "memory, loopback, network, gpu (all)")
      ->delimiter(',')
      ->check(CLI::IsMember({"memory", "loopback", "network", "gpu"}))
      ->type_name("WHAT");
  measure->add_option("--size", command->size, "Of one piece that is sent (4MiB)")
      ->type_name("BYTES");
  measure->add_option("--seconds", command->seconds, "For each figure (0.3)")
      ->check(CLI::Range(0.01, 60.0));
  measure->add_option("--timeout", command->timeout_s, "Of one pair, in seconds (10)")
      ->check(CLI::Range(0.1, 600.0));
  measure
      ->add_option("-o,--output", command->output,
                   "Write the topology with the measured figures there")
      ->type_name("FILE");
  add_source_options(*measure, command->source);
}

}  // namespace causeway::tools
