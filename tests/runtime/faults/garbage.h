// The processes of the fault campaign that send what nobody should.
//
// Shape:   run_garbage() attacks one daemon for a while and returns the exit code: 0 if it could.
//          A stranger on the data port or on the control port has no token; an admitted peer has a
//          session of its own, and then breaks every rule behind it.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace causeway::test {

struct GarbageOptions {
  std::string kind;  // "data", "control", "admitted"
  std::uint64_t seed = 0;
  std::chrono::milliseconds time{};
  std::string control;
  std::string data;
  std::string token;
  std::string interface;      // Towards the daemon.
  std::string other_session;  // Whose memory the admitted peer is after, in digits,
  std::string other_region;   // and which.

  [[nodiscard]] std::vector<std::string> to_arguments() const;
  [[nodiscard]] static GarbageOptions from_arguments(const std::vector<std::string>& arguments);
};

int run_garbage(const GarbageOptions& options);

}  // namespace causeway::test
