#include "transport/shm/steps.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace causeway::shm {

namespace {

// Below this, one round in which everyone combines everything beats one more meeting.
constexpr std::size_t kSmallBytes = Slots::kLeastBytes;

void copy(std::span<std::byte> to, std::span<const std::byte> from) noexcept {
  if (!from.empty()) std::memcpy(to.data(), from.data(), from.size());
}

std::size_t chunks_of(std::size_t size_bytes, std::size_t chunk_bytes) noexcept {
  return std::max<std::size_t>((size_bytes + chunk_bytes - 1) / chunk_bytes, 1);
}

// Chunk `chunk` of `count`, as equal as whole values allow.
Values chunk_of(Values values, std::size_t value_bytes, std::size_t count, std::size_t chunk) {
  const auto number = values.size() / value_bytes;
  const auto begin = [&](std::size_t c) { return number * c / count * value_bytes; };
  return values.subspan(begin(chunk), begin(chunk + 1) - begin(chunk));
}

// What all ranks have at `offset`: this one's own values and the others' slots.
void combine_slots(const Slots& slots, std::uint64_t buffer, int rank, std::size_t offset,
                   Values own, const Reduction& how) {
  std::vector<std::span<const std::byte>> parts;
  parts.reserve(static_cast<std::size_t>(slots.ranks()));
  for (int r = 0; r < slots.ranks(); ++r)
    parts.push_back(r == rank ? own : slots.slot(buffer, r).subspan(offset, own.size()));
  combine_in_order(how, own, parts);
}

}  // namespace

Steps barrier_steps() {
  const auto nothing = [](std::size_t, std::uint64_t) {};
  return {.count = 1, .put = nothing, .take = nothing};
}

Steps broadcast_steps(const Slots& slots, int rank, Values bytes, int root) {
  Steps steps{.count = chunks_of(bytes.size(), slots.slot_bytes())};
  const auto count = steps.count;
  steps.put = [=](std::size_t chunk, std::uint64_t buffer) {
    if (rank == root) copy(slots.slot(buffer, root), chunk_of(bytes, 1, count, chunk));
  };
  steps.take = [=](std::size_t chunk, std::uint64_t buffer) {
    if (rank == root) return;
    const auto here = chunk_of(bytes, 1, count, chunk);
    copy(here, slots.slot(buffer, root).first(here.size()));
  };
  return steps;
}

namespace {

Steps small_all_reduce_steps(const Slots& slots, int rank, Values values, const Reduction& how) {
  Steps steps;
  steps.put = [=](std::size_t, std::uint64_t buffer) { copy(slots.slot(buffer, rank), values); };
  steps.take = [=](std::size_t, std::uint64_t buffer) {
    combine_slots(slots, buffer, rank, 0, values, how);
  };
  return steps;
}

}  // namespace

// The share of a chunk that a rank combines goes back to the others by the part of its slot where
// nobody puts anything: the owner has these values itself.
Steps all_reduce_steps(const Slots& slots, int rank, Values values, const Reduction& how) {
  if (values.size() <= kSmallBytes) return small_all_reduce_steps(slots, rank, values, how);
  const auto value_bytes = size_of(how.type);
  const int ranks = slots.ranks();
  Steps steps{.count = chunks_of(values.size(), slots.slot_bytes() - value_bytes)};
  const auto count = steps.count;
  const auto cut = [=](std::size_t chunk) { return chunk_of(values, value_bytes, count, chunk); };
  steps.put = [=](std::size_t chunk, std::uint64_t buffer) {
    const auto here = cut(chunk);
    const auto own = Shares::equal(here.size(), value_bytes, ranks);
    const auto slot = slots.slot(buffer, rank).first(here.size());
    copy(slot, here.first(own.begin(rank)));
    copy(slot.subspan(own.begin(rank + 1)), here.subspan(own.begin(rank + 1)));
  };
  steps.combine = [=](std::size_t chunk, std::uint64_t buffer) {
    const auto here = cut(chunk);
    const auto shares = Shares::equal(here.size(), value_bytes, ranks);
    const auto own = shares.of(here, rank);
    combine_slots(slots, buffer, rank, shares.begin(rank), own, how);
    copy(slots.slot(buffer, rank).subspan(shares.begin(rank)), own);
  };
  steps.take = [=](std::size_t chunk, std::uint64_t buffer) {
    const auto here = cut(chunk);
    const auto shares = Shares::equal(here.size(), value_bytes, ranks);
    for (int i = 1; i < ranks; ++i) {
      const int other = (rank + i) % ranks;  // Not all at one rank's slot at once.
      const auto share = shares.of(here, other);
      copy(share, slots.slot(buffer, other).subspan(shares.begin(other), share.size()));
    }
  };
  return steps;
}

// Every chunk has a part of every share, so that all ranks have something to combine.
Steps reduce_scatter_steps(const Slots& slots, int rank, Values values, const Shares& shares,
                           const Reduction& how) {
  const auto value_bytes = size_of(how.type);
  const int ranks = slots.ranks();
  // Rounding may add a value to each rank's part.
  const auto room = slots.slot_bytes() - static_cast<std::size_t>(ranks) * value_bytes;
  Steps steps{.count = chunks_of(values.size(), room)};
  const auto count = steps.count;
  const auto cut = [=](int r, std::size_t chunk) {
    return chunk_of(shares.of(values, r), value_bytes, count, chunk);
  };
  steps.put = [=](std::size_t chunk, std::uint64_t buffer) {
    auto slot = slots.slot(buffer, rank);
    for (int r = 0; r < ranks; ++r) {
      const auto part = cut(r, chunk);
      if (r != rank) copy(slot, part);
      slot = slot.subspan(part.size());
    }
  };
  steps.combine = [=](std::size_t chunk, std::uint64_t buffer) {
    std::size_t offset = 0;
    for (int r = 0; r < rank; ++r) offset += cut(r, chunk).size();
    combine_slots(slots, buffer, rank, offset, cut(rank, chunk), how);
  };
  return steps;
}

Steps all_gather_steps(const Slots& slots, int rank, Values values, const Shares& shares) {
  const int ranks = slots.ranks();
  Steps steps{.count = chunks_of(shares.longest_bytes(), slots.slot_bytes())};
  const auto count = steps.count;
  const auto cut = [=](int r, std::size_t chunk) {
    return chunk_of(shares.of(values, r), 1, count, chunk);
  };
  steps.put = [=](std::size_t chunk, std::uint64_t buffer) {
    copy(slots.slot(buffer, rank), cut(rank, chunk));
  };
  steps.take = [=](std::size_t chunk, std::uint64_t buffer) {
    for (int i = 1; i < ranks; ++i) {
      const int other = (rank + i) % ranks;
      const auto part = cut(other, chunk);
      copy(part, slots.slot(buffer, other).first(part.size()));
    }
  };
  return steps;
}

Steps all_to_all_steps(const Slots& slots, int rank, Values values) {
  const int ranks = slots.ranks();
  const auto part_bytes = slots.slot_bytes() / static_cast<std::size_t>(ranks);
  const auto shares = Shares::equal(values.size(), 1, ranks);
  Steps steps{.count = chunks_of(shares.longest_bytes(), part_bytes)};
  const auto count = steps.count;
  const auto cut = [=](int r, std::size_t chunk) {
    return chunk_of(shares.of(values, r), 1, count, chunk);
  };
  const auto part = [=](std::uint64_t buffer, int from, int to) {
    return slots.slot(buffer, from).subspan(static_cast<std::size_t>(to) * part_bytes, part_bytes);
  };
  steps.put = [=](std::size_t chunk, std::uint64_t buffer) {
    for (int r = 0; r < ranks; ++r)
      if (r != rank) copy(part(buffer, rank, r), cut(r, chunk));
  };
  steps.take = [=](std::size_t chunk, std::uint64_t buffer) {
    for (int r = 0; r < ranks; ++r) {
      if (r == rank) continue;
      const auto here = cut(r, chunk);
      copy(here, part(buffer, r, rank).first(here.size()));
    }
  };
  return steps;
}

}  // namespace causeway::shm
