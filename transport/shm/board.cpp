#include "transport/shm/board.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstring>
#include <ctime>
#include <utility>

#include "transport/shm/relax.h"

namespace causeway::shm {

namespace {

using Word = std::atomic<std::uint32_t>;
static_assert(Word::is_always_lock_free && sizeof(Word) == sizeof(std::uint32_t));

// Of the word that ranks sleep on: the lowest bit says that the group is broken, the rest counts
// meetings.
constexpr std::uint32_t kBroken = 1;
constexpr std::uint32_t kOne = 2;

constexpr std::chrono::nanoseconds kLeastSpin{1000};

void sleep_on(Word& word, std::uint32_t value, Deadline deadline) {
  const auto left = deadline - std::chrono::steady_clock::now();
  if (left <= left.zero()) return;
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
  // Whoever dies between a change and its call to wake leaves nobody asleep for ever.
  const timespec time =
      seconds.count() >= 1 ? timespec{1, 0}
                           : timespec{0, static_cast<long>(std::chrono::nanoseconds(left).count())};
  ::syscall(SYS_futex, &word, FUTEX_WAIT, value, &time, nullptr, 0);
}

void wake(Word& word) { ::syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0); }

}  // namespace

struct Board::Shared {
  enum Reason : std::uint32_t { none, being_written, written };
  alignas(64) Word arrived;
  alignas(64) Word turns;
  Word sleepers;
  alignas(64) Word reason;
  std::int32_t code;
  std::int32_t about;
  std::array<char, 400> text;
  struct alignas(64) Line {
    struct Called {
      std::uint64_t sequence;
      std::uint64_t size_bytes;
      std::uint32_t fingerprint;
      std::uint32_t kind;
    };
    std::atomic<std::uint64_t> turns;  // Meetings that the rank has come to.
    // Of odd and of even meetings: whoever is still reading the last one's is in nobody's way.
    std::array<Called, 2> called;
  };
  std::array<Line, kMaxRanks> lines;
};

Board::Board(std::span<std::byte> memory, int rank, std::vector<int> names,
             std::chrono::microseconds spin)
    : shared_(*reinterpret_cast<Shared*>(memory.data())),
      rank_(rank),
      names_(std::move(names)),
      most_spin_(spin),
      spin_(spin) {
  static_assert(sizeof(Shared) <= kBytes);
}

void Board::meet(Deadline deadline, const collective::Call* call, std::uint64_t sequence) {
  if (is_broken()) throw reason();
  auto& line = shared_.lines[static_cast<std::size_t>(rank_)];
  ++turn_;
  if (call != nullptr)
    line.called[turn_ % 2] = {sequence, call->size_bytes, call->fingerprint,
                              static_cast<std::uint32_t>(call->kind)};
  line.turns.store(turn_, std::memory_order_release);
  const auto ranks = static_cast<std::uint32_t>(names_.size());
  if (shared_.arrived.fetch_add(1) + 1 == ranks) {
    shared_.arrived.store(0);
    shared_.turns.fetch_add(kOne);
    if (shared_.sleepers.load() > 0) wake(shared_.turns);
  } else {
    wait(static_cast<std::uint32_t>(turn_ * kOne), deadline);
  }
  if (call != nullptr) compare_calls(*call, sequence);
}

void Board::wait(std::uint32_t until, Deadline deadline) {
  // A meeting for which all have come is a meeting, whatever somebody did right after it.
  const auto is_over = [&](std::uint32_t now) {
    if ((now & ~kBroken) == until) return true;
    if ((now & kBroken) != 0) throw reason();
    return false;
  };
  // Spins for longer after it helped and shorter after it did not: a core may not be free.
  if (most_spin_.count() > 0) {
    const auto end = std::chrono::steady_clock::now() + spin_;
    do {
      for (int i = 0; i < 16; ++i) {
        if (is_over(shared_.turns.load(std::memory_order_acquire))) {
          spin_ = std::min(spin_ * 2, most_spin_);
          return;
        }
        relax();
      }
    } while (std::chrono::steady_clock::now() < end);
    spin_ = std::max(spin_ / 2, kLeastSpin);
  }
  for (;;) {
    shared_.sleepers.fetch_add(1);
    const auto now = shared_.turns.load();
    if ((now & ~kBroken) != until && (now & kBroken) == 0) sleep_on(shared_.turns, now, deadline);
    shared_.sleepers.fetch_sub(1);
    if (is_over(shared_.turns.load())) return;
    if (std::chrono::steady_clock::now() < deadline) continue;
    const Error error(Errc::timed_out, missing());
    fail(error, rank_);
    throw Error(error);
  }
}

std::string Board::missing() const {
  std::vector<int> ranks;
  for (std::size_t r = 0; r < names_.size(); ++r)
    if (shared_.lines[r].turns.load(std::memory_order_acquire) < turn_) ranks.push_back(names_[r]);
  return fmt::format("rank {} did not come in time; does it call the same operation?",
                     fmt::join(ranks, ", "));
}

void Board::compare_calls(const collective::Call& own, std::uint64_t sequence) const {
  using Kind = collective::Call::Kind;
  for (std::size_t r = 0; r < names_.size(); ++r) {
    const auto& line = shared_.lines[r].called[turn_ % 2];
    if (line.fingerprint == own.fingerprint && line.sequence == sequence) continue;
    const auto kind = std::min(line.kind, static_cast<std::uint32_t>(Kind::all_to_all));
    throw Error(
        Errc::invalid_argument,
        fmt::format("rank {} calls {} of {} bytes as its operation {}, this one {} of {} as "
                    "its {}: all ranks must do the same",
                    names_[r], collective::name_of(static_cast<Kind>(kind)), line.size_bytes,
                    line.sequence, collective::name_of(own.kind), own.size_bytes, sequence));
  }
}

void Board::fail(const Error& reason, int about) noexcept {
  std::uint32_t none = Shared::none;
  if (shared_.reason.compare_exchange_strong(none, Shared::being_written)) {
    shared_.code = static_cast<std::int32_t>(reason.code());
    shared_.about = about;
    std::strncpy(shared_.text.data(), reason.what(), shared_.text.size() - 1);
    shared_.reason.store(Shared::written);
  }
  shared_.turns.fetch_or(kBroken);
  wake(shared_.turns);
}

bool Board::is_broken() const noexcept {
  return (shared_.turns.load(std::memory_order_acquire) & kBroken) != 0;
}

Error Board::reason() const {
  const Error unknown(Errc::closed, "another rank of this host failed");
  if (shared_.reason.load() != Shared::written) return unknown;
  const auto about = static_cast<std::size_t>(shared_.about);
  if (about >= names_.size()) return unknown;
  // Another process wrote this: it may lack an end.
  auto text = shared_.text;
  text.back() = '\0';
  // A rank that is gone is gone for all; anything else is one rank's own failure.
  const auto said = errc_from_string(to_string(static_cast<Errc>(shared_.code)));
  const auto code = said == Errc::peer_lost || shared_.about == rank_ ? said : Errc::closed;
  return {code, fmt::format("because of rank {}: {}", names_[about], text.data())};
}

}  // namespace causeway::shm
