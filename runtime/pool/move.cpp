// Moving a region's extents: lend anew, copy, give the old back; each step can be undone until the
// last byte has arrived.
#include <fmt/format.h>

#include "runtime/control/json.h"
#include "runtime/pool/region_state.h"

namespace causeway {

namespace {
using Json = boost::json::object;

// The bytes of [offset, offset + size) go from the daemon of `from` to that of `to`, where they are
// known as region `staging`.
void copy_by_daemons(Region::State& region, const DeviceName& from, const DeviceName& to,
                     RegionId staging, const std::vector<Region::State::Lent>& fresh) {
  auto& pool = *region.pool;
  boost::json::array pieces;
  std::uint64_t bytes = 0;
  for (const auto& lent : fresh) {
    bytes += lent.extent.size_bytes;
    pieces.push_back(Json{{"to_offset_bytes", lent.extent.offset_bytes},
                          {"from_offset_bytes", lent.extent.offset_bytes},
                          {"size_bytes", lent.extent.size_bytes}});
  }
  const auto limit = pool.options.timeout + std::chrono::milliseconds(bytes / 10'000);
  auto body = pool.credentials();
  body["kind"] = from.node == to.node ? "within" : "push";
  body["peer"] = to.node;
  body["from"] = to_hex(region.id);
  body["to"] = to_hex(staging);
  body["timeout_ms"] = std::min<std::int64_t>(limit.count(), 3'600'000);
  body["pieces"] = std::move(pieces);
  pool.call(*pool.link(from.node), "POST", "/v1/transfers", std::move(body), nullptr, limit);
}
}  // namespace

void Region::State::move_extent(const Extent& old, const DeviceName& to) {
  const auto staging = random_region_id();
  auto fresh = lend(staging, to, old.offset_bytes, old.size_bytes);
  // One segment for one segment keeps the address readable all along; a fragmented target device
  // lends several, and then the range is unmapped for a moment.
  const bool swap_here = old.mapped && fresh.size() == 1 && fresh.front().segment;
  try {
    if (swap_here)
      range.replace(old.offset_bytes, std::move(fresh.front().segment));
    else
      copy_by_daemons(*this, old.device, to, staging, fresh);
  } catch (...) {
    give_back(staging, to.node, old.offset_bytes, old.size_bytes);
    throw;
  }
  if (old.mapped && !swap_here) static_cast<void>(range.remove(old.offset_bytes));
  extents.erase(old.offset_bytes);
  for (auto& lent : fresh) place(std::move(lent));
  // The bytes have arrived: the old node may be gone by now without harm.
  give_back(id, old.device.node, old.offset_bytes, old.size_bytes);
  auto body = pool->credentials();
  body["from"] = to_hex(staging);
  body["to"] = to_hex(id);
  pool->call(*pool->link(to.node), "POST", "/v1/extents/rename", std::move(body));
}

void Region::move(std::uint64_t offset_bytes, std::uint64_t size_bytes, const DeviceName& to) {
  if (!state_) throw Error(Errc::closed, "the region holds nothing");
  state_->check_range(offset_bytes, size_bytes);
  if (size_bytes == 0) return;
  std::vector<Extent> old;
  state_->for_each_part(offset_bytes, size_bytes,
                        [&](const Extent& extent, std::uint64_t, std::uint64_t) {
                          if (extent.device != to) old.push_back(extent);
                        });
  try {
    for (const auto& extent : old) state_->move_extent(extent, to);
  } catch (...) {
    state_->publish();  // What did move has moved.
    throw;
  }
  if (!old.empty()) state_->publish();
}

}  // namespace causeway
