// Goal:   the words that all floors share read back as they were written, and nonsense is refused.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cerrno>
#include <string>

#include "allocator/device_name.h"
#include "allocator/error.h"

using causeway::DeviceKind;
using causeway::DeviceName;
using causeway::Errc;

TEST_CASE("device names round-trip") {
  for (const char* text : {"desktop/gpu0", "hgx/host1", "a.b-c/gpu17", "0/gpu4294967295"})
    CHECK(DeviceName::parse(text).to_string() == text);
  const auto name = DeviceName::parse("hgx/host12");
  CHECK(name.node == "hgx");
  CHECK(name.kind == DeviceKind::host);
  CHECK(name.index == 12);
  CHECK(name.local() == "host12");
}

TEST_CASE("what is no device name is refused, with the expected form in the text") {
  const std::string long_node(64, 'a');
  for (const std::string& text :
       {std::string(), std::string("/"), std::string("gpu0"), std::string("desktop"),
        std::string("desktop/"), std::string("desktop/gpu"), std::string("desktop/gpu-1"),
        std::string("desktop/gpu01"), std::string("desktop/gpu1x"), std::string("desktop/cpu0"),
        std::string("desktop/gpu4294967296"), std::string("Desktop/gpu0"), std::string("/gpu0"),
        std::string("-a/gpu0"), std::string("a b/gpu0"), std::string("a/b/gpu0"),
        long_node + "/gpu0"}) {
    INFO("text=", text);
    try {
      (void)DeviceName::parse(text);
      FAIL_CHECK("accepted");
    } catch (const causeway::Error& error) {
      CHECK(error.code() == Errc::invalid_argument);
      CHECK(std::string(error.what()).find("NODE/gpuN") != std::string::npos);
    }
  }
}

TEST_CASE("error codes cross to a peer by name") {
  for (int i = 0; i <= static_cast<int>(Errc::internal); ++i) {
    const auto code = static_cast<Errc>(i);
    CHECK(to_string(code) != "unknown");
    CHECK(causeway::errc_from_string(to_string(code)) == code);
  }
  CHECK(causeway::errc_from_string("a word of a newer peer") == Errc::protocol);
}

TEST_CASE("a system error carries the system's reason") {
  const auto error = causeway::system_error("open x", ENOENT);
  CHECK(error.code() == Errc::io);
  CHECK(std::string(error.what()) == "open x: No such file or directory");
}
