#include <cstring>

#include "transport/bench/batches.h"
#include "transport/bench/bench.h"
#include "transport/bench/forked_ranks.h"

namespace causeway::bench {

namespace {

using Operation = CollectiveBench::Operation;

// Of the buffer's bytes, what each rank must send at least: nccl-tests' factor of busbw.
double moved_share(Operation operation, std::size_t ranks) {
  const double others = static_cast<double>(ranks - 1) / static_cast<double>(ranks);
  switch (operation) {
    case Operation::all_reduce:
      return 2 * others;
    case Operation::reduce_scatter:
    case Operation::all_gather:
    case Operation::all_to_all:
      return others;
    case Operation::broadcast:
      return 1;
    case Operation::barrier:
      break;
  }
  return 0;
}

class RankBench {
 public:
  RankBench(RankProcess& rank, const CollectiveBench& options, std::size_t size)
      : rank_(rank),
        options_(options),
        values_(size),
        shares_(Shares::equal(size, size_of(options.how.type), static_cast<int>(options.ranks))) {}

  void measure() {
    const double seconds = median([this](int times) {
      rank_.barrier();
      for (int i = 0; i < times; ++i) call();
    });
    verify();
    const double memcpy_seconds = median([this](int times) { copy(times); });
    if (rank_.rank() != 0) return;
    std::printf(R"({"size_bytes":%zu,"seconds":%.9f,"moved_share":%.6f,"memcpy_s":%.9f})"
                "\n",
                values_.size(), seconds, moved_share(options_.operation, options_.ranks),
                memcpy_seconds);
    std::fflush(stdout);
  }

 private:
  template <typename Batch>
  double median(const Batch& batch) {
    // Zeros stay what they are, however often they are summed.
    const auto reset = [this] { std::ranges::fill(values_, std::byte{0}); };
    const auto agree = [this](int number) {
      rank_.run([&](Communicator& c, Communicator::Done done) {
        c.broadcast(std::as_writable_bytes(std::span(&number, 1)), 0, Clock::now() + 60s, done);
      });
      return number;
    };
    constexpr int kMost = 1'000'000;
    return median_seconds(options_.rounds, batch, agree, reset, kMost,
                          options_.seconds / (2 * options_.rounds));
  }

  void call() {
    rank_.run([this](Communicator& c, Communicator::Done done) {
      const auto deadline = Clock::now() + 60s;
      const std::span<std::byte> values = values_;
      switch (options_.operation) {
        case Operation::all_reduce:
          return c.all_reduce(values, options_.how, deadline, done);
        case Operation::reduce_scatter:
          return c.reduce_scatter(values, shares_, options_.how, deadline, done);
        case Operation::all_gather:
          return c.all_gather(values, shares_, deadline, done);
        case Operation::broadcast:
          return c.broadcast(values, 0, deadline, done);
        case Operation::all_to_all:
          return c.all_to_all(values, shares_.value_bytes(), deadline, done);
        case Operation::barrier:
          return c.barrier(deadline, done);
      }
    });
  }

  void copy(int times) {
    const auto bytes = static_cast<std::size_t>(moved_share(options_.operation, options_.ranks) *
                                                static_cast<double>(values_.size()));
    source_.resize(bytes), target_.resize(bytes);
    rank_.barrier();
    for (int i = 0; i < times; ++i) {
      std::memcpy(target_.data(), source_.data(), bytes);
      // Else repeated copies of the same bytes are dropped.
      asm volatile("" : : "r"(target_.data()) : "memory");
    }
  }

  // Bytes that differ by rank and place; or ones, whose sums every type can say.
  void verify() {
    if (values_.empty()) return;
    const bool reduces = options_.operation == Operation::all_reduce ||
                         options_.operation == Operation::reduce_scatter;
    const auto before = [&](std::size_t rank) { return reduces ? repeated(1) : pattern(rank); };
    values_ = before(rank_.rank());
    call();
    const auto expected = reduces ? repeated(result_of_ones()) : gathered(before);
    auto own = std::span<const std::byte>(values_);
    auto right = std::span<const std::byte>(expected);
    if (options_.operation == Operation::reduce_scatter) {
      own = shares_.of(own, static_cast<int>(rank_.rank()));
      right = shares_.of(right, static_cast<int>(rank_.rank()));
    }
    if (!std::ranges::equal(own, right))
      throw Error(Errc::internal, "wrong values of " + std::to_string(values_.size()) + " bytes");
  }

  [[nodiscard]] int result_of_ones() const {
    return options_.how.op == ReduceOp::sum ? static_cast<int>(options_.ranks) : 1;
  }
  [[nodiscard]] std::vector<std::byte> pattern(std::size_t rank) const {
    std::vector<std::byte> bytes(values_.size());
    for (std::size_t i = 0; i < bytes.size(); ++i)
      bytes[i] = static_cast<std::byte>((i * 31 + (i >> 8) + rank * 101) & 0xff);
    return bytes;
  }
  // `number` in the operation's type, as often as it fits.
  [[nodiscard]] std::vector<std::byte> repeated(int number) const {
    std::vector<std::byte> bytes(values_.size());
    const auto fill = [&](auto value) {
      for (std::size_t at = 0; at < bytes.size(); at += sizeof value)
        std::memcpy(bytes.data() + at, &value, sizeof value);
    };
    const auto single = std::bit_cast<std::uint32_t>(static_cast<float>(number));
    switch (options_.how.type) {
      case DataType::f32:
        fill(single);
        break;
      case DataType::f64:
        fill(static_cast<double>(number));
        break;
      case DataType::bf16:
        fill(static_cast<std::uint16_t>(single >> 16));
        break;
      case DataType::f16:  // Exponents are biased by 15 instead of 127; small integers fit.
        fill(static_cast<std::uint16_t>((single - ((127U - 15U) << 23)) >> 13));
        break;
      case DataType::i32:
        fill(static_cast<std::int32_t>(number));
        break;
      case DataType::i64:
        fill(static_cast<std::int64_t>(number));
        break;
    }
    return bytes;
  }
  template <typename Before>
  [[nodiscard]] std::vector<std::byte> gathered(const Before& before) const {
    if (options_.operation == Operation::broadcast) return before(0);
    std::vector<std::byte> result(values_.size());
    for (std::size_t from = 0; from < options_.ranks; ++from) {
      const auto theirs = before(from);
      const auto share = options_.operation == Operation::all_to_all ? rank_.rank() : from;
      const auto bytes = shares_.of(std::span(theirs), static_cast<int>(share));
      std::ranges::copy(bytes, result.begin() + shares_.begin(static_cast<int>(from)));
    }
    return result;
  }

  RankProcess& rank_;
  const CollectiveBench& options_;
  std::vector<std::byte> values_;
  Shares shares_;
  std::vector<std::byte> source_, target_;
};

}  // namespace

bool measure_collective(const CollectiveBench& options) {
  GroupOptions group{.count = options.ranks};
  group.made.shares_memory = options.shares_memory;
  ForkedRanks ranks(group, [&](RankProcess& rank) {
    for (const auto size : options.sizes) RankBench(rank, options, size).measure();
    rank.barrier();
    return 0;
  });
  return ranks.wait_all();
}

}  // namespace causeway::bench
