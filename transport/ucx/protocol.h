// What two transports say to each other: first one frame each over TCP, a Greeting and a Welcome or
// a failure; then active messages, each a Header and a payload.
//
// Shape:   a frame is kFrameHeadBytes and a body of at most kMaxBodyBytes; a Header is
// kHeaderBytes;
//          numbers are little-endian. failed and bye carry a small text payload; write, read_data
//          and message carry the user's bytes; the others carry none.
// Errors:  decode functions return nullopt for anything that no correct peer sends.
// Threads: plain values.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "transport/channel.h"
#include "transport/ucx/net.h"

namespace causeway::ucx {

constexpr std::uint8_t kProtocolVersion = 7;  // Of everything here: peers of others are refused.
constexpr std::size_t kFrameHeadBytes = 8;
constexpr std::size_t kMaxBodyBytes = 2048;
constexpr std::size_t kMaxHosts = 2;  // Of the two ports that UCX opens.

enum class FrameKind : std::uint8_t { greeting = 1, welcome, refusal, join };

struct FrameHead {
  std::uint8_t version;
  FrameKind kind;
  std::size_t body_bytes;
};

// The connecting side: who it is. From where, the lifeline tells: what a client says of hosts must
// not decide whom the guard lets in.
struct Greeting {
  std::uint64_t key = 0;  // The accepting side puts it in every Header.
  Hello hello;
};

// The accepting side, which has admitted the other one. Its data connections come from the first
// address of an interface, and the one that was called may be another of the same.
struct Welcome {
  std::uint64_t key = 0;        // The other way.
  std::uint64_t transport = 0;  // Whom the channel leads to.
  std::uint16_t port = 0;       // Where UCX listens, at the host that was called.
  std::string name;
  std::vector<HostBytes> hosts;
};

// The connecting side of an open link, on another connection to the same port: this is its stream.
struct Join {
  std::uint64_t key = 0;  // As in every Header that goes the same way.
};

// Whole frames. Texts take at most 255 bytes, hosts kMaxHosts.
[[nodiscard]] std::vector<std::byte> frame(const Greeting& greeting);
[[nodiscard]] std::vector<std::byte> frame(const Welcome& welcome);
[[nodiscard]] std::vector<std::byte> frame(const Error& refusal);
[[nodiscard]] std::vector<std::byte> frame(const Join& join);

// Another version's head is decoded as far as this: its body is of unknown shape.
[[nodiscard]] std::optional<FrameHead> decode_frame_head(std::span<const std::byte> bytes) noexcept;
[[nodiscard]] std::optional<Greeting> decode_greeting(std::span<const std::byte> body);
[[nodiscard]] std::optional<Welcome> decode_welcome(std::span<const std::byte> body);
[[nodiscard]] std::optional<Join> decode_join(std::span<const std::byte> body);

enum class Op : std::uint8_t {
  hello = 1,   // The connecting side's first message: now the endpoint belongs to this key.
  welcome,     // The answer: both ways are open.
  write,       // id, session, region, offset, size, part, part_size, by_stream. Payload: the part.
  write_done,  // id.
  read,        // id, session, region, offset, size, part, part_size, eager, by_stream.
  read_data,   // id, part_size. Payload: the part.
  sum,         // id, session, region, offset, size.
  sum_is,      // id, offset: the checksum.
  fence,       // id; session: the transport, region: the number of the channel to end.
  fenced,      // id.
  failed,      // id of what was asked for. Payload: a failure.
  message,     // id: 0, 1, ... in order of sending; region: the tag; part_size. Payload: all of it.
  withdraw,    // id of a message that is taken back, if nobody has received it yet.
  bye,         // Payload: a failure that says why the sender leaves.
  recall,      // id, session of a write that is taken back, if its turn has not come: it failed.
  joined,      // The stream is there.
  go,          // id of a write whose bytes are to come by the stream.
};

struct Header {
  Op op = Op::hello;
  std::uint64_t key = 0;  // Proves that the sender owns this connection.
  std::uint64_t id = 0;
  std::uint64_t session = 0;
  std::uint64_t region = 0;
  // The range of the whole write or read, against which every part of it is checked: a request that
  // is refused leaves nothing half done.
  std::uint64_t offset_bytes = 0;
  std::uint64_t size_bytes = 0;
  std::uint64_t part_bytes = 0;  // Where this part begins, behind the offset.
  std::uint64_t part_size_bytes = 0;
  bool eager = false;      // The answer is wanted with its bytes, whatever their size.
  bool by_stream = false;  // The bytes cross by the stream (stream.h), under the same id.
};

constexpr std::size_t kHeaderBytes = 72;
constexpr std::size_t kMaxTextBytes = 2048;  // Of a text payload.
using HeaderBytes = std::array<std::byte, kHeaderBytes>;

[[nodiscard]] HeaderBytes encode(const Header& header) noexcept;
[[nodiscard]] std::optional<Header> decode_header(std::span<const std::byte> bytes) noexcept;

// Before the bytes of a part that crosses by a stream (stream.h).
struct StreamHead {
  enum class Kind : std::uint8_t { write = 1, read_data };
  Kind kind = Kind::write;
  std::uint64_t id = 0;  // Of the part, by whoever asked for it.
  std::uint64_t size_bytes = 0;
};

constexpr std::size_t kStreamHeadBytes = 24;
using StreamHeadBytes = std::array<std::byte, kStreamHeadBytes>;
[[nodiscard]] StreamHeadBytes encode(const StreamHead& head) noexcept;
// Nothing, for what no correct peer sends.
[[nodiscard]] std::optional<StreamHead> decode_stream_head(
    std::span<const std::byte> bytes) noexcept;

// A failure is its code and a text: the body of a refusal, the payload of failed and bye.
[[nodiscard]] std::vector<std::byte> encode(const Error& failure);
[[nodiscard]] std::optional<Error> decode_failure(std::span<const std::byte> bytes);

// What a text payload of the peer may show in messages and logs: printable ASCII, the rest is '?'.
[[nodiscard]] std::string printable(std::string_view text);

}  // namespace causeway::ucx
