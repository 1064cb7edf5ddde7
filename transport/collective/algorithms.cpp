#include <algorithm>

#include "transport/collective/group.h"

namespace causeway::collective {

namespace {

constexpr std::uint32_t kMaxAhead = 64;  // Broadcasts, before the root waits for the others.

Values cut(Values share, std::size_t first, std::size_t last) {
  first = std::min(first, share.size());
  return share.subspan(first, std::min(last, share.size()) - first);
}

}  // namespace

Step Group::barrier() {
  // After round k a rank has heard, directly or not, of 2^(k+1) ranks.
  for (int distance = 1; distance < size; distance *= 2) {
    std::byte out{}, in{};
    co_await exchange(0, at(distance), {&out, 1}, at(-distance), {&in, 1});
  }
}

Step Group::broadcast(Values bytes, int root) {
  // All others answer each other. A root alone could be far ahead of a slow rank, whose channel
  // bounds what has come and is not yet asked for.
  if (++broadcasts % kMaxAhead == 0) co_await barrier();
  if (size == 2 || bytes.size() <= kSmallBytes * static_cast<std::size_t>(size)) {
    co_await broadcast_by_tree(bytes, root);
  } else {
    const auto shares = Shares::equal(bytes.size(), 1, size);
    co_await scatter(bytes, shares, root);
    co_await all_gather(bytes, shares);
  }
}

// A binomial tree over ranks counted from the root.
Step Group::broadcast_by_tree(Values bytes, int root) {
  const int place = at(-root);
  int reach = 1;
  while (reach < size) reach *= 2;
  for (; reach > 1; reach /= 2) {
    const int half = reach / 2;
    const bool gives = place % reach == 0 && place + half < size;
    const bool takes = place % reach == half;
    if (!gives && !takes) continue;
    co_await join(1, [&](const std::shared_ptr<Join>& one) {
      if (gives)
        send((place + half + root) % size, 0, bytes, one);
      else
        receive((place - half + root) % size, 0, bytes, one);
    });
  }
}

Step Group::scatter(Values bytes, const Shares& shares, int root) {
  const auto others = static_cast<std::size_t>(rank == root ? size - 1 : 1);
  co_await join(others, [&](const std::shared_ptr<Join>& all) {
    if (rank != root) return receive(root, kLanes, shares.of(bytes, rank), all);
    for (int i = 1; i < size; ++i) send(at(i), kLanes, shares.of(bytes, at(i)), all);
  });
}

// One round: own share to all, theirs from all.
Step Group::gather_small(Values values, const Shares& shares) {
  co_await join(static_cast<std::size_t>(2 * (size - 1)), [&](const std::shared_ptr<Join>& all) {
    for (int i = 1; i < size; ++i) {
      receive(at(-i), 0, shares.of(values, at(-i)), all);
      send(at(i), 0, shares.of(values, rank), all);
    }
  });
}

Step Group::all_gather(Values values, const Shares& shares) {
  if (values.size() <= kSmallBytes * static_cast<std::size_t>(size)) {
    co_await gather_small(values, shares);
    co_return;
  }
  co_await in_slices(
      shares, false, [&](std::size_t lane, std::size_t first, std::size_t last) -> Step {
        for (int step = 0; step < size - 1; ++step)
          co_await exchange(lane, at(1), cut(shares.of(values, at(-step)), first, last), at(-1),
                            cut(shares.of(values, at(-1 - step)), first, last));
      });
}

// Share c starts at the rank right of c and gathers the others' values on its way round to c.
Step Group::reduce_ring(Values values, const Shares& shares, Reduction how) {
  co_await in_slices(
      shares, false, [&](std::size_t lane, std::size_t first, std::size_t last) -> Step {
        std::vector<std::byte> arrived(std::min(shares.longest_bytes(), last) - first);
        for (int i = 0; i < size; ++i) prepare(how, cut(shares.of(values, i), first, last), size);
        for (int step = 0; step < size - 1; ++step) {
          const auto target = cut(shares.of(values, at(-2 - step)), first, last);
          const auto in = std::span(arrived).first(target.size());
          co_await exchange(lane, at(1), cut(shares.of(values, at(-1 - step)), first, last), at(-1),
                            in);
          combine(how, target, in);
        }
        finish(how, cut(shares.of(values, rank), first, last), size);
      });
}

// out(r) to each rank r, and what comes from all, in their order, with `target` into `target`.
Step Group::combine_all(std::size_t lane, Reduction how, Values target,
                        std::function<Values(int to)> out) {
  const auto n = static_cast<std::size_t>(size);
  std::vector<std::byte> arrived(target.size() * n);
  std::vector<std::span<const std::byte>> parts(n);
  co_await join(2 * (n - 1), [&](const std::shared_ptr<Join>& all) {
    for (int i = 1; i < size; ++i) {
      const auto from = static_cast<std::size_t>(at(-i));
      const auto in = std::span(arrived).subspan(from * target.size(), target.size());
      parts[from] = in;
      receive(at(-i), lane, in, all);
      send(at(i), lane, out(at(i)), all);
    }
  });
  parts[static_cast<std::size_t>(rank)] = target;
  combine_in_order(how, target, parts);
}

// As many bytes as a ring, but every share goes to its owner directly, who has all at once.
Step Group::reduce_in_order(Values values, const Shares& shares, Reduction how) {
  co_await in_slices(
      shares, true, [&](std::size_t lane, std::size_t first, std::size_t last) -> Step {
        co_await combine_all(lane, how, cut(shares.of(values, rank), first, last),
                             [&](int to) { return cut(shares.of(values, to), first, last); });
      });
}

// One round: all values to all, and everyone combines them in the same order.
Step Group::reduce_small(Values values, Reduction how) {
  co_await combine_all(0, how, values, [values](int) { return values; });
}

Step Group::reduce_scatter(Values values, const Shares& shares, Reduction how) {
  if (how.in_rank_order || values.size() <= kSmallBytes * static_cast<std::size_t>(size))
    co_await reduce_in_order(values, shares, how);
  else
    co_await reduce_ring(values, shares, how);
}

Step Group::all_reduce(Values values, Reduction how) {
  if (values.size() * static_cast<std::size_t>(size - 1) <= kSmallBytes) {
    co_await reduce_small(values, how);
  } else {
    const auto shares = Shares::equal(values.size(), size_of(how.type), size);
    co_await reduce_scatter(values, shares, how);
    co_await all_gather(values, shares);
  }
}

// In round k the ranks whose sum is k exchange: in place, since each pair has its own shares. These
// are equal, so that they may be cut anywhere.
Step Group::all_to_all(Values values) {
  const auto shares = Shares::equal(values.size(), 1, size);
  co_await in_slices(
      shares, false, [&](std::size_t lane, std::size_t first, std::size_t last) -> Step {
        std::vector<std::byte> arrived(cut(shares.of(values, 0), first, last).size());
        for (int round = 0; round < size; ++round) {
          const int other = (round - rank + size) % size;
          if (other == rank) continue;
          const auto mine = cut(shares.of(values, other), first, last);
          co_await exchange(lane, other, mine, other, arrived);
          std::ranges::copy(arrived, mine.begin());
        }
      });
}

}  // namespace causeway::collective
