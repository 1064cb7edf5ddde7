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
  bool mapped;
  auto operator<=>(const Group&) const = default;
};

using Groups = std::map<Group, std::vector<Pool::CopyPiece>>;

}  // namespace

PoolStatus Pool::State::status() {
  const CallTime time(options.timeout);
  return parse_pool_status(pool_document("/v1/pool"));
}

// What is free is asked for without the regions of others, which may be many; the graph, which is
// large, only when a node came or went.
Topology Pool::State::topology() {
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
  set_available(*known, parse_pool_status(document));
  return std::move(*known);
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
  const auto whole =
      (size_bytes + kDeviceGranuleBytes - 1) / kDeviceGranuleBytes * kDeviceGranuleBytes;
  for (int attempt = 1;; ++attempt) {
    const auto topology = state_->topology();
    auto near = options.near;
    if (!near)  // This node's first device; for a process elsewhere the pool's first.
      for (const auto& device : topology.devices())
        if (!near || (device.name.node == state_->node && near->node != state_->node))
          near = device.name;
    if (!near) throw Error(Errc::out_of_memory, "the pool has no devices");
    const auto shares = place_region(topology, whole, *near, options);
    auto region = std::make_shared<Region::State>(state_);
    region->id = random_region_id();
    region->size_bytes = size_bytes;
    region->name = options.name;
    region->range = StitchedRange(state_->backend, whole);
    try {
      std::uint64_t at = 0;
      for (const auto& share : shares) {
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
  to.for_each_part(
      piece.to_offset_bytes, piece.size_bytes,
      [&](const Region::Extent& target, std::uint64_t to_at, std::uint64_t to_size) {
        const auto from_at = piece.from_offset_bytes + (to_at - piece.to_offset_bytes);
        from.for_each_part(
            from_at, to_size,
            [&](const Region::Extent& source, std::uint64_t at, std::uint64_t size) {
              groups[{source.device.node, target.device.node, source.mapped && target.mapped}]
                  .push_back({to_at + (at - from_at), at, size});
            });
      });
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
    if (group.mapped) {
      const auto start = std::chrono::steady_clock::now();
      for (const auto& part : parts)
        std::memmove(target.range.data() + part.to_offset_bytes,
                     source.range.data() + part.from_offset_bytes, part.size_bytes);
      report.seconds +=
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      report.route += group.to_node + " (mapped)";
    } else {
      report.seconds +=
          state_->transfer(pull, {group.from_node, source.id}, {group.to_node, target.id}, parts);
      report.route += group.from_node == group.to_node
                          ? group.to_node + " (local)"
                          : fmt::format("{} -> {} (ucx)", group.from_node, group.to_node);
    }
    for (const auto& part : parts) report.bytes += part.size_bytes;
  }
  return report;
}

}  // namespace causeway
