// What tests of regions do with bytes and texts.
//
// Threads: the test's own.
#pragma once

#include <doctest/doctest.h>

#include <cstddef>
#include <random>
#include <string>
#include <vector>

#include "causeway/pool.h"

namespace causeway::test {

inline std::vector<std::byte> pattern(std::size_t size, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(size);
  for (auto& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

inline std::vector<std::byte> read_all(const Region& region) {
  std::vector<std::byte> bytes(region.size_bytes());
  region.read(0, bytes);
  return bytes;
}

inline DeviceName device(const char* name) { return DeviceName::parse(name); }

#define CHECK_CONTAINS(text, part)                                                               \
  CHECK_MESSAGE(std::string(text).find(part) != std::string::npos, "'", text, "' lacks '", part, \
                "'")

}  // namespace causeway::test
