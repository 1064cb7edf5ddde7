// Goal:   a rank that dies or stops in mid-operation is an error for all others in time, whatever
//         carries the values, and leaves nothing behind.
// Method: ranks as processes that all-reduce until they fail, killed and stopped at seeded moments.
//         CAUSEWAY_SOAK=1000 asks for so many.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <random>

#include "transport/bench/forked_ranks.h"

using namespace causeway;
using namespace causeway::bench;

namespace {

constexpr std::size_t kRanks = 4;
enum Status { failed_well = 10, wrong_values, named_nobody, went_on };

// Values that only a right sum has, of a size that changes.
int all_reduce_until_failure(RankProcess& rank, std::chrono::milliseconds timeout, int victim) {
  std::mt19937 random(7);
  for (int i = 0; i < 1'000'000; ++i) {
    const std::size_t count = random() % 3 == 0 ? 1 + random() % 100 : 1 + random() % 300'000;
    std::vector<std::int32_t> values(count);
    for (std::size_t j = 0; j < count; ++j)
      values[j] = static_cast<std::int32_t>(j + rank.rank() * 1000);
    try {
      rank.run([&](Communicator& c, Communicator::Done done) {
        c.all_reduce(std::as_writable_bytes(std::span(values)), {DataType::i32},
                     Clock::now() + timeout, done);
      });
    } catch (const Error& error) {
      rank.board().notes[rank.rank()] = static_cast<std::int64_t>(error.code()) + 1;
      const std::string_view text = error.what();
      if (text.find("rank " + std::to_string(victim)) != std::string_view::npos) return failed_well;
      std::fprintf(stderr, "rank %zu: %s\n", rank.rank(), error.what());
      return named_nobody;
    }
    for (std::size_t j = 0; j < count; ++j)
      if (values[j] != static_cast<std::int32_t>(j * kRanks + 6000)) return wrong_values;
  }
  return went_on;
}

bool within(std::chrono::milliseconds time, const std::function<bool()>& is_true) {
  for (const auto limit = Clock::now() + time; Clock::now() < limit;) {
    if (is_true()) return true;
    std::this_thread::yield();
  }
  return is_true();
}

// No islands: the ranks' channels share memory, and the communicator goes over these.
GroupOptions group(std::size_t islands) {
  GroupOptions options{.count = kRanks, .islands = std::max<std::size_t>(islands, 1)};
  options.shares_messages = islands == 0;
  options.made.shares_memory = islands != 0;
  options.made.measures_links = false;
  options.made.slot_bytes = 50'000;
  return options;
}

std::size_t open_files() {
  const std::filesystem::directory_iterator files("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(files), end(files)));
}

int runs() {
  const char* const soak = std::getenv("CAUSEWAY_SOAK");
  return soak != nullptr ? std::atoi(soak) : 6;
}

void run_until_signal(std::size_t islands, int number, std::chrono::milliseconds timeout,
                      std::uint32_t seed) {
  std::mt19937 random(seed);
  const auto victim = random() % kRanks;
  ForkedRanks ranks(group(islands), [&](RankProcess& rank) {
    return all_reduce_until_failure(rank, timeout, static_cast<int>(victim));
  });
  REQUIRE(within(20s, [&] { return ranks.board().ready == kRanks; }));
  std::this_thread::sleep_for(std::chrono::microseconds(random() % 30'000));
  ranks.signal(victim, number);
  auto& notes = ranks.board().notes;
  CHECK(within(number == SIGKILL ? 2s : timeout + 2s, [&] {
    for (std::size_t r = 0; r < kRanks; ++r)
      if (r != victim && notes[r] == 0) return false;
    return true;
  }));
  if (number == SIGSTOP) ranks.signal(victim, SIGCONT);
  int named = 0;
  for (std::size_t r = 0; r < kRanks; ++r) {
    INFO("rank ", r, " of ", kRanks, ", victim ", victim);
    const int status = ranks.wait(r);
    if (r == victim && number == SIGKILL)
      CHECK(status == -SIGKILL);
    else if (r == victim)  // It hears of its own failure from the others, in other words.
      CHECK((status == failed_well || status == named_nobody));
    else if (number == SIGSTOP && islands != 1)  // One may wait for one who waits for the victim.
      CHECK((status == failed_well || status == named_nobody));
    else
      CHECK(status == failed_well);
    named += status == failed_well ? 1 : 0;
    if (r != victim && number == SIGKILL && islands == 1)
      CHECK(notes[r] == static_cast<std::int64_t>(Errc::peer_lost) + 1);
  }
  CHECK(named > 0);
}

}  // namespace

TEST_CASE("a rank that is killed in mid-operation is named by all others within two seconds") {
  const auto before = open_files();
  for (int i = 0; i < runs(); ++i) {
    INFO("seed ", i);
    run_until_signal(i % 3, SIGKILL, 30s, static_cast<std::uint32_t>(i));
  }
  CHECK(open_files() == before);
}

TEST_CASE("a rank that is stopped is an error for all others at their deadline") {
  for (int i = 0; i < runs(); ++i) {
    INFO("seed ", i);
    run_until_signal(i % 3, SIGSTOP, 700ms, static_cast<std::uint32_t>(i));
  }
}
