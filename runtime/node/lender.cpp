#include "runtime/node/lender.h"

#include <fmt/format.h>
#include <openssl/crypto.h>

#include <algorithm>

namespace causeway {

namespace {

constexpr std::size_t kMaxSessions = 4096;
constexpr std::size_t kMaxExtentsPerSession = 16384;  // 1 TiB in extents of 64 MiB.
constexpr std::size_t kMaxRoutes = 1024;
const std::string kElsewhere = "elsewhere";

// No extent may reach into [piece]. `extents` is keyed by offset and its entries do not overlap.
void check_free(const Lender::Extents& extents, const Lender::Piece& piece, RegionId region) {
  const auto next = extents.lower_bound(piece.offset_bytes);
  const auto taken = [&](std::uint64_t offset) {
    return Error(Errc::already_exists,
                 fmt::format("region {:016x} already has an extent at offset {}", region, offset));
  };
  if (next != extents.end() && next->first - piece.offset_bytes < piece.size_bytes)
    throw taken(next->first);
  if (next == extents.begin()) return;
  const auto before = std::prev(next);
  if (before->first + before->second->loan.size_bytes() > piece.offset_bytes)
    throw taken(before->first);
}

}  // namespace

std::string node_of_peer(std::string_view name) {
  const auto at = name.rfind('@');
  return std::string(at == std::string_view::npos ? name : name.substr(at + 1));
}

bool same_secret(std::string_view a, std::string_view b) noexcept {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

Lender::Lender(boost::asio::io_context& loop, std::string node, std::vector<NodeDevice> devices,
               std::string pool_token)
    : node_(std::move(node)), pool_token_(std::move(pool_token)) {
  for (auto& device : devices) {
    auto memory = std::make_unique<DeviceMemory>(device.memory);
    auto for_gpus = device.for_gpus ? std::make_unique<DeviceMemory>(device.for_gpus) : nullptr;
    auto staging = device.gpu ? std::make_unique<DeviceStaging>(loop, device.gpu) : nullptr;
    devices_.push_back(
        {std::move(device), std::move(memory), std::move(for_gpus), std::move(staging)});
  }
}

void Lender::open_session(SessionId id, std::string key, std::string client,
                          std::optional<std::uint64_t> connection,
                          std::optional<Clock::duration> ttl) {
  if (sessions_.size() >= kMaxSessions)
    throw Error(Errc::exhausted, fmt::format("{} already serves {} sessions", node_, kMaxSessions));
  const auto [entry, added] = sessions_.try_emplace(id);
  if (!added)
    throw Error(Errc::already_exists,
                fmt::format("session {:016x} is already open on {}", id, node_));
  auto& session = entry->second;
  session.key = std::move(key);
  session.client = std::move(client);
  session.connection = connection;
  if (ttl) session.expires = Clock::now() + *ttl;
}

Lender::Session& Lender::session(SessionId id, std::string_view key) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end() || !same_secret(found->second.key, key))
    throw Error(
        Errc::unauthenticated,
        fmt::format("{} knows no session {:016x} with this key; it may have expired", node_, id));
  return found->second;
}

void Lender::renew_session(SessionId id, std::string_view key, Clock::duration ttl) {
  session(id, key).expires = Clock::now() + ttl;
}

void Lender::close_session(SessionId id) noexcept { sessions_.erase(id); }

std::vector<SessionId> Lender::close_attached(std::uint64_t connection) {
  std::vector<SessionId> ended;
  for (const auto& [id, session] : sessions_)
    if (session.connection == connection) ended.push_back(id);
  for (const auto id : ended) close_session(id);
  return ended;
}

std::vector<SessionId> Lender::close_expired(Clock::time_point now) {
  std::vector<SessionId> ended;
  for (const auto& [id, session] : sessions_)
    if (session.expires && *session.expires <= now) ended.push_back(id);
  for (const auto id : ended) close_session(id);
  return ended;
}

Lender::Device& Lender::device(std::string_view local_name) {
  std::string known;
  for (auto& device : devices_) {
    const auto local = device.body.name.local();
    if (local == local_name) return device;
    known += (known.empty() ? "" : ", ") + local;
  }
  throw Error(Errc::not_found,
              fmt::format("{} has no device '{}'; it has {}", node_, local_name, known));
}

DeviceMemory& Lender::memory_for(Device& device, bool for_gpus) const {
  if (!for_gpus || device.body.gpu) return *device.memory;
  if (device.for_gpus) return *device.for_gpus;
  throw Error(Errc::unsupported,
              fmt::format("{}: no GPU of {} can map this memory; `causeway status` says what its "
                          "driver can do",
                          device.body.name.to_string(), node_));
}

// Two kinds of memory share the bytes of a host device.
void Lender::check_shared(const Device& device, bool for_gpus, std::uint64_t size_bytes) {
  if (!device.for_gpus) return;
  const auto available = device.capacity_bytes() - device.used_bytes();
  const MemoryBackend& memory = for_gpus ? *device.body.for_gpus : *device.body.memory;
  if (size_bytes <= available && memory.round_up(size_bytes) <= available) return;
  throw Error(Errc::out_of_memory, fmt::format("{}: {} bytes needed, {} bytes available of {}",
                                               device.body.name.to_string(), size_bytes, available,
                                               device.capacity_bytes()));
}

std::vector<std::shared_ptr<LentExtent>> Lender::lend(SessionId id, std::string_view key,
                                                      RegionId region, std::string_view device_name,
                                                      const std::vector<Piece>& pieces,
                                                      bool for_gpus) {
  auto& owner = session(id, key);
  auto& from = device(device_name);
  auto& memory = memory_for(from, for_gpus);
  if (pieces.empty()) throw Error(Errc::invalid_argument, "no pieces were asked for");
  std::size_t held = 0;
  for (const auto& [_, extents] : owner.regions) held += extents.size();
  if (held + pieces.size() > kMaxExtentsPerSession)
    throw Error(Errc::exhausted, fmt::format("session {:016x} would hold more than {} extents", id,
                                             kMaxExtentsPerSession));
  Extents fresh;
  for (const auto& piece : pieces) {
    if (piece.size_bytes == 0 || piece.offset_bytes + piece.size_bytes < piece.offset_bytes)
      throw Error(Errc::invalid_argument,
                  fmt::format("piece at offset {} of {} bytes is not a range", piece.offset_bytes,
                              piece.size_bytes));
    if (const auto known = owner.regions.find(region); known != owner.regions.end())
      check_free(known->second, piece, region);
    check_free(fresh, piece, region);
    auto offset = piece.offset_bytes;
    check_shared(from, for_gpus, piece.size_bytes);
    const bool is_gpu = from.body.gpu != nullptr;
    const auto gpu = is_gpu     ? from.body.gpu
                     : for_gpus ? from.body.for_gpus->context()
                                : std::shared_ptr<CudaContext>();
    for (auto& loan : memory.lend_pieces(piece.size_bytes)) {
      const auto size = loan.size_bytes();
      fresh.emplace(offset, std::make_shared<LentExtent>(LentExtent{
                                from.body.name, offset, std::move(loan), gpu, from.staging.get()}));
      offset += size;
    }
  }
  std::vector<std::shared_ptr<LentExtent>> result;
  for (const auto& [_, extent] : fresh) result.push_back(extent);
  owner.regions[region].merge(fresh);
  return result;
}

Lender::Regions::iterator Lender::held_region(SessionId id, Regions& regions,
                                              RegionId region) const {
  const auto found = regions.find(region);
  if (found != regions.end()) return found;
  throw Error(Errc::not_found, fmt::format("session {:016x} holds nothing of region {:016x} on {}",
                                           id, region, node_));
}

void Lender::take_back(SessionId id, std::string_view key, RegionId region, Piece range) {
  auto& owner = session(id, key);
  const auto found = held_region(id, owner.regions, region);
  auto& extents = found->second;
  auto extent = extents.lower_bound(range.offset_bytes);
  while (extent != extents.end() && extent->first - range.offset_bytes < range.size_bytes)
    extent = extents.erase(extent);
  if (extents.empty()) owner.regions.erase(found);
}

void Lender::rename(SessionId id, std::string_view key, RegionId from, RegionId to) {
  auto& owner = session(id, key);
  const auto found = held_region(id, owner.regions, from);
  if (from == to) return;
  auto& target = owner.regions[to];
  for (const auto& [offset, extent] : found->second)
    check_free(target, {offset, extent->loan.size_bytes()}, to);
  target.merge(found->second);
  owner.regions.erase(from);
}

bool Lender::is_in_use(SessionId id, std::string_view key, RegionId region) {
  const auto& extents = held_region(id, session(id, key).regions, region)->second;
  return std::ranges::any_of(extents, [](const auto& each) { return each.second.use_count() > 1; });
}

std::vector<Hello> Lender::users(SessionId id, std::string_view key, RegionId region) {
  std::vector<Hello> peers;
  for (const auto& [_, extent] : held_region(id, session(id, key).regions, region)->second)
    for (const auto& each : extent->remote_uses)
      if (const auto use = each.lock()) peers.push_back(use->peer);
  return peers;
}

void Lender::admit(const Hello& hello) {
  switch (hello.role) {
    case Hello::Role::client:
      static_cast<void>(session(hello.session, hello.credential));
      return;
    case Hello::Role::node:
      if (same_secret(hello.credential, pool_token_)) return;
      throw Error(Errc::unauthenticated,
                  fmt::format("{} refuses node '{}': it does not have the pool's token", node_,
                              hello.name));
    case Hello::Role::worker:
      break;
  }
  throw Error(Errc::permission_denied, fmt::format("{} is a daemon and takes no workers", node_));
}

PinnedMemory Lender::pin(const Hello& hello, const RemoteAddress& address, std::uint64_t size_bytes,
                         Access) {
  if (hello.role == Hello::Role::client && hello.session != address.session)
    throw Error(Errc::permission_denied,
                fmt::format("{} may not use region {:016x}: it belongs to another session",
                            hello.name, address.region));
  auto part = find(address, size_bytes);
  auto& uses = part.pin->remote_uses;
  if (uses.size() == uses.capacity())
    std::erase_if(uses, [](const auto& use) { return use.expired(); });
  auto* const staging = part.pin->staging;
  auto use = std::make_shared<const RemoteUse>(RemoteUse{hello, std::move(part.pin)});
  use->extent->remote_uses.push_back(use);
  return {part.bytes, std::move(use), staging};
}

void Lender::moves(const Hello& hello, std::uint64_t bytes, Access access) {
  const auto peer = node_of_peer(hello.name);
  if (access == Access::write)
    count_route(peer, node_, bytes);
  else
    count_route(node_, peer, bytes);
}

PinnedMemory Lender::pin_local(const RemoteAddress& address, std::uint64_t size_bytes) const {
  auto part = find(address, size_bytes);
  auto* const staging = part.pin->staging;
  return {part.bytes, std::move(part.pin), staging};
}

Lender::Part Lender::find(const RemoteAddress& address, std::uint64_t size_bytes) const {
  const auto owner = sessions_.find(address.session);
  // The same answer for "not yours" and "not there": a session learns nothing of others.
  const auto region = owner == sessions_.end() ? decltype(owner->second.regions.find(0)){}
                                               : owner->second.regions.find(address.region);
  if (owner == sessions_.end() || region == owner->second.regions.end())
    throw Error(Errc::permission_denied,
                fmt::format("session {:016x} holds nothing of region {:016x} on {}",
                            address.session, address.region, node_));
  const auto next = region->second.upper_bound(address.offset_bytes);
  if (next != region->second.begin()) {
    const auto& extent = std::prev(next)->second;
    const auto bytes = extent->loan.bytes();
    const auto into = address.offset_bytes - extent->offset_bytes;
    if (into < bytes.size() && size_bytes <= bytes.size() - into)
      return {bytes.subspan(into, size_bytes), extent->gpu, extent};
  }
  throw Error(Errc::out_of_bounds,
              fmt::format("[{}, +{}) of region {:016x} is not inside one extent on {}",
                          address.offset_bytes, size_bytes, address.region, node_));
}

void Lender::count_route(const std::string& from, const std::string& to, std::uint64_t bytes) {
  // Peers name themselves: a name that no node can have, or one too many, counts as elsewhere.
  const auto known = [](const std::string& name) { return is_node_name(name) ? name : kElsewhere; };
  const std::pair route{known(from), known(to)};
  if (const auto found = routes_.find(route); found != routes_.end())
    found->second += bytes;
  else
    routes_[routes_.size() < kMaxRoutes ? route : std::pair{kElsewhere, kElsewhere}] += bytes;
}

}  // namespace causeway
