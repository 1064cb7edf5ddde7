// What two transports say to each other: one active message is a Header and a payload.
//
// Shape:   a Header is kHeaderBytes little-endian bytes. hello, welcome, refused, failed and bye
//          carry a small text payload; write, read_data and message carry the user's bytes.
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

namespace causeway::ucx {

enum class Op : std::uint8_t {
  hello = 1,   // id: the key that the peer must put in what it sends. Payload: Hello.
  welcome,     // id: likewise. Payload: the accepting side's name.
  refused,     // Payload: a failure.
  write,       // id, session, region, offset, size, part, part_size. Payload: the part.
  write_done,  // id.
  read,        // id, session, region, offset, size, part, part_size.
  read_data,   // id, part_size. Payload: the part.
  failed,      // id of a write or read. Payload: a failure.
  message,     // id: 0, 1, ... in order of sending; region: the tag; part_size. Payload: all of it.
  withdraw,    // id of a message that is taken back, if nobody has received it yet.
  bye,         // Payload: a failure that says why the sender leaves.
};

struct Header {
  Op op = Op::hello;
  std::uint64_t key = 0;  // Proves that the sender owns this connection; 0 in hello.
  std::uint64_t id = 0;
  std::uint64_t session = 0;
  std::uint64_t region = 0;
  // The range of the whole write or read, against which every part of it is checked: a request that
  // is refused leaves nothing half done.
  std::uint64_t offset_bytes = 0;
  std::uint64_t size_bytes = 0;
  std::uint64_t part_bytes = 0;  // Where this part begins, behind the offset.
  std::uint64_t part_size_bytes = 0;
};

constexpr std::size_t kHeaderBytes = 72;
constexpr std::size_t kMaxTextBytes = 2048;  // Of a text payload.
using HeaderBytes = std::array<std::byte, kHeaderBytes>;

[[nodiscard]] HeaderBytes encode(const Header& header) noexcept;
[[nodiscard]] std::optional<Header> decode_header(std::span<const std::byte> bytes) noexcept;

[[nodiscard]] std::vector<std::byte> encode(const Hello& hello);
[[nodiscard]] std::optional<Hello> decode_hello(std::span<const std::byte> bytes);

[[nodiscard]] std::vector<std::byte> encode(const Error& failure);
[[nodiscard]] std::optional<Error> decode_failure(std::span<const std::byte> bytes);

// What a text payload of the peer may show in messages and logs: printable ASCII, the rest is '?'.
[[nodiscard]] std::string printable(std::string_view text);

}  // namespace causeway::ucx
