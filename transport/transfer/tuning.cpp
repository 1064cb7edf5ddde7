// When rails are probed, and what follows from it.
#include "transport/transfer/state.h"

namespace causeway {

namespace {

using namespace std::chrono_literals;
using Clock = Rail::Clock;

constexpr auto kBetweenSlices = 1s;  // Of a rail that is never idle.
constexpr int kSlicesInRow = 4;      // Then its transfers go on.
constexpr std::size_t kFarStreams = 4;

}  // namespace

void Rails::State::tune(const RailPtr& rail) {
  rail->is_probing = rail->makes_room = false;
  rail->slice_at = Clock::now();
  const bool again = rail->probe || !rail->report || rail->is_suspect;
  if (rail->report) rail->channel->set_settings(rail->report->settings);
  // Never one that may still have a slice on the channel before.
  rail->probe = again ? std::make_shared<Probe>() : nullptr;
}

// One at a time, or they would measure each other.
void Rails::State::probe_rails(bool is_idle) {
  if (is_stopped || any_rail([](const Rail& rail) { return rail.is_in_short_slice(); })) return;
  if (any_rail([](const Rail& rail) { return rail.out_count > 0; })) is_idle = false;
  const auto next = std::ranges::find_if(rails, [&](const RailPtr& rail) {
    return rail->is_usable() && rail->probe && !rail->is_probing && rail->out_count == 0 &&
           (is_idle || rail->makes_room || rail->is_suspect);
  });
  if (next == rails.end()) return;
  if (const auto turn = take_turn()) return start_slice(*next, turn);
  if (!(*next)->makes_room) return;
  (*next)->makes_room = false;  // Its transfers do not wait for other peers' slices.
  (*next)->slice_at = Clock::now();
  deal_chunks();
}

ProbeTurns::Turn Rails::State::take_turn() {
  if (waits_for_turn) return 0;
  const auto turn = boost::asio::use_service<ProbeTurns>(context).take([weak = weak_from_this()] {
    const auto self = weak.lock();
    if (!self) return;
    self->waits_for_turn = false;
    self->deal();
  });
  waits_for_turn = turn == 0;
  return turn;
}

// By the tick. A rail that had no idle moment in a while gets one; the others carry on meanwhile.
void Rails::State::make_room_for_probes() {
  for (const auto& rail : rails)
    if (rail->is_usable() && !rail->probe && rail->has_changed())
      rail->probe = std::make_shared<Probe>();
  if (any_rail([](const Rail& rail) {
        return rail.is_in_short_slice() || (rail.is_usable() && rail.makes_room);
      }))
    return;
  const auto due = Clock::now() - kBetweenSlices;
  const auto next = std::ranges::find_if(rails, [due](const RailPtr& rail) {
    return rail->is_usable() && rail->probe && !rail->is_probing && rail->out_count > 0 &&
           rail->slice_at <= due;
  });
  if (next != rails.end()) (*next)->makes_room = true;
}

void Rails::State::start_slice(const RailPtr& rail, ProbeTurns::Turn turn) {
  rail->is_probing = true;
  rail->slice_at = Clock::now();
  const auto probe = rail->probe;
  const auto channel = rail->channel;
  auto& turns = boost::asio::use_service<ProbeTurns>(context);
  probe->run_slice(channel, [weak = weak_from_this(), rail, probe, channel, turn, &turns] {
    turns.give_back(turn);
    if (const auto self = weak.lock()) self->slice_ended(rail, probe, *channel);
  });
}

void Rails::State::slice_ended(const RailPtr& rail, const std::shared_ptr<Probe>& probe,
                               Channel& channel) {
  if (rail->channel.get() != &channel) return deal();  // It was opened again since.
  rail->is_probing = false;
  rail->slice_at = Clock::now();
  rail->is_suspect = rail->is_suspect && probe->report().has_failed;
  if (rail->is_suspect && channel.is_open())
    channel.close(Error(Errc::timed_out, rail->address + " is as silent as before"));
  if (++rail->slices_in_row >= kSlicesInRow || probe->is_done()) {
    rail->makes_room = false;
    rail->slices_in_row = 0;
  }
  if (probe->is_done()) {
    rail->probe = nullptr;
    ++rail->probes;
    // What its loss has spoiled is tried again with the next channel.
    if (channel.is_open()) {
      rail->report = probe->report();
      if (rail->report->is_far && !rail->is_dropped && !is_stopped) add_streams(*rail);
    }
  }
  deal();
}

void Rails::State::add_streams(Rail& rail) {
  const auto is_same = [&](const RailPtr& other) { return other->address == rail.address; };
  for (auto have = std::ranges::count_if(rails, is_same);
       have < static_cast<std::ptrdiff_t>(kFarStreams); ++have) {
    const auto stream = rails.emplace_back(std::make_shared<Rail>(context, rail.address));
    stream->report = rail.report;
    open_rail(stream);
    rail.full_rate = rail.best_full_rate = 0;  // It will have a share of what it had.
    rail.slow_samples = 0;
  }
}

}  // namespace causeway
