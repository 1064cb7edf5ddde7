// Goal:   bench measures what it was asked for, verifies bytes, names the limit, and leaves nothing
//         behind: no region, no process.
// Method: small figures, in a lab where a pool is needed; what the figures are is for a person to
//         judge, not for a test on a shared machine, so only a floor far below any healthy value is
//         checked.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <csignal>
#include <thread>

#include "tests/tools/run_command.h"

using namespace causeway;
using causeway::test::CommandResult;
using causeway::test::processes_with;
using causeway::test::TemporaryFolder;

namespace json = boost::json;

class Lab {
 public:
  explicit Lab(const std::string& name) : name_(name) {
    REQUIRE(run({"lab", "up", name, "--name", "b"}).exit_code == 0);
  }
  ~Lab() {
    (void)run({"lab", "down", "b"});
    for (const int pid : processes_with(folder_.path() + "/causeway-")) ::kill(pid, SIGKILL);
  }
  CommandResult run(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), CAUSEWAY);
    return test::run_command(std::move(arguments), {{"XDG_RUNTIME_DIR", folder_.path()}},
                             std::chrono::seconds(120));
  }

 private:
  TemporaryFolder folder_;
  std::string name_;
};

TEST_CASE("between two nodes: push and pull against ucx_perftest") {
  const Lab lab("two-nodes");
  const auto result = lab.run({"bench", "copy", "--lab", "b", "--size", "64KiB,1MiB", "--rounds",
                               "2", "--seconds", "0.1", "--json"});
  INFO(result.err);
  REQUIRE(result.exit_code == 0);
  const auto value = json::parse(result.out);
  CHECK(value.at("from").as_string() == "a/gpu0");
  CHECK(value.at("to").as_string() == "b/gpu0");
  REQUIRE(value.at("points").as_array().size() == 2);
  for (const auto& point : value.at("points").as_array()) {
    CHECK_FALSE(point.at("mapped").as_bool());
    CHECK(point.at("push_bytes_per_s").to_number<double>() > 1e6);
    CHECK(point.at("pull_bytes_per_s").to_number<double>() > 1e6);
    if (value.at("limit").as_string() == "ucx_perftest tag_bw") {
      CHECK(point.at("limit_bytes_per_s").to_number<double>() > 1e6);
      CHECK(point.at("push_of_limit").to_number<double>() > 0);
    }
  }
  const auto status = json::parse(lab.run({"status", "--lab", "b", "--json"}).out);
  CHECK(status.at("regions").as_array().empty());
  CHECK_FALSE(status.at("routes").as_array().empty());

  const auto text = lab.run({"bench", "copy", "--lab", "b", "--size", "1MiB", "--rounds", "1",
                             "--seconds", "0.05", "--no-compare"});
  CHECK(text.exit_code == 0);
  CHECK(text.out.find("1 MiB") != std::string::npos);
  CHECK(text.out.find("limit: not measured") != std::string::npos);
}

TEST_CASE("within a node a region is mapped and compared with memcpy") {
  const Lab lab("two-nodes");
  const auto result = lab.run({"bench", "copy", "--lab", "b", "--from", "a/gpu0", "--to", "a/gpu1",
                               "--size", "1MiB", "--rounds", "2", "--seconds", "0.1", "--json"});
  INFO(result.err);
  REQUIRE(result.exit_code == 0);
  const auto value = json::parse(result.out);
  CHECK(value.at("limit").as_string() == "memcpy");
  CHECK(value.at("points").at(0).at("mapped").as_bool());
  CHECK(value.at("points").at(0).at("mapped_of_limit").to_number<double>() > 0.1);
}

TEST_CASE("what does not fit is said, and what does not exist is an error") {
  const Lab lab("desktop-and-hgx");
  const auto defaults = lab.run({"bench", "copy", "--lab", "b", "--rounds", "1", "--seconds",
                                 "0.05", "--no-compare", "--json"});
  INFO(defaults.err);
  REQUIRE(defaults.exit_code == 0);
  CHECK(json::parse(defaults.out).at("points").as_array().size() == 2);
  CHECK(json::parse(defaults.out).at("skipped").as_array().size() == 1);
  const auto asked = lab.run({"bench", "copy", "--lab", "b", "--size", "64MiB", "--no-compare"});
  CHECK(asked.exit_code == 3);
  CHECK(lab.run({"bench", "copy", "--lab", "b", "--size", "0"}).exit_code == 1);
  const auto nowhere = lab.run({"bench", "copy", "--lab", "b", "--to", "hgx/gpu99"});
  CHECK(nowhere.exit_code == 1);
  CHECK(nowhere.err.find("hgx/gpu99") != std::string::npos);
}

TEST_CASE("a direction, several copies at once, an explanation and a picture") {
  const Lab lab("two-nodes");
  const TemporaryFolder folder;
  const auto plot = folder.path() + "/copy.svg";
  const auto result = lab.run({"bench", "copy", "--lab", "b", "--size", "64KiB", "--rounds", "1",
                               "--seconds", "0.05", "--no-compare", "--direction", "pull",
                               "--concurrency", "3", "--explain", "--plot", plot, "--json"});
  INFO(result.err);
  REQUIRE(result.exit_code == 0);
  const auto value = json::parse(result.out);
  const auto& point = value.at("points").at(0);
  CHECK(point.at("push_bytes_per_s").is_null());
  CHECK(point.at("pull_bytes_per_s").to_number<double>() > 1e6);
  CHECK(value.at("concurrency") == 3);
  CHECK(value.at("explain").at("rails").at(0).at("interface") == "lo");
  CHECK(value.at("explain").at("part_bytes").to_number<int>() > 0);
  // Pulled: the target's node has the rail.
  const auto& probed = value.at("explain").at("probed").at(0);
  CHECK(probed.at("from") == "b");
  CHECK(probed.at("node") == "a");
  CHECK(probed.at("probes").to_number<int>() == 1);
  CHECK(probed.at("answer_s").to_number<double>() > 0);
  CHECK_FALSE(probed.at("reason").as_string().empty());
  for (const auto& trial : probed.at("trials").as_array())
    CHECK(trial.at("write_bytes_per_s").to_number<double>() > 1e6);
  const auto svg = tools::read_file(plot).value_or("");
  CHECK(svg.find(">pull</text>") != svg.npos);
  CHECK(svg.find(">push</text>") == svg.npos);

  const auto mapped =
      lab.run({"bench", "copy", "--lab", "b", "--from", "a/gpu0", "--to", "a/gpu1", "--size",
               "64KiB", "--rounds", "1", "--seconds", "0.05", "--concurrency", "2", "--explain"});
  CHECK(mapped.exit_code == 0);
  CHECK(mapped.out.find("why: both regions are memory that this process maps") !=
        std::string::npos);
  CHECK(lab.run({"bench", "copy", "--lab", "b", "--direction", "up"}).exit_code == 2);
  CHECK(lab.run({"bench", "copy", "--lab", "b", "--concurrency", "0"}).exit_code == 2);
  const auto status = json::parse(lab.run({"status", "--lab", "b", "--json"}).out);
  CHECK(status.at("regions").as_array().empty());
}

static CommandResult bench(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {CAUSEWAY, "bench"});
  return test::run_command(std::move(arguments), {}, std::chrono::seconds(120));
}

static json::value figures(std::vector<std::string> arguments) {
  arguments.push_back("--json");
  const auto result = bench(std::move(arguments));
  INFO(result.out, result.err);
  REQUIRE(result.exit_code == 0);
  CHECK(result.err.empty());
  return json::parse(result.out);
}

TEST_CASE("latency: percentiles in order, against raw active messages") {
  const auto value = figures({"latency", "--size", "8B,4KiB", "--seconds", "0.1"});
  REQUIRE(value.at("points").as_array().size() == 2);
  for (const auto& point : value.at("points").as_array()) {
    const auto of = [&](const char* name) { return point.at(name).to_number<double>(); };
    CHECK(of("trips") > 0);
    CHECK(of("p50_s") > 1e-7);
    CHECK(of("p50_s") <= of("p90_s"));
    CHECK(of("p99_s") <= of("p999_s"));
    CHECK(of("p999_s") <= of("max_s"));
    if (!point.at("limit_s").is_null()) CHECK(of("limit_s") > 1e-7);
  }
  CHECK(value.at("points").at(1).at("size_bytes") == 4096);
  const auto shared = figures({"latency", "--memory", "shared", "--size", "8", "--seconds", "0.1"});
  CHECK(shared.at("points").at(0).at("p50_s").to_number<double>() > 0);
  const auto many = figures({"latency", "--concurrency", "4", "--size", "8", "--seconds", "0.1"});
  CHECK(many.at("points").at(0).at("limit_s").is_null());
  const auto text = bench({"latency", "--size", "64B", "--seconds", "0.05", "--no-compare"});
  CHECK(text.out.find("64 B") != std::string::npos);
  CHECK(text.out.find("limit: not measured") != std::string::npos);
}

TEST_CASE("collective: every operation, with rates as nccl-tests define them") {
  for (const char* operation :
       {"all_reduce", "reduce_scatter", "all_gather", "broadcast", "all_to_all"}) {
    CAPTURE(operation);
    const auto value =
        figures({"collective", "--operation", operation, "--ranks", "3", "--size", "1000,64KiB",
                 "--rounds", "1", "--seconds", "0.05", "--type", "bf16"});
    REQUIRE(value.at("points").as_array().size() == 2);
    const auto& point = value.at("points").at(0);
    CHECK(point.at("size_bytes") == 1008);  // Whole values for all ranks.
    const auto of = [&](const char* name) { return point.at(name).to_number<double>(); };
    CHECK(of("algbw_bytes_per_s") == doctest::Approx(1008 / of("seconds")));
    const double factor = std::string_view(operation) == "all_reduce"  ? 4.0 / 3
                          : std::string_view(operation) == "broadcast" ? 1.0
                                                                       : 2.0 / 3;
    CHECK(of("busbw_bytes_per_s") ==
          doctest::Approx(factor * of("algbw_bytes_per_s")).epsilon(0.001));
    CHECK(of("of_limit") > 0);
  }
  for (const char* type : {"f32", "f64", "f16", "i32", "i64"}) {
    CAPTURE(type);
    (void)figures({"collective", "--memory", "host", "--size", "4KiB", "--rounds", "1", "--seconds",
                   "0.05", "--type", type, "--reduce", "avg", "--in-rank-order"});
  }
  const auto barrier =
      figures({"collective", "--operation", "barrier", "--rounds", "1", "--seconds", "0.05"});
  CHECK(barrier.at("points").at(0).at("seconds").to_number<double>() > 0);
  CHECK(barrier.at("points").at(0).as_object().if_contains("busbw_bytes_per_s") == nullptr);
}

TEST_CASE("connections: all answer, and each has its price") {
  const auto value = figures({"connections", "--count", "30", "--concurrency", "4"});
  CHECK(value.at("refused").is_null());
  REQUIRE(value.at("points").as_array().size() == 10);
  const auto& last = value.at("points").as_array().back();
  CHECK(last.at("held") == 30);
  CHECK(last.at("open_p50_s").to_number<double>() <= last.at("open_p99_s").to_number<double>());
  CHECK(last.at("server_descriptors").to_number<int>() >= 30);
  CHECK(last.at("server_descriptors").to_number<int>() < 300);
}

TEST_CASE("connections: where descriptors end, it says how many there are and why no more") {
  const auto result = test::run_command(
      {"/bin/sh", "-c",
       std::string("ulimit -n 100; exec ") + CAUSEWAY + " bench connections --count 200 --json"},
      {}, std::chrono::seconds(120));
  INFO(result.out, result.err);
  REQUIRE(result.exit_code == 0);
  const auto value = json::parse(result.out);
  CHECK(value.at("refused").is_string());
  const auto held = value.at("points").as_array().back().at("held").to_number<int>();
  CHECK(held > 2);
  CHECK(held < 100);
}

TEST_CASE("bad input is an error that names it, and nothing stays behind") {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"latency", "--size", "0"},
        {"latency", "--size", "2MiB"},
        {"latency", "--size", "eight"},
        {"latency", "--seconds", "0.05", "--size", "8", "--no-compare", "--plot", "/nowhere/x.svg"},
        {"collective", "--operation", "barrier", "--size", "8"},
        {"collective", "--size", "4GiB"}}) {
    const auto result = bench(arguments);
    CAPTURE(result.err);
    CHECK(result.exit_code == 1);
    CHECK(result.err.starts_with("causeway: "));
  }
  for (const std::vector<std::string>& arguments : {std::vector<std::string>{},
                                                    {"latency", "--memory", "disk"},
                                                    {"latency", "--concurrency", "0"},
                                                    {"collective", "--operation", "gossip"},
                                                    {"collective", "--type", "f8"},
                                                    {"collective", "--ranks", "1"},
                                                    {"collective", "--rounds", "0"},
                                                    {"connections", "--count", "0"},
                                                    {"connections", "--count", "many"}})
    CHECK(bench(arguments).exit_code == 2);
  CHECK(bench({"collective", "--help"}).out.find("causeway bench collective") != std::string::npos);
}

TEST_CASE("an interrupted measurement ends with all of its processes") {
  test::RunningCommand command(
      {CAUSEWAY, "bench", "collective", "--ranks", "3", "--size", "64KiB", "--seconds", "61.25"});
  const auto count = [] { return processes_with("--seconds 61.25").size(); };
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (count() < 5 && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
  REQUIRE(count() == 5);  // The command, the program that forks, and three ranks.
  command.process().signal(SIGINT);
  CHECK(command.finish(std::chrono::seconds(20)).exit_code != 0);
  CHECK(test::wait_no_process_with("--seconds 61.25", std::chrono::seconds(20)));
}
