// How bytes move, and what is checked of them when they do.
#include <algorithm>
#include <cstring>
#include <functional>
#include <span>
#include <string_view>

#include "tests/nccl_emulator/world.h"
#include "transport/collective/reduction.h"

namespace nccl_emulator {

namespace {

std::size_t size_of(int type) {
  switch (type) {
    case nccl::kUint8:
      return 1;
    case nccl::kFloat16:
    case nccl::kBfloat16:
      return 2;
    case nccl::kInt32:
    case nccl::kFloat32:
      return 4;
    case nccl::kInt64:
    case nccl::kFloat64:
      return 8;
    default:
      violation("an unknown type");
      return 1;
  }
}

causeway::Reduction reduction(const Call& call) {
  using causeway::DataType;
  using causeway::ReduceOp;
  const auto type = call.type == nccl::kFloat32   ? DataType::f32
                    : call.type == nccl::kFloat64 ? DataType::f64
                    : call.type == nccl::kFloat16 ? DataType::f16
                    : call.type == nccl::kInt32   ? DataType::i32
                    : call.type == nccl::kInt64   ? DataType::i64
                                                  : DataType::bf16;
  if (call.type == nccl::kUint8) violation("a reduction of bytes");
  const auto op = call.op == nccl::kSum   ? ReduceOp::sum
                  : call.op == nccl::kMax ? ReduceOp::max
                  : call.op == nccl::kMin ? ReduceOp::min
                                          : ReduceOp::avg;
  return {type, op, true};
}

std::size_t read_bytes(const Call& call, const Comm& comm) {
  const auto bytes = call.count * size_of(call.type);
  switch (call.kind) {
    case Kind::reduce_scatter:
      return bytes * static_cast<std::size_t>(comm.clique->ranks);
    case Kind::broadcast:
      return comm.rank == call.root ? bytes : 0;
    case Kind::recv:
      return 0;
    default:
      return bytes;
  }
}

}  // namespace

std::size_t digest(const Launch& launch) {
  std::size_t hash = 0;
  for (const auto& call : launch.calls)
    hash = hash * 31 + std::hash<std::string_view>{}({reinterpret_cast<const char*>(call.from),
                                                      read_bytes(call, *launch.comm)});
  return hash;
}

bool is_collective(const Call& call) { return call.kind != Kind::send && call.kind != Kind::recv; }

namespace {

bool are_same(const Call& a, const Call& b) {
  return a.kind == b.kind && a.count == b.count && a.type == b.type && a.op == b.op &&
         a.root == b.root;
}

// A rank's part of `bytes` is beside the whole of n of them, or its own place in it.
void check_place(const std::byte* part, std::size_t bytes, const std::byte* whole, std::size_t n,
                 std::size_t rank, const std::string& what) {
  const bool is_apart = part + bytes <= whole || whole + n * bytes <= part;
  if (!is_apart && part != whole + rank * bytes) violation(what + " over its own values");
}

// One collective of all ranks; calls[r] is rank r's.
void run_collective(const std::vector<const Call*>& calls) {
  const auto& first = *calls.front();
  const auto n = calls.size();
  const auto bytes = first.count * size_of(first.type);
  const auto combined = [&](std::size_t at, std::size_t size) {
    std::vector<std::byte> result(size);
    std::vector<std::span<const std::byte>> parts;
    for (const auto* call : calls) parts.emplace_back(call->from + at, size);
    causeway::combine_in_order(reduction(first), result, parts);
    return result;
  };
  switch (first.kind) {
    case Kind::all_reduce: {
      const auto result = combined(0, bytes);
      for (const auto* call : calls) std::memcpy(call->to, result.data(), bytes);
      break;
    }
    case Kind::reduce: {
      const auto result = combined(0, bytes);
      std::memcpy(calls[static_cast<std::size_t>(first.root)]->to, result.data(), bytes);
      break;
    }
    case Kind::reduce_scatter: {
      std::vector<std::vector<std::byte>> results;
      for (std::size_t r = 0; r < n; ++r) results.push_back(combined(r * bytes, bytes));
      for (std::size_t r = 0; r < n; ++r) {
        check_place(calls[r]->to, bytes, calls[r]->from, n, r, "a reduce-scatter");
        std::memcpy(calls[r]->to, results[r].data(), bytes);
      }
      break;
    }
    case Kind::all_gather:
      for (std::size_t r = 0; r < n; ++r) {
        check_place(calls[r]->from, bytes, calls[r]->to, n, r, "an all-gather");
        for (const auto* call : calls) std::memmove(call->to + r * bytes, calls[r]->from, bytes);
      }
      break;
    case Kind::broadcast:
      for (const auto* call : calls)
        std::memmove(call->to, calls[static_cast<std::size_t>(first.root)]->from, bytes);
      break;
    default:
      break;
  }
}

void run_messages(const std::vector<Launch*>& launches) {
  struct Message {
    std::vector<std::byte> bytes;
    const Call* call;
  };
  std::map<std::pair<int, int>, std::deque<Message>> sent;  // All leave before any arrives.
  std::size_t left = 0;
  for (const auto* launch : launches)
    for (const auto& call : launch->calls)
      if (call.kind == Kind::send) {
        const auto size = call.count * size_of(call.type);
        sent[{launch->comm->rank, call.root}].push_back({{call.from, call.from + size}, &call});
        ++left;
      }
  for (const auto* launch : launches)
    for (const auto& call : launch->calls) {
      if (call.kind != Kind::recv) continue;
      auto& queue = sent[{call.root, launch->comm->rank}];
      if (queue.empty() || queue.front().call->count != call.count ||
          queue.front().call->type != call.type) {
        violation("a receive that does not meet its send");
        continue;
      }
      std::ranges::copy(queue.front().bytes, call.to);
      queue.pop_front();
      --left;
    }
  if (left > 0) violation("a send that does not meet a receive");
}

// All ranks' launches are the first on their streams.
void run_launch(Clique& clique) {
  std::vector<Launch*> launches;
  for (const auto& [rank, comm] : clique.comms)
    launches.push_back(comm->stream->tasks.front().launch.get());
  std::vector<std::vector<const Call*>> collectives(launches.size());
  for (std::size_t r = 0; r < launches.size(); ++r) {
    if (launches[r]->has_digest && digest(*launches[r]) != launches[r]->digest)
      violation("values were touched between launch and run");
    for (const auto& call : launches[r]->calls)
      if (is_collective(call)) collectives[r].push_back(&call);
  }
  const bool agree = std::ranges::all_of(collectives, [&](const auto& calls) {
    return std::ranges::equal(calls, collectives[0],
                              [](const Call* a, const Call* b) { return are_same(*a, *b); });
  });
  if (agree) {
    for (std::size_t i = 0; i < collectives[0].size(); ++i) {
      std::vector<const Call*> calls;
      for (const auto& each : collectives) calls.push_back(each[i]);
      run_collective(calls);
    }
    run_messages(launches);
  } else {
    violation("ranks call different collectives");
  }
  for (const auto& [rank, comm] : clique.comms) comm->stream->tasks.pop_front();
}

bool can_run(const Clique& clique) {
  if (clique.is_broken || static_cast<int>(clique.comms.size()) < clique.ranks) return false;
  return std::ranges::all_of(clique.comms, [](const auto& entry) {
    const auto* comm = entry.second;
    return comm->stream != nullptr && !comm->stream->tasks.empty() &&
           comm->stream->tasks.front().launch != nullptr &&
           comm->stream->tasks.front().launch->comm == comm;
  });
}

}  // namespace

void progress() {
  auto& w = world();
  for (bool has_moved = true; has_moved;) {
    has_moved = false;
    for (auto* stream : w.known_streams) {
      while (!stream->tasks.empty() && !stream->tasks.front().launch) {
        auto& task = stream->tasks.front();
        if (task.to != nullptr) std::memcpy(task.to, task.from, task.size);
        if (task.mark != 0) stream->reached = task.mark;
        stream->tasks.pop_front();
        has_moved = true;
      }
    }
    if (w.faults.is_hung != 0) continue;
    for (auto& [id, clique] : w.cliques)
      while (can_run(*clique)) {
        run_launch(*clique);
        has_moved = true;
      }
  }
}

}  // namespace nccl_emulator
