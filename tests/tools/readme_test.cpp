// Goal:   every command in README.md works as it stands there.
// Method: the text of all ```sh blocks, in order, as one script in a copy-free checkout: the build
//         under test stands in for the one that the README builds. Two commands are not run again
//         from here: tools/test.sh is what runs this test (and .ci/run must call it).
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
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

TEST_CASE("the README's commands work") {
  const std::string root = SOURCE_FOLDER;
  const auto lines = shell_lines(causeway::tools::read_file(root + "/README.md").value());
  REQUIRE(lines.size() >= 5);
  const TemporaryFolder folder;
  std::string script = "set -euo pipefail\ncd '" + root + "'\n";
  bool names_test_command = false;
  for (const auto& line : lines) {
    if (line.starts_with("tools/test.sh")) {
      names_test_command = true;
      continue;
    }
    script += "echo '$' " + std::string("\"") + "README: " + std::to_string(&line - lines.data()) +
              "\" >&2\n" + line + "\n";
  }
  CHECK(names_test_command);
  CHECK(causeway::tools::read_file(root + "/.ci/run")->find("tools/test.sh") != std::string::npos);
  INFO(script);
  const std::string path = std::getenv("PATH");
  const auto result = causeway::test::run_command(
      {"bash", "-c", script},
      {{"XDG_RUNTIME_DIR", folder.path()},
       {"TMPDIR", folder.path()},
       {"CAUSEWAY_BUILD", BUILD_FOLDER},  // What quickstart.sh would build otherwise.
       {"PATH", std::string(BUILD_FOLDER) + "/tools:" + path}},
      std::chrono::seconds(550));
  INFO(result.out);
  INFO(result.err);
  CHECK(result.exit_code == 0);
  const auto left = processes_with(folder.path() + "/causeway-");
  CHECK(left.empty());
  for (const int pid : left) ::kill(pid, SIGKILL);
}
