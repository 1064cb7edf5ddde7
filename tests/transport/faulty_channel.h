// A channel whose wire is bad: what crosses is late, lost, changed or out of order, and the channel
// may end at any moment.
//
// Shape:   decorates a channel of this process, which stands for the receiver's end: what is under
// way
//          when the sender's end closes still lands there later, until the receiver is fenced.
// Errors:  as channel.h: every operation completes once, at its deadline at the latest.
// Threads: the io_context's, which outlives the channels.
#pragma once

#include <algorithm>
#include <list>
#include <random>
#include <utility>
#include <vector>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

#include "transport/channel.h"

namespace causeway::test {

// How bad it is; chances in thousands.
struct Faults {
  int late = 0;                               // Takes up to late_time.
  int lost = 0;                               // Never arrives.
  int unanswered = 0;                         // Arrives, but the answer does not.
  int changed = 0;                            // One bit of the bytes.
  int cut = 0;                                // The sender's end closes soon after.
  std::chrono::microseconds usual_time{300};  // Each way, at most.
  std::chrono::microseconds late_time{20'000};
  std::chrono::milliseconds lets_go{0};  // What is under way at the end ends so much later.
  std::uint64_t bytes_per_second = 0;    // Of a channel; 0: without a limit.
};

// What the channels of one test have in common. Dice are thrown in the order of the calls.
struct Wire {
  boost::asio::io_context& context;
  std::mt19937_64 random;
  Faults faults;
  std::uint64_t changes = 0;  // Bits that it flipped in what landed.

  bool happens(int chance) { return static_cast<int>(random() % 1000) < chance; }
  std::chrono::microseconds time() {
    const auto most = happens(faults.late) ? faults.late_time : faults.usual_time;
    return std::chrono::microseconds(random() % (most.count() + 1));
  }
};

class FaultyChannel final : public Channel {
 public:
  FaultyChannel(std::shared_ptr<Wire> wire, std::shared_ptr<Channel> receiver)
      : state_(std::make_shared<State>(State{std::move(wire), std::move(receiver)})) {
    state_->receiver->on_close([weak = std::weak_ptr(state_)](const Error& reason) {
      if (const auto state = weak.lock()) end(state, Error(Errc::peer_lost, reason.what()));
    });
  }
  ~FaultyChannel() override { end(state_, Error(Errc::cancelled, "the channel was destroyed")); }

  [[nodiscard]] const std::string& peer_name() const noexcept override {
    return state_->receiver->peer_name();
  }
  [[nodiscard]] const Hello& peer() const noexcept override { return state_->receiver->peer(); }
  [[nodiscard]] ChannelId id() const noexcept override { return state_->receiver->id(); }
  [[nodiscard]] ChannelCounters counters() const noexcept override {
    return state_->receiver->counters();
  }
  [[nodiscard]] bool is_open() const noexcept override { return !state_->ended; }
  [[nodiscard]] bool is_busy() const noexcept { return !state_->operations.empty(); }
  void close(Error reason) override { end(state_, reason); }
  void set_settings(const LinkSettings& settings) override {
    state_->receiver->set_settings(settings);
  }
  [[nodiscard]] LinkSettings settings() const noexcept override {
    return state_->receiver->settings();
  }
  void on_close(std::function<void(const Error&)> handler) override {
    if (!state_->ended) {
      state_->closed = std::move(handler);
    } else {
      boost::asio::post(state_->wire->context, [handler = std::move(handler),
                                                reason = *state_->ended] { handler(reason); });
    }
  }

  void write(RemoteAddress to, std::span<const std::byte> source, Deadline deadline,
             Completion done) override {
    // As a kernel would have it when the sender is gone.
    auto bytes = std::make_shared<std::vector<std::byte>>(source.begin(), source.end());
    start(source.size(), deadline, std::move(done), [to, bytes](State& state, Completion landed) {
      change(*state.wire, *bytes);
      state.receiver->write(to, *bytes, forever(),
                            [bytes, landed = std::move(landed)](auto error, auto size) {
                              landed(std::move(error), size);
                            });
    });
  }

  void read(std::span<std::byte> target, RemoteAddress from, Deadline deadline,
            Completion done) override {
    auto bytes = std::make_shared<std::vector<std::byte>>(target.size());
    start(
        target.size(), deadline,
        [target, bytes, done = std::move(done)](std::optional<Error> error, std::uint64_t size) {
          if (!error) std::ranges::copy(*bytes, target.begin());
          done(std::move(error), size);
        },
        [from, bytes](State& state, Completion landed) {
          state.receiver->read(
              *bytes, from, forever(),
              [bytes, wire = state.wire, landed = std::move(landed)](auto error, auto size) {
                change(*wire, *bytes);
                landed(std::move(error), size);
              });
        });
  }

  void checksum(RemoteAddress of, std::uint64_t size_bytes, Deadline deadline,
                Completion done) override {
    start(0, deadline, std::move(done), [of, size_bytes](State& state, Completion landed) {
      state.receiver->checksum(of, size_bytes, forever(), std::move(landed));
    });
  }
  void fence(ChannelId other, Deadline deadline, Completion done) override {
    start(0, deadline, std::move(done), [other](State& state, Completion landed) {
      state.receiver->fence(other, forever(), std::move(landed));
    });
  }
  void send(std::uint64_t tag, std::span<const std::byte> message, Deadline deadline,
            Completion done) override {
    state_->receiver->send(tag, message, deadline, std::move(done));
  }
  void receive(std::uint64_t tag, std::span<std::byte> target, Deadline deadline,
               Completion done) override {
    state_->receiver->receive(tag, target, deadline, std::move(done));
  }

 private:
  struct Operation {
    Completion done;  // Null once it has been called.
    boost::asio::steady_timer deadline;
  };
  struct State {
    std::shared_ptr<Wire> wire;
    std::shared_ptr<Channel> receiver;
    std::optional<Error> ended{};  // The sender's end.
    std::function<void(const Error&)> closed{};
    std::list<std::shared_ptr<Operation>> operations{};
    Deadline free_at{};  // When the wire has carried what it was given.
  };
  using Deliver = std::function<void(State&, Completion landed)>;

  static Deadline forever() { return std::chrono::steady_clock::now() + std::chrono::hours(1); }

  static void change(Wire& wire, std::vector<std::byte>& bytes) {
    if (bytes.empty() || !wire.happens(wire.faults.changed)) return;
    bytes[wire.random() % bytes.size()] ^= std::byte{0x10};
    ++wire.changes;
  }

  static void finish(const std::shared_ptr<State>& state,
                     const std::shared_ptr<Operation>& operation, std::optional<Error> error,
                     std::uint64_t bytes) {
    if (!operation->done) return;
    operation->deadline.cancel();
    std::erase(state->operations, operation);
    boost::asio::post(state->wire->context,
                      [done = std::exchange(operation->done, nullptr), error = std::move(error),
                       bytes] { done(error, bytes); });
  }

  static void end(const std::shared_ptr<State>& state, const Error& reason) {
    if (state->ended) return;
    state->ended = reason;
    const auto lets_go = state->wire->faults.lets_go;
    for (const auto& operation : std::list(state->operations)) {
      if (lets_go.count() == 0)
        finish(state, operation, reason, 0);
      else
        after(state, lets_go, [=] { finish(state, operation, reason, 0); });
    }
    if (state->closed)
      boost::asio::post(state->wire->context, [closed = std::exchange(state->closed, nullptr),
                                               reason] { closed(reason); });
  }

  static void after(const std::shared_ptr<State>& state, std::chrono::steady_clock::duration time,
                    std::function<void()> function) {
    const auto timer = std::make_shared<boost::asio::steady_timer>(state->wire->context, time);
    timer->async_wait([timer, function = std::move(function)](auto error) {
      if (!error) function();
    });
  }

  void start(std::uint64_t bytes, Deadline deadline, Completion done, Deliver deliver) {
    const auto& state = state_;
    auto& wire = *state->wire;
    const auto operation = std::make_shared<Operation>(
        Operation{std::move(done), boost::asio::steady_timer(wire.context, deadline)});
    state->operations.push_back(operation);
    if (state->ended) return finish(state, operation, Error(Errc::closed, "closed"), 0);
    operation->deadline.async_wait([state, operation](auto stopped) {
      if (!stopped) finish(state, operation, Error(Errc::timed_out, "no answer in time"), 0);
    });
    if (wire.happens(wire.faults.cut))
      after(state, wire.time(), [state] { end(state, Error(Errc::peer_lost, "cut off")); });
    if (wire.happens(wire.faults.lost)) return;
    auto time = std::chrono::steady_clock::duration(wire.time());
    if (wire.faults.bytes_per_second > 0) {
      const auto now = std::chrono::steady_clock::now();
      state->free_at =
          std::max(now, state->free_at) +
          std::chrono::nanoseconds(bytes * 1'000'000'000 / wire.faults.bytes_per_second);
      time += state->free_at - now;
    }
    const bool is_unanswered = wire.happens(wire.faults.unanswered);
    // Lands whatever has become of the sender's end.
    after(state, time, [state, operation, is_unanswered, deliver = std::move(deliver)] {
      deliver(*state, [state, operation, is_unanswered](std::optional<Error> error,
                                                        std::uint64_t size) {
        if (is_unanswered) return;
        after(state, state->wire->time(), [state, operation, error = std::move(error), size] {
          finish(state, operation, error, size);
        });
      });
    });
  }

  std::shared_ptr<State> state_;
};

}  // namespace causeway::test
