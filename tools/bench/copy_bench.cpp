#include "tools/bench/copy_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <future>
#include <memory>

#include "causeway/cluster.h"
#include "tools/base/interrupt.h"
#include "tools/bench/ucx_perftest.h"

namespace causeway::tools {

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kPerftestPatience{30};

// Differs at every eighth byte and between sizes, so neither an old copy nor a shift passes.
std::vector<std::byte> pattern(std::uint64_t size_bytes) {
  std::vector<std::byte> bytes(size_bytes);
  std::uint64_t value = size_bytes;
  for (std::uint64_t at = 0; at < size_bytes; at += sizeof value) {
    value = value * 6364136223846793005U + 1442695040888963407U;
    std::memcpy(bytes.data() + at, &value, std::min<std::uint64_t>(sizeof value, size_bytes - at));
  }
  return bytes;
}

struct Measured {
  std::uint64_t bytes;
  double seconds;
  [[nodiscard]] double rate() const { return static_cast<double>(bytes) / seconds; }
};

// Two regions and what copies between them.
class Lane {
 public:
  Lane(Pool& pool, const CopyBenchOptions& options, std::uint64_t size_bytes)
      : pool_(pool), options_(options), size_bytes_(size_bytes), source_(pattern(size_bytes)) {
    from_ = pool.allocate(size_bytes,
                          {.near = options.from, .only = {options.from}, .name = "bench from"});
    to_ = pool.allocate(size_bytes, {.near = options.to, .only = {options.to}, .name = "bench to"});
    from_.write(0, source_);
  }

  // For the processor.
  [[nodiscard]] bool mapped() const {
    const auto is_here = [](const Region& region) {
      return region.is_mapped() && region.memory_kind() == MemoryKind::host;
    };
    return is_here(from_) && is_here(to_);
  }
  [[nodiscard]] const std::string& route() const noexcept { return route_; }

  // Timed around the call, so what the client waits for counts, not what a daemon says.
  Measured copy(std::uint64_t count, bool pull) {
    throw_if_interrupted();
    if (options_.deadline && Clock::now() > *options_.deadline)
      throw Error(Errc::timed_out, fmt::format("copying from {} to {} took longer than it may",
                                               options_.from.to_string(), options_.to.to_string()));
    const std::vector<Pool::CopyPiece> pieces(count, {0, 0, size_bytes_});
    const auto begin = Clock::now();
    const auto report = pool_.copy_batch(to_, from_, pieces, pull);
    const std::chrono::duration<double> took = Clock::now() - begin;
    route_ = report.route;
    if (report.bytes != count * size_bytes_)
      throw Error(Errc::internal, fmt::format("{} of {} bytes were copied from {} to {}",
                                              report.bytes, count * size_bytes_,
                                              options_.from.to_string(), options_.to.to_string()));
    return {report.bytes, took.count()};
  }

  Measured memcpy_between_regions(std::uint64_t count) {
    return timed_memcpy(to_.data(), from_.data(), count);
  }
  Measured memcpy_between_buffers(std::uint64_t count) {
    target_.resize(size_bytes_);
    return timed_memcpy(target_.data(), source_.data(), count);
  }

  void clear_target() {
    const std::vector<std::byte> zeros(size_bytes_);
    to_.write(0, zeros);
  }
  void verify(const char* what) const {
    std::vector<std::byte> arrived(size_bytes_);
    to_.read(0, arrived);
    const auto [differs, expected] = std::ranges::mismatch(arrived, source_);
    if (differs != arrived.end())
      throw Error(Errc::internal,
                  fmt::format("{} of {} from {} to {}: byte {} differs from what was sent", what,
                              format_bytes(size_bytes_), options_.from.to_string(),
                              options_.to.to_string(), differs - arrived.begin()));
  }

 private:
  Measured timed_memcpy(std::byte* to, const std::byte* from, std::uint64_t count) const {
    const auto begin = Clock::now();
    for (std::uint64_t i = 0; i < count; ++i) {
      std::memcpy(to, from, size_bytes_);
      asm volatile(""
                   :
                   : "r"(to)
                   : "memory");  // Else the repeated copy of the same bytes is dropped.
    }
    const std::chrono::duration<double> took = Clock::now() - begin;
    return {count * size_bytes_, took.count()};
  }

  Pool& pool_;
  const CopyBenchOptions& options_;
  std::uint64_t size_bytes_;
  std::vector<std::byte> source_;
  std::vector<std::byte> target_;
  Region from_;
  Region to_;
  std::string route_;
};

// As many lanes as copy at once.
class Bench {
 public:
  Bench(Pool& pool, const CopyBenchOptions& options, std::uint64_t size_bytes) {
    for (std::size_t i = 0; i < options.concurrency; ++i)
      lanes_.push_back(std::make_unique<Lane>(pool, options, size_bytes));
  }

  [[nodiscard]] bool mapped() const { return lanes_.front()->mapped(); }
  [[nodiscard]] const std::string& route() const noexcept { return lanes_.front()->route(); }
  Measured copy(std::uint64_t count, bool pull) {
    return at_once([=](Lane& lane) { return lane.copy(count, pull); });
  }
  Measured memcpy_between_regions(std::uint64_t count) {
    return at_once([=](Lane& lane) { return lane.memcpy_between_regions(count); });
  }
  Measured memcpy_between_buffers(std::uint64_t count) {
    return at_once([=](Lane& lane) { return lane.memcpy_between_buffers(count); });
  }
  void clear_target() {
    for (const auto& lane : lanes_) lane->clear_target();
  }
  void verify(const char* what) const {
    for (const auto& lane : lanes_) lane->verify(what);
  }

  // How many pieces take about `seconds`, found by doubling.
  template <typename Run>
  std::uint64_t count_for(double seconds, const Run& run) {
    constexpr std::uint64_t kMaxCount = 65536;
    std::uint64_t count = 1;
    for (;;) {
      const auto measured = run(count);
      if (measured.seconds > seconds / 4 || count >= kMaxCount)
        return std::clamp<std::uint64_t>(
            static_cast<std::uint64_t>(static_cast<double>(count) * seconds / measured.seconds), 1,
            kMaxCount);
      count *= 2;
    }
  }

 private:
  template <typename Run>
  Measured at_once(const Run& run) {
    if (lanes_.size() == 1) return run(*lanes_.front());
    std::vector<std::future<Measured>> parts;
    const auto begin = Clock::now();
    for (const auto& lane : lanes_)
      parts.push_back(std::async(std::launch::async, run, std::ref(*lane)));
    std::uint64_t bytes = 0;
    for (auto& part : parts) bytes += part.get().bytes;  // The others are waited for all the same.
    const std::chrono::duration<double> took = Clock::now() - begin;
    return {bytes, took.count()};
  }

  std::vector<std::unique_ptr<Lane>> lanes_;
};

struct Rounds {
  std::vector<double> push, pull, limit, direct;
};

CopyPoint measure_point(Bench& bench, const CopyBenchOptions& options, std::uint64_t size_bytes,
                        const std::optional<std::string>& perftest) {
  const double slice_s = options.point_time.count() / options.rounds;
  CopyPoint point;
  point.size_bytes = size_bytes;
  point.mapped = bench.mapped();
  const auto prepare = [&](bool pull) {
    bench.clear_target();
    const auto count =
        bench.count_for(slice_s, [&](std::uint64_t now) { return bench.copy(now, pull); });
    bench.verify(pull ? "pull" : "push");
    return count;
  };
  const auto measure = [&](std::uint64_t count, bool pull) {
    bench.clear_target();
    const double rate = bench.copy(count, pull).rate();
    bench.verify(pull ? "pull" : "push");
    return rate;
  };
  const auto push_count = options.push ? prepare(false) : 0;
  const auto pull_count = options.pull ? prepare(true) : 0;
  std::uint64_t direct_count = 0;
  if (point.mapped)
    direct_count = bench.count_for(
        slice_s / 2, [&](std::uint64_t count) { return bench.memcpy_between_buffers(count); });
  Rounds rounds;
  for (int i = 0; i < options.rounds; ++i) {
    if (options.push) rounds.push.push_back(measure(push_count, false));
    if (options.pull) rounds.pull.push_back(measure(pull_count, true));
    if (point.mapped) {
      rounds.direct.push_back(bench.memcpy_between_regions(direct_count).rate());
      if (options.compare)
        rounds.limit.push_back(bench.memcpy_between_buffers(direct_count).rate());
    } else if (perftest) {
      rounds.limit.push_back(run_ucx_perftest(*perftest, size_bytes,
                                              std::max(push_count, pull_count), kPerftestPatience));
    }
  }
  point.push_bytes_per_s = median(rounds.push);
  point.pull_bytes_per_s = median(rounds.pull);
  if (point.mapped) point.mapped_bytes_per_s = median(rounds.direct);
  if (!rounds.limit.empty()) point.limit_bytes_per_s = median(rounds.limit);
  return point;
}

}  // namespace

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::ranges::sort(values);
  const auto half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

CopyBenchResult bench_copy(Pool& pool, const CopyBenchOptions& options,
                           const std::function<void(const std::string&)>& progress) {
  CopyBenchResult result;
  const auto perftest = options.compare ? find_ucx_perftest() : std::nullopt;
  for (const auto size_bytes : options.sizes_bytes) {
    if (progress) progress("measuring " + format_bytes(size_bytes));
    Bench bench(pool, options, size_bytes);
    result.points.push_back(measure_point(bench, options, size_bytes, perftest));
    result.route = bench.route();
    if (!options.compare)
      result.limit_name = "not measured";
    else if (bench.mapped())
      result.limit_name = "memcpy";
    else
      result.limit_name = perftest ? "ucx_perftest tag_bw" : "none: ucx_perftest is not installed";
  }
  return result;
}

}  // namespace causeway::tools
