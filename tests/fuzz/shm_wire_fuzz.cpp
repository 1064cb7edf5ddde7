// What the peer of a wire may leave in their shared memory. The first byte says how: bytes into the
// ring as they are, or records whose fields come from the input. Every operation must end once, and
// what lies beside its buffers stay as it is.
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/io_context.hpp>

#include "fuzz_target.h"
#include "transport/shm/wire.h"

namespace {

using namespace causeway;
using namespace causeway::shm;

constexpr std::size_t kRing = Ring::kLeastBytes;
constexpr std::size_t kPage = 4096;
constexpr std::size_t kTarget = 20'000;
constexpr std::size_t kGuard = 64;

class Peer {
 public:
  explicit Peer(std::span<std::byte> memory)
      : ends_(reinterpret_cast<RingEnd*>(memory.data())),
        ring_(memory.subspan(kPage + kRing, kRing)),
        writer_(ring_, ends_[1], ends_[0]),
        reader_(memory.subspan(kPage, kRing), ends_[1], ends_[0]) {}

  // The first eight bytes say what was written, and taken; the rest lies where it is read.
  void write_raw(std::span<const std::byte> input) {
    std::uint32_t counts[2] = {};
    std::memcpy(counts, input.data(), std::min(input.size(), sizeof counts));
    input = input.subspan(std::min(input.size(), sizeof counts));
    std::ranges::copy(input.first(std::min(input.size(), kRing)), ring_.begin());
    ends_[1].written = counts[0] % (2 * kRing);
    ends_[1].taken = counts[1] % (2 * kRing);
  }
  // A record of four bytes of the input; false if the ring is full.
  bool write_record(std::span<const std::byte> input) {
    const auto byte = [&](std::size_t i) { return std::to_integer<std::uint64_t>(input[i]); };
    const auto sizes = byte(3) % 16 == 15 ? kTarget : byte(3) * 16;
    const auto payload = std::min<std::size_t>(byte(0) / 8 * 1024, Ring::kMaxPayload);
    const auto kind = static_cast<Record::Kind>(byte(0) % 8);
    auto* const place = writer_.reserve({kind, byte(1), byte(2) % 4, sizes}, payload);
    if (place == nullptr) return false;
    writer_.publish();
    return true;
  }
  void take_all() {
    while (reader_.take()) reader_.next();
  }

 private:
  RingEnd* ends_;
  std::span<std::byte> ring_;
  RingWriter writer_;
  RingReader reader_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  auto input = std::as_bytes(std::span(data, size));
  const auto mode = data[0];
  input = input.subspan(1);

  boost::asio::io_context context;
  const auto port = Port::create(context);
  auto segment = SharedSegment::create(Wire::segment_bytes(kRing));
  Peer peer(segment.bytes());
  std::unique_ptr<Wire> wire;
  std::size_t ended = 0, begun = 0;
  wire = std::make_unique<Wire>(
      port, Wire::Setup{std::move(segment), kRing, true, UniqueFd(::dup(port->bell())), "mallory",
                        [&](const Error& error) { wire->end(error); }});
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::hours(1);
  const auto done = [&](const std::optional<Error>&, std::uint64_t) { ++ended; };
  std::vector<std::vector<std::byte>> targets(4, std::vector<std::byte>(kTarget + 2 * kGuard));
  const std::vector<std::byte> message(kRing);
  for (std::uint64_t tag = 0; tag < 4; ++tag, begun += 2) {
    wire->receive(tag, std::span(targets[tag]).subspan(kGuard, kTarget), deadline, done);
    wire->send(tag, std::span(message).first(mode / 2 % 2 == 0 ? 100 : kRing), deadline, done);
  }
  const auto look = [&] {
    port->wake();
    context.restart();
    context.poll();
  };
  look();
  if (mode % 2 == 0) {
    peer.write_raw(input);
    look();
  }
  for (; mode % 2 == 1 && input.size() >= 4 && wire->is_open(); input = input.subspan(4)) {
    if (peer.write_record(input) && input.size() % 3 != 0) continue;
    look();
    peer.take_all();
  }
  look();
  wire->end(Error(Errc::closed, "enough"));
  look();
  if (ended != begun) causeway_fuzz::fail("an operation has not ended, or more than once", {});
  for (const auto& target : targets)
    for (std::size_t i = 0; i < kGuard; ++i)
      if (target[i] != std::byte{0} || target[kGuard + kTarget + i] != std::byte{0})
        causeway_fuzz::fail("bytes beside a buffer have changed", {});
  return 0;
}
