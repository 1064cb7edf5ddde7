#include <numeric>

#include "transport/bench/bench.h"
#include "transport/bench/forked_ranks.h"

namespace causeway::bench {

namespace {

constexpr std::uint64_t kThere = std::uint64_t{1} << 40;  // Tags of no communicator.
constexpr std::uint64_t kBack = std::uint64_t{1} << 41;
constexpr std::uint64_t kOver = std::uint64_t{1} << 42;
constexpr std::size_t kMostSamples = 4'000'000;

void ignore(const std::optional<Error>&, std::uint64_t) {}

// One message that goes to and fro on the transport's thread until the time is over.
class Traveller {
 public:
  Traveller(Channel& channel, std::uint64_t number, std::size_t size)
      : channel_(channel), number_(number), out_(size, std::byte{7}), in_(size) {}

  void begin(Clock::time_point end, std::vector<double>& samples, Completion done) {
    end_ = end, samples_ = &samples, done_ = std::move(done);
    trip();
  }

 private:
  void trip() {
    began_ = Clock::now();
    channel_.receive(
        kBack + number_, in_, began_ + 10s,
        [this](std::optional<Error> error, std::uint64_t bytes) {
          if (!error && (bytes != out_.size() || in_ != out_))
            error = Error(Errc::internal, "another message came back than was sent");
          if (error) return done_(std::move(error), 0);
          const auto now = Clock::now();
          if (samples_->size() < kMostSamples)
            samples_->push_back(std::chrono::duration<double>(now - began_).count() / 2);
          if (now > end_) return done_(std::nullopt, 0);
          trip();
        });
    channel_.send(kThere + number_, out_, began_ + 10s, ignore);
  }

  Channel& channel_;
  std::uint64_t number_;
  std::vector<std::byte> out_, in_;
  Clock::time_point end_, began_;
  std::vector<double>* samples_ = nullptr;
  Completion done_;
};

// The other end of a traveller.
class Echo : public std::enable_shared_from_this<Echo> {
 public:
  Echo(Channel& channel, std::uint64_t number, std::size_t size)
      : channel_(channel), number_(number), bytes_(size) {}
  void open() {
    channel_.receive(
        kThere + number_, bytes_, Clock::now() + 1h,
        [self = shared_from_this()](const std::optional<Error>& error, std::uint64_t size) {
          if (error) return;
          self->channel_.send(kBack + self->number_, std::span(self->bytes_).first(size),
                              Clock::now() + 10s,
                              [self](const std::optional<Error>& failed, std::uint64_t) {
                                if (!failed) self->open();
                              });
        });
  }

 private:
  Channel& channel_;
  std::uint64_t number_;
  std::vector<std::byte> bytes_;
};

void print(std::size_t size, std::vector<double>& samples) {
  std::ranges::sort(samples);
  const auto at = [&](double share) {
    return samples[static_cast<std::size_t>(share * static_cast<double>(samples.size() - 1))];
  };
  std::printf(
      R"({"size_bytes":%zu,"trips":%zu,"p50_s":%.9f,"p90_s":%.9f,"p99_s":%.9f,"p999_s":%.9f,"max_s":%.9f})"
      "\n",
      size, samples.size(), at(0.5), at(0.9), at(0.99), at(0.999), samples.back());
  std::fflush(stdout);
}

void serve_echoes(RankProcess& rank, const LatencyBench& options) {
  const auto largest = *std::ranges::max_element(options.sizes);
  rank.io().wait_for([&](const Completion& done) {
    auto& channel = rank.channel(0);
    for (std::size_t i = 0; i < options.concurrency; ++i)
      std::make_shared<Echo>(channel, i, largest)->open();
    channel.receive(kOver, {}, Clock::now() + 1h, done);
  });
}

void travel(RankProcess& rank, const LatencyBench& options) {
  for (const auto size : options.sizes) {
    std::vector<double> samples;
    std::vector<std::unique_ptr<Traveller>> travellers;
    std::size_t left = options.concurrency;
    std::optional<Error> failure;
    rank.io().wait_for([&](const Completion& done) {
      const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                          std::chrono::duration<double>(options.seconds));
      for (std::size_t i = 0; i < options.concurrency; ++i)
        travellers.push_back(std::make_unique<Traveller>(rank.channel(1), i, size));
      for (auto& traveller : travellers)
        traveller->begin(end, samples, [&, done](std::optional<Error> error, std::uint64_t) {
          if (error) failure = std::move(error);
          if (--left == 0) done(std::move(failure), 0);
        });
    });
    print(size, samples);
  }
  rank.io().wait_for(
      [&](const Completion& done) { rank.channel(1).send(kOver, {}, Clock::now() + 10s, done); });
}

}  // namespace

bool measure_latency(const LatencyBench& options) {
  GroupOptions group;
  group.shares_messages = options.shares_memory;
  ForkedRanks ranks(group, [&](RankProcess& rank) {
    if (options.shares_memory && !shares_memory(rank.channel(1 - rank.rank())))
      throw Error(Errc::unsupported, "two processes of this machine cannot share memory");
    if (rank.rank() == 0)
      travel(rank, options);
    else
      serve_echoes(rank, options);
    rank.barrier();
    return 0;
  });
  return ranks.wait_all();
}

}  // namespace causeway::bench
