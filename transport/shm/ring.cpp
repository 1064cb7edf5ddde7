#include "transport/shm/ring.h"

#include <algorithm>
#include <array>
#include <string>

#include "allocator/error.h"

namespace causeway::shm {

namespace {

using Head = std::array<std::uint64_t, Ring::kHeadBytes / sizeof(std::uint64_t)>;

constexpr std::uint64_t kKindBits = 16;
constexpr auto kLastKind = static_cast<std::uint64_t>(Record::Kind::withdraw);

[[noreturn]] void violate(const char* what) {
  throw Error(Errc::protocol, std::string("in the memory shared with it there is ") + what);
}

}  // namespace

bool RingWriter::has_room(std::uint64_t size_bytes) {
  if (at_ - taken_ + size_bytes <= bytes_.size()) return true;
  const auto taken = peer_.taken.load(std::memory_order_acquire);
  if (taken < taken_ || taken > at_) violate("more taken than was written");
  taken_ = taken;
  return at_ - taken_ + size_bytes <= bytes_.size();
}

std::byte* RingWriter::put_head(const Record& record, std::size_t payload_bytes) noexcept {
  auto* const place = bytes_.data() + (at_ & (bytes_.size() - 1));
  const Head head{static_cast<std::uint64_t>(record.kind) | payload_bytes << kKindBits,
                  record.number, record.tag, record.total_bytes};
  std::ranges::copy(std::as_bytes(std::span(head)), place);
  return place + Ring::kHeadBytes;
}

std::byte* RingWriter::reserve(const Record& record, std::size_t payload_bytes) {
  const auto size = Ring::record_bytes(payload_bytes);
  const auto to_end = bytes_.size() - (at_ & (bytes_.size() - 1));
  const auto pad = to_end < size ? to_end : 0;
  if (!has_room(pad + size)) return nullptr;
  if (pad > 0) {
    put_head({}, pad - Ring::kHeadBytes);
    at_ += pad;
  }
  auto* const payload = put_head(record, payload_bytes);
  at_ += size;
  return payload;
}

std::optional<RingReader::Taken> RingReader::take() {
  for (bool is_padded = false;; is_padded = true) {
    if (at_ == written_) {
      const auto written = peer_.written.load(std::memory_order_acquire);
      if (written == at_ && is_padded) violate("a pad and nothing behind it");
      if (written == at_) return std::nullopt;
      if (written - at_ > bytes_.size() || written % Ring::kAlign != 0)
        violate("another amount than fits");
      written_ = written;
    }
    const auto place = at_ & (bytes_.size() - 1);
    // Each word is read once: what is judged is what is used.
    Head head{};
    auto* const words =
        reinterpret_cast<std::uint64_t*>(const_cast<std::byte*>(bytes_.data() + place));
    for (std::size_t i = 0; i < head.size(); ++i)
      head[i] = std::atomic_ref(words[i]).load(std::memory_order_relaxed);
    const auto kind = head[0] & ((1U << kKindBits) - 1);
    const auto payload = head[0] >> kKindBits;
    if (kind > kLastKind) violate("a record of no known kind");
    const bool is_pad = kind == 0;
    if (payload > (is_pad ? bytes_.size() : Ring::kMaxPayload))
      violate("a record that is longer than any");
    size_ = Ring::record_bytes(payload);
    if (size_ > written_ - at_ || size_ > bytes_.size() - place)
      violate("a record that ends behind what was written");
    if (!is_pad)
      return Taken{{static_cast<Record::Kind>(kind), head[1], head[2], head[3]},
                   bytes_.subspan(place + Ring::kHeadBytes, payload)};
    // A pad ends at the ring's end, and a record follows: else a peer could keep us here.
    if (is_padded || size_ != bytes_.size() - place) violate("a pad where none belongs");
    next();
  }
}

}  // namespace causeway::shm
