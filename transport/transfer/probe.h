// Finds out with what settings a channel carries most, by trying them on the peer's proving ground.
//
// Shape:   a series of slices of a few milliseconds each, so that they fit between transfers: the
//          time of an answer, an estimate of the rate, then every candidate in turn, writes and
//          reads, five times over. Operations of 1 MiB choose the part, those of 64 KiB the eager
//          limit. The best slice of a candidate counts, since what disturbs can only slow it.
// Choice:  parts of 1 MiB by the stream stand until another candidate carries kPartGain,
// kRendezvousGain or kEagerGain as much. A
//          link too slow for its processors to matter, or too far for a slice, is not tried: there
//          a question more costs a round trip, so parts of 64 KiB go unasked.
// Cost:    52 slices, kProbeBudget together; on this side kProvingGroundBytes while any runs.
// Errors:  what fails ends the probe: the defaults stand, and the report says why. When the budget
//          is spent, what was measured until then decides.
// Threads: the channel's.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "transport/channel.h"

namespace causeway {

constexpr auto kProbeBudget = std::chrono::milliseconds(180);
// Between 1 MiB and a fifth of it, what a short slice shows of parts differs more than a long
// transfer.
constexpr double kPartGain = 1.25;
constexpr double kEagerGain = 1.08;
constexpr double kRendezvousGain = 1.15;  // UCX's, instead of the stream.

struct ProbeReport {
  struct Trial {
    std::uint64_t operation_bytes;
    LinkSettings settings;
    double write_bytes_per_second;
    double read_bytes_per_second;
  };
  LinkSettings settings;        // What was chosen.
  bool is_far = false;          // One stream cannot fill it: more of them may.
  double answer_seconds = 0;    // From a write of 8 bytes to its answer, the shortest.
  double way_seconds = 0;       // Of these, on the way: all, if the channel cannot tell.
  double bytes_per_second = 0;  // The estimate.
  std::vector<Trial> trials;    // Without a figure: none was measured.
  double seconds = 0;           // That its slices took.
  bool has_failed = false;
  std::string reason;  // Why these settings.
};

class Probe : public std::enable_shared_from_this<Probe> {
 public:
  using Clock = std::chrono::steady_clock;
  explicit Probe(std::function<Clock::time_point()> now = Clock::now);

  [[nodiscard]] bool is_done() const noexcept { return is_done_; }
  [[nodiscard]] const ProbeReport& report() const noexcept { return report_; }

  // Runs the next slice; nothing else should move meanwhile. `ended` is called once, not inside the
  // call, when nothing of it is under way any more. The channel has the chosen settings at the end,
  // and those it had in between.
  void run_slice(const std::shared_ptr<Channel>& channel, std::function<void()> ended);

 private:
  struct Slice;
  struct Step {
    std::size_t trial;
    Access access;
  };
  void measure_answer(const std::shared_ptr<Slice>& slice);
  void estimate(const std::shared_ptr<Slice>& slice, std::uint64_t size_bytes);
  void run_step(const std::shared_ptr<Slice>& slice);
  void plan_trials();
  void end_slice(const std::shared_ptr<Slice>& slice, const std::optional<Error>& error);
  void choose();

  [[nodiscard]] double seconds_since(Clock::time_point begin) const;

  std::function<Clock::time_point()> now_;
  ProbeReport report_;
  std::shared_ptr<std::byte[]> memory_;
  std::vector<Step> steps_;  // What is left, the next one last.
  bool is_planned_ = false;
  bool is_done_ = false;
};

}  // namespace causeway
