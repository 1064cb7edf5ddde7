// Moving a region's extents: lend anew, copy, give the old back; each step can be undone until the
// last byte has arrived.
#include "runtime/control/json.h"
#include "runtime/pool/region_state.h"

namespace causeway {

namespace {
std::vector<Pool::CopyPiece> pieces_of(const std::vector<Region::State::Lent>& fresh) {
  std::vector<Pool::CopyPiece> pieces;
  for (const auto& lent : fresh)
    pieces.push_back({lent.extent.offset_bytes, lent.extent.offset_bytes, lent.extent.size_bytes});
  return pieces;
}

}  // namespace

void Region::State::move_extent(const Extent& old, const DeviceName& to) {
  settle(old.device.node, Access::write);
  settle(to.node, Access::write);
  const auto staging = random_region_id();
  auto fresh = lend(staging, to, old.offset_bytes, old.size_bytes);
  // One segment for one segment keeps the address readable all along; a fragmented target device
  // lends several, and then the range is unmapped for a moment.
  const bool swap_here = old.mapped && fresh.size() == 1 && fresh.front().segment;
  try {
    if (swap_here)
      range.replace(old.offset_bytes, std::move(fresh.front().segment),
                    mapper ? StitchedRange::Copy([this](auto* target, const auto* from, auto size) {
                      copy_by_gpu(target, from, size);
                    })
                           : StitchedRange::Copy());
    else
      pool->transfer(false, {old.device.node, name_on(old.device.node)}, {to.node, staging},
                     pieces_of(fresh));
  } catch (...) {
    give_back(staging, to.node, old.offset_bytes, old.size_bytes);
    throw;
  }
  if (old.mapped && !swap_here) static_cast<void>(range.remove(old.offset_bytes));
  extents.erase(old.offset_bytes);
  for (auto& lent : fresh) place(std::move(lent));
  // The bytes have arrived: the old node may be gone by now without harm.
  give_back(name_on(old.device.node), old.device.node, old.offset_bytes, old.size_bytes);
  auto body = pool->credentials();
  body["from"] = to_hex(staging);
  body["to"] = to_hex(name_on(to.node));
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
  std::uint64_t bytes = 0;
  for (const auto& extent : old) bytes += extent.size_bytes;
  const CallTime time(state_->pool->time_for(bytes));
  try {
    for (const auto& extent : old) state_->move_extent(extent, to);
  } catch (...) {
    state_->publish();  // What did move has moved.
    throw;
  }
  if (!old.empty()) state_->publish();
}

}  // namespace causeway
