// What a fuzz target has in common: one input in, and either a value that survives a round trip or
// an Error with Errc::parse. Anything else is a defect and ends the process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include "causeway/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace causeway_fuzz {

[[noreturn]] inline void fail(const char* what, const std::string& detail) {
  std::fprintf(stderr, "fuzz: %s\n%s\n", what, detail.c_str());
  std::abort();
}

// The value that `parse` gives, or nothing where it refuses the input as it should.
template <typename Parse>
auto parsed(Parse parse) -> std::optional<decltype(parse())> {
  try {
    return parse();
  } catch (const causeway::Error& error) {
    if (error.code() != causeway::Errc::parse) fail("refused with a wrong code", error.what());
    if (std::string_view(error.what()).substr(0, 6) != "input:")
      fail("refused without the file's name", error.what());
  }
  return std::nullopt;
}

// A YAML type: what was read must be written so that it reads back equal.
template <typename Value>
int round_trip(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto value = parsed([&] { return Value::from_yaml(text, "input"); });
  if (!value) return 0;
  const auto written = value->to_yaml();
  const auto again = parsed([&] { return Value::from_yaml(written, "input"); });
  if (!again) fail("what was written does not read back", written);
  if (!(*again == *value)) fail("what was written reads back different", written);
  return 0;
}

}  // namespace causeway_fuzz
