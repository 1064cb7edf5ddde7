// causeway bench: what its subcommands share.
#include <fmt/format.h>

#include <algorithm>

#include "causeway/cluster.h"
#include "tools/base/files.h"
#include "tools/base/terminal.h"
#include "tools/commands/bench/commands.h"

namespace causeway::tools {

void add_plot_option(CLI::App& command, std::string& plot) {
  command.add_option("--plot", plot, "Draw the figures there, as SVG")->type_name("FILE");
}

void add_size_option(CLI::App& command, std::vector<std::string>& sizes,
                     const std::string& defaults) {
  command.add_option("--size", sizes, "Sizes of a piece (default " + defaults + ")")
      ->type_name("BYTES,...")
      ->delimiter(',');
}

std::vector<std::uint64_t> parse_sizes(const std::vector<std::string>& texts,
                                       const std::vector<std::string>& defaults,
                                       std::uint64_t most_bytes) {
  std::vector<std::uint64_t> sizes;
  for (const auto& text : texts.empty() ? defaults : texts) {
    sizes.push_back(parse_bytes(text));
    if (sizes.back() == 0) throw Error(Errc::invalid_argument, "--size 0: nothing to measure");
    if (sizes.back() > most_bytes)
      throw Error(Errc::invalid_argument,
                  fmt::format("--size {}: {} at most", text, format_bytes(most_bytes)));
  }
  return sizes;
}

std::string joined(const std::vector<std::uint64_t>& sizes) {
  return fmt::format("{}", fmt::join(sizes, ","));
}

std::string size_title(std::uint64_t bytes) {
  if (bytes >= 1048576 && bytes % 1048576 == 0) return fmt::format("{} MiB", bytes >> 20);
  if (bytes >= 1024 && bytes % 1024 == 0) return fmt::format("{} KiB", bytes >> 10);
  return fmt::format("{} B", bytes);
}

std::string gigabytes(double bytes_per_s) { return fmt::format("{:.2f}", bytes_per_s / 1e9); }

std::string percent(double value, const std::optional<double>& limit) {
  return limit && *limit > 0 ? fmt::format("{:.0f}%", 100 * value / *limit) : "-";
}

boost::json::value optional_json(const std::optional<double>& value) {
  return value ? boost::json::value(*value) : boost::json::value(nullptr);
}

Plot size_plot(std::string title, std::string y_label, std::vector<PlotLine> lines) {
  return {std::move(title), "size", std::move(y_label),
          [](double value) { return size_title(static_cast<std::uint64_t>(value)); },
          std::move(lines)};
}

void write_plot(const std::string& path, const Plot& plot) {
  if (!path.empty()) write_file(path, to_svg(plot));
}

Progress::Progress(bool is_wanted, std::size_t steps)
    : show_(is_wanted && is_terminal(2)), steps_(std::max<std::size_t>(steps, 1)) {}
Progress::~Progress() {
  if (show_) fmt::print(stderr, "\r\033[K");
}
void Progress::begin(const std::string& what) {
  if (!show_) return;
  const auto share = static_cast<double>(done_++) / static_cast<double>(steps_);
  fmt::print(stderr, "\r\033[K{} {}", bar(share, 20), fitted(what, 50));
  std::fflush(stderr);
}

void add_bench(CLI::App& app, Shell& shell) {
  auto* bench = app.add_subcommand("bench", "Measure, in percent of the limit");
  bench->require_subcommand(1);
  bench->footer(std::string("Example:\n  causeway bench copy --lab two-nodes\n"
                            "  causeway bench latency\n\n") +
                kExitCodesText);
  add_bench_copy(*bench, shell);
  add_bench_latency(*bench, shell);
  add_bench_collective(*bench, shell);
  add_bench_connections(*bench, shell);
}

}  // namespace causeway::tools
