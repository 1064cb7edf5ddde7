// Which chunks a device is copied in.
#include <algorithm>
#include <array>
#include <future>

#include "transport/device/staging.h"

namespace causeway {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kRoundBytes = 2 << 20;  // Each way.
constexpr int kRounds = 5;
constexpr double kEnough = 0.9;  // Of the best.
constexpr std::array<std::uint64_t, 4> kSizes{1 << 20, 512 << 10, 256 << 10, 128 << 10};

}  // namespace

std::uint64_t choose_chunk(std::span<const StagingTrial> trials) noexcept {
  double best = 0;
  for (const auto& trial : trials) best = std::max(best, trial.bytes_per_second);
  std::uint64_t chosen = kStagingSlotBytes;
  for (const auto& trial : trials)
    if (trial.bytes_per_second >= kEnough * best) chosen = std::min(chosen, trial.chunk_bytes);
  return chosen;
}

// Rounds of all sizes in turn, so that what disturbs meets all alike.
void DeviceStaging::measure(const std::shared_ptr<CudaContext>& context,
                            std::chrono::milliseconds limit) {
  std::optional<CudaPlainMemory> scratch;
  try {
    scratch.emplace(CudaPlainMemory::on_device(context, 2 * kRoundBytes));
  } catch (const Error& error) {
    if (error.code() == Errc::out_of_memory) return;  // A full device is no reason to refuse it.
    throw;
  }
  const auto until = Clock::now() + limit;
  for (int round = 0; round < kRounds; ++round)
    for (std::size_t i = 0; i < kSizes.size(); ++i) {
      if (Clock::now() >= until) break;
      const auto rate = measure_round(scratch->bytes().data(), kSizes[i]);
      if (round == 0) report_.trials.push_back({kSizes[i], rate});
      if (i < report_.trials.size())
        report_.trials[i].bytes_per_second = std::max(report_.trials[i].bytes_per_second, rate);
    }
  // Of sizes that were not all tried nothing follows.
  if (report_.trials.size() == kSizes.size()) report_.chunk_bytes = choose_chunk(report_.trials);
}

double DeviceStaging::measure_round(std::byte* on_device, std::uint64_t chunk_bytes) {
  std::vector<std::future<std::optional<Error>>> ends;
  const auto tell = [&ends] {
    const auto end = std::make_shared<std::promise<std::optional<Error>>>();
    ends.push_back(end->get_future());
    return [end](std::optional<Error> error) { end->set_value(std::move(error)); };
  };
  const auto start = Clock::now();
  for (std::uint64_t at = 0; at < kRoundBytes; at += chunk_bytes) {
    in_.copy(on_device + at, own_->memory().data() + at, chunk_bytes, tell());
    out_.copy(served_->memory().data() + at, on_device + kRoundBytes + at, chunk_bytes, tell());
  }
  std::optional<Error> failed;
  for (auto& end : ends)
    if (auto error = end.get()) failed = std::move(error);
  if (failed) throw Error(*failed);
  const std::chrono::duration<double> took = Clock::now() - start;
  return 2 * kRoundBytes / took.count();
}

}  // namespace causeway
