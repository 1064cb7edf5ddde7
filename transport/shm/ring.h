// One direction of two processes' messages: records in a ring that both map.
//
// Shape:   a record is a head and up to kMaxPayload bytes; it lies in one piece, and counts once it
//          is published. One side writes, the other takes, in order.
// Units:   bytes; a ring's size is a power of two and at least kLeastBytes.
// Errors:  whatever the other process has written there, this one reads and writes within the ring
//          only: take() and reserve() throw protocol where no correct peer could have left it so.
//          Payloads may change while they are looked at: copy, then judge.
// Cost:    a cache line or two from core to core for a small record.
// Threads: a writer and a reader are values of one thread each, in the same or two processes.
// Source:  single-producer ring with private copies of both counts: Giacomoni, Moseley,
//          Vachharajani, "FastForward for Efficient Pipeline Parallelism", PPoPP 2008.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace causeway::shm {

struct Record {
  enum class Kind : std::uint16_t {
    pad,       // To the ring's end: of no meaning.
    message,   // The payload is all of it.
    offer,     // A message of `total_bytes` that waits at the sender.
    ask,       // For the offer of that number.
    drop,      // Likewise, but its bytes are not wanted.
    part,      // The next bytes of what was asked for.
    withdraw,  // An offer that no longer stands.
  };
  Kind kind = Kind::pad;
  std::uint64_t number = 0;  // Of the message, by the side that sends it.
  std::uint64_t tag = 0;
  std::uint64_t total_bytes = 0;
};

// Of one side, written by that side alone but for `asleep`. Changes and looks are in one order for
// all (sequentially consistent): a side that sleeps has said so, and then looked, before.
struct alignas(64) RingEnd {
  std::atomic<std::uint64_t> written;            // Bytes of its own ring, ever.
  alignas(64) std::atomic<std::uint64_t> taken;  // Bytes of the other's.
  alignas(64) std::atomic<std::uint32_t> asleep;
  std::atomic<std::uint32_t> has_left;
};

class Ring {
 public:
  static constexpr std::size_t kHeadBytes = 32;
  static constexpr std::size_t kAlign = 32;
  static constexpr std::size_t kMaxPayload = std::size_t{64} * 1024;
  static constexpr std::size_t kLeastBytes = std::size_t{256} * 1024;
  static constexpr std::size_t kMostBytes = std::size_t{16} << 20;

  // What a record takes.
  static constexpr std::uint64_t record_bytes(std::uint64_t payload_bytes) noexcept {
    return (kHeadBytes + payload_bytes + kAlign - 1) & ~(kAlign - 1);
  }
};

class RingWriter {
 public:
  RingWriter(std::span<std::byte> bytes, RingEnd& own, const RingEnd& peer) noexcept
      : bytes_(bytes), own_(own), peer_(peer) {}

  // Where the payload of a record goes, which publish() then lets the peer see; null: no room now.
  [[nodiscard]] std::byte* reserve(const Record& record, std::size_t payload_bytes);
  void publish() noexcept { own_.written.store(at_); }
  // Whether the peer has taken anything since this side last found no room.
  [[nodiscard]] bool has_news() const noexcept { return peer_.taken.load() != taken_; }

 private:
  [[nodiscard]] bool has_room(std::uint64_t size_bytes);
  std::byte* put_head(const Record& record, std::size_t payload_bytes) noexcept;

  std::span<std::byte> bytes_;
  RingEnd& own_;
  const RingEnd& peer_;
  std::uint64_t at_ = 0;
  std::uint64_t taken_ = 0;  // As last seen.
};

class RingReader {
 public:
  RingReader(std::span<const std::byte> bytes, RingEnd& own, const RingEnd& peer) noexcept
      : bytes_(bytes), own_(own), peer_(peer) {}

  struct Taken {
    Record record;
    std::span<const std::byte> payload;  // Until next().
  };
  // The oldest record, if there is one; it stays until next().
  [[nodiscard]] std::optional<Taken> take();
  void next() noexcept {
    at_ += size_;
    own_.taken.store(at_);
  }
  // Without a look at what is there.
  [[nodiscard]] bool is_empty() const noexcept {
    return at_ == written_ && peer_.written.load() == at_;
  }

 private:
  std::span<const std::byte> bytes_;
  RingEnd& own_;
  const RingEnd& peer_;
  std::uint64_t at_ = 0;
  std::uint64_t written_ = 0;  // As last seen.
  std::uint64_t size_ = 0;     // Of the record that was taken.
};

}  // namespace causeway::shm
