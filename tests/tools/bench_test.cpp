// Goal:   bench copy measures both ways, verifies bytes, names the limit, and leaves the pool
// empty. Method: small figures in a lab; what the figures are is for a person to judge, not for a
// test on a
//         shared machine, so only a floor far below any healthy value is checked.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <csignal>

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
