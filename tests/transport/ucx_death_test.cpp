// Goal:   whoever is left when a peer is killed in mid-transfer lives on, whichever side connected.
// Method: two ucx_peer processes move bytes in both directions; one is killed while the other is
//         stopped, so that it finds the peer's last bytes, its reset and its own unfinished
//         zero-copy send together. Eight must be caught so, CAUSEWAY_SOAK=<deaths> asks for more
//         of them; replay one with CAUSEWAY_TEST_SEED=<seed>.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>
#include <sstream>
#include <thread>

#include "doctest/doctest.h"
#include "tests/transport/spawned_process.h"

using causeway::test::SpawnedProcess;
using std::chrono::microseconds;

namespace {

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

// Whether both ends of one of its connections have bytes that nobody has read.
bool holds_unread_bytes(pid_t pid) {
  std::set<std::string> own;
  const auto folder = "/proc/" + std::to_string(pid) + "/fd";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::error_code gone;
    const auto target = std::filesystem::read_symlink(entry.path(), gone).string();
    if (target.starts_with("socket:[")) own.insert(target.substr(8, target.size() - 9));
  }
  std::set<std::string> full;                                // Local and remote address.
  std::vector<std::pair<std::string, std::string>> of_ours;  // The other way round.
  std::ifstream table("/proc/net/tcp");
  for (std::string line; std::getline(table, line);) {
    std::istringstream words(line);
    std::string number, local, remote, state, queues, timer, retransmits, user, timeout, inode;
    words >> number >> local >> remote >> state >> queues >> timer >> retransmits >> user >>
        timeout >> inode;
    if (state != "01" || queues.ends_with(":00000000")) continue;
    full.insert(local + remote);
    if (own.contains(inode)) of_ours.emplace_back(remote, local);
  }
  return std::ranges::any_of(
      of_ours, [&](const auto& pair) { return full.contains(pair.first + pair.second); });
}

// Stops the survivor between a send that does not fit and the bytes of its victim, and kills the
// victim before either has read on. False if the two were not caught there.
bool kill_in_transfer(SpawnedProcess& victim, const SpawnedProcess& survivor,
                      std::mt19937_64& random) {
  const auto pause = [&](unsigned least, unsigned most) {
    std::this_thread::sleep_for(microseconds(least + random() % (most - least)));
  };
  bool caught = false;
  for (int attempt = 0; attempt < 10 && !caught; ++attempt) {
    pause(0, 20'000);
    victim.signal(SIGSTOP);
    pause(5'000, 30'000);
    survivor.signal(SIGSTOP);
    pause(100, 1'000);
    victim.signal(SIGCONT);
    pause(100, 3'000);
    victim.signal(SIGSTOP);
    caught = holds_unread_bytes(survivor.pid());
    if (caught) break;
    victim.signal(SIGCONT);
    survivor.signal(SIGCONT);
  }
  victim.signal(SIGKILL);
  victim.wait();
  survivor.signal(SIGCONT);
  return caught;
}

// Until as many deaths as are wanted were caught where it matters.
template <typename Death>
void repeat(Death death) {
  constexpr auto kLongest = std::chrono::seconds(100);  // Of the twelve or so that are usual.
  const auto only = from_environment("CAUSEWAY_TEST_SEED", 0);
  const auto soak = from_environment("CAUSEWAY_SOAK", 0);
  const auto wanted = only != 0 ? 1 : std::max<std::uint64_t>(soak, 8);
  const auto start = std::chrono::steady_clock::now();
  std::uint64_t caught = 0, deaths = 0;
  for (auto seed = only != 0 ? only : 1; caught < wanted; ++seed) {
    if (soak == 0 && std::chrono::steady_clock::now() - start > kLongest) break;
    INFO("seed=", seed);
    std::mt19937_64 random(seed);
    ++deaths;
    if (death(random)) ++caught;
    if (only != 0) break;
  }
  MESSAGE(caught << " of " << deaths << " were caught between their sends and receives");
  if (only == 0) CHECK(caught >= wanted);
}

}  // namespace

TEST_CASE("the connecting side outlives the listening one") {
  repeat([](std::mt19937_64& random) {
    auto victim = SpawnedProcess::start({UCX_PEER, "serve"});
    auto survivor = SpawnedProcess::start({UCX_PEER, "hammer", victim.read_line()});
    REQUIRE(survivor.read_line() == "ready");
    const bool caught = kill_in_transfer(victim, survivor, random);
    CHECK(survivor.read_line() == "ended peer_lost");
    CHECK(survivor.wait() == 0);
    return caught;
  });
}

TEST_CASE("the listening side outlives those who connect") {
  auto survivor = SpawnedProcess::start({UCX_PEER, "serve"});
  const auto address = survivor.read_line();
  repeat([&](std::mt19937_64& random) {
    REQUIRE(survivor.is_running());
    auto victim = SpawnedProcess::start({UCX_PEER, "hammer", address});
    REQUIRE(victim.read_line() == "ready");
    return kill_in_transfer(victim, survivor, random);
  });
  auto last = SpawnedProcess::start({UCX_PEER, "hammer", address});
  CHECK(last.read_line() == "ready");
  CHECK(survivor.is_running());
}
