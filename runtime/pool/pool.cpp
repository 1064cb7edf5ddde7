#include "causeway/pool.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "causeway/topology_export.h"
#include "runtime/control/json.h"
#include "runtime/pool/place_region.h"
#include "runtime/pool/region_state.h"
#include "runtime/pool/session.h"
#include "runtime/pool/status.h"

namespace causeway {

namespace {

using Json = boost::json::object;

// Others allocate at the same time: what looked free may be gone by the time it is asked for.
constexpr int kPlacementTries = 4;

// The copies of one batch that the same node executes towards the same other node.
struct Group {
  std::string from_node;
  std::string to_node;
  bool mapped;  // Both sides, and by one kind of copy.
  auto operator<=>(const Group&) const = default;
};

using Groups = std::map<Group, std::vector<Pool::CopyPiece>>;

// Where a region's bytes go, and at whose addresses.
struct Layout {
  std::vector<DeviceShare> shares;
  std::uint64_t whole_bytes;
  std::optional<DeviceStatus> gpu;
};

DeviceName choose_near(const Pool::State& pool, const Pool::State::Memory& memory,
                       const AllocateOptions& options) {
  if (options.near) return *options.near;
  if (!options.only.empty()) return options.only.front();
  // For a process elsewhere the pool's first.
  const auto merit = [&](const DeviceName& name) {
    const auto device = memory.devices.find(name);
    const bool is_for_processor = device == memory.devices.end() || device->second.kind != "cuda";
    return (name.node == pool.node ? 2 : 0) + (is_for_processor ? 1 : 0);
  };
  std::optional<DeviceName> best;
  for (const auto& device : memory.topology.devices())
    if (!best || merit(device.name) > merit(*best)) best = device.name;
  if (!best) throw Error(Errc::out_of_memory, "the pool has no devices");
  return *best;
}

// A region has addresses of a GPU if it is near one of this node that has memory of its own, or
// starts there.
Layout lay_out(Pool::State& pool, std::uint64_t size_bytes, const AllocateOptions& options) {
  const auto memory = pool.memory();
  const auto near = choose_near(pool, memory, options);
  const auto own_gpu = [&](const DeviceName& name) {
    const auto device = memory.devices.find(name);
    return pool.is_local(name.node) && device != memory.devices.end() &&
                   device->second.kind == "cuda"
               ? std::optional(device->second)
               : std::nullopt;
  };
  // One granule for all of it: that of the coarsest device.
  for (auto granule = kDeviceGranuleBytes;;) {
    Layout layout;
    layout.whole_bytes = (size_bytes + granule - 1) / granule * granule;
    layout.shares = place_region(memory.topology, layout.whole_bytes, near, options, granule);
    layout.gpu = own_gpu(near);
    if (!layout.gpu) layout.gpu = own_gpu(layout.shares.front().device);
    auto coarsest = layout.gpu ? std::max(granule, layout.gpu->granule_bytes) : granule;
    for (const auto& share : layout.shares)
      if (const auto device = memory.devices.find(share.device); device != memory.devices.end())
        coarsest = std::max(coarsest, device->second.granule_bytes);
    if (coarsest == granule) return layout;
    granule = coarsest;
  }
}

}  // namespace

PoolStatus Pool::State::status() {
  const CallTime time(options.timeout);
  return parse_pool_status(pool_document("/v1/pool"));
}

// What is free is asked for without the regions of others, which may be many; the graph, which is
// large, only when a node came or went.
Pool::State::Memory Pool::State::memory() {
  const CallTime time(options.timeout);
  const auto document = pool_document("/v1/pool/memory");
  const auto version = get_string(document, "topology_version", "the pool's status");
  auto known = [&]() -> std::optional<Topology> {
    const std::lock_guard lock(topology_mutex_);
    return version == topology_version_ ? std::optional(topology_) : std::nullopt;
  }();
  if (!known) {
    known = Topology(
        graph_from_json(boost::json::serialize(pool_document("/v1/topology")), "the pool"));
    const std::lock_guard lock(topology_mutex_);
    topology_ = *known;
    topology_version_ = version;
  }
  const auto status = parse_pool_status(document);
  set_available(*known, status);
  Memory result{std::move(*known), {}};
  for (const auto& each : status.nodes)
    for (const auto& device : each.devices) result.devices[device.name] = device;
  const std::lock_guard lock(topology_mutex_);
  devices_ = result.devices;
  return result;
}

DeviceStatus Pool::State::device(const DeviceName& name) {
  const auto find = [&](const std::map<DeviceName, DeviceStatus>& devices) {
    const auto found = devices.find(name);
    return found == devices.end() ? std::nullopt : std::optional(found->second);
  };
  auto found = [&] {
    const std::lock_guard lock(topology_mutex_);
    return find(devices_);
  }();
  if (!found) found = find(memory().devices);
  if (found) return *found;
  throw Error(Errc::not_found, fmt::format("the pool has no device '{}'", name.to_string()));
}

Pool::Pool(std::shared_ptr<State> state) noexcept : state_(std::move(state)) {}
Pool::Pool(Pool&&) noexcept = default;
Pool& Pool::operator=(Pool&& other) noexcept {
  if (this != &other) {
    if (state_) state_->close();
    state_ = std::move(other.state_);
  }
  return *this;
}
Pool::~Pool() {
  if (state_) state_->close();
}

Pool Pool::connect(PoolOptions options) {
  auto state = std::make_shared<State>(std::move(options));
  const CallTime time(state->options.timeout);
  state->open();
  return Pool(std::move(state));
}

const std::string& Pool::node() const noexcept { return state_->node; }
std::uint64_t Pool::session() const noexcept { return state_->session; }
Topology Pool::topology() { return state_->topology(); }
PoolStatus Pool::status() { return state_->status(); }

Region Pool::allocate(std::uint64_t size_bytes, const AllocateOptions& options) {
  constexpr auto kMost = std::uint64_t{1} << 56;
  if (size_bytes == 0 || size_bytes > kMost)
    throw Error(
        Errc::invalid_argument,
        fmt::format("region '{}': a size of {} bytes is not possible", options.name, size_bytes));
  const CallTime time(state_->options.timeout);
  for (int attempt = 1;; ++attempt) {
    const auto layout = lay_out(*state_, size_bytes, options);
    auto region = std::make_shared<Region::State>(state_);
    region->id = random_region_id();
    region->size_bytes = size_bytes;
    region->name = options.name;
    region->reserve(layout.whole_bytes, layout.gpu);
    try {
      std::uint64_t at = 0;
      for (const auto& share : layout.shares) {
        for (auto& lent : region->lend(region->id, share.device, at, share.size_bytes))
          region->place(std::move(lent));
        at += share.size_bytes;
      }
    } catch (const Error& error) {
      if (error.code() != Errc::out_of_memory || attempt == kPlacementTries) throw;
      continue;  // ~State gives back what was lent.
    }
    region->publish();
    return Region(std::move(region));
  }
}

CopyReport Pool::copy(Region& to, std::uint64_t to_offset_bytes, const Region& from,
                      std::uint64_t from_offset_bytes, std::uint64_t size_bytes) {
  const CopyPiece piece{to_offset_bytes, from_offset_bytes, size_bytes};
  return copy_batch(to, from, {&piece, 1});
}

namespace {

// Cuts the pieces where either side's extents end.
void split_piece(const Region::State& to, const Region::State& from, const Pool::CopyPiece& piece,
                 Groups& groups) {
  to.check_range(piece.to_offset_bytes, piece.size_bytes);
  from.check_range(piece.from_offset_bytes, piece.size_bytes);
  const auto distance = std::max(piece.to_offset_bytes, piece.from_offset_bytes) -
                        std::min(piece.to_offset_bytes, piece.from_offset_bytes);
  if (&to == &from && distance < piece.size_bytes)
    throw Error(
        Errc::invalid_argument,
        fmt::format("copying {} bytes from offset {} to offset {} of region '{}' would "
                    "overwrite its own source; copy in smaller pieces",
                    piece.size_bytes, piece.from_offset_bytes, piece.to_offset_bytes, to.name));
  to.for_each_part(piece.to_offset_bytes, piece.size_bytes,
                   [&](const Region::Extent& target, std::uint64_t to_at, std::uint64_t to_size) {
                     const auto from_at = piece.from_offset_bytes + (to_at - piece.to_offset_bytes);
                     from.for_each_part(
                         from_at, to_size,
                         [&](const Region::Extent& source, std::uint64_t at, std::uint64_t size) {
                           const bool mapped =
                               source.mapped && target.mapped &&
                               (!to.mapper || !from.mapper || to.mapper == from.mapper);
                           groups[{source.device.node, target.device.node, mapped}].push_back(
                               {to_at + (at - from_at), at, size});
                         });
                   });
}

void copy_mapped(const Region::State& to, const Region::State& from,
                 const std::vector<Pool::CopyPiece>& pieces) {
  const Region::State::Settled settled(to.mapper ? to : from);
  for (const auto& piece : pieces) {
    auto* const target = to.range.data() + piece.to_offset_bytes;
    const auto* const source = from.range.data() + piece.from_offset_bytes;
    if (to.mapper && from.mapper)
      to.stream->copy(target, source, piece.size_bytes);
    else if (to.mapper)
      to.stream->copy_in(target, source, piece.size_bytes);
    else if (from.mapper)
      from.stream->copy_out(target, source, piece.size_bytes);
    else
      std::memmove(target, source, piece.size_bytes);
  }
  if (to.mapper || from.mapper) (to.mapper ? to : from).stream->synchronize();
}

}  // namespace

CopyReport Pool::copy_batch(Region& to, const Region& from, std::span<const CopyPiece> pieces,
                            bool pull) {
  if (!to.state_ || !from.state_) throw Error(Errc::closed, "the region holds nothing");
  auto& target = *to.state_;
  const auto& source = *from.state_;
  Groups groups;
  std::uint64_t bytes = 0;
  for (const auto& piece : pieces) {
    split_piece(target, source, piece, groups);
    bytes += piece.size_bytes;
  }
  const CallTime time(state_->time_for(bytes));
  CopyReport report;
  for (const auto& [group, parts] : groups) {
    if (!report.route.empty()) report.route += ", ";
    target.settle(group.to_node, Access::write);
    if (group.mapped) {
      const auto start = std::chrono::steady_clock::now();
      copy_mapped(target, source, parts);
      report.seconds +=
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      report.route += group.to_node + " (mapped)";
    } else {
      source.settle(group.from_node, Access::read);
      try {
        report.seconds += state_->transfer(pull, {group.from_node, source.name_on(group.from_node)},
                                           {group.to_node, target.name_on(group.to_node)}, parts);
      } catch (...) {
        target.unsettle(group.to_node);
        throw;
      }
      report.route += group.from_node == group.to_node
                          ? group.to_node + " (local)"
                          : fmt::format("{} -> {} (ucx)", group.from_node, group.to_node);
    }
    for (const auto& part : parts) report.bytes += part.size_bytes;
  }
  return report;
}

}  // namespace causeway
