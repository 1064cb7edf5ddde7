// Every GPU test and benchmark of the folder it lies in, one after the other, into one JSON.
//
// Shape:   parts are programs beside this one; each has a limit, and all of them together have one.
//          A part that fails or hangs does not stop the others.
// Exit:    0 all parts passed or were absent, 1 a part failed, was late or was not begun, 2 usage,
//          or --out cannot be written.
#include <sys/prctl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <optional>
#include <sstream>

#include "tests/gpu/part_run.h"
#include "tools/base/process.h"

using namespace causeway::gpu;
namespace json = boost::json;
using Clock = std::chrono::steady_clock;

namespace {

struct Options {
  std::string out = "gpu-results.json";
  bool quick = false;
  int total_s = 460;
  int part_s = 0;  // 0: each has its own.
  std::vector<std::string> only;
};

std::vector<Part> all_parts(const Options& options) {
  using std::chrono::seconds;
  const auto folder = causeway::tools::executable_folder() + "/";
  const std::string mib = options.quick ? "8" : "1024";
  const std::string rounds = options.quick ? "2" : "9";
  const auto bench = [&](const std::string& name, int limit_s) {
    return Part{
        name, {folder + "gpu_bench", name, "--mib", mib, "--rounds", rounds}, seconds(limit_s)};
  };
  std::vector<Part> parts{
      bench("card", 30),
      bench("probe", 40),
      {"conformance", {folder + "cuda_conformance", "--reporters=json"}, seconds(100)},
      {"backend", {folder + "cuda_backend_test", "--no-colors=true"}, seconds(60), true},
      bench("vmm", 30),
      bench("copies", 50),
      bench("train_gpt", 120),
      bench("zero_copy", 30),
      bench("move", 40),
      bench("staged", 40),
      bench("ucx", 40),
      bench("nccl", 40)};
  for (auto& part : parts)
    if (options.part_s > 0) part.limit = std::min(part.limit, seconds(options.part_s));
  return parts;
}

std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string date() {
  char text[32];
  const auto now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

// Of the parts' results; null where it is not known.
json::value from_card(const json::object& parts, const char* key) {
  const auto* const card = parts.if_contains("card");
  if (card == nullptr || card->as_object().at("result").as_string() != "passed") return nullptr;
  const auto* const data = card->as_object().if_contains("data");
  if (data == nullptr || !data->is_object()) return nullptr;
  const auto* const value = data->as_object().if_contains(key);
  return value != nullptr ? *value : json::value(nullptr);
}

// All of it or what was there before, whenever this process or the machine ends.
bool write(const std::string& path, const json::object& report) {
  const auto part = path + ".part";
  std::error_code ignored;
  const auto there = std::filesystem::symlink_status(path, ignored);
  if (std::filesystem::exists(there) && !std::filesystem::is_regular_file(there)) {
    std::cerr << "gpu_report: cannot write '" << path << "': it is no regular file\n";
    return false;  // A rename would take a device's or link's place.
  }
  std::ofstream file(part);
  file << json::serialize(report) << '\n';
  file.close();
  if (file && std::rename(part.c_str(), path.c_str()) == 0) return true;
  std::cerr << "gpu_report: cannot write '" << path << "'\n";
  return false;
}

json::object frame(const Options& options) {
  utsname system{};
  ::uname(&system);
  std::string version = first_line("/proc/driver/nvidia/version");
  const auto made = first_line((causeway::tools::executable_folder() + "/made-of.txt").c_str());
  json::object report{{"date", date()},
                      {"system", std::string(system.sysname) + " " + system.release},
                      {"setting", options.quick ? "quick" : "full"}};
  report["driver"] = version.empty() ? json::value(nullptr) : json::value(version);
  report["made_of"] = made.empty() ? json::value(nullptr) : json::value(made);
  return report;
}

int run(const Options& options) {
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  const auto parts = all_parts(options);
  for (const auto& name : options.only)
    if (std::ranges::none_of(parts, [&](const Part& part) { return part.name == name; })) {
      std::cerr << "gpu_report: no part '" << name << "'\n";
      return 2;
    }
  auto report = frame(options);
  const auto start = Clock::now();
  const auto end = start + std::chrono::seconds(options.total_s);
  const bool is_terminal = ::isatty(STDERR_FILENO) != 0;
  json::object results;
  int failures = 0;
  const auto save = [&](bool is_complete) {
    for (const char* key :
         {"card", "cards", "compute_capability", "cuda_version", "software_driver"})
      report[key] = from_card(results, key);
    report["complete"] = is_complete;
    report["failures"] = failures;
    report["seconds"] = std::chrono::duration<double>(Clock::now() - start).count();
    report["parts"] = results;
    return write(options.out, report);
  };
  if (!save(false)) return 2;
  for (auto part : parts) {
    if (!options.only.empty() && std::ranges::find(options.only, part.name) == options.only.end())
      continue;
    const auto left = std::chrono::floor<std::chrono::seconds>(end - Clock::now());
    part.limit = std::min(part.limit, left);
    if (is_terminal) std::cerr << part.name << " ..." << std::flush;
    auto result = part.limit.count() <= 0 ? not_started(part)
                  : part.by_case          ? run_cases(part)
                                          : run_part(part);
    const std::string how(result.at("result").as_string());
    std::cerr << (is_terminal ? "\r" : "") << part.name << ": " << how;
    for (const char* why : {"error", "absent"})
      if (const auto* const text = result.if_contains(why); text != nullptr && text->is_string())
        std::cerr << " (" << std::string(text->as_string()) << ")";
    std::cerr << "\n";
    if (how != "passed" && how != "absent") ++failures;
    results[part.name] = std::move(result);
    (void)save(false);  // What is known so far, should the machine end before we do.
  }
  if (!save(true)) return 1;
  std::cerr << (failures == 0 ? "all well" : std::to_string(failures) + " failed") << ": "
            << options.out << "\n";
  return failures == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Runs every GPU test and benchmark of this folder and writes one JSON of results.");
  app.add_option("--out", options.out, "Where the results go")->capture_default_str();
  app.add_flag("--quick", options.quick, "Small memory and few rounds: to see that it works");
  app.add_option("--only", options.only, "Parts to run: card,probe,...")->delimiter(',');
  app.add_option("--total-s", options.total_s, "Seconds for all parts together")
      ->check(CLI::Range(1, 3600))
      ->capture_default_str();
  app.add_option("--part-s", options.part_s, "Seconds for each part at most; 0: each its own")
      ->check(CLI::Range(0, 3600))
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  try {
    return run(options);
  } catch (const std::exception& error) {
    std::cerr << "gpu_report: " << error.what() << "\n";
    return 1;
  }
}
