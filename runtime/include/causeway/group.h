// What some ranks of a job do together: the collectives that engines train with.
//
// Shape:   a Group comes from Worker::group() or Worker::split(). Its members call the same
//          operations in the same order, with the same sizes and types; those of one group run one
//          after the other, those of several side by side. Values are in place. Ranks count from 0
//          within the group; ranks() has their numbers in the job. `values` is cut into one share
//          per rank, as equal as whole values allow (share()).
// Units:   values where typed, else bytes.
// Errors:  peer_lost naming rank and node within 2 s of a member's death; timed_out naming the rank
//          that did not come in time, or called something else; closed if a member failed first,
//          with its reason; invalid_argument (a root that is not there, a size that cannot be cut)
//          breaks nothing and counts as a call; it is thrown at once for a type without arithmetic,
//          as is unsupported for values in memory of a GPU that the processor cannot reach.
//          The first failure of any other kind breaks the group and its Worker: channels close so
//          that nothing writes to the values any more, and every later call throws the same error.
//          Values are undefined then.
// Cost:    n ranks, b bytes, each way: all_reduce and large broadcast 2 b (n-1)/n; reduce_scatter,
//          all_gather, all_to_all b (n-1)/n; a started one costs its caller 5 to 20 us, one that
//          waits inside a host about 1 us.
// Threads: one at a time per Group; several groups, and the Worker beside them, from several.
#pragma once

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "causeway/error.h"
#include "causeway/model.h"

namespace causeway {

enum class Combine : std::uint8_t { sum, avg, max, min };

struct ReduceOptions {
  Combine how = Combine::sum;
  // From rank 0 upwards, f16 and bf16 rounded once: the result of one process that adds in this
  // order. Without it all ranks get the same bits, too, but in an order that depends on the size.
  bool in_rank_order = false;
  std::chrono::milliseconds timeout{0};  // 0: the worker's.
};

template <typename T>
concept Reducible = std::same_as<T, float> || std::same_as<T, double> ||
    std::same_as<T, std::int32_t> || std::same_as<T, std::int64_t>;

template <Reducible T>
inline constexpr DType kTypeOf = std::same_as<T, float>          ? DType::f32
                                 : std::same_as<T, double>       ? DType::f64
                                 : std::same_as<T, std::int32_t> ? DType::i32
                                                                 : DType::i64;

// An operation that was started. Its values must live, and be left alone, until wait() returns or
// throws, or this is destroyed. Destroyed before its end it cancels the operation, which breaks the
// group.
class [[nodiscard]] Pending {
 public:
  Pending(Pending&&) noexcept;
  Pending& operator=(Pending&&) noexcept;
  ~Pending();

  [[nodiscard]] bool is_done() const;  // In success or failure: wait() will not wait.
  void wait();                         // Errors: as Group. A second call does nothing.

 private:
  friend class Group;
  struct State;
  explicit Pending(std::unique_ptr<State> state) noexcept;
  std::unique_ptr<State> state_;
};

class Group {
 public:
  using Timeout = std::chrono::milliseconds;  // 0: the worker's.

  Group(Group&&) noexcept;
  Group& operator=(Group&&) noexcept;
  ~Group();

  [[nodiscard]] int rank() const noexcept;
  [[nodiscard]] int size() const noexcept;
  [[nodiscard]] const std::vector<int>& ranks() const noexcept;

  // Share `rank` of `values` for reduce_scatter and all_gather.
  template <typename T>
  [[nodiscard]] std::span<T> share(std::span<T> values, int rank) const {
    const auto n = static_cast<std::size_t>(size()), r = static_cast<std::size_t>(rank);
    const auto each = values.size() / n, longer = values.size() % n;
    return values.subspan(r * each + std::min(r, longer), each + (r < longer ? 1 : 0));
  }

  Pending start_barrier(Timeout timeout = {});
  // Rank `root`'s bytes to all.
  Pending start_broadcast(std::span<std::byte> bytes, int root, Timeout timeout = {});
  // Types: f64, f32, f16, bf16, i64, i32. Every rank gets the same bits.
  Pending start_all_reduce(std::span<std::byte> values, DType type, ReduceOptions options = {});
  // Own share: combined; the others: undefined.
  Pending start_reduce_scatter(std::span<std::byte> values, DType type, ReduceOptions options = {});
  // Every rank's own share to all.
  Pending start_all_gather(std::span<std::byte> values, DType type, Timeout timeout = {});
  // Share j of rank i becomes share i of rank j. A multiple of size() values.
  Pending start_all_to_all(std::span<std::byte> values, DType type, Timeout timeout = {});

  // The same, and waits; inside one host the calling thread does the work itself.
  void barrier(Timeout timeout = {});
  void broadcast(std::span<std::byte> bytes, int root, Timeout timeout = {});
  void all_reduce(std::span<std::byte> values, DType type, ReduceOptions options = {});
  void reduce_scatter(std::span<std::byte> values, DType type, ReduceOptions options = {});
  void all_gather(std::span<std::byte> values, DType type, Timeout timeout = {});
  void all_to_all(std::span<std::byte> values, DType type, Timeout timeout = {});

  // The same with the type of the values.
  template <Reducible T>
  Pending start_all_reduce(std::span<T> values, ReduceOptions options = {}) {
    return start_all_reduce(std::as_writable_bytes(values), kTypeOf<T>, options);
  }
  template <Reducible T>
  Pending start_reduce_scatter(std::span<T> values, ReduceOptions options = {}) {
    return start_reduce_scatter(std::as_writable_bytes(values), kTypeOf<T>, options);
  }
  template <Reducible T>
  Pending start_all_gather(std::span<T> values, Timeout timeout = {}) {
    return start_all_gather(std::as_writable_bytes(values), kTypeOf<T>, timeout);
  }
  template <Reducible T>
  void all_reduce(std::span<T> values, ReduceOptions options = {}) {
    all_reduce(std::as_writable_bytes(values), kTypeOf<T>, options);
  }
  // Returns the own share.
  template <Reducible T>
  std::span<T> reduce_scatter(std::span<T> values, ReduceOptions options = {}) {
    reduce_scatter(std::as_writable_bytes(values), kTypeOf<T>, options);
    return share(values, rank());
  }
  template <Reducible T>
  void all_gather(std::span<T> values, Timeout timeout = {}) {
    all_gather(std::as_writable_bytes(values), kTypeOf<T>, timeout);
  }
  template <Reducible T>
  void all_to_all(std::span<T> values, Timeout timeout = {}) {
    all_to_all(std::as_writable_bytes(values), kTypeOf<T>, timeout);
  }

 private:
  friend class GroupMaker;
  friend class Pending;
  struct State;
  explicit Group(std::shared_ptr<State> state) noexcept;
  std::shared_ptr<State> state_;
};

}  // namespace causeway
