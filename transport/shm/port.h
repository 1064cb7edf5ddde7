// What the messages through shared memory of one transport have in common: who looks for them, when
// it sleeps, and what wakes it.
//
// Shape:   pump() looks at every wire until nothing has moved for kSpin, then says in shared memory
//          that it sleeps; a peer that has something for it writes to its bell, a pipe. Completions
//          and other user code run between two looks. Gives way to other handlers after kSlice.
// Errors:  create() throws io (no descriptors left).
// Cost:    idle: nothing. Two descriptors.
// Threads: the io_context's.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "allocator/unique_fd.h"
#include "transport/channel.h"

namespace causeway::shm {

class Wire;

class Port : public std::enable_shared_from_this<Port> {
 public:
  // More are not shared: each one costs memory.
  static constexpr std::size_t kMostWires = 256;

  struct Alarm {
    Wire* wire;
    std::uint64_t id;
    std::uint64_t tag;
  };
  using Alarms = std::multimap<Deadline, Alarm>;

  [[nodiscard]] static std::shared_ptr<Port> create(boost::asio::io_context& context);
  ~Port();
  Port(const Port&) = delete;
  Port& operator=(const Port&) = delete;

  [[nodiscard]] boost::asio::io_context& context() const noexcept { return context_; }
  // The descriptor that others ring at.
  [[nodiscard]] int bell() const noexcept { return bell_.get(); }
  // For a wire that may come: null if there is none. Whoever keeps it has it.
  [[nodiscard]] std::shared_ptr<const void> take_place() const noexcept;

  // Copies of messages that nobody received yet, of all wires: before they grow past a bound, the
  // wire with the most ends and lets go of them. Which one that is, if so many bytes are too many.
  [[nodiscard]] Wire* who_makes_room_for(std::uint64_t size_bytes) const noexcept;
  void count_held(std::uint64_t more_bytes) noexcept { held_bytes_ += more_bytes; }

  // Until remove(): a wire goes without a word.
  void add(Wire& wire);
  void remove(Wire& wire) noexcept;

  void later(std::function<void()> function);  // Likewise in a moment: user code.
  void finish(Completion done, std::optional<Error> error, std::uint64_t bytes);
  void wake();  // Look soon.

  [[nodiscard]] Alarms::iterator set_alarm(Deadline at, Alarm alarm);
  void clear_alarm(Alarms::iterator alarm) { alarms_.erase(alarm); }

 private:
  struct Waiter;
  struct Finished {
    Completion done;
    std::optional<Error> error;
    std::uint64_t bytes;
  };
  explicit Port(boost::asio::io_context& context);
  void pump();
  bool look();
  bool deliver();
  void offer_core(std::chrono::steady_clock::time_point now);
  bool may_sleep();
  void await_bell();
  void arm_timer();
  void run_alarms();

  boost::asio::io_context& context_;
  UniqueFd bell_;
  std::unique_ptr<Waiter> waiter_;
  std::vector<Wire*> wires_;
  const std::shared_ptr<const void> places_;  // One owner more for each that is taken.
  std::vector<Finished> finished_;
  std::vector<Finished> delivering_;  // Kept for its memory.
  std::uint64_t held_bytes_ = 0;
  Alarms alarms_;
  Deadline timer_at_ = Deadline::max();
  Deadline moved_at_{};
  int looks_;  // Before the core is offered to others.
  bool scheduled_ = false;
  bool pumping_ = false;
  bool waiting_ = false;
};

}  // namespace causeway::shm
