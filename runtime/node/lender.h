// Who may use which bytes of this node: sessions, the extents lent to them, and the check that
// every request from outside passes before a byte is touched.
//
// Shape:   a session holds regions; a region, as this node knows it, is a set of extents at offsets
//          that do not overlap. An extent's memory lives until its last user lets go: a transfer in
//          flight outlives the session, and the bytes count as used until then.
//          Memory of a GPU is at addresses of that GPU: its copies go by Part::gpu within the node,
//          and by its DeviceStaging to and from others.
// Units:   bytes; offsets are within the region.
// Errors:  unauthenticated (no such session, wrong key), permission_denied (another's region),
//          not_found, out_of_bounds, already_exists (overlap), out_of_memory (needed, available).
// Cost:    lend O(pieces) plus one memfd each; pin two hash look-ups and a tree search.
// Threads: the daemon's one thread, which runs `loop`.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "allocator/device_memory.h"
#include "runtime/node/node_devices.h"
#include "transport/channel.h"
#include "transport/device/staging.h"

namespace causeway {

struct LentExtent;

// What a peer's request holds while bytes come or go.
struct RemoteUse {
  Hello peer;
  std::shared_ptr<const LentExtent> extent;
};

struct LentExtent {
  DeviceName device;
  std::uint64_t offset_bytes;  // Within the region.
  Loan loan;
  std::shared_ptr<CudaContext> gpu;  // Whose addresses they are; null: the processor's.
  DeviceStaging* staging = nullptr;  // Of memory of a GPU; null: the processor may touch it.
  mutable std::vector<std::weak_ptr<const RemoteUse>> remote_uses{};  // Some have ended.
};

class Lender : public DataService {
 public:
  using Clock = std::chrono::steady_clock;

  using Extents = std::map<std::uint64_t, std::shared_ptr<LentExtent>>;  // By offset.
  using Regions = std::map<RegionId, Extents>;
  struct Session {
    std::string key;
    std::string client;                        // "train_gpt[812]@desktop"
    std::optional<std::uint64_t> connection;   // Dies with it, if attached.
    std::optional<Clock::time_point> expires;  // Otherwise dies then.
    Regions regions;
  };

  struct Piece {
    std::uint64_t offset_bytes;
    std::uint64_t size_bytes;
  };

  // Errors: what DeviceStaging throws, for a GPU with memory of its own.
  Lender(boost::asio::io_context& loop, std::string node, std::vector<NodeDevice> devices,
         std::string pool_token);

  // Errors: already_exists if the id is taken with another key, exhausted past the limit of
  // sessions.
  void open_session(SessionId id, std::string key, std::string client,
                    std::optional<std::uint64_t> connection, std::optional<Clock::duration> ttl);
  void renew_session(SessionId id, std::string_view key, Clock::duration ttl);
  Session& session(SessionId id, std::string_view key);
  void close_session(SessionId id) noexcept;
  // The ids that ended: attached to `connection`; expired by `now`.
  std::vector<SessionId> close_attached(std::uint64_t connection);
  std::vector<SessionId> close_expired(Clock::time_point now);

  // Lends every piece on `device` ("gpu0"), all or nothing; a piece may come as several extents.
  // `for_gpus`: memory that GPUs of this node can map, too, in granules of theirs.
  std::vector<std::shared_ptr<LentExtent>> lend(SessionId id, std::string_view key, RegionId region,
                                                std::string_view device,
                                                const std::vector<Piece>& pieces,
                                                bool for_gpus = false);
  // Takes back the extents of `region` that lie in [offset, offset + size).
  void take_back(SessionId id, std::string_view key, RegionId region, Piece range);
  // Makes the extents of `from` part of `to`. Errors: already_exists on overlap; nothing changed.
  void rename(SessionId id, std::string_view key, RegionId from, RegionId to);

  // Whether a transfer, of this node or of a peer, has memory of the region in hand; and the peers.
  [[nodiscard]] bool is_in_use(SessionId id, std::string_view key, RegionId region);
  [[nodiscard]] std::vector<Hello> users(SessionId id, std::string_view key, RegionId region);

  void admit(const Hello& hello) override;
  PinnedMemory pin(const Hello& hello, const RemoteAddress& address, std::uint64_t size_bytes,
                   Access access) override;
  void moves(const Hello& hello, std::uint64_t bytes, Access access) override;
  // The same as pin() for this daemon's own transfers, on behalf of the session.
  PinnedMemory pin_local(const RemoteAddress& address, std::uint64_t size_bytes) const;

  // Bytes inside one extent, whatever memory that is.
  struct Part {
    std::span<std::byte> bytes;
    std::shared_ptr<CudaContext> gpu;  // As of the extent.
    std::shared_ptr<const LentExtent> pin;
    [[nodiscard]] bool is_for_processor() const noexcept { return pin->staging == nullptr; }
  };
  // Errors: permission_denied, out_of_bounds.
  [[nodiscard]] Part find(const RemoteAddress& address, std::uint64_t size_bytes) const;

  [[nodiscard]] const std::unordered_map<SessionId, Session>& sessions() const noexcept {
    return sessions_;
  }
  struct Device {
    NodeDevice body;
    std::unique_ptr<DeviceMemory> memory;
    std::unique_ptr<DeviceMemory> for_gpus;  // Of the same bytes; may be null.
    std::unique_ptr<DeviceStaging> staging;  // Of a GPU with memory of its own.
    [[nodiscard]] std::uint64_t capacity_bytes() const { return memory->capacity_bytes(); }
    [[nodiscard]] std::uint64_t used_bytes() const {
      return memory->used_bytes() + (for_gpus ? for_gpus->used_bytes() : 0);
    }
  };
  [[nodiscard]] const std::vector<Device>& devices() const noexcept { return devices_; }

  // Bytes that peers moved to or from this node, and this node within itself, by (from, to).
  using Routes = std::map<std::pair<std::string, std::string>, std::uint64_t>;
  [[nodiscard]] const Routes& routes() const noexcept { return routes_; }
  void count_route(const std::string& from, const std::string& to, std::uint64_t bytes);

 private:
  Device& device(std::string_view local_name);
  DeviceMemory& memory_for(Device& device, bool for_gpus) const;
  static void check_shared(const Device& device, bool for_gpus, std::uint64_t size_bytes);
  // Errors: not_found if the session `id` holds nothing of the region here.
  Regions::iterator held_region(SessionId id, Regions& regions, RegionId region) const;

  std::string node_;
  std::string pool_token_;
  std::vector<Device> devices_;
  std::unordered_map<SessionId, Session> sessions_;
  Routes routes_;
};

// "desktop" of "train_gpt[812]@desktop"; a name without '@' is a node's.
[[nodiscard]] std::string node_of_peer(std::string_view name);

// Equal length and content, in a time that does not tell where they differ.
[[nodiscard]] bool same_secret(std::string_view a, std::string_view b) noexcept;

}  // namespace causeway
