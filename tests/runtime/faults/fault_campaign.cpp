// Goal:   whatever fails around a pool, at whatever moment: every call ends by its deadline with
//         success or a typed error, no byte is wrong, nobody else is harmed, and nothing is left
//         behind.
// Method: three daemons (in network namespaces, with root), workers that copy, read, write, free
// and
//         allocate, and one or two faults at moments that a seed draws: SIGKILL and SIGSTOP of
//         daemons and workers, links cut, full disks and unread pipes for logs, garbage. Afterwards
//         workers compare all that they hold with a model, and daemons are looked at from outside.
//
// fault_campaign [--seeds FROM..TO]   CAUSEWAY_SOAK=N: 1..N; CAUSEWAY_TEST_SEED=N: only that.
//                                 CAUSEWAY_LINK_STREAM=yes: large parts by streams.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "campaign.h"
#include "garbage.h"
#include "tools/base/terminal.h"
#include "worker.h"

using namespace causeway::test;

namespace {

constexpr std::uint64_t kUsualRuns = 25;
constexpr int kMostFailures = 5;

struct Seeds {
  std::uint64_t from = 1;
  std::uint64_t to = kUsualRuns;
};

bool parse(int argc, char** argv, Seeds& seeds) {
  if (const char* soak = std::getenv("CAUSEWAY_SOAK")) seeds.to = std::strtoull(soak, nullptr, 10);
  if (const char* seed = std::getenv("CAUSEWAY_TEST_SEED"))
    seeds.from = seeds.to = std::strtoull(seed, nullptr, 10);
  if (argc == 1) return true;
  if (argc != 3 || std::strcmp(argv[1], "--seeds") != 0) return false;
  char* end = nullptr;
  seeds.from = seeds.to = std::strtoull(argv[2], &end, 10);
  if (std::strncmp(end, "..", 2) == 0) seeds.to = std::strtoull(end + 2, &end, 10);
  return *end == '\0' && end != argv[2];
}

void report(const Plan& plan, const std::vector<std::string>& wrong) {
  fmt::print("\nFAILED {}\n", plan.to_string());
  for (const auto& line : wrong) fmt::print("  {}\n", line);
  std::fflush(stdout);
}

int run_campaign(const Seeds& seeds) {
  const auto start = std::chrono::steady_clock::now();
  Network network;
  Campaign campaign(network);
  if (!campaign.can_cut()) fmt::print("without root, ip and tc: no link is cut, no disk is full\n");
  int failures = 0;
  std::uint64_t runs = 0;
  for (auto seed = seeds.from; seed <= seeds.to && failures < kMostFailures; ++seed, ++runs) {
    for (; !campaign.is_warm() && failures < kMostFailures;) {
      const auto plan = Plan::without_faults(campaign.warm_ups());
      if (const auto wrong = campaign.run(plan); !wrong.empty()) {
        report(plan, wrong);
        ++failures;
      }
    }
    const auto plan = Plan::draw(seed, campaign.can_cut());
    if (causeway::tools::is_terminal(STDOUT_FILENO)) {
      fmt::print("\r{}\033[K", causeway::tools::fitted(plan.to_string(), 100));
      std::fflush(stdout);
    }
    if (const auto wrong = campaign.run(plan); !wrong.empty()) {
      report(plan, wrong);
      ++failures;
    }
  }
  for (const auto& line : campaign.finish()) {
    fmt::print("FAILED at the end: {}\n", line);
    ++failures;
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  fmt::print("\n{} runs in {:.0f} s, {} failed\n{}", runs, took.count(), failures,
             campaign.summary());
  return failures == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  // Whether a link has a stream, and so one descriptor more, a probe would decide.
  ::setenv("CAUSEWAY_LINK_STREAM", "no", 0);
  const std::string mode = argc > 1 ? argv[1] : "";
  const std::vector<std::string> rest(argv + std::min(argc, 2), argv + argc);
  try {
    if (mode == "worker") return run_worker(WorkerOptions::from_arguments(rest));
    if (mode == "garbage") return run_garbage(GarbageOptions::from_arguments(rest));
    Seeds seeds;
    if (!parse(argc, argv, seeds)) {
      fmt::print(stderr, "usage: fault_campaign [--seeds FROM..TO]\n");
      return 2;
    }
    if (!Network::is_entered() && Network::is_possible()) Network::enter(argv);
    return run_campaign(seeds);
  } catch (const std::exception& error) {
    fmt::print(stderr, "fault_campaign: {}\n", error.what());
    return 1;
  }
}
