// How bytes move between this process and one peer, whatever carries them.
//
// Shape:   a Transport listens at one address and connects to others; each connection is a Channel,
//          usable from both ends. A channel offers one-sided write and read against regions of the
//          peer, checked by the peer's DataService, and two-sided send and receive matched by tag.
// Units:   bytes; deadlines are points of the steady clock.
// Errors:  every operation completes exactly once: with nullopt, or with the Error that ended it
//          (permission_denied, out_of_bounds, not_found from the peer's check; peer_lost within 2 s
//          of the peer's death; timed_out at the deadline; cancelled or closed by this side).
//          Buffers must live until the completion; afterwards nothing touches them.
// Cost:    see each body. No operation blocks.
// Threads: a transport and its channels live on the thread that runs its io_context: call them and
//          be called back there. blocking.h carries calls over from other threads.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "allocator/error.h"

namespace boost::asio {
class io_context;
}

namespace causeway {

class DeviceStaging;  // device/staging.h

using SessionId = std::uint64_t;
using RegionId = std::uint64_t;
using Deadline = std::chrono::steady_clock::time_point;

enum class Access : std::uint8_t { read, write };

// What a connecting side says of itself; checked before any other message is taken.
struct Hello {
  enum class Role : std::uint8_t {
    client,  // Acts for one session; `credential` is that session's key.
    node,    // A daemon of the pool, acting for any session; `credential` is the pool's token.
    worker,  // A process of a training job; `credential` is the group's key.
  };
  Role role = Role::client;
  std::string name;  // For messages: "hgx", "train_gpt[812]". At most 255 bytes.
  SessionId session = 0;
  std::string credential;  // At most 255 bytes.
  bool operator==(const Hello&) const = default;
};

// A place in the memory of a peer. The size is the caller's buffer's.
struct RemoteAddress {
  SessionId session;
  RegionId region;
  std::uint64_t offset_bytes;  // Within the region.
};

// Memory that stays valid and mapped while `pin` lives.
struct PinnedMemory {
  std::span<std::byte> bytes;
  std::shared_ptr<const void> pin;
  // Null: the processor may touch the bytes. Else they are a device's, at its addresses, and only
  // this reaches them. Lives as long as `pin`, on the loop of whoever asked for the memory.
  DeviceStaging* device = nullptr;
};

// The receiving side's judge. Every call is for a request from outside.
class DataService {
 public:
  virtual ~DataService() = default;

  // Errors: throws (unauthenticated, ...) to refuse the connection.
  virtual void admit(const Hello& hello) = 0;

  // The memory behind [offset, offset + size) of the region, contiguous at this process, of the
  // host or of a device.
  // Errors: throws unless `hello`'s peer may do this: permission_denied, not_found, out_of_bounds.
  virtual PinnedMemory pin(const Hello& hello, const RemoteAddress& address,
                           std::uint64_t size_bytes, Access access) = 0;

  // For accounts: `bytes` of a request that was pinned move now. A large request moves in parts.
  virtual void moves(const Hello& hello, std::uint64_t bytes, Access access) {
    static_cast<void>(hello), static_cast<void>(bytes), static_cast<void>(access);
  }
};

// Called once, on the transport's thread. `bytes` is what arrived, for receive(); the sum, for
// checksum(); the size asked for, otherwise.
using Completion = std::function<void(std::optional<Error> error, std::uint64_t bytes)>;

// Of a channel, the same at both ends: the transport that accepted it, and a number that only the
// two ends know.
struct ChannelId {
  std::uint64_t transport = 0;
  std::uint64_t number = 0;
  bool operator==(const ChannelId&) const = default;
};

// How the bytes of writes and reads cross. These work everywhere; which are best depends on the two
// machines and what is between them, and transfer/probe.h finds it out.
struct LinkSettings {
  std::uint64_t part_bytes = 1 << 20;    // Requests are cut into parts.
  std::uint64_t eager_bytes = 16 << 10;  // A part up to this size comes unasked, with its header.
  bool by_stream = false;  // Larger ones by a connection of their own, once the body has one.
  bool operator==(const LinkSettings&) const = default;
};
constexpr std::uint64_t kMaxPartBytes = 1 << 20;
constexpr std::uint64_t kMaxEagerBytes = 240 << 10;

// Memory of every peer that serves any, for measurements: whoever was admitted may write there,
// which is dropped, and read there, which gives zeros.
constexpr RemoteAddress kProvingGround{~SessionId{0}, ~RegionId{0}, 0};
constexpr std::uint64_t kProvingGroundBytes = 1 << 20;

constexpr std::uint64_t kMaxChecksumBytes = 4 << 20;  // It is computed between two messages.

// Payload that crossed a channel, in both directions and by either side's request.
struct ChannelCounters {
  std::uint64_t sent_bytes = 0;
  std::uint64_t received_bytes = 0;
  std::uint64_t streamed_bytes = 0;  // Of both: those that LinkSettings::by_stream was for.
};

class Channel {
 public:
  virtual ~Channel() = default;  // Ends what is outstanding with Errc::cancelled.
  Channel() = default;
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  // What this side says of itself and what the peer said (for the connecting side: the name that
  // the accepting transport gave in return).
  [[nodiscard]] virtual const std::string& peer_name() const noexcept = 0;
  // The peer's Hello, on the accepting side; on the connecting side, role node and its name.
  [[nodiscard]] virtual const Hello& peer() const noexcept = 0;

  [[nodiscard]] virtual ChannelId id() const noexcept = 0;

  // Seconds of the shortest way to the peer and back, without what the two processes take; nothing
  // if the body cannot tell.
  [[nodiscard]] virtual std::optional<double> round_trip() const noexcept { return std::nullopt; }

  // For the requests of this side from now on. Sizes are cut to what the body can do.
  virtual void set_settings(const LinkSettings& settings) { static_cast<void>(settings); }
  [[nodiscard]] virtual LinkSettings settings() const noexcept { return {}; }

  // Copies `source` to the peer's region. Completes when the bytes are in the peer's memory.
  virtual void write(RemoteAddress to, std::span<const std::byte> source, Deadline deadline,
                     Completion done) = 0;

  // Copies from the peer's region into `target`.
  virtual void read(std::span<std::byte> target, RemoteAddress from, Deadline deadline,
                    Completion done) = 0;

  // The checksum (checksum.h) of what lies in the peer's region, which it must be allowed to read.
  // Errors: out_of_bounds above kMaxChecksumBytes.
  virtual void checksum(RemoteAddress of, std::uint64_t size_bytes, Deadline deadline,
                        Completion done) = 0;

  // Makes the peer end `other`, a channel that this side had opened, and completes when nothing of
  // it can land in the peer's memory any more: what was under way there has landed or is dropped.
  // Errors: not_found if `other` led to another transport than this channel; invalid_argument if it
  // is this channel.
  virtual void fence(ChannelId other, Deadline deadline, Completion done) = 0;

  // Sends one message. Completes when `message` may be reused; messages of one tag keep their
  // order.
  virtual void send(std::uint64_t tag, std::span<const std::byte> message, Deadline deadline,
                    Completion done) = 0;

  // Takes the next message with `tag`. Errors: out_of_bounds if the message is longer than
  // `target` (the message is dropped). What had arrived can still be taken after the channel's
  // end.
  virtual void receive(std::uint64_t tag, std::span<std::byte> target, Deadline deadline,
                       Completion done) = 0;

  // Fails everything outstanding, here with `reason` and at the peer with peer_lost or closed.
  // Further operations complete with Errc::closed. Idempotent.
  virtual void close(Error reason) = 0;
  [[nodiscard]] virtual bool is_open() const noexcept = 0;

  [[nodiscard]] virtual ChannelCounters counters() const noexcept = 0;

  // Called once when the channel ends for whatever reason, also if the peer died while idle.
  // Set after the end, it is called all the same; a handler replaces the one before.
  virtual void on_close(std::function<void(const Error&)> handler) = 0;
};

class Transport {
 public:
  using Accepted = std::function<void(std::shared_ptr<Channel>)>;
  using Connected = std::function<void(std::optional<Error>, std::shared_ptr<Channel>)>;

  virtual ~Transport() = default;

  // Where others connect to: "127.0.0.1:40211", or several such with commas between. Empty if this
  // one does not listen.
  [[nodiscard]] virtual const std::string& address() const noexcept = 0;

  // Connects and says hello. Errors: unauthenticated if the peer refuses, timed_out, peer_lost.
  virtual void connect(const std::string& address, Hello hello, Deadline deadline,
                       Connected done) = 0;
};

}  // namespace causeway
