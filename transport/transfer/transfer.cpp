#include "transport/transfer/transfer.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "transport/transfer/state.h"

namespace causeway {

using boost::asio::steady_timer;

Transfer::Transfer(std::shared_ptr<State> state) noexcept : state_(std::move(state)) {}

Transfer& Transfer::operator=(Transfer&& other) noexcept {
  if (this == &other) return *this;
  const Transfer old(std::exchange(state_, std::move(other.state_)));
  return *this;
}

Transfer::~Transfer() {
  if (state_) cancel();
}

bool Transfer::is_done() const noexcept { return state_->is_done; }
const std::optional<Error>& Transfer::error() const noexcept { return state_->error; }
const std::optional<StagingReport>& Transfer::staging() const noexcept { return state_->staging; }
Transfer::Progress Transfer::progress() const noexcept {
  return {state_->done_bytes, state_->total_bytes};
}

void Transfer::cancel() {
  if (!state_->is_done) state_->fail(Error(Errc::cancelled, "the transfer was cancelled"));
}

boost::asio::awaitable<std::uint64_t> Transfer::wait() {
  const auto state = state_;  // The Transfer may be gone by then.
  co_await async_wait(state, boost::asio::use_awaitable, Nothing{});
  co_return state->done_bytes;
}

steady_timer& Transfer::finished(State& state) noexcept { return state.finished; }

std::exception_ptr Transfer::result(State& state) {
  if (!state.is_done) state.fail(Error(Errc::cancelled, "nobody waits for the transfer any more"));
  return state.error ? std::make_exception_ptr(*state.error) : nullptr;
}

Transfer::State::State(boost::asio::io_context& context, std::shared_ptr<Rails::State> owner,
                       bool writes, std::vector<TransferPiece> list, PinLocal local,
                       TransferOptions how)
    : rails(std::move(owner)),
      is_write(writes),
      number(rails->next_number++),
      options(std::move(how)),
      pieces(std::move(list)),
      pin(std::move(local)),
      deadline(context, options.deadline),
      finished(context, steady_timer::time_point::max()) {
  for (const auto& piece : pieces) total_bytes += piece.size_bytes;
  left_bytes = total_bytes;
}

std::deque<Chunk>::const_iterator Transfer::State::next_again() const noexcept {
  return std::ranges::find_if(again, [this](const Chunk& chunk) {
    return !chunk.lost_with || rails->is_fenced(*chunk.lost_with);
  });
}

bool Transfer::State::has_work() const noexcept {
  if (error || (is_write && !rails->may_write(*this))) return false;
  return (!staging && next_piece < pieces.size()) || next_again() != again.end();
}

bool Transfer::State::may_stage() const noexcept {
  return staging && !error && !in_line && next_piece < pieces.size() &&
         staged < staging->slots / 2 && (!is_write || rails->may_write(*this));
}

std::uint64_t Transfer::State::peek() const noexcept {
  if (const auto found = next_again(); found != again.end()) return found->size_bytes;
  return std::min(pieces[next_piece].size_bytes - next_offset_bytes, chunk_bytes);
}

Chunk Transfer::State::take() {
  if (const auto found = next_again(); found != again.end()) {
    auto chunk = *found;
    again.erase(found);
    left_bytes -= chunk.size_bytes;
    return chunk;
  }
  return take_new();
}

Chunk Transfer::State::take_new() {
  const Chunk chunk{next_piece, next_offset_bytes,
                    std::min(pieces[next_piece].size_bytes - next_offset_bytes, chunk_bytes)};
  left_bytes -= chunk.size_bytes;
  next_offset_bytes += chunk.size_bytes;
  if (next_offset_bytes == pieces[next_piece].size_bytes) ++next_piece, next_offset_bytes = 0;
  return chunk;
}

void Transfer::State::put_back(Chunk chunk) {
  left_bytes += chunk.size_bytes;
  again.push_back(std::move(chunk));
}

void Transfer::State::begin() {
  deadline.async_wait([weak = weak_from_this()](const boost::system::error_code& stopped) {
    const auto self = weak.lock();
    if (stopped || !self || self->is_done) return;
    const auto waits = self->is_write && !self->rails->fences.empty()
                           ? "; it waits until a lost rail is fenced off at the peer"
                           : "";
    self->fail(
        Error(Errc::timed_out,
              fmt::format("a {} of {} bytes with {} reached its deadline with {} bytes done{}",
                          self->is_write ? "write" : "read", self->total_bytes, self->rails->peer,
                          self->done_bytes, waits)));
  });
}

void Transfer::State::fail(const Error& reason) {
  if (error || is_done) return;
  error = reason;
  again.clear();
  if (std::exchange(in_line, nullptr)) --in_flight;
  next_piece = pieces.size();
  left_bytes = 0;
  end_if_idle();
}

void Transfer::State::end_if_idle() {
  const bool is_over = error || (next_piece == pieces.size() && again.empty());
  if (is_done || in_flight > 0 || !is_over) return;
  is_done = true;
  deadline.cancel();
  finished.expires_at(steady_timer::time_point::min());
  std::erase(rails->transfers, shared_from_this());
  // The last owner goes outside of a channel's callback, and nobody is called inside a call.
  const auto owner = std::exchange(rails, nullptr);
  boost::asio::post(owner->context, [self = shared_from_this(), owner] {
    self->pin = nullptr;
    if (self->options.on_done)
      self->options.on_done(self->error, self->error ? 0 : self->done_bytes);
  });
}

}  // namespace causeway
