// Collectives for a thread that waits for them.
//
// Errors:  what the operation ended with is thrown.
// Cost:    where the communicator can work in place, none; else as IoThread::wait_for().
// Threads: one at a time, and not the IoThread's own.
#pragma once

#include <utility>

#include "transport/blocking.h"
#include "transport/collective/communicator.h"

namespace causeway {

// `start` calls one operation of the communicator that it is given, with the `done` it is given.
// run_and_wait(io, ranks, [&](auto& c, auto done) { c.barrier(deadline, done); });
template <typename Start>
void run_and_wait(IoThread& io, Communicator& communicator, Start start) {
  if (const auto here = communicator.in_place()) {
    std::optional<Error> failed;
    start(*here, [&failed](std::optional<Error> error) { failed = std::move(error); });
    if (failed) throw Error(*failed);
    return;
  }
  io.wait_for([&](Completion done) {
    start(communicator, [done](std::optional<Error> error) { done(std::move(error), 0); });
  });
}

}  // namespace causeway
