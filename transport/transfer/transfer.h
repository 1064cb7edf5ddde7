// One copy between this process and a peer, as an object: begun by Rails, awaited, polled or let
// go.
//
// Shape:   move-only. Pieces are cut into chunks, which go over whatever rails the peer has; a
// chunk
//          has a fixed place, so one whose rail was lost goes again by another.
// Units:   bytes; the deadline is a point of the steady clock.
// Errors:  every transfer ends once: with success, or with one Error before its deadline or within
//          500 ms after it (timed_out; cancelled; peer_lost when no rail is left and none can be
//          opened again; corrupted; what the peer's check refused). Of a write that failed, any
//          part may have landed.
//          device_failed: of the device at either end. A copy to a device that is under way ends
//          before the transfer does.
// Cost:    one message and one answer per chunk of 1 MiB; `verify` adds a second round and one pass
//          over the bytes at either end. Bytes of a device cross the slots of its DeviceStaging,
//          several chunks at once, so that the copies of both ends and the rails overlap.
// Threads: the Rails' io_context.
#pragma once

#include <utility>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/steady_timer.hpp>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "transport/channel.h"

namespace causeway {

struct StagingReport;  // device/staging.h

struct TransferPiece {
  RemoteAddress remote;
  std::uint64_t size_bytes;
};

// This side's memory of [offset, offset + size) of a piece, of the host or (all of a transfer) of
// one device. Called when a chunk first starts; what it throws ends the transfer. The pin is held
// until nothing touches the memory any more.
using PinLocal = std::function<PinnedMemory(std::size_t piece, std::uint64_t offset_bytes,
                                            std::uint64_t size_bytes)>;

struct TransferOptions {
  Deadline deadline;
  // Compares checksums of both ends, chunk by chunk, once it has landed. A chunk that differs goes
  // once more. Nobody else may write to either end meanwhile.
  bool verify = false;
  Completion on_done = {};  // Called once, never inside a call; also if nobody holds the Transfer.
};

class Transfer {
 public:
  struct State;  // state.h
  struct Progress {
    std::uint64_t done_bytes;
    std::uint64_t total_bytes;
  };

  explicit Transfer(std::shared_ptr<State> state) noexcept;
  Transfer(Transfer&&) noexcept = default;
  Transfer& operator=(Transfer&& other) noexcept;
  // Cancels. What is in flight keeps its memory until it has ended; nobody waits for that.
  ~Transfer();

  [[nodiscard]] bool is_done() const noexcept;
  [[nodiscard]] const std::optional<Error>& error() const noexcept;  // Final once it is done.
  [[nodiscard]] Progress progress() const noexcept;
  // How bytes of a device pass at this end, once its first chunk has begun; nothing: they lie in
  // host memory.
  [[nodiscard]] const std::optional<StagingReport>& staging() const noexcept;

  // Starts nothing more; it is done when what is in flight has ended. Idempotent.
  void cancel();

  // The bytes that were moved. Errors: throws the transfer's. If the waiting coroutine is
  // cancelled, the transfer is as well, and the coroutine goes on at once.
  [[nodiscard]] boost::asio::awaitable<std::uint64_t> wait();

  // co_await std::move(transfer), or any other completion token. (With a second value, the bytes,
  // Boost 1.81 cannot await it; a transfer that went well moved all of them.)
  template <boost::asio::completion_token_for<void(std::exception_ptr)> Token>
  auto operator()(Token&& token) && {
    auto state = state_;
    return async_wait(std::move(state), std::forward<Token>(token), std::move(*this));
  }

 private:
  struct Nothing {};
  template <typename Token, typename Keep>
  static auto async_wait(std::shared_ptr<State> state, Token&& token, Keep keep);
  static boost::asio::steady_timer& finished(State& state) noexcept;
  static std::exception_ptr result(State& state);  // Of a wait that ended.

  std::shared_ptr<State> state_;
};

template <typename Token, typename Keep>
auto Transfer::async_wait(std::shared_ptr<State> state, Token&& token, Keep keep) {
  return boost::asio::async_initiate<Token, void(std::exception_ptr)>(
      [](auto handler, std::shared_ptr<State> self, Keep kept) {
        auto& timer = finished(*self);
        const auto slot = boost::asio::get_associated_cancellation_slot(handler);
        timer.async_wait(boost::asio::bind_cancellation_slot(
            slot,
            [handler = std::move(handler), self = std::move(self), kept = std::move(kept)](
                const boost::system::error_code&) mutable { std::move(handler)(result(*self)); }));
      },
      token, std::move(state), std::move(keep));
}

}  // namespace causeway
