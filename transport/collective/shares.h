// How values are cut among ranks: share r is bytes [begin(r), begin(r + 1)).
//
// Shape:   consecutive, of whole values, covering all; a share may be empty.
// Errors:  invalid_argument: no ranks, a size that is no whole number of values, weights that are
// not
//          finite, negative, or all 0.
// Cost:    one allocation of 8 bytes per rank.
// Threads: a value.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace causeway {

class Shares {
 public:
  // As equal as whole values allow: the first ones have one more.
  [[nodiscard]] static Shares equal(std::size_t size_bytes, std::size_t value_bytes, int ranks);
  // In proportion to `weights`, one per rank; a weight of 0 gets nothing.
  [[nodiscard]] static Shares weighted(std::size_t size_bytes, std::size_t value_bytes,
                                       std::span<const double> weights);

  [[nodiscard]] int ranks() const noexcept { return static_cast<int>(begins_.size()) - 1; }
  [[nodiscard]] std::size_t value_bytes() const noexcept { return value_bytes_; }
  [[nodiscard]] std::size_t total_bytes() const noexcept { return begins_.back(); }
  [[nodiscard]] std::size_t begin(int rank) const noexcept {
    return begins_[static_cast<std::size_t>(rank)];
  }
  [[nodiscard]] std::size_t size_bytes(int rank) const noexcept {
    return begin(rank + 1) - begin(rank);
  }
  [[nodiscard]] std::size_t longest_bytes() const noexcept;

  // Share `rank` of `values`, which has total_bytes().
  template <typename Byte>
  [[nodiscard]] std::span<Byte> of(std::span<Byte> values, int rank) const noexcept {
    return values.subspan(begin(rank), size_bytes(rank));
  }

 private:
  Shares(std::size_t value_bytes, std::size_t ranks)
      : value_bytes_(value_bytes), begins_(ranks + 1) {}
  std::size_t value_bytes_;
  std::vector<std::size_t> begins_;  // And the end.
};

}  // namespace causeway
