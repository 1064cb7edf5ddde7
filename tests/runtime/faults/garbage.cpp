#include "garbage.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <cstdio>
#include <deque>
#include <random>

#include "runtime/control/client.h"
#include "runtime/control/json.h"
#include "tests/transport/ucx_raw_peer.h"

namespace causeway::test {

namespace {

using Clock = std::chrono::steady_clock;
using Bytes = std::vector<std::byte>;
using ucx::Header;
using ucx::Op;
using Json = boost::json::object;

constexpr std::uint64_t kOwnRegion = 7;
constexpr std::uint64_t kOwnBytes = 1 << 20;

Bytes noise(std::size_t size, std::mt19937_64& random) {
  Bytes bytes(size);
  for (auto& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

void spoil(Bytes& bytes, std::mt19937_64& random) {
  for (auto i = random() % 4; i > 0 && !bytes.empty(); --i)
    bytes[random() % bytes.size()] = static_cast<std::byte>(random());
  if (random() % 3 == 0) bytes.resize(random() % (bytes.size() + 1));
}

Bytes text_bytes(const std::string& text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

Bytes greeting_noise(std::mt19937_64& random) {
  if (random() % 4 == 0) return noise(random() % 3000, random);
  const auto role = random() % 2 == 0 ? Hello::Role::client : Hello::Role::node;
  auto bytes = ucx::frame(ucx::Greeting{random(), {role, "stranger", random(), "no such token"}});
  if (random() % 2 == 0) spoil(bytes, random);
  return bytes;
}

Bytes http_noise(std::mt19937_64& random) {
  switch (random() % 6) {
    case 0:
      return noise(random() % 20'000, random);
    case 1:
      return text_bytes("GET /v1/pool HTTP/1.1\r\nX: " + std::string(random() % 20'000, 'x'));
    case 2:
      return text_bytes("POST /v1/sessions HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n{");
    case 3:
      return text_bytes("POST /v1/shutdown HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
    case 4:
      return text_bytes(
          "POST /v1/sessions HTTP/1.1\r\nAuthorization: Bearer wrong\r\n"
          "Content-Length: 2\r\n\r\n{}");
    default: {
      auto bytes = text_bytes("GET /v1/pool HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
      spoil(bytes, random);
      return bytes;
    }
  }
}

// Callers come, say something, and leave, hang up rudely, or stay.
template <typename Say>
void knock(const std::string& address, std::mt19937_64& random, Clock::time_point end, Say say) {
  std::deque<RawCaller> staying;
  while (Clock::now() < end) {
    RawCaller caller(address);
    if (!caller.is_connected()) continue;
    caller.send(say(random));
    switch (random() % 4) {
      case 0:
        caller.reset();
        break;
      case 1:
        caller.say_no_more();
        [[fallthrough]];
      case 2:
        staying.push_back(std::move(caller));
        break;
      default:
        break;
    }
    if (staying.size() > 40) staying.pop_front();
  }
}

// Sessions, and a region of the second.
struct Targets {
  std::uint64_t own;
  std::uint64_t other;
  std::uint64_t other_region;
};

Header random_header(std::mt19937_64& random, const Targets& targets, std::size_t data_bytes,
                     std::uint64_t key, std::uint64_t id) {
  constexpr Op kUsual[] = {Op::write, Op::write, Op::write,   Op::read,     Op::read,  Op::sum,
                           Op::fence, Op::fence, Op::message, Op::withdraw, Op::recall};
  const auto pick = [&](std::initializer_list<std::uint64_t> values) {
    return *(values.begin() + static_cast<std::ptrdiff_t>(random() % values.size()));
  };
  return {.op = random() % 20 == 0 ? static_cast<Op>(random() % 18)
                                   : kUsual[random() % std::size(kUsual)],
          .key = random() % 100 == 0 ? random() : key,
          .id = id,
          .session = pick({targets.own, targets.own, targets.other, random()}),
          .region = pick({kOwnRegion, targets.other_region, random()}),
          .offset_bytes = pick({0, 1, kOwnBytes / 2, kOwnBytes, random()}),
          .size_bytes = pick({data_bytes, data_bytes, 8, kOwnBytes, random()}),
          .part_bytes = pick({0, 0, 0, 1, random()}),
          .part_size_bytes = random() % 40 == 0 ? random() : data_bytes};
}

// What a peer says that was let in, until it is thrown out or tired.
void break_rules(RawPeer& peer, std::mt19937_64& random, const Targets& targets,
                 Clock::time_point end) {
  constexpr unsigned kRendezvous = UCP_AM_SEND_FLAG_REPLY | UCP_AM_SEND_FLAG_RNDV;
  constexpr std::size_t kSizes[] = {0, 0, 1, 100, 16384, 16385, 300'000};
  peer.holds_data = random() % 4 == 0;
  // The one that nothing is wrong with, but whose memory it is.
  const Bytes spoiled(4096, std::byte{0xee});
  peer.send(Header{.op = Op::write,
                   .key = peer.key,
                   .session = targets.other,
                   .region = targets.other_region,
                   .size_bytes = spoiled.size(),
                   .part_size_bytes = spoiled.size()},
            spoiled);
  for (std::uint64_t id = 0; id < 300 && !peer.is_gone && Clock::now() < end; ++id) {
    const Bytes data(kSizes[random() % std::size(kSizes)]);
    const auto encoded = ucx::encode(random_header(random, targets, data.size(), peer.key, id));
    Bytes head(encoded.begin(), encoded.end());
    if (random() % 30 == 0) spoil(head, random);
    const bool has_data = random() % 2 == 0;
    peer.send(std::move(head), has_data ? data : Bytes{},
              random() % 3 == 0 ? kRendezvous : unsigned{UCP_AM_SEND_FLAG_REPLY});
  }
}

int admitted(const GarbageOptions& options, std::mt19937_64& random, Clock::time_point end) {
  constexpr auto kTime = std::chrono::seconds(10);
  ControlClient holder(options.control, options.token, "the daemon");
  const auto opened = parse_object(
      holder.call("POST", "/v1/sessions", R"({"client": "mallory"})", kTime).body, "answer");
  const auto session = get_hex(opened, "session", "answer");
  const auto key = get_string(opened, "key", "answer");
  const Json lend{{"session", to_hex(session)},
                  {"key", key},
                  {"region", to_hex(kOwnRegion)},
                  {"device", "gpu0"},
                  {"map", false},
                  {"pieces", {{{"offset_bytes", 0}, {"size_bytes", kOwnBytes}}}}};
  static_cast<void>(holder.call("POST", "/v1/extents", boost::json::serialize(lend), kTime));
  const Targets targets{session, from_hex(options.other_session, "a session"),
                        from_hex(options.other_region, "a region")};
  do {
    RawPeer peer(options.data, {Hello::Role::client, "mallory", session, key},
                 options.interface.c_str());
    if (random() % 8 != 0) peer.greet();
    break_rules(peer, random, targets, end);
    if (random() % 4 == 0) peer.lifeline.send(noise(1 + random() % 100, random));
    // Its requests at the control plane are not much better.
    auto body = boost::json::serialize(lend);
    for (auto i = 1 + random() % 3; i > 0; --i)
      body[random() % body.size()] = static_cast<char>(" 19{}[]:,\"fz"[random() % 12]);
    try {
      static_cast<void>(
          holder.call("POST", random() % 2 == 0 ? "/v1/transfers" : "/v1/extents", body, kTime));
    } catch (const Error&) {
      // As it should be.
    }
  } while (Clock::now() < end);
  return 0;
}

}  // namespace

std::vector<std::string> GarbageOptions::to_arguments() const {
  return {kind,
          std::to_string(seed),
          std::to_string(time.count()),
          control,
          data,
          token,
          interface,
          other_session,
          other_region};
}

GarbageOptions GarbageOptions::from_arguments(const std::vector<std::string>& arguments) {
  return {arguments.at(0),
          std::stoull(arguments.at(1)),
          std::chrono::milliseconds(std::stoll(arguments.at(2))),
          arguments.at(3),
          arguments.at(4),
          arguments.at(5),
          arguments.at(6),
          arguments.at(7),
          arguments.at(8)};
}

int run_garbage(const GarbageOptions& options) {
  std::mt19937_64 random(options.seed);
  const auto end = Clock::now() + options.time;
  try {
    if (options.kind == "admitted") return admitted(options, random, end);
    if (options.kind == "data") knock(options.data, random, end, greeting_noise);
    if (options.kind == "control") knock(options.control, random, end, http_noise);
    return 0;
  } catch (const Error& error) {
    fmt::print(stderr, "garbage {}: {}\n", options.kind, error.what());
    return 1;
  }
}

}  // namespace causeway::test
