// Goal:   private files stay private, a recycled pid is never taken for the old process, no spawned
//         process is lost, and tables fit.
// Method: edges by hand; every guard is tried from its wrong side.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>

#include "causeway/error.h"
#include "tests/tools/run_command.h"
#include "tools/base/files.h"
#include "tools/base/graphviz.h"
#include "tools/base/plot.h"
#include "tools/base/process.h"
#include "tools/base/terminal.h"
#include "tools/bench/copy_bench.h"
#include "tools/bench/memory_bench.h"
#include "tools/bench/ucx_perftest.h"

using namespace causeway;
using namespace causeway::tools;
using causeway::test::TemporaryFolder;

namespace fs = std::filesystem;

template <typename Call>
static Errc code_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  FAIL("nothing was thrown");
  return Errc::internal;
}

static unsigned mode_of(const std::string& path) {
  struct stat info {};
  REQUIRE(::lstat(path.c_str(), &info) == 0);
  return info.st_mode & 07777U;
}

TEST_CASE("a token file is made private, kept, and refused when others may read it") {
  const TemporaryFolder folder;
  const auto path = folder.path() + "/token";
  CHECK(code_of([&] { (void)load_token(path); }) == Errc::not_found);
  const auto token = load_or_create_token(path);
  CHECK(token.size() == 64);
  CHECK(mode_of(path) == 0600);
  CHECK(load_or_create_token(path) == token);
  CHECK(load_or_create_token(folder.path() + "/other") != token);
  REQUIRE(::chmod(path.c_str(), 0640) == 0);
  CHECK(code_of([&] { (void)load_or_create_token(path); }) == Errc::permission_denied);
  write_private_file(path, "short\n");
  CHECK(code_of([&] { (void)load_token(path); }) == Errc::invalid_argument);
}

TEST_CASE("a folder that is a link or open to others is refused") {
  const TemporaryFolder folder;
  make_private_folder(folder.path() + "/a");
  CHECK(mode_of(folder.path() + "/a") == 0700);
  make_private_folder(folder.path() + "/a");
  fs::create_directory_symlink(folder.path() + "/a", folder.path() + "/link");
  CHECK(code_of([&] { make_private_folder(folder.path() + "/link"); }) == Errc::permission_denied);
  REQUIRE(::chmod((folder.path() + "/a").c_str(), 0755) == 0);
  CHECK(code_of([&] { make_private_folder(folder.path() + "/a"); }) == Errc::permission_denied);
  CHECK(code_of([&] { make_private_folder(folder.path() + "/no/parent"); }) == Errc::io);
}

TEST_CASE("files are read whole or said to be absent") {
  const TemporaryFolder folder;
  CHECK_FALSE(read_file(folder.path() + "/none"));
  write_private_file(folder.path() + "/text", std::string(200000, 'x'));
  CHECK(read_file(folder.path() + "/text")->size() == 200000);
  CHECK(mode_of(folder.path() + "/text") == 0600);
  CHECK(code_of([&] { (void)read_file(folder.path()); }) == Errc::io);
  CHECK(last_lines("a\nb\nc\n", 2) == "b\nc");
  CHECK(last_lines("a\nb", 5) == "a\nb");
  CHECK(last_lines("", 5).empty());
}

TEST_CASE("a lock is waited for no longer than was said") {
  const TemporaryFolder folder;
  const auto path = folder.path() + "/lock";
  {
    const FileLock held(path, std::chrono::milliseconds(0));
    CHECK(code_of([&] { FileLock(path, std::chrono::milliseconds(30)); }) == Errc::timed_out);
  }
  FileLock(path, std::chrono::milliseconds(0));
}

TEST_CASE("a process is known by pid and start time together") {
  SpawnOptions options;
  options.command = {"sleep", "600"};
  options.die_with_parent = true;
  const auto process = spawn(options);
  const auto id = ProcessId::parse(process.id().to_string()).value();
  CHECK(id == process.id());
  CHECK(Process::open(id));
  CHECK_FALSE(Process::open({id.pid, id.start_ticks + 1}));  // As after the pid was given anew.
  CHECK_FALSE(process.wait_ended(std::chrono::steady_clock::now()));
  std::vector<Process> all;
  all.push_back(Process::open(id).value());
  CHECK(stop_all(all, std::chrono::seconds(5)));
  CHECK(process.wait_ended(std::chrono::steady_clock::now()));
  CHECK_FALSE(Process::open(id));  // A zombie by now.
  ::waitpid(id.pid, nullptr, 0);
  for (const char* bad : {"", "x 1", "12", "1 5", "-4 7"}) CHECK_FALSE(ProcessId::parse(bad));
}

TEST_CASE("a process that ignores SIGTERM is killed") {
  const TemporaryFolder folder;
  SpawnOptions options;
  options.command = {"sh", "-c",
                     "trap '' TERM; : > " + folder.path() + "/ready; while :; do sleep 1; done"};
  options.die_with_parent = true;
  options.new_group = true;
  const auto process = spawn(options);
  while (!fs::exists(folder.path() + "/ready")) ::usleep(1000);  // ctest bounds it.
  std::vector<Process> all;
  all.push_back(Process::open(process.id()).value());
  CHECK_FALSE(stop_all(all, std::chrono::milliseconds(50)));
  ::kill(-process.id().pid, SIGKILL);
  int status = 0;
  REQUIRE(::waitpid(process.id().pid, &status, 0) == process.id().pid);
  CHECK((WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
}

TEST_CASE("a program that cannot start is an error, and its record comes before its first step") {
  SpawnOptions options;
  options.command = {"no-such-program-anywhere"};
  CHECK(code_of([&] { (void)spawn(options); }) == Errc::not_found);
  options.command = {"/dev/null"};
  CHECK(code_of([&] { (void)spawn(options); }) == Errc::io);

  const TemporaryFolder folder;
  options.command = {"touch", folder.path() + "/ran"};
  CHECK_THROWS_AS((void)spawn(options, [](const ProcessId&) { throw std::bad_alloc(); }),
                  std::bad_alloc);
  CHECK(::waitpid(-1, nullptr, WNOHANG) == -1);  // No child is left, not even a zombie.
  CHECK_FALSE(fs::exists(folder.path() + "/ran"));
}

TEST_CASE("the environment of a child is ours with the changes") {
  ::setenv("CAUSEWAY_TEST_A", "old", 1);
  const auto result = causeway::test::run_command({"env"}, {{"CAUSEWAY_TEST_A", "new"}});
  CHECK(result.exit_code == 0);
  CHECK(result.out.find("CAUSEWAY_TEST_A=new\n") != std::string::npos);
  CHECK(result.out.find("CAUSEWAY_TEST_A=old\n") == std::string::npos);
  CHECK(result.out.find("PATH=") != std::string::npos);
}

TEST_CASE("text is cut by code points, and bars tell empty and full from nearly so") {
  CHECK(fitted("abcdef", 6) == "abcdef");
  CHECK(fitted("abcdef", 5) == "ab...");
  CHECK(fitted("äöüäöü", 5) == "äö...");
  CHECK(fitted("abcdef", 2) == "..");
  ::setenv("LC_ALL", "C", 1);
  CHECK(bar(0, 4) == "....");
  CHECK(bar(0.001, 4) == "#...");
  CHECK(bar(0.999, 4) == "###.");
  CHECK(bar(1, 4) == "####");
  CHECK(bar(7, 4) == "####");
  ::setenv("LC_ALL", "C.UTF-8", 1);
  CHECK(bar(0.5, 4) == "██░░");
  CHECK(format_share(12100000, 32000000) == "12.1 / 32.0 MB");
  CHECK(format_share(0, 999) == "0 / 999 B");
}

TEST_CASE("a table aligns its columns and leaves no spaces behind") {
  Table table({{"NAME"}, {"N", true}, {"NOTE"}});
  table.add({{"a"}, {"1"}, {"x"}});
  table.add({{"long"}, {"100"}});
  CHECK(table.to_string() == "NAME    N  NOTE\na       1  x\nlong  100\n");
}

TEST_CASE("the branches of a tree count towards a cell's width") {
  Table table({{"NAME"}, {"N", true}});
  table.add({{"root"}, {"1"}});
  table.add({{"leaf", Colour::none, "`- "}, {"20"}});
  CHECK(table.to_string() == "NAME      N\nroot      1\n`- leaf  20\n");
}

TEST_CASE("cores are those of the list that this process may use") {
  CHECK(usable_cores("").empty());
  const auto all = usable_cores("0-1023");
  REQUIRE_FALSE(all.empty());
  const auto first = std::to_string(all.front());
  CHECK(usable_cores(first) == std::vector<std::size_t>{all.front()});
  CHECK(usable_cores(first + "," + first + "-" + first).size() == 2);
  CHECK(usable_cores("99999-18446744073709551615").empty());
  for (const char* text : {"x", "1-", "-1", "1,,2", "1-2-3", " 1"}) {
    INFO(text);
    CHECK_THROWS_AS((void)usable_cores(text), causeway::Error);
  }
}

TEST_CASE("memory is copied by the cores that were named, or not at all") {
  MemoryCopyOptions options;
  options.time = std::chrono::milliseconds(10);
  options.buffer_bytes = 1 << 20;
  options.max_threads = 2;
  const NumaPlace here{0, "0-1023"};
  const auto copy = measure_memory_copy(here, here, options);
  CHECK(copy.bytes_per_s > 1e7);
  CHECK((copy.threads == 1 || copy.threads == 2));
  CHECK_THROWS_AS((void)measure_memory_copy({0, ""}, here, options), causeway::Error);
  // Memory alone, of a NUMA node that no machine has.
  CHECK_THROWS_AS((void)measure_memory_copy(here, {1000, ""}, options), causeway::Error);
}

TEST_CASE("ucx_perftest's figure is read by its column's name") {
  const std::string good =
      "iterations,50.0_percentile_lat,avg_lat,overall_lat,avg_bw,overall_bw,avg_mr,overall_mr\n"
      "1000,6.091,221.727,221.727,4510.05,2000.00,4510,4510\n";
  CHECK(parse_ucx_perftest(good).value() == doctest::Approx(2000.0 * 1048576));
  CHECK_FALSE(parse_ucx_perftest(""));
  CHECK_FALSE(parse_ucx_perftest("[error] connect failed\n"));
  CHECK_FALSE(parse_ucx_perftest(good.substr(0, good.find('\n') + 1)));
  CHECK_FALSE(parse_ucx_perftest(good.substr(0, good.find('\n') + 1) + "1000,6\n"));
  if (const auto program = find_ucx_perftest())
    CHECK(run_ucx_perftest(*program, 65536, 100, std::chrono::seconds(20)) > 1e7);
}

TEST_CASE("the median is the middle one") {
  CHECK(median({}) == 0);
  CHECK(median({3, 1, 2}) == 2);
  CHECK(median({4, 1, 2, 3}) == 2.5);
}

TEST_CASE("a drawing is made by dot, or its absence and its failures are said") {
  const std::string path = std::getenv("PATH");
  ::setenv("PATH", "/nowhere", 1);
  CHECK(code_of([] { (void)dot_to_svg("digraph {}"); }) == Errc::not_found);
  // Stand-ins: one that says what it was given, one that fails, one that never ends.
  const TemporaryFolder folder;
  const auto stand_in = [&](const std::string& script) {
    write_file(folder.path() + "/dot", "#!/bin/sh\nPATH=" + path + "\n" + script + "\n");
    fs::permissions(folder.path() + "/dot", fs::perms::owner_all);
  };
  ::setenv("PATH", folder.path().c_str(), 1);
  stand_in("echo \"$@\"; cat");
  const std::string large(1 << 20, 'x');  // More than a pipe holds.
  CHECK(dot_to_svg(large) == "-Tsvg\n" + large);
  stand_in("echo 'syntax error in line 7' >&2; exit 1");
  std::string said;
  try {
    (void)dot_to_svg("digraph {");
  } catch (const Error& error) {
    said = error.what();
  }
  CHECK(said.find("syntax error in line 7") != std::string::npos);
  stand_in("exec sleep 600");
  CHECK(code_of([] { (void)dot_to_svg("", std::chrono::seconds(0)); }) == Errc::timed_out);
  ::setenv("PATH", path.c_str(), 1);
}

TEST_CASE("a plot is well-formed, has both schemes, and leaves out what has no logarithm") {
  Plot plot{
      "a < b & c", "size", "GB/s", [](double x) { return std::to_string(int(x)) + " B"; }, {}};
  plot.lines.push_back({"ours", {{8, 1}, {64, 0}, {512, 100}, {4096, -1}}});
  plot.lines.push_back({"limit", {{8, 10}, {512, 1000}}, true});
  const auto svg = to_svg(plot);
  const auto count = [&](std::string_view text) {
    std::size_t found = 0;
    for (auto at = svg.find(text); at != svg.npos; at = svg.find(text, at + 1)) ++found;
    return found;
  };
  CHECK(svg.starts_with("<svg xmlns="));
  CHECK(svg.ends_with("</svg>\n"));
  CHECK(count("<text") == count("</text>"));
  CHECK(count("a &lt; b &amp; c") == 2);
  CHECK(count("prefers-color-scheme: dark") == 1);
  CHECK(count("<circle") == 4);
  CHECK(count("line c1 limit") == 2);  // The line and its sample; dots are whole.
  CHECK(count(">512 B<") == 1);
  CHECK(count("nan") + count("inf") == 0);

  CHECK(to_svg({"none", "x", "y", {}, {{"empty", {{0, 0}}}}}).find("no figures") !=
        std::string::npos);
  const auto one = to_svg({"one", "x", "y", {}, {{"point", {{8, 8}}}}});
  CHECK(one.find("nan") == one.npos);
  CHECK(one.find("<circle") != one.npos);
}
