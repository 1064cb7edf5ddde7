// Goal:   every command in README.md works as it stands there.
// Method: the text of all ```sh blocks, in order, as one script. The build under test stands in for
//         build/release, so that the tests do not build everything once more; what the README puts
//         under /tmp goes to a folder of the test's own. One command is not run from here:
//         tools/test.sh is what runs this test, and .ci/run must call it.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <ranges>
#include <sstream>

#include "tests/tools/run_command.h"
#include "tools/base/files.h"

using causeway::test::processes_with;
using causeway::test::TemporaryFolder;

static std::vector<std::string> shell_lines(const std::string& markdown) {
  std::vector<std::string> lines;
  std::istringstream stream(markdown);
  bool inside = false;
  for (std::string line; std::getline(stream, line);) {
    if (line.starts_with("```"))
      inside = line == "```sh";
    else if (inside && !line.empty())
      lines.push_back(line);
  }
  return lines;
}

TEST_CASE("shell blocks are found, other blocks are not") {
  const auto lines = shell_lines("a\n```sh\nx 1\n\ny\n```\nb\n```cpp\nz\n```\n");
  CHECK(lines == std::vector<std::string>{"x 1", "y"});
}

static void replace_all(std::string& text, const std::string& from, const std::string& to) {
  for (auto at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
}

static const char* const kPrelude = R"sh(set -euo pipefail
cmake() {
  case "$*" in
    "--preset release -DCAUSEWAY_BUILD_TESTS=OFF") command cmake "$CAUSEWAY_BUILD" ;;
    "--build --preset release") command cmake --build "$CAUSEWAY_BUILD" --target causeway causewayd train_gpt ;;
    *) command cmake "$@" ;;
  esac
}
)sh";

TEST_CASE("the README's commands work") {
  const std::string root = SOURCE_FOLDER;
  const auto lines = shell_lines(causeway::tools::read_file(root + "/README.md").value());
  REQUIRE(lines.size() >= 15);
  const TemporaryFolder folder;
  std::string script = kPrelude + ("cd '" + root + "'\n");
  bool names_test_command = false;
  for (auto line : lines) {
    names_test_command = names_test_command || line == "tools/test.sh";
    if (line == "tools/test.sh") continue;
    replace_all(line, "$PWD/build/release", BUILD_FOLDER);
    replace_all(line, "build/release", BUILD_FOLDER);
    replace_all(line, "/tmp/causeway-", folder.path() + "/");
    script +=
        "echo '== " + line + "' >&2\n" + line + "\n";  // The last one seen is the one that failed.
  }
  CHECK(names_test_command);
  CHECK(causeway::tools::read_file(root + "/.ci/run")->find("tools/test.sh") != std::string::npos);
  const auto result = causeway::test::run_command({"bash", "-c", script},
                                                  {{"XDG_RUNTIME_DIR", folder.path()},
                                                   {"TMPDIR", folder.path()},
                                                   {"CAUSEWAY_BUILD", BUILD_FOLDER}},
                                                  std::chrono::seconds(550));
  INFO(result.out);
  INFO(result.err);
  CHECK(result.exit_code == 0);
  const auto left = processes_with(folder.path() + "/causeway-");
  CHECK(left.empty());
  for (const int pid : left) ::kill(pid, SIGKILL);
}

TEST_CASE("quickstart leaves nothing after a signal, and refuses what it does not know") {
  const std::string script = std::string(SOURCE_FOLDER) + "/tools/quickstart.sh";
  CHECK(causeway::test::run_command({script, "--nonsense"}).exit_code == 2);
  CHECK(causeway::test::run_command({script, "--steps", "x"}).exit_code == 2);
  CHECK(causeway::test::run_command({script, "--help"}).exit_code == 0);
  // Once while the job trains, once right after the pool came up.
  for (const auto& [seen, number] : {std::pair{"step ", SIGINT}, std::pair{"is up", SIGTERM}}) {
    INFO(seen);
    const TemporaryFolder folder;
    causeway::test::RunningCommand running({script, "--steps", "100000"},
                                           {{"XDG_RUNTIME_DIR", folder.path()},
                                            {"TMPDIR", folder.path()},
                                            {"CAUSEWAY_BUILD", BUILD_FOLDER}});
    REQUIRE(running.wait_output(seen, std::chrono::seconds(100)));
    running.process().signal(number);
    const auto result = running.finish(std::chrono::seconds(60));
    INFO(result.out);
    INFO(result.err);
    CHECK(result.exit_code == 128 + number);
    CHECK(causeway::test::wait_no_process_with(folder.path(), std::chrono::seconds(5)));
    CHECK_FALSE(std::filesystem::exists(folder.path() + "/causeway-" + std::to_string(::geteuid()) +
                                        "/labs/quickstart-" +
                                        std::to_string(running.process().id().pid)));
    CHECK(std::ranges::distance(std::filesystem::directory_iterator(folder.path())) == 1);
  }
}
