#include "runtime/pool/connections.h"

#include <fmt/format.h>

#include <utility>

#include "allocator/error.h"

namespace causeway {

Connections::Connections(std::string target, std::string token, std::string peer_name)
    : target_(std::move(target)), token_(std::move(token)), peer_name_(std::move(peer_name)) {
  idle_.reserve(kMaxConnections);  // So that giving back cannot fail.
}

ControlClient Connections::make() const { return {target_, token_, peer_name_}; }

Connections::Taken Connections::take(Use use, std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  const bool waits = use == Use::waits;
  const bool free = given_back_.wait_until(lock, deadline, [&] {
    return taken_ < kMaxConnections && (!waits || waiting_ < kMaxConnections - 1);
  });
  if (!free)
    throw Error(Errc::timed_out,
                fmt::format("{} requests to {} are under way already and none ended in time; give "
                            "it more time, or ask from fewer threads",
                            taken_, peer_name_));
  auto client = idle_.empty() ? make() : std::move(idle_.back());
  if (!idle_.empty()) idle_.pop_back();
  ++taken_;
  waiting_ += waits ? 1 : 0;
  return {*this, use, std::move(client)};
}

Connections::Taken::Taken(Connections& owner, Use use, ControlClient client)
    : owner_(owner), use_(use), client_(std::move(client)) {}

Connections::Taken::~Taken() {
  {
    const std::lock_guard lock(owner_.mutex_);
    owner_.idle_.push_back(std::move(client_));
    --owner_.taken_;
    owner_.waiting_ -= use_ == Use::waits ? 1 : 0;
  }
  owner_.given_back_.notify_all();
}

}  // namespace causeway
