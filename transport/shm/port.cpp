#include "transport/shm/port.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <utility>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <algorithm>
#include <array>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>

#include "transport/shm/relax.h"
#include "transport/shm/wire.h"

namespace causeway::shm {

namespace {

using std::chrono::steady_clock;

constexpr auto kSlice = std::chrono::microseconds(300);  // Then other handlers get their turn.
constexpr auto kSpin = std::chrono::microseconds(50);    // A wake-up takes as long.
// Copies of messages that nobody received yet, of all wires together.
constexpr std::uint64_t kHeldBytes = 256 << 20;
// Before the core is offered to others: who we wait for may need it.
constexpr int kLeastLooks = 2;
constexpr int kMostLooks = 32;
constexpr auto kTaken = std::chrono::microseconds(1);  // An offer that takes longer was of use.

}  // namespace

struct Port::Waiter {
  explicit Waiter(boost::asio::io_context& context) : bell(context), timer(context) {}
  boost::asio::posix::stream_descriptor bell;
  boost::asio::steady_timer timer;
};

std::shared_ptr<Port> Port::create(boost::asio::io_context& context) {
  std::shared_ptr<Port> port(new Port(context));
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0)
    throw system_error("no pipe to be woken by", errno);
  UniqueFd listening(ends[0]);
  port->bell_.reset(ends[1]);
  port->waiter_->bell.assign(listening.get());
  static_cast<void>(listening.release());  // Only now: assign() may throw.
  return port;
}

Port::Port(boost::asio::io_context& context)
    : context_(context),
      waiter_(std::make_unique<Waiter>(context)),
      places_(std::make_shared<char>()),
      looks_(kMostLooks) {}

Port::~Port() = default;

void Port::add(Wire& wire) {
  wires_.push_back(&wire);
  wake();
}

void Port::remove(Wire& wire) noexcept {
  std::erase(wires_, &wire);
  std::erase_if(alarms_, [&](const auto& entry) { return entry.second.wire == &wire; });
}

std::shared_ptr<const void> Port::take_place() const noexcept {
  const auto taken = static_cast<std::size_t>(places_.use_count()) - 1;
  return taken < kMostWires ? places_ : nullptr;
}

Wire* Port::who_makes_room_for(std::uint64_t size_bytes) const noexcept {
  if (held_bytes_ + size_bytes <= kHeldBytes) return nullptr;
  return *std::ranges::max_element(wires_, {}, &Wire::held_bytes);
}

void Port::finish(Completion done, std::optional<Error> error, std::uint64_t bytes) {
  finished_.push_back({std::move(done), std::move(error), bytes});
  wake();
}

void Port::later(std::function<void()> function) {
  finish(
      [function = std::move(function)](const std::optional<Error>&, std::uint64_t) { function(); },
      std::nullopt, 0);
}

void Port::wake() {
  if (scheduled_ || pumping_) return;
  scheduled_ = true;
  boost::asio::post(context_, [self = shared_from_this()] {
    self->scheduled_ = false;
    self->pump();
  });
}

bool Port::look() {
  bool moved = false;
  // A wire may go, or another come, while one is looked at.
  for (std::size_t i = 0; i < wires_.size(); ++i) moved |= wires_[i]->advance();
  return moved;
}

bool Port::deliver() {
  if (finished_.empty()) return false;
  std::swap(finished_, delivering_);
  for (auto& each : delivering_) each.done(std::move(each.error), each.bytes);
  delivering_.clear();
  return true;
}

// Says that it sleeps, and looks once more: what comes later rings the bell.
bool Port::may_sleep() {
  bool is_quiet = true;
  for (auto* const wire : wires_) is_quiet &= wire->fall_asleep();
  if (is_quiet) return true;
  for (auto* const wire : wires_) wire->stay_awake();
  return false;
}

void Port::pump() {
  if (pumping_) return;
  const auto self = shared_from_this();  // User code may let go of the last wire.
  pumping_ = true;
  for (auto* const wire : wires_) wire->stay_awake();
  const auto until = steady_clock::now() + kSlice;
  for (;;) {
    bool moved = false;
    for (int i = 0; i < looks_ && !moved; ++i) {
      const bool came = look();
      if (deliver() || came)
        moved = true;
      else
        relax();
    }
    const auto now = steady_clock::now();
    if (moved) moved_at_ = now;
    const bool is_hot = now - moved_at_ < kSpin;
    if (is_hot && now < until) {
      if (!moved) offer_core(now);
      continue;
    }
    pumping_ = false;
    if (is_hot || !may_sleep()) return wake();
    return await_bell();
  }
}

// Two processes that share a core wait for each other's looks: there they are few.
void Port::offer_core(steady_clock::time_point now) {
  ::sched_yield();
  const bool is_shared = steady_clock::now() - now > kTaken;
  looks_ = is_shared ? std::max(looks_ / 2, kLeastLooks) : std::min(looks_ * 2, kMostLooks);
}

void Port::await_bell() {
  if (waiting_) return;
  waiting_ = true;
  waiter_->bell.async_wait(
      boost::asio::posix::stream_descriptor::wait_read,
      [weak = weak_from_this()](const boost::system::error_code& error) {
        const auto self = weak.lock();
        if (error || !self) return;
        self->waiting_ = false;
        std::array<char, 4096> rung{};
        static_cast<void>(::read(self->waiter_->bell.native_handle(), rung.data(), rung.size()));
        self->pump();
      });
}

Port::Alarms::iterator Port::set_alarm(Deadline at, Alarm alarm) {
  const auto entry = alarms_.emplace(at, alarm);
  if (at < timer_at_) arm_timer();
  return entry;
}

void Port::arm_timer() {
  timer_at_ = alarms_.empty() ? Deadline::max() : alarms_.begin()->first;
  if (alarms_.empty()) return;
  waiter_->timer.expires_at(timer_at_);
  waiter_->timer.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
    const auto self = weak.lock();
    if (error || !self) return;
    self->run_alarms();
    self->arm_timer();
    self->pump();
  });
}

void Port::run_alarms() {
  look();  // What has come in time is not late.
  const auto now = steady_clock::now();
  while (!alarms_.empty() && alarms_.begin()->first <= now) {
    const auto alarm = alarms_.begin()->second;
    alarms_.erase(alarms_.begin());
    alarm.wire->expire(alarm.id, alarm.tag);
  }
}

}  // namespace causeway::shm
