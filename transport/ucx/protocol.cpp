#include "transport/ucx/protocol.h"

#include <algorithm>
#include <cstring>

namespace causeway::ucx {

namespace {

constexpr std::uint64_t kFrameMagic = 0x43575946;                      // "CWYF"
constexpr std::uint64_t kMagic = 0x43575900 + '0' + kProtocolVersion;  // "CWY5"

constexpr std::uint64_t kEager = 1;
constexpr std::uint64_t kByStream = 2;

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

void append_hosts(std::vector<std::byte>& to, const std::vector<HostBytes>& hosts) {
  const auto count = std::min(hosts.size(), kMaxHosts);
  to.push_back(static_cast<std::byte>(count));
  for (std::size_t i = 0; i < count; ++i) to.insert(to.end(), hosts[i].begin(), hosts[i].end());
}

std::optional<std::vector<HostBytes>> take_hosts(std::span<const std::byte>& bytes) {
  if (bytes.empty()) return std::nullopt;
  const auto count = std::to_integer<std::size_t>(bytes[0]);
  bytes = bytes.subspan(1);
  if (count > kMaxHosts || bytes.size() < count * sizeof(HostBytes)) return std::nullopt;
  std::vector<HostBytes> hosts(count);
  for (auto& host : hosts) {
    std::ranges::copy(bytes.first(host.size()), host.begin());
    bytes = bytes.subspan(host.size());
  }
  return hosts;
}

std::vector<std::byte> make_frame(FrameKind kind, std::span<const std::byte> body) {
  std::vector<std::byte> bytes(kFrameHeadBytes + body.size());
  put(&bytes[0], kFrameMagic, 4);
  put(&bytes[4], kProtocolVersion, 1);
  put(&bytes[5], static_cast<std::uint64_t>(kind), 1);
  put(&bytes[6], body.size(), 2);
  std::ranges::copy(body, bytes.begin() + kFrameHeadBytes);
  return bytes;
}

}  // namespace

HeaderBytes encode(const Header& header) noexcept {
  HeaderBytes bytes;
  put(&bytes[0], kMagic, 4);
  put(&bytes[4], static_cast<std::uint64_t>(header.op), 2);
  put(&bytes[6], (header.eager ? kEager : 0) | (header.by_stream ? kByStream : 0), 2);
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
  const auto op = get(&bytes[4], 2);
  const auto marks = get(&bytes[6], 2);
  if (op < static_cast<std::uint64_t>(Op::hello) || op > static_cast<std::uint64_t>(Op::go))
    return std::nullopt;
  // Unasked bytes go with their header, so it is one or the other.
  const bool is_read = op == static_cast<std::uint64_t>(Op::read);
  const bool is_write = op == static_cast<std::uint64_t>(Op::write);
  if (marks != 0 && !(marks == kEager && is_read) && !(marks == kByStream && (is_read || is_write)))
    return std::nullopt;
  return Header{.op = static_cast<Op>(op),
                .key = get(&bytes[8], 8),
                .id = get(&bytes[16], 8),
                .session = get(&bytes[24], 8),
                .region = get(&bytes[32], 8),
                .offset_bytes = get(&bytes[40], 8),
                .size_bytes = get(&bytes[48], 8),
                .part_bytes = get(&bytes[56], 8),
                .part_size_bytes = get(&bytes[64], 8),
                .eager = marks == kEager,
                .by_stream = marks == kByStream};
}

StreamHeadBytes encode(const StreamHead& head) noexcept {
  StreamHeadBytes bytes;
  put(&bytes[0], static_cast<std::uint64_t>(head.kind), 8);
  put(&bytes[8], head.id, 8);
  put(&bytes[16], head.size_bytes, 8);
  return bytes;
}

std::optional<StreamHead> decode_stream_head(std::span<const std::byte> bytes) noexcept {
  if (bytes.size() != kStreamHeadBytes) return std::nullopt;
  const auto kind = get(&bytes[0], 8);
  if (kind < static_cast<std::uint64_t>(StreamHead::Kind::write) ||
      kind > static_cast<std::uint64_t>(StreamHead::Kind::read_data))
    return std::nullopt;
  return StreamHead{static_cast<StreamHead::Kind>(kind), get(&bytes[8], 8), get(&bytes[16], 8)};
}

std::optional<FrameHead> decode_frame_head(std::span<const std::byte> bytes) noexcept {
  if (bytes.size() != kFrameHeadBytes || get(&bytes[0], 4) != kFrameMagic) return std::nullopt;
  const auto kind = get(&bytes[5], 1);
  const auto size = get(&bytes[6], 2);
  if (kind < static_cast<std::uint64_t>(FrameKind::greeting) ||
      kind > static_cast<std::uint64_t>(FrameKind::join) || size > kMaxBodyBytes)
    return std::nullopt;
  return FrameHead{std::to_integer<std::uint8_t>(bytes[4]), static_cast<FrameKind>(kind), size};
}

std::vector<std::byte> frame(const Greeting& greeting) {
  std::vector<std::byte> body(17);
  put(&body[0], greeting.key, 8);
  put(&body[8], static_cast<std::uint64_t>(greeting.hello.role), 1);
  put(&body[9], greeting.hello.session, 8);
  append_short(body, greeting.hello.name);
  append_short(body, greeting.hello.credential);
  return make_frame(FrameKind::greeting, body);
}

std::optional<Greeting> decode_greeting(std::span<const std::byte> body) {
  if (body.size() < 17) return std::nullopt;
  const auto role = get(&body[8], 1);
  if (role > static_cast<std::uint64_t>(Hello::Role::worker)) return std::nullopt;
  Greeting greeting{get(&body[0], 8), {static_cast<Hello::Role>(role), {}, get(&body[9], 8), {}}};
  body = body.subspan(17);
  const auto name = take_short(body);
  const auto credential = name ? take_short(body) : std::nullopt;
  if (!credential || !body.empty()) return std::nullopt;
  greeting.hello.name = printable(*name);
  greeting.hello.credential = *credential;
  return greeting;
}

std::vector<std::byte> frame(const Welcome& welcome) {
  std::vector<std::byte> body(18);
  put(&body[0], welcome.key, 8);
  put(&body[8], welcome.transport, 8);
  put(&body[16], welcome.port, 2);
  append_short(body, welcome.name);
  append_hosts(body, welcome.hosts);
  return make_frame(FrameKind::welcome, body);
}

std::optional<Welcome> decode_welcome(std::span<const std::byte> body) {
  if (body.size() < 18) return std::nullopt;
  Welcome welcome{
      get(&body[0], 8), get(&body[8], 8), static_cast<std::uint16_t>(get(&body[16], 2)), {}, {}};
  body = body.subspan(18);
  const auto name = take_short(body);
  auto hosts = name ? take_hosts(body) : std::nullopt;
  if (!hosts || !body.empty()) return std::nullopt;
  welcome.name = printable(*name);
  welcome.hosts = std::move(*hosts);
  return welcome;
}

std::vector<std::byte> frame(const Join& join) {
  std::vector<std::byte> body(8);
  put(&body[0], join.key, 8);
  return make_frame(FrameKind::join, body);
}

std::optional<Join> decode_join(std::span<const std::byte> body) {
  if (body.size() != 8) return std::nullopt;
  return Join{get(&body[0], 8)};
}

std::vector<std::byte> frame(const Error& refusal) {
  return make_frame(FrameKind::refusal, encode(refusal));
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
