#include <algorithm>

#include "transport/nccl/member.h"

namespace causeway::nccl {

namespace {

constexpr std::size_t kScratchBytes = std::size_t{8} << 20;
constexpr std::size_t kAlignment = 512;  // Of slices: whole vectors for NCCL's kernels.

nccl::DataType type_of(causeway::DataType type) noexcept {
  switch (type) {
    case causeway::DataType::f32:
      return kFloat32;
    case causeway::DataType::f64:
      return kFloat64;
    case causeway::DataType::f16:
      return kFloat16;
    case causeway::DataType::bf16:
      return kBfloat16;
    case causeway::DataType::i32:
      return kInt32;
    case causeway::DataType::i64:
      return kInt64;
  }
  return kUint8;
}

RedOp op_of(ReduceOp op) noexcept {
  switch (op) {
    case ReduceOp::sum:
      return kSum;
    case ReduceOp::avg:
      return kAvg;
    case ReduceOp::max:
      return kMax;
    case ReduceOp::min:
      return kMin;
  }
  return kSum;
}

bool are_equal(const Shares& shares) noexcept {
  for (int r = 1; r < shares.ranks(); ++r)
    if (shares.size_bytes(r) != shares.size_bytes(0)) return false;
  return true;
}

}  // namespace

Step Member::broadcast(Values bytes, int root) {
  if (bytes.empty()) co_return;
  co_await settled("ncclBroadcast", nccl_.Broadcast(bytes.data(), bytes.data(), bytes.size(),
                                                    kUint8, root, comm_, stream()));
  co_await reached();
}

Step Member::all_reduce(Values values, Reduction how) {
  if (values.empty()) co_return;
  co_await settled("ncclAllReduce",
                   nccl_.AllReduce(values.data(), values.data(), values.size() / size_of(how.type),
                                   type_of(how.type), op_of(how.op), comm_, stream()));
  co_await reached();
}

// NCCL knows equal shares only; others are as many reductions, each to its owner.
Step Member::reduce_scatter(Values values, Shares shares, Reduction how) {
  if (values.empty()) co_return;
  const auto type = type_of(how.type);
  const auto op = op_of(how.op);
  const auto count = [&](int r) { return shares.size_bytes(r) / size_of(how.type); };
  if (are_equal(shares))
    co_await settled("ncclReduceScatter",
                     nccl_.ReduceScatter(values.data(), shares.of(values, rank).data(), count(rank),
                                         type, op, comm_, stream()));
  else
    co_await grouped([&](const Add& add) {
      for (int r = 0; r < size; ++r)
        if (const auto share = shares.of(values, r); !share.empty())
          add("ncclReduce",
              nccl_.Reduce(share.data(), share.data(), count(r), type, op, r, comm_, stream()));
    });
  co_await reached();
}

Step Member::all_gather(Values values, Shares shares) {
  if (values.empty()) co_return;
  if (are_equal(shares))
    co_await settled("ncclAllGather",
                     nccl_.AllGather(shares.of(values, rank).data(), values.data(),
                                     shares.size_bytes(rank), kUint8, comm_, stream()));
  else
    co_await grouped([&](const Add& add) {
      for (int r = 0; r < size; ++r)
        if (const auto share = shares.of(values, r); !share.empty())
          add("ncclBroadcast", nccl_.Broadcast(share.data(), share.data(), share.size(), kUint8, r,
                                               comm_, stream()));
    });
  co_await reached();
}

// In place, which NCCL does not know: what arrives waits beside the values until they have left.
Step Member::all_to_all(Values values, std::size_t value_bytes) {
  if (values.empty()) co_return;
  const auto shares = Shares::equal(values.size(), value_bytes, size);
  const auto share = shares.size_bytes(0);
  const auto others = static_cast<std::size_t>(size - 1);
  const auto slice =
      std::min(share, std::max(kScratchBytes / others / kAlignment, std::size_t{1}) * kAlignment);
  const auto scratch = group_.stream->scratch(slice * others);
  for (std::size_t at = 0; at < share; at += slice) {
    const auto length = std::min(slice, share - at);
    const auto mine = [&](int other) { return shares.of(values, other).subspan(at, length); };
    const auto arrived = [&](int other) {
      const auto place = static_cast<std::size_t>(other < rank ? other : other - 1);
      return scratch.subspan(place * slice, length);
    };
    co_await grouped([&](const Add& add) {
      for (int r = 0; r < size; ++r) {
        if (r == rank) continue;
        add("ncclSend", nccl_.Send(mine(r).data(), length, kUint8, r, comm_, stream()));
        add("ncclRecv", nccl_.Recv(arrived(r).data(), length, kUint8, r, comm_, stream()));
      }
    });
    for (int r = 0; r < size; ++r)
      if (r != rank) group_.stream->copy(mine(r), arrived(r));
  }
  co_await reached();
}

}  // namespace causeway::nccl
