// Operations of a communicator for a coroutine that waits for them.
//
// Errors:  what the operation ended with is thrown.
// Cost:    the operation's.
// Threads: the communicator's.
#pragma once

#include <span>
#include <utility>
#include <vector>

#include "transport/collective/turns.h"

namespace causeway::collective {

// `start` calls one operation of the communicator that it is given, with the `done` it is given:
// co_await complete(ranks, [&](auto& c, auto done) { c.barrier(deadline, done); });
template <typename Start>
Step complete(Communicator& communicator, Start start) {
  co_await join(1, [&](const std::shared_ptr<Join>& one) {
    start(communicator, [one](std::optional<Error> error) { one->ended(std::move(error)); });
  });
}

// One value of every rank.
template <typename T>
asio::awaitable<std::vector<T>> gather(Communicator& ranks, const T& own, Deadline deadline) {
  std::vector<T> all(static_cast<std::size_t>(ranks.size()));
  all[static_cast<std::size_t>(ranks.rank())] = own;
  const auto bytes = std::as_writable_bytes(std::span(all));
  const auto shares = Shares::equal(bytes.size(), sizeof(T), ranks.size());
  co_await complete(ranks, [&](Communicator& c, auto done) {
    c.all_gather(bytes, shares, deadline, std::move(done));
  });
  co_return all;
}

}  // namespace causeway::collective
