// Runs an io_context on the test's thread until something holds.
#pragma once

#include <chrono>
#include <utility>
// Boost 1.81 with g++ 12 and C++20 wants <utility> first.
#include <boost/asio/io_context.hpp>

namespace causeway::test {

// False: it did not hold in time.
template <typename Test>
bool run_until(boost::asio::io_context& context, Test test, std::chrono::nanoseconds time) {
  const auto limit = std::chrono::steady_clock::now() + time;
  while (!test()) {
    if (std::chrono::steady_clock::now() >= limit) return false;
    if (context.stopped()) context.restart();
    context.run_one_for(std::chrono::milliseconds(5));
  }
  return true;
}

}  // namespace causeway::test
