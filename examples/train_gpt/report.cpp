#include "report.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <map>
#include <set>

#include "causeway/cluster.h"
#include "collect.h"

namespace train_gpt {

namespace {

namespace json = boost::json;
using causeway::format_bytes;

constexpr std::array<const char*, 4> kKinds{"weights", "gradients", "optimizer", "activations"};

const char* name_of(causeway::StateKind kind) { return kKinds.at(static_cast<std::size_t>(kind)); }

// Text of a model that has not learnt much may hold any byte.
std::string printable(const std::string& text) {
  std::string result;
  for (const char letter : text)
    result += letter == '\n' || (letter >= ' ' && letter <= '~') ? letter : '.';
  return result;
}

std::string rate_text(double tokens_per_s) {
  return tokens_per_s < 1000 ? fmt::format("{:.0f} tokens/s", tokens_per_s)
                             : fmt::format("{:.2f} k tokens/s", tokens_per_s / 1000);
}

std::vector<PlacedBytes> own_placement(const PoolStorage& storage) {
  std::vector<PlacedBytes> placed;
  const auto add = [&](int stage, const char* kind, const auto& extents) {
    for (const auto& extent : extents)
      placed.push_back({stage, extent.device.to_string(), kind, extent.size_bytes});
  };
  for (const auto& part : storage.model().placements())
    add(part.stage, name_of(part.kind), part.extents);
  for (const auto& [stage, region] : storage.arenas()) add(stage, kKinds.back(), region.extents());
  return placed;
}

json::array to_json(const std::vector<PlacedBytes>& placement) {
  json::array result;
  for (const auto& part : placement)
    result.push_back({{"stage", part.stage},
                      {"device", part.device},
                      {"kind", part.kind},
                      {"bytes", part.bytes}});
  return result;
}

json::array to_json(const std::vector<causeway::Worker::Traffic>& routes) {
  json::array result;
  for (const auto& route : routes)
    result.push_back({{"from", route.from_node},
                      {"to", route.to_node},
                      {"transport", route.transport},
                      {"bytes", route.bytes},
                      {"messages", route.messages}});
  return result;
}

// Bytes of one device, by kind.
struct DeviceRow {
  std::set<int> stages;
  std::map<std::string, std::uint64_t> bytes;
  std::uint64_t total = 0;
};

std::string stage_text(const DeviceRow& row) {
  return fmt::format("{}", fmt::join(row.stages, ","));
}

void print_row(const std::string& name, const std::string& stages, const DeviceRow& row) {
  fmt::print("  {:<16} {:>6}", name, stages);
  for (const auto* kind : kKinds) {
    const auto entry = row.bytes.find(kind);
    fmt::print(" {:>11}", entry == row.bytes.end() ? "-" : format_bytes(entry->second));
  }
  fmt::print(" {:>11}\n", format_bytes(row.total));
}

void print_placement(const std::vector<PlacedBytes>& placement) {
  std::map<std::string, DeviceRow> rows;
  DeviceRow sum;
  for (const auto& part : placement) {
    for (auto* row : {&rows[part.device], &sum}) {
      row->bytes[part.kind] += part.bytes;
      row->total += part.bytes;
    }
    rows[part.device].stages.insert(part.stage);
  }
  fmt::print("\nWhere the bytes live\n  {:<16} {:>6}", "device", "stage");
  for (const auto* kind : kKinds) fmt::print(" {:>11}", kind);
  fmt::print(" {:>11}\n", "total");
  for (const auto& [device, row] : rows) print_row(device, stage_text(row), row);
  print_row("pool", "", sum);
}

// Nothing where it is the processor alone, as on every pool without GPU memory.
void print_compute(const std::vector<StageCompute>& compute) {
  std::map<std::string, std::set<int>> stages;
  for (const auto& [stage, by] : compute) stages[by].insert(stage);
  if (stages.size() == 1 && stages.begin()->first == processor<float>().describe()) return;
  fmt::print("\nWho computes\n");
  for (const auto& [by, which] : stages)
    fmt::print("  stage {:<10} {}\n", fmt::join(which, ", "), by);
}

void print_routes(const std::vector<causeway::Worker::Traffic>& routes) {
  fmt::print("\nWhich way they went\n");
  if (routes.empty()) fmt::print("  nothing left a process\n");
  for (const auto& route : routes)
    fmt::print("  {:<10} -> {:<10} {:<6} {:>11} in {} messages\n", route.from_node, route.to_node,
               route.transport, format_bytes(route.bytes), route.messages);
}

}  // namespace

Progress::Progress(std::uint64_t first_step, std::uint64_t steps, bool enabled)
    : first_(first_step),
      steps_(steps),
      every_(std::max<std::uint64_t>(1, (steps - std::min(first_step, steps)) / 10)),
      enabled_(enabled),
      terminal_(::isatty(STDOUT_FILENO) == 1) {}

Progress::~Progress() {
  if (open_line_) std::fputc('\n', stdout);
}

void Progress::update(std::uint64_t steps_done, double loss, double tokens_per_s) {
  if (!enabled_) return;
  const auto figures = fmt::format("step {:>4}/{}  loss {:.4f}  {}", steps_done, steps_, loss,
                                   rate_text(tokens_per_s));
  if (terminal_) {
    constexpr std::size_t kCells = 30;
    const auto filled = static_cast<std::size_t>(kCells * steps_done / steps_);
    fmt::print("\r[{}{}] {}\x1b[K", std::string(filled, '#'), std::string(kCells - filled, '.'),
               figures);
    open_line_ = true;
  } else if (steps_done == first_ + 1 || steps_done == steps_ || steps_done % every_ == 0) {
    fmt::print("{}\n", figures);
  }
  std::fflush(stdout);
}

void gather(Link& link, PoolStorage& storage, const causeway::Worker& worker, Report& report) {
  json::array compute;
  for (const int stage : worker.stages())
    compute.push_back({{"stage", stage}, {"by", storage.compute(stage).describe()}});
  const json::value mine{{"compute", std::move(compute)},
                         {"placement", to_json(own_placement(storage))},
                         {"routes", to_json(worker.traffic())}};
  std::map<std::array<std::string, 3>, causeway::Worker::Traffic> routes;
  for (const auto& text : all_gather(link, json::serialize(mine))) {
    const auto value = json::parse(text);
    for (const auto& part : value.at("compute").as_array())
      report.compute.push_back(
          {part.at("stage").to_number<int>(), std::string(part.at("by").as_string())});
    for (const auto& part : value.at("placement").as_array())
      report.placement.push_back(
          {part.at("stage").to_number<int>(), std::string(part.at("device").as_string()),
           std::string(part.at("kind").as_string()), part.at("bytes").to_number<std::uint64_t>()});
    for (const auto& part : value.at("routes").as_array()) {
      const std::string from(part.at("from").as_string());
      const std::string to(part.at("to").as_string());
      const std::string transport(part.at("transport").as_string());
      auto& route = routes
                        .try_emplace({from, to, transport},
                                     causeway::Worker::Traffic{from, to, transport, 0, 0})
                        .first->second;
      route.bytes += part.at("bytes").to_number<std::uint64_t>();
      route.messages += part.at("messages").to_number<std::uint64_t>();
    }
  }
  for (const auto& [key, route] : routes) report.routes.push_back(route);
}

void print_plan(const causeway::Plan& plan, int world, const Parallel& parallel) {
  std::uint64_t state = 0;
  std::uint64_t activations = 0;
  std::set<std::string> nodes;
  for (const auto& stage : plan.stages) {
    state += stage.state_bytes;
    activations += stage.activation_bytes;
    nodes.insert(stage.device.node);
  }
  fmt::print("{}: {} stages on {} in {} processes, {} of state, {} of activations\n", plan.model,
             plan.stages.size(), fmt::join(nodes, ", "), world, format_bytes(state),
             format_bytes(activations));
  if (parallel.ranks_per_stage() > 1)
    fmt::print("{} replicas of each stage, each of {} shards\n", parallel.data, parallel.tensor);
}

void print_report(const Report& report) {
  print_compute(report.compute);
  print_placement(report.placement);
  print_routes(report.routes);
  if (!report.steps.empty())
    fmt::print("\nloss {:.4f} -> {:.4f} in {} steps, {}{}\n", report.steps.front().loss,
               report.steps.back().loss, report.steps.size(), rate_text(report.tokens_per_s),
               report.stopped ? "; stopped by a signal" : "");
  if (!report.sample.empty())
    fmt::print("\nWhat it writes\n{}{}\n", printable(report.prompt), printable(report.sample));
}

void write_json(const std::string& path, const Report& report) {
  json::array steps;
  for (const auto& step : report.steps)
    steps.push_back({{"step", step.step},
                     {"loss", step.loss},
                     {"gradient_norm", step.gradient_norm},
                     {"seconds", step.seconds}});
  json::array compute;
  for (const auto& [stage, by] : report.compute) compute.push_back({{"stage", stage}, {"by", by}});
  const json::value value{
      {"model", report.plan.model},       {"stages", report.plan.stages.size()},
      {"steps", std::move(steps)},        {"tokens_per_s", report.tokens_per_s},
      {"compute", std::move(compute)},    {"placement", to_json(report.placement)},
      {"routes", to_json(report.routes)}, {"sample", printable(report.prompt + report.sample)},
      {"stopped", report.stopped}};
  errno = 0;
  std::ofstream file(path);
  file << json::serialize(value) << '\n';
  file.close();
  if (!file) throw causeway::system_error(fmt::format("cannot write '{}'", path), errno);
}

}  // namespace train_gpt
