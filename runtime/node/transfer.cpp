#include "runtime/node/transfer.h"

#include <algorithm>
#include <boost/asio/experimental/as_tuple.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstring>
#include <optional>
#include <utility>  // Boost 1.81 with g++ 12 and C++20 wants std::exchange before Asio.

namespace causeway {

namespace {

namespace asio = boost::asio;

constexpr std::size_t kWindow = 32;
constexpr std::uint64_t kSliceBytes = 4 * 1024 * 1024;

// Lives until its last piece has completed, whatever happened to the coroutine that started it.
class Batch : public std::enable_shared_from_this<Batch> {
 public:
  Batch(asio::io_context& context, Lender& lender, Transfer transfer,
        std::shared_ptr<Channel> channel)
      : lender_(lender),
        transfer_(std::move(transfer)),
        channel_(std::move(channel)),
        finished_(context, asio::steady_timer::time_point::max()) {}

  asio::awaitable<std::uint64_t> run() {
    pump();
    while (!done()) {
      co_await finished_.async_wait(asio::experimental::as_tuple(asio::use_awaitable));
      const auto state = co_await asio::this_coro::cancellation_state;
      if (state.cancelled() == asio::cancellation_type::none) continue;
      error_ = Error(Errc::cancelled, "nobody waits for the copy any more");
      break;
    }
    if (error_) throw Error(*error_);
    co_return bytes_;
  }

 private:
  [[nodiscard]] bool done() const {
    return in_flight_ == 0 && (error_ || next_ == transfer_.pieces.size());
  }

  void pump() {
    while (!error_ && in_flight_ < kWindow && next_ < transfer_.pieces.size()) {
      try {
        start(next_slice());
      } catch (const Error& error) {
        error_ = error;
      }
    }
    if (!done()) return;
    finished_.cancel();
    // The last owner, if nobody waits any more, lets go of the channel outside of its callback.
    asio::post(finished_.get_executor(), [self = shared_from_this()] {});
  }

  Transfer::Piece next_slice() {
    const auto& piece = transfer_.pieces[next_];
    const auto at = at_;
    const auto size = std::min(piece.size_bytes - at, kSliceBytes);
    at_ += size;
    if (at_ == piece.size_bytes) ++next_, at_ = 0;
    return {piece.to_offset_bytes + at, piece.from_offset_bytes + at, size};
  }

  void start(const Transfer::Piece& piece) {
    const bool push = transfer_.kind == Transfer::Kind::push;
    const RemoteAddress from{transfer_.session, transfer_.from, piece.from_offset_bytes};
    const RemoteAddress to{transfer_.session, transfer_.to, piece.to_offset_bytes};
    auto memory = lender_.pin_local(push ? from : to, piece.size_bytes);
    const auto bytes = memory.bytes;
    auto done = [self = shared_from_this(), pin = std::move(memory.pin), size = piece.size_bytes](
                    std::optional<Error> error, std::uint64_t) {
      --self->in_flight_;
      if (error && !self->error_) {
        // A peer that stopped in order is as lost to this copy as one that died.
        const bool left = error->code() == Errc::closed || error->code() == Errc::cancelled;
        self->error_ = Error(left ? Errc::peer_lost : error->code(), error->what());
      }
      if (!self->error_) self->bytes_ += size;
      self->pump();
    };
    ++in_flight_;
    if (push)
      channel_->write(to, bytes, transfer_.deadline, std::move(done));
    else
      channel_->read(bytes, from, transfer_.deadline, std::move(done));
  }

  Lender& lender_;
  Transfer transfer_;
  std::shared_ptr<Channel> channel_;
  asio::steady_timer finished_;  // Never expires; cancelled to wake run().
  // The piece that the next slice comes from, and the slice's place in it.
  std::size_t next_ = 0;
  std::uint64_t at_ = 0;
  std::size_t in_flight_ = 0;
  std::uint64_t bytes_ = 0;
  std::optional<Error> error_;
};

asio::awaitable<std::uint64_t> copy_within(asio::io_context& context, Lender& lender,
                                           const Transfer& transfer) {
  std::uint64_t bytes = 0;
  for (const auto& piece : transfer.pieces) {
    for (std::uint64_t at = 0; at < piece.size_bytes; at += kSliceBytes) {
      const auto size = std::min(kSliceBytes, piece.size_bytes - at);
      const auto from =
          lender.pin_local({transfer.session, transfer.from, piece.from_offset_bytes + at}, size);
      const auto to =
          lender.pin_local({transfer.session, transfer.to, piece.to_offset_bytes + at}, size);
      std::memmove(to.bytes.data(), from.bytes.data(), size);
      bytes += size;
      if (std::chrono::steady_clock::now() >= transfer.deadline)
        throw Error(Errc::timed_out, "the copy did not end in time");
      co_await asio::post(context, asio::use_awaitable);
    }
  }
  co_return bytes;
}

}  // namespace

asio::awaitable<std::uint64_t> run_transfer(asio::io_context& context, Lender& lender,
                                            Transfer transfer, std::shared_ptr<Channel> channel) {
  if (transfer.kind == Transfer::Kind::within)
    co_return co_await copy_within(context, lender, transfer);
  const auto batch =
      std::make_shared<Batch>(context, lender, std::move(transfer), std::move(channel));
  co_return co_await batch->run();
}

}  // namespace causeway
