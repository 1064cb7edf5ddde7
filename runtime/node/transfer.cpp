#include "runtime/node/transfer.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstring>
#include <map>
#include <optional>
#include <utility>  // Boost 1.81 with g++ 12 and C++20 wants std::exchange before Asio.

namespace causeway {

namespace {

namespace asio = boost::asio;

constexpr std::uint64_t kSliceBytes = 4 * 1024 * 1024;

asio::awaitable<std::uint64_t> copy_between(Lender& lender, CopyRequest request, Rails& rails) {
  const bool is_push = request.kind == CopyRequest::Kind::push;
  struct Side {
    std::vector<TransferPiece> remote;
    std::vector<RemoteAddress> local;
  };
  std::map<const DeviceStaging*, Side> sides;  // A transfer has one kind of memory at this end.
  for (const auto& piece : request.pieces) {
    const RemoteAddress from{request.session, request.from, piece.from_offset_bytes};
    const RemoteAddress to{request.session, request.to, piece.to_offset_bytes};
    const auto local = is_push ? from : to;
    auto& side = sides[lender.find(local, piece.size_bytes).pin->staging];
    side.remote.push_back({is_push ? to : from, piece.size_bytes});
    side.local.push_back(local);
  }
  const TransferOptions options{request.deadline};
  std::vector<Transfer> transfers;
  for (auto& [_, side] : sides) {
    auto pin = [&lender, local = std::move(side.local)](
                   std::size_t piece, std::uint64_t offset_bytes, std::uint64_t size_bytes) {
      auto at = local[piece];
      at.offset_bytes += offset_bytes;
      return lender.pin_local(at, size_bytes);
    };
    transfers.push_back(is_push ? rails.write(std::move(side.remote), std::move(pin), options)
                                : rails.read(std::move(side.remote), std::move(pin), options));
  }
  std::uint64_t bytes = 0;
  for (auto& transfer : transfers) bytes += co_await transfer.wait();
  co_return bytes;
}

asio::awaitable<std::uint64_t> copy_within(asio::io_context& context, Lender& lender,
                                           const CopyRequest& request, GpuCopier* copier) {
  std::uint64_t bytes = 0;
  for (const auto& piece : request.pieces) {
    for (std::uint64_t at = 0; at < piece.size_bytes; at += kSliceBytes) {
      const auto size = std::min(kSliceBytes, piece.size_bytes - at);
      const auto from =
          lender.find({request.session, request.from, piece.from_offset_bytes + at}, size);
      const auto to = lender.find({request.session, request.to, piece.to_offset_bytes + at}, size);
      if (from.is_for_processor() && to.is_for_processor())
        std::memmove(to.bytes.data(), from.bytes.data(), size);
      else
        co_await copier->copy(to, from, request.deadline);
      bytes += size;
      if (std::chrono::steady_clock::now() >= request.deadline)
        throw Error(Errc::timed_out, "the copy did not end in time");
      co_await asio::post(context, asio::use_awaitable);
    }
  }
  co_return bytes;
}

}  // namespace

asio::awaitable<std::uint64_t> run_copy(asio::io_context& context, Lender& lender,
                                        CopyRequest request, Rails* rails, GpuCopier* copier) {
  if (request.kind == CopyRequest::Kind::within)
    co_return co_await copy_within(context, lender, request, copier);
  co_return co_await copy_between(lender, std::move(request), *rails);
}

}  // namespace causeway
