// The Error that a call throws, for a test to look at. A call that throws none fails the test.
//
// Threads: the test's own.
#pragma once

#include <doctest/doctest.h>

#include <stdexcept>

#include "allocator/error.h"

namespace causeway::test {

template <typename Call>
Error error_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  FAIL("no error was thrown");
  throw std::logic_error("unreachable");
}

template <typename Call>
Errc code_of(Call&& call) {
  return error_of(call).code();
}

}  // namespace causeway::test
