#include "allocator/stitched_range.h"

#include <fmt/format.h>

#include <cstring>
#include <utility>

#include "allocator/error.h"

namespace causeway {

StitchedRange::StitchedRange(std::shared_ptr<MemoryBackend> backend, std::uint64_t size_bytes)
    : backend_(std::move(backend)),
      reservation_(backend_->reserve(backend_->round_up(size_bytes))) {}

StitchedRange& StitchedRange::operator=(StitchedRange&& other) noexcept {
  if (this == &other) return *this;
  pieces_.clear();
  reservation_ = std::move(other.reservation_);  // Before its backend goes.
  backend_ = std::move(other.backend_);
  pieces_ = std::move(other.pieces_);
  return *this;
}

bool StitchedRange::covers(std::uint64_t offset_bytes, std::uint64_t size_bytes) const noexcept {
  if (size_bytes > this->size_bytes() || offset_bytes > this->size_bytes() - size_bytes)
    return false;
  const auto end = offset_bytes + size_bytes;
  auto piece = pieces_.upper_bound(offset_bytes);
  if (piece != pieces_.begin()) --piece;
  auto at = offset_bytes;
  for (; at < end && piece != pieces_.end() && piece->first <= at; ++piece) {
    const auto piece_end = piece->first + piece->second.size_bytes();
    if (piece_end > at) at = piece_end;
  }
  return at >= end;
}

void StitchedRange::place(std::uint64_t offset_bytes, Segment segment) {
  check_not_empty();
  const auto size_bytes = segment.size_bytes();
  backend_->map(reservation_, offset_bytes, segment);
  try {
    backend_->set_access(reservation_, offset_bytes, size_bytes, Protection::read_write);
    pieces_.emplace(offset_bytes, std::move(segment));
  } catch (...) {
    backend_->unmap(reservation_, offset_bytes, size_bytes);
    throw;
  }
}

void StitchedRange::replace(std::uint64_t offset_bytes, Segment segment, const Copy& copy) {
  const auto piece = find(offset_bytes);
  check_same_size(segment, *piece);
  const auto size_bytes = segment.size_bytes();
  auto second = backend_->reserve(size_bytes);
  backend_->map(second, 0, segment);
  backend_->set_access(second, 0, size_bytes, Protection::read_write);
  stop_stores(offset_bytes, size_bytes);
  try {
    const std::byte* from = data() + offset_bytes;
    if (copy)
      copy(second.data(), from, size_bytes);
    else
      std::memcpy(second.data(), from, size_bytes);
    backend_->remap(reservation_, offset_bytes, segment, Protection::read_write);
  } catch (...) {
    backend_->set_access(reservation_, offset_bytes, size_bytes, Protection::read_write);
    throw;
  }
  piece->second = std::move(segment);
}

void StitchedRange::stop_stores(std::uint64_t offset_bytes, std::uint64_t size_bytes) {
  try {
    backend_->set_access(reservation_, offset_bytes, size_bytes, Protection::read);
  } catch (const Error& error) {
    // Some drivers grant a device no reading alone. The guard only makes a store fault that nobody
    // may do; a move without it is better than none.
    if (error.code() != Errc::unsupported && error.code() != Errc::invalid_argument) throw;
  }
}

Segment StitchedRange::swap(std::uint64_t offset_bytes, Segment segment) {
  const auto piece = find(offset_bytes);
  check_same_size(segment, *piece);
  backend_->remap(reservation_, offset_bytes, segment, Protection::read_write);
  return std::exchange(piece->second, std::move(segment));
}

Segment StitchedRange::remove(std::uint64_t offset_bytes) {
  const auto piece = find(offset_bytes);
  backend_->unmap(reservation_, offset_bytes, piece->second.size_bytes());
  auto segment = std::move(piece->second);
  pieces_.erase(piece);
  return segment;
}

StitchedRange::Pieces::iterator StitchedRange::find(std::uint64_t offset_bytes) {
  check_not_empty();
  const auto piece = pieces_.find(offset_bytes);
  if (piece == pieces_.end())
    throw Error(Errc::not_found, fmt::format("{}: no piece of the range starts at offset {}",
                                             backend_->name(), offset_bytes));
  return piece;
}

void StitchedRange::check_not_empty() const {
  if (!backend_) throw Error(Errc::invalid_argument, "the range is empty: it holds no addresses");
}

void StitchedRange::check_same_size(const Segment& segment, const Pieces::value_type& piece) const {
  if (segment.size_bytes() != piece.second.size_bytes())
    throw Error(Errc::invalid_argument,
                fmt::format("{}: a segment of {} bytes cannot take the place of {} bytes at offset"
                            " {}",
                            backend_->name(), segment.size_bytes(), piece.second.size_bytes(),
                            piece.first));
}

}  // namespace causeway
