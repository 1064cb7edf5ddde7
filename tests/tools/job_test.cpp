// Goal:   a job ends as a whole: with the first failure, with a signal, and when its starter is
//         killed; what the ranks print is not lost and not mixed.
// Method: real processes; each carries a marker in its command line by which a leftover is found.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <unistd.h>

#include <csignal>

#include "tests/tools/run_command.h"

using causeway::test::processes_with;
using causeway::test::run_command;
using causeway::test::RunningCommand;
using causeway::test::wait_no_process_with;
using causeway::tools::children_of;

static std::string marker() {
  static int count = 0;
  return "job-marker-" + std::to_string(::getpid()) + "-" + std::to_string(++count);
}

// `script` in every rank, findable by the marker.
static std::vector<std::string> job(int ranks, const std::string& mark, const std::string& script) {
  return {JOB_RUNNER, std::to_string(ranks), "sh", "-c", script + " # " + mark};
}

static bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_CASE("every rank knows its place; rank 0's output is plain, the others' is prefixed") {
  const auto mark = marker();
  const auto result =
      run_command(job(3, mark,
                      "echo $CAUSEWAY_RANK/$CAUSEWAY_WORLD_SIZE $CAUSEWAY_SOCKET $CAUSEWAY_GROUP "
                      "$OPENBLAS_NUM_THREADS; echo err$CAUSEWAY_RANK >&2; printf tail"));
  CHECK(result.exit_code == 0);
  CHECK(result.out.starts_with("0/3 /sockets/node0 "));
  CHECK(contains(result.err, "[rank 1] 1/3 /sockets/node1 "));
  CHECK(contains(result.err, "[rank 2] 2/3 /sockets/node2 "));
  CHECK(contains(result.err, "err0\n"));
  CHECK(contains(result.err, "[rank 2] err2\n"));
  CHECK(contains(result.err, "[rank 1] tail\n"));  // A last line without its newline.
  const auto group = result.out.substr(19, 16);
  CHECK(contains(result.err, group + " 1\n"));  // One group for all.
  const auto again = run_command(job(1, mark, "echo $CAUSEWAY_GROUP"));
  CHECK_FALSE(contains(again.out, group));  // Another for the next job.
}

TEST_CASE("the first failure ends the others, told first, and is the exit code") {
  const auto mark = marker();
  const auto folder = causeway::test::TemporaryFolder();
  // Rank 2 fails only once the others are ready to be told.
  const auto result =
      run_command(job(3, mark,
                      "trap 'echo told; exit 0' TERM; : > " + folder.path() +
                          "/$CAUSEWAY_RANK; "
                          "[ $CAUSEWAY_RANK != 2 ] || { while [ ! -e " +
                          folder.path() + "/0 ] || [ ! -e " + folder.path() +
                          "/1 ]; do sleep 0.01; done; exit 7; }; while :; do sleep 0.01; done"));
  CHECK(result.exit_code == 7);
  CHECK(contains(result.err, "rank 2 failed with exit code 7"));
  CHECK(contains(result.out, "told"));
  CHECK(contains(result.err, "[rank 1] told"));
  CHECK(wait_no_process_with(mark, std::chrono::seconds(5)));
}

TEST_CASE("a rank ended by a signal is named, and one that ignores SIGTERM is killed") {
  const auto mark = marker();
  const auto result = run_command(job(
      2, mark, "[ $CAUSEWAY_RANK = 0 ] && kill -9 $$; trap '' TERM; while :; do sleep 1; done"));
  CHECK(result.exit_code == 137);
  CHECK(contains(result.err, "rank 0 was ended by signal 9"));
  CHECK(wait_no_process_with(mark, std::chrono::seconds(5)));
}

TEST_CASE("a signal is passed on to every rank") {
  const auto mark = marker();
  RunningCommand running(job(
      2, mark,
      "trap 'echo got it; exit 3' INT; echo ready$CAUSEWAY_RANK; while :; do sleep 0.05; done"));
  REQUIRE(running.wait_output("ready0", std::chrono::seconds(10)));
  REQUIRE(running.wait_output("ready1", std::chrono::seconds(10)));
  running.process().signal(SIGINT);
  const auto result = running.finish(std::chrono::seconds(20));
  CHECK(result.exit_code == 128 + SIGINT);
  CHECK(contains(result.out, "got it"));
  CHECK(contains(result.err, "[rank 1] got it"));
  CHECK(wait_no_process_with(mark, std::chrono::seconds(5)));
}

TEST_CASE("no rank outlives a starter that was killed") {
  const auto mark = marker();
  RunningCommand running(job(3, mark, "echo ready$CAUSEWAY_RANK; sleep 600; :"));
  for (const char* ready : {"ready0", "ready1", "ready2"})
    REQUIRE(running.wait_output(ready, std::chrono::seconds(10)));
  running.process().signal(SIGKILL);
  (void)running.finish(std::chrono::seconds(20));
  CHECK(wait_no_process_with(mark, std::chrono::seconds(5)));
}

TEST_CASE("what the ranks started ends with them, at whatever depth") {
  const auto mark = marker();
  const auto nap = "sleep 600." + std::to_string(::getpid());  // Known from those of another run.
  const auto deep = "sh -c 'sh -c \"setsid " + nap + "; : " + mark + "\" & sleep 0.2' & ";
  const auto result =
      run_command(job(2, mark, deep + "sleep 0.5; echo done"), {}, std::chrono::seconds(20));
  CHECK(result.exit_code == 0);
  CHECK(contains(result.err, "[rank 1] done"));
  CHECK(processes_with(mark).empty());
  CHECK(processes_with(nap).empty());

  RunningCommand running(job(2, mark, deep + "echo ready$CAUSEWAY_RANK; sleep 600"));
  for (const char* ready : {"ready0", "ready1"})
    REQUIRE(running.wait_output(ready, std::chrono::seconds(10)));
  running.process().signal(SIGKILL);
  (void)running.finish(std::chrono::seconds(20));
  CHECK(wait_no_process_with(mark, std::chrono::seconds(5)));
  CHECK(wait_no_process_with(nap, std::chrono::seconds(5)));
}

// The starter and the keepers below it: each has one child until the ranks come.
static std::vector<pid_t> keepers_of(const RunningCommand& job) {
  std::vector<pid_t> chain{job.process().id().pid};
  for (auto below = children_of(chain.back()); below.size() == 1; below = children_of(chain.back()))
    chain.push_back(below.front());
  return chain;
}

TEST_CASE("nothing of a job outlives any one or two of its starter and keepers") {
  const auto nap = "sleep 601." + std::to_string(::getpid());
  const auto stubborn = "trap '' TERM HUP INT; setsid sh -c \"trap '' TERM HUP; " + nap +
                        "; :\" & " + nap + " & echo ready$CAUSEWAY_RANK; while :; do " + nap +
                        "; done";
  for (const unsigned killed : {0b001u, 0b010u, 0b100u, 0b011u, 0b101u, 0b110u}) {
    const auto mark = marker();
    RunningCommand running(job(2, mark, stubborn));
    for (const char* ready : {"ready0", "ready1"})
      REQUIRE(running.wait_output(ready, std::chrono::seconds(10)));
    const auto chain = keepers_of(running);
    REQUIRE(chain.size() >= 2);
    CAPTURE(killed);
    for (std::size_t i = 0; i < chain.size(); ++i)
      if (killed >> i & 1) ::kill(chain[i], SIGKILL);
    CHECK(wait_no_process_with(mark, std::chrono::seconds(2)));
    CHECK(wait_no_process_with(nap, std::chrono::seconds(2)));
    for (const int left : processes_with(nap)) ::kill(left, SIGKILL);  // Of a check that failed.
    const auto result = running.finish(std::chrono::seconds(20));
    CHECK(result.exit_code == 137);
  }
}

TEST_CASE("the ranks die even when the starter and all keepers are killed at once") {
  const auto mark = marker();
  RunningCommand running(
      job(2, mark, "trap '' TERM; echo ready$CAUSEWAY_RANK; while :; do :; done"));
  for (const char* ready : {"ready0", "ready1"})
    REQUIRE(running.wait_output(ready, std::chrono::seconds(10)));
  for (const pid_t pid : keepers_of(running)) ::kill(pid, SIGKILL);
  CHECK(wait_no_process_with(mark, std::chrono::seconds(2)));
}

TEST_CASE("a child that the starter had before the job is not the job's") {
  const auto nap = "sleep 602." + std::to_string(::getpid());
  const auto result = run_command({"sh", "-c", nap + " & exec " JOB_RUNNER " 2 true"});
  CHECK(result.exit_code == 0);
  const auto left = processes_with(nap);
  CHECK(left.size() == 1);
  for (const int pid : left) ::kill(pid, SIGKILL);
}

TEST_CASE("what may not be killed is named and left, and the job ends") {
  if (::geteuid() != 0) {
    MESSAGE("skipped: needs root, to take the right to kill from a job");
    return;
  }
  const auto nap = "sleep 603." + std::to_string(::getpid());
  const auto result = run_command(
      {"setpriv", "--bounding-set", "-kill", JOB_RUNNER, "2", "sh", "-c",
       "[ $CAUSEWAY_RANK = 0 ] || setpriv --reuid 65534 --clear-groups " + nap +
           " > /dev/null 2>&1 & until pgrep -f '^" + nap + "'; do sleep 0.01; done; echo done"},
      {}, std::chrono::seconds(20));
  const auto left = processes_with(nap);
  for (const int pid : left) ::kill(pid, SIGKILL);
  CHECK(result.exit_code == 0);
  REQUIRE(left.size() == 1);
  CHECK(contains(result.err, "process " + std::to_string(left.front()) + " (sleep)"));
  CHECK(wait_no_process_with(nap, std::chrono::seconds(5)));
}

TEST_CASE("a child that writes for ever does not keep the job") {
  const auto mark = marker();
  const auto result =
      run_command(job(2, mark, "[ $CAUSEWAY_RANK = 0 ] || { yes " + mark + " & }; sleep 0.3"), {},
                  std::chrono::seconds(20));
  CHECK(result.exit_code == 0);
  CHECK(processes_with(mark).empty());
}

TEST_CASE("a command that does not exist is an error, not a hang") {
  const auto result = run_command({JOB_RUNNER, "2", "no-such-command-anywhere"});
  CHECK(result.exit_code == 99);
  CHECK(contains(result.err, "no-such-command-anywhere"));
}
