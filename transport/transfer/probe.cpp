#include "transport/transfer/probe.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace causeway {

namespace {

using namespace std::chrono_literals;

// Then what is under way ends.
constexpr auto kAnswerSlice = 8ms;
constexpr auto kFarAnswerSlice = 60ms;
constexpr auto kLargeSlice = 3ms;
constexpr auto kMediumSlice = 1500us;
constexpr auto kLong = 2ms;  // For one operation of the estimate: the next is not twice as large.
constexpr auto kPatience = 30s;  // For one operation.
constexpr int kMinAnswers = 8;
constexpr int kAnswers = 16;
constexpr int kRounds = 5;
constexpr std::uint64_t kLarge = 1 << 20;
constexpr std::uint64_t kMedium = 64 << 10;
constexpr std::uint64_t kMaxUnderWay = 8 << 20;
constexpr std::size_t kMaxCount = 32;
constexpr double kSlowRate = 0.4e9;      // Below it, a processor has time for any setting.
constexpr double kFarSeconds = 2e-3;     // A slice would be over before its first answer.
constexpr double kFarBytes = 512 << 10;  // On their way while one part waits for its answer.

constexpr LinkSettings kDefault{};
// A slice is too short to show what a stream saves: on a link as fast as the processors it carries
// a quarter more in the long run, and the same in its best three milliseconds. So it is the usual
// way.
constexpr LinkSettings kUsual{kDefault.part_bytes, kDefault.eager_bytes, true};
constexpr LinkSettings kUnasked{kDefault.part_bytes, kMedium, true};
constexpr LinkSettings kFifths{208 << 10, 208 << 10, true};  // One segment of UCX over TCP each.

struct Choice {
  LinkSettings settings;
  double gain = 0;  // Over the usual way; 0: this is it.
  // Of the one that came closest to what it had to have; 0: there is none.
  double next_gain = 0;
  double next_wanted = 1;

  [[nodiscard]] std::string verdict() const {
    if (gain > 0) return fmt::format("{:.0f}% more than the usual way", (gain - 1) * 100);
    if (next_gain == 0) return "nothing else was measured";
    return fmt::format("the next carried {:+.0f}%, and is taken at {:+.0f}%", (next_gain - 1) * 100,
                       (next_wanted - 1) * 100);
  }
};

// Of the trials of one size, of which the first is the usual way.
Choice best_of(const std::vector<ProbeReport::Trial>& trials, std::uint64_t size_bytes,
               double least_gain) {
  const auto& first = *std::ranges::find(trials, size_bytes, &ProbeReport::Trial::operation_bytes);
  Choice best{first.settings};
  for (const auto& trial : trials) {
    if (trial.operation_bytes != size_bytes || &trial == &first) continue;
    const auto gain = std::sqrt(trial.write_bytes_per_second / first.write_bytes_per_second *
                                trial.read_bytes_per_second / first.read_bytes_per_second);
    const auto wanted = trial.settings.by_stream ? least_gain : kRendezvousGain;
    if (!std::isfinite(gain)) continue;  // A figure is missing.
    if (gain >= wanted && gain > best.gain) {
      best.settings = trial.settings;
      best.gain = gain;
    }
    if (gain / wanted > best.next_gain / best.next_wanted) {
      best.next_gain = gain;
      best.next_wanted = wanted;
    }
  }
  return best;
}

}  // namespace

struct Probe::Slice {
  std::shared_ptr<Channel> channel;
  LinkSettings before;
  std::function<void()> ended;
  Clock::time_point began;
  // Of a step.
  Step step{};
  std::uint64_t size_bytes = 0;
  std::size_t limit = 0;  // Of operations under way.
  std::size_t under_way = 0;
  std::uint64_t started_count = 0;
  Clock::duration time{};
  std::uint64_t bytes = 0;
  int answers = 0;
  std::optional<Error> error{};
};

namespace {

// All probes of a thread have the same: nobody looks at what is in it.
std::shared_ptr<std::byte[]> shared_memory() {
  thread_local std::weak_ptr<std::byte[]> known;
  auto memory = known.lock();
  if (!memory) known = memory = std::shared_ptr<std::byte[]>(new std::byte[kProvingGroundBytes]());
  return memory;
}

}  // namespace

Probe::Probe(std::function<Clock::time_point()> now) : now_(std::move(now)) {}

double Probe::seconds_since(Clock::time_point begin) const {
  return std::chrono::duration<double>(now_() - begin).count();
}

void Probe::run_slice(const std::shared_ptr<Channel>& channel, std::function<void()> ended) {
  if (!memory_) memory_ = shared_memory();
  const auto slice =
      std::make_shared<Slice>(Slice{channel, channel->settings(), std::move(ended), now_()});
  if (report_.answer_seconds == 0) return measure_answer(slice);
  if (!is_planned_) return estimate(slice, kMedium);
  slice->step = steps_.back();
  steps_.pop_back();
  const auto& trial = report_.trials[slice->step.trial];
  slice->size_bytes = trial.operation_bytes;
  slice->time = trial.operation_bytes == kLarge ? kLargeSlice : kMediumSlice;
  const auto room =
      std::min(report_.bytes_per_second * std::chrono::duration<double>(slice->time).count(),
               static_cast<double>(kMaxUnderWay));
  slice->limit = std::clamp<std::size_t>(
      static_cast<std::size_t>(room / static_cast<double>(slice->size_bytes)), 1, kMaxCount);
  channel->set_settings(trial.settings);
  run_step(slice);
}

void Probe::measure_answer(const std::shared_ptr<Slice>& slice) {
  const auto begin = now_();
  slice->channel->write(
      kProvingGround, {memory_.get(), 8}, begin + kPatience,
      [self = shared_from_this(), slice, begin](const std::optional<Error>& error, std::uint64_t) {
        if (error) return self->end_slice(slice, error);
        const auto took = self->seconds_since(begin);
        auto& best = self->report_.answer_seconds;
        best = best == 0 ? took : std::min(best, took);
        ++slice->answers;
        // On a busy machine they wait for processors, which tells nothing of the way.
        const auto way = slice->channel->round_trip();
        self->report_.way_seconds = way ? std::min(*way, best) : best;
        const auto time = slice->answers < kMinAnswers ? kFarAnswerSlice : kAnswerSlice;
        if (slice->answers < kAnswers && self->now_() - slice->began < time)
          return self->measure_answer(slice);
        self->end_slice(slice, std::nullopt);
      });
}

// One operation after the other, larger ones while they are short.
void Probe::estimate(const std::shared_ptr<Slice>& slice, std::uint64_t size_bytes) {
  const auto begin = now_();
  slice->channel->write(kProvingGround, {memory_.get(), size_bytes}, begin + kPatience,
                        [self = shared_from_this(), slice, begin, size_bytes](
                            const std::optional<Error>& error, std::uint64_t) {
                          if (error) return self->end_slice(slice, error);
                          const auto took = self->seconds_since(begin);
                          const auto& answer = self->report_.answer_seconds;
                          // Of the last one: what is small may hide in a buffer on the way.
                          self->report_.bytes_per_second =
                              static_cast<double>(size_bytes) / std::max(took - answer, took / 8);
                          // The first ones meet memory that nobody has touched: each end is met
                          // twice.
                          const bool is_long =
                              took - answer >= std::chrono::duration<double>(kLong).count();
                          if (!is_long && size_bytes < kLarge)
                            return self->estimate(slice, size_bytes * 2);
                          if (++slice->answers < 2) return self->estimate(slice, size_bytes);
                          self->plan_trials();
                          self->end_slice(slice, std::nullopt);
                        });
}

void Probe::plan_trials() {
  is_planned_ = true;
  auto& report = report_;
  report.is_far = report.way_seconds >= kFarSeconds ||
                  report.way_seconds * report.bytes_per_second >= kFarBytes;
  if (report.way_seconds >= kFarSeconds || report.bytes_per_second < kSlowRate) {
    report.settings = kUnasked;
    report.reason =
        report.way_seconds >= kFarSeconds
            ? fmt::format("the way there and back takes {:.1f} ms: the fewest round trips win",
                          report.way_seconds * 1e3)
            : fmt::format("{:.2f} GB/s leave the processors time: the fewest round trips win",
                          report.bytes_per_second / 1e9);
    return;
  }
  report.trials = {{kLarge, kUsual, 0, 0},
                   {kLarge, kDefault, 0, 0},
                   {kLarge, kFifths, 0, 0},
                   {kMedium, kUsual, 0, 0},
                   {kMedium, kUnasked, 0, 0}};
  for (int round = 0; round < kRounds; ++round)
    for (std::size_t i = 0; i < report.trials.size(); ++i)
      for (const auto access : {Access::write, Access::read})
        // To and fro, so that no candidate always comes behind the same one.
        steps_.push_back({round % 2 == 0 ? i : report.trials.size() - 1 - i, access});
}

void Probe::run_step(const std::shared_ptr<Slice>& slice) {
  auto& channel = *slice->channel;
  const auto has_time = [this, &slice] {
    return slice->started_count == 0 || now_() - slice->began < slice->time;
  };
  while (!slice->error && slice->under_way < slice->limit && has_time()) {
    const auto size = slice->size_bytes;
    const auto offset = slice->started_count++ * size % kProvingGroundBytes;
    auto landed = [self = shared_from_this(), slice, size](std::optional<Error> error,
                                                           std::uint64_t) {
      --slice->under_way;
      if (error)
        slice->error = std::move(error);
      else
        slice->bytes += size;
      self->run_step(slice);
    };
    ++slice->under_way;
    auto at = kProvingGround;
    at.offset_bytes = offset;
    const auto deadline = now_() + kPatience;
    const std::span memory(memory_.get() + offset, size);
    if (slice->step.access == Access::write)
      channel.write(at, memory, deadline, std::move(landed));
    else
      channel.read(memory, at, deadline, std::move(landed));
  }
  if (slice->under_way > 0) return;
  if (!slice->error) {
    auto& trial = report_.trials[slice->step.trial];
    auto& best = slice->step.access == Access::write ? trial.write_bytes_per_second
                                                     : trial.read_bytes_per_second;
    best = std::max(best, static_cast<double>(slice->bytes) / seconds_since(slice->began));
  }
  end_slice(slice, slice->error);
}

void Probe::end_slice(const std::shared_ptr<Slice>& slice, const std::optional<Error>& error) {
  report_.seconds += seconds_since(slice->began);
  const bool is_over = is_planned_ && steps_.empty();
  const bool is_late = std::chrono::duration<double>(report_.seconds) >= kProbeBudget;
  if (error || is_over || is_late) {
    is_done_ = true;
    if (error) {
      report_.has_failed = true;
      report_.settings = kDefault;
      report_.reason = std::string("the probe failed: ") + error->what();
    } else {
      choose();
    }
    memory_.reset();
  }
  slice->channel->set_settings(is_done_ ? report_.settings : slice->before);
  std::exchange(slice->ended, nullptr)();
}

void Probe::choose() {
  if (report_.trials.empty()) return;
  const auto large = best_of(report_.trials, kLarge, kPartGain),
             medium = best_of(report_.trials, kMedium, kEagerGain);
  report_.settings = {large.settings.part_bytes,
                      std::max(large.settings.eager_bytes, medium.settings.eager_bytes),
                      large.settings.by_stream};
  report_.reason = fmt::format(
      "parts of {} KiB{}: {}; up to {} KiB unasked: {}", report_.settings.part_bytes >> 10,
      report_.settings.by_stream ? " by the stream" : " by rendezvous", large.verdict(),
      report_.settings.eager_bytes >> 10, medium.verdict());
}

}  // namespace causeway
