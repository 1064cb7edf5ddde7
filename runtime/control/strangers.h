// The connections that have not shown the pool's token yet: few, and never in the way of others.
//
// Shape:   at most kMaxStrangers. When another comes, or the daemon runs short, the oldest of the
//          host with the most goes (of hosts with as many, the oldest of all). While there is one
//          that had its time (kChance), none goes that had not: so whoever has the token and
//          shows it at once gets in, however many others come and stay silent. A host is an IPv4
//          address or an IPv6 network of 64 bits, of which one machine has all addresses.
// Cost:    a walk over the strangers for each that is sent away.
// Threads: one.
#pragma once

#include <array>
#include <boost/asio/ip/address.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>

#include "runtime/control/message.h"

namespace causeway {

inline constexpr std::size_t kMaxStrangers = 128;

class Strangers {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr auto kChance = std::chrono::milliseconds(200);

  // Makes room first. Connections are numbered as they come; `hang_up` ends this one.
  void arrive(ConnectionId id, const boost::asio::ip::address& from, std::function<void()> hang_up,
              Clock::time_point now = Clock::now());
  // It has shown the token, or is gone. Does nothing for one that is no stranger.
  void leave(ConnectionId id) noexcept { all_.erase(id); }
  // False if there was nobody.
  bool send_away_one(Clock::time_point now = Clock::now());
  [[nodiscard]] std::size_t size() const noexcept { return all_.size(); }

 private:
  using Host = std::array<unsigned char, 16>;
  struct Stranger {
    Host host;
    Clock::time_point since;
    std::function<void()> hang_up;
  };
  static Host host_of(const boost::asio::ip::address& address);

  std::map<ConnectionId, Stranger> all_;  // The oldest first.
};

}  // namespace causeway
