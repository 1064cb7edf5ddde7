#include "allocator/memory_backend.h"

#include <fmt/format.h>

#include <cstring>
#include <limits>
#include <utility>

#include "allocator/error.h"

namespace causeway {

Segment::Segment(Segment&& other) noexcept { *this = std::move(other); }

Segment& Segment::operator=(Segment&& other) noexcept {
  std::swap(backend_, other.backend_);
  std::swap(handle_, other.handle_);
  std::swap(size_bytes_, other.size_bytes_);
  std::swap(origin_, other.origin_);
  if (this != &other) other.reset();
  return *this;
}

Segment::~Segment() { reset(); }

void Segment::reset() noexcept {
  if (backend_ == nullptr) return;
  std::exchange(backend_, nullptr)->do_destroy(handle_, size_bytes_, origin_ == Origin::created);
  size_bytes_ = 0;
}

Reservation::Reservation(Reservation&& other) noexcept { *this = std::move(other); }

Reservation& Reservation::operator=(Reservation&& other) noexcept {
  std::swap(backend_, other.backend_);
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  std::swap(mapped_, other.mapped_);
  if (this != &other) other.reset();
  return *this;
}

Reservation::~Reservation() { reset(); }

void Reservation::reset() noexcept {
  if (backend_ == nullptr) return;
  std::exchange(backend_, nullptr)->release_range(*this);
  mapped_.clear();
  data_ = nullptr;
  size_bytes_ = 0;
}

void MemoryBackend::release_range(const Reservation& reservation) noexcept {
  for (const auto& [offset_bytes, size_bytes] : reservation.mapped_) {
    try {
      do_unmap(reservation.data_ + offset_bytes, size_bytes);
    } catch (const Error&) {  // do_free() takes what is left; there is nobody to tell.
    }
  }
  do_free(reservation.data_, reservation.size_bytes_);
}

std::uint64_t MemoryBackend::round_up(std::uint64_t size_bytes) const {
  const auto mask = granule_bytes() - 1;
  if (size_bytes > std::numeric_limits<std::uint64_t>::max() - mask)
    throw Error(Errc::invalid_argument,
                fmt::format("{}: {} bytes are more than any device has", name(), size_bytes));
  return (size_bytes + mask) & ~mask;
}

Segment MemoryBackend::create(std::uint64_t size_bytes) {
  check_size(size_bytes);
  return {*this, do_create(size_bytes), size_bytes, Segment::Origin::created};
}

Reservation MemoryBackend::reserve(std::uint64_t size_bytes) {
  check_size(size_bytes);
  return {*this, do_reserve(size_bytes), size_bytes};
}

void MemoryBackend::map(Reservation& reservation, std::uint64_t offset_bytes,
                        const Segment& segment) {
  check_segment(segment);
  const auto size_bytes = segment.size_bytes();
  check_range(reservation, offset_bytes, size_bytes);
  auto& mapped = reservation.mapped_;
  const auto next = mapped.lower_bound(offset_bytes);
  const bool hits_next = next != mapped.end() && next->first - offset_bytes < size_bytes;
  const bool hits_previous =
      next != mapped.begin() && offset_bytes - std::prev(next)->first < std::prev(next)->second;
  if (hits_next || hits_previous)
    throw Error(Errc::invalid_argument,
                fmt::format("{}: cannot map {} bytes at offset {}: something is mapped there; "
                            "unmap it first or use remap",
                            name(), size_bytes, offset_bytes));
  const auto entry = mapped.emplace_hint(next, offset_bytes, size_bytes);
  try {
    do_map(reservation.data_ + offset_bytes, size_bytes, segment.handle_);
  } catch (...) {
    mapped.erase(entry);
    throw;
  }
}

void MemoryBackend::unmap(Reservation& reservation, std::uint64_t offset_bytes,
                          std::uint64_t size_bytes) {
  check_mapped(reservation, offset_bytes, size_bytes);
  do_unmap(reservation.data_ + offset_bytes, size_bytes);
  auto& mapped = reservation.mapped_;
  mapped.erase(mapped.find(offset_bytes), mapped.lower_bound(offset_bytes + size_bytes));
}

void MemoryBackend::set_access(Reservation& reservation, std::uint64_t offset_bytes,
                               std::uint64_t size_bytes, Protection protection) {
  check_mapped(reservation, offset_bytes, size_bytes);
  do_set_access(reservation.data_ + offset_bytes, size_bytes, protection);
}

void MemoryBackend::remap(Reservation& reservation, std::uint64_t offset_bytes,
                          const Segment& segment, Protection protection) {
  check_segment(segment);
  check_mapped(reservation, offset_bytes, segment.size_bytes());
  if (reservation.mapped_.find(offset_bytes)->second != segment.size_bytes())
    throw Error(Errc::invalid_argument,
                fmt::format("{}: remap at offset {} spans several mappings; remap one at a time",
                            name(), offset_bytes));
  do_remap(reservation.data_ + offset_bytes, segment.size_bytes(), segment.handle_, protection);
}

UniqueFd MemoryBackend::export_segment(const Segment& segment) {
  check_segment(segment);
  return do_export(segment.handle_);
}

Segment MemoryBackend::import_segment(UniqueFd fd, std::uint64_t size_bytes) {
  check_size(size_bytes);
  if (!fd)
    throw Error(Errc::invalid_argument, name() + ": no file descriptor came with the segment");
  return {*this, do_import(std::move(fd), size_bytes), size_bytes, Segment::Origin::imported};
}

void MemoryBackend::check_size(std::uint64_t size_bytes) const {
  if (size_bytes == 0 || size_bytes % granule_bytes() != 0)
    throw Error(Errc::invalid_argument,
                fmt::format("{}: {} bytes are not a positive multiple of the granule, {} bytes",
                            name(), size_bytes, granule_bytes()));
}

void MemoryBackend::check_range(const Reservation& reservation, std::uint64_t offset_bytes,
                                std::uint64_t size_bytes) const {
  if (reservation.backend_ != this)
    throw Error(Errc::invalid_argument,
                name() + ": the reservation is empty or belongs to another backend");
  check_size(size_bytes);
  if (offset_bytes % granule_bytes() != 0)
    throw Error(Errc::invalid_argument,
                fmt::format("{}: offset {} is not a multiple of the granule, {} bytes", name(),
                            offset_bytes, granule_bytes()));
  if (size_bytes > reservation.size_bytes_ || offset_bytes > reservation.size_bytes_ - size_bytes)
    throw Error(Errc::out_of_bounds,
                fmt::format("{}: {} bytes at offset {} do not fit the reservation of {} bytes",
                            name(), size_bytes, offset_bytes, reservation.size_bytes_));
}

void MemoryBackend::check_mapped(const Reservation& reservation, std::uint64_t offset_bytes,
                                 std::uint64_t size_bytes) const {
  check_range(reservation, offset_bytes, size_bytes);
  const auto end = offset_bytes + size_bytes;
  auto at = offset_bytes;
  for (auto piece = reservation.mapped_.find(at);
       piece != reservation.mapped_.end() && piece->first == at && at < end; ++piece)
    at += piece->second;
  if (at != end)
    throw Error(Errc::invalid_argument,
                fmt::format("{}: {} bytes at offset {} are not one or more whole mappings", name(),
                            size_bytes, offset_bytes));
}

void MemoryBackend::check_segment(const Segment& segment) const {
  if (segment.backend_ == nullptr)
    throw Error(Errc::invalid_argument, name() + ": the segment is empty");
  if (std::strcmp(segment.backend_->family(), family()) != 0)
    throw Error(
        Errc::unsupported,
        fmt::format("{}: a segment of {} ({} memory) cannot be mapped among {} memory", name(),
                    segment.backend_->name(), segment.backend_->family(), family()));
}

}  // namespace causeway
