// Goal:   ranks that share memory are safe from sizes that cannot work, from a peer that lies about
//         them, and from a communicator that goes while a thread waits for it.
// Method: ranks in one process; a world that answers for the other rank.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <unistd.h>

#include <array>
#include <atomic>
#include <fstream>
#include <thread>
#include <utility>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/co_spawn.hpp>

#include "tests/conformance/communicator_suite.h"
#include "transport/collective/make_communicator.h"
#include "transport/collective/turns.h"
#include "transport/shm/meet.h"

using namespace communicator_suite;
using collective::Values;

namespace {

RankGroup::Make maker(std::size_t slot_bytes) {
  return [slot_bytes](boost::asio::io_context& context, int rank,
                      std::vector<std::shared_ptr<Channel>> peers, RankGroup::Made done) {
    make_communicator(context, rank, std::move(peers), {.tag = kTag, .slot_bytes = slot_bytes},
                      in(20s), std::move(done));
  };
}

// Rank 1 of 2, whose other rank is told by the test.
class LyingWorld final : public Communicator {
 public:
  using Answer =
      std::function<void(int round, std::span<std::byte> theirs, std::span<const std::byte> own)>;
  explicit LyingWorld(Answer answer) : answer_(std::move(answer)) {}
  [[nodiscard]] int rank() const noexcept override { return 1; }
  [[nodiscard]] int size() const noexcept override { return 2; }
  void all_gather(Values values, const Shares& shares, Deadline, Done done) override {
    answer_(round_++, shares.of(values, 0), shares.of(values, 1));
    asked_.push_back(std::move(done));
  }
  // True if there was something to answer.
  bool answer() {
    if (asked_.empty()) return false;
    std::exchange(asked_, {}).front()(std::nullopt);
    return true;
  }
  void barrier(Deadline, Done) override { std::abort(); }
  void broadcast(Values, int, Deadline, Done) override { std::abort(); }
  void all_reduce(Values, Reduction, Deadline, Done) override { std::abort(); }
  void reduce_scatter(Values, const Shares&, Reduction, Deadline, Done) override { std::abort(); }
  void all_to_all(Values, std::size_t, Deadline, Done) override { std::abort(); }
  void abort(Error) override {}

 private:
  Answer answer_;
  int round_ = 0;
  std::vector<Done> asked_;
};

// Whether a rank takes the slots that another offers in a segment for slots of 4096 bytes.
bool takes_slots_of(std::uint64_t slot_bytes) {
  auto segment = shm::SharedSegment::create(shm_segment_bytes(4096, 2));
  const struct {
    std::uint64_t is_good;
    std::int64_t fd;
    std::uint64_t slot_bytes;
    std::array<std::byte, 16> token;
  } offer{1, segment.fd(), slot_bytes, {}};
  LyingWorld world([&](int round, Values theirs, std::span<const std::byte> own) {
    if (round == 1) REQUIRE(theirs.size() == sizeof offer);
    const auto told = round == 1 ? std::as_bytes(std::span(&offer, 1)) : own;
    std::ranges::copy(told, theirs.begin());
    if (round == 2) theirs[0] = std::byte{1};
  });
  boost::asio::io_context context;
  std::optional<bool> takes;
  boost::asio::co_spawn(context, shm::meet(world, {}, {0, 1}, 0, true, in(kAmple)),
                        [&](const std::exception_ptr& error, const shm::Meeting& meeting) {
                          CHECK_FALSE(error);
                          takes = meeting.own.has_value();
                        });
  do context.poll();
  while (world.answer());
  REQUIRE(takes);
  return *takes;
}

}  // namespace

TEST_CASE("slots that a peer offers are not believed to be where no memory is") {
  CHECK(takes_slots_of(4096));
  CHECK_FALSE(takes_slots_of(8192));
  CHECK_FALSE(takes_slots_of(0));
  // Six of these have the same size, modulo 2^64.
  CHECK_FALSE(takes_slots_of((std::uint64_t{1} << 63) + 4096));
}

TEST_CASE("slots that are smaller than what goes through them at once are made larger") {
  for (const std::size_t slot_bytes : {1, 8, 1000}) {
    RankGroup ranks(3, false, maker(slot_bytes));
    REQUIRE(ranks.in_place(0) != nullptr);
    try_everything(ranks);
  }
}

TEST_CASE("a communicator that goes ends what a thread waits for behind other operations") {
  RankGroup ranks(2, false, maker(0));
  const auto here = ranks.in_place(0);
  auto running = ranks.start(0, [](Communicator& c, int, Communicator::Done done) {
    c.barrier(in(kAmple), std::move(done));
  });
  std::optional<Error> ended;
  std::atomic<pid_t> waiting_thread{0};
  std::thread waiting([&] {
    waiting_thread = ::gettid();
    here->barrier(in(kAmple), [&](std::optional<Error> error) { ended = error; });
  });
  const auto is_asleep = [&] {
    const auto thread = waiting_thread.load();
    std::ifstream file("/proc/self/task/" + std::to_string(thread) + "/stat");
    std::string text;
    std::getline(file, text);
    return thread != 0 && text.find(") S ") != std::string::npos;
  };
  // While the transport's thread is busy, it has not heard of the second one.
  ranks.on(0, [&] {
    for (const auto limit = in(20s); !is_asleep() && std::chrono::steady_clock::now() < limit;)
      std::this_thread::yield();
    CHECK(is_asleep());
    ranks.reset_communicator(0);
  });
  waiting.join();
  REQUIRE(ended);
  CHECK((ended->code() == Errc::cancelled));
  ended.reset();
  here->barrier(in(kAmple), [&](std::optional<Error> error) { ended = error; });
  REQUIRE(ended);
  CHECK((ended->code() == Errc::cancelled));
  CHECK((running.get().code == Errc::cancelled));
}
