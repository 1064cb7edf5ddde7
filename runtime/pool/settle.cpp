// What a call that failed may have left on its way to a region, and how it is kept from landing.
//
// Data requests name the region. After a failure the node of the bytes gives them another name, so
// that what comes by the old one is refused, and says when nothing of it is in hand any more.
#include <algorithm>

#include "runtime/control/json.h"
#include "runtime/pool/region_state.h"

namespace causeway {

RegionId Region::State::name_on(const std::string& node) const {
  const std::lock_guard lock(names_mutex);
  const auto found = names.find(node);
  return found == names.end() ? id : found->second;
}

void Region::State::unsettle(const std::string& node) const {
  const std::lock_guard lock(names_mutex);
  unsettled.try_emplace(node, Unsettled{random_region_id()});
}

void Region::State::settle(const std::string& node, Access before) const {
  RegionId from = id, next = 0;
  {
    const std::lock_guard lock(names_mutex);
    const auto found = unsettled.find(node);
    if (found == unsettled.end()) return;
    if (before == Access::read && !found->second.is_asked) return;
    found->second.is_asked = true;
    next = found->second.next_name;
    if (const auto known = names.find(node); known != names.end()) from = known->second;
  }
  const auto deadline = CallTime::deadline(std::min(pool->options.timeout, kMostRequestTime));
  auto body = pool->credentials();
  body["from"] = to_hex(from);
  body["to"] = to_hex(next);
  body["timeout_ms"] = left_until(deadline).count();
  pool->call(*pool->link(node), "POST", "/v1/extents/settle", std::move(body), nullptr, deadline);
  const std::lock_guard lock(names_mutex);
  const auto found = unsettled.find(node);
  if (found == unsettled.end() || found->second.next_name != next) return;
  names[node] = next;
  unsettled.erase(found);
}

void Region::State::settle(std::uint64_t offset_bytes, std::uint64_t count, Access before) const {
  {
    const std::lock_guard lock(names_mutex);
    if (unsettled.empty()) return;
  }
  for_each_part(offset_bytes, count, [&](const Extent& extent, std::uint64_t, std::uint64_t) {
    // What is mapped is read without a name.
    if (before == Access::write || !extent.mapped) settle(extent.device.node, before);
  });
}

}  // namespace causeway
