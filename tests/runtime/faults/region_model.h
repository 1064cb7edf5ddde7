// What the bytes of a region may be, by what was done to it.
//
// Shape:   one byte string that is certain where nothing failed, and beside it the bytes of every
//          write that ended in an error: where such a write went, a byte may be either, each for
//          itself. A later write that succeeded makes its range certain again.
// Units:   bytes; offsets are within the region.
// Threads: a plain value.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace causeway::test {

class RegionModel {
 public:
  using Bytes = std::vector<std::byte>;
  struct Piece {
    std::uint64_t at;
    Bytes bytes;
  };

  explicit RegionModel(std::size_t size_bytes) : certain_(size_bytes) {}

  [[nodiscard]] std::size_t size_bytes() const { return certain_.size(); }

  void wrote(const Piece& piece) {
    forget_doubts(piece.at, piece.at + piece.bytes.size());
    std::ranges::copy(piece.bytes, certain_.begin() + static_cast<std::ptrdiff_t>(piece.at));
  }
  void may_have_written(Piece piece) { doubts_.push_back(std::move(piece)); }

  // What a copy of [at, at + size) to `to` brings: the certain bytes first, then the doubts.
  [[nodiscard]] std::vector<Piece> copied(std::uint64_t at, std::uint64_t size,
                                          std::uint64_t to) const {
    std::vector<Piece> result{{to, part(certain_, at, at + size)}};
    for (const auto& doubt : doubts_) {
      const auto begin = std::max(doubt.at, at);
      const auto end = std::min(doubt.at + doubt.bytes.size(), at + size);
      if (begin < end)
        result.push_back({to + (begin - at), part(doubt.bytes, begin - doubt.at, end - doubt.at)});
    }
    return result;
  }

  // The first offset at which `got`, read from `at`, is what it cannot be.
  [[nodiscard]] std::optional<std::uint64_t> first_wrong(std::uint64_t at,
                                                         std::span<const std::byte> got) const {
    if (doubts_.empty() && std::ranges::equal(got, std::span(certain_).subspan(at, got.size())))
      return std::nullopt;
    for (std::size_t i = 0; i < got.size(); ++i)
      if (got[i] != certain_[at + i] && !is_doubt(at + i, got[i])) return at + i;
    return std::nullopt;
  }

 private:
  static Bytes part(const Bytes& bytes, std::uint64_t begin, std::uint64_t end) {
    return {bytes.begin() + static_cast<std::ptrdiff_t>(begin),
            bytes.begin() + static_cast<std::ptrdiff_t>(end)};
  }

  [[nodiscard]] bool is_doubt(std::uint64_t at, std::byte value) const {
    return std::ranges::any_of(doubts_, [&](const Piece& doubt) {
      return at >= doubt.at && at - doubt.at < doubt.bytes.size() &&
             doubt.bytes[at - doubt.at] == value;
    });
  }

  void forget_doubts(std::uint64_t begin, std::uint64_t end) {
    std::vector<Piece> kept;
    for (auto& doubt : doubts_) {
      const auto last = doubt.at + doubt.bytes.size();
      if (last <= begin || doubt.at >= end) {
        kept.push_back(std::move(doubt));
        continue;
      }
      if (doubt.at < begin) kept.push_back({doubt.at, part(doubt.bytes, 0, begin - doubt.at)});
      if (last > end) kept.push_back({end, part(doubt.bytes, end - doubt.at, doubt.bytes.size())});
    }
    doubts_ = std::move(kept);
  }

  Bytes certain_;
  std::vector<Piece> doubts_;
};

}  // namespace causeway::test
