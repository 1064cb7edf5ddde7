// Goal:   whatever the wires do, a transfer ends in time: with the right bytes, which stay, or with
// a
//         typed error; and no buffer is touched once it is over.
// Method: thousands of small worlds, each with its own kind of trouble, many at once, since most of
//         their time is waiting. The model is a copy of the region in which places whose write
//         failed are unknown. A failure prints its seed; CAUSEWAY_TEST_SEED=<seed> replays it (the
//         dice, not the clock), CAUSEWAY_TEST_RUNS=<number> asks for more.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <algorithm>
#include <deque>

#include "tests/transport/transfer_world.h"

using namespace causeway;
using namespace causeway::test;

namespace {

constexpr std::uint64_t kSlotBytes = 24'000;
constexpr std::size_t kSlots = 6;
constexpr std::size_t kSteps = 12;
constexpr auto kGrace = 500ms;
constexpr auto kNoise = 1500ms;  // Of a machine that others use.

Faults faults_of(std::mt19937_64& random) {
  const auto chance = [&](int most) { return random() % 3 == 0 ? int(random() % (most + 1)) : 0; };
  Faults faults;
  faults.late = chance(300);
  faults.lost = chance(8);
  faults.unanswered = chance(8);
  faults.changed = chance(60);
  faults.cut = chance(20);
  return faults;
}

// One world and what is known of its region.
class Run {
 public:
  explicit Run(std::uint64_t number)
      : seed(number),
        random_(number),
        world_(ways_of(number), number),
        model_(kSlots * kSlotBytes) {
    world_.region() = pattern(model_.size(), number);
    std::ranges::copy(world_.region(), model_.begin());
    is_known_.assign(kSlots, true);
    bool changes = false;
    for (int i = 0; i < ways_of(number); ++i) {
      world_.way(i).wire->faults = faults_of(random_);
      world_.way(i).refused_chance = random_() % 4 == 0 ? 300 : 0;
      changes |= world_.way(i).wire->faults.changed > 0;
    }
    world_.verify = changes || random_() % 4 == 0;
  }

  // One turn of the loop; false once it is over.
  bool turn() {
    world_.context.restart();
    world_.context.poll();
    judge();
    if (step_ < kSteps && running_.size() < 3) begin();
    if (world_.rails && random_() % 2000 == 0) world_.cut(0), world_.cut(0, false);
    if (step_ < kSteps || !running_.empty()) return true;
    if (over_since_ == Clock::time_point{}) over_since_ = Clock::now();
    if (Clock::now() < over_since_ + 25ms) return true;  // For what is late.
    world_.rails.reset();
    return !world_.context.stopped();  // Until nothing is under way.
  }

  void check_end() {
    INFO("seed=", seed);
    for (const auto& buffer : kept_)
      CHECK(std::ranges::count(*buffer, std::byte{0xee}) == std::ssize(*buffer));
    check_region();
    CHECK(world_.pins.use_count() == 1);
  }

  const std::uint64_t seed;
  int succeeded = 0;
  std::map<Errc, int> failed;

 private:
  struct Running {
    std::size_t slot;
    std::uint64_t offset;
    bool is_write;
    bool is_cancelled;
    std::shared_ptr<Bytes> buffer;
    Clock::time_point deadline;
    Transfer transfer;
  };

  static int ways_of(std::uint64_t number) { return 1 + static_cast<int>(number % 3); }

  void begin() {
    ++step_;
    const auto slot = random_() % kSlots;
    if (std::ranges::find(running_, slot, &Running::slot) != running_.end()) return;
    const bool is_write = random_() % 3 != 0;
    const auto size = 1 + random_() % (kSlotBytes - 1);
    const auto offset = slot * kSlotBytes + random_() % (kSlotBytes - size);
    auto buffer = std::make_shared<Bytes>(is_write ? pattern(size, random_()) : Bytes(size));
    const auto piece_size = 1500 + random_() % 8000;
    std::vector<TransferPiece> pieces;
    for (std::uint64_t at = 0; at < size; at += piece_size)
      pieces.push_back({{7, 1, offset + at}, std::min(piece_size, size - at)});
    const auto pin = [bytes = buffer, pins = world_.pins, piece_size](
                         std::size_t piece, std::uint64_t at, std::uint64_t length) {
      return PinnedMemory{std::span(*bytes).subspan(piece * piece_size + at, length), pins};
    };
    const auto time = random_() % 5 == 0 ? std::chrono::milliseconds(random_() % 30) : 400ms;
    const auto options = world_.until(time);
    auto transfer = is_write ? world_.rails->write(pieces, pin, options)
                             : world_.rails->read(pieces, pin, options);
    const bool is_cancelled = random_() % 12 == 0;
    if (is_cancelled) transfer.cancel();
    if (random_() % 12 == 0) {  // Let go: the slot is free, whatever still lands.
      if (is_write) is_known_[slot] = false;
      return;
    }
    running_.push_back(
        {slot, offset, is_write, is_cancelled, buffer, options.deadline, std::move(transfer)});
  }

  void judge() {
    for (auto it = running_.begin(); it != running_.end();) {
      INFO("seed=", seed, " step=", step_);
      const auto now = Clock::now();
      if (!it->transfer.is_done()) {
        REQUIRE(now < it->deadline + kGrace + kNoise);
        ++it;
        continue;
      }
      const auto& error = it->transfer.error();
      if (error) ++failed[error->code()];
      if (!error) ++succeeded;
      if (error)
        CHECK((error->code() == Errc::timed_out || error->code() == Errc::peer_lost ||
               error->code() == Errc::corrupted ||
               (it->is_cancelled && error->code() == Errc::cancelled)));
      if (it->is_write) {
        is_known_[it->slot] = !error;
        const auto slot_at = static_cast<std::ptrdiff_t>(it->slot * kSlotBytes);
        if (!error) {
          // Around it the slot may be unknown from before: what is there now has to stay.
          std::copy_n(world_.region().begin() + slot_at, kSlotBytes, model_.begin() + slot_at);
          CHECK(std::ranges::equal(
              *it->buffer, std::span(world_.region()).subspan(it->offset, it->buffer->size())));
        }
      } else if (!error && is_known_[it->slot]) {
        CHECK(std::ranges::equal(*it->buffer,
                                 std::span(model_).subspan(it->offset, it->buffer->size())));
      }
      if (it->is_write && !error && random_() % 2 == 0) {  // Its owner uses it.
        const auto again = pattern(kSlotBytes, random_());
        const auto at = static_cast<std::ptrdiff_t>(it->slot * kSlotBytes);
        std::ranges::copy(again, world_.region().begin() + at);
        std::ranges::copy(again, model_.begin() + at);
      }
      // It is the caller's again.
      std::ranges::fill(*it->buffer, std::byte{0xee});
      kept_.push_back(it->buffer);
      it = running_.erase(it);
      check_region();
    }
  }

  void check_region() {
    for (std::size_t slot = 0; slot < kSlots; ++slot) {
      const auto busy = std::ranges::find(running_, slot, &Running::slot);
      if (!is_known_[slot] || (busy != running_.end() && busy->is_write)) continue;
      INFO("seed=", seed, " slot=", slot);
      CHECK(std::equal(model_.begin() + slot * kSlotBytes, model_.begin() + (slot + 1) * kSlotBytes,
                       world_.region().begin() + slot * kSlotBytes));
    }
  }

  std::mt19937_64 random_;
  TransferWorld world_;
  Bytes model_;
  std::vector<bool> is_known_;  // By slot.
  std::vector<Running> running_;
  std::vector<std::shared_ptr<Bytes>> kept_;
  std::size_t step_ = 0;
  Clock::time_point over_since_{};
};

}  // namespace

TEST_CASE("transfers end in time and rightly, whatever the wires do") {
  std::uint64_t next = 1, last = 2000;
  if (const char* runs = std::getenv("CAUSEWAY_TEST_RUNS")) last = std::stoull(runs);
  if (const char* seed = std::getenv("CAUSEWAY_TEST_SEED")) next = last = std::stoull(seed);
  constexpr std::size_t kAtOnce = 200;
  int succeeded = 0;
  std::map<Errc, int> failed;
  std::vector<std::unique_ptr<Run>> runs;
  Clock::duration round{};
  while (next <= last || !runs.empty()) {
    // No more than this machine can attend to: a world's time is the clock's.
    if (next <= last && runs.size() < kAtOnce && round < 2ms)
      runs.push_back(std::make_unique<Run>(next++));
    const auto start = Clock::now();
    std::erase_if(runs, [&](const auto& run) {
      if (run->turn()) return false;
      run->check_end();
      succeeded += run->succeeded;
      for (const auto& [code, count] : run->failed) failed[code] += count;
      return true;
    });
    round = Clock::now() - start;
    std::this_thread::sleep_for(50us);  // The worlds' timers go on meanwhile.
  }
  std::string text = std::to_string(succeeded) + " succeeded";
  for (const auto& [code, count] : failed)
    text += ", " + std::to_string(count) + " " + std::string(to_string(code));
  MESSAGE(text);
  int ended = succeeded;
  for (const auto& [code, count] : failed) ended += count;
  CHECK(succeeded * 4 > ended);  // Otherwise it tests deadlines only.
}
