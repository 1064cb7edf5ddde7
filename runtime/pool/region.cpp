#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "runtime/control/json.h"
#include "runtime/pool/region_state.h"

namespace causeway {

namespace {
using Json = boost::json::object;

// Extents of a size at which moving one is quick and a region still has few of them.
constexpr std::uint64_t kMaxExtentBytes = 64 * 1024 * 1024;
constexpr std::size_t kMaxPiecesPerRequest = 128;
}  // namespace

RegionId random_region_id() {
  // Uniqueness is all that matters: a region can only be named by its own session.
  thread_local std::mt19937_64 random{std::random_device{}()};
  for (;;)
    if (const auto id = random()) return id;
}

Region::Region() noexcept = default;
Region::Region(Region&&) noexcept = default;
Region& Region::operator=(Region&&) noexcept = default;
Region::~Region() = default;
Region::Region(std::shared_ptr<State> state) noexcept : state_(std::move(state)) {}

std::uint64_t Region::id() const noexcept { return state_ ? state_->id : 0; }
std::uint64_t Region::size_bytes() const noexcept { return state_ ? state_->size_bytes : 0; }

std::vector<Region::Extent> Region::extents() const {
  std::vector<Extent> result;
  if (state_)
    for (const auto& [_, extent] : state_->extents) result.push_back(extent);
  return result;
}

bool Region::is_mapped() const noexcept {
  return state_ && std::ranges::all_of(state_->extents,
                                       [](const auto& entry) { return entry.second.mapped; });
}

MemoryKind Region::memory_kind() const noexcept {
  return state_ && state_->mapper ? MemoryKind::cuda : MemoryKind::host;
}

int Region::cuda_ordinal() const noexcept {
  return state_ && state_->mapper ? state_->mapper->context()->ordinal() : -1;
}

std::byte* Region::data() const {
  if (!state_) return nullptr;
  for (const auto& [_, extent] : state_->extents)
    if (!extent.mapped)
      throw Error(Errc::unsupported,
                  fmt::format("region '{}' has bytes on {}, which this process (on {}) cannot map "
                              "{}; use read and write, or allocate it near a device of this node",
                              state_->name, extent.device.to_string(), state_->pool->node,
                              state_->whose_addresses()));
  const CallTime time(state_->pool->options.timeout);
  state_->settle(0, state_->size_bytes, Access::write);
  return state_->range.data();
}

std::string Region::State::whose_addresses() const {
  return gpu ? fmt::format("at addresses of {}", gpu->name.to_string())
             : std::string("at addresses of the processor");
}

void Region::State::reserve(std::uint64_t size, const std::optional<DeviceStatus>& device) {
  if (device) {
    gpu = device;
    mapper = pool->gpus.backend(*device);
    stream.emplace(mapper->context());
    range = StitchedRange(mapper, size);
  } else {
    range = StitchedRange(pool->backend, size);
  }
}

bool Region::State::can_map(const DeviceName& device) const {
  if (!pool->is_local(device.node)) return false;
  if (gpu) return device == gpu->name || std::ranges::count(gpu->reaches, device) > 0;
  return pool->device(device).kind != "cuda";
}

void Region::State::copy_by_gpu(std::byte* to, const std::byte* from, std::uint64_t size) const {
  stream->copy(to, from, size);
  stream->synchronize();
}

Region::State::Settled::~Settled() {
  try {
    if (state_.stream) state_.stream->synchronize();
  } catch (const Error&) {  // Said already, by the call that ends so.
  }
}

void Region::State::check_range(std::uint64_t offset_bytes, std::uint64_t size) const {
  if (offset_bytes <= size_bytes && size <= size_bytes - offset_bytes) return;
  throw Error(Errc::out_of_bounds, fmt::format("[{}, +{}) is outside of region '{}' of {} bytes",
                                               offset_bytes, size, name, size_bytes));
}

template <typename Byte>
void Region::State::access(std::uint64_t offset_bytes, std::span<Byte> bytes) const {
  static constexpr bool kReads = !std::is_const_v<Byte>;
  constexpr auto kAccess = kReads ? Access::read : Access::write;
  check_range(offset_bytes, bytes.size());
  const CallTime time(pool->time_for(bytes.size()));
  settle(offset_bytes, bytes.size(), kAccess);
  std::map<std::string, std::vector<Pool::State::Part>> remote;
  const auto visit = [&](const Extent& extent, std::uint64_t at, std::uint64_t size) {
    const auto part = bytes.subspan(at - offset_bytes, size);
    if (extent.mapped && mapper) {
      if constexpr (kReads)
        stream->copy_out(part.data(), range.data() + at, size);
      else
        stream->copy_in(range.data() + at, part.data(), size);
      return;
    }
    if (extent.mapped) {
      if constexpr (kReads)
        std::memcpy(part.data(), range.data() + at, size);
      else
        std::memcpy(range.data() + at, part.data(), size);
      return;
    }
    // A write only reads them.
    remote[extent.device.node].push_back({at, {const_cast<std::byte*>(part.data()), part.size()}});
  };
  {
    const Settled settled(*this);
    for_each_part(offset_bytes, bytes.size(), visit);
    if (stream) stream->synchronize();
  }
  for (const auto& [node, parts] : remote) {
    try {
      pool->move_parts(*pool->link(node), kAccess, name_on(node), parts);
    } catch (...) {
      if constexpr (!kReads) unsettle(node);
      throw;
    }
  }
}

void Region::read(std::uint64_t offset_bytes, std::span<std::byte> target) const {
  if (!state_) throw Error(Errc::closed, "the region holds nothing");
  state_->access(offset_bytes, target);
}

void Region::write(std::uint64_t offset_bytes, std::span<const std::byte> source) {
  if (!state_) throw Error(Errc::closed, "the region holds nothing");
  state_->access(offset_bytes, source);
}

Region::State::~State() {
  const CallTime time(pool->options.timeout);
  std::map<std::string, bool> nodes;
  for (const auto& [_, extent] : extents) nodes[extent.device.node] = true;
  const auto whole = extents.empty() ? 0
                                     : std::prev(extents.end())->first +
                                           std::prev(extents.end())->second.size_bytes;
  pool->gpu_addresses.remove(range.data(), range.size_bytes());
  range = StitchedRange();  // Unmap first: the daemon's accounts should not run ahead of the truth.
  for (const auto& [node, _] : nodes) {
    give_back(name_on(node), node, 0, whole);
    if (const auto found = unsettled.find(node); found != unsettled.end() && found->second.is_asked)
      give_back(found->second.next_name, node, 0, whole);
  }
  if (!is_published) return;
  try {
    auto body = pool->credentials();
    body["region"] = to_hex(id);
    pool->call(*pool->link(pool->directory), "DELETE", "/v1/regions", std::move(body));
  } catch (const std::exception&) {
    // The pool is closed or the directory gone, and the record with it.
  }
}

void Region::State::give_back(RegionId which, const std::string& node, std::uint64_t offset_bytes,
                              std::uint64_t size) const noexcept {
  try {
    auto body = pool->credentials();
    body["region"] = to_hex(which);
    body["offset_bytes"] = offset_bytes;
    body["size_bytes"] = size;
    pool->call(*pool->link(node), "DELETE", "/v1/extents", std::move(body));
  } catch (const std::exception&) {
    // Nothing was lent there, the pool is closed or the daemon gone.
  }
}

std::vector<Region::State::Lent> Region::State::lend(RegionId as, const DeviceName& device,
                                                     std::uint64_t offset_bytes,
                                                     std::uint64_t size) {
  std::vector<Lent> result;
  const auto granule = pool->device(device).granule_bytes;
  if (offset_bytes % granule != 0 || size % granule != 0)
    throw Error(Errc::invalid_argument,
                fmt::format("region '{}': {} bytes at offset {} cannot lie on {}, which lends "
                            "multiples of {} bytes; allocate another region there and copy",
                            name, size, offset_bytes, device.to_string(), granule));
  const auto end = offset_bytes + size;
  try {
    for (auto at = offset_bytes; at < end;) at = lend_some(as, device, at, end, result);
  } catch (...) {
    give_back(as, device.node, offset_bytes, size);
    throw;
  }
  return result;
}

std::uint64_t Region::State::lend_some(RegionId as, const DeviceName& device, std::uint64_t at,
                                       std::uint64_t end, std::vector<Lent>& result) {
  constexpr auto kWhere = "answer to POST /v1/extents";
  const bool local = can_map(device);
  boost::json::array pieces;
  while (at < end && pieces.size() < kMaxPiecesPerRequest) {
    const auto piece = std::min(end - at, kMaxExtentBytes);
    pieces.push_back(Json{{"offset_bytes", at}, {"size_bytes", piece}});
    at += piece;
  }
  auto body = pool->credentials();
  body["region"] = to_hex(as);
  body["device"] = device.local();
  body["map"] = local;
  body["for_gpus"] = local && mapper;
  body["pieces"] = std::move(pieces);
  std::vector<UniqueFd> fds;
  const auto answer =
      pool->call(*pool->link(device.node), "POST", "/v1/extents", std::move(body), &fds);
  const auto& list = get_array(answer, "extents", kWhere);
  if (local && fds.size() != list.size())
    throw Error(Errc::protocol, fmt::format("node {} lent {} extents and sent {} descriptors",
                                            device.node, list.size(), fds.size()));
  MemoryBackend& importer = mapper ? static_cast<MemoryBackend&>(*mapper) : *pool->backend;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const auto& extent = as_object(list[i], kWhere);
    Lent lent{{device, get_uint(extent, "offset_bytes", kWhere),
               get_uint(extent, "size_bytes", kWhere), local},
              {}};
    if (local) lent.segment = importer.import_segment(std::move(fds[i]), lent.extent.size_bytes);
    result.push_back(std::move(lent));
  }
  return at;
}

void Region::State::place(Lent lent) {
  if (lent.segment) range.place(lent.extent.offset_bytes, std::move(lent.segment));
  const auto* const at = range.data() + lent.extent.offset_bytes;
  if (mapper && lent.extent.mapped && lent.extent.device.kind == DeviceKind::gpu)
    pool->gpu_addresses.add(at, lent.extent.size_bytes, lent.extent.device);
  else
    pool->gpu_addresses.remove(at, lent.extent.size_bytes);
  extents.insert_or_assign(lent.extent.offset_bytes, lent.extent);
}

void Region::State::publish() {
  boost::json::array list;
  for (const auto& [_, extent] : extents)
    list.push_back(Json{{"device", extent.device.to_string()},
                        {"offset_bytes", extent.offset_bytes},
                        {"size_bytes", extent.size_bytes}});
  auto body = pool->credentials();
  body["region"] = to_hex(id);
  body["name"] = name;
  body["size_bytes"] = size_bytes;
  body["extents"] = std::move(list);
  pool->call(*pool->link(pool->directory), "PUT", "/v1/regions", std::move(body));
  is_published = true;
}

}  // namespace causeway
