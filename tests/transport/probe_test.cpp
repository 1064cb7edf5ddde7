// What a probe chooses, on wires whose time is made by the test: no clock of the machine counts.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include "transport/transfer/probe.h"

#include <doctest/doctest.h>

#include <map>
#include <random>

using namespace causeway;
using namespace std::chrono_literals;

namespace {

using Clock = std::chrono::steady_clock;

// One operation after the other; an answer takes its time beside the others.
struct Wire {
  double answer_seconds = 20e-6;
  std::optional<double> round_trip;  // What the channel says of it.
  double bytes_per_second = 4e9;
  // How much longer an operation takes with these settings, or at this moment.
  std::function<double(std::uint64_t size_bytes, const LinkSettings&)> slower =
      [](std::uint64_t, const LinkSettings&) { return 1.0; };
  std::optional<Error> refusal;
  bool is_dead = false;

  Clock::time_point now{};
  Clock::time_point free_at{};
  std::multimap<Clock::time_point, std::function<void()>> events;

  static Clock::duration time(double seconds) {
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  }
  // False if nothing is to come.
  bool step() {
    if (events.empty()) return false;
    const auto next = events.begin();
    now = next->first;
    const auto event = std::move(next->second);
    events.erase(next);
    event();
    return true;
  }
};

class WireChannel final : public Channel {
 public:
  explicit WireChannel(Wire& wire) : wire_(wire) {}
  [[nodiscard]] const std::string& peer_name() const noexcept override { return name_; }
  [[nodiscard]] const Hello& peer() const noexcept override { return hello_; }
  [[nodiscard]] ChannelId id() const noexcept override { return {}; }
  [[nodiscard]] std::optional<double> round_trip() const noexcept override {
    return wire_.round_trip;
  }
  void set_settings(const LinkSettings& settings) override { settings_ = settings; }
  [[nodiscard]] LinkSettings settings() const noexcept override { return settings_; }
  void write(RemoteAddress to, std::span<const std::byte> source, Deadline deadline,
             Completion done) override {
    operate(to, source.size(), deadline, std::move(done));
  }
  void read(std::span<std::byte> target, RemoteAddress from, Deadline deadline,
            Completion done) override {
    operate(from, target.size(), deadline, std::move(done));
  }
  void checksum(RemoteAddress, std::uint64_t, Deadline, Completion) override { FAIL("asked"); }
  void fence(ChannelId, Deadline, Completion) override { FAIL("asked"); }
  void send(std::uint64_t, std::span<const std::byte>, Deadline, Completion) override {
    FAIL("asked");
  }
  void receive(std::uint64_t, std::span<std::byte>, Deadline, Completion) override {
    FAIL("asked");
  }
  void close(Error) override { FAIL("closed"); }
  [[nodiscard]] bool is_open() const noexcept override { return true; }
  [[nodiscard]] ChannelCounters counters() const noexcept override { return {}; }
  void on_close(std::function<void(const Error&)>) override {}

  std::size_t under_way = 0;
  std::size_t most_under_way = 0;

 private:
  void operate(RemoteAddress at, std::uint64_t size, Deadline deadline, Completion done) {
    REQUIRE(at.session == kProvingGround.session);
    REQUIRE(at.region == kProvingGround.region);
    REQUIRE(at.offset_bytes + size <= kProvingGroundBytes);
    most_under_way = std::max(most_under_way, ++under_way);
    auto& wire = wire_;
    auto error = wire.refusal;
    auto at_time = deadline;
    if (wire.is_dead) {
      error = Error(Errc::timed_out, "no answer");
    } else {
      const auto bytes_time = static_cast<double>(size) / wire.bytes_per_second;
      wire.free_at =
          std::max(wire.now, wire.free_at) + Wire::time(bytes_time * wire.slower(size, settings_));
      at_time = wire.free_at + Wire::time(wire.answer_seconds);
    }
    wire.events.emplace(at_time, [this, error, size, done = std::move(done)] {
      --under_way;
      done(error, error ? 0 : size);
    });
  }

  Wire& wire_;
  std::string name_ = "peer";
  Hello hello_;
  LinkSettings settings_;
};

struct Outcome {
  ProbeReport report;
  LinkSettings settings;  // Of the channel.
  int slices = 0;
  Clock::duration longest{};
};

Outcome probe(Wire& wire) {
  const auto channel = std::make_shared<WireChannel>(wire);
  const auto probe = std::make_shared<Probe>([&wire] { return wire.now; });
  Outcome outcome;
  while (!probe->is_done()) {
    bool has_ended = false;
    const auto begin = wire.now;
    probe->run_slice(channel, [&] { has_ended = true; });
    REQUIRE_FALSE(has_ended);  // Not inside the call.
    while (!has_ended) REQUIRE(wire.step());
    CHECK(channel->under_way == 0);
    if (!probe->is_done()) CHECK((channel->settings() == LinkSettings{}));
    outcome.longest = std::max(outcome.longest, wire.now - begin);
    REQUIRE(++outcome.slices < 100);
  }
  outcome.report = probe->report();
  outcome.settings = channel->settings();
  CHECK((outcome.settings == outcome.report.settings));
  CHECK_FALSE(outcome.report.reason.empty());
  CHECK(channel->most_under_way <= 32);
  return outcome;
}

constexpr LinkSettings kDefault{};
constexpr LinkSettings kUsual{1 << 20, 16 << 10, true};

bool is_large(std::uint64_t size) { return size > 64 << 10; }

}  // namespace

TEST_CASE("where nothing is better the usual way stays") {
  Wire wire;
  const auto outcome = probe(wire);
  INFO(outcome.report.reason);
  CHECK((outcome.settings == kUsual));
  CHECK(outcome.report.trials.size() == 5);
  for (const auto& trial : outcome.report.trials) {
    CHECK(trial.write_bytes_per_second == doctest::Approx(4e9).epsilon(0.1));
    CHECK(trial.read_bytes_per_second == doctest::Approx(4e9).epsilon(0.1));
  }
  CHECK(outcome.report.answer_seconds == doctest::Approx(20e-6).epsilon(0.01));
  CHECK_FALSE(outcome.report.is_far);
  CHECK_FALSE(outcome.report.has_failed);
}

TEST_CASE("what carries clearly more is chosen, what carries a little more is not") {
  Wire wire;
  LinkSettings wanted = kUsual;
  SUBCASE("bytes that go unasked") {
    wire.slower = [](auto size, const auto& settings) {
      return size <= settings.eager_bytes || is_large(size) ? 1.0 : 1.4;
    };
    wanted.eager_bytes = 64 << 10;
  }
  SUBCASE("fifths, unasked") {
    wire.slower = [](auto size, const auto& settings) {
      return is_large(size) && settings.part_bytes != 208 << 10 ? 1.3 : 1.0;
    };
    wanted = {208 << 10, 208 << 10, true};
  }
  SUBCASE("rendezvous") {
    wire.slower = [](auto size, const auto& settings) {
      return is_large(size) && settings.by_stream ? 1.2 : 1.0;
    };
    wanted.by_stream = false;
  }
  SUBCASE("rendezvous, not enough") {
    wire.slower = [](auto size, const auto& settings) {
      return is_large(size) && settings.by_stream ? 1.1 : 1.0;
    };
  }
  SUBCASE("a little") {
    wire.slower = [](auto, const auto& settings) { return settings == kUsual ? 1.05 : 1.0; };
  }
  SUBCASE("parts, not enough") {
    wire.slower = [](auto size, const auto& settings) {
      return is_large(size) && settings.part_bytes != 208 << 10 ? 1.2 : 1.0;
    };
  }
  const auto outcome = probe(wire);
  INFO(outcome.report.reason);
  CHECK((outcome.settings == wanted));
}

TEST_CASE("what disturbs for moments decides next to nothing") {
  int wrong = 0;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    INFO("seed=", seed);
    Wire wire;
    std::mt19937_64 random(seed);
    // Whole milliseconds at a third of the rate, a quarter of the time.
    std::map<std::int64_t, double> moments;
    wire.slower = [&](auto size, const auto& settings) {
      const auto moment =
          std::chrono::duration_cast<std::chrono::milliseconds>(wire.now.time_since_epoch())
              .count() /
          4;
      const auto disturbance = moments.try_emplace(moment, random() % 4 == 0 ? 3.0 : 1.0);
      const bool is_good = size <= settings.eager_bytes || is_large(size);
      return disturbance.first->second * (is_good ? 1.0 : 1.6);
    };
    const auto outcome = probe(wire);
    wrong += outcome.settings == LinkSettings{1 << 20, 64 << 10, true} ? 0 : 1;
  }
  CHECK(wrong <= 5);
}

TEST_CASE("a slow link and a far one are not tried, and save round trips") {
  Wire wire;
  SUBCASE("slow") { wire.bytes_per_second = 100e6; }
  SUBCASE("far") { wire.answer_seconds = 5e-3; }
  const auto outcome = probe(wire);
  INFO(outcome.report.reason);
  CHECK(outcome.report.trials.empty());
  CHECK(outcome.settings.eager_bytes == 64 << 10);
  CHECK(outcome.report.is_far == (wire.answer_seconds > 1e-3));
  CHECK(outcome.slices == 2);
}

TEST_CASE("a fast link of some length takes more streams") {
  Wire wire;
  SUBCASE("10 GB/s") {
    wire.answer_seconds = 0.5e-3;
    wire.bytes_per_second = 10e9;
  }
  SUBCASE("1.25 GB/s") {
    wire.answer_seconds = 1.9e-3;
    wire.bytes_per_second = 1.25e9;
  }
  const auto outcome = probe(wire);
  CHECK(outcome.report.is_far);
  CHECK(outcome.report.trials.size() == 5);
}

TEST_CASE("a busy machine is not a long way") {
  Wire wire;
  wire.answer_seconds = 5e-3;
  wire.round_trip = 20e-6;
  const auto outcome = probe(wire);
  CHECK_FALSE(outcome.report.is_far);
  CHECK(outcome.report.trials.size() == 5);
}

TEST_CASE("it ends within its budget, in slices that are short") {
  for (const double rate : {20e6, 100e6, 0.39e9, 0.41e9, 1e9, 4e9, 50e9}) {
    INFO("rate=", rate);
    Wire wire;
    wire.bytes_per_second = rate;
    const auto outcome = probe(wire);
    CHECK(outcome.report.seconds <= 0.2);
    CHECK((wire.now.time_since_epoch() <= 200ms));
    CHECK((outcome.longest <= 14ms));
    CHECK_FALSE(outcome.report.has_failed);
  }
}

TEST_CASE("a peer that refuses, or does not answer, leaves the defaults") {
  Wire wire;
  SUBCASE("refuses") { wire.refusal = Error(Errc::unsupported, "serves no memory"); }
  SUBCASE("is silent") { wire.is_dead = true; }
  SUBCASE("falls silent") {
    wire.slower = [&](auto, const auto& settings) {
      if (settings.part_bytes == 208 << 10) wire.is_dead = true;
      return 1.0;
    };
  }
  const auto outcome = probe(wire);
  CHECK(outcome.report.has_failed);
  CHECK((outcome.settings == kDefault));
  CHECK(outcome.report.reason.find("the probe failed: ") == 0);
}
