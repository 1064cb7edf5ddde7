// What the subcommands of `causeway bench` share.
#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tools/base/plot.h"
#include "tools/commands/command.h"

namespace causeway::tools {

void add_bench_copy(CLI::App& bench, Shell& shell);
void add_bench_latency(CLI::App& bench, Shell& shell);
void add_bench_collective(CLI::App& bench, Shell& shell);
void add_bench_connections(CLI::App& bench, Shell& shell);

void add_plot_option(CLI::App& command, std::string& plot);
void add_size_option(CLI::App& command, std::vector<std::string>& sizes,
                     const std::string& defaults);
// Errors: invalid_argument for 0, or more than `most_bytes`.
[[nodiscard]] std::vector<std::uint64_t> parse_sizes(const std::vector<std::string>& texts,
                                                     const std::vector<std::string>& defaults,
                                                     std::uint64_t most_bytes);
// "8,4096" for causeway-bench.
[[nodiscard]] std::string joined(const std::vector<std::uint64_t>& sizes);

[[nodiscard]] std::string size_title(std::uint64_t bytes);  // "8 B", "4 KiB", "1 MiB"
[[nodiscard]] std::string gigabytes(double bytes_per_s);
// "93%", or "-" if either is unknown.
[[nodiscard]] std::string percent(double value, const std::optional<double>& limit);
[[nodiscard]] boost::json::value optional_json(const std::optional<double>& value);

// Of sizes: GB/s or microseconds over bytes.
[[nodiscard]] Plot size_plot(std::string title, std::string y_label, std::vector<PlotLine> lines);
// Nothing if `path` is empty. Errors: io.
void write_plot(const std::string& path, const Plot& plot);

// A line on standard error of a terminal that says how far it is; none elsewhere, or with --json.
class Progress {
 public:
  Progress(bool is_wanted, std::size_t steps);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void begin(const std::string& what);  // The next step.

 private:
  bool show_;
  std::size_t steps_;
  std::size_t done_ = 0;
};

}  // namespace causeway::tools
