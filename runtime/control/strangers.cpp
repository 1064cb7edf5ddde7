#include "runtime/control/strangers.h"

#include <algorithm>
#include <utility>

namespace causeway {

namespace ip = boost::asio::ip;

Strangers::Host Strangers::host_of(const ip::address& address) {
  if (address.is_v4()) return ip::make_address_v6(ip::v4_mapped, address.to_v4()).to_bytes();
  auto host = address.to_v6().to_bytes();
  if (!address.to_v6().is_v4_mapped()) std::fill(host.begin() + 8, host.end(), 0);
  return host;
}

void Strangers::arrive(ConnectionId id, const ip::address& from, std::function<void()> hang_up,
                       Clock::time_point now) {
  if (all_.size() >= kMaxStrangers) send_away_one(now);
  all_.emplace(id, Stranger{host_of(from), now, std::move(hang_up)});
}

bool Strangers::send_away_one(Clock::time_point now) {
  if (all_.empty()) return false;
  std::map<Host, std::size_t> crowd;
  for (const auto& [_, stranger] : all_) ++crowd[stranger.host];
  // If the oldest has not had its time, nobody has.
  const bool any = now - all_.begin()->second.since < kChance;
  auto chosen = all_.begin();
  for (auto each = all_.begin(); each != all_.end(); ++each) {
    if (!any && now - each->second.since < kChance) break;
    if (crowd[each->second.host] > crowd[chosen->second.host]) chosen = each;
  }
  const auto hang_up = std::move(chosen->second.hang_up);
  all_.erase(chosen);
  hang_up();
  return true;
}

}  // namespace causeway
