#include "transport/ucx/protocol.h"

#include <algorithm>
#include <cstring>

namespace causeway::ucx {

namespace {

// The last digit is the protocol's version: peers of different versions refuse each other.
constexpr std::uint64_t kMagic = 0x43575931;  // "CWY1"

void put(std::byte* at, std::uint64_t value, std::size_t bytes) noexcept {
  for (std::size_t i = 0; i < bytes; ++i) at[i] = static_cast<std::byte>(value >> (8 * i));
}

std::uint64_t get(const std::byte* at, std::size_t bytes) noexcept {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < bytes; ++i) value |= std::to_integer<std::uint64_t>(at[i]) << (8 * i);
  return value;
}

void append(std::vector<std::byte>& to, std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  to.insert(to.end(), bytes.begin(), bytes.end());
}

void append_short(std::vector<std::byte>& to, std::string_view text) {
  text = text.substr(0, 255);
  to.push_back(static_cast<std::byte>(text.size()));
  append(to, text);
}

std::string to_text(std::span<const std::byte> bytes) {
  std::string text(bytes.size(), '\0');
  std::ranges::transform(bytes, text.begin(), [](std::byte b) { return static_cast<char>(b); });
  return text;
}

// A length byte and as many bytes, cut from the front of `bytes`.
std::optional<std::string> take_short(std::span<const std::byte>& bytes) {
  if (bytes.empty()) return std::nullopt;
  const auto length = std::to_integer<std::size_t>(bytes[0]);
  if (bytes.size() < 1 + length) return std::nullopt;
  auto text = to_text(bytes.subspan(1, length));
  bytes = bytes.subspan(1 + length);
  return text;
}

}  // namespace

HeaderBytes encode(const Header& header) noexcept {
  HeaderBytes bytes;
  put(&bytes[0], kMagic, 4);
  put(&bytes[4], static_cast<std::uint64_t>(header.op), 4);
  put(&bytes[8], header.key, 8);
  put(&bytes[16], header.id, 8);
  put(&bytes[24], header.session, 8);
  put(&bytes[32], header.region, 8);
  put(&bytes[40], header.offset_bytes, 8);
  put(&bytes[48], header.size_bytes, 8);
  put(&bytes[56], header.part_bytes, 8);
  put(&bytes[64], header.part_size_bytes, 8);
  return bytes;
}

std::optional<Header> decode_header(std::span<const std::byte> bytes) noexcept {
  if (bytes.size() != kHeaderBytes || get(&bytes[0], 4) != kMagic) return std::nullopt;
  const auto op = get(&bytes[4], 4);
  if (op < static_cast<std::uint64_t>(Op::hello) || op > static_cast<std::uint64_t>(Op::bye))
    return std::nullopt;
  return Header{.op = static_cast<Op>(op),
                .key = get(&bytes[8], 8),
                .id = get(&bytes[16], 8),
                .session = get(&bytes[24], 8),
                .region = get(&bytes[32], 8),
                .offset_bytes = get(&bytes[40], 8),
                .size_bytes = get(&bytes[48], 8),
                .part_bytes = get(&bytes[56], 8),
                .part_size_bytes = get(&bytes[64], 8)};
}

std::vector<std::byte> encode(const Hello& hello) {
  std::vector<std::byte> bytes(9);
  put(&bytes[0], static_cast<std::uint64_t>(hello.role), 1);
  put(&bytes[1], hello.session, 8);
  append_short(bytes, hello.name);
  append_short(bytes, hello.credential);
  return bytes;
}

std::optional<Hello> decode_hello(std::span<const std::byte> bytes) {
  if (bytes.size() < 9) return std::nullopt;
  const auto role = get(&bytes[0], 1);
  if (role > static_cast<std::uint64_t>(Hello::Role::worker)) return std::nullopt;
  Hello hello{static_cast<Hello::Role>(role), {}, get(&bytes[1], 8), {}};
  bytes = bytes.subspan(9);
  const auto name = take_short(bytes);
  const auto credential = name ? take_short(bytes) : std::nullopt;
  if (!credential || !bytes.empty()) return std::nullopt;
  hello.name = printable(*name);
  hello.credential = *credential;
  return hello;
}

std::vector<std::byte> encode(const Error& failure) {
  std::vector<std::byte> bytes;
  append_short(bytes, to_string(failure.code()));
  append(bytes, std::string_view(failure.what()).substr(0, kMaxTextBytes - 256));
  return bytes;
}

std::optional<Error> decode_failure(std::span<const std::byte> bytes) {
  if (bytes.size() > kMaxTextBytes) return std::nullopt;
  const auto code = take_short(bytes);
  if (!code) return std::nullopt;
  return Error(errc_from_string(*code), printable(to_text(bytes)));
}

std::string printable(std::string_view text) {
  std::string result(text);
  std::ranges::replace_if(
      result, [](char c) { return c < ' ' || c > '~'; }, '?');
  return result;
}

}  // namespace causeway::ucx
