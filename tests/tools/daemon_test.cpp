// Goal:   the daemon of a real machine: up, reachable by socket and by address and token, down.
// Method: the real programs in a runtime folder of the test's own.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <csignal>
#include <filesystem>
#include <set>

#include "tests/tools/run_command.h"
#include "tools/base/files.h"

using namespace causeway;
using causeway::test::CommandResult;
using causeway::test::processes_with;
using causeway::test::RunningCommand;
using causeway::test::TemporaryFolder;

namespace fs = std::filesystem;
namespace json = boost::json;

class Machine {
 public:
  CommandResult run(std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), CAUSEWAY);
    return test::run_command(std::move(arguments), {{"XDG_RUNTIME_DIR", folder_.path()}});
  }
  std::string state() const { return folder_.path() + "/causeway-" + std::to_string(::geteuid()); }
  const std::string& path() const { return folder_.path(); }
  ~Machine() {
    for (const int pid : processes_with(folder_.path() + "/causeway-")) ::kill(pid, SIGKILL);
  }

 private:
  TemporaryFolder folder_;
};

static unsigned mode_of(const std::string& path) {
  struct stat info {};
  REQUIRE(::lstat(path.c_str(), &info) == 0);
  return info.st_mode & 07777U;
}

TEST_CASE("up lends host memory; status works by socket and by address; down leaves nothing") {
  const Machine machine;
  const auto up = machine.run({"up", "--contribute", "host0=64MiB", "--node", "here", "--json"});
  INFO(up.err);
  REQUIRE(up.exit_code == 0);
  const auto state = json::parse(up.out);
  CHECK(state.at("node").as_string() == "here");
  CHECK(mode_of(machine.state()) == 0700);
  CHECK(mode_of(machine.state() + "/token") == 0600);
  CHECK((mode_of(machine.state() + "/causeway.sock") & 077U) == 0);

  // Without any option the tools find the daemon of `up`.
  const auto status = json::parse(machine.run({"status", "--json"}).out);
  const auto device = status.at("nodes").at(0).at("devices").at(0);
  CHECK(device.at("name").as_string() == "here/host0");
  CHECK(device.at("capacity_bytes").to_number<std::uint64_t>() == 64U << 20U);

  const auto address = std::string(state.at("control").as_string());
  CHECK(address.starts_with("127.0.0.1:"));  // Never on every address unless told to.
  CHECK(machine.run({"status", "--address", address, "--token-file", machine.state() + "/token"})
            .exit_code == 0);
  const auto other = machine.path() + "/other-token";
  (void)tools::load_or_create_token(other);
  const auto refused =
      machine.run({"status", "--address", address, "--token-file", other, "--json"});
  CHECK(refused.exit_code == 1);
  CHECK(json::parse(refused.out).at("error").at("code").as_string() == "unauthenticated");

  const auto again = machine.run({"up"});
  CHECK(again.exit_code == 1);
  CHECK(again.err.find("causeway down") != std::string::npos);

  CHECK(machine.run({"down"}).exit_code == 0);
  CHECK(processes_with(machine.state()).empty());
  CHECK_FALSE(fs::exists(machine.state() + "/causeway.sock"));
  CHECK_FALSE(fs::exists(machine.state() + "/causeway.pid"));
  CHECK(machine.run({"status"}).exit_code == 4);
  CHECK(machine.run({"down"}).exit_code == 0);
}

// The names of the components that `topo show --json` printed, without their node's.
static std::set<std::string> components(const CommandResult& shown) {
  INFO(shown.err);
  REQUIRE(shown.exit_code == 0);
  std::set<std::string> names;
  const auto document = json::parse(shown.out);
  for (const auto& component : document.at("graph").at("components").as_array()) {
    const auto name = std::string(component.at("name").as_string());
    names.insert(name.substr(name.find('/') + 1));
  }
  return names;
}

TEST_CASE("a pool shows the machine as it found itself, and not only what it lends") {
  const Machine machine;
  const auto found = components(machine.run({"topo", "show", "--json"}));
  CHECK(found.contains("cpu0"));
  const auto up = machine.run({"up", "--contribute", "host0=64MiB", "--node", "here", "--json"});
  REQUIRE(up.exit_code == 0);
  const auto state = json::parse(up.out);
  const std::vector<std::string> ways[] = {
      {"--socket", std::string(state.at("socket").as_string())},
      {"--address", std::string(state.at("control").as_string()), "--token-file",
       machine.state() + "/token"}};
  for (const auto& way : ways) {
    CAPTURE(way.front());
    std::vector<std::string> command = {"topo", "show", "--json"};
    command.insert(command.end(), way.begin(), way.end());
    const auto shown = machine.run(command);
    const auto published = components(shown);
    CHECK(std::ranges::includes(published, found));  // CPUs, NICs and all.
    const auto devices = json::parse(shown.out).at("devices").as_array();
    const auto* host0 = std::ranges::find_if(devices, [](const json::value& device) {
      return device.at("name").as_string() == "here/host0";
    });
    REQUIRE(host0 != devices.end());
    CHECK(host0->at("capacity_bytes").to_number<std::uint64_t>() == 64U << 20U);
  }
  CHECK(machine.run({"down"}).exit_code == 0);
}

TEST_CASE("a daemon that cannot start says why, and nothing is left") {
  const Machine machine;
  const auto up = machine.run({"up", "--contribute", "host0=64MiB", "--listen", "203.0.113.1:1"});
  CHECK(up.exit_code == 1);
  CHECK(up.err.find("203.0.113.1") != std::string::npos);
  CHECK(processes_with(machine.state()).empty());
  CHECK_FALSE(fs::exists(machine.state() + "/causeway.pid"));
}

TEST_CASE("a second machine joins by address and token") {
  const Machine first;
  const Machine second;
  const auto up = first.run({"up", "--contribute", "host0=64MiB", "--node", "first", "--json"});
  REQUIRE(up.exit_code == 0);
  const auto address = std::string(json::parse(up.out).at("control").as_string());
  const auto join = second.run({"up", "--contribute", "host0=32MiB", "--node", "second", "--join",
                                address, "--token-file", first.state() + "/token"});
  INFO(join.err);
  REQUIRE(join.exit_code == 0);
  for (const auto* machine : {&first, &second}) {
    const auto status = json::parse(machine->run({"status", "--json"}).out);
    CHECK(status.at("nodes").as_array().size() == 2);
    CHECK(status.at("directory").as_string() == "first");
  }
  CHECK(second.run({"down"}).exit_code == 0);
  CHECK(first.run({"down"}).exit_code == 0);
}

TEST_CASE("a daemon in the foreground ends in order on SIGTERM, and joins or says it cannot") {
  const TemporaryFolder folder;
  const auto token = folder.path() + "/token";
  RunningCommand daemon({CAUSEWAYD, "--contribute", "host0=64MiB", "--node", "n", "--socket",
                         folder.path() + "/s", "--state-file", folder.path() + "/state",
                         "--token-file", token});
  while (!fs::exists(folder.path() + "/state")) {
    REQUIRE_FALSE(daemon.process().wait_ended(std::chrono::steady_clock::now()));
    ::usleep(10000);
  }
  daemon.process().signal(SIGTERM);
  const auto result = daemon.finish(std::chrono::seconds(10));
  INFO(result.err);
  CHECK(result.exit_code == 0);
  CHECK_FALSE(fs::exists(folder.path() + "/s"));
  const auto lost =
      test::run_command({CAUSEWAYD, "--contribute", "host0=64MiB", "--node", "n", "--socket",
                         folder.path() + "/s", "--token-file", token, "--join", "127.0.0.1:1"});
  CHECK(lost.exit_code == 4);
  CHECK(lost.err.find("127.0.0.1:1") != std::string::npos);
}
