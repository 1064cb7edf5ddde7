#include "runtime/control/lookup.h"

#include <fmt/format.h>
#include <netdb.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "allocator/error.h"
#include "allocator/unique_fd.h"
#include "runtime/control/server.h"

namespace causeway {

namespace {
using Endpoints = std::vector<boost::asio::ip::tcp::endpoint>;
}  // namespace

struct Lookup::State {
  // Empty and `failure` set if there is no such host.
  static Endpoints ask(const HostPort& where, std::string& failure);
  void run(const HostPort& where);

  UniqueFd ready;
  std::mutex mutex;  // Guards what follows.
  bool done = false;
  Endpoints found;
  std::string failure;
};

namespace {

struct Running {
  std::mutex mutex;
  std::map<std::string, std::shared_ptr<Lookup::State>> by_address;
};

// Never destroyed: a lookup may outlast main().
Running& running() {
  static auto* const kRunning = new Running;
  return *kRunning;
}

}  // namespace

Endpoints Lookup::State::ask(const HostPort& where, std::string& failure) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int failed =
      ::getaddrinfo(where.host.c_str(), std::to_string(where.port).c_str(), &hints, &list);
  if (failed != 0) {
    failure = ::gai_strerror(failed);
    return {};
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(list, &::freeaddrinfo);
  Endpoints found;
  for (const auto* entry = list; entry; entry = entry->ai_next) {
    boost::asio::ip::tcp::endpoint endpoint;
    if (entry->ai_addrlen > endpoint.capacity()) continue;
    std::memcpy(endpoint.data(), entry->ai_addr, entry->ai_addrlen);
    endpoint.resize(entry->ai_addrlen);
    found.push_back(endpoint);
  }
  if (found.empty()) failure = "it has no address";
  return found;
}

void Lookup::State::run(const HostPort& where) {
  std::string why;
  auto addresses = ask(where, why);
  const std::lock_guard lock(mutex);
  found = std::move(addresses);
  failure = std::move(why);
  done = true;
  static_cast<void>(::eventfd_write(ready.get(), 1));
}

Lookup::Lookup(const std::string& address, std::string peer_name)
    : address_(address), peer_name_(std::move(peer_name)) {
  const auto where = parse_host_port(address);
  boost::system::error_code is_name;
  const auto digits = boost::asio::ip::make_address(where.host, is_name);
  if (!is_name) {
    state_ = std::make_shared<State>();
    state_->found.emplace_back(digits, where.port);
    state_->done = true;
    return;
  }
  auto& all = running();
  const std::lock_guard lock(all.mutex);
  if (const auto known = all.by_address.find(address); known != all.by_address.end()) {
    state_ = known->second;
    return;
  }
  const auto busy = [&](const char* why) {
    return Error(Errc::timed_out,
                 fmt::format("cannot look up {} of {}: {}; use an address in digits, or mend the "
                             "name service",
                             where.host, peer_name_, why));
  };
  if (all.by_address.size() >= kMaxLookups)
    throw busy("the name service does not answer earlier questions");
  state_ = std::make_shared<State>();
  state_->ready = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!state_->ready) throw system_error("eventfd", errno);
  all.by_address.emplace(address, state_);
  try {
    std::thread([state = state_, where, address] {
      ::pthread_setname_np(::pthread_self(), "causeway-lookup");
      state->run(where);
      auto& known = running();
      const std::lock_guard removing(known.mutex);
      known.by_address.erase(address);
    }).detach();
  } catch (const std::system_error& error) {
    all.by_address.erase(address);
    throw busy(error.what());
  }
}

Endpoints Lookup::get() const {
  const std::lock_guard lock(state_->mutex);
  if (state_->done && state_->found.empty())
    throw Error(Errc::peer_lost,
                fmt::format("cannot resolve {} of {}: {}", address_, peer_name_, state_->failure));
  return state_->found;
}

int Lookup::fd() const noexcept { return state_->ready.get(); }

}  // namespace causeway
