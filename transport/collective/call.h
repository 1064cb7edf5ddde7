// What ranks must agree about when they call an operation, and why a call is refused.
//
// Shape:   the same for every body of Communicator: each makes a Call of its arguments first.
// Errors:  none: a call that can never work has `refused_for`.
// Threads: values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "allocator/error.h"
#include "transport/collective/reduction.h"
#include "transport/collective/shares.h"

namespace causeway::collective {

struct Call {
  enum class Kind : std::uint8_t {
    barrier,
    broadcast,
    all_reduce,
    reduce_scatter,
    all_gather,
    all_to_all
  };
  Kind kind = Kind::barrier;
  std::size_t size_bytes = 0;
  std::uint32_t fingerprint = 0;  // Of all that ranks must agree about; equal if they do.
  std::string refused_for{};      // Empty: it can work.
  Errc refused_with = Errc::invalid_argument;
  [[nodiscard]] Error refusal() const;

  static Call barrier();
  static Call broadcast(std::size_t size_bytes, int root, int ranks);
  static Call all_reduce(std::size_t size_bytes, const Reduction& how);
  static Call reduce_scatter(std::size_t size_bytes, const Shares& shares, const Reduction& how,
                             int ranks);
  static Call all_gather(std::size_t size_bytes, const Shares& shares, int ranks);
  static Call all_to_all(std::size_t size_bytes, std::size_t value_bytes, int ranks);
};

[[nodiscard]] std::string_view name_of(Call::Kind kind) noexcept;  // "all_reduce"
// Of an operation whose turn had not come at its deadline.
[[nodiscard]] Error missed_turn(Call::Kind kind);

}  // namespace causeway::collective
